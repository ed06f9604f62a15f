"""An evaluation as a page: success with its interval, by suite and task, of one task or of 130."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from embodied.core.stats import wilson
from embodied.report.files import write_text
from embodied.report.html import details, facts, section, table
from embodied.report.ledger import Ledger
from embodied.report.run import percent, percent_range
from embodied.report.style import CSS
from embodied.videos import episode_path

Episodes = Sequence[Mapping[str, Any]]
FEW = 12  # tasks that need no overview
PAGE_CSS = """
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(46px, 1fr)); gap: 4px; }
.tiles a { display: block; padding: 7px 0; border-radius: 4px; text-align: center; font-size: 12px;
  color: var(--ink); text-decoration: none; font-variant-numeric: tabular-nums; }
.tiles a:hover { outline: 2px solid var(--blue); }
.suite { margin: 18px 0 8px; }
td .bar { min-width: 100px; margin: 0; }
th, td { white-space: nowrap; }
td.text { white-space: normal; }
.videos video { aspect-ratio: 1; }
tr:target td { background: #fff7d6; }
.task small { display: block; color: var(--soft); font-size: 12px; }
.all td { font-weight: 650; background: #f4f6f8; }
.lost { color: #b34f00; text-decoration: none; }
thead th { position: sticky; top: 0; background: var(--paper); }
"""


def write_page(ledger: Ledger, note: str = "") -> Path:
    """Write the page beside the ledger, with links to the videos that lie there.

    Args:
        ledger: what to show.
        note: what else to say, such as why there are no videos.
    """
    head, tasks = ledger.head, list(ledger.head["tasks"])
    title = f"Evaluation of {head['policy']['name']}"
    groups = {suite: list(ids) for suite, ids in groupby(tasks, _suite)}
    body = [
        _header(title, ledger, groups),
        f'<p class="note">{escape(note)}</p>' if note else "",
        _overview(ledger, groups) if len(tasks) > FEW else "",
        section("Success", _success(ledger, groups)),
        _several(head),
        _videos(ledger),
        _lost(ledger),
        section("Circumstances", facts(_circumstances(head))),
        section("Environments", _environments(head)),
    ]
    path = ledger.path.with_suffix(".html")
    write_text(
        path,
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}{PAGE_CSS}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n",
    )
    return path


def _suite(task: str) -> str:
    return task.rpartition("/")[0]


def _rate(episodes: Episodes) -> tuple[int, int]:
    return sum(bool(e["success"]) for e in episodes), len(episodes)


def _header(title: str, ledger: Ledger, groups: Mapping[str, Sequence[str]]) -> str:
    head = ledger.head
    cards = [_card("all episodes", *_rate(list(ledger.episodes.values())))]
    if len(groups) > 1:
        for suite, tasks in groups.items():
            cards.append(_card(suite, *_rate([e for task in tasks for e in ledger.of(task)])))
    chips = [
        head["suite"] or next(iter(head["tasks"])),
        f"{len(head['tasks'])} task{'s' * (len(head['tasks']) > 1)}",
        f"{head['episodes']} initial states each",
        f"seed {head['seed']}",
    ]
    return (
        f"<header><h1>{escape(title)}</h1>"
        f'<p class="chips">{"".join(f"<span>{escape(c)}</span>" for c in chips)}</p>'
        f'<div class="headline">{"".join(cards)}</div></header>'
    )


def _card(title: str, wins: int, count: int) -> str:
    return (
        f'<div class="card"><small>{escape(title)}</small><strong>{percent(wins / count)}</strong>'
        f"<span>{wins} of {count} episodes</span>{_bar(wins, count)}"
        f"<span>95 % Wilson interval {percent_range(*wilson(wins, count))}</span></div>"
    )


def _bar(wins: int, count: int) -> str:
    low, high = wilson(wins, count)
    return (
        f'<div class="bar"><i style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></i>'
        f'<b style="left:{100 * wins / count:.1f}%"></b></div>'
    )


def _overview(ledger: Ledger, groups: Mapping[str, Sequence[str]]) -> str:
    """A tile per task, from orange (never) over white to blue (always)."""
    parts = []
    for suite, tasks in groups.items():
        tiles = []
        for task in tasks:
            wins, count = _rate(ledger.of(task))
            share = wins / count
            colour = "0,114,178" if share > 0.5 else "213,94,0"
            what = f"{task}: {_name(ledger, task)}, {wins}/{count}"
            tiles.append(
                f'<a href="#{escape(task)}" title="{escape(what)}" style="background:'
                f'rgba({colour},{1.3 * abs(share - 0.5):.2f})">{100 * share:.0f}</a>'
            )
        parts.append(
            f'<h3 class="suite">{escape(suite)}</h3><div class="tiles">{"".join(tiles)}</div>'
        )
    caption = "Success in per cent, one tile per task, in the order of the suite."
    return section("Overview", f"{''.join(parts)}<figcaption>{caption}</figcaption>")


def _name(ledger: Ledger, task: str) -> str:
    instruction = ledger.head["tasks"][task]["instruction"]
    return "" if instruction == task else instruction


def _success(ledger: Ledger, groups: Mapping[str, Sequence[str]]) -> str:
    """Tables by suite, each with a line for all of it."""
    columns = ["task", "success", "", "95 % interval", "", "return", "length"]
    parts = []
    for suite, tasks in groups.items():
        rows = [
            f'<tr id="{escape(task)}"><td class="text task">{escape(task)}'
            f"<small>{escape(_name(ledger, task))}</small></td>{_cells(ledger.of(task))}</tr>"
            for task in tasks
        ]
        if len(tasks) > 1:
            whole = [episode for task in tasks for episode in ledger.of(task)]
            rows.append(
                f'<tr class="all"><td class="text">all of {escape(suite)}</td>{_cells(whole)}</tr>'
            )
        head = "".join(
            f"<th{' class=text' * (not i)}>{escape(name)}</th>" for i, name in enumerate(columns)
        )
        title = f'<h3 class="suite">{escape(suite)}</h3>' if len(groups) > 1 else ""
        parts.append(
            f"{title}<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        )
    return "".join(parts)


def _several(head: Mapping[str, Any]) -> str:
    """What is known where a question had several answers."""
    found = {task: one["metrics"] for task, one in head["tasks"].items() if "metrics" in one}
    if not found:
        return ""
    names = list(next(iter(found.values())))
    rows = [[escape(task), *(percent(one[name]) for name in names)] for task, one in found.items()]
    return section("Several answers to a question", table(["task", *names], rows, text=1))


def _cells(episodes: Episodes) -> str:
    wins, count = _rate(episodes)
    cells = [
        f"{wins}/{count}",
        percent(wins / count),
        percent_range(*wilson(wins, count)),
        _bar(wins, count),
        f"{sum(e['episode_return'] for e in episodes) / count:.2f}",
        f"{sum(e['length'] for e in episodes) / count:.1f}",
    ]
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _videos(ledger: Ledger) -> str:
    """Players that load nothing before they are asked to."""
    folder = ledger.path.with_suffix(".videos")
    parts = []
    for task in ledger.head["tasks"]:
        players = []
        for episode in ledger.of(task):
            path = episode_path(folder, task, episode["index"])
            if path.is_file():
                mark = ("no", "lost") if not episode["success"] else ("yes", "won")
                players.append(
                    f'<figure><video controls preload="none" muted playsinline '
                    f'src="{escape(folder.name)}/{escape(path.name)}"></video>'
                    f'<figcaption class="{mark[0]}">{episode["index"]}: {mark[1]} after '
                    f"{episode['length']} steps</figcaption></figure>"
                )
        if players:
            clips = f'<div class="videos">{"".join(players)}</div>'
            parts.append((task, len(players), clips))
    if not parts:
        return ""
    if len(parts) <= FEW:
        shown = (f'<h3 class="suite">{escape(task)}</h3>{clips}' for task, _, clips in parts)
    else:
        shown = (details(f"{task} ({count})", clips) for task, count, clips in parts)
    return section("Videos", "".join(shown))


def _lost(ledger: Ledger) -> str:
    """Lost episodes by task, with what it takes to play one again."""
    parts, folder = [], ledger.path.with_suffix(".videos")
    for task in ledger.head["tasks"]:
        lost = [episode for episode in ledger.of(task) if not episode["success"]]
        rows = []
        for episode in lost:
            path = episode_path(folder, task, episode["index"])
            index = str(episode["index"])
            if path.is_file():
                index = f'<a href="{escape(folder.name)}/{escape(path.name)}">{index}</a>'
            state = f"<code>{escape(episode['initial_state'])}</code>"
            stored = str(episode.get("init_state", ""))
            rows.append([index, state, stored, str(episode["seed"]), str(episode["length"])])
        if rows:
            columns = ["episode", "initial state", "stored state", "seed", "length"]
            parts.append(details(f"{task} ({len(rows)})", table(columns, rows, text=2)))
    return section("Lost episodes", "".join(parts)) if parts else ""


def _circumstances(head: Mapping[str, Any]) -> list[tuple[str, Any]]:
    policy = {"policy" if key == "name" else key: v for key, v in head["policy"].items()}
    return [*policy.items(), ("renderer", head["renderer"]), *head["versions"].items()]


def _environments(head: Mapping[str, Any]) -> str:
    rows = [
        [
            escape(task),
            f"<code>{one['env_hash']}</code>",
            f"<code>{one['initial_states']}</code>",
            escape(json.dumps(one["env_args"])),
        ]
        for task, one in head["tasks"].items()
    ]
    found = table(["task", "environment", "initial states", "options"], rows, text=4)
    return found if len(rows) <= FEW else details(f"{len(rows)} hashes and options", found)

"""`report.html`: everything a run has to show, in one file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from embodied.report import figures
from embodied.report.files import extra, write_text
from embodied.report.run import (
    EvaluationLine,
    Run,
    headline,
    number,
    percent,
    percent_range,
    read_run,
)
from embodied.report.style import CSS

SPIRAL = (
    "What to look for: fine-tuning without offline data can start a <em>downward spiral</em>. The "
    "first online targets are too pessimistic, are bootstrapped, and pull Q down everywhere: Q on "
    "the offline data then falls far below its pre-trained level while its TD error climbs, and "
    "the policy forgets what it could do. Q that settles near its pre-trained level, with a TD "
    "error that stays low, means that it did not happen."
)


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` into a run directory, atomically.

    A run without evaluations, videos, settings or `run.json`, or one that was interrupted, gets a
    report that says what is missing.

    Args:
        run_dir: run directory with at least `log.jsonl`.

    Returns:
        Path of the report.

    Raises:
        UserError: it is no run directory, or the `report` extra is not installed.
    """
    extra("matplotlib")
    run = read_run(run_dir)
    path = run.directory / "report.html"
    write_text(path, render(run))
    return path


def render(run: Run) -> str:
    """The report as HTML."""
    sections = (
        _header,
        _reproduce,
        _learning_curve,
        _values,
        _videos,
        _evaluations,
        _ledger,
        _faults,
        _metrics,
        _settings,
        _origin,
    )
    body = "\n".join(part for section in sections if (part := section(run)))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(run.title)}</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _header(run: Run) -> str:
    info = run.info
    title = escape(run.directory.name)
    if "method" in info and "env" in info:
        title = f"<b>{escape(info['method'])}</b> on <b>{escape(info['env'])}</b>"
    faults = len(run.of_kind("fault"))
    chips = [
        f"seed {info['seed']}" if "seed" in info else "",
        f"{run.last['env_steps']:,} environment steps",
        f"{run.last['updates']:,} updates",
        _duration(run.last.get("wall_time", 0.0)),
        f"{faults} fault{'s' * (faults > 1)}, see below" if faults else "",
    ]
    parts = [
        f"<h1>{title}</h1>",
        '<p class="chips">' + "".join(f"<span>{escape(c)}</span>" for c in chips if c) + "</p>",
    ]
    if not run.finished:
        phase = run.events[-1]["phase"] if run.events else "nothing"
        parts.append(
            f'<p class="note">The log ends in phase <b>{escape(phase)}</b>: the run was stopped, '
            "or had not finished when this report was written. Everything below is as far as it "
            "came.</p>"
        )
    what, how_sure = headline(run.before, run.after)
    if run.before is not None:
        cards = [_card("before", run.before, "pre-trained"), '<div class="arrow">→</div>']
        cards.append(_card("after", run.after, "fine-tuned"))
    else:
        cards = [_card("after", run.after, f"after {run.after.of}")] if run.after else []
    verdict = f'<p class="what">{escape(what)}</p><p>{escape(how_sure)}</p>'
    verdict = f'<div class="verdict">{verdict}</div>'.replace(" %", "&nbsp;%")
    parts.append(f'<div class="headline">{"".join(cards)}{verdict}</div>')
    return "<header>" + "".join(parts) + "</header>"


def _card(kind: str, line: EvaluationLine, text: str) -> str:
    low, high = line.interval
    bar = (
        f'<div class="bar"><i style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></i>'
        f'<b style="left:{100 * line.success:.1f}%"></b></div>'
    )
    return (
        f'<div class="card {kind}"><small>{escape(text)}</small>'
        f"<strong>{percent(line.success)}</strong>"
        f"<span>{line.successes} of {line.episodes} episodes</span>{bar}"
        f"<span>95 % Wilson interval {percent_range(low, high)}</span></div>"
    )


def _reproduce(run: Run) -> str:
    info = run.info
    if not info:
        return section(
            "Reproduce",
            _note("This run has no run.json: its command, seed and versions were not recorded."),
        )
    rows = [("seed", info.get("seed")), ("threads", _threads(info))]
    command = f"<pre class=command>{escape(info.get('command', 'not recorded'))}</pre>"
    return section("Reproduce", command + facts(rows))


def _threads(info: Mapping[str, Any]) -> str:
    reason = info.get("thread_reason")
    return f"{info.get('threads', 'not recorded')}" + (f" ({reason})" if reason else "")


def _learning_curve(run: Run) -> str:
    image = figures.learning_curve(run)
    if image is None:
        return section("Learning curve", _note("Nothing was evaluated or collected yet."))
    caption = (
        "Success of the acting policy without exploration noise, from the same initial states "
        "every time; the band is the 95 % Wilson interval of each evaluation. The grey line is the "
        "running success of at least 20 collected episodes, exploration noise included."
    )
    if run.before is not None:
        caption += " Pre-training takes no environment steps: the diamond at the left is its end."
    return section("Learning curve", _figure(image, "Success rate over training", caption))


def _values(run: Run) -> str:
    image = figures.value_curve(run)
    if image is None:
        return ""
    caption = (
        "Mean Q over all critics, and TD error (logarithmic), on batches fixed at the start of "
        f"their phase. {SPIRAL}{_measured_spiral(run)}"
    )
    return section("Value estimates", _figure(image, "Q and TD error on fixed batches", caption))


def _measured_spiral(run: Run) -> str:
    series = figures.probe_series(run)
    parts = []
    for name, label in (("offline_q", "Q on the offline data"), ("offline_td", "its TD error")):
        points = series.get(name)
        if points is None or not points[:, 2].any() or points[:, 2].all():
            return ""
        start, later = points[points[:, 2] > 0][-1, 1], points[points[:, 2] == 0, 1]
        extreme = ("lowest", later.min()) if name == "offline_q" else ("highest", later.max())
        parts.append(
            f"{label} went from {start:.3g} to {later[-1]:.3g} ({extreme[0]} {extreme[1]:.3g})"
        )
    return f" <b>Here</b> {', and '.join(parts)}."


def _videos(run: Run) -> str:
    folder = run.directory / "videos"
    found = [(n, folder / f"{n}.mp4") for n in ("before", "after")]
    found = [(name, path) for name, path in found if path.is_file()]
    if not found:
        reason = folder / "unavailable.txt"
        why = reason.read_text(encoding="utf-8").strip() if reason.is_file() else ""
        text = f"No videos: {why}" if why else "This run has no videos."
        return section("Videos", _note(text))
    names = {"before": "before fine-tuning", "after": "after training"}
    clips = "".join(
        f"<figure><video controls autoplay loop muted playsinline "
        f'src="{data_uri("video/mp4", path.read_bytes())}"></video>'
        f'<figcaption class="{name}">{names[name]}</figcaption></figure>'
        for name, path in found
    )
    return section("Videos", f'<div class="videos">{clips}</div>')


def _evaluations(run: Run) -> str:
    evaluations = run.evaluations
    if not evaluations:
        return section("Evaluations", _note("This run has no evaluation."))
    marks = [(run.before, "before"), (run.after, "after")] if run.before else []
    rows = []
    for e in evaluations:
        tag = "".join(f' <span class="tag {m}">{m}</span>' for line, m in marks if e == line)
        rows.append(
            [
                escape(e.of) + tag,
                f"{e.env_steps:,}",
                f"{e.updates:,}",
                f"{e.successes}/{e.episodes}",
                percent(e.success),
                percent_range(*e.interval),
                f"{e.mean_return:.4g}",
            ]
        )
    columns = ["phase", "env steps", "updates", "successes", "success", "95 % interval"]
    return section("Evaluations", table([*columns, "mean return"], rows, text=1))


def _ledger(run: Run) -> str:
    after, before = run.after, run.before
    if after is None:
        return ""
    if before is None:
        rows = [[str(e["index"]), _hash(e), *_outcome(e)] for e in after.ledger]
        columns = ["#", "initial state", "success", "return", "length"]
        return details(f"Last evaluation, {len(rows)} episodes", table(columns, rows, text=2))
    theirs = {e["index"]: e for e in before.ledger}
    pairs = [(theirs[e["index"]], e) for e in after.ledger if e["index"] in theirs]
    rows, classes = [], []
    for old, new in pairs:
        state = _hash(new) if _same(old, new) else f"{_hash(old)} ≠ {_hash(new)}"
        rows.append([str(new["index"]), state, *_outcome(old), *_outcome(new)])
        change = bool(new["success"]) - bool(old["success"])
        classes.append({1: "gained", -1: "lost"}.get(change, ""))
    gained, lost = classes.count("gained"), classes.count("lost")
    columns = ["#", "initial state", "before", "return", "length", "after", "return", "length"]
    verdict = _states_verdict(before, after, pairs)
    summary = (
        f"Episode by episode: {gained} newly solved, {lost} no longer solved, "
        f"{len(pairs) - gained - lost} unchanged"
    )
    episodes = details(summary, table(columns, rows, text=2, classes=classes))
    return section("Before and after", verdict + episodes)


def _states_verdict(
    before: EvaluationLine, after: EvaluationLine, pairs: Sequence[tuple[dict, dict]]
) -> str:
    different = sum(not _same(old, new) for old, new in pairs)
    unpaired = max(before.episodes, after.episodes) - len(pairs)
    if not different and not unpaired:
        return (
            '<p class="good">Same initial states verified: before and after began from '
            f"{len(pairs)} equal first observations.</p>"
        )
    reasons = []
    if different:
        reasons.append(f"{different} of {len(pairs)} episodes began from different first states")
    if unpaired:
        reasons.append(f"{unpaired} episodes are in one evaluation only")
    return (
        f'<p class="note">Not the same initial states: {" and ".join(reasons)}. Before and after '
        "are not strictly comparable.</p>"
    )


def _same(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return (old["seed"], old["initial_state"]) == (new["seed"], new["initial_state"])


def _hash(episode: Mapping[str, Any]) -> str:
    return f"<code>{escape(str(episode['initial_state'])[:8])}</code>"


def _outcome(episode: Mapping[str, Any]) -> list[str]:
    mark = '<b class="yes">✓</b>' if episode["success"] else '<b class="no">✗</b>'
    return [mark, f"{number(episode['episode_return']):.4g}", f"{episode['length']}"]


def _faults(run: Run) -> str:
    faults = run.of_kind("fault")
    if not faults:
        return ""
    rows = [
        [escape(e["phase"]), f"{e['counters']['env_steps']:,}", escape(str(e.get("what", "")))]
        for e in faults
    ]
    return section(
        f"Faults ({len(faults)})", table(["phase", "env steps", "what happened"], rows, text=3)
    )


def _metrics(run: Run) -> str:
    image = figures.training_metrics(run)
    if image is None:
        return ""
    caption = "Means between two log lines. Shading marks the phases, as in the learning curve."
    return section("Training metrics", _figure(image, "Training metrics", caption))


def _settings(run: Run) -> str:
    if not run.config:
        return ""
    rows = [[f"<code>{escape(k)}</code>", escape(str(v))] for k, v in _flat(run.config)]
    return details(f"Settings ({len(rows)})", table(["setting", "value"], rows, text=2))


def _origin(run: Run) -> str:
    info, data = run.info, run.info.get("dataset")
    boxes = []
    if data:
        success = data.get("success")
        rows = [
            ("path", data.get("path")),
            ("fingerprint", data.get("fingerprint")),
            ("episodes", _count(data.get("episodes"))),
            ("frames", _count(data.get("frames"))),
            ("successful", None if success is None else percent(success)),
        ]
        boxes.append(f"<div><h3>Dataset</h3>{facts(rows)}</div>")
    if info:
        rows = [
            *sorted(info.get("versions", {}).items()),
            ("python", info.get("python")),
            ("platform", info.get("platform")),
            ("environment", info.get("env_hash")),
            ("started", info.get("started")),
        ]
        boxes.append(f"<div><h3>Versions</h3>{facts(rows)}</div>")
    return section("Origin", f'<div class="boxes">{"".join(boxes)}</div>') if boxes else ""


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def section(title: str, content: str) -> str:
    """A headed section; `content` is HTML."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def details(summary: str, content: str) -> str:
    """A part that is opened by a click; `content` is HTML."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _figure(image: bytes, alt: str, caption: str) -> str:
    """`caption` is HTML."""
    source = data_uri("image/svg+xml", image)
    return (
        f'<figure><img src="{source}" alt="{escape(alt)}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def data_uri(kind: str, content: bytes) -> str:
    """A file's content as an address, so that a page needs no file beside it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def facts(rows: Iterable[tuple[str, Any]]) -> str:
    """Names and values; None is left out."""
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>"
        for name, value in rows
        if value is not None
    )
    return f"<dl>{items}</dl>"


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text: int,
    classes: Sequence[str] | None = None,
) -> str:
    """A table whose cells are HTML; the first `text` columns are aligned left."""

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="text">{v}</{tag}>' if i < text else f"<{tag}>{v}</{tag}>"
            for i, v in enumerate(values)
        )

    classes = classes or [""] * len(rows)
    body = "".join(
        f'<tr class="{c}">{cells("td", row)}</tr>' for c, row in zip(classes, rows, strict=True)
    )
    return (
        f'<div class="scroll"><table><thead><tr>{cells("th", columns)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _count(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min of training"
    return f"{minutes} min {rest:02d} s of training" if minutes else f"{rest} s of training"

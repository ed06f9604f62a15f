"""`report.html` of a deployment: success, what limited the arm, latency, tracking, a video."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from embodied.core.stats import wilson
from embodied.core.types import UserError
from embodied.flights import Flight, read_flight
from embodied.report import figures
from embodied.report.files import extra, write_text
from embodied.report.html import data_uri, facts, section, table
from embodied.report.run import percent, percent_range
from embodied.report.style import CSS
from embodied.report.video import write_video

FRAMES = 600  # most pictures of a video
SIZE = (360, 480)


def write_report(directory: str | Path) -> Path:
    """Writes report.html, and video.mp4 if something can be drawn, beside run.mcap.

    Raises:
        UserError: there is no recording, or the `report` extra is not installed.
    """
    extra("matplotlib")
    directory = Path(directory)
    flight = read_flight(directory / "run.mcap", pictures=True)
    note = _video(directory / "video.mp4", flight)
    path = directory / "report.html"
    write_text(path, render(flight, note))
    return path


def render(flight: Flight, note: str = "") -> str:
    """The report as HTML.

    Args:
        flight: what was recorded.
        note: why there is no video; empty if video.mp4 lies beside the page.
    """
    name = flight.meta.get("policy", {}).get("name", "a policy")
    title = f"{name} on {flight.meta['robot']}"
    body = [
        _header(title, flight),
        section("Episodes", _episodes(flight)),
        section("Limits that acted", _limits(flight)),
        _figure("Tracking", tracking_curve(flight), TRACKING),
        _figure("Latency", latency_curve(flight), LATENCY),
        section("Video", _player(note)),
        section("Circumstances", facts(_circumstances(flight))),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


TRACKING = (
    "Largest distance of any joint from the position sent last, in rad. Marked: where the safety "
    "envelope latches."
)
LATENCY = (
    "From the moment the robot sensed an observation to the policy's action for it. Marked: the "
    "period of actions; above it, an action comes later than its time."
)


def _header(title: str, flight: Flight) -> str:
    whole = [e for e in flight.episodes.values() if "end" in e]
    wins, latency = sum(e["success"] for e in whole), latencies(flight)
    cards = []
    if whole:
        interval = percent_range(*wilson(wins, len(whole)))
        text = f"{wins} of {len(whole)} episodes", f"95 % Wilson interval {interval}"
        cards.append(_card("success", percent(wins / len(whole)), *text))
    if len(latency):
        p95 = 1e3 * np.quantile(latency, 0.95)
        text = f"median {1e3 * np.median(latency):.0f} ms", f"most {1e3 * latency.max():.0f} ms"
        cards.append(_card("latency, 95th percentile", f"{p95:.0f} ms", *text))
    if flight.loop:
        late, steps = flight.loop["overruns"], max(flight.loop["steps"], 1)
        text = f"{late} of {steps} periods ended late", f"at {flight.meta['rate']:g} Hz"
        cards.append(_card("overruns", f"{100 * late / steps:.1f} %", *text))
    task = next((e["task"] for e in flight.episodes.values() if "task" in e), "")
    chips = [task, f"{flight.span:.0f} s", f"{len(flight.steps)} actions"]
    if flight.loop and flight.loop["latched"]:
        chips.append("the stop latched")
    return (
        f"<header><h1>{escape(title)}</h1>"
        f'<p class="chips">{"".join(f"<span>{escape(c)}</span>" for c in chips if c)}</p>'
        f'<div class="headline">{"".join(cards)}</div></header>'
    )


def _card(title: str, value: str, *lines: str) -> str:
    rest = "".join(f"<span>{escape(line)}</span>" for line in lines)
    return (
        f'<div class="card"><small>{escape(title)}</small><strong>{escape(value)}</strong>'
        f"{rest}</div>"
    )


def _episodes(flight: Flight) -> str:
    rows = []
    for number, one in sorted(flight.episodes.items()):
        steps = [step for step in flight.steps if step["episode"] == number]
        why = one.get("end", "cut off")
        mark = "yes" if one.get("success") else "no"
        intervened = sum(step["intervened"] for step in steps)
        seed = str(one.get("seed", ""))
        rows.append([str(number), mark, escape(why), str(len(steps)), str(intervened), seed])
    columns = ["episode", "success", "ended by", "actions", "of an operator", "seed"]
    return table(columns, rows, text=3) if rows else "<p>None was begun.</p>"


def _limits(flight: Flight) -> str:
    if not flight.limits:
        return "<p>None: every command was sent as the policy wanted it.</p>"
    rows = [[escape(name), str(count)] for name, count in flight.limits.most_common()]
    return table(["limit", "times"], rows, text=1)


def _figure(title: str, image: bytes | None, caption: str) -> str:
    if image is None:
        return ""
    source = data_uri("image/svg+xml", image)
    return section(
        title,
        f'<figure><img alt="{escape(title)}" src="{source}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>",
    )


def _player(note: str) -> str:
    if note:
        return f"<p>There is none: {escape(note)}</p>"
    player = '<video controls muted src="video.mp4"></video>'
    return f'<div class="videos"><figure>{player}</figure></div>'


def _circumstances(flight: Flight) -> Iterator[tuple[str, Any]]:
    for key, value in flight.meta.items():
        if key not in ("deployment", "joints"):
            yield key, value if isinstance(value, str | int | float) else json.dumps(value)
    for key, value in flight.meta.get("deployment", {}).items():
        if value not in ("", {}, 0):
            yield f"deploy {key}", value


# -------------------------------------------------------------------- curves


def latencies(flight: Flight) -> np.ndarray:
    """s, of every action."""
    return np.array([step["latency"] for step in flight.steps])


def tracking_errors(flight: Flight) -> tuple[np.ndarray, np.ndarray]:
    """s since the first state, and rad: the largest distance of a joint from what was sent last."""
    stamps, states = flight.states
    sent_at, sent = flight.sent
    if not len(stamps) or not len(sent_at):
        return np.zeros(0), np.zeros(0)
    before = np.searchsorted(sent_at, stamps, "right") - 1
    moving = (before >= 0) & (stamps - sent_at[np.maximum(before, 0)] < 0.1)
    error = np.abs(states[:, : sent.shape[1]] - sent[np.maximum(before, 0)]).max(1)
    return stamps[moving] - stamps[0], error[moving]


def tracking_curve(flight: Flight) -> bytes | None:
    """Tracking error against time."""
    times, errors = tracking_errors(flight)
    if not len(times):
        return None
    most = flight.meta.get("limits", {}).get("tracking")
    gap = np.flatnonzero(np.diff(times) > 0.5) + 1
    return _curve(
        np.insert(times, gap, np.nan), np.insert(errors, gap, np.nan), "tracking error, rad", most
    )


def latency_curve(flight: Flight) -> bytes | None:
    """Latency of each action against time."""
    if not flight.steps:
        return None
    times = np.array([step["observed"] for step in flight.steps])
    period = 1e3 / flight.meta["fps"] if "fps" in flight.meta else None
    return _curve(times - times[0], 1e3 * latencies(flight), "latency, ms", period, marker=".")


def _curve(
    times: np.ndarray, values: np.ndarray, label: str, mark: float | None, marker: str = ""
) -> bytes:
    with figures.new_figure(figures.WIDTH, 2.6) as figure:
        axes = figure.subplots()
        line = "" if marker else "-"
        axes.plot(times, values, f"{line}{marker}", color=figures.BLUE, lw=1.0, ms=4)
        if mark is not None:
            axes.axhline(mark, color=figures.VERMILION, lw=1.0, ls="--")
        axes.set_ylim(bottom=0.0)
        axes.set_xlabel("s")
        axes.set_ylabel(label)
        return figures.as_image(figure, "svg")


# -------------------------------------------------------------------- video


def _video(path: Path, flight: Flight) -> str:
    """Writes a video; returns why not, or an empty text."""
    if any(step["pictures"] for step in flight.steps):
        frames = _seen(flight)
    else:
        frames = _scene(flight) if any("scene" in step for step in flight.steps) else _drawn(flight)
    try:
        write_video(path, frames, flight.meta.get("fps", 10.0))
    except (UserError, ValueError) as error:
        return str(error)
    return ""


def _seen(flight: Flight) -> Iterator[np.ndarray]:
    """What the first camera saw."""
    from hardware.pictures import read_compressed_image

    camera = next(iter(flight.steps[0]["pictures"]))
    for step in flight.steps[:FRAMES]:
        yield read_compressed_image(step["pictures"][camera])


def _scene(flight: Flight) -> Iterator[np.ndarray]:
    """The simulated scene, drawn as it was at each step.

    Raises:
        UserError: nothing can be drawn here.
    """
    import envs
    from envs.scene_arm import draw

    options = flight.meta["deployment"]["env_args"]
    try:
        with closing(envs.make(flight.meta["robot"], **options)) as env:
            episode = None
            for step in flight.steps[:FRAMES]:
                if step["episode"] != episode:
                    episode = step["episode"]
                    env.reset(seed=flight.episodes[episode]["seed"])
                yield draw(env, step["scene"], SIZE)
    except envs.EnvsError as error:
        raise UserError(str(error)) from error


def _drawn(flight: Flight) -> Iterator[np.ndarray]:
    """The twin, drawn where the arm was at each step.

    Raises:
        UserError: the robot has no twin, or nothing can be drawn here.
    """
    from hardware.errors import HardwareError
    from hardware.robots import TWINS, find
    from hardware.types import Camera

    if flight.meta["robot"] not in TWINS:
        raise UserError("the robot has no camera, and no twin to draw")
    reach = flight.meta.get("deployment", {}).get("task") == "reach"
    arm = find(flight.meta["robot"])
    joints = len(arm.spec.joints)
    try:
        twin = arm.twin(live=False)
        for step in flight.steps[:FRAMES]:
            twin.place(step["next"][:joints], step["next"][2 * joints + 9])
            marks = [step["next"][-3:]] if reach else []
            yield twin.picture(Camera("front", *SIZE, 10.0), marks)
        twin.close()
    except HardwareError as error:
        raise UserError(str(error)) from error

"""Figures of a run and of comparisons between runs, as SVG or PNG bytes.

Colours are those of Okabe and Ito, told apart with any kind of colour vision; every band is a 95 %
interval unless its caption says otherwise. No pyplot: nothing here changes global state.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from embodied.core.stats import bootstrap_mean
from embodied.report.files import extra
from embodied.report.run import PRETRAINING, Run, Span, number, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#AA4499"
ORANGE, SKY, INK, FAINT = "#E69F00", "#56B4E9", "#24303c", "#8a96a3"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, "#666666")
SHADES = {"offline": "#e9edf2", "warmup": "#fdf1dc", "random": "#fdf1dc", "online": "#edf5fb"}
NAMES = {"warmup": "warm-up"}
PROBES = (("offline", "offline data", BLUE, "o"), ("online", "first online data", VERMILION, "s"))
WIDTH = 8.6  # inches
POINTS = 300  # most points a line is drawn with
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#dde3e9",
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "savefig.facecolor": "white",
    "svg.hashsalt": "embodied",  # element names that do not change from one writing to the next
}
PREFERRED = (
    "critic/q_mean",
    "critic/td_loss",
    "critic/cql_gap",
    "actor/entropy",
    "actor/temperature",
    "actor/loss",
)


def learning_curve(run: Run, kind: str = "svg") -> bytes | None:
    """Success against environment steps: evaluations with Wilson intervals, and what was collected.

    Pre-training takes no environment steps; its evaluation stands in a strip at the left edge.
    A run without environment steps is drawn against updates.

    Args:
        run: the run.
        kind: svg or png.

    Returns:
        The image; None if there is nothing to draw.
    """
    evaluations, collected = run.evaluations, collected_success(run)
    if not evaluations and not len(collected):
        return None
    with new_figure(WIDTH, 3.5) as figure:
        axes = figure.subplots()
        if not run.last["env_steps"]:
            _draw_evaluations(axes, evaluations, [e.updates for e in evaluations])
            axes.set_xlabel("updates")
        else:
            left = _steps_axis(axes, run)
            _draw_collected(axes, collected)
            online = [e for e in evaluations if e.of != PRETRAINING]
            _draw_evaluations(axes, online, [e.env_steps for e in online])
            offline = [e for e in evaluations if e.of == PRETRAINING]
            if offline:
                _draw_before(axes, offline[-1], left)
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.0f} %")
        axes.set_ylabel("success rate")
        _legend(axes)
        return as_image(figure, kind)


def value_curve(run: Run, kind: str = "svg") -> bytes | None:
    """Q and TD error on the probe batches against environment steps; None without probes."""
    series = probe_series(run)
    if not series:
        return None
    with new_figure(WIDTH, 3.0) as figure:
        panels = figure.subplots(1, 2)
        quantities = ("q", "mean Q"), ("td", "TD error, mean square")
        for axes, (quantity, name) in zip(panels, quantities, strict=True):
            left = _steps_axis(axes, run, narrowest=0.16)
            for probe, label, colour, marker in PROBES:
                points = series.get(f"{probe}_{quantity}", np.empty((0, 3)))
                if len(points):
                    x = np.where(points[:, 2] > 0, left, points[:, 0])
                    axes.plot(x, points[:, 1], f"-{marker}", ms=4, color=colour, label=label)
            drawn = [line.get_ydata() for line in axes.get_lines() if len(line.get_ydata()) > 0]
            if quantity == "td" and drawn and all((np.asarray(y) > 0).all() for y in drawn):
                axes.set_yscale("log")
            axes.set_ylabel(name)
        _legend(panels[0])
        return as_image(figure, kind)


def training_metrics(run: Run, kind: str = "svg", most: int = 6) -> bytes | None:
    """Small multiples of what the learner logged, against updates; None if it logged nothing."""
    lines = run.of_kind("train")
    logged = {name for e in lines for name in e["metrics"] if not name.startswith("episode/")}
    names = [n for n in PREFERRED if n in logged] + sorted(logged - set(PREFERRED))
    names = names[:most]
    if not names:
        return None
    rows = -(-len(names) // 3)
    with new_figure(WIDTH, 1.85 * rows + 0.3) as figure:
        grid = figure.subplots(rows, 3, squeeze=False).ravel()
        for axes in grid[len(names) :]:
            axes.set_axis_off()
        for axes, name in zip(grid, names, strict=False):
            points = [
                (e["counters"]["updates"], number(e["metrics"][name]))
                for e in lines
                if name in e["metrics"]
            ]
            points = _thin(np.array(points, float))
            _shade(axes, run.spans, "updates")
            axes.plot(points[:, 0], points[:, 1], color=BLUE, lw=1.4)
            y = points[np.isfinite(points[:, 1]), 1]
            if len(y) and y.min() > 0 and y.max() > 50 * y.min():
                axes.set_yscale("log")
            axes.set_title(name)
            axes.xaxis.set_major_formatter(_thousands)
            axes.xaxis.set_major_locator(extra("matplotlib.ticker").MaxNLocator(4))
        for axes in grid[max(0, len(names) - 3) : len(names)]:
            axes.set_xlabel("updates")
        return as_image(figure, kind)


def compare(
    curves: Mapping[str, Sequence[np.ndarray]],
    *,
    xlabel: str = "environment steps",
    ylabel: str = "success rate",
    band: str = "bootstrap",
    rate: bool = False,
    log: bool = False,
    kind: str = "svg",
) -> bytes:
    """Several arms: the mean over seeds and a band.

    Seeds measured at different x are interpolated where all of them have values.

    Args:
        curves: per arm, one [n, 2] array of (x, y) per seed, x rising.
        xlabel: x axis.
        ylabel: y axis.
        band: "bootstrap" (95 % interval of the mean) or "range" (smallest to largest seed).
        rate: y is a rate, shown as per cent from 0 to 100.
        log: logarithmic y.
        kind: svg or png.
    """
    if band not in ("bootstrap", "range"):
        raise ValueError(f"band must be bootstrap or range, got {band!r}")
    with new_figure(WIDTH, 3.5) as figure:
        axes = figure.subplots()
        for i, (label, seeds) in enumerate(curves.items()):
            colour = COLOURS[i % len(COLOURS)]
            x, y = common_grid(seeds)
            axes.plot(x, y.mean(0), color=colour, label=f"{label} (n = {len(y)})")
            if len(y) > 1:
                if band == "range":
                    low, high = y.min(0), y.max(0)
                else:
                    low, high = np.transpose([bootstrap_mean(c, resamples=2000) for c in y.T])
                axes.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
        if rate:
            axes.set_ylim(-0.02, 1.02)
            axes.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
        if log:
            axes.set_yscale("log")
        axes.xaxis.set_major_formatter(_thousands)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        _legend(axes)
        return as_image(figure, kind)


def strip(
    arms: Mapping[str, Sequence[float]],
    *,
    ylabel: str,
    rate: bool = False,
    reference: tuple[str, float] | None = None,
    kind: str = "svg",
) -> bytes:
    """One point per seed and arm, with the arm's mean and its 95 % bootstrap interval.

    Args:
        arms: values by arm, one per seed.
        ylabel: y axis.
        rate: values are rates, shown as per cent.
        reference: (label, value) of a horizontal line, a published number for example.
        kind: svg or png.
    """
    with new_figure(max(3.6, min(WIDTH, 1.5 * len(arms) + 1.2)), 3.2) as figure:
        axes = figure.subplots()
        for i, values in enumerate(np.asarray(v, float) for v in arms.values()):
            colour = COLOURS[i % len(COLOURS)]
            x = i - 0.16 + 0.06 * (np.arange(len(values)) % 3 - 1)
            axes.plot(x, values, "o", ms=5, mfc="white", mec=colour, mew=1.3)
            mean = values.mean()
            low, high = bootstrap_mean(values) if len(values) > 1 else (mean, mean)
            bars = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
            axes.errorbar(
                [i + 0.14], [mean], bars, fmt="D", ms=6, color=colour, capsize=4, elinewidth=1.6
            )
        if reference is not None:
            label, value = reference
            axes.axhline(value, color=FAINT, lw=1.2, ls="--", label=label)
            _legend(axes)
        axes.set_xticks(range(len(arms)), [f"{k}\n(n = {len(v)})" for k, v in arms.items()])
        axes.set_xlim(-0.6, len(arms) - 0.4)
        axes.tick_params(axis="x", length=0)
        if rate:
            axes.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
        axes.set_ylabel(ylabel)
        return as_image(figure, kind)


def scatter(
    groups: Mapping[str, np.ndarray], *, xlabel: str, ylabel: str, kind: str = "svg"
) -> bytes:
    """Points of several groups, told apart by colour and sign.

    Args:
        groups: [n, 2] by name.
        xlabel: x axis.
        ylabel: y axis.
        kind: svg or png.
    """
    with new_figure(WIDTH, 4.2) as figure:
        axes = figure.subplots()
        for i, (name, points) in enumerate(groups.items()):
            colour, sign = COLOURS[i % len(COLOURS)], "os^Dv"[i // 2 % 5]
            axes.plot(
                *points.T, sign, ms=4.5, color=colour, mec="white", mew=0.4, alpha=0.85, label=name
            )
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return as_image(figure, kind)


def collected_success(run: Run, episodes: int = 20) -> np.ndarray:
    """Running success of collected episodes, over at least the last `episodes` of them.

    Returns:
        [n, 2] environment steps and success rate.
    """
    points, window, seen = [], [], 0
    for event in run.of_kind("train"):
        finished = event["counters"]["episodes"] - seen
        if "episode/success" not in event["metrics"] or finished <= 0:
            continue
        seen += finished
        window.append((finished, number(event["metrics"]["episode/success"])))
        while sum(n for n, _ in window[1:]) >= episodes:
            window.pop(0)
        total = sum(n for n, _ in window)
        mean = sum(n * rate for n, rate in window) / total
        points.append((event["counters"]["env_steps"], mean))
    return np.array(points, float).reshape(-1, 2)


def probe_series(run: Run) -> dict[str, np.ndarray]:
    """Diagnostics on the probe batches by name (`offline_q`, ...).

    Returns:
        [n, 3] environment steps, value, and 1 where it was measured before any of them.
    """
    series: dict[str, list[tuple[float, float, float]]] = {}
    for event in run.of_kind("evaluation"):
        steps = event["counters"]["env_steps"]
        for name, value in event["metrics"].items():
            if name.startswith("probe/") and np.isfinite(number(value)):
                row = (steps, number(value), float(event["of"] == PRETRAINING))
                series.setdefault(name.removeprefix("probe/"), []).append(row)
    return {name: np.array(rows) for name, rows in series.items()}


def common_grid(seeds: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """x [m] where every seed has values, and y [seeds, m] interpolated there.

    Raises:
        ValueError: no seeds, or seeds without a common range.
    """
    if not len(seeds):
        raise ValueError("an arm needs at least one seed")
    seeds = [np.asarray(s, float) for s in seeds]
    low, high = max(s[0, 0] for s in seeds), min(s[-1, 0] for s in seeds)
    if low > high:
        raise ValueError("the seeds of an arm have no common range of x")
    x = np.unique(np.concatenate([s[:, 0] for s in seeds]))
    x = x[(x >= low) & (x <= high)]
    return x, np.stack([np.interp(x, s[:, 0], s[:, 1]) for s in seeds])


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Figure]:
    """An empty figure in the style of the reports; inches."""
    matplotlib = extra("matplotlib")
    with matplotlib.rc_context(STYLE):
        yield extra("matplotlib.figure").Figure((width, height), layout="constrained")


def as_image(figure: Figure, kind: str) -> bytes:
    """A figure as SVG or PNG."""
    if kind not in ("svg", "png"):
        raise ValueError(f"kind must be svg or png, got {kind!r}")
    stream = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(stream, format=kind, dpi=160, metadata=metadata)
    return stream.getvalue()


def _steps_axis(axes: Axes, run: Run, narrowest: float = 0.08) -> float:
    """Shade the phases over environment steps; returns the middle of the pre-training strip."""
    end = max(run.last["env_steps"], 1)
    offline = any(s.name == PRETRAINING for s in run.spans)
    width = 0.09 * end if offline else 0.0
    if offline:
        axes.axvspan(-width, 0, color=SHADES["offline"], lw=0, zorder=0)
        _phase_name(axes, -width / 2, "offline")
    _shade(axes, run.spans, "env_steps", narrowest)
    axes.set_xlim(-width, 1.015 * end)
    axes.xaxis.set_major_formatter(lambda x, _: _thousands(x, _) if x >= 0 else "")
    axes.set_xlabel("environment steps")
    return -width / 2


def _shade(axes: Axes, spans: Sequence[Span], counter: str, narrowest: float = 1.0) -> None:
    """Shade the phases; those wider than a fraction `narrowest` of the axis get their name."""
    end = max((getattr(s, counter)[1] for s in spans), default=0)
    for i, span in enumerate(spans):
        low, high = getattr(span, counter)
        if high <= low:
            continue
        shade = SHADES.get(span.name, ("#f3f6f9", "#e9eff4")[i % 2])
        axes.axvspan(low, high, color=shade, lw=0, zorder=0)
        if high - low > narrowest * end:
            _phase_name(axes, (low + high) / 2, NAMES.get(span.name, span.name))


def _phase_name(axes: Axes, x: float, text: str) -> None:
    axes.text(
        x, 1.01, text, transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=8,
        color="#5b6874",
    )  # fmt: skip


def _draw_evaluations(axes: Axes, evaluations: Sequence[Any], x: Sequence[float]) -> None:
    if not evaluations:
        return
    y = np.array([e.success for e in evaluations])
    low, high = np.transpose([e.interval for e in evaluations])
    axes.fill_between(x, low, high, color=BLUE, alpha=0.13, lw=0)
    bars = np.maximum(0.0, [y - low, high - y])
    axes.errorbar(x, y, bars, fmt="none", ecolor=BLUE, elinewidth=1.0, capsize=2.5, alpha=0.7)
    label = f"evaluation, n = {evaluations[-1].episodes}, 95 % Wilson interval"
    axes.plot(x, y, "-o", ms=5, color=BLUE, mec="white", mew=0.8, label=label, zorder=5)


def _draw_before(axes: Axes, before: Any, x: float) -> None:
    low, high = before.interval
    y = before.success
    bars = [[max(0.0, y - low)], [max(0.0, high - y)]]
    axes.errorbar(
        [x], [y], bars, fmt="D", ms=6.5, color=VERMILION, mec="white", mew=0.8, capsize=3,
        elinewidth=1.2, label=f"before fine-tuning: {percent(y)}", zorder=6,
    )  # fmt: skip


def _draw_collected(axes: Axes, points: np.ndarray) -> None:
    if len(points):
        points = _thin(points)
        axes.plot(
            points[:, 0], points[:, 1], color=FAINT, lw=1.3, label="collected episodes, running"
        )


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", frameon=True, framealpha=0.85, edgecolor="none")


def _thin(points: np.ndarray) -> np.ndarray:
    """At most POINTS rows: means of consecutive rows."""
    if len(points) <= POINTS:
        return points
    return np.array([part.mean(0) for part in np.array_split(points, POINTS)])


def _thousands(x: float, _: Any) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(x) >= size:
            return f"{x / size:.3g}{unit}"
    return f"{x:.3g}"

"""The results as a terminal table and as docs/benchmarks.md."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from benchmarks.driver import Options, Result

HEADINGS = ("row", "unit", "ours", "peer", "its rate", "ratio", "goal", "met")
INTRODUCTION = """# Benchmarks

Throughput of this project beside public libraries that do the same work, measured side by side.

Every figure is **units per CPU second** of one thread pinned to one core: median [min to max] over
the rounds. All variants of a row are measured in turn in every round, in reversed order every other
round; the ratio is the median of the round-by-round ratios. Absolute figures move with the machine
and its neighbours, ratios much less. Warm-up and just-in-time compilation are not counted.
Sizes unless said otherwise: observation 39, action 4, batch 256, two hidden layers of 256, float32.
"""
PRECISION = """## Precision

Everything is float32. bfloat16 rows are not offered: they need a CPU with AMX to gain anything
(without it bfloat16 products are several times slower than float32).
"""
REPRODUCE = """## Reproduce

```
benchmarks/peers.sh PEERS        # environments and check-outs of the peers, once
EMBODIED_PEERS=PEERS {command}
```

Without `EMBODIED_PEERS` the rows that need a peer's environment say so and the others run.
`--only NAME` measures some rows, `--quick` is a smoke test.
"""


def cells(result: Result) -> tuple[str, ...]:
    """One line of the table."""
    goal = "" if result.row.goal is None else f"{result.row.goal:g}x"
    met = {None: "", True: "yes", False: "**no**"}[result.met]
    ratio = f"{result.ratio:.2f}x" if result.ratios else "not measured"
    peer = result.peer or "-"
    rates = (rate(result.ours), peer, rate(result.theirs))
    return (result.row.title, result.row.unit, *rates, ratio, goal, met)


def rate(values: Sequence[float]) -> str:
    """Median [min to max]."""
    if not values:
        return "-"
    digits = ",.0f" if statistics.median(values) >= 100 else ".2f"
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:{digits}} [{low:{digits}} to {high:{digits}}]"


def table(results: Sequence[Result]) -> Table:
    """For the terminal."""
    out = Table(*HEADINGS, title="units per CPU second")
    for result in results:
        out.add_row(*(cell.replace("**", "").replace("[", r"\[") for cell in cells(result)))
        for note in result.notes:
            out.add_row("", "", "", note.replace("[", r"\["), "", "", "", "")
    return out


def markdown(results: Sequence[Result], options: Options, command: str) -> str:
    """The page."""
    lines = [INTRODUCTION, "| " + " | ".join(HEADINGS) + " |", "|" + " --- |" * len(HEADINGS)]
    lines += ["| " + " | ".join(cells(result)) + " |" for result in results]
    lines += ["", "## What is compared", ""]
    for result in results:
        note = " ".join(part for part in (result.row.note, *result.notes) if part)
        if note:
            lines.append(f"- **{result.row.title}.** {note}")
    lines += ["", "## Machine and versions", "", *_machine(options)]
    versions: dict[str, dict[str, str]] = {}
    for result in results:
        for label, found in result.versions.items():
            versions.setdefault(label, {}).update(found)
    for label, found in versions.items():
        lines.append(f"- {label}: " + ", ".join(f"{name} {v}" for name, v in found.items()))
    if "CORL" in versions:
        lines.append("- CORL commit eeeeef2, official WSRL commit 891ee35")
    lines.append("")
    return "\n".join([*lines, PRECISION, REPRODUCE.format(command=command)])


def _machine(options: Options) -> list[str]:
    model, flags = cpu()
    vector = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    amx = "with AMX-bf16" if "amx_bf16" in flags else "no AMX"
    return [
        f"- {model}, {vector}, {amx}; one core used",
        f"- {options.rounds} rounds, {options.secs:g} CPU seconds per variant and round",
        f"- Python {platform.python_version()} (this project)",
    ]


def cpu() -> tuple[str, set[str]]:
    """Model name and feature flags of the CPU, as Linux tells them."""
    info = Path("/proc/cpuinfo")
    fields = dict.fromkeys(("model name", "flags"), "")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in fields:
                fields[key.strip()] = value.strip()
    return fields["model name"] or platform.processor() or "unknown CPU", set(
        fields["flags"].split()
    )

"""`python -m benchmarks`: run the table, print it, write docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from itertools import groupby
from pathlib import Path

from rich.console import Console

from benchmarks.driver import ROOT, Options, Result, peers, run_group
from benchmarks.page import markdown, table
from benchmarks.rows import ROWS

PAGE = ROOT / "docs" / "benchmarks.md"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", help="rows whose name begins so")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--secs", type=float, default=1.5, help="CPU seconds per variant and round")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 0.3 s, no page")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--page", type=Path, help="write the page here even for a part of the rows")
    parser.add_argument("--verbose", action="store_true", help="show what the workers print")
    chosen = parser.parse_args(arguments)
    if chosen.quick:
        chosen.rounds, chosen.secs = min(chosen.rounds, 3), min(chosen.secs, 0.3)
    if chosen.rounds < 1 or chosen.secs <= 0:
        parser.error("--rounds must be at least 1 and --secs positive")
    return chosen


def main(arguments: list[str] | None = None) -> int:
    """Measure and report; 1 if no row matches."""
    chosen = parse(arguments)
    prefixes = tuple(chosen.only or [""])
    rows = [row for row in ROWS if row.name.startswith(prefixes)]
    if not rows:
        print(f"no row named {', '.join(prefixes)}; there are: {', '.join(r.name for r in ROWS)}")
        return 1
    console = Console(width=None if sys.stdout.isatty() else 200)
    found = peers()
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="embodied-bench-jax-") as scratch:
        options = Options(
            rounds=chosen.rounds,
            secs=chosen.secs,
            core=chosen.core,
            peers=found,
            cache=Path(scratch if found is None else found / "jaxcache"),
            verbose=chosen.verbose,
        )
        for name, group in groupby(rows, key=lambda row: row.group):
            console.print(f"{name} ...", style="dim")
            results += run_group(list(group), options)
    console.print(table(results))
    if not chosen.only:
        from benchmarks import latency  # needs what a robot's PC has

        latency.measure(chosen.quick)
    page = chosen.page or (PAGE if len(rows) == len(ROWS) and not chosen.quick else None)
    if page is not None:
        command = f"python -m benchmarks --rounds {chosen.rounds} --secs {chosen.secs:g}"
        command += "".join(f" --only {name}" for name in chosen.only or [])
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(markdown(results, options, command), encoding="utf-8")
        console.print(f"wrote {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

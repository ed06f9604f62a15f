"""Runs rows: starts their workers, alternates between them, and takes medians of the ratios."""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.rows import WORKERS, Row
from benchmarks.serve import resident

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        rounds: how often every variant is measured.
        secs: CPU seconds per variant and round.
        core: the core everything is pinned to.
        peers: directory made by peers.sh.
        cache: where jax keeps compiled programs.
        verbose: show the workers' stderr.
    """

    rounds: int = 7
    secs: float = 1.5
    core: int = 0
    peers: Path | None = None
    cache: Path | None = None
    verbose: bool = False


def peers() -> Path | None:
    """The folder that peers.sh made, as EMBODIED_PEERS names it."""
    named = os.environ.get("EMBODIED_PEERS")
    return Path(named).resolve() if named else None


@dataclass
class Result:
    """What a row gave.

    Attributes:
        row: the comparison.
        ours: units per CPU second, one per round.
        peer: label of the fastest peer, or an empty string.
        theirs: its units per CPU second, one per round.
        notes: variants that did not run, and why.
        versions: package versions by worker label.
    """

    row: Row
    ours: list[float]
    peer: str = ""
    theirs: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Median of the round-by-round ratios; NaN without a peer."""
        return statistics.median(self.ratios) if self.ratios else math.nan

    @property
    def ratios(self) -> list[float]:
        """Ours over theirs, round by round."""
        return [a / b for a, b in zip(self.ours, self.theirs, strict=False)]

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None if there is nothing to judge."""
        if self.row.goal is None or math.isnan(self.ratio):
            return None
        return self.ratio >= self.row.goal


class Process:
    """A running worker.

    Args:
        key: of `WORKERS`.
        variants: what it is to serve.
        options: pinning and peers.
    """

    def __init__(self, key: str, variants: Sequence[str], options: Options) -> None:
        worker = WORKERS[key]
        self.label = worker.label
        python = sys.executable
        environment = _environment(options)
        if worker.env:
            python = str(options.peers / worker.env / "bin" / "python")
            environment["CHECKOUT"] = str(options.peers / worker.checkout)
        pin = ["taskset", "-c", str(options.core)] if shutil.which("taskset") else []
        self._process = subprocess.Popen(
            [*pin, python, "-m", f"benchmarks.workers.{worker.module}", *variants],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if options.verbose else subprocess.DEVNULL,
            env=environment,
            text=True,
        )
        line = self._process.stdout.readline()
        hello = json.loads(line) if line else {"ready": [], "failed": {}, "versions": {}}
        self.ready: list[str] = hello["ready"]
        self.versions: dict[str, str] = hello["versions"]
        self.failed: dict[str, str] = hello["failed"]
        self.imported: float = hello.get("imported", math.nan)
        if not line:
            self.failed = dict.fromkeys(variants, "the worker did not start (see --verbose)")

    def measure(self, variant: str, secs: float) -> float:
        """Units per CPU second of one variant.

        Raises:
            RuntimeError: the worker died.
        """
        self._process.stdin.write(json.dumps({"name": variant, "secs": secs}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.label}: the worker died measuring {variant}")
        answer = json.loads(line)
        return answer["units"] / answer["cpu"]

    def peak(self) -> float:
        """MB that it held at most until now."""
        return resident(self._process.pid, "VmHWM")

    def close(self) -> None:
        """Let it end."""
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def run_group(rows: Sequence[Row], options: Options) -> list[Result]:
    """Measure rows that share their variants, in the same rounds.

    Args:
        rows: of one group.
        options: how.
    """
    wanted: dict[str, list[str]] = {}
    for name in dict.fromkeys(v for row in rows for v in (row.ours, *row.peers)):
        key, variant = name.split(":")
        wanted.setdefault(key, []).append(variant)
    skipped: dict[str, str] = {}
    processes: dict[str, Process] = {}
    try:
        for key, variants in wanted.items():
            why = WORKERS[key].missing(options.peers)
            if why:
                skipped.update({f"{key}:{v}": why for v in variants})
                continue
            processes[key] = Process(key, variants, options)
            skipped.update({f"{key}:{v}": w for v, w in processes[key].failed.items()})
        rates = _rounds(processes, options)
    finally:
        for process in processes.values():
            process.close()
    versions = {p.label: p.versions for p in processes.values() if p.versions}
    return [_result(row, rates, skipped, versions) for row in rows]


def _rounds(processes: dict[str, Process], options: Options) -> dict[str, list[float]]:
    """Every variant once per round, the order reversed every other round."""
    order = [(key, variant) for key, process in processes.items() for variant in process.ready]
    rates: dict[str, list[float]] = {f"{key}:{variant}": [] for key, variant in order}
    for number in range(options.rounds):
        for key, variant in order if number % 2 == 0 else reversed(order):
            rate = processes[key].measure(variant, options.secs)
            rates[f"{key}:{variant}"].append(rate)
    return rates


def _result(
    row: Row,
    rates: dict[str, list[float]],
    skipped: dict[str, str],
    versions: dict[str, dict[str, str]],
) -> Result:
    result = Result(row, rates.get(row.ours, []))
    for name in (row.ours, *row.peers):
        if name in skipped:
            result.notes.append(f"{WORKERS[name.split(':')[0]].label} skipped: {skipped[name]}")
    present = [name for name in row.peers if name in rates]
    if present:
        best = max(present, key=lambda name: statistics.median(rates[name]))
        result.peer = WORKERS[best.split(":")[0]].label
        result.theirs = rates[best]
    labels = {WORKERS[name.split(":")[0]].label for name in (row.ours, *row.peers)}
    result.versions = {label: v for label, v in versions.items() if label in labels}
    return result


def _environment(options: Options) -> dict[str, str]:
    """One thread everywhere, and this repository importable."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment[name] = "1"
    environment["JAX_PLATFORMS"] = "cpu"
    if options.cache is not None:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(options.cache)
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
    return environment

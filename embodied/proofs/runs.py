"""Training runs of a proof: many arms and seeds, a few processes, resumable."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from rich.progress import Progress

from embodied import assemble, settings
from embodied.collection import MADE, made_dataset
from embodied.core.log import read_log
from embodied.core.types import UserError
from embodied.data import DatasetError
from embodied.report.page import Section
from envs import EnvsError

KEEP = ("report=false", "trainer.tensorboard=false", "trainer.checkpoint_every=0", "trainer.keep=1")


Experiment: TypeAlias = Callable[[int, int], list[Section]]
"""(seeds, processes) -> the sections of the page it decides."""


class Unfinished(Exception):
    """Runs are missing and none may be started."""


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        directory: where it lives.
        overrides: settings as on the command line.
    """

    directory: Path
    overrides: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        """The overrides of the run, its directory included."""
        return [*self.overrides, *KEEP, f"run={self.directory}"]

    @property
    def done(self) -> bool:
        """Whether it has run to its end, with these settings."""
        if not (self.directory / "log.jsonl").exists():
            return False
        if assemble.read_run(self.directory)[0]["overrides"] != self.command:
            return False
        events = read_log(self.directory)
        return bool(events) and events[-1]["phase"] == "done"


def run_all(jobs: Sequence[Job], processes: int, title: str) -> None:
    """Run what is not done yet, with a bar and an ETA.

    Args:
        jobs: the runs.
        processes: runs at a time; 0 starts none.
        title: of the bar.

    Raises:
        Unfinished: something is not done and `processes` is 0.
        UserError: a run failed; the others are kept.
    """
    waiting = [job for job in dict.fromkeys(jobs) if not job.done]
    if not waiting:
        return
    if processes == 0:
        raise Unfinished(title)
    for job in waiting:  # here, because one process alone may write a dataset
        composed = settings.compose(job.overrides)
        if composed.train.data in MADE:
            made_dataset(composed)
    context = multiprocessing.get_context("spawn")
    with Progress() as progress, context.Pool(min(processes, len(waiting))) as pool:
        task = progress.add_task(title, total=len(waiting))
        failures = []
        for job, problem in pool.imap_unordered(_run, waiting):
            progress.advance(task)
            if problem:
                failures.append(f"{job.directory}: {problem}")
    if failures:
        raise UserError("runs failed:\n" + "\n".join(failures))


def _run(job: Job) -> tuple[Job, str]:
    """Train one job in this process; returns what went wrong, if anything."""
    if job.directory.exists():
        shutil.rmtree(job.directory)
    try:
        composed = settings.compose(job.command)
        run = assemble.build(composed)
        with closing(run.trainer):
            assemble.begin(run)
            run.trainer.run()
    except (UserError, DatasetError, EnvsError) as error:
        return job, str(error)
    return job, ""


def evaluations(directory: Path, phase: str | None = None) -> list[dict[str, Any]]:
    """Evaluation lines of a run, or those of one phase."""
    events = read_log(directory, "evaluation")
    return [e for e in events if phase is None or e["of"] == phase]


def curve(directory: Path, metric: str = "eval/success") -> np.ndarray:
    """[n, 2] of (environment steps, metric) over all evaluations that have the metric."""
    points = [
        (e["counters"]["env_steps"], e["metrics"][metric])
        for e in evaluations(directory)
        if metric in e["metrics"]
    ]
    return np.array(points, float).reshape(-1, 2)


def final(directory: Path, metric: str = "eval/success") -> float:
    """The last value of a metric."""
    return float(curve(directory, metric)[-1, 1])


def steps_to(job: Job, level: float) -> float:
    """Environment steps until an evaluation reaches this success; infinite if none does."""
    points = curve(job.directory)
    reached = points[points[:, 1] >= level, 0]
    return float(reached[0]) if len(reached) else np.inf

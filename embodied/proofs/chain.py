"""Runs on running sums modulo 5 from the base of the tiny suite: what several proofs share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from embodied.data import tiny
from embodied.proofs import RUNS
from embodied.proofs.runs import Job, evaluations, run_all
from embodied.report.files import write_text

ROOT = RUNS / "chain"
QUESTIONS = 1024
DEVIATION = 0.016  # binomial, of one evaluation, at most


def job(arm: str, seed: int, length: int, *overrides: str) -> Job:
    """A run on problems of so many digits, from the base model.

    Args:
        arm: names it.
        seed: of the run.
        length: digits of a problem.
        overrides: further settings.
    """
    name = "".join(c if c.isalnum() else "-" for c in arm.lower())
    common = (
        "task=chain",
        f"task_args.length={length}",
        f"evaluation.episodes={QUESTIONS}",
        "trainer.log_every=10",
        f"seed={seed}",
    )
    return Job(ROOT / f"{name}-{seed}", (*common, *overrides))


def success(jobs: list[Job], processes: int, title: str) -> np.ndarray:
    """Success at the end of each run, all of them done first: [seeds]."""
    run_all(jobs, processes, title)
    return np.array([evaluations(each.directory)[-1]["metrics"]["eval/success"] for each in jobs])


def base(length: int, processes: int, *overrides: str) -> float:
    """Success of the base model: a run that changes nothing."""
    still = ("method=sft", "method.updates=1", "method.lr=0", *overrides)
    return float(success([job(f"base-{length}", 0, length, *still)], processes, "base")[0])


def demonstrations(count: int, seed: int, length: int) -> Path:
    """A file of problems with their right answers, written if it is not there."""
    path = ROOT / "data" / f"right-{length}-{count}-{seed}.jsonl"
    task, rng = tiny.Chain(), np.random.default_rng([seed, length, count])
    if not path.exists():
        rows = [
            {"prompt": prompt, "completion": task.attempt(prompt, rng).removesuffix(tiny.END)}
            for prompt in task.problems(count, rng, length)
        ]
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(arm: str, rates: np.ndarray) -> list[str]:
    """A line of a table: name, mean, each seed."""
    return [arm, f"{np.mean(rates):.3f}", ", ".join(f"{rate:.3f}" for rate in rates)]

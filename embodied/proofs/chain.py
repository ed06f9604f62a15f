"""Runs on running sums modulo 5 from the base of the tiny suite: what several proofs share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from embodied.data import tiny
from embodied.proofs import RUNS
from embodied.proofs.runs import Job, evaluations, run_all
from embodied.report.files import write_text

ROOT = RUNS / "chain"
QUESTIONS = 1024
DEVIATION = 0.016  # binomial, of one evaluation, at most


def successes(
    arms: Mapping[str, Sequence[str]],
    seeds: int,
    length: int,
    processes: int,
    *,
    title: str,
    right: int = 0,
) -> dict[str, np.ndarray]:
    """Success at the end of the runs of each arm, by seed; runs that are not done are done first.

    Args:
        arms: settings, by name.
        seeds: runs of each.
        length: digits of a problem.
        processes: at once.
        title: with the arm's name, names the runs.
        right: right answers in a file of data, another one for each seed; 0 gives none.
    """
    found = {}
    for arm, settings in arms.items():
        name = "".join(c if c.isalnum() else "-" for c in f"{title} {arm}".lower())
        jobs = []
        for seed in range(seeds):
            data = [f"data={demonstrations(right, seed, length)}"] if right else []
            common = (
                "task=chain",
                f"task_args.length={length}",
                f"evaluation.episodes={QUESTIONS}",
                "trainer.log_every=10",
                f"seed={seed}",
            )
            jobs.append(Job(ROOT / f"{name}-{seed}", (*common, *settings, *data)))
        run_all(jobs, processes, arm)
        last = [evaluations(each.directory)[-1]["metrics"]["eval/success"] for each in jobs]
        found[arm] = np.array(last)
    return found


def base(length: int, processes: int, *overrides: str) -> float:
    """Success of the base model: a run that changes nothing."""
    still = ("method=sft", "method.updates=1", "method.lr=0", *overrides)
    return float(successes({"base": still}, 1, length, processes, title=f"{length}")["base"][0])


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


def table(base: float, found: Mapping[str, np.ndarray]) -> list[list[str]]:
    """Lines of a table: name, mean, each seed; the base first."""
    rows = [
        [arm, f"{np.mean(rates):.3f}", ", ".join(f"{rate:.3f}" for rate in rates)]
        for arm, rates in found.items()
    ]
    return [["base", f"{base:.3f}", ""], *rows]

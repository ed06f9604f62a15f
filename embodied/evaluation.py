"""`embodied eval`: the policy of a run on fixed initial states of one task or a whole suite.

The ledger is the same whatever the number of workers: every episode begins from a state that its
seed alone determines, and the policy sees one observation at a time on one thread, because the sums
inside a matrix product depend on how many rows it has.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress, TimeRemainingColumn

import envs
from embodied import assemble
from embodied.core.checkpoint import Checkpoints
from embodied.core.evaluate import Episode, Evaluation, Evaluator
from embodied.core.types import UserError
from embodied.datasets import make_env
from embodied.loading import load_policy
from embodied.report.files import write_text
from embodied.report.ledger import Ledger, compare, write_page
from embodied.settings import take

SCHEMA = 1


@dataclass(frozen=True)
class SuiteEvaluation(Evaluation):
    """The evaluations of several tasks, one list of initial states each, and all of them together.

    Attributes:
        tasks: by environment id.
        head: circumstances: what was evaluated, where, with which versions and seeds.
    """

    tasks: dict[str, Evaluation]
    head: dict[str, Any]


class _Runner:
    """Evaluates single episodes; one lives in each worker."""

    def __init__(self, run: Path, tasks: Mapping[str, dict[str, Any]], n: int, seed: int) -> None:
        torch.set_num_threads(1)
        self.policy, _ = load_policy(run)
        self.tasks, self.n, self.seed = tasks, n, seed
        self._task, self._evaluator = "", None

    def __call__(self, task: str, index: int) -> tuple[Episode, np.ndarray]:
        if task != self._task:
            if self._evaluator is not None:
                self._evaluator.env.close()
            env = make_env(task, self.tasks[task])
            self._task, self._evaluator = task, Evaluator(env, self.n, self.seed)
        result = self._evaluator(self.policy, [index])
        return result.episodes[0], result.actions[0]


def _begin(*arguments: Any) -> None:
    global _runner
    _runner = _Runner(*arguments)


def _episode(job: tuple[str, int]) -> tuple[tuple[str, int], tuple[Episode, np.ndarray]]:
    return job, _runner(*job)


def evaluate(
    run: str | Path,
    episodes: int = 50,
    seed: int = 0,
    *,
    suite: str | None = None,
    workers: int = 1,
) -> tuple[SuiteEvaluation, Path]:
    """Evaluate the policy of a run and write ledger and page into its directory.

    Args:
        run: run directory.
        episodes: how many initial states per task.
        seed: chooses them.
        suite: a suite (`envs.suite` lists them) or an environment id; the run's own task if None.
        workers: processes; the ledger does not depend on it.

    Returns:
        The evaluation, and where its ledger lies: one JSON line of circumstances, then one per
        episode. The page lies beside it.
    """
    for name, value in (("episodes", episodes), ("workers", workers)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    run = Path(run)
    tasks = _tasks(run, suite)
    jobs = [(task, index) for task in tasks for index in range(episodes)]
    done = {}
    with Progress(*Progress.get_default_columns()[:3], TimeRemainingColumn()) as progress:
        bar = progress.add_task("evaluating", total=len(jobs))
        for job, result in _run(jobs, min(workers, len(jobs)), (run, tasks, episodes, seed)):
            done[job] = result
            progress.advance(bar)
    results = {
        task: Evaluation(*map(list, zip(*(done[task, i] for i in range(episodes)), strict=True)))
        for task in tasks
    }
    result = SuiteEvaluation(
        [episode for one in results.values() for episode in one.episodes],
        [actions for one in results.values() for actions in one.actions],
        results,
        _head(run, suite, tasks, results, episodes, seed),
    )
    name = "" if suite is None else f"-{suite.replace('/', '-')}"
    path = run / f"ledger{name}-{episodes}-seed{seed}.jsonl"
    rows = [{"task": t, **asdict(e)} for t, one in results.items() for e in one.episodes]
    write_text(path, "".join(json.dumps(line) + "\n" for line in (result.head, *rows)))
    write_page(Ledger.read(path))
    return result, path


def _tasks(run: Path, suite: str | None) -> dict[str, dict[str, Any]]:
    """The tasks of a suite with the options the run was trained under, where they apply."""
    about, _ = assemble.read_run(run)
    own = about["env"]
    if suite is None:
        return {own: about["env_args"]}
    names = [suite] if suite in envs.tasks() else envs.suite(suite)
    family = own.split("/")[0]
    return {name: about["env_args"] if name.split("/")[0] == family else {} for name in names}


def _run(jobs: Sequence[tuple[str, int]], workers: int, arguments: tuple[Any, ...]) -> Iterator:
    """Every job and its result, in any order."""
    if workers == 1:
        runner = _Runner(*arguments)
        yield from ((job, runner(*job)) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, _begin, arguments) as pool:
        yield from pool.imap_unordered(_episode, jobs, chunksize=max(1, len(jobs) // workers // 4))


def _head(
    run: Path,
    suite: str | None,
    tasks: Mapping[str, dict[str, Any]],
    results: Mapping[str, Evaluation],
    episodes: int,
    seed: int,
) -> dict[str, Any]:
    described = {}
    for task, args in tasks.items():
        with closing(make_env(task, args)) as env:
            states = "".join(episode.initial_state for episode in results[task].episodes)
            about = envs.describe(env)
            described[task] = {
                "env_args": args,
                "versions": about["versions"],
                "env_hash": about["hash"],
                "look": about["look"],
                "initial_states": hashlib.sha256(states.encode()).hexdigest()[:16],
            }
    _, parts = Checkpoints(run / "checkpoints").load()
    counters = parts["trainer"]["counters"]
    return {
        "schema": SCHEMA,
        "suite": suite,
        "tasks": described,
        "episodes": episodes,
        "seed": seed,
        "policy": {"run": run.name, **{k: counters[k] for k in ("env_steps", "updates")}},
        "versions": assemble.versions(),
        "renderer": os.environ.get("MUJOCO_GL", "default"),
    }


def command(overrides: Sequence[str], pair: Sequence[str] | None = None) -> int:
    """Evaluate and print success with its interval, or compare two ledgers."""
    if pair:
        verdict = compare(*map(Ledger.read, map(Path, pair)))
        print(verdict.text)
        return 0 if verdict.comparable else 1
    run, rest = take(overrides, "policy")
    if not run:
        raise UserError("say which policy: embodied eval policy=RUN")
    suite, rest = take(rest, "suite")
    options = {"episodes": 50, "seed": 0, "workers": 1}
    for override in rest:
        key, _, value = override.partition("=")
        if key not in options or not value.isdecimal():
            raise UserError(
                "embodied eval takes suite=NAME, episodes=N, seed=N and workers=N, "
                f"not {override!r}"
            )
        options[key] = int(value)
    result, path = evaluate(run, suite=suite, **options)
    for task, one in result.tasks.items() if len(result.tasks) > 1 else ():
        print(f"{task}: {_line(one)}")
    print(_line(result))
    print(f"ledger: {path}\npage: {path.with_suffix('.html')}")
    return 0


def _line(result: Evaluation) -> str:
    low, high = result.interval
    return (
        f"success {result.successes}/{len(result.episodes)} = {result.success:.1%} "
        f"(95 % interval {low:.1%} to {high:.1%}), mean return {result.mean_return:.2f}"
    )

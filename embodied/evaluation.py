"""`embodied eval`: any policy on fixed initial states of one task or a whole suite.

The ledger is the same whatever the number of workers and of episodes in flight: every episode
begins from a state that its seed alone determines, and a local policy sees one observation at a
time on one thread, because the sums inside a matrix product depend on how many rows it has.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import envs
from embodied import assemble
from embodied.actors import is_run
from embodied.core.evaluate import Episode, Evaluation
from embodied.core.types import UserError
from embodied.datasets import make_env, task_ids
from embodied.jobs import in_order
from embodied.player import Player
from embodied.progress import bar
from embodied.recorder import MakeEnv
from embodied.report.files import write_text
from embodied.report.ledger import SCHEMA, Ledger, compare
from embodied.report.ledger_page import write_page
from embodied.settings import free_arguments, take
from embodied.videos import record_episodes

DIRECTORY = Path("runs") / "evaluations"  # of policies that are no run of ours


@dataclass(frozen=True)
class SuiteEvaluation(Evaluation):
    """The evaluations of several tasks, one list of initial states each, and all of them together.

    Attributes:
        tasks: by environment id.
        head: circumstances: what was evaluated, where, with which versions and seeds.
    """

    tasks: dict[str, Evaluation]
    head: dict[str, Any]

    @classmethod
    def of(cls, tasks: dict[str, Evaluation], head: dict[str, Any]) -> SuiteEvaluation:
        """All tasks together."""
        episodes = [episode for one in tasks.values() for episode in one.episodes]
        return cls(episodes, [a for one in tasks.values() for a in one.actions], tasks, head)


def evaluate(
    policy: str | Path,
    episodes: int = 50,
    seed: int = 0,
    *,
    suite: str | None = None,
    env_args: Mapping[str, Any] | None = None,
    workers: int = 1,
    batch: int = 1,
    videos: int | str = 0,
    out: str | Path | None = None,
    timeout: float = 60.0,
    make: MakeEnv = make_env,
) -> tuple[SuiteEvaluation, Path]:
    """Evaluate a policy and write ledger and page.

    Args:
        policy: a run directory, "scripted", "play", "random" or a websocket address.
        episodes: how many initial states per task.
        seed: chooses them.
        suite: a suite (`envs.suite` lists them) or an environment id; a run's own task if None.
        env_args: options of the environments, over those of the run and of the suite's protocol.
        workers: processes; the ledger does not depend on it.
        batch: episodes in flight in each of them, which a server is asked about in one message;
            the ledger does not depend on it either.
        videos: of how many episodes of each task, or "failures": the first lost ones of each.
        out: directory of ledger and page; by default that of the run, else `runs/evaluations`.
        timeout: seconds a policy server may take to answer.
        make: makes an environment from id and options; for environments that are not registered.

    Returns:
        The evaluation, and where its ledger lies: one JSON line of circumstances, then one per
        episode. The page lies beside it.
    """
    for name, value in (("episodes", episodes), ("workers", workers), ("batch", batch)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    tasks = _tasks(policy, suite, env_args or {})
    runner = Player(policy, tasks, episodes, seed, timeout, make)
    groups = [tuple(range(i, min(i + batch, episodes))) for i in range(0, episodes, batch)]
    jobs = [(task, group) for task in tasks for group in groups]
    played: dict[str, list[tuple[Episode, np.ndarray]]] = {task: [] for task in tasks}
    about: dict[str, dict[str, Any]] = {}
    won = 0
    with bar("evaluating", len(tasks) * episodes) as advance:
        for (task, group), answer in in_order(runner, jobs, min(workers, len(jobs))):
            played[task] += answer["results"]
            about[task] = answer
            won += sum(episode.success for episode, _ in answer["results"])
            count = sum(map(len, played.values()))
            advance(len(group), f"evaluating, {won / count:.0%} successful")
    results = {task: Evaluation(*map(list, zip(*p, strict=True))) for task, p in played.items()}
    head = _head(suite, tasks, results, about, episodes, seed)
    result = SuiteEvaluation.of(results, head)
    path = ledger_path(policy, suite, out, f"{episodes}-seed{seed}")
    write_ledger(path, result)
    notes = record_episodes(path.with_suffix(".videos"), results, videos, tasks, workers, make)
    write_page(Ledger.read(path), notes)
    return result, path


def _tasks(
    policy: str | Path, suite: str | None, given: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The tasks, each with its options: those given, over those the run was trained under (where
    they apply), over those of the benchmark's protocol."""
    own, trained = None, {}
    if is_run(policy):
        about, _ = assemble.read_run(policy)
        own, trained = about["env"], about["env_args"]
    if suite is None and own is None:
        raise UserError(f"say on which tasks: embodied eval policy={policy} suite=NAME_OR_TASK")
    family = (own or "").split("/")[0]
    return {
        task: {
            **envs.protocol(task),
            **(trained if task.split("/")[0] == family else {}),
            **given,
        }
        for task in task_ids(suite or own)
    }


def write_ledger(path: Path, result: SuiteEvaluation) -> None:
    """One JSON line of circumstances, then one per episode."""
    rows = [{"task": t, **e.record()} for t, one in result.tasks.items() for e in one.episodes]
    write_text(path, "".join(json.dumps(line) + "\n" for line in (result.head, *rows)))


def ledger_path(policy: str | Path, suite: str | None, out: str | Path | None, rest: str) -> Path:
    """Where a ledger lies: with the run, or where `out` says."""
    name = "" if suite is None else f"-{suite.replace('/', '-')}"
    if is_run(policy):
        return Path(out or policy) / f"ledger{name}-{rest}.jsonl"
    slug = re.sub(r"[^\w.]+", "-", str(policy)).strip("-")
    return Path(out or DIRECTORY) / f"{slug}{name}-{rest}.jsonl"


def _head(
    suite: str | None,
    tasks: Mapping[str, Mapping[str, Any]],
    results: Mapping[str, Evaluation],
    about: Mapping[str, Mapping[str, Any]],
    episodes: int,
    seed: int,
) -> dict[str, Any]:
    described = {}
    for task, args in tasks.items():
        states = "".join(episode.initial_state for episode in results[task].episodes)
        described[task] = {
            "instruction": about[task]["instruction"],
            "env_args": args,
            "versions": about[task]["env"]["versions"],
            "env_hash": about[task]["env"]["hash"],
            "look": about[task]["env"]["look"],
            "initial_states": hashlib.sha256(states.encode()).hexdigest()[:16],
        }
    renderers = [one["renderer"] for one in about.values()]
    return {
        "schema": SCHEMA,
        "suite": suite,
        "tasks": described,
        "episodes": episodes,
        "seed": seed,
        "policy": next(iter(about.values()))["policy"],
        "versions": assemble.versions(),
        "renderer": next((r for r in renderers if r != "none"), "none"),
    }


def command(overrides: Sequence[str], pair: Sequence[str] | None = None) -> int:
    """Evaluate and print success with its interval, or compare two ledgers."""
    if pair:
        verdict = compare(*map(Ledger.read, map(Path, pair)))
        print(verdict.text)
        return 0 if verdict.comparable else 1
    policy, rest = take(overrides, "policy")
    if not policy:
        raise UserError(
            "say which policy: embodied eval policy=RUN (or scripted, random, ws://...)"
        )
    from embodied import exam  # which writes its ledger and page as here

    if exam.is_language_run(policy):
        return exam.command(policy, rest)
    suite, rest = take(rest, "suite")
    env, rest = take(rest, "env")
    out, rest = take(rest, "out")
    videos, rest = take(rest, "videos")
    env_args, rest = free_arguments(rest, "env_args")
    options = {"episodes": 50, "seed": 0, "workers": 1, "batch": 1, "timeout": 60}
    for override in rest:
        key, _, value = override.partition("=")
        if key not in options or not value.isdecimal():
            raise UserError(
                "embodied eval takes suite=NAME_OR_TASK, env_args.KEY=VALUE, episodes=N, seed=N, "
                f"workers=N, batch=N, videos=N, timeout=SECONDS and out=DIRECTORY, not {override!r}"
            )
        options[key] = int(value)
    if videos is not None and not (videos == "failures" or videos.isdecimal()):
        raise UserError(f"videos={videos}: say how many of each task, or failures")
    result, path = evaluate(
        policy,
        suite=suite or env,
        env_args=env_args,
        out=out,
        videos=int(videos or 0) if videos != "failures" else videos,
        **options,
    )
    for task, one in result.tasks.items() if len(result.tasks) > 1 else ():
        print(f"{task}: {summary(one)}")
    print(summary(result))
    print(f"ledger: {path}\npage: {path.with_suffix('.html')}")
    return 0


def summary(result: Evaluation) -> str:
    """Success with its interval, in a line."""
    low, high = result.interval
    return (
        f"success {result.successes}/{len(result.episodes)} = {result.success:.1%} "
        f"(95 % interval {low:.1%} to {high:.1%}), mean return {result.mean_return:.2f}"
    )

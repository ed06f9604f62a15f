"""`embodied eval`: the policy of a run on a fixed list of initial states."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import torch

import envs
from embodied import assemble
from embodied.core import registry
from embodied.core.checkpoint import Checkpoints
from embodied.core.evaluate import Evaluation, Evaluator
from embodied.core.scaling import ObservationScaling, ScaledPolicy
from embodied.core.task import RobotTask
from embodied.core.types import Learner, Policy, UserError
from embodied.datasets import make_env
from embodied.settings import Settings, compose, take


def load_learner(
    run: str | Path, *, read_data: bool = False
) -> tuple[Learner, RobotTask, Settings]:
    """The learner a run ended with (or has so far), rebuilt from its newest checkpoint.

    Args:
        run: run directory.
        read_data: also open the run's offline data, which otherwise need not be there.

    Returns:
        The learner of the last phase, the task it was built for, and the run's settings.
    """
    about, _ = assemble.read_run(run)
    settings = compose(about["overrides"])
    alone = dataclasses.replace(settings.train, num_envs=1, vector="sync")
    task, _ = assemble.build_task(dataclasses.replace(settings, train=alone), read_data=read_data)
    recipe = registry.get(settings.method_id).recipe(settings.method, task)
    _, parts = Checkpoints(Path(run) / "checkpoints").load()
    # a phase that is next but not entered has not been handed its learner yet
    reached = parts["trainer"]["phase_index"] - (not parts["trainer"]["entered"])
    learner = recipe[max(reached, 0)].learner
    name = next(name for name, part in recipe.parts() if part is learner)
    learner.load_state_dict(parts[name])
    return learner, task, settings


def load_policy(run: str | Path, *, deterministic: bool = True) -> tuple[Policy, Settings]:
    """The policy of a run, for raw observations.

    Args:
        run: run directory.
        deterministic: the mode of the policy; else it samples.
    """
    learner, _, settings = load_learner(run)
    policy = learner.policy(deterministic=deterministic)
    about, _ = assemble.read_run(run)
    if about["observation_scaling"] is not None:
        policy = ScaledPolicy(policy, ObservationScaling.read(about["observation_scaling"]))
    return policy, settings


def evaluate(run: str | Path, episodes: int = 50, seed: int = 0) -> tuple[Evaluation, Path]:
    """Evaluate the policy of a run and write the ledger into its directory.

    Args:
        run: run directory.
        episodes: how many initial states.
        seed: chooses them.

    Returns:
        The evaluation, and where its ledger lies: one JSON line of circumstances, then one per
        episode.
    """
    if episodes < 1:
        raise UserError(f"episodes must be at least 1, got {episodes}")
    policy, settings = load_policy(run)
    train = settings.train
    threads, _ = assemble.threads_for(train.threads, assemble.device_for(train.device))
    torch.set_num_threads(threads)
    env = make_env(train.env, train.env_args)
    result = Evaluator(env, episodes, seed)(policy)
    head = {
        "env": train.env,
        "env_args": train.env_args,
        "env_hash": envs.describe(env)["hash"],
        "versions": assemble.versions(),
        "episodes": episodes,
        "seed": seed,
    }
    path = Path(run) / f"ledger-{episodes}-seed{seed}.jsonl"
    lines = [json.dumps(line) + "\n" for line in (head, *result.ledger())]
    path.write_text("".join(lines), encoding="utf-8")
    return result, path


def command(overrides: Sequence[str]) -> int:
    """Evaluate and print the success rate with its interval."""
    run, rest = take(overrides, "policy")
    if not run:
        raise UserError("say which policy: embodied eval policy=RUN")
    options = {"episodes": 50, "seed": 0}
    for override in rest:
        key, _, value = override.partition("=")
        if key not in options or not value.isdecimal():
            raise UserError(f"embodied eval takes episodes=N and seed=N, not {override!r}")
        options[key] = int(value)
    result, path = evaluate(run, **options)
    low, high = result.interval
    print(
        f"success {result.successes}/{len(result.episodes)} = {result.success:.1%} "
        f"(95 % interval {low:.1%} to {high:.1%}), mean return {result.mean_return:.2f}"
    )
    print(f"ledger: {path}")
    return 0

"""`embodied eval`: the policy of a run on a fixed list of initial states."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import envs
from embodied import assemble
from embodied.core import registry
from embodied.core.checkpoint import Checkpoints
from embodied.core.evaluate import Evaluation, Evaluator
from embodied.core.scaling import ScaledPolicy
from embodied.core.task import RobotTask
from embodied.core.types import Learner, Policy, UserError
from embodied.settings import Settings, compose


def load_learner(run: str | Path) -> tuple[Learner, RobotTask, Settings]:
    """The learner a run ended with (or has so far), rebuilt from its newest checkpoint.

    Args:
        run: run directory.

    Returns:
        The learner of the last phase, the task it was built for, and the run's settings.
    """
    about, _ = assemble.read_run(run)
    settings = compose(about["overrides"])
    task, _ = assemble.build_task(settings)
    recipe = registry.get(settings.method_id).recipe(settings.method, task)
    learner = recipe.phases[-1].learner
    name = next(name for name, part in recipe.parts() if part is learner)
    _, parts = Checkpoints(Path(run) / "checkpoints").load()
    learner.load_state_dict(parts[name])
    return learner, task, settings


def load_policy(run: str | Path, *, deterministic: bool = True) -> tuple[Policy, Settings]:
    """The policy of a run, for raw observations.

    Args:
        run: run directory.
        deterministic: the mode of the policy; else it samples.
    """
    learner, task, settings = load_learner(run)
    policy = learner.policy(deterministic=deterministic)
    if task.collector.scaling is not None:
        policy = ScaledPolicy(policy, task.collector.scaling)
    return policy, settings


def command(run: str | None, overrides: Sequence[str]) -> int:
    """Evaluate, print the success rate with its interval, write the ledger into the run."""
    if run is None:
        raise UserError("say which policy: embodied eval policy=RUN")
    options = {"episodes": 50, "seed": 0}
    for override in overrides:
        key, _, value = override.partition("=")
        if key not in options or not value.isdigit():
            raise UserError(f"embodied eval takes episodes=N and seed=N, not {override!r}")
        options[key] = int(value)
    policy, settings = load_policy(run)
    about, _ = assemble.read_run(run)
    train = settings.train
    env = envs.make(train.env, **train.env_args)
    result = Evaluator(env, options["episodes"], options["seed"])(policy)
    path = _write_ledger(Path(run), result, about, options)
    low, high = result.interval
    print(
        f"success {result.successes}/{len(result.episodes)} = {result.success:.1%} "
        f"(95 % interval {low:.1%} to {high:.1%}), mean return {result.mean_return:.2f}"
    )
    print(f"ledger: {path}")
    return 0


def _write_ledger(run: Path, result: Evaluation, about: dict, options: dict) -> Path:
    """One JSON line of circumstances, then one per episode."""
    path = run / f"ledger-{options['episodes']}-seed{options['seed']}.jsonl"
    head = {k: about[k] for k in ("env", "env_args", "env_hash", "versions")} | options
    lines = [head, *result.ledger()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path

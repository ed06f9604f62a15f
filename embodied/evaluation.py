"""`embodied eval`: the policy of a run on a fixed list of initial states."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import envs
from embodied import assemble
from embodied.core.checkpoint import Checkpoints
from embodied.core.evaluate import Evaluation, Evaluator
from embodied.core.types import Policy, UserError
from embodied.settings import compose


def load_policy(run: str | Path) -> tuple[Policy, assemble.Run]:
    """The deterministic policy a run ended with (or has so far).

    Args:
        run: run directory.

    Returns:
        The policy, and the run it was rebuilt from.
    """
    about, _ = assemble.read_run(run)
    settings = compose([*about["overrides"], f"run={run}", "trainer.tensorboard=false"])
    built = assemble.build(settings)
    _, parts = Checkpoints(Path(run) / "checkpoints").load()
    learner = built.trainer.recipe.phases[-1].learner
    name = next(n for n, part in built.trainer.recipe.parts() if part is learner)
    learner.load_state_dict(parts[name])
    return learner.policy(deterministic=True), built


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
    policy, built = load_policy(run)
    train = built.settings.train
    env = envs.make(train.env, **train.env_args)
    result = Evaluator(env, options["episodes"], options["seed"])(policy)
    path = _write_ledger(Path(run), result, built.about, options)
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

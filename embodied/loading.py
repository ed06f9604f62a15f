"""What a run has learnt, rebuilt from its newest checkpoint."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embodied import assemble
from embodied.agents.task import RobotTask
from embodied.core import registry
from embodied.core.checkpoint import Checkpoints
from embodied.core.scaling import ObservationScaling, ScaledPolicy
from embodied.core.types import Learner, Policy
from embodied.llm.task import TextTask
from embodied.settings import Settings, compose


@dataclass(frozen=True)
class Learnt:
    """What a run ended with, or has so far.

    Attributes:
        learner: the learner of the last phase.
        task: the task it was built for.
        settings: of the run.
        counters: how far training was.
        scaling: of observations, as JSON; None if there is none.
    """

    learner: Learner
    task: RobotTask | TextTask
    settings: Settings
    counters: dict[str, Any]
    scaling: dict[str, Any] | None

    def policy(self, *, deterministic: bool = True) -> Policy:
        """The policy for raw observations: its mode, or else samples."""
        policy = self.learner.policy(deterministic=deterministic)
        if self.scaling is None:
            return policy
        return ScaledPolicy(policy, ObservationScaling.read(self.scaling))


def load(run: str | Path, *, read_data: bool = False) -> Learnt:
    """What a run has learnt.

    Args:
        run: run directory.
        read_data: also open the run's offline data, which otherwise need not be there.
    """
    about, _ = assemble.read_run(run)
    settings = compose(about["overrides"])
    alone = dataclasses.replace(settings.train, num_envs=1, vector="sync")
    method, made = registry.get(about["method"]), dataclasses.replace(settings, train=alone)
    if method.kind == "text":
        from embodied import text

        task, _, _ = text.build(made, assemble.device_for(alone.device))
    else:
        task, _ = assemble.build_task(made, read_data=read_data)
    recipe = method.recipe(settings.method, task)
    _, parts = Checkpoints(Path(run) / "checkpoints").load()
    # a phase that is next but not entered has not been handed its learner yet
    reached = parts["trainer"]["phase_index"] - (not parts["trainer"]["entered"])
    learner = recipe[max(reached, 0)].learner
    name = next(name for name, part in recipe.parts() if part is learner)
    learner.load_state_dict(parts[name])
    counters = parts["trainer"]["counters"]
    return Learnt(learner, task, settings, counters, about["observation_scaling"])


def load_policy(run: str | Path, *, deterministic: bool = True) -> tuple[Policy, Settings]:
    """The policy of a run, for raw observations, and the run's settings."""
    learnt = load(run)
    return learnt.policy(deterministic=deterministic), learnt.settings

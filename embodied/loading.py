"""What a run has learnt, rebuilt from its newest checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from embodied import assemble
from embodied.core import registry
from embodied.core.checkpoint import Checkpoints
from embodied.core.scaling import ObservationScaling, ScaledPolicy
from embodied.core.task import RobotTask
from embodied.core.types import Learner, Policy
from embodied.settings import Settings, compose


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

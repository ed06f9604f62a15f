"""What SAC and RLPD share: some steps without updates, then online training of a fresh agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from embodied.agents.actor_critic import ActorCritic, ActorCriticConfig
from embodied.agents.task import RobotTask
from embodied.core.phase import Phase, Recipe, Until
from embodied.core.trainer import Trainer
from embodied.core.types import Policy, Source


@dataclass(frozen=True, kw_only=True)
class FromScratchConfig(ActorCriticConfig):
    """How long, and from which buffer.

    Attributes:
        online_steps: environment steps, the first random ones included.
        random_steps: steps before the first update (5000 in REDQ and RLPD, 10000 in SAC).
        capacity: rows of the replay buffer.
        eval_every: environment steps between evaluations; 0 evaluates at phase ends only.
    """

    online_steps: int = 100_000
    random_steps: int = 5_000
    capacity: int = 1_000_000
    eval_every: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.online_steps <= self.random_steps:
            raise ValueError(
                f"online_steps ({self.online_steps}) includes the random steps and must exceed "
                f"random_steps ({self.random_steps})"
            )


def from_scratch(
    config: FromScratchConfig,
    task: RobotTask,
    learner: ActorCritic,
    source: Source,
    *,
    first: Policy | None,
    on_enter: Callable[[Trainer], None] | None = None,
) -> Recipe:
    """Random phase, then online phase.

    Args:
        config: lengths.
        task: environments.
        learner: what is trained.
        source: where new experience goes and batches come from.
        first: who acts in the random phase; the learner's own policy if None.
        on_enter: called as each phase begins.
    """
    collector = task.environments()
    random = Phase(
        "random",
        learner,
        source,
        Until("env_steps", config.random_steps),
        collector=collector,
        updates_per_step=Fraction(0),
        policy=first,
        on_enter=on_enter,
        eval_at_end=False,
    )
    online = Phase(
        "online",
        learner,
        source,
        Until("env_steps", config.online_steps - config.random_steps),
        collector=collector,
        start_rows=1,
        on_enter=on_enter,
        eval_every=config.eval_every,
    )
    return Recipe([random, online] if config.random_steps else [online])

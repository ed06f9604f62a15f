"""What CQL, Cal-QL and IQL share: offline updates, then fine-tuning with or without the data."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from embodied.agents.task import RobotTask
from embodied.core.checkpoint import Checkpoints
from embodied.core.phase import Phase, Recipe, Until
from embodied.core.sources import MixSource
from embodied.core.trainer import Trainer
from embodied.core.types import Learner, State, UserError

PROBE_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class OfflineOnlineConfig:
    """How long each phase lasts and what happens to the data between them.

    Attributes:
        offline_updates: updates on the offline data; 0 skips the phase.
        pretrained: a run to take the learner from after its offline phase, instead of training it.
        online_steps: environment steps of fine-tuning afterwards; 0 stops after the offline phase.
        online_utd: updates per environment step while fine-tuning.
        offline_ratio: share of offline rows in online batches; 0 retains nothing, -1 takes the
            share the offline data has of all rows (as if it had been appended to the buffer).
        capacity: rows of the replay buffer.
        wait_steps: environment steps collected before the first online update.
        eval_every: environment steps between evaluations online; 0 evaluates at phase ends only.
    """

    offline_updates: int = 250_000
    pretrained: str | None = None
    online_steps: int = 0
    online_utd: int = 1
    offline_ratio: float = 0.5
    capacity: int = 1_000_000
    wait_steps: int = 256
    eval_every: int = 0

    def __post_init__(self) -> None:
        if self.offline_ratio != -1 and not 0 <= self.offline_ratio <= 1:
            raise ValueError(f"offline_ratio must be -1 or in [0, 1], got {self.offline_ratio}")
        super_check = getattr(super(), "__post_init__", None)
        if super_check is not None:
            super_check()


def read_pretrained(run: str) -> State:
    """What the offline phase of another run learnt: everything but its random streams."""
    _, parts = Checkpoints(Path(run) / "checkpoints").load()
    if "offline.learner" not in parts:
        raise UserError(f"run {run} has no offline phase to take a pre-trained learner from")
    state = parts["offline.learner"]
    return {k: v for k, v in state.items() if k not in ("noise", "exploration")}


def offline_online(
    config: OfflineOnlineConfig,
    task: RobotTask,
    learner: Learner,
    *,
    returns_discount: float | None = None,
) -> Recipe:
    """Offline phase, then online phase with the same learner and objective.

    Args:
        config: lengths and retention.
        task: environments and data.
        learner: trained in both phases.
        returns_discount: also provide Monte-Carlo returns; online batches then come from finished
            episodes only.
    """
    offline = task.offline(returns_discount)

    def enter_offline(trainer: Trainer) -> None:
        trainer.set_probe("offline", offline.next(PROBE_ROWS))

    phases = []
    if config.offline_updates and config.pretrained is None:
        phases.append(
            Phase(
                "offline",
                learner,
                offline,
                Until("updates", config.offline_updates),
                on_enter=enter_offline,
            )
        )
    if config.online_steps:
        replay = task.replay(min(config.capacity, config.online_steps), returns_discount)
        ratio = None if config.offline_ratio == -1 else config.offline_ratio
        source = MixSource(replay, offline, ratio) if config.offline_ratio else replay

        def enter_online(trainer: Trainer) -> None:
            if config.pretrained is not None:
                enter_offline(trainer)
                learner.load_state_dict(
                    {**learner.state_dict(), **read_pretrained(config.pretrained)}
                )
            if not config.offline_ratio:
                offline.drop()

        phases.append(
            Phase(
                "online",
                learner,
                source,
                Until("env_steps", config.online_steps),
                collector=task.environments(),
                updates_per_step=Fraction(config.online_utd),
                start_after=config.wait_steps,
                start_rows=1,
                on_enter=enter_online,
                eval_every=config.eval_every,
            )
        )
    return Recipe(phases)

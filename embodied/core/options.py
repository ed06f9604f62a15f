"""How a run is kept; none of it changes what is computed."""

from __future__ import annotations

from dataclasses import dataclass, field

from embodied.core.guards import Limits


@dataclass(frozen=True)
class TrainerOptions:
    """Logging, checkpointing and fault limits.

    Attributes:
        log_every: trainer steps between log lines.
        checkpoint_every: trainer steps between checkpoints; 0 saves at phase ends and stops only.
        keep: checkpoints kept.
        tensorboard: write TensorBoard files.
        wandb: W&B project, or None.
        limits: faults survived.
    """

    log_every: int = 500
    checkpoint_every: int = 5000
    keep: int = 2
    tensorboard: bool = True
    wandb: str | None = None
    limits: Limits = field(default_factory=Limits)

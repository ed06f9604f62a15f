"""Finite checks, and what follows when they fail.

`np.clip` and `min`/`max` let NaN through, so finiteness is tested first and explicitly. The checks
sit before the optimizer step: a parameter never takes a non-finite value from a bad batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from embodied.core.types import Batch, Rollout, Source, UserError


class NonFinite(ArithmeticError):
    """A loss, gradient or batch is not finite; the optimizer step it belongs to was not taken."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is not finite")
        self.what = what


class TooManyFaults(UserError):
    """The run stops itself because faults repeat."""

    exit_code = 13


def check_loss(name: str, loss: torch.Tensor) -> None:
    """Raise NonFinite unless a scalar loss is finite. Call before backward."""
    if not math.isfinite(float(loss.detach())):
        raise NonFinite(f"loss {name}")


def check_gradients(name: str, parameters: Iterable[torch.Tensor]) -> torch.Tensor:
    """Raise NonFinite unless the gradient norm is finite. Call before the optimizer step.

    Returns:
        The global gradient norm, a scalar tensor.
    """
    norm = _norm([p.grad for p in parameters if p.grad is not None])
    if not math.isfinite(float(norm)):
        raise NonFinite(f"gradient of {name}")
    return norm


def check_parameters(name: str, parameters: Iterable[torch.Tensor]) -> None:
    """Raise NonFinite unless all parameters are finite.

    A loss does not show them all: a ReLU turns a weight of minus infinity into a plain 0.
    """
    if not math.isfinite(float(_norm([p.detach() for p in parameters]))):
        raise NonFinite(f"parameter of {name}")


def _norm(tensors: list[torch.Tensor]) -> torch.Tensor:
    norms = torch._foreach_norm(tensors)
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))


def check_batch(batch: Mapping[str, torch.Tensor]) -> None:
    """Raise NonFinite if any floating-point column of a batch is not finite, naming it."""
    for name, column in batch.items():
        # The sum is cheap and not finite if any value is not; finite values may overflow it too.
        if (
            column.is_floating_point()
            and not math.isfinite(float(column.sum()))
            and not bool(torch.isfinite(column).all())
        ):
            raise NonFinite(f"batch column {name!r}")


def bad_streams(rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
    """Which stretches may not be learnt from.

    Returns:
        Two [B] bool: those that hold a non-finite observation, action or reward, and those whose
        environment failed, as the collector says in `meta["broken"]`.
    """
    bad = np.zeros(len(rollout.reward), bool)
    columns = (rollout.observation, rollout.action, rollout.reward, rollout.next_observation)
    for column in columns:
        if column is not None and column.dtype.kind == "f" and not np.isfinite(column.sum()):
            finite = np.isfinite(column).reshape(len(column), -1)
            bad |= ~finite.all(axis=1)
    return bad, np.asarray(rollout.meta.get("broken", np.zeros_like(bad)), bool)


class BatchRecorder:
    """A source that remembers the last batch it gave, so that a bad one can be kept."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.last: Batch = {}
        self.rows = 0

    def __len__(self) -> int:
        """Rows of the source, where it counts them."""
        return len(self.source)

    def next(self, n: int) -> Batch:
        """n rows of the source."""
        self.last = self.source.next(n)
        self.rows += n
        return self.last

    def windows(self, n: int, length: int) -> Batch:
        """n windows of the source, if it has any."""
        self.last = self.source.windows(n, length)
        self.rows += n * length
        return self.last


@dataclass(frozen=True)
class Limits:
    """How many faults a run survives.

    Attributes:
        skipped_in_a_row: consecutive skipped updates before the run stops.
        dropped_share: share of episodes that may be dropped.
        dropped_free: drops survived whatever share they are, so that a short run survives one.
    """

    skipped_in_a_row: int = 3
    dropped_share: float = 0.01
    dropped_free: int = 1


class FaultCounter:
    """Counts faults and stops the run when the limits are passed."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.skipped = self.skipped_in_a_row = self.dropped = 0

    def update_ok(self) -> None:
        """An update went through."""
        self.skipped_in_a_row = 0

    def update_skipped(self, what: str) -> None:
        """An update was skipped.

        Raises:
            TooManyFaults: if too many were skipped in a row.
        """
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.limits.skipped_in_a_row:
            raise TooManyFaults(
                f"stopped: {self.skipped_in_a_row} updates in a row were not finite ({what}); "
                "the batches are in the run's faults/ folder"
            )

    def episodes_dropped(self, n: int, episodes: int) -> None:
        """Episodes with non-finite observations or rewards were dropped.

        Raises:
            TooManyFaults: if more than the allowed share was dropped.
        """
        self.dropped += n
        if self.dropped > max(self.limits.dropped_free, self.limits.dropped_share * episodes):
            raise TooManyFaults(
                f"stopped: {self.dropped} of {episodes} episodes gave non-finite observations or "
                f"rewards (limit {self.limits.dropped_share:.0%}); check the environment"
            )

    def state_dict(self) -> dict[str, int]:
        """The counts."""
        return {
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "dropped": self.dropped,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take over the counts."""
        self.skipped = state["skipped"]
        self.skipped_in_a_row = state["skipped_in_a_row"]
        self.dropped = state["dropped"]

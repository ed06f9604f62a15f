"""Random windows of packed rows as what a learner pulls its batches from."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from embodied.core.types import Batch, State, UserError
from embodied.data.packed import Packed


class WindowSource:
    """Windows drawn uniformly from a memory-mapped file; the dataset never lies in memory.

    Args:
        open: returns the packed rows when first needed.
        generator: draws the windows.
        fingerprint: identifies the data; a resume with other data is refused.
        scaling: applied to observations.
        device: where batches go.
    """

    def __init__(
        self,
        open: Callable[[], Packed],
        generator: np.random.Generator,
        *,
        fingerprint: str,
        scaling: Callable[[np.ndarray], np.ndarray] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self._open, self.generator = open, generator
        self.fingerprint = fingerprint
        self._scaled = scaling or np.ascontiguousarray
        self.device = device
        self._packed: Packed | None = None

    def windows(self, n: int, length: int) -> Batch:
        """n windows of `length` consecutive steps of one episode.

        Returns:
            `observation` [n, length, O] and `action` [n, length, A] in [-1, 1], float32.
        """
        if self._packed is None:
            self._packed = self._open()
        rows = self._packed.windows(n, length, self.generator)
        batch = {
            "observation": self._scaled(rows["observation.state"]),
            "action": np.clip(rows["action"], -1.0, 1.0),
        }
        return {name: torch.from_numpy(column).to(self.device) for name, column in batch.items()}

    def next(self, n: int) -> Batch:
        """n single steps."""
        return {name: column[:, 0] for name, column in self.windows(n, 1).items()}

    def state_dict(self) -> State:
        """Sampler state and fingerprint."""
        state: dict[str, Any] = self.generator.bit_generator.state
        return {"fingerprint": self.fingerprint, "generator": state}

    def load_state_dict(self, state: State) -> None:
        """Take over the sampler.

        Raises:
            UserError: the run was started with other data.
        """
        if state["fingerprint"] != self.fingerprint:
            raise UserError(
                f"the run was started with dataset {state['fingerprint'][:12]}, this one is "
                f"{self.fingerprint[:12]}; resume with the same data"
            )
        self.generator.bit_generator.state = state["generator"]

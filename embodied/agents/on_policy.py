"""Experience for one update: whole stretches of every environment, handed out once."""

from __future__ import annotations

import numpy as np
import torch

from embodied.core.types import Batch, Rollout, State

COLUMNS = ("observation", "action", "reward", "next_observation")


class OnPolicySource:
    """Keeps the last T steps of N environments as [N, T, ...].

    Beside observations, actions and rewards it has `mask` [N, T], 0 where the task terminated,
    `ended`, 1 on the last step of an episode, and `real`, 0 on steps that may not be learnt from.

    Args:
        horizon: T.
        device: where batches live.
    """

    def __init__(self, horizon: int, device: str | torch.device = "cpu") -> None:
        self.horizon, self.device = horizon, torch.device(device)
        self._columns: dict[str, np.ndarray] = {}
        self._filled = 0

    def __len__(self) -> int:
        return self._filled * len(self._columns["reward"]) if self._columns else 0

    def add(self, rollout: Rollout) -> None:
        """Append a step of every environment; the first one after T steps starts anew."""
        if self._filled == self.horizon:
            self._filled = 0
        t, self._filled = self._filled, self._filled + 1
        ended = rollout.terminated | rollout.truncated
        dropped = np.asarray(rollout.meta.get("dropped", np.zeros(len(ended), bool)))
        given = {name: getattr(rollout, name)[:, 0] for name in COLUMNS}
        given |= {"mask": ~rollout.terminated[:, 0], "ended": ended[:, 0], "real": ~dropped}
        for name, values in given.items():
            if name not in self._columns:
                shape = (len(values), self.horizon, *values.shape[1:])
                self._columns[name] = np.zeros(shape, np.float32)
            self._columns[name][:, t] = values
        for stream in np.flatnonzero(dropped):
            for name in COLUMNS:
                self._columns[name][stream, t] = 0
            self.drop_episode(stream)

    def drop_episode(self, stream: int) -> None:
        """Let the unfinished episode of a stream count for nothing."""
        if not self._filled:
            return
        now = self._filled - 1
        ended = np.flatnonzero(self._columns["ended"][stream, :now])
        begin = ended[-1] + 1 if len(ended) else 0
        self._columns["real"][stream, begin : now + 1] = 0
        self._columns["ended"][stream, now] = 1

    def next(self, n: int) -> Batch:
        """All N T steps; n must be their number.

        Raises:
            RuntimeError: there are not as many.
        """
        if n != len(self) or self._filled < self.horizon:
            raise RuntimeError(f"{n} steps were asked for, {len(self)} have been collected")
        return {k: torch.from_numpy(v.copy()).to(self.device) for k, v in self._columns.items()}

    def state_dict(self) -> State:
        """The steps so far."""
        return {"columns": dict(self._columns), "filled": self._filled}

    def load_state_dict(self, state: State) -> None:
        """Take over the steps."""
        self._columns = {k: np.array(v) for k, v in state["columns"].items()}
        self._filled = state["filled"]


def stretches(batch: Batch) -> dict[str, torch.Tensor]:
    """A batch as [N, T, ...] with every column; rows without an order are stretches of one step."""
    batch = dict(batch)
    if batch["reward"].ndim == 1:
        batch = {name: column[:, None] for name, column in batch.items()}
    one = torch.ones_like(batch["reward"])
    return {"ended": 1 - batch["mask"], "real": one, **batch}

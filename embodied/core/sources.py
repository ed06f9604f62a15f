"""Fixed datasets as sources, and mixtures of sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from embodied.core.replay import Column, ReplaySource, ReturnSpec, RewardTransform
from embodied.core.types import Batch, Rollout, Source, State, UserError

Episodes = Sequence[Mapping[str, np.ndarray]]


class DatasetSource:
    """Uniform batches from a fixed set of transitions.

    The contents are not part of the checkpoint, only the sampler and a fingerprint of the data.

    Args:
        load: returns the episodes (dicts of arrays [T, ...], raw rewards) when first needed, so a
            run that has dropped its offline data never reads them again.
        fingerprint: identifies the data; a resume with other data is refused.
    """

    def __init__(
        self,
        load: Callable[[], Episodes],
        columns: Mapping[str, Column],
        generator: torch.Generator,
        *,
        fingerprint: str,
        reward: RewardTransform | None = None,
        returns: ReturnSpec | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self._load, self._columns = load, dict(columns)
        self.generator = generator
        self.fingerprint = fingerprint
        self.reward, self.returns = reward or RewardTransform(), returns
        self.device = device
        self.dropped = False
        self._replay: ReplaySource | None = None

    def _data(self) -> ReplaySource:
        if self.dropped:
            raise RuntimeError("the offline data was dropped at hand-over and may not be used")
        if self._replay is None:
            episodes = self._load()
            replay = ReplaySource(
                self._columns,
                sum(len(e["reward"]) for e in episodes),
                self.generator,
                returns=self.returns,
                whole_episodes=True,
                device=self.device,
            )
            for episode in episodes:
                replay.add_episode({**episode, "reward": self.reward(episode["reward"])})
            self._replay = replay
        return self._replay

    def __len__(self) -> int:
        return len(self._data())

    def next(self, n: int) -> Batch:
        """n transitions drawn uniformly with replacement."""
        return self._data().next(n)

    def windows(self, n: int, length: int) -> Batch:
        """n windows of `length` consecutive steps."""
        return self._data().windows(n, length)

    def rows(self) -> dict[str, torch.Tensor]:
        """Every transition, in order, without a copy."""
        data = self._data()
        return data.rows.view(0, len(data))

    def drop(self) -> None:
        """Forget the data for good; later use is an error."""
        self._replay, self.dropped = None, True

    def state_dict(self) -> State:
        """Sampler state and fingerprint."""
        return {
            "fingerprint": self.fingerprint,
            "dropped": self.dropped,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Take over the sampler; refuse other data."""
        if state["fingerprint"] != self.fingerprint:
            raise UserError(
                f"the run was started with dataset {state['fingerprint'][:12]}, this one is "
                f"{self.fingerprint[:12]}; resume with the same data"
            )
        if state["dropped"]:
            self.drop()
        self.generator.set_state(state["generator"])


class MixSource:
    """Batches mixed row by row from two sources, so every slice has the same share of each.

    Args:
        online: also takes new rollouts in.
        offline: the other source.
        offline_ratio: share of offline rows, or None for the share they have of all rows.
    """

    def __init__(self, online: ReplaySource, offline: Source, offline_ratio: float | None) -> None:
        if offline_ratio is not None and not 0.0 <= offline_ratio <= 1.0:
            raise ValueError(f"offline_ratio must lie in [0, 1], got {offline_ratio}")
        self.online, self.offline, self.offline_ratio = online, offline, offline_ratio

    def add(self, rollout: Rollout) -> None:
        """Store a rollout in the online part."""
        self.online.add(rollout)

    def drop_episode(self, stream: int) -> None:
        """Forget the unfinished episode of a stream."""
        self.online.drop_episode(stream)

    def __len__(self) -> int:
        return len(self.online)

    def next(self, n: int) -> Batch:
        """n rows, offline ones spread evenly."""
        ratio = self.offline_ratio
        if ratio is None:
            ratio = len(self.offline) / (len(self.offline) + len(self.online))
        steps = torch.floor(torch.arange(n + 1, dtype=torch.float64) * ratio + 1e-9).long()
        is_offline = steps[1:] > steps[:-1]
        n_offline = int(steps[-1])
        if n_offline in (0, n):
            return (self.offline if n_offline else self.online).next(n)
        online, offline = self.online.next(n - n_offline), self.offline.next(n_offline)
        batch = {}
        for name in online:
            column = online[name]
            out = column.new_empty(n, *column.shape[1:])
            out[~is_offline], out[is_offline] = column, offline[name]
            batch[name] = out
        return batch

    def state_dict(self) -> State:
        """Both parts."""
        return {"online": self.online.state_dict(), "offline": self.offline.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Take over both parts."""
        self.online.load_state_dict(state["online"])
        self.offline.load_state_dict(state["offline"])

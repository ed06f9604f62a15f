"""Experience in memory: packed rows, uniform and window sampling.

All float32 columns of a transition lie side by side in one preallocated matrix, so drawing a batch
is a single `index_select` into a reused buffer; columns are views of it. Other dtypes (uint8
images) have a matrix each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from embodied.core.returns import monte_carlo_returns
from embodied.core.types import Batch, Rollout, State, UserError

Column = tuple[tuple[int, ...], torch.dtype]
_Buffers = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]  # matrices, columns


def transition_columns(
    observation: tuple[int, ...],
    action: tuple[int, ...],
    *,
    observation_dtype: torch.dtype = torch.float32,
    returns: bool = False,
) -> dict[str, Column]:
    """The columns of a transition (s, a, r, s', mask[, Monte-Carlo return])."""
    columns: dict[str, Column] = {
        "observation": (observation, observation_dtype),
        "next_observation": (observation, observation_dtype),
        "action": (action, torch.float32),
        "reward": ((), torch.float32),
        "mask": ((), torch.float32),
    }
    if returns:
        columns["mc_return"] = ((), torch.float32)
    return columns


class Rows:
    """Preallocated storage of `capacity` rows of named columns.

    Args:
        columns: shape and dtype per column.
        capacity: number of rows.
        device: where the rows live.
    """

    def __init__(
        self, columns: Mapping[str, Column], capacity: int, device: str | torch.device = "cpu"
    ) -> None:
        self.columns = dict(columns)
        self.capacity = capacity
        self.device = torch.device(device)
        packed = {k: v for k, v in self.columns.items() if v[1] == torch.float32}
        self._widths = [math.prod(shape) for shape, _ in packed.values()]
        self._packed_names = list(packed)
        self._matrices = {"": torch.empty(capacity, sum(self._widths), device=self.device)}
        for name, (shape, dtype) in self.columns.items():
            if dtype != torch.float32:
                self._matrices[name] = torch.empty(
                    capacity, math.prod(shape), dtype=dtype, device=self.device
                )
        self._buffers: dict[tuple[int, int | None], _Buffers] = {}
        self._numpy = None  # the same memory seen by numpy: a cheaper way to write single rows
        if self.device.type == "cpu":
            self._numpy = {k: v.numpy() for k, v in self._views(self._matrices).items()}

    def _views(self, matrices: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Columns as views of gathered matrices [..., width]."""
        out = dict(zip(self._packed_names, matrices[""].split(self._widths, dim=-1), strict=True))
        out.update((k, v) for k, v in matrices.items() if k)
        lead = matrices[""].shape[:-1]
        return {name: out[name].view(*lead, *shape) for name, (shape, _) in self.columns.items()}

    def _reused(self, n: int, length: int | None = None) -> _Buffers:
        """Buffers of n rows or windows, and their columns: making the views would cost a draw."""
        key = (n, length)
        if key not in self._buffers:
            lead = (n,) if length is None else (n, length)
            matrices = {
                name: torch.empty(*lead, m.shape[1], dtype=m.dtype, device=self.device)
                for name, m in self._matrices.items()
            }
            self._buffers[key] = (matrices, self._views(matrices))
        return self._buffers[key]

    def view(self, start: int, stop: int) -> dict[str, torch.Tensor]:
        """Columns of rows [start, stop), without a copy."""
        return self._views({k: m[start:stop] for k, m in self._matrices.items()})

    def write(self, start: int, values: Mapping[str, np.ndarray]) -> None:
        """Write values [n, ...] of every column to rows start, start + 1, ..."""
        target = self._views(self._matrices) if self._numpy is None else self._numpy
        for name in self.columns:
            value = values[name]
            if self._numpy is None:
                value = torch.as_tensor(np.asarray(value))
            target[name][start : start + len(value)] = value

    def gather(self, index: torch.Tensor) -> dict[str, torch.Tensor]:
        """Rows `index` [n] in a reused buffer, valid until the next gather of n rows."""
        buffers, columns = self._reused(len(index))
        for name, matrix in self._matrices.items():
            torch.index_select(matrix, 0, index, out=buffers[name])
        return dict(columns)

    def gather_windows(self, starts: torch.Tensor, length: int) -> dict[str, torch.Tensor]:
        """Windows of consecutive rows: columns [n, length, ...] in a reused buffer."""
        buffers, columns = self._reused(len(starts), length)
        for name, matrix in self._matrices.items():
            width = matrix.shape[1]
            strided = matrix.as_strided((self.capacity - length + 1, length * width), (width, 1))
            torch.index_select(strided, 0, starts, out=buffers[name].flatten(1))
        return dict(columns)

    def matrices(self, index: torch.Tensor) -> dict[str, torch.Tensor]:
        """Copies of the raw matrices at rows `index`, for saving and moving."""
        return {name or "packed": m[index] for name, m in self._matrices.items()}

    def set_matrices(self, index: torch.Tensor, values: Mapping[str, torch.Tensor]) -> None:
        """The inverse of `matrices`."""
        for name, matrix in self._matrices.items():
            matrix[index] = values[name or "packed"].to(self.device)


@dataclass(frozen=True)
class RewardTransform:
    """r -> scale * r + bias, applied alike to data and to training environments.

    Attributes:
        scale: factor.
        bias: added after scaling; -1 turns a 0/1 success reward into -1/0.
    """

    scale: float = 1.0
    bias: float = 0.0

    def __call__(self, reward: np.ndarray) -> np.ndarray:
        """Transformed rewards, float32."""
        return (self.scale * np.asarray(reward, np.float32) + self.bias).astype(np.float32)


@dataclass(frozen=True)
class ReturnSpec:
    """How Monte-Carlo returns are computed (from transformed rewards).

    Attributes:
        discount: gamma.
        failure_reward: the transformed step reward of a sparse task; an episode that got nothing
            else is taken to go on like that for ever. None for dense rewards.
    """

    discount: float
    failure_reward: float | None = None


class ReplaySource:
    """A ring of transitions that takes rollouts in and gives uniform batches out.

    Args:
        columns: see `transition_columns`.
        capacity: rows kept; the oldest are overwritten.
        generator: draws the batches; its state is part of the checkpoint.
        reward: transform applied on the way in.
        returns: also store Monte-Carlo returns. Transitions are then held back until their episode
            has ended and are stored episode by episode, which windows need as well.
        whole_episodes: hold transitions back without computing returns.
    """

    def __init__(
        self,
        columns: Mapping[str, Column],
        capacity: int,
        generator: torch.Generator,
        *,
        reward: RewardTransform | None = None,
        returns: ReturnSpec | None = None,
        whole_episodes: bool = False,
        device: str | torch.device = "cpu",
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.rows = Rows(columns, capacity, device)
        self.generator = generator
        self.reward = reward or RewardTransform()
        self.returns = returns
        self.whole_episodes = whole_episodes or returns is not None
        self.size = 0
        self.added = 0  # rows ever written; the write position is added % capacity
        self._open: dict[int, list] = {}  # stream -> held-back transitions, or their row numbers
        self._episodes: list[list[int]] = []  # [first, last + 1] of each complete stored episode
        self._starts: tuple[tuple[int, int], torch.Tensor] | None = None

    def __len__(self) -> int:
        return self.size

    @property
    def capacity(self) -> int:
        """Rows kept at most."""
        return self.rows.capacity

    def add(self, rollout: Rollout) -> None:
        """Store a rollout [B, T, ...]; row b continues the episode of stream b."""
        ended = rollout.terminated | rollout.truncated
        values = {
            "observation": rollout.observation,
            "next_observation": rollout.next_observation,
            "action": rollout.action,
            "reward": self.reward(rollout.reward),
            "mask": 1.0 - rollout.terminated.astype(np.float32),
        }
        for b in range(len(rollout.reward)):
            if rollout.meta.get("dropped") is not None and rollout.meta["dropped"][b]:
                self.drop_episode(b)
                continue
            for t in range(rollout.reward.shape[1]):
                if rollout.mask is None or rollout.mask[b, t]:
                    self._add_step(b, {k: v[b, t] for k, v in values.items()}, ended[b, t])

    def _add_step(self, stream: int, step: dict[str, np.ndarray], ended: bool) -> None:
        episode = self._open.setdefault(stream, [])
        if self.whole_episodes:
            # The environment may reuse the arrays it returned.
            episode.append({k: np.array(v) for k, v in step.items()})
            if ended:
                self.add_episode({k: np.stack([s[k] for s in episode]) for k in step})
        else:
            episode.append(self.added)
            self._write({k: np.asarray(v)[None] for k, v in step.items()}, 1)
        if ended:
            self._open[stream] = []

    def add_episode(self, episode: Mapping[str, np.ndarray]) -> None:
        """Store one finished episode of T transitions, rewards already transformed."""
        n = len(episode["reward"])
        if n > self.capacity:
            raise ValueError(f"an episode of {n} steps does not fit {self.capacity} rows")
        if self.returns is not None:
            episode = {
                **episode,
                "mc_return": monte_carlo_returns(
                    episode["reward"],
                    episode["mask"],
                    self.returns.discount,
                    failure_reward=self.returns.failure_reward,
                ),
            }
        room = self.capacity - self.added % self.capacity
        if n > room:  # an episode's rows stay consecutive: go on at row 0
            self.added += room
        self._write(episode, n)
        self._episodes.append([self.added - n, self.added])
        while self._episodes[0][0] < self.added - self.capacity:
            self._episodes.pop(0)

    def _write(self, values: Mapping[str, np.ndarray], n: int) -> None:
        start = self.added % self.capacity
        self.rows.write(start, values)
        self.added += n
        self.size = max(self.size, start + n)

    def drop_episode(self, stream: int) -> None:
        """Forget the unfinished episode of a stream: none of its transitions stays stored.

        The rows that are left move together, oldest first; what the forgotten ones had overwritten
        is lost, so a full ring is a little less full afterwards.
        """
        episode = self._open.pop(stream, [])
        if self.whole_episodes or not episode:
            return
        oldest = self.added - self.size
        first = oldest or episode[0]  # in a ring that never wrapped, earlier rows stay in place
        rows = torch.arange(first, self.added)
        keep = rows[~torch.isin(rows, torch.tensor(episode))]
        start = first - oldest
        moved = self.rows.matrices(keep % self.capacity)
        self.rows.set_matrices(torch.arange(start, start + len(keep)), moved)
        new = {old: start + i for i, old in enumerate(keep.tolist())}
        for other, numbers in self._open.items():
            self._open[other] = [new.get(i, i) for i in numbers if i >= oldest]
        self.added = self.size = start + len(keep)

    def next(self, n: int) -> Batch:
        """n transitions drawn uniformly with replacement."""
        if self.size == 0:
            raise UserError(
                "the replay buffer holds no "
                + (
                    "finished episode yet; let a phase collect at least one before updating"
                    if self.whole_episodes
                    else "transition yet; collect some before updating"
                )
            )
        index = torch.randint(0, self.size, (n,), generator=self.generator)
        return self.rows.gather(index.to(self.rows.device))

    def window_starts(self, length: int) -> torch.Tensor:
        """First rows of all windows of `length` steps that lie within one stored episode."""
        if not self.whole_episodes:
            raise ValueError("windows need a replay that stores whole episodes")
        starts = [
            torch.arange(begin, end - length + 1) % self.capacity
            for begin, end in self._episodes
            if end - begin >= length
        ]
        return torch.cat(starts) if starts else torch.empty(0, dtype=torch.long)

    def windows(self, n: int, length: int) -> Batch:
        """n windows of `length` consecutive steps: columns [n, length, ...]."""
        key = (self.added, length)
        if self._starts is None or self._starts[0] != key:
            self._starts = (key, self.window_starts(length))
        starts = self._starts[1]
        if len(starts) == 0:
            raise UserError(f"no stored episode has {length} steps")
        pick = torch.randint(0, len(starts), (n,), generator=self.generator)
        return self.rows.gather_windows(starts[pick].to(self.rows.device), length)

    def state_dict(self) -> State:
        """Contents, write position, unfinished episodes and sampler."""
        return {
            "added": self.added,
            "size": self.size,
            "episodes": self._episodes,
            "open": {str(k): v for k, v in self._open.items()},
            "generator": self.generator.get_state(),
            "rows": self.rows.matrices(torch.arange(self.size)),
        }

    def load_state_dict(self, state: State) -> None:
        """Take over everything `state_dict` holds."""
        if state["size"] > self.capacity:
            raise UserError(
                f"the checkpoint holds {state['size']} transitions, the replay buffer only "
                f"{self.capacity}; resume with the capacity the run was started with"
            )
        self.added, self.size = state["added"], state["size"]
        self._episodes = [list(e) for e in state["episodes"]]
        self._starts = None
        self._open = {int(k): list(v) for k, v in state["open"].items()}
        self.generator.set_state(state["generator"])
        self.rows.set_matrices(torch.arange(self.size), state["rows"])

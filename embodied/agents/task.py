"""What a robot-learning method is handed: it never builds environments or reads files itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from embodied.core.collector import EnvCollector
from embodied.core.replay import ReplaySource, ReturnSpec, RewardTransform, transition_columns
from embodied.core.seeding import Streams
from embodied.core.sources import DatasetSource, Episodes
from embodied.core.types import UserError
from embodied.data.packed import Packed
from embodied.data.window_source import WindowSource


@dataclass
class RobotTask:
    """An environment, its data and the run's random streams.

    Attributes:
        observation_shape: of one observation.
        action_dim: actions lie in [-1, 1]^action_dim.
        streams: named random streams of the run.
        collector: steps the training environments; None for purely offline runs.
        episodes: loads the offline episodes with raw rewards, or None without a dataset.
        fingerprint: identifies the offline data.
        reward: transform applied to data and training environments alike.
        sparse: whether the raw reward is 0 except on success.
        device: where learners and replay live.
        packed: opens the offline data as one memory-mapped file, for windows; None without one.
    """

    observation_shape: tuple[int, ...]
    action_dim: int
    streams: Streams
    collector: EnvCollector | None = None
    episodes: Callable[[], Episodes] | None = None
    fingerprint: str = ""
    reward: RewardTransform = field(default_factory=RewardTransform)
    sparse: bool = True
    device: str | torch.device = "cpu"
    packed: Callable[[], Packed] | None = None

    @property
    def observation_dim(self) -> int:
        """Length of a flat observation.

        Raises:
            UserError: if observations are images.
        """
        if len(self.observation_shape) != 1:
            raise UserError(
                f"this method needs flat state observations, got shape {self.observation_shape}; "
                "use env_args.obs=state"
            )
        return self.observation_shape[0]

    def _returns(self, discount: float | None) -> ReturnSpec | None:
        if discount is None:
            return None
        failure = self.reward.scale * 0.0 + self.reward.bias if self.sparse else None
        return ReturnSpec(discount, failure if failure else None)

    def _columns(self, discount: float | None) -> dict:
        return transition_columns(
            self.observation_shape, (self.action_dim,), returns=discount is not None
        )

    def offline(self, returns_discount: float | None = None) -> DatasetSource:
        """The offline data as a source, with Monte-Carlo returns if a discount is given."""
        if self.episodes is None:
            raise UserError(
                "this method starts from offline data; give data=PATH (see `embodied collect`)"
            )
        return DatasetSource(
            self.episodes,
            self._columns(returns_discount),
            self.streams.torch("dataset"),
            fingerprint=self.fingerprint,
            reward=self.reward,
            returns=self._returns(returns_discount),
            device=self.device,
        )

    def windows(self) -> WindowSource | DatasetSource:
        """The offline data as a source of windows, from disk where it is packed there."""
        if self.packed is None:
            return self.offline()
        return WindowSource(
            self.packed,
            self.streams.numpy("windows"),
            fingerprint=self.fingerprint,
            scaling=None if self.collector is None else self.collector.scaling,
            device=self.device,
        )

    def replay(self, capacity: int, returns_discount: float | None = None) -> ReplaySource:
        """An empty replay buffer; with a discount it serves finished episodes with returns."""
        return ReplaySource(
            self._columns(returns_discount),
            capacity,
            self.streams.torch("replay"),
            reward=self.reward,
            returns=self._returns(returns_discount),
            device=self.device,
        )

    def environments(self) -> EnvCollector:
        """The collector.

        Raises:
            UserError: if the run has none.
        """
        if self.collector is None:
            raise UserError("this method collects experience; give env=ID")
        return self.collector

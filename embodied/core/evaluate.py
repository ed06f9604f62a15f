"""Evaluation on a fixed list of initial states, episode by episode."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from embodied.core.scaling import ObservationScaling, ScaledPolicy
from embodied.core.seeding import Streams
from embodied.core.stats import wilson
from embodied.core.types import Policy


@dataclass(frozen=True)
class Episode:
    """One line of the evaluation ledger.

    Attributes:
        index: position in the list of initial states.
        seed: reset seed of the environment.
        initial_state: first 16 hex digits of the SHA-256 of the first observation.
        episode_return: sum of rewards as the environment gives them.
        success: whether any step succeeded.
        length: steps taken.
    """

    index: int
    seed: int
    initial_state: str
    episode_return: float
    success: bool
    length: int


@dataclass(frozen=True)
class Evaluation:
    """The ledger of one evaluation.

    Attributes:
        episodes: one record per initial state.
        actions: [T, A] per episode: with the seed, all that is needed to see it again.
    """

    episodes: list[Episode]
    actions: list[np.ndarray]

    @property
    def successes(self) -> int:
        """Episodes with success."""
        return sum(e.success for e in self.episodes)

    @property
    def success(self) -> float:
        """Success rate."""
        return self.successes / len(self.episodes)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of the success rate."""
        return wilson(self.successes, len(self.episodes))

    @property
    def mean_return(self) -> float:
        """Mean episode return."""
        return float(np.mean([e.episode_return for e in self.episodes]))

    def ledger(self) -> list[dict[str, Any]]:
        """The episodes as JSON values."""
        return [asdict(e) for e in self.episodes]


class Evaluator:
    """Runs a policy from the same initial states every time.

    The states depend on `seed` alone: not on the run's seed, on how far training is, or on what
    was evaluated before.

    Args:
        env: a gymnasium environment used for nothing else; rewards are not transformed.
        episodes: how many initial states.
        seed: chooses the list of initial states.
        scaling: applied to observations before the policy sees them.
    """

    def __init__(
        self,
        env: Any,
        episodes: int,
        seed: int = 0,
        scaling: ObservationScaling | None = None,
    ) -> None:
        if episodes < 1:
            raise ValueError(f"episodes must be at least 1, got {episodes}")
        self.env = env
        self.scaling = scaling
        self.seeds = Streams(seed).integers("evaluation", episodes)

    def __call__(
        self,
        policy: Policy,
        indices: Sequence[int] | None = None,
        on_step: Callable[[int, Any], None] | None = None,
    ) -> Evaluation:
        """Evaluate.

        Args:
            policy: acts on [1, ...] observations.
            indices: which initial states; all of them if None.
            on_step: called with (index, env) after the reset and after every step: for videos.
        """
        if self.scaling is not None:
            policy = ScaledPolicy(policy, self.scaling)
        chosen = range(len(self.seeds)) if indices is None else indices
        results = [self._episode(policy, i, on_step) for i in chosen]
        return Evaluation([episode for episode, _ in results], [a for _, a in results])

    def _episode(
        self, policy: Policy, index: int, on_step: Callable[[int, Any], None] | None
    ) -> tuple[Episode, np.ndarray]:
        seed = self.seeds[index]
        observation, _ = self.env.reset(seed=seed)
        initial = hashlib.sha256(np.ascontiguousarray(observation).tobytes()).hexdigest()[:16]
        total, success, ended = 0.0, False, False
        actions: list[np.ndarray] = []
        if on_step:
            on_step(index, self.env)
        while not ended:
            action = policy.act(observation[None])[0]
            observation, reward, terminated, truncated, info = self.env.step(action)
            actions.append(action)
            total += float(reward)
            success = success or bool(info.get("success", False))
            ended = terminated or truncated
            if on_step:
                on_step(index, self.env)
        return Episode(index, seed, initial, total, success, len(actions)), np.stack(actions)

"""Evaluation on a fixed list of initial states, episode by episode."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from embodied.core.scaling import ObservationScaling, ScaledPolicy
from embodied.core.seeding import Streams
from embodied.core.stats import wilson
from embodied.core.types import Policy

LONGEST_LIST = 1000  # passes over an environment's stored states before two lists share a seed


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
        init_state: index of the stored initial state, where the environment has a list of them.
    """

    index: int
    seed: int
    initial_state: str
    episode_return: float
    success: bool
    length: int
    init_state: int | None = None

    def record(self) -> dict[str, Any]:
        """The line as JSON values."""
        values = asdict(self)
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class Evaluation:
    """The ledger of one evaluation.

    Attributes:
        episodes: one record per initial state.
        actions: [T, A] per episode: with the seed, all that is needed to see it again.
        metrics: further numbers, by name.
    """

    episodes: list[Episode]
    actions: list[np.ndarray]
    metrics: dict[str, float] = field(default_factory=dict, kw_only=True)

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

    def summary(self) -> dict[str, float]:
        """Every number of it, as it is logged."""
        numbers = {"success": self.success, "return": self.mean_return, **self.metrics}
        return {f"eval/{name}": value for name, value in numbers.items()}

    def ledger(self) -> list[dict[str, Any]]:
        """The episodes as JSON values."""
        return [e.record() for e in self.episodes]


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
        self.env = env
        self.scaling, self.seed = scaling, seed
        self.seeds = initial_seeds(env, episodes, seed)

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
        policy = begun(policy, index, self.seed)
        steps = play(self.env, index, self.seeds[index])
        observation = next(steps)
        while True:
            if on_step:
                on_step(index, self.env)
            try:
                observation = steps.send(policy.act(one_row(observation))[0])
            except StopIteration as end:
                if on_step:
                    on_step(index, self.env)
                return end.value


def initial_seeds(env: Any, episodes: int, seed: int) -> list[int]:
    """The reset seed of each initial state.

    An environment with `stored_states` (LIBERO) begins an episode of seed s from stored state
    s % stored_states; episode i gets stored state i. The seeds of list 0 are then 0, 1, 2, ..., and
    what the states leave open differs from list to list.

    Raises:
        ValueError: there is to be no episode.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    stored = getattr(env.unwrapped, "stored_states", 0)
    if stored:
        return [LONGEST_LIST * stored * seed + i for i in range(episodes)]
    return Streams(seed).integers("evaluation", episodes)


def begun(policy: Policy, index: int, seed: int) -> Policy:
    """The policy as it acts in one episode of a list of initial states.

    A policy that remembers or draws has `begin(rng)`, which returns one for an episode of its own.
    """
    if not hasattr(policy, "begin"):
        return policy
    return policy.begin(Streams(seed).numpy(f"policy/{index}"))


def play(env: Any, index: int, seed: int) -> Generator[Any, np.ndarray, tuple[Episode, np.ndarray]]:
    """One episode as a conversation: yields each observation and is sent the action for it.

    Args:
        env: a gymnasium environment.
        index: position in the list of initial states.
        seed: reset seed.

    Returns:
        The line of the ledger, and the actions, [T, A].

    Raises:
        ValueError: the environment began from another stored state than the index asks for.
    """
    observation, info = env.reset(seed=seed)
    initial, state = fingerprint(observation), info.get("init_state")
    stored = getattr(env.unwrapped, "stored_states", 0)
    if stored and state != index % stored:
        raise ValueError(f"episode {index} began from stored state {state}, not {index % stored}")
    total, success, ended = 0.0, False, False
    actions: list[np.ndarray] = []
    while not ended:
        action = yield observation
        observation, reward, terminated, truncated, info = env.step(action)
        actions.append(action)
        total += float(reward)
        success = success or bool(info.get("success", False))
        ended = terminated or truncated
    return Episode(index, seed, initial, total, success, len(actions), state), np.stack(actions)


def one_row(observation: Any) -> Any:
    """An observation as a batch of one; a dict is batched value by value."""
    if isinstance(observation, Mapping):
        return {key: one_row(value) for key, value in observation.items()}
    return np.asarray(observation)[None]


def fingerprint(observation: Any) -> str:
    """First 16 hex digits of the SHA-256 of an observation, a dict by its keys in order."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Mapping):
            for key in sorted(value):
                digest.update(key.encode())
                add(value[key])
        else:
            digest.update(np.ascontiguousarray(value).tobytes())

    add(observation)
    return digest.hexdigest()[:16]

"""Who acts: a run's policy, the task's scripted expert, a player, chance, or a policy server.

An actor plays several episodes at once, each in its own slot. What it does in an episode depends on
that episode alone, so results do not depend on how many run beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import envs
from embodied.columns import camera_name, observation_columns, space_columns, task_text
from embodied.core.evaluate import one_row
from embodied.core.types import UserError
from envs import play
from hardware.policy_client import RemotePolicy, is_address
from hardware.policy_wire import RemoteError, read_token

SCRIPTED, PLAY, RANDOM = "scripted", "play", "random"


class Actor(Protocol):
    """Acts in several episodes at once."""

    description: dict[str, Any]
    """What a ledger or a dataset says of it; "name" at least."""

    def begin(self, slot: int, env: Any, rng: np.random.Generator) -> None:
        """An episode of `env`, just reset, begins in a slot; `rng` is the episode's own."""

    def act(self, slots: Sequence[int], observations: Sequence[Any]) -> list[np.ndarray]:
        """An action [A] for each of these slots."""

    def close(self) -> None:
        """Frees what it holds."""


def make_actor(policy: str | Path, timeout: float = 60.0) -> Actor:
    """The actor of a name.

    Args:
        policy: a run directory, "scripted", "play", "random" or a websocket address.
        timeout: seconds a server may take to answer.

    Raises:
        UserError: there is no such policy.
    """
    if policy in (SCRIPTED, PLAY):
        return Experts(str(policy))
    if policy == RANDOM:
        return Chance()
    if is_address(str(policy)):
        return Remote(str(policy), timeout)
    return Trained(Path(policy))


def is_run(policy: str | Path) -> bool:
    """Whether a policy is named by a run directory."""
    return policy not in (SCRIPTED, PLAY, RANDOM) and not is_address(str(policy))


class Experts:
    """Scripted experts or players, one for each slot; they may look into its environment."""

    def __init__(self, name: str) -> None:
        self.description = {"name": name}
        self._playing: dict[int, tuple[Any, Any]] = {}

    def begin(self, slot: int, env: Any, rng: np.random.Generator) -> None:
        """Makes the expert if the slot has another environment now, and resets it.

        Raises:
            UnknownTask: the task has no expert, or nothing to play with.
        """
        if slot not in self._playing or self._playing[slot][0] is not env:
            playing = self.description["name"] == PLAY
            self._playing[slot] = env, play.expert(env, rng) if playing else envs.expert(env)
        self._playing[slot][1].reset(rng)

    def act(self, slots: Sequence[int], observations: Sequence[Any]) -> list[np.ndarray]:
        """Experts see the state, whatever the observations are."""
        playing = [self._playing[slot] for slot in slots]
        return [expert.act(env.unwrapped.state_observation()) for env, expert in playing]

    def close(self) -> None:
        """Lets the environments go."""
        self._playing.clear()


class Chance:
    """Uniformly random actions."""

    def __init__(self) -> None:
        self.description = {"name": RANDOM}
        self._playing: dict[int, tuple[int, np.random.Generator]] = {}

    def begin(self, slot: int, env: Any, rng: np.random.Generator) -> None:
        """Keeps the episode's generator."""
        self._playing[slot] = env.action_space.shape[0], rng

    def act(self, slots: Sequence[int], observations: Sequence[Any]) -> list[np.ndarray]:
        """Actions in [-1, 1]."""
        playing = [self._playing[slot] for slot in slots]
        return [rng.uniform(-1.0, 1.0, size).astype(np.float32) for size, rng in playing]

    def close(self) -> None:
        """Does nothing."""


class Trained:
    """The policy of a run, without exploration noise.

    It is asked about one observation at a time on one thread: the sums inside a matrix product
    depend on how many rows it has.

    Attributes:
        columns: what it maps, see `space_columns`.
    """

    def __init__(self, run: Path) -> None:
        import torch

        from embodied.loading import load

        torch.set_num_threads(1)
        learnt = load(run)
        vector = learnt.task.collector.envs
        self.columns = space_columns(vector.envs[0])
        vector.close()
        self._policy = learnt.policy()
        self._begun: dict[int, Any] = {}
        self._spaces = learnt.task.observation_shape, (learnt.task.action_dim,)
        counters = {key: learnt.counters[key] for key in ("env_steps", "updates")}
        self.description = {"name": run.name, **counters}

    def begin(self, slot: int, env: Any, rng: np.random.Generator) -> None:
        """Checks that the policy fits the environment, and gives the episode one of its own.

        Raises:
            UserError: it does not.
        """
        spaces = env.observation_space.shape, env.action_space.shape
        if spaces != self._spaces:
            raise UserError(
                f"{self.description['name']} maps observations {self._spaces[0]} to actions "
                f"{self._spaces[1]}, {task_text(env)!r} has {spaces[0]} and {spaces[1]}"
            )
        if hasattr(self._policy, "begin"):
            self._begun[slot] = self._policy.begin(rng)

    def act(self, slots: Sequence[int], observations: Sequence[Any]) -> list[np.ndarray]:
        """What the policy does without exploration; in slots not begun, without memory."""
        policies = [self._begun.get(slot, self._policy) for slot in slots]
        pairs = zip(policies, observations, strict=True)
        return [policy.act(one_row(observation))[0] for policy, observation in pairs]

    def close(self) -> None:
        """Does nothing."""


class Remote:
    """A policy server; episodes that need an action are sent in one message."""

    def __init__(self, address: str, timeout: float) -> None:
        self._client = RemotePolicy(address, timeout=timeout, token=read_token())
        told = {str(key): value for key, value in self._client.metadata.items()}
        self.description = {"name": str(told.get("name", address)), "address": address, **told}
        self._episodes = 0
        self._rows: dict[int, dict[str, Any]] = {}
        self._cameras: dict[int, str] = {}
        self._sizes: dict[int, int] = {}
        self._queues: dict[int, deque[np.ndarray]] = {}

    def begin(self, slot: int, env: Any, rng: np.random.Generator) -> None:
        """Gives the episode a number of its own.

        Raises:
            RemoteError: the server says that it was made for something else.
        """
        self._client.check(space_columns(env))
        self._episodes += 1
        self._rows[slot] = {"episode": self._episodes, "step": 0, "task": task_text(env)}
        self._cameras[slot] = camera_name(env)
        self._sizes[slot] = env.action_space.shape[0]
        self._queues[slot] = deque()

    def act(self, slots: Sequence[int], observations: Sequence[Any]) -> list[np.ndarray]:
        """The next action of each slot's chunk; asks about those whose chunk is used up."""
        asking, rows = [], []
        for slot, observation in zip(slots, observations, strict=True):
            if not self._queues[slot]:
                columns = observation_columns(observation, self._cameras[slot])
                asking.append(slot)
                rows.append({**self._rows[slot], "observation": columns})
        for slot, chunk in zip(asking, self._client.act(rows) if rows else (), strict=True):
            if chunk.shape[1] != self._sizes[slot]:
                raise RemoteError(
                    f"{self._client.address} answered actions of {chunk.shape[1]} numbers, "
                    f"{self._rows[slot]['task']!r} takes {self._sizes[slot]}"
                )
            self._queues[slot].extend(chunk)
        for slot in slots:
            self._rows[slot]["step"] += 1
        return [self._queues[slot].popleft() for slot in slots]

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

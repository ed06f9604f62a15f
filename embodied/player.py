"""Evaluation episodes as a worker plays them. Torch is imported by the policy that needs it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import envs
from embodied.actors import Actor, make_actor
from embodied.columns import task_text
from embodied.core.evaluate import initial_seeds, play
from embodied.core.seeding import Streams
from embodied.datasets import make_env
from embodied.recorder import MakeEnv


@dataclass
class Player:
    """Plays groups of evaluation episodes; a copy lives in each worker, and opens things there.

    Attributes:
        policy: see `make_actor`.
        tasks: id -> options.
        episodes: length of each task's list of initial states.
        seed: chooses the list.
        timeout: seconds a policy server may take to answer.
        make: makes an environment.
    """

    policy: str | Path
    tasks: Mapping[str, Mapping[str, Any]]
    episodes: int
    seed: int = 0
    timeout: float = 60.0
    make: MakeEnv = make_env
    _actor: Actor | None = field(default=None, init=False)
    _task: str = field(default="", init=False)
    _envs: list[Any] = field(default_factory=list, init=False)

    def __call__(self, job: tuple[str, Sequence[int]]) -> dict[str, Any]:
        """Play episodes of a task, all at the same time.

        Args:
            job: the task and the indices of its episodes.

        Returns:
            `results`, a ledger line and actions each; what the rest was under other keys.
        """
        task, indices = job
        if self._actor is None:
            self._actor = make_actor(self.policy, self.timeout)
        self._enter(task, len(indices))
        seeds = initial_seeds(self._envs[0], self.episodes, self.seed)
        streams = Streams(self.seed)
        games, observations, done = {}, {}, {}
        for slot, index in enumerate(indices):
            games[slot] = play(self._envs[slot], index, seeds[index])
            observations[slot] = next(games[slot])
            self._actor.begin(slot, self._envs[slot], streams.numpy(f"policy/{index}"))
        while observations:
            slots = list(observations)
            actions = self._actor.act(slots, list(observations.values()))
            for slot, action in zip(slots, actions, strict=True):
                try:
                    observations[slot] = games[slot].send(action)
                except StopIteration as end:
                    del observations[slot]
                    done[slot] = end.value
        described = envs.describe(self._envs[0])
        renders = "mujoco" in described["versions"]
        return {
            "results": [done[slot] for slot in range(len(indices))],
            "env": described,
            # the adapters choose one when they load their simulator, in this process
            "renderer": os.environ.get("MUJOCO_GL", "default") if renders else "none",
            "instruction": task_text(self._envs[0]),
            "policy": self._actor.description,
        }

    def _enter(self, task: str, count: int) -> None:
        """Have as many environments of the task as there are episodes in flight."""
        if task != self._task:
            self._leave()
            self._task = task
        while len(self._envs) < count:
            self._envs.append(self.make(task, self.tasks[task]))

    def _leave(self) -> None:
        while self._envs:
            self._envs.pop().close()
        self._task = ""

    def close(self) -> None:
        """Close environments and policy."""
        self._leave()
        if self._actor is not None:
            self._actor.close()
            self._actor = None

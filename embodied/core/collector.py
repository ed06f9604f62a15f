"""Experience from environments: a simulator or a real arm, one or many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from embodied.core.scaling import ObservationScaling
from embodied.core.types import Policy, Rollout, State, UserError


class EnvCollector:
    """Steps a vector of environments with a policy, one control step per `collect`.

    Args:
        envs: a gymnasium `VectorEnv` whose autoreset mode is DISABLED (`envs.make_vec`). If it has
            `get_state` and `set_state`, a checkpoint continues inside an episode; otherwise the
            weaker promise holds: a resume begins the next episode.
        seeds: draws the seed of each episode, one stream of its own per environment, so that an
            episode that ends early in one does not change the others.
        scaling: applied to every observation before anybody sees it.
    """

    def __init__(
        self,
        envs: Any,
        seeds: np.random.Generator,
        scaling: ObservationScaling | None = None,
    ) -> None:
        if isinstance(getattr(envs, "single_observation_space", None), Mapping):
            raise UserError(
                "a collector for training takes one array as observation, not a dict of "
                f"{', '.join(envs.single_observation_space)}; use obs=state or obs=pixels"
            )
        self.envs = envs
        self.seeds = [seeds, *seeds.spawn(envs.num_envs - 1)]
        self.scaling = scaling
        self._scaled = scaling or np.array
        n = envs.num_envs
        self._observation: np.ndarray | None = None
        self._needs_reset = np.ones(n, bool)
        self.restarted = False  # whether the loaded state began new episodes
        self._return = np.zeros(n)
        self._length = np.zeros(n, np.int64)
        self._success = np.zeros(n, bool)

    @property
    def num_envs(self) -> int:
        """Environments stepped together."""
        return self.envs.num_envs

    def _reset(self, mask: np.ndarray) -> None:
        """Begin new episodes where mask [N] is set."""
        seeds = [
            int(own.integers(2**31)) if masked else None
            for own, masked in zip(self.seeds, mask, strict=True)
        ]
        observation, _ = self.envs.reset(seed=seeds, options={"reset_mask": mask})
        observation = self._scaled(observation)
        if self._observation is None:
            self._observation = observation
        else:  # a copy: the last rollout still shows the old array
            self._observation = self._observation.copy()
            self._observation[mask] = observation[mask]
        self._return[mask], self._length[mask], self._success[mask] = 0.0, 0, False
        self._needs_reset = np.zeros_like(mask)

    def collect(self, policy: Policy) -> Rollout:
        """Take one step in every environment.

        Returns:
            A rollout [N, 1, ...]. `meta["episodes"]` lists the episodes that ended, as dicts of
            stream, return, length and success; `meta["broken"]` is [N], true where an environment
            failed and was replaced, and `meta["fault"]` says how.
        """
        if self._needs_reset.any():
            self._reset(self._needs_reset.copy())
        observation = self._observation
        action = policy.act(observation)
        next_observation, reward, terminated, truncated, info = self.envs.step(action)
        next_observation = self._scaled(next_observation)
        action = info.get("action", action)  # what was executed, an operator's intervention too
        no = np.zeros(self.num_envs, bool)
        success = np.asarray(info.get("success", no), bool)
        self._return += reward
        self._length += 1
        self._success |= success
        ended = terminated | truncated
        episodes = [
            {
                "stream": int(i),
                "return": float(self._return[i]),
                "length": int(self._length[i]),
                "success": bool(self._success[i]),
            }
            for i in np.flatnonzero(ended)
        ]
        self._needs_reset = ended
        self._observation = next_observation
        broken = info.get("broken", no)
        failed = int(broken.sum())
        return Rollout(
            observation=observation[:, None],
            action=np.asarray(action)[:, None],
            reward=np.asarray(reward, np.float32)[:, None],
            next_observation=next_observation[:, None],
            terminated=np.asarray(terminated, bool)[:, None],
            truncated=np.asarray(truncated, bool)[:, None],
            meta={
                "success": success,
                "episodes": episodes,
                "broken": broken,
                "fault": "; ".join(self.envs.faults[-failed:]) if failed else "",
            },
        )

    def abandon(self, streams: np.ndarray) -> None:
        """Give up the current episodes where streams [N] is set; they restart at the next step."""
        self._needs_reset = self._needs_reset | streams

    def state_dict(self) -> State:
        """Environments, current observations, running totals and the seed stream."""
        state: State = {
            "seeds": [own.bit_generator.state for own in self.seeds],
            "needs_reset": self._needs_reset,
            "return": self._return,
            "length": self._length,
            "success": self._success,
            "observation": self._observation,
            "envs": None,
        }
        if hasattr(self.envs, "get_state") and self._observation is not None:
            state["envs"] = self.envs.get_state()
        return state

    def load_state_dict(self, state: State) -> None:
        """Continue where the state was taken, or at the next episode if it holds no simulators."""
        for own, saved in zip(self.seeds, state["seeds"], strict=True):
            own.bit_generator.state = saved
        self._observation = state["observation"]
        self._needs_reset = np.array(state["needs_reset"])
        self.restarted = state["envs"] is None and self._observation is not None
        self._return, self._length = np.array(state["return"]), np.array(state["length"])
        self._success = np.array(state["success"])
        if state["envs"] is not None:
            self.envs.set_state(state["envs"])
        else:
            self._observation = None
            self._needs_reset = np.ones_like(self._needs_reset)


class UniformPolicy:
    """Uniform random actions in [-1, 1]."""

    def __init__(self, action_dim: int, generator: np.random.Generator) -> None:
        self.action_dim = action_dim
        self.generator = generator

    def act(self, observation: np.ndarray) -> np.ndarray:
        """[N, ...] observations to [N, A] actions."""
        shape = (len(observation), self.action_dim)
        return self.generator.uniform(-1.0, 1.0, shape).astype(np.float32)

    def state_dict(self) -> State:
        """The generator."""
        return {"generator": self.generator.bit_generator.state}

    def load_state_dict(self, state: State) -> None:
        """Take over the generator."""
        self.generator.bit_generator.state = state["generator"]

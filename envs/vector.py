"""Several environments stepped together, in this process or in one process each.

Nothing resets by itself: after `terminated` or `truncated` the caller resets the finished ones with
`reset(seed=[...], options={"reset_mask": mask})`, so seeds and last observations stay its own.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs import batch
from envs.base import SimEnv, bounded, finite
from envs.registry import make, split_id
from envs.workers import WorkerError, Workers


def make_vec(
    env_id: str, num: int, *, mode: str = "sync", timeout: float = 30.0, **kwargs: Any
) -> VectorEnv:
    """Makes `num` copies of an environment; both modes give the same trajectories.

    Args:
        env_id: see `envs.make`.
        num: number of copies.
        mode: "sync", all in this process, or "async", one process each. The processes are started
            by a server process, so a script needs the `if __name__ == "__main__":` guard.
        timeout: seconds a worker process may take to answer before it is replaced.
        **kwargs: options of `envs.make`.

    Returns:
        A vector environment without automatic resets. `step` takes `float32[num, action_dim]` and
        returns fresh arrays (a dict of them with `obs="both"`); `infos["success"]` is `bool[num]`.
        `infos["instruction"]` of a reset holds a string each. `get_state` and `set_state` handle
        lists with one state per copy. A worker that dies, hangs or raises is replaced and the
        others go on: its episode ends as truncated, with reward 0, the last observation and a True
        in `infos["broken"]` (absent otherwise), and must not be learnt from.

    Raises:
        ValueError: `num` or `mode` is wrong.
    """
    if num < 1:
        raise ValueError(f"num must be at least 1, got {num}")
    one = functools.partial(make, env_id, **kwargs)
    arm = split_id(env_id)[0] == "real"
    if arm and mode == "async":
        raise ValueError(f'{env_id} is stepped in this process: mode="sync"')
    if mode == "sync":
        options = {"action_repeat": 1, "obs": "state", **kwargs}
        layers = [kwargs.get(key) for key in ("frame_stack", "action_chunk", "skills")]
        plain = options["action_repeat"] == 1 and options["obs"] == "state"
        if env_id.startswith("puck/") and num > 1 and plain and not any(layers):
            from envs.push import PushVector  # which is made of what is defined here

            return PushVector(one, num)
        return (SyncVector if arm else SavedVector)(one, num)
    if mode == "async":
        return AsyncVector(one, num, timeout=timeout)
    raise ValueError(f'mode must be "sync" or "async", got {mode!r}')


class _Vector(VectorEnv):
    """What both kinds share: spaces and the arguments of `reset` and `step`."""

    def __init__(self, one: SimEnv, num: int) -> None:
        self.num_envs = num
        self.identity, self.options = one.identity, one.options
        self.instruction = one.instruction
        self.render_mode = one.render_mode
        self.metadata = {**one.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = one.observation_space
        self.single_action_space = one.action_space
        self.observation_space = batch_space(one.observation_space, num)
        self.action_space = batch_space(one.action_space, num)
        self._actions_shape = self.action_space.shape
        self._everyone = np.ones(num, bool)

    def _seeds(self, seed: Any, options: dict[str, Any] | None) -> dict[int, int | None]:
        """Which environments to reset, with which seed each."""
        seeds = seed
        if seed is None or isinstance(seed, int | np.integer):
            seeds = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        if len(seeds) != self.num_envs:
            raise ValueError(f"got {len(seeds)} seeds for {self.num_envs} environments")
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise ValueError(
                f"reset_mask must be bool[{self.num_envs}] with at least one True, got {mask}"
            )
        return {i: seeds[i] for i in np.flatnonzero(mask).tolist()}

    def _check_actions(self, actions: np.ndarray) -> np.ndarray:
        """All of them before any is taken: a refused one must not leave the others a step ahead."""
        actions = np.asarray(actions)
        if len(actions) != self.num_envs:
            raise ValueError(f"got {len(actions)} actions for {self.num_envs} environments")
        if actions.shape != self._actions_shape or not finite(actions.ravel()):
            raise ValueError(
                f"{self.identity['id']}: actions must be finite and {self._actions_shape}, got "
                f"{actions.shape}: {actions.tolist()}"
            )
        return actions


class SyncVector(_Vector):
    """Environments stepped one after another in this process; they need not be saved."""

    def __init__(self, make_one: Callable[[], SimEnv], num: int) -> None:
        self.envs = [make_one() for _ in range(num)]
        super().__init__(self.envs[0], num)
        self._bare = all(isinstance(env, SimEnv) for env in self.envs)  # without wrappers
        self._usual_flags = np.zeros((6, num), bool)
        self._usual_flags[4:] = True  # the masks of the two infos
        empty = batch.observations(self.observation_space)
        self._last = [empty[i] for i in range(num)]

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Resets all environments, or those where `options["reset_mask"]` is true.

        Args:
            seed: one number (environment i gets `seed + i`) or one per environment.
            options: `{"reset_mask": bool[num]}`.

        Returns:
            Observations of all environments, and infos with a mask `_key` beside each key.
        """
        infos: dict[str, Any] = {}
        for i, one in self._seeds(seed, options).items():
            self._last[i], info = self.envs[i].reset(seed=one)
            infos = self._add_info(infos, info, i)
        return batch.stack(self._last), infos

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps all environments with `actions: [num, action_dim]`."""
        if self._bare:  # all are checked before any is taken, and once is enough
            return self._advance(bounded(actions, self._actions_shape, self.identity["id"]))
        actions = self._check_actions(actions)
        results = [env.step(action) for env, action in zip(self.envs, actions, strict=True)]
        observations, rewards, terminated, truncated, each = zip(*results, strict=True)
        self._last = list(observations)
        infos: dict[str, Any] = {}
        for key in each[0]:
            infos[key] = np.array([info[key] for info in each])
            infos[f"_{key}"] = self._everyone.copy()
        ends = np.array(terminated), np.array(truncated)
        return batch.stack(self._last), np.array(rewards), *ends, infos

    def _advance(
        self, commands: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Does what `step` does for environments without wrappers, with few calls of numpy.

        Right after a simulator, which leaves nothing else in the processor's caches, each of them
        takes several times as long as usual.
        """
        results = map(SimEnv.advance, self.envs, commands)
        rewards, *flags = zip(*results, strict=True)
        self._last = [env.observation() for env in self.envs]
        table = self._usual_flags.copy()
        for row, values in enumerate(flags):
            if True in values:
                table[row] = values
        terminated, truncated, success, diverged, has_success, has_diverged = table
        infos = {"success": success, "_success": has_success}
        infos |= {"diverged": diverged, "_diverged": has_diverged}
        return batch.stack(self._last), np.array(rewards), terminated, truncated, infos

    def state_observation(self) -> np.ndarray:
        """Returns the flat states `float32[num, state_dim]`, for experts in pixel environments."""
        return np.stack([env.state_observation() for env in self.envs])

    @property
    def faults(self) -> list[str]:
        """What broke episodes, oldest first; simulators here end the process instead."""
        return [fault for env in self.envs for fault in getattr(env, "faults", ())]

    def render(self) -> tuple[np.ndarray | None, ...]:
        """Returns one image per environment."""
        return tuple(env.render() for env in self.envs)

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the environments."""
        for env in self.envs:
            env.close()


class SavedVector(SyncVector):
    """The same of environments whose states can be taken out and put back."""

    def get_state(self) -> list[dict[str, Any]]:
        """Returns one state per environment."""
        return [env.get_state() for env in self.envs]

    def set_state(self, states: list[dict[str, Any]]) -> None:
        """Continues from states that `get_state` returned."""
        for i, (env, state) in enumerate(zip(self.envs, states, strict=True)):
            env.set_state(state)
            self._last[i] = env.observation()


class AsyncVector(_Vector):
    """One process per environment; see `envs.workers` for what happens to one that fails."""

    def __init__(self, make_one: Callable[[], SimEnv], num: int, *, timeout: float = 30.0) -> None:
        probe = make_one()
        super().__init__(probe, num)
        probe.close()
        self.workers = Workers(make_one, self.identity["id"], self.observation_space, timeout)
        self._over = np.ones(num, bool)
        self._last_seed: list[int | None] = [None] * num
        self._fresh = [0] * num  # replacements of each worker at its last reset

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Resets all environments, or those where `options["reset_mask"]` is true."""
        seeds = self._seeds(seed, options)
        found: dict[int, dict[str, Any]] = {}
        while waiting := [i for i in seeds if i not in found]:
            commands = {i: ("reset", self._seed(i, seeds[i])) for i in waiting}
            found |= self.workers.ask(commands)
        infos: dict[str, Any] = {}
        for i in seeds:
            infos = self._add_info(infos, found[i], i)
            self._over[i] = False
        return self.workers.observations(), infos

    def _seed(self, i: int, seed: int | None) -> int | None:
        """The caller's; a replaced worker has no generator to go on with and gets a derived one."""
        if seed is not None:
            self._last_seed[i] = seed
        elif self.workers.replaced[i] > self._fresh[i] and self._last_seed[i] is not None:
            entropy = [self._last_seed[i], i, self.workers.replaced[i]]
            seed = int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)
        self._fresh[i] = self.workers.replaced[i]
        return seed

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps all environments with `actions: [num, action_dim]`."""
        actions = self._check_actions(actions)
        # the caller's mistakes, which in a worker would look like a broken environment
        if self._over.any():
            raise RuntimeError(f"{self.identity['id']}: an episode is over; call reset() first")
        answers = self.workers.ask({i: ("step", action) for i, action in enumerate(actions)})
        rewards = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), bool)
        infos: dict[str, Any] = {}
        for i in range(self.num_envs):
            if i in answers:
                rewards[i], terminated[i], truncated[i], info = answers[i]
            else:
                truncated[i], info = True, {"broken": True}
            infos = self._add_info(infos, info, i)
        self._over = terminated | truncated
        return self.workers.observations(), rewards, terminated, truncated, infos

    @property
    def faults(self) -> list[str]:
        """What happened to the workers that were replaced, oldest first."""
        return self.workers.faults

    def _call(self, method: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
        """A method of every environment, each with its own arguments."""
        answers = self.workers.ask({i: ("call", (method, a)) for i, a in enumerate(arguments)})
        if len(answers) < self.num_envs:
            raise WorkerError(f"{method} is incomplete. {self.workers.faults[-1]}")
        return [answers[i] for i in range(self.num_envs)]

    def state_observation(self) -> np.ndarray:
        """Returns the flat states `float32[num, state_dim]`, for experts in pixel environments."""
        return np.stack(self._call("state_observation", [()] * self.num_envs))

    def get_state(self) -> list[dict[str, Any]]:
        """Returns one state per environment."""
        return self._call("get_state", [()] * self.num_envs)

    def set_state(self, states: list[dict[str, Any]]) -> None:
        """Continues from states that `get_state` returned."""
        self._call("set_state", [(state,) for state in states])
        self._over = np.array([bool(state["over"]) for state in states])

    def render(self) -> tuple[np.ndarray | None, ...]:
        """Returns one image per environment."""
        return tuple(self._call("render", [()] * self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        """Stops the workers."""
        self.workers.close()

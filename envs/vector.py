"""Several environments stepped together, in this process or in one process each.

Nothing resets by itself: after `terminated` or `truncated` the caller resets the finished ones with
`reset(seed=[...], options={"reset_mask": mask})`, so seeds and last observations stay its own.
"""

import contextlib
import functools
import multiprocessing
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState
from gymnasium.vector.utils import batch_space

from envs.base import EnvsError
from envs.registry import make


class WorkerError(EnvsError, RuntimeError):
    """A worker process died or did not answer in time; the vector environment is closed."""


def make_vec(
    env_id: str, num: int, *, mode: str = "sync", timeout: float = 60.0, **kwargs: Any
) -> VectorEnv:
    """Makes `num` copies of an environment; both modes give the same trajectories.

    Args:
        env_id: see `envs.make`.
        num: number of copies.
        mode: "sync", all in this process, or "async", one process each. The processes are started
            by a server process, so a script needs the `if __name__ == "__main__":` guard.
        timeout: seconds an asynchronous call may take before `WorkerError`.
        **kwargs: options of `envs.make`.

    Returns:
        A vector environment without automatic resets. `step` takes `float32[num, action_dim]` and
        returns fresh arrays; `infos["success"]` is `bool[num]`. `get_state` and `set_state` handle
        lists with one state per copy.

    Raises:
        ValueError: `num` or `mode` is wrong.
    """
    if num < 1:
        raise ValueError(f"num must be at least 1, got {num}")
    if mode == "sync":
        return SyncVector(env_id, num, **kwargs)
    if mode == "async":
        return AsyncVector(env_id, num, timeout=timeout, **kwargs)
    raise ValueError(f'mode must be "sync" or "async", got {mode!r}')


class SyncVector(VectorEnv):
    """Environments stepped one after another in this process."""

    def __init__(self, env_id: str, num: int, **kwargs: Any) -> None:
        self.envs = [make(env_id, **kwargs) for _ in range(num)]
        first = self.envs[0]
        self.num_envs = num
        self.identity = first.identity
        self.render_mode = first.render_mode
        self.metadata = {**first.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = first.observation_space
        self.single_action_space = first.action_space
        self.observation_space = batch_space(first.observation_space, num)
        self.action_space = batch_space(first.action_space, num)
        self._observations = np.zeros(
            self.observation_space.shape, self.single_observation_space.dtype
        )

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
        infos: dict[str, Any] = {}
        for i in np.flatnonzero(mask):
            self._observations[i], info = self.envs[i].reset(seed=seeds[i])
            infos = self._add_info(infos, info, i)
        return self._observations.copy(), infos

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps all environments with `actions: [num, action_dim]`."""
        if len(actions) != self.num_envs:
            raise ValueError(f"got {len(actions)} actions for {self.num_envs} environments")
        rewards = np.empty(self.num_envs)
        terminated, truncated = np.empty((2, self.num_envs), bool)
        each = []
        for i, env in enumerate(self.envs):
            self._observations[i], rewards[i], terminated[i], truncated[i], info = env.step(
                actions[i]
            )
            each.append(info)
        infos: dict[str, Any] = {}
        for key in each[0]:
            infos[key] = np.array([info[key] for info in each])
            infos[f"_{key}"] = np.ones(self.num_envs, bool)
        return self._observations.copy(), rewards, terminated, truncated, infos

    def state_observation(self) -> np.ndarray:
        """Returns the flat states `float32[num, state_dim]`, for experts in pixel environments."""
        return np.stack([env.state_observation() for env in self.envs])

    def get_state(self) -> list[dict[str, Any]]:
        """Returns one state per environment."""
        return [env.get_state() for env in self.envs]

    def set_state(self, states: list[dict[str, Any]]) -> None:
        """Continues from states that `get_state` returned."""
        for i, (env, state) in enumerate(zip(self.envs, states, strict=True)):
            env.set_state(state)
            self._observations[i] = env.observation()

    def render(self) -> tuple[np.ndarray | None, ...]:
        """Returns one image per environment."""
        return tuple(env.render() for env in self.envs)

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the environments."""
        for env in self.envs:
            env.close()


class AsyncVector(AsyncVectorEnv):
    """One process per environment, with time-outs on every call."""

    def __init__(self, env_id: str, num: int, *, timeout: float = 60.0, **kwargs: Any) -> None:
        probe = make(env_id, **kwargs)
        self.identity = probe.identity
        probe.close()
        self.timeout = timeout
        # With fork, a worker would inherit the other workers' pipe ends and outlive a killed
        # parent; a GL context or a thread pool in this process would not survive it either.
        super().__init__(
            [functools.partial(make, env_id, **kwargs)] * num,
            context="forkserver",
            autoreset_mode=AutoresetMode.DISABLED,
        )

    @contextlib.contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """Turns a dead or silent worker into a `WorkerError`, with all workers stopped."""
        try:
            yield
        except (multiprocessing.TimeoutError, EOFError, ConnectionError) as error:
            silent = isinstance(error, multiprocessing.TimeoutError)
            cause = f"no answer within {self.timeout} s" if silent else "a worker died"
            self._state = AsyncState.DEFAULT
            self.close(terminate=True)
            raise WorkerError(
                f"{what} of {self.identity['id']}: {cause}; all workers were stopped, make the "
                "vector environment again and restore it with set_state"
            ) from error

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Resets all environments, or those where `options["reset_mask"]` is true."""
        with self._guard("reset"):
            # gymnasium pops the mask out of the dict, so it gets a copy.
            self.reset_async(seed=seed, options=dict(options) if options else None)
            return self.reset_wait(timeout=self.timeout)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps all environments with `actions: [num, action_dim]`."""
        with self._guard("step"):
            self.step_async(actions)
            return self.step_wait(timeout=self.timeout)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Calls a method of every environment, or reads an attribute."""
        with self._guard(name):
            self.call_async(name, *args, **kwargs)
            return self.call_wait(timeout=self.timeout)

    def state_observation(self) -> np.ndarray:
        """Returns the flat states `float32[num, state_dim]`, for experts in pixel environments."""
        return np.stack(self.call("state_observation"))

    def get_state(self) -> list[dict[str, Any]]:
        """Returns one state per environment."""
        return list(self.call("get_state"))

    def set_state(self, states: list[dict[str, Any]]) -> None:
        """Continues from states that `get_state` returned."""
        with self._guard("set_state"):
            # `call` sends everyone the same arguments; here each worker gets its own.
            for pipe, state in zip(self.parent_pipes, states, strict=True):
                pipe.send(("_call", ("set_state", (state,), {})))
            self._state = AsyncState.WAITING_CALL
            self.call_wait(timeout=self.timeout)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Stops the workers: politely, and by force if they do not stop within `timeout`."""
        deadline = time.monotonic() + (0.0 if terminate else timeout or self.timeout)
        for pipe in self.parent_pipes:
            if pipe is not None:  # gymnasium's mark for a worker that raised
                with contextlib.suppress(ConnectionError):
                    pipe.send(("close", None))
        for process in self.processes:
            process.join(max(deadline - time.monotonic(), 0.0))
            if process.is_alive():
                process.kill()  # a stopped process ignores gentler signals
                process.join()
        for pipe in self.parent_pipes:
            if pipe is not None:
                pipe.close()

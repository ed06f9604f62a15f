"""Wrappers that keep the promises of this package: seeding, exact saving, an identity of their own.

    env = ActionChunk(FrameStack(envs.make("metaworld/reach-v3", obs="both"), 4), 8)
    env = envs.make("metaworld/reach-v3", obs="both", frame_stack=4, action_chunk=8)  # the same
    env = ClassifierReward(env, classifier, threshold=0.9, terminate=True)

What a wrapper and its arguments change is part of `env.identity`, so `envs.describe` hashes it.
"""

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import batch_space

from envs.base import Options


class Wrapper(gymnasium.Wrapper):
    """What all have in common; whatever else an environment offers is passed on.

    Args:
        env: an environment of this package, wrapped or not.
        arguments: the wrapper's own, as JSON values, for the identity.
    """

    def __init__(self, env: gymnasium.Env, **arguments: Any) -> None:
        super().__init__(env)
        mine = {"wrapper": type(self).__name__, **arguments}
        inner = env.identity
        self.identity = {**inner, "wrappers": [*inner.get("wrappers", []), mine]}

    @property
    def options(self) -> Options:
        """The options of the wrapped environment."""
        return self.env.options

    @property
    def instruction(self) -> str:
        """What to do, in words."""
        return self.env.instruction

    @property
    def horizon(self) -> int:
        """Length of an episode in calls of `step`."""
        return self.env.horizon

    def observation(self) -> Any:
        """Returns the present observation once more."""
        return self.env.observation()

    def state_observation(self) -> np.ndarray:
        """Returns the flat state `float32[state_dim]` of this moment."""
        return self.env.state_observation()

    def get_state(self) -> dict[str, Any]:
        """Returns all that later steps and resets depend on; see `SimEnv.get_state`."""
        inner = self.env.get_state()
        return {"id": inner["id"], "over": inner["over"], "env": inner}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a state that `get_state` of the same wrappers returned.

        Raises:
            ValueError: the state belongs to another environment or other wrappers.
        """
        if "env" not in state:
            raise ValueError(f"the state of {state.get('id')!r} was saved without {type(self)}")
        self.env.set_state(state["env"])


class FrameStack(Wrapper):
    """Observes the last n observations, oldest first; the first one is repeated at a reset.

    Every array gets a new first axis of length n; in a dict, each of its arrays does.
    """

    def __init__(self, env: gymnasium.Env, n: int) -> None:
        """Wraps `env` to show `n` observations at once, at least 1."""
        if n < 1:
            raise ValueError(f"frame_stack must be at least 1, got {n}")
        super().__init__(env, n=n)
        self.n = n
        self.observation_space = batch_space(env.observation_space, n)
        self._stack = _map(np.zeros_like, self.observation_space.sample())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Starts an episode; see `SimEnv.reset`."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._stack = _map(lambda part: np.stack([part] * self.n), observation)
        return self.observation(), info

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes a step; see `SimEnv.step`."""
        observation, *rest = self.env.step(action)
        # a new array each time: the caller may keep the old ones
        self._stack = _map(lambda old, new: np.stack([*old[1:], new]), self._stack, observation)
        return (self.observation(), *rest)

    def observation(self) -> Any:
        """Returns the present observation once more (fresh arrays)."""
        return _map(np.copy, self._stack)

    def get_state(self) -> dict[str, Any]:
        """Returns all that later steps and resets depend on."""
        return {**super().get_state(), "stack": _map(np.copy, self._stack)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a state that `get_state` returned."""
        super().set_state(state)
        self._stack = _map(np.copy, state["stack"])


class ActionChunk(Wrapper):
    """Takes k actions at once, `float32[k, action_dim]`, and carries them out without looking.

    It stops early where the episode ends. Rewards are summed, and success is that of any step.
    `info["rewards"]`, float64[k], has each step's own (0 after the end), `info["steps"]` says how
    many there were.
    """

    def __init__(self, env: gymnasium.Env, k: int) -> None:
        """Wraps `env` to take `k` actions per call of `step`, at least 1."""
        if k < 1:
            raise ValueError(f"action_chunk must be at least 1, got {k}")
        super().__init__(env, k=k)
        self.k = k
        self.action_space = batch_space(env.action_space, k)

    @property
    def horizon(self) -> int:
        """Length of an episode in chunks; the last one may be cut short."""
        return -(-self.env.horizon // self.k)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Carries out a chunk.

        Args:
            action: `[k, action_dim]`, finite; clipped to [-1, 1].

        Raises:
            ValueError: the chunk has the wrong shape or is not finite; nothing was carried out.
            RuntimeError: the episode is over.
        """
        chunk = np.asarray(action, np.float32)
        if chunk.shape != self.action_space.shape or not np.isfinite(chunk).all():
            raise ValueError(
                f"{self.identity['id']}: a chunk must be finite and {self.action_space.shape}, "
                f"got {chunk.shape}: {chunk.tolist()}"
            )
        rewards, info = np.zeros(self.k), {}
        for i, one in enumerate(chunk):
            observation, rewards[i], terminated, truncated, last = self.env.step(one)
            info = {key: _joined(key, info.get(key), value) for key, value in last.items()}
            if terminated or truncated:
                break
        info |= {"rewards": rewards, "steps": i + 1}
        return observation, float(rewards.sum()), terminated, truncated, info


class ClassifierReward(Wrapper):
    """Takes reward and success from a classifier, as on a robot that cannot tell them itself.

    Reward is 1 on a step whose probability reaches the threshold, else 0. What the environment
    itself says stays in `info` as `true_reward` and `true_success`, beside `success_probability`.
    An environment that ends episodes by itself (the maze at its goal) still does.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        classifier: Callable[[Any], float],
        *,
        threshold: float = 0.5,
        terminate: bool = False,
        of: str = "observation",
        name: str | None = None,
    ) -> None:
        """Wraps `env`.

        Args:
            env: an environment of this package.
            classifier: from an observation, or a picture, to the probability of success. It must
                depend on nothing else, or a saved episode does not continue as it would have.
            threshold: the least probability that counts as success, in (0, 1].
            terminate: end the episode at the first success.
            of: "observation", or "image" for what `env.render()` shows.
            name: what identifies the classifier in results, such as a hash of its weights; by
                default its attribute `name`, or the name of the function.

        Raises:
            ValueError: an argument is out of range, or the classifier needs a name.
        """
        name = name or getattr(classifier, "name", None) or getattr(classifier, "__qualname__", "")
        if not name:
            raise ValueError(
                f"say what identifies {type(classifier).__name__}: name=..., such as a hash of its "
                "weights; results by different classifiers do not compare"
            )
        if not 0.0 < threshold <= 1.0 or of not in ("observation", "image"):
            raise ValueError(
                f'threshold must be in (0, 1] and of "observation" or "image", got {threshold} and '
                f"{of!r}"
            )
        if of == "image" and env.render_mode is None:
            raise ValueError('of="image" needs an environment with render_mode="rgb_array"')
        super().__init__(env, classifier=name, threshold=threshold, terminate=terminate, of=of)
        self.classifier, self.of = classifier, of
        self.threshold, self.terminate = threshold, terminate
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Starts an episode; see `SimEnv.reset`."""
        self._over = False
        return self.env.reset(seed=seed, options=options)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes a step and asks the classifier about its end.

        Raises:
            ValueError: the classifier returned no probability.
            RuntimeError: the episode is over.
        """
        if self._over:
            raise RuntimeError(f"{self.identity['id']}: the episode is over; call reset() first")
        observation, reward, terminated, truncated, info = self.env.step(action)
        probability = self._ask(observation)
        success = probability >= self.threshold
        terminated = terminated or (success and self.terminate)
        self._over = terminated or truncated
        true = {"true_reward": float(reward), "true_success": bool(info["success"])}
        info = {**info, **true, "success": success, "success_probability": probability}
        return observation, float(success), terminated, truncated, info

    def _ask(self, observation: Any) -> float:
        seen = _map(np.copy, observation) if self.of == "observation" else self.env.render()
        answer = np.asarray(self.classifier(seen))
        if answer.size != 1 or answer.dtype.kind not in "biuf":
            raise ValueError(f"the classifier must return one number, got {answer!r}")
        probability = float(answer.item())
        if not (math.isfinite(probability) and 0.0 <= probability <= 1.0):
            raise ValueError(
                f"the classifier returned {probability}, which is no probability (finite, 0 to 1)"
            )
        return probability

    def get_state(self) -> dict[str, Any]:
        """Returns all that later steps and resets depend on."""
        return {**super().get_state(), "over": self._over}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a state that `get_state` returned."""
        super().set_state(state)
        self._over = state["over"]


def layer(env: Any, name: str) -> Any:
    """Returns the outermost wrapper that has an attribute, or the environment; None if none has."""
    while not hasattr(env, name):
        if not isinstance(env, gymnasium.Wrapper):
            return None
        env = env.env
    return env


def _map(function: Callable[..., Any], *values: Any) -> Any:
    """Applies a function to arrays, or to the arrays of dicts key by key."""
    if isinstance(values[0], dict):
        return {key: function(*(value[key] for value in values)) for key in values[0]}
    return function(*values)


def _joined(key: str, before: Any, value: Any) -> Any:
    """What a chunk says of one key: true once is true, true rewards are summed, else the last."""
    if before is None:
        return value
    if isinstance(value, bool):
        return before or value
    return before + value if key == "true_reward" else value

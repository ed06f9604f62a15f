"""The contract that every environment keeps, in one base class.

An adapter supplies five small hooks (reset, one control step, state out, state in, one frame);
horizon, reward mode, success, action repeat, seeding and saving live here, once.
"""

import abc
import math
import operator
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from envs.instructions import instruction

STATE_VERSION = 1


class EnvsError(Exception):
    """Base of the errors this package raises."""


class UnknownTask(EnvsError, ValueError, KeyError):
    """The environment id is not known; the message names the nearest known ids."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would print the repr


class MissingExtra(EnvsError, ImportError):
    """The simulator is not installed; the message names the extra to install."""


class RenderError(EnvsError, RuntimeError):
    """No image could be rendered."""


class Diverged(EnvsError, RuntimeError):
    """The simulation became unstable in this control step (raised by adapters, handled here)."""


class Step(NamedTuple):
    """What one control step of a simulator yields; a bare tuple will do and is made faster."""

    state: np.ndarray  # [state_dim], any float type
    reward: float  # the simulator's own dense reward
    success: bool
    terminated: bool = False


@dataclass(frozen=True)
class Options:
    """The options that every environment shares; see `envs.make`."""

    obs: str = "state"
    reward: str = "dense"
    horizon: int | None = None
    terminate_on_success: bool = False
    action_repeat: int = 1
    image_size: int = 84
    camera: str | int | None = None
    cameras: tuple[str, ...] | None = None
    render: str = "package"
    render_mode: str | None = "rgb_array"
    render_size: tuple[int, int] = (240, 320)

    def __post_init__(self) -> None:
        for name, allowed in (
            ("obs", ("state", "pixels", "both")),
            ("reward", ("dense", "sparse")),
            ("render", ("package", "fast")),
            ("render_mode", (None, "rgb_array")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}; allowed are {allowed}")
        if self.cameras is not None and (
            self.obs != "both"
            or self.camera is not None
            or not self.cameras
            or len({*map(str, self.cameras)}) < len(self.cameras)
        ):
            raise ValueError(
                f"cameras={self.cameras} with obs={self.obs!r} and camera={self.camera!r}: cameras "
                'names different cameras for obs="both", instead of camera'
            )
        sizes = (self.action_repeat, self.image_size, *self.render_size)
        if self.horizon is not None:
            sizes = (self.horizon, *sizes)
        if any(operator.index(size) < 1 for size in sizes):
            raise ValueError(
                "horizon, action_repeat, image_size and render_size must be positive integers, "
                f"got {self.horizon}, {self.action_repeat}, {self.image_size}, {self.render_size}"
            )


class SimEnv(gymnasium.Env, abc.ABC):
    """A gymnasium environment with exact seeding, exact saving and a success flag.

    Observations are `float32[state_dim]`, `uint8[image_size, image_size, 3]`, or a dict with the
    one as `state` and the other as `pixels`, of several cameras as `pixels.<camera>`. Actions are
    `float32[action_dim]`, clipped to [-1, 1]. After `terminated` or `truncated` the episode is
    over, and a further `step` raises until `reset` is called.

    Attributes:
        instruction: what to do, in words; also in the `info` of each reset.
        identity: the id and every option that changes observations, rewards or episode ends.
        horizon: length of an episode in calls of `step`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 (gymnasium's name)
    instruction = ""  # an adapter that has none of its own gets one from the task's name

    def __init__(
        self,
        env_id: str,
        options: Options,
        *,
        state_dim: int,
        action_dim: int,
        control_steps: int,
        task_kwargs: dict[str, Any],
    ) -> None:
        """Sets up what all environments share.

        Args:
            env_id: the id under which the environment was made.
            options: the shared options.
            state_dim: length of the flat state observation.
            action_dim: length of the action.
            control_steps: the simulator's own episode length, in control steps.
            task_kwargs: the adapter's own options, for `identity`.
        """
        self.options = options
        self.render_mode = options.render_mode
        self.horizon = options.horizon or -(-control_steps // options.action_repeat)
        self.instruction = self.instruction or instruction(env_id)
        self._views: dict[str, str | int | None] = {"pixels": options.camera}
        if options.cameras is not None:
            self._views = {f"pixels.{camera}": camera for camera in options.cameras}
        self.observation_space = self._observation_space(state_dim)
        self.action_space = Box(-1.0, 1.0, (action_dim,), np.float32)
        self._action_shape, self._repeats = (action_dim,), range(options.action_repeat)
        self.identity = {"id": env_id, "kwargs": self._identity_kwargs(task_kwargs)}
        self._episode_seed = 0
        self._elapsed = 0
        self._over = True
        self._state = np.zeros(state_dim, np.float32)

    def _observation_space(self, state_dim: int) -> Box | Dict:
        state = Box(-np.inf, np.inf, (state_dim,), np.float32)
        size = self.options.image_size
        pixels = Box(0, 255, (size, size, 3), np.uint8)
        if self.options.obs == "both":
            return Dict({"state": state, **dict.fromkeys(self._views, pixels)})
        return pixels if self.options.obs == "pixels" else state

    def _identity_kwargs(self, task_kwargs: dict[str, Any]) -> dict[str, Any]:
        names = ["obs", "reward", "terminate_on_success", "action_repeat"]
        if self.options.obs != "state":
            names += ["image_size", "camera", "render"]
        shared = {name: getattr(self.options, name) for name in names}
        if self.options.cameras is not None:
            shared["cameras"] = list(self.options.cameras)
        return {**shared, "horizon": self.horizon, **task_kwargs}

    # ---------------------------------------------------------------- hooks for adapters

    @abc.abstractmethod
    def _reset_task(self, seed: int) -> np.ndarray:
        """Starts the episode that `seed` alone determines; returns the state."""

    @abc.abstractmethod
    def _control(self, action: np.ndarray) -> Step:
        """Advances one control step with `action: float64[action_dim]` in [-1, 1]."""

    @abc.abstractmethod
    def _get_task_state(self) -> dict[str, Any]:
        """Returns what changed in the simulator since `_reset_task`."""

    @abc.abstractmethod
    def _set_task_state(self, state: dict[str, Any]) -> None:
        """Restores `state`; called right after `_reset_task` with the same episode's seed."""

    @abc.abstractmethod
    def _frame(self, height: int, width: int, camera: str | int | None) -> np.ndarray:
        """Returns a camera's view as `uint8[height, width, 3]`; None is the suite's own camera."""

    # ---------------------------------------------------------------- gymnasium

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray | dict[str, np.ndarray], dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: determines the episode completely. Without it, the next episode seed is drawn from
                this environment's own generator, which the last seeded reset seeded.
            options: not used.

        Returns:
            The first observation, and
            `{"success": False, "episode_seed": int, "instruction": str}`.
        """
        super().reset(seed=seed)
        drawn = seed is None
        self._episode_seed = int(self.np_random.integers(2**31)) if drawn else int(seed)
        self._state = np.asarray(self._reset_task(self._episode_seed), np.float32)
        self._elapsed = 0
        self._over = False
        info = {"success": False, "episode_seed": self._episode_seed}
        return self.observation(), {**info, "instruction": self.instruction}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Takes `action_repeat` control steps with one action.

        Args:
            action: `[action_dim]`, finite; clipped to [-1, 1].

        Returns:
            Observation, reward, terminated, truncated and
            `{"success": bool, "diverged": bool}`. A diverged simulation ends the episode with
            reward 0 and the last sound observation.

        Raises:
            ValueError: the action has the wrong shape or is not finite.
            RuntimeError: the episode is over.
        """
        reward, terminated, truncated, success, diverged = self.advance(self._check_action(action))
        info = {"success": success, "diverged": diverged}
        return self.observation(), reward, terminated, truncated, info

    def advance(self, command: np.ndarray) -> tuple[float, bool, bool, bool, bool]:
        """Takes a step without looking at its outcome; `observation` does that.

        Args:
            command: `float64[action_dim]` from `bounded`.

        Returns:
            Reward, terminated, truncated, success and diverged, as from `step`.
        """
        if self._over:
            raise RuntimeError(f"{self.identity['id']}: the episode is over; call reset() first")
        options = self.options
        total, success, terminated, diverged = 0.0, False, False, False
        for _ in self._repeats:
            try:
                state, reward, succeeded, terminated = self._control(command)
                state = state.astype(np.float32)
                if not (math.isfinite(reward) and finite(state)):
                    raise Diverged("non-finite observation or reward")
            except Diverged:
                total, success, terminated, diverged = 0.0, False, True, True
                break
            self._state = state
            total += float(reward)
            success = success or bool(succeeded)
            terminated = bool(terminated) or (success and options.terminate_on_success)
            if terminated:
                break
        self._elapsed += 1
        truncated = self._elapsed >= self.horizon
        self._over = terminated or truncated
        reward = float(success) if options.reward == "sparse" else total
        return reward, terminated, truncated, success, diverged

    def _check_action(self, action: np.ndarray) -> np.ndarray:
        return bounded(action, self._action_shape, self.identity["id"])

    def render(self) -> np.ndarray | None:
        """Returns the present view as `uint8[*render_size, 3]`, or None without a render mode."""
        if self.render_mode is None:
            return None
        return self._frame(*self.options.render_size, self.options.camera)

    def observation(self) -> np.ndarray | dict[str, np.ndarray]:
        """Returns the present observation once more (fresh arrays); renders what is pixels."""
        if self.options.obs == "state":
            return self._state.copy()
        size = self.options.image_size
        pixels = {name: self._frame(size, size, camera) for name, camera in self._views.items()}
        return (
            {"state": self._state.copy(), **pixels}
            if self.options.obs == "both"
            else pixels["pixels"]
        )

    def state_observation(self) -> np.ndarray:
        """Returns the flat state `float32[state_dim]`, also when observations are pixels."""
        return self._state.copy()

    # ---------------------------------------------------------------- saving

    def get_state(self) -> dict[str, Any]:
        """Returns all that later steps and resets depend on.

        Values are arrays, numbers, booleans, strings or dicts of these. A fresh object with the
        same identity continues from it bit for bit, in the middle of an episode too.
        """
        return {
            "version": STATE_VERSION,
            "id": self.identity["id"],
            "rng": self.np_random.bit_generator.state,
            "episode_seed": self._episode_seed,
            "elapsed": self._elapsed,
            "over": self._over,
            "observation": self._state.copy(),
            "task": self._get_task_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a state that `get_state` returned.

        Raises:
            ValueError: the state belongs to another environment or format version.
        """
        found = (state.get("id"), state.get("version"))
        if found != (self.identity["id"], STATE_VERSION):
            raise ValueError(
                f"state of id {found[0]!r}, version {found[1]!r} cannot be set on "
                f"{self.identity['id']!r}, version {STATE_VERSION}"
            )
        # The reset rebuilds what the episode's seed determines (goals, moved bodies);
        # only what changed since then has to be stored.
        self._reset_task(state["episode_seed"])
        self._set_task_state(state["task"])
        self.np_random.bit_generator.state = state["rng"]
        self._episode_seed = state["episode_seed"]
        self._elapsed = state["elapsed"]
        self._over = state["over"]
        self._state = np.array(state["observation"], np.float32)


def bounded(action: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Returns actions as `float64[shape]`, clipped to [-1, 1].

    Raises:
        ValueError: they have another shape or are not finite.
    """
    # Rounding to float32 first makes a stored float32 action replay exactly.
    action = np.asarray(action, np.float32)
    if action.shape != shape:
        raise ValueError(f"{name}: actions have shape {action.shape}, needed is {shape}")
    # So few numbers are quicker looked at in a list than by numpy's functions.
    values = action.ravel().tolist()
    if not math.isfinite(sum(values)):  # clipping would let NaN through
        raise ValueError(f"{name}: actions are not finite: {action.tolist()}")
    command = action.astype(np.float64)
    values.sort()
    if values[0] < -1.0 or values[-1] > 1.0:
        return np.minimum(np.maximum(command, -1.0), 1.0)
    return command


def finite(values: np.ndarray) -> bool:
    """Tells whether a vector is finite; asks its square first, in a third of the time."""
    return math.isfinite(values.dot(values)) or bool(np.isfinite(values).all())

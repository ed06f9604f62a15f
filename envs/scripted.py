"""Scripted experts, and a wrapper that makes their data imperfect on purpose."""

import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from envs import libero_expert, robosuite_expert
from envs.base import UnknownTask
from envs.maze import GOAL, SIZE, WALL_X, PointMaze
from envs.skills import SkillExpert

DRIFT_STEPS = 10  # a failing episode keeps one random direction this long


class Expert(Protocol):
    """A policy over the flat state (`env.state_observation()` when observations are pixels)."""

    action_dim: int

    def reset(self, rng: np.random.Generator | None = None) -> None:
        """Begins an episode."""

    def act(self, obs: np.ndarray, info: dict[str, Any] | None = None) -> np.ndarray:
        """Returns `float32[action_dim]` in [-1, 1] for `obs: [state_dim]`."""

    def get_state(self) -> dict[str, Any]:
        """Returns what later actions depend on, as numbers, lists and dicts."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a state that `get_state` returned."""


class _Stateless:
    def __init__(self, action_dim: int) -> None:
        self.action_dim = action_dim

    def reset(self, rng: np.random.Generator | None = None) -> None:
        """Does nothing: the action depends on the observation only."""

    def get_state(self) -> dict[str, Any]:
        """Returns an empty dict."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Does nothing."""


class MetaWorldExpert(_Stateless):
    """The package's own scripted policy for one task."""

    def __init__(self, task: str) -> None:
        """Loads the policy of `task`, such as "door-open-v3"."""
        from metaworld.policies import ENV_POLICY_MAP

        super().__init__(action_dim=4)
        # it warns at every large action, which is clipped below
        warnings.filterwarnings("ignore", message=r"Constant\(s\) may be too high")
        self._policy = ENV_POLICY_MAP[task]()

    def act(self, obs: np.ndarray, info: dict[str, Any] | None = None) -> np.ndarray:
        """Returns the policy's action, clipped."""
        action = self._policy.get_action(np.asarray(obs, np.float64))
        return np.clip(action, -1.0, 1.0).astype(np.float32)


class MazeExpert(_Stateless):
    """Climbs beside the wall, crosses above it and descends to the goal."""

    def __init__(self, env: PointMaze) -> None:
        """Reads wall and step size from `env`."""
        super().__init__(action_dim=2)
        self._step_size = env.step_size
        self._height = min(env.wall_height + 0.35, (env.wall_height + SIZE) / 2)
        self._clear = min(env.wall_height + 0.1, (env.wall_height + self._height) / 2)

    def act(self, obs: np.ndarray, info: dict[str, Any] | None = None) -> np.ndarray:
        """Returns the move to the next waypoint."""
        x, y = here = (np.asarray(obs, np.float64) + 1.0) * (SIZE / 2)
        if x >= WALL_X:
            target = GOAL
        elif y < self._clear:
            target = (min(x, WALL_X - 0.5), self._height)
        else:
            target = (WALL_X + 0.4, self._height)
        return np.clip((target - here) / self._step_size, -1.0, 1.0).astype(np.float32)


def expert(env: Any) -> Expert:
    """Returns the scripted expert for an environment of this package.

    Args:
        env: an environment or vector environment from `envs.make` or `envs.make_vec`.

    Raises:
        UnknownTask: its suite has none (dm_control), or none for its task, robot or controller.
    """
    env = env.unwrapped
    suite, task = env.identity["id"].split("/", 1)
    if suite == "metaworld":
        return MetaWorldExpert(task)
    if suite == "maze":
        return MazeExpert(getattr(env, "envs", [env])[0])
    if suite == "robosuite":
        return robosuite_expert.expert(env)
    if suite == "real":
        return _arm_expert(env)
    if suite == "libero":
        env = getattr(env, "envs", [env])[0]
        return SkillExpert(env, libero_expert.planner(env))
    if suite == "corridors":
        return getattr(env, "envs", [env])[0].expert()
    if suite == "tabletop":
        from envs.play_tabletop import task_expert

        return task_expert(getattr(env, "envs", [env])[0])
    raise UnknownTask(
        f"{env.identity['id']} has no scripted expert; all other suites have. "
        "Collect its data with a trained policy."
    )


def _arm_expert(env: Any) -> Expert:
    from envs.arm_tasks import ReachExpert

    env = getattr(env, "envs", [env])[0]
    if env.identity["kwargs"].get("task") != "reach":
        raise UnknownTask(f"{env.identity['id']} has an expert for task=reach only")
    return ReachExpert(env.actions)


class NoisyExpert:
    """An expert with noise, random actions and episodes that fail.

    With `e` the expert's action, an action is `clip(e + o + n)`, where `o` is a constant `offset`,
    as of a badly calibrated arm, and `n` is Gaussian with standard deviation `noise` and
    correlation `noise_correlation` between steps. With `random_prob` it is uniform instead. With
    `failure_prob` an episode fails: from a random step on the expert is replaced by a random
    direction that changes every 10 steps.
    """

    def __init__(
        self,
        expert: Expert,
        *,
        offset: Sequence[float] = (),
        noise: float = 0.3,
        noise_correlation: float = 0.0,
        random_prob: float = 0.0,
        failure_prob: float = 0.0,
        failure_onset: tuple[int, int] = (0, 10),
        rng: np.random.Generator | int,
    ) -> None:
        """Wraps an expert and begins an episode.

        Args:
            expert: the policy to disturb.
            offset: added to every action of the expert; missing numbers are 0.
            noise: standard deviation of the action noise.
            noise_correlation: in [0, 1); 0 is white noise.
            random_prob: probability per step of a uniform action.
            failure_prob: probability per episode of failing.
            failure_onset: the range [low, high) of the step at which a failing episode goes wrong;
                keep it below the steps the expert needs.
            rng: a generator, used only here from now on, or a seed.

        Raises:
            ValueError: a setting is out of range.
        """
        if noise < 0:
            raise ValueError(f"noise must be at least 0, got {noise}")
        if not 0 <= noise_correlation < 1:
            raise ValueError(f"noise_correlation must be in [0, 1), got {noise_correlation}")
        for name, value in (("random_prob", random_prob), ("failure_prob", failure_prob)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}")
        if not 0 <= failure_onset[0] < failure_onset[1]:
            raise ValueError(f"failure_onset must be 0 <= low < high, got {failure_onset}")
        if len(offset) > expert.action_dim:
            raise ValueError(f"offset has {len(offset)} numbers, actions have {expert.action_dim}")
        self.expert, self.action_dim = expert, expert.action_dim
        self.offset = np.zeros(self.action_dim)
        self.offset[: len(offset)] = offset
        self.noise, self.noise_correlation = noise, noise_correlation
        self.random_prob, self.failure_prob = random_prob, failure_prob
        self.failure_onset = failure_onset
        self._rng = np.random.default_rng(rng)
        self.reset()

    @property
    def failing(self) -> bool:
        """Whether this episode goes wrong from some step on."""
        return self._failing_from is not None

    def reset(self, rng: np.random.Generator | None = None) -> None:
        """Begins an episode; `rng` replaces the generator."""
        self._rng = self._rng if rng is None else rng
        self.expert.reset(self._rng)
        fails = self._rng.random() < self.failure_prob
        self._failing_from = int(self._rng.integers(*self.failure_onset)) if fails else None
        self._steps = 0
        self._drift = np.zeros(self.action_dim)
        self._noise = self.noise * self._rng.standard_normal(self.action_dim)

    def act(self, obs: np.ndarray, info: dict[str, Any] | None = None) -> np.ndarray:
        """Returns `float32[action_dim]` in [-1, 1] for `obs: [state_dim]`."""
        action = np.asarray(self.expert.act(obs, info), np.float64) + self.offset
        if self._failing_from is not None and self._steps >= self._failing_from:
            if (self._steps - self._failing_from) % DRIFT_STEPS == 0:
                self._drift = self._rng.uniform(-1.0, 1.0, self.action_dim)
            action = self._drift
        action = action + self._noise
        if self._rng.random() < self.random_prob:
            action = self._rng.uniform(-1.0, 1.0, self.action_dim)
        rho = self.noise_correlation
        fresh = self.noise * self._rng.standard_normal(self.action_dim)
        self._noise = rho * self._noise + np.sqrt(1.0 - rho**2) * fresh
        self._steps += 1
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def get_state(self) -> dict[str, Any]:
        """Returns what later actions depend on, as numbers, lists and dicts (JSON-able)."""
        return {
            "rng": self._rng.bit_generator.state,
            "expert": self.expert.get_state(),
            "failing_from": -1 if self._failing_from is None else self._failing_from,
            "steps": self._steps,
            "drift": self._drift.tolist(),
            "noise": self._noise.tolist(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a state that `get_state` returned.

        Raises:
            ValueError: the state is that of an expert with another action size.
        """
        if len(state["drift"]) != self.action_dim:
            raise ValueError(
                f"saved expert has {len(state['drift'])} action numbers, this one {self.action_dim}"
            )
        self._rng.bit_generator.state = state["rng"]
        self.expert.set_state(state["expert"])
        self._failing_from = None if state["failing_from"] < 0 else state["failing_from"]
        self._steps = state["steps"]
        self._drift = np.array(state["drift"])
        self._noise = np.array(state["noise"])

"""Corridors whose directions are right or wrong as a whole: where a policy needs a plan.

A point starts in the middle of two straight corridors in space, along (1, 1, 1) and (1, -1, 1).
Reaching either end of corridor k turns lamp k over, and a spring brings the point back; leaving the
corridors ends the episode. Asked to turn a lamp over, either end is right, but the three numbers of
an action must fit together: a policy whose action dimensions are independent given what it sees,
and whose marginals are those of the data, enters the right corridor in one of four attempts. A plan
that is drawn once, as in Play-LMP (Lynch et al. 2019, arXiv 1903.01973), settles it.
"""

from typing import Any

import numpy as np

from envs.base import Options, SimEnv, Step

DIRECTIONS = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0]])  # an end lies at +-1 of them
RADIUS = 0.2  # largest deviation of a coordinate from the corridor's line
STEP = 0.4  # of a coordinate, per unit of action
END = 0.85  # of a corridor, beyond which its lamp turns over
MIDDLE = 0.15  # largest coordinate where a walk begins
CONTROL_STEPS = 12


class Corridors(SimEnv):
    """Moves a point by `STEP * action` in space.

    Observation: position (3), lamps (2), then the same five numbers of the goal, which are the
    middle and one lamp turned over. Reward: 1 where the lamps are as in the goal, else 0.
    Leaving the corridors is terminal.
    """

    def __init__(self, env_id: str, task: str, options: Options) -> None:
        super().__init__(
            env_id,
            options,
            state_dim=10,
            action_dim=3,
            control_steps=CONTROL_STEPS,
            task_kwargs={},
        )
        self.position, self.lamps = np.zeros(3), np.zeros(2)
        self.goal = np.zeros(5)

    def _reset_task(self, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        self.position = rng.uniform(-0.05, 0.05, 3)
        self.lamps = rng.integers(0, 2, 2).astype(float)
        wanted = self.lamps.copy()
        changed = rng.integers(2)
        wanted[changed] = 1.0 - wanted[changed]
        self.goal = np.concatenate([np.zeros(3), wanted])
        return self._seen()

    def _control(self, action: np.ndarray) -> Step:
        self.position = self.position + STEP * action
        along = self.position @ DIRECTIONS.T / 3.0
        aside = np.abs(self.position - np.clip(along, -1.1, 1.1)[:, None] * DIRECTIONS).max(-1)
        inside = aside < RADIUS
        for end in np.flatnonzero(inside & (np.abs(along) > END)):
            self.lamps[end] = 1.0 - self.lamps[end]
            self.position = self.position - np.sign(along[end]) * DIRECTIONS[end]
        success = bool(np.array_equal(self.lamps, self.goal[3:]))
        return Step(self._seen(), float(success), success, not inside.any())

    def _seen(self) -> np.ndarray:
        return np.concatenate([self.position, self.lamps, self.goal])

    def player(self, rng: np.random.Generator | int) -> "CorridorWalk":
        """Something that plays here, see `envs.play.expert`."""
        return CorridorWalk(self, np.random.default_rng(rng), playing=True)

    def expert(self) -> "CorridorWalk":
        """Something that turns over the lamp of the goal."""
        return CorridorWalk(self, np.random.default_rng(0), playing=False)

    def _get_task_state(self) -> dict[str, Any]:
        return {
            "position": self.position.copy(),
            "lamps": self.lamps.copy(),
        }

    def _set_task_state(self, state: dict[str, Any]) -> None:
        self.position = np.array(state["position"], np.float64)
        self.lamps = np.array(state["lamps"], np.float64)

    def _frame(self, height: int, width: int, camera: str | int | None) -> np.ndarray:
        """Draws x to the right and y up, whatever the camera; lamps are the upper corners."""
        x = np.linspace(-1.3, 1.3, width)
        y = np.linspace(1.3, -1.3, height)[:, None]
        frame = np.full((height, width, 3), 200, np.uint8)
        inside = (np.abs(np.abs(x) - np.abs(y)) < RADIUS) & (np.abs(x) < 1.1 + RADIUS)
        frame[inside] = 255
        for lamp, side in zip(self.lamps, (x < -0.9, x > 0.9), strict=True):
            frame[side & (y > 1.1)] = (250, 200, 40) if lamp else (60, 60, 60)
        frame[np.hypot(x - self.position[0], y - self.position[1]) < 0.08] = (200, 40, 40)
        return frame


class CorridorWalk:
    """Walks out to an end of a corridor, and to another, for ever; an `envs.Expert`."""

    action_dim = 3

    def __init__(self, env: Corridors, rng: np.random.Generator, *, playing: bool) -> None:
        """Keeps the environment to look at.

        Args:
            env: the environment that is acted on.
            rng: used only here from now on.
            playing: go anywhere, else where the goal's lamp is.
        """
        self._env, self._playing = env, playing
        self.reset(rng)

    def reset(self, rng: np.random.Generator | None = None) -> None:
        """Begins an episode; `rng` replaces the generator."""
        self._rng = self._rng if rng is None else rng
        self._end: list[float] = []
        self._speed = 1.0

    def _choose(self) -> None:
        """The next end to walk to."""
        env = self._env
        wrong = np.flatnonzero(env.lamps != env.goal[3:])
        which = self._rng.integers(2) if self._playing or not len(wrong) else wrong[0]
        self._end = (DIRECTIONS[which] * self._rng.choice([-1.0, 1.0])).tolist()
        self._speed = float(self._rng.uniform(0.8, 0.9))

    def act(self, obs: np.ndarray, info: dict[str, Any] | None = None) -> np.ndarray:
        """Returns `float32[3]` in [-1, 1]; `obs` is not looked at."""
        position = self._env.position
        if not self._end or np.abs(position).max() < MIDDLE:
            self._choose()
        way = (np.array(self._end) - position) / STEP
        way *= min(1.0, self._speed / np.abs(way).max())
        way += 0.05 * self._rng.standard_normal(3)
        return np.clip(way, -1.0, 1.0).astype(np.float32)

    def get_state(self) -> dict[str, Any]:
        """Returns what later actions depend on, as numbers, lists and dicts."""
        return {
            "rng": self._rng.bit_generator.state,
            "end": list(self._end),
            "speed": self._speed,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a state that `get_state` returned."""
        self._rng.bit_generator.state = state["rng"]
        self._end = list(state["end"])
        self._speed = state["speed"]

"""A point maze small enough to train on in a minute, for tests of offline-to-online methods.

The box [0, 4]^2 has a wall at x = 2 from y = 0 up to y = `wall_height`. The point starts around
(0.5, 0.5) and must reach (3.5, 0.5), so it has to climb over the wall. Raising the wall between
the offline and the online phase makes a distribution shift, as studied by WSRL (Zhou et al. 2024,
arXiv 2412.07762).
"""

from typing import Any

import numpy as np

from envs.base import Options, SimEnv, Step

SIZE, WALL_X = 4.0, 2.0
START, START_NOISE = (0.5, 0.5), 0.2
GOAL, GOAL_RADIUS = (3.5, 0.5), 0.35
CONTROL_STEPS = 30


class PointMaze(SimEnv):
    """Moves a point by `step_size * action`; a move that would cross the wall leaves it in place.

    Observation: (position - 2) / 2, two numbers in [-1, 1]. Reward: 1 on reaching the goal, else 0,
    dense and sparse alike; reaching the goal is terminal. A learner that wants -1 per step and 0 at
    the goal uses r - 1.
    """

    def __init__(
        self,
        env_id: str,
        task: str,
        options: Options,
        *,
        wall_height: float = 2.6,
        step_size: float = 0.5,
    ) -> None:
        if not (0.0 <= wall_height < SIZE and step_size > 0.0):
            raise ValueError(
                f"wall_height must be in [0, {SIZE:g}) and step_size positive, "
                f"got {wall_height} and {step_size}"
            )
        self.wall_height, self.step_size = float(wall_height), float(step_size)
        super().__init__(
            env_id,
            options,
            state_dim=2,
            action_dim=2,
            control_steps=CONTROL_STEPS,
            task_kwargs={"wall_height": self.wall_height, "step_size": self.step_size},
        )
        self._position = np.array(START)

    def _reset_task(self, seed: int) -> np.ndarray:
        noise = np.random.default_rng(seed).uniform(-START_NOISE, START_NOISE, 2)
        self._position = np.array(START) + noise
        return self._normalised()

    def _control(self, action: np.ndarray) -> Step:
        target = np.clip(self._position + self.step_size * action, 0.0, SIZE)
        if not self._crosses_wall(self._position, target):
            self._position = target
        success = bool(np.hypot(*(self._position - GOAL)) <= GOAL_RADIUS)
        return Step(self._normalised(), float(success), success, success)

    def _normalised(self) -> np.ndarray:
        return (self._position - SIZE / 2) / (SIZE / 2)

    def _crosses_wall(self, here: np.ndarray, there: np.ndarray) -> bool:
        (x0, y0), (x1, y1) = here, there
        if (x0 < WALL_X) == (x1 < WALL_X):
            return False
        y = y0 + (WALL_X - x0) / (x1 - x0) * (y1 - y0)
        return bool(y < self.wall_height)

    def _get_task_state(self) -> dict[str, Any]:
        return {"position": self._position.copy()}

    def _set_task_state(self, state: dict[str, Any]) -> None:
        self._position = np.array(state["position"], np.float64)

    def _frame(self, height: int, width: int, camera: str | int | None) -> np.ndarray:
        """Draws the maze from above, whatever the camera: wall grey, goal green, point red."""
        x = (np.arange(width) + 0.5) / width * SIZE
        y = SIZE - (np.arange(height)[:, None] + 0.5) / height * SIZE
        frame = np.full((height, width, 3), 255, np.uint8)
        frame[(np.abs(x - WALL_X) < 0.06) & (y < self.wall_height)] = (90, 90, 90)
        frame[np.hypot(x - GOAL[0], y - GOAL[1]) < GOAL_RADIUS] = (120, 200, 120)
        frame[np.hypot(x - self._position[0], y - self._position[1]) < 0.15] = (200, 40, 40)
        return frame

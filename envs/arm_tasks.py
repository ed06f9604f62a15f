"""What an arm is asked to do where no package brings the task: at present, to reach a point.

A task here needs nothing but the arm's own kinematics, so that the same one runs on the twin and on
the arm itself.
"""

from typing import Any

import numpy as np

from envs.base import UnknownTask
from envs.real_arm import Scene
from hardware.action_space import ActionSpace
from hardware.limits import Limits
from hardware.status import Status

TASKS = ("reach", "none")
LOWER, UPPER = (0.35, -0.2, 0.15), (0.55, 0.2, 0.45)  # m, of the points to reach
NEAR = 0.03  # m


class Reach:
    """Bring the tool to a point in the air, drawn from an episode's seed.

    Attributes:
        target: m, [3], in the frame of the arm's base.
    """

    def __init__(self, limits: Limits) -> None:
        """Takes the arm's kinematics."""
        self._chain = limits.chain
        self.target = np.add(LOWER, UPPER) / 2

    def scene(self, home: np.ndarray | None, *, dense: bool, **more: Any) -> Scene:
        """Returns it as a scene.

        Args:
            home: rad, [n].
            dense: reward every step by 1 - tanh(5 m) with m the distance in m.
            **more: further fields of `Scene`.
        """
        reward = (lambda status: 1.0 - np.tanh(5.0 * self.distance(status))) if dense else None
        return Scene(
            home,
            success=lambda status: self.distance(status) < NEAR,
            sense=lambda: self.target,
            prepare=self._draw,
            reward=reward,
            instruction="bring the gripper to the point",
            task="reach",
            **more,
        )

    def distance(self, status: Status) -> float:
        """m from the tool to the point."""
        return float(np.linalg.norm(self._chain.tool(status.state.position)[0] - self.target))

    def _draw(self, rng: np.random.Generator) -> None:
        self.target = rng.uniform(LOWER, UPPER)


class ReachExpert:
    """Moves the tool straight to the point, the gripper open."""

    action_dim = 7

    def __init__(self, actions: ActionSpace) -> None:
        """Takes what actions mean: tool deltas.

        Raises:
            UnknownTask: they mean something else.
        """
        if actions.mode != "tool delta":
            raise UnknownTask(f'the reach expert acts in tool deltas, not in "{actions.mode}"')
        self._move = actions.move

    def reset(self, rng: np.random.Generator | None = None) -> None:
        """Does nothing: the action depends on the observation only."""

    def act(self, obs: np.ndarray, info: dict[str, Any] | None = None) -> np.ndarray:
        """Returns the move towards the point, the last three numbers of the state."""
        way = (obs[-3:] - obs[14:17]) / self._move
        action = np.zeros(self.action_dim, np.float32)
        action[:3] = 0.6 * way / max(1.0, float(np.abs(way).max()))
        action[6] = -1.0
        return action

    def get_state(self) -> dict[str, Any]:
        """Returns an empty dict."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Does nothing."""


def make_scene(
    task: str, limits: Limits, home: np.ndarray | None, *, dense: bool = False, **more: Any
) -> tuple[Scene, Reach | None]:
    """Returns a task's scene, and the task.

    Raises:
        ValueError: there is no such task.
    """
    if task == "none":
        return Scene(home, **more), None
    if task != "reach":
        raise ValueError(f"task={task!r}; an arm's tasks are {', '.join(TASKS)}")
    reach = Reach(limits)
    return reach.scene(home, dense=dense, **more), reach

"""Scripted manipulation with an arm under operational-space control, from privileged state.

A plan is data: a list of `Waypoint`s, each a pose of the gripper in the world or over a body, and
what the fingers do. `SkillExpert` walks through a plan with the actions a policy would use (OSC
deltas in [-1, 1]) and plans again, with a higher attempt number, while the task is not done. Since
plans are data, an expert is saved and restored in the middle of one.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

OPEN, CLOSED = -1.0, 1.0
HERE = "here"  # in place of a body's name: where the gripper is when the waypoint begins
_DOWN = np.array([0.0, 0.0, -1.0])


@dataclass(frozen=True)
class Waypoint:
    """Where the gripper goes next.

    Attributes:
        position: m, from `body`'s position along the world's axes.
        grip: `OPEN` or `CLOSED`, held all the way.
        body: name of a body of the model, followed while it moves; "" is the world's origin, `HERE`
            where the gripper is at the waypoint's first step.
        rotation: 9 numbers, row by row, the gripper's frame in the world (z: approach, x: the
            line of the fingers); None keeps the one at the waypoint's first step.
        tolerance: m; arrived when the gripper is this near (and within `angle`).
        angle: rad.
        speed: largest action component, in (0, 1].
        hold: control steps to stay after arriving, as for closing the fingers.
        limit: control steps after which the next waypoint is taken anyway.
    """

    position: tuple[float, float, float]
    grip: float
    body: str = ""
    rotation: tuple[float, ...] | None = None
    tolerance: float = 0.01
    angle: float = 0.1
    speed: float = 1.0
    hold: int = 0
    limit: int = 60


class Arm:
    """One arm of a robosuite or LIBERO environment: what it senses, and actions towards poses.

    Attributes:
        action_dim: length of an action.
        moving: how many of its numbers move the arm; the others are its fingers'.
    """

    action_dim, moving = 7, 6

    def __init__(self, env: Any, robot: int = 0) -> None:
        """Reads the environment's model.

        Args:
            env: a `RobosuiteSim`, whose controller is OSC_POSE.
            robot: which of its robots.
        """
        self.env = env
        self._robot = robot
        self._facts: tuple[Any, dict[Any, Any]] = (None, {})

    def once(self, key: Any, find: Callable[[], Any]) -> Any:
        """What `find` returned for this key, looked for once per model."""
        if self._facts[0] is not self.env._model:
            self._facts = (self.env._model, {})
        known = self._facts[1]
        if key not in known:
            known[key] = find()
        return known[key]

    @property
    def sim(self) -> Any:
        """The package's environment, whose objects are privileged knowledge."""
        return self.env._sim

    @property
    def _controller(self) -> Any:
        return self.sim.robots[self._robot].controller

    @property
    def position(self) -> np.ndarray:
        """The point between the fingers in m, [3]."""
        return self.site(self._controller.eef_name)[0]

    @property
    def rotation(self) -> np.ndarray:
        """The gripper's frame in the world, [3, 3]."""
        return self.site(self._controller.eef_name)[1]

    def body(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] in m and rotation [3, 3] of a body."""
        found = self.env._data.body(name)
        return found.xpos.copy(), found.xmat.reshape(3, 3).copy()

    def site(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] in m and rotation [3, 3] of a site."""
        found = self.env._data.site(name)
        return found.xpos.copy(), found.xmat.reshape(3, 3).copy()

    def joint(self, name: str) -> float:
        """Position of a hinge (rad) or slide (m)."""
        return float(self.env._data.joint(name).qpos[0])

    def action(
        self, position: np.ndarray, rotation: np.ndarray, grip: float, speed: float = 1.0
    ) -> np.ndarray:
        """The action that moves straight to a pose, slowing down near it: float32[7]."""
        limits = np.asarray(self._controller.output_max, np.float64)
        move = np.concatenate([position - self.position, turn(self.rotation, rotation)]) / limits
        for part in (slice(0, 3), slice(3, 6)):  # keep the direction where a component saturates
            move[part] /= max(1.0, np.abs(move[part]).max() / speed)
        return np.append(move, grip).astype(np.float32)


def arm_of(env: Any) -> Any:
    """The arm of an environment: its own, or that of robosuite."""
    return env.arm() if hasattr(env, "arm") else Arm(env)


Planner = Callable[[Arm, int], Sequence[Waypoint]]


class SkillExpert:
    """Walks through plans; an `envs.Expert` that looks at the simulator, not the observation."""

    def __init__(self, env: Any, planner: Planner) -> None:
        """Keeps the environment to look at.

        Args:
            env: the environment that is acted on, of robosuite, LIBERO or the table-top.
            planner: arm and number of the attempt (from 0) to the waypoints of this attempt.
        """
        self._arm, self._planner = arm_of(env.unwrapped), planner
        self.action_dim: int = self._arm.action_dim
        self.reset()

    def reset(self, rng: np.random.Generator | None = None) -> None:
        """Begins an episode."""
        self._plan: list[Waypoint] = []
        self._attempt, self._index = -1, 0
        self._enter()

    def _enter(self) -> None:
        self._ticks = self._held = 0
        self._begun: tuple[np.ndarray, np.ndarray] | None = None  # where this waypoint began

    def act(self, obs: np.ndarray, info: Mapping[str, Any] | None = None) -> np.ndarray:
        """Returns `float32[action_dim]` in [-1, 1]; `obs` is not looked at."""
        arm = self._arm
        while True:
            if self._index >= len(self._plan):
                self._attempt, self._index = self._attempt + 1, 0
                self._plan = list(self._planner(arm, self._attempt))
                self._enter()
            waypoint = self._plan[self._index]
            if self._begun is None:
                self._begun = arm.position, arm.rotation
            target, rotation = self._goal(waypoint)
            if not self._arrived(waypoint, target, rotation):
                break
            self._index += 1
            self._enter()
        self._ticks += 1
        return arm.action(target, rotation, waypoint.grip, waypoint.speed)

    def _goal(self, waypoint: Waypoint) -> tuple[np.ndarray, np.ndarray]:
        """Position and rotation of a waypoint in the world now."""
        position, rotation = self._begun
        if waypoint.body != HERE:
            position = self._arm.body(waypoint.body)[0] if waypoint.body else np.zeros(3)
        if waypoint.rotation is not None:
            rotation = np.reshape(waypoint.rotation, (3, 3))
        return position + waypoint.position, rotation

    def _arrived(self, waypoint: Waypoint, target: np.ndarray, rotation: np.ndarray) -> bool:
        arm = self._arm
        if self._ticks >= waypoint.limit:
            return True
        near = np.linalg.norm(target - arm.position) < waypoint.tolerance
        near = near and np.linalg.norm(turn(arm.rotation, rotation)) < waypoint.angle
        if (near or self._held) and self._ticks:  # each waypoint acts at least once
            self._held += 1
        return self._held > waypoint.hold

    def get_state(self) -> dict[str, Any]:
        """Returns what later actions depend on, as numbers, lists and dicts."""
        return {
            "plan": [dataclasses.asdict(waypoint) for waypoint in self._plan],
            "attempt": self._attempt,
            "index": self._index,
            "ticks": self._ticks,
            "held": self._held,
            "begun": None if self._begun is None else [x.tolist() for x in self._begun],
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues from a state that `get_state` returned."""
        self._plan = [Waypoint(**waypoint) for waypoint in state["plan"]]
        self._attempt, self._index = state["attempt"], state["index"]
        self._ticks, self._held = state["ticks"], state["held"]
        begun = state["begun"]
        self._begun = None if begun is None else (np.array(begun[0]), np.array(begun[1]))


def about(axis: np.ndarray, angle: float) -> np.ndarray:
    """The rotation [3, 3] by `angle` (rad) around `axis`, of any length."""
    x, y, z = np.asarray(axis, np.float64) / np.linalg.norm(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + math.sin(angle) * cross + (1.0 - math.cos(angle)) * (cross @ cross)


def opening(arm: Arm) -> float:
    """The sum of how far each finger is from closed, m."""
    fingers = arm.sim.robots[0]._ref_gripper_joint_pos_indexes
    return float(np.abs(arm.env._data.qpos[fingers]).sum())


def holds(arm: Arm, point: np.ndarray) -> bool:
    """Tells whether the fingers are stopped by something at `point`: [3], m."""
    near = np.linalg.norm(arm.position - point) < 0.03
    return bool(near and 0.004 < opening(arm) < 0.07)


def turn(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Axis times angle, in rad and the world's axes, that turns one rotation into another, [3]."""
    relative = end @ start.T
    sine = 0.5 * np.array(
        [
            relative[2, 1] - relative[1, 2],
            relative[0, 2] - relative[2, 0],
            relative[1, 0] - relative[0, 1],
        ]
    )
    norm = float(np.linalg.norm(sine))
    angle = math.atan2(norm, (float(np.trace(relative)) - 1.0) / 2.0)
    if norm > 1e-9:
        return sine * (angle / norm)
    if angle < 1.0:
        return sine
    axis = np.sqrt(np.maximum(np.diag(relative) + 1.0, 0.0) / 2.0)  # half a turn
    return axis * angle


def pointing(approach: np.ndarray, fingers: np.ndarray) -> np.ndarray:
    """The rotation [3, 3] of a gripper that points along `approach`, its fingers along `fingers`.

    Neither needs unit length; what of `fingers` is along `approach` is taken away.
    """
    z = np.asarray(approach, np.float64) / np.linalg.norm(approach)
    x = np.asarray(fingers, np.float64) - np.dot(fingers, z) * z
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z], axis=1)


def downward(yaw: float, near: np.ndarray | None = None) -> np.ndarray:
    """The rotation of a gripper that points down, the line of its fingers at `yaw` (rad) to x.

    Args:
        yaw: a line, so `yaw` and `yaw + pi` are the same.
        near: the gripper's present rotation: of the two rotations, the nearer one is taken.
    """
    fingers = np.array([math.cos(yaw), math.sin(yaw), 0.0])
    both = [pointing(_DOWN, sign * fingers) for sign in (1.0, -1.0)]
    if near is None:
        return both[0]
    return min(both, key=lambda end: float(np.linalg.norm(turn(near, end))))


def flat(rotation: np.ndarray) -> tuple[float, ...]:
    """A rotation as `Waypoint` holds it."""
    return tuple(float(x) for x in np.ravel(rotation))


def grasp(
    body: str,
    rotation: np.ndarray,
    offset: Sequence[float] = (0.0, 0.0, 0.0),
    *,
    clearance: float = 0.1,
    lift: float = 0.15,
) -> list[Waypoint]:
    """From above the body down to it, fingers closed, and up again.

    Args:
        body: what to grasp.
        rotation: the gripper's, [3, 3].
        offset: of the grasp from the body's position, m, along the world's axes.
        clearance: m; the approach begins this far back along the gripper's own direction.
        lift: m.
    """
    at = np.asarray(offset, np.float64)
    back = at - clearance * rotation[:, 2]
    turned = flat(rotation)
    return [
        Waypoint(tuple(back), OPEN, body, turned, tolerance=0.02),
        Waypoint(tuple(at), OPEN, body, turned, tolerance=0.006, limit=40),
        Waypoint(tuple(at), CLOSED, body, turned, tolerance=1.0, angle=9.0, hold=8, limit=12),
        Waypoint((0.0, 0.0, lift), CLOSED, HERE, turned),
    ]


def put(
    position: Sequence[float],
    rotation: np.ndarray | None = None,
    *,
    travel: float,
    retreat: float = 0.1,
) -> list[Waypoint]:
    """What is held is lifted, carried, lowered and let go; the gripper withdraws upwards.

    Args:
        position: of the gripper where it lets go, m, in the world.
        rotation: the gripper's there, [3, 3]; None keeps the present one.
        travel: height of the gripper on the way, m, in the world.
        retreat: m.
    """
    x, y, z = (float(value) for value in position)
    turned = None if rotation is None else flat(rotation)
    high = max(travel, z)
    return [
        Waypoint((x, y, high), CLOSED, "", turned, tolerance=0.02, speed=0.8),
        Waypoint((x, y, z), CLOSED, "", turned, tolerance=0.008, speed=0.5, limit=40),
        Waypoint((x, y, z), OPEN, "", turned, tolerance=1.0, angle=9.0, hold=4, limit=8),
        Waypoint((0.0, 0.0, retreat), OPEN, HERE, tolerance=0.03, limit=15),
    ]


def pull(
    position: Sequence[float],
    rotation: np.ndarray,
    move: Sequence[float],
    *,
    clearance: float = 0.1,
    retreat: float = 0.06,
) -> list[Waypoint]:
    """A handle is gripped, drawn along a straight line and let go.

    Args:
        position: of the handle, m, in the world.
        rotation: the gripper's, [3, 3].
        move: of the handle, m.
        clearance: m; the approach begins this far back along the gripper's own direction.
        retreat: m, back along the gripper's direction.
    """
    at, back, turned = np.asarray(position, np.float64), -rotation[:, 2], flat(rotation)
    end = at + move
    return [
        Waypoint(tuple(at + clearance * back), OPEN, "", turned, tolerance=0.02),
        Waypoint(tuple(at), OPEN, "", turned, tolerance=0.008, limit=40),
        Waypoint(tuple(at), CLOSED, "", turned, tolerance=1.0, angle=9.0, hold=8, limit=12),
        Waypoint(tuple(end), CLOSED, "", turned, tolerance=0.015, speed=0.6),
        Waypoint(tuple(end), OPEN, "", turned, tolerance=1.0, angle=9.0, hold=4, limit=8),
        Waypoint(tuple(end + retreat * back), OPEN, "", turned, tolerance=0.02, limit=20),
    ]


def push(
    start: Sequence[float],
    end: Sequence[float],
    rotation: np.ndarray,
    grip: float,
    *,
    clearance: float = 0.08,
    speed: float = 0.4,
) -> list[Waypoint]:
    """The gripper goes down, moves along a straight line and up again.

    Args:
        start: of the gripper, m, in the world, where nothing is in its way.
        end: where it stops.
        rotation: the gripper's, [3, 3].
        grip: `OPEN` or `CLOSED`.
        clearance: m; it begins and ends this far back along its own direction.
        speed: largest action component of the push.
    """
    turned, back = flat(rotation), -clearance * rotation[:, 2]
    first, last = np.asarray(start, np.float64), np.asarray(end, np.float64)
    return [
        Waypoint(tuple(first + back), grip, "", turned, tolerance=0.02),
        Waypoint(tuple(first), grip, "", turned, tolerance=0.01, limit=20),
        Waypoint(tuple(last), grip, "", turned, tolerance=0.03, speed=speed),
        Waypoint(tuple(last + back), grip, "", turned, tolerance=0.03, limit=20),
    ]


def twist(
    position: Sequence[float], rotation: np.ndarray, angle: float, *, clearance: float = 0.08
) -> list[Waypoint]:
    """A knob is gripped from above, turned about the vertical and let go.

    Args:
        position: of the gripper at the knob, m, in the world.
        rotation: the gripper's before the turn, [3, 3].
        angle: rad, counterclockwise from above.
        clearance: m above.
    """
    turned = flat(about(-_DOWN, angle) @ rotation)
    at, before = np.asarray(position, np.float64), flat(rotation)
    above = tuple(at - clearance * _DOWN)
    return [
        Waypoint(above, OPEN, "", before, tolerance=0.02),
        Waypoint(tuple(at), OPEN, "", before, tolerance=0.006, limit=40),
        Waypoint(tuple(at), CLOSED, "", before, tolerance=1.0, angle=9.0, hold=6, limit=10),
        Waypoint(tuple(at), CLOSED, "", turned, tolerance=0.03, limit=40),
        Waypoint(tuple(at), OPEN, "", turned, tolerance=1.0, angle=9.0, hold=4, limit=8),
        Waypoint(above, OPEN, "", turned, tolerance=0.03, limit=20),
    ]

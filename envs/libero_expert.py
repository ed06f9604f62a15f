"""A scripted expert for LIBERO, planned from each task's own goal.

A goal is a list of predicates such as (in soup basket_region) or (open drawer). The planner takes
the first that does not hold and returns the waypoints of the skill that makes it hold, with
geometry from the model. It keeps nothing between calls, so that an expert can be saved, restored
and moved to another attempt.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs import skills
from envs.skills import CLOSED, HERE, OPEN, Arm, Planner, Waypoint

# How an object is held, by the beginning of its name; others are held across.
_RIM = ("akita_black_bowl", "plate", "white_bowl", "porcelain_mug", "red_coffee_mug", "white_yellow")
_FINGERTIP = 0.012  # m from the point between the fingers to the fingertips
_PALM = 0.035  # m from there back to the palm, as far as an object may reach
_SPAN = 0.074  # m, the widest that is taken between the fingers
_FINGER = 0.045  # m from the gripper's middle to an open finger


def planner(env: Any) -> Planner:
    """Returns the planner of a LIBERO task for `skills.SkillExpert`.

    Args:
        env: a `LiberoEnv`, whose parsed goal is followed.
    """
    goals = [tuple(goal) for goal in env._sim.parsed_problem["goal_state"]]

    def plan(arm: Arm, attempt: int) -> list[Waypoint]:
        stages = _stages(arm, goals)
        done = [_holds(arm, stage) for stage in stages]
        if all(done):
            return [Waypoint((0.0, 0.0, 0.0), OPEN, HERE)]
        stage = stages[done.index(False)]
        return _SKILLS[stage[0]](arm, *stage[1:], max(0, attempt - 2 * sum(done)))

    return plan


def _holds(arm: Arm, stage: tuple[str, ...]) -> bool:
    return bool(arm.sim._eval_predicate(list(stage)))


def _stages(arm: Arm, goals: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Goals in the order in which they are reached, with what they need before."""
    order = {"open": 0, "turnon": 1, "in": 2, "on": 2, "close": 3}
    return sorted(goals, key=lambda goal: order[goal[0]])


# ---------------------------------------------------------------- geometry


@dataclass(frozen=True)
class Boxes:
    """Oriented boxes around collision shapes: centres [n, 3], rotations [n, 3, 3], halves."""

    centers: np.ndarray
    rotations: np.ndarray
    halves: np.ndarray

    def distance(self, points: np.ndarray) -> float:
        """Smallest distance in m from any of the points [k, 3] to a box, 0 inside."""
        away = points[:, None] - self.centers
        local = np.abs(np.einsum("kni,nij->knj", away, self.rotations))
        outside = np.maximum(local - self.halves, 0.0)
        return float(np.sqrt((outside**2).sum(-1)).min(initial=1.0))

    def bounds(self, center: np.ndarray, rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner, each [3], in the frame with this centre and rotation."""
        middles = (self.centers - center) @ rotation
        reach = np.einsum("nij,nj->ni", np.abs(rotation.T @ self.rotations), self.halves)
        return (middles - reach).min(0), (middles + reach).max(0)


def _boxes(arm: Arm, body: str = "", leave_out: str = "") -> Boxes:
    """Boxes of a body's tree, or of everything but the robot and what is left out."""
    model, data = arm.env._model, arm.env._data
    roots = {model.body(name).id for name in (body, leave_out) if name}
    chosen = []
    for geom in np.flatnonzero(model.geom_contype | model.geom_conaffinity):
        at = model.geom_bodyid[geom]
        inside = False
        while at and not inside:
            inside = at in roots
            at = model.body_parentid[at]
        robot = model.body(model.geom_bodyid[geom]).name.startswith(("robot", "gripper", "mount"))
        plane = model.geom_type[geom] == 0
        if not plane and (inside if body else not (inside or robot)):
            chosen.append(geom)
    rotations = data.geom_xmat[chosen].reshape(-1, 3, 3)
    offsets = np.einsum("nij,nj->ni", rotations, model.geom_aabb[chosen, :3])
    return Boxes(data.geom_xpos[chosen] + offsets, rotations, model.geom_aabb[chosen, 3:])


def _body(arm: Arm, name: str) -> str:
    """Name of the model's body of an object or fixture."""
    return arm.env._model.body(arm.sim.obj_body_id[name]).name


def _height(arm: Arm, name: str) -> tuple[float, float]:
    """How far an object reaches below and above its origin, m."""
    position, _ = arm.body(_body(arm, name))
    low, high = _boxes(arm, _body(arm, name)).bounds(position, np.eye(3))
    return float(low[2]), float(high[2])


# ---------------------------------------------------------------- grasps


def _grasps(arm: Arm, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ways to hold an object from above, the most promising first: offset [3], rotation [3, 3]."""
    body = _body(arm, name)
    position, _ = arm.body(body)
    options = _rim(arm, body) if name.startswith(_RIM) else _across(arm, body)
    around = _boxes(arm, leave_out=body)

    def cost(option: tuple[np.ndarray, np.ndarray]) -> float:
        offset, rotation = option
        line, back = rotation[:, 0], -rotation[:, 2]
        tips = [s * _FINGER * line + u * back for s in (1, -1) for u in (0.0, 0.03, 0.06)]
        hand = [s * line + 0.09 * back for s in (0.1, 0.05, 0.0, -0.05, -0.1)]
        points = position + offset + np.array(tips + hand)
        crowded = max(0.0, 0.02 - around.distance(points)) / 0.02
        return 10.0 * crowded + float(np.linalg.norm(skills.turn(arm.rotation, rotation)))

    return sorted(options, key=cost)


def _across(arm: Arm, body: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Between the fingers across the object, near its middle but below the palm."""
    position, rotation = arm.body(body)
    boxes = _boxes(arm, body)
    up = int(np.argmax(np.abs(rotation[2])))
    low, high = boxes.bounds(position, rotation)
    middle = rotation @ ((low + high) / 2)
    below, above = boxes.bounds(position, np.eye(3))
    height = max(middle[2], above[2] - _PALM, below[2] + _FINGERTIP)
    offset = np.array([middle[0], middle[1], height])
    axes = [axis for axis in range(3) if axis != up]
    width = high - low
    yaws = [math.atan2(rotation[1, a], rotation[0, a]) for a in axes if width[a] < _SPAN]
    if len(yaws) == 2 and len(boxes.halves) > 8:  # round, so any direction will do
        yaws = [math.pi / 8 * step for step in range(8)]
    return [(offset, skills.downward(yaw, arm.rotation)) for yaw in yaws]


def _rim(arm: Arm, body: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """One finger inside, one outside, around the rim."""
    position, _ = arm.body(body)
    boxes = _boxes(arm, body)
    low, high = boxes.bounds(position, np.eye(3))
    middle, radius = (low + high) / 2, float((high - low)[:2].min()) / 2
    options = []
    for step in range(16):
        yaw = 2 * math.pi * step / 16
        toward = np.array([math.cos(yaw), math.sin(yaw), 0.0])
        offset = np.array([middle[0], middle[1], high[2] - 0.012]) + (radius - 0.005) * toward
        options.append((offset, skills.downward(yaw, arm.rotation)))
    return options


# ---------------------------------------------------------------- skills


def _move(arm: Arm, name: str, target: str, attempt: int) -> list[Waypoint]:
    """Takes an object, or puts it where it belongs if it is held."""
    body = _body(arm, name)
    if not _held(arm, name):
        options = _grasps(arm, name)
        offset, rotation = options[attempt % len(options)]
        return skills.grasp(body, rotation, offset, lift=0.1)
    goal, over = _destination(arm, name, target)
    hold = arm.position - arm.body(body)[0]
    return skills.put(goal + hold, travel=max(over + 0.05 + hold[2], arm.position[2]))


def _held(arm: Arm, name: str) -> bool:
    sim = arm.sim
    return bool(sim._check_grasp(sim.robots[0].gripper, sim.get_object(name).contact_geoms))


def _destination(arm: Arm, name: str, target: str) -> tuple[np.ndarray, float]:
    """Where an object's origin goes, [3], and the height over which its origin is carried, m."""
    below, _ = _height(arm, name)
    if target in arm.sim.object_sites_dict:
        site, rotation = arm.site(target)
        half = np.abs(rotation @ arm.env._model.site(target).size)
        parent = arm.sim.object_sites_dict[target].parent_name
        inside = half[2] > 0.01
        floor = site[2] - half[2] if inside else site[2] + half[2]
        top = _top(arm, parent) if parent in arm.sim.obj_body_id else floor
        height = max(floor, top - 0.02) if inside else floor
        return np.array([site[0], site[1], height - below + 0.01]), max(top, height) - below
    position, _ = arm.body(_body(arm, target))
    return position + [0.0, 0.0, 0.015], _top(arm, target) - below


def _top(arm: Arm, name: str) -> float:
    """Height of the highest point of an object or fixture, m."""
    return float(arm.body(_body(arm, name))[0][2] + _height(arm, name)[1])


_SKILLS = {"in": _move, "on": _move}

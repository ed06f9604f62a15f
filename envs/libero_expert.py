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
from envs.base import UnknownTask
from envs.skills import CLOSED, HERE, OPEN, Arm, Planner, Waypoint

# How an object is held, by the beginning of its name; others are held across.
RIM = (
    "akita_black_bowl",
    "plate",
    "white_bowl",
    "porcelain_mug",
    "red_coffee_mug",
    "white_yellow_mug",
)
_KNOB = ("moka_pot",)  # on the lid
_PUSHED = ("plate",)  # not lifted to a place on the table
_FINGERTIP = 0.012  # m from the point between the fingers to the fingertips
_PALM = 0.035  # m from there back to the palm, as far as an object may reach
_SPAN = 0.074  # m, the widest that is taken between the fingers
_FINGER = 0.045  # m from the gripper's middle to an open finger


def planner(env: Any) -> Planner:
    """Returns the planner of a LIBERO task for `skills.SkillExpert`.

    Args:
        env: a `LiberoEnv`, whose parsed goal is followed.

    Raises:
        UnknownTask: the goal needs what there is no skill for, as a microwave's door.
    """
    goals = [tuple(goal) for goal in env._sim.parsed_problem["goal_state"]]
    arm = Arm(env)
    for goal in goals:
        hinge = goal[0] in ("in", "open", "close") and any(
            env._model.joint(joint).type[0] == 3 for joint in joints_of(arm, goal[-1])
        )
        if goal[0] not in _SKILLS or hinge:
            raise UnknownTask(
                f"{env.identity['id']}: no skill of the scripted expert reaches {goal}; it opens "
                "and closes drawers, not doors"
            )

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
    stages = sorted(goals, key=lambda goal: order[goal[0]])
    for goal in goals:  # what goes into a drawer needs it open
        if goal[0] == "in" and joints_of(arm, goal[2]) and not _holds(arm, goal):
            stages.insert(0, ("open", goal[2]))
    return stages


# ---------------------------------------------------------------- geometry


@dataclass(frozen=True)
class Boxes:
    """Oriented boxes around collision shapes: centres [n, 3], rotations [n, 3, 3], halves."""

    centers: np.ndarray
    rotations: np.ndarray
    halves: np.ndarray

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Distance in m from each of the points [k, 3] to the nearest box, 0 inside: [k]."""
        away = points[:, None] - self.centers
        local = np.abs(np.einsum("kni,nij->knj", away, self.rotations))
        outside = np.maximum(local - self.halves, 0.0)
        return np.sqrt((outside**2).sum(-1)).min(1, initial=1.0)

    def bounds(self, center: np.ndarray, rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner, each [3], in the frame with this centre and rotation."""
        middles = (self.centers - center) @ rotation
        reach = np.einsum("nij,nj->ni", np.abs(rotation.T @ self.rotations), self.halves)
        return (middles - reach).min(0), (middles + reach).max(0)

    def top(self, start: np.ndarray, end: np.ndarray, aside: float = 0.07) -> float:
        """Height of what stands on the way between two points, m; -inf where nothing does."""
        reach = np.einsum("nij,nj->ni", np.abs(self.rotations), self.halves)
        way = start + np.linspace(0.0, 1.0, 20)[:, None] * (np.asarray(end) - start)
        gap = np.abs(way[:, None, :2] - self.centers[:, :2]) - reach[:, :2]
        near = (np.maximum(gap, 0.0).max(-1) < aside).any(0)
        return float((self.centers + reach)[near, 2].max(initial=-math.inf))


def boxes_of(arm: Arm, body: str = "", leave_out: str = "") -> Boxes:
    """Boxes of a body's tree, or of everything but the robot and what is left out."""
    model, data = arm.env._model, arm.env._data
    chosen = arm.once((body, leave_out), lambda: _geoms(model, body, leave_out))
    rotations = data.geom_xmat[chosen].reshape(-1, 3, 3)
    offsets = np.einsum("nij,nj->ni", rotations, model.geom_aabb[chosen, :3])
    return Boxes(data.geom_xpos[chosen] + offsets, rotations, model.geom_aabb[chosen, 3:])


def _geoms(model: Any, body: str, leave_out: str) -> list[int]:
    """Collision shapes of a body's tree, or of everything but the robot and what is left out."""
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
    return chosen


def body_of(arm: Arm, name: str) -> str:
    """Name of the model's body of an object or fixture."""
    return arm.env._model.body(arm.sim.obj_body_id[name]).name


def extent(arm: Arm, name: str) -> tuple[float, float]:
    """How far an object reaches below and above its origin, m."""
    position, _ = arm.body(body_of(arm, name))
    low, high = boxes_of(arm, body_of(arm, name)).bounds(position, np.eye(3))
    return float(low[2]), float(high[2])


# ---------------------------------------------------------------- grasps


@dataclass(frozen=True)
class Grasp:
    """A way to hold an object: gripper's offset from its origin in the world, and rotation."""

    offset: np.ndarray
    rotation: np.ndarray
    oddness: float = 0.0  # how much worse than the usual one, in rad of turning

    def points(self, position: np.ndarray) -> np.ndarray:
        """Points [k, 3] of open fingers and hand, now and as they come near."""
        line, side, back = self.rotation[:, 0], self.rotation[:, 1], -self.rotation[:, 2]
        tips = [s * _FINGER * line + u * back for s in (1, -1) for u in (0.0, 0.03)]
        along = (-0.1, -0.07, -0.035, 0.0, 0.035, 0.07, 0.1)
        hand = [
            s * line + t * side + u * back
            for s in along
            for t in (-0.025, 0.025)
            for u in (0.055, 0.09, 0.15)
        ]
        points = position + self.offset + np.array(tips + hand)
        return np.concatenate([points + u * back for u in (0.0, 0.06, 0.12)])


def grasps(arm: Arm, name: str) -> list[Grasp]:
    """Ways to hold an object from above, the most promising first."""
    body = body_of(arm, name)
    position, _ = arm.body(body)
    if name.startswith(RIM):
        options = _rim(arm, body)
    else:
        options = _knob(arm, body) if name.startswith(_KNOB) else _across(arm, body)
    around, shoulder = boxes_of(arm, leave_out=body), arm.body("robot0_link2")[0]

    def cost(grasp: Grasp) -> float:
        near = around.distance(grasp.points(position))
        crowded = float(np.maximum(0.0, 1.0 - near / 0.02).sum())
        wrist = position + grasp.offset - 0.2 * grasp.rotation[:, 2]
        stretched = max(0.0, float(np.linalg.norm(wrist - shoulder)) - 0.65)
        turned = float(np.linalg.norm(skills.turn(arm.rotation, grasp.rotation)))
        return crowded + 80.0 * stretched + turned + grasp.oddness

    return sorted(options, key=cost)


def _frame(arm: Arm, body: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Position and upright frame of a body, and its lowest and highest corner in that frame.

    The frame's z is the body's axis nearest to the vertical, its x and y the other two.
    """
    position, rotation = arm.body(body)
    up = int(np.argmax(np.abs(rotation[2])))
    z = rotation[:, up] * np.sign(rotation[2, up])
    x = rotation[:, (up + 1) % 3]
    frame = np.stack([x, np.cross(z, x), z], axis=1)
    return position, frame, *boxes_of(arm, body).bounds(position, frame)


def _across(arm: Arm, body: str) -> list[Grasp]:
    """Between the fingers across the object, near its middle but below the palm."""
    position, frame, low, high = _frame(arm, body)
    boxes = boxes_of(arm, body)
    middle = frame @ ((low + high) / 2)
    below, above = boxes.bounds(position, np.eye(3))
    middle[2] = max(middle[2], above[2] - _PALM, below[2] + _FINGERTIP)
    width = (high - low)[:2]
    round_ = len(boxes.halves) > 8 and abs(width[0] - width[1]) < 0.1 * width.max()
    options = []
    for axis in (0, 1):
        if width[axis] > _SPAN:
            continue
        yaw = math.atan2(frame[1, axis], frame[0, axis])
        for aside in (-0.4, -0.2, 0.0, 0.2, 0.4):  # a box turns as the fingers close
            if round_ or width[axis] + width[1 - axis] * abs(math.sin(aside)) < _SPAN:
                rotation = skills.downward(yaw + aside, arm.rotation)
                options.append(Grasp(middle, rotation, 0.0 if round_ else abs(aside)))
    return options


def _knob(arm: Arm, body: str) -> list[Grasp]:
    """Across the narrow side of what stands on top."""
    boxes = boxes_of(arm, body)
    bar = int(np.argmax(boxes.centers[:, 2]))
    rotation, half = boxes.rotations[bar], boxes.halves[bar]
    level = [axis for axis in range(3) if abs(rotation[2, axis]) < 0.5]
    across = rotation[:, min(level, key=lambda axis: half[axis])]
    offset = boxes.centers[bar] + [0.0, 0.0, 0.008] - arm.body(body)[0]
    return [Grasp(offset, skills.downward(math.atan2(across[1], across[0]), arm.rotation))]


def _rim(arm: Arm, body: str) -> list[Grasp]:
    """One finger inside, one outside, around the rim."""
    _, frame, low, high = _frame(arm, body)
    radius = float((high - low)[:2].min()) / 2
    center = np.append(((low + high) / 2)[:2], max(high[2] - 0.012, low[2] + 0.018))
    options = []
    for step in range(16):
        yaw = 2 * math.pi * step / 16
        toward = np.array([math.cos(yaw), math.sin(yaw), 0.0])
        offset = frame @ (center + (radius - 0.005) * toward)
        line = frame @ toward
        rotation = skills.downward(math.atan2(line[1], line[0]), arm.rotation)
        for tilt in (0.0, 0.5, -0.5):  # to lean away from what stands beside
            leaning = skills.about(line, tilt) @ rotation
            options.append(Grasp(offset, leaning, abs(tilt)))
    return options


# ---------------------------------------------------------------- skills


def _move(arm: Arm, name: str, target: str, attempt: int) -> list[Waypoint]:
    """Takes an object, or puts it where it belongs if it is held."""
    body = body_of(arm, name)
    if name.startswith(_PUSHED) and region_of(arm, target) == 0:
        return shift(arm, name, arm.site(target)[0])
    if not held(arm, name):
        options = grasps(arm, name)
        if not options:  # as it lies, nothing of it fits between the fingers
            return [Waypoint((0.0, 0.0, 0.05), OPEN, HERE, limit=20)]
        return take(arm, body, options[attempt % len(options)])
    position, _ = arm.body(body)
    goal = destination(arm, name, target)
    below, _ = extent(arm, name)
    over = boxes_of(arm, leave_out=body).top(position, goal) - below + 0.02
    hold = arm.position - position
    lift = [Waypoint((0.0, 0.0, over - position[2]), CLOSED, HERE, tolerance=0.03, limit=30)]
    return lift * int(over > position[2]) + skills.put(goal + hold, travel=over + hold[2])


def take(arm: Arm, body: str, grasp: Grasp) -> list[Waypoint]:
    """Comes from high enough to pass over what stands around, then grasps."""
    plan = descend(arm, body, grasp)
    around, at = boxes_of(arm, leave_out=body), arm.body(body)[0] + grasp.offset
    over = around.top(arm.position, at, 0.07) + 0.03
    first = []
    if arm.position[2] < over:
        rise = (0.0, 0.0, over - arm.position[2])
        first.append(Waypoint(rise, OPEN, HERE, tolerance=0.03, limit=25))
    height = over - arm.body(body)[0][2]
    if plan[0].position[2] < height:
        x, y, _ = plan[0].position
        turned = skills.flat(grasp.rotation)
        first.append(Waypoint((x, y, height), OPEN, body, turned, tolerance=0.04, angle=0.5))
    return first + plan


def descend(arm: Arm, body: str, grasp: Grasp) -> list[Waypoint]:
    """Grasps an object from above it, where nothing is in the way, and lifts it a little."""
    around, at = boxes_of(arm, leave_out=body), arm.body(body)[0] + grasp.offset
    clearance = max(0.08, around.top(at, at, 0.1) + 0.02 - at[2])
    plan = skills.grasp(body, grasp.rotation, grasp.offset, clearance=clearance, lift=0.05)
    aside = _way_out(arm, body)
    if np.any(aside):
        plan.insert(-1, Waypoint((*aside[:2], 0.01), CLOSED, HERE, speed=0.5))
    return plan


def _way_out(arm: Arm, body: str) -> np.ndarray:
    """The shortest of some moves sideways after which nothing is above an object, m, [3]."""
    position, _ = arm.body(body)
    low, high = boxes_of(arm, body).bounds(position, np.eye(3))
    around, radius = boxes_of(arm, leave_out=body), float((high - low)[:2].max()) / 2 + 0.01
    for distance in (0.0, 0.03, 0.06, 0.09, 0.12):
        for step in range(8):
            yaw = 2 * math.pi * step / 8
            move = distance * np.array([math.cos(yaw), math.sin(yaw), 0.0])
            if around.top(position + move, position + move, radius) < position[2] + high[2]:
                return move
    return np.zeros(3)


def held(arm: Arm, name: str) -> bool:
    """Whether both fingers touch an object."""
    sim = arm.sim
    return bool(sim._check_grasp(sim.robots[0].gripper, sim.get_object(name).contact_geoms))


def destination(arm: Arm, name: str, target: str) -> np.ndarray:
    """Where an object's origin goes, [3]."""
    below, _ = extent(arm, name)
    if target in arm.sim.object_sites_dict:
        site, rotation = arm.site(target)
        half = np.abs(rotation @ arm.env._model.site(target).size)
        # side by side with what else the goal puts there
        sharing = [goal[1] for goal in arm.sim.parsed_problem["goal_state"] if target in goal]
        place = (sharing.index(name) + 0.5) / len(sharing) - 0.5 if name in sharing else 0.0
        site[0] += (1.2 if half[2] > 0.01 else 2.4) * half[0] * place
        floor = site[2] + half[2]
        if region := region_of(arm, target):
            around = boxes_of(arm, arm.env._model.body(region).name)
            if half[2] > 0.01:  # a space to be in: let go where the hand is above its walls
                _, top = around.bounds(np.zeros(3), np.eye(3))
                floor = max(site[2] - half[2], top[2] - 0.02)
            elif abs(rotation[2, 2]) > 0.9:  # level
                floor = max(floor, around.top(site, site, 0.0))
        return np.array([site[0], site[1], floor - below + 0.01])
    position, _ = arm.body(body_of(arm, target))
    return position + np.array([0.0, 0.0, 0.015])


def region_of(arm: Arm, site: str) -> int:
    """Number of the body that a region belongs to; 0 for a place on the table."""
    body = int(arm.env._model.site(site).bodyid[0])
    return body if arm.sim.object_sites_dict[site].joints is not None else 0


def shift(arm: Arm, name: str, goal: np.ndarray) -> list[Waypoint]:
    """Pushes an object over the table, the open fingers around its side."""
    position, _ = arm.body(body_of(arm, name))
    low, high = boxes_of(arm, body_of(arm, name)).bounds(position, np.eye(3))
    way = (goal - position) * [1.0, 1.0, 0.0]
    length = float(np.linalg.norm(way))
    behind = -float((high - low)[:2].max()) / 2 * way / length
    behind[2] = low[2] - 0.02  # pressed on the table, not to slip over the rim
    approach = np.array([0.0, 0.0, -1.0]) - 0.4 * way / length  # the hand leans over the object
    rotation = _nearest(arm, approach, np.cross(way, [0.0, 0.0, 1.0]))
    start = position + behind * [1.15, 1.15, 1.0]
    return skills.push(start, position + way + behind, rotation, OPEN)


def joints_of(arm: Arm, name: str) -> list[str]:
    """Joints of an articulated object or of the drawer around a region."""
    sites = arm.sim.object_sites_dict
    return list((sites[name] if name in sites else arm.sim.get_object(name)).joints or ())


def slide(arm: Arm, joint: str) -> tuple[str, np.ndarray, float]:
    """A joint's body, its axis in the world [3], its position."""
    model, data = arm.env._model, arm.env._data
    body = model.body(model.joint(joint).bodyid[0]).name
    return body, data.joint(joint).xaxis.copy(), arm.joint(joint)


def open_drawer(arm: Arm, name: str, attempt: int) -> list[Waypoint]:
    """Pulls a drawer by its handle, which is what reaches out farthest."""
    body, axis, q = slide(arm, joints_of(arm, name)[0])
    boxes = boxes_of(arm, body)
    handle = boxes.centers[np.argmax(boxes.centers @ -axis)]
    rotation = _nearest(arm, axis, np.array([0.0, 0.0, 1.0]))
    return skills.pull(handle, rotation, (0.17 + q) * -axis)


def close_drawer(arm: Arm, name: str, attempt: int) -> list[Waypoint]:
    """Pushes a drawer's handle, the hand leaning away from the front."""
    body, axis, q = slide(arm, joints_of(arm, name)[0])
    boxes = boxes_of(arm, body)
    handle = boxes.centers[np.argmax(boxes.centers @ -axis)]
    rotation = _nearest(arm, axis - [0.0, 0.0, 1.5], np.cross(axis, [0.0, 0.0, 1.0]))
    return skills.push(handle - 0.05 * axis, handle + (0.06 - q) * axis, rotation, CLOSED)


def _nearest(arm: Arm, approach: np.ndarray, line: np.ndarray) -> np.ndarray:
    """The rotation of the two with this line of the fingers that is nearer to the present one."""
    both = [skills.pointing(approach, sign * line) for sign in (1.0, -1.0)]
    return min(both, key=lambda end: float(np.linalg.norm(skills.turn(arm.rotation, end))))


def turn_knob(arm: Arm, name: str, attempt: int, target: float = 0.9) -> list[Waypoint]:
    """Twists a knob by the bar on its top, to a position in rad."""
    body, axis, q = slide(arm, joints_of(arm, name)[0])
    (grip,) = _knob(arm, body)
    position = arm.body(body)[0] + grip.offset
    return skills.twist(position, grip.rotation, (target - q) * np.sign(axis[2]))


_SKILLS = {
    "in": _move,
    "on": _move,
    "open": open_drawer,
    "close": close_drawer,
    "turnon": turn_knob,
}

"""Scripted experts of robosuite's one-arm tasks, for the Panda under OSC_POSE.

Each planner looks at the simulator and returns the waypoints of the next stage: what is held is
carried to its goal, else what is not yet at its goal is grasped. So a lost grip is a new attempt.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.base import UnknownTask
from envs.skills import (
    CLOSED,
    HERE,
    OPEN,
    Arm,
    Planner,
    SkillExpert,
    Waypoint,
    about,
    flat,
    grasp,
    holds,
    pointing,
    turn,
)

UP = np.array([0.0, 0.0, 1.0])
HOME = pointing(-UP, np.array([0.0, 1.0, 0.0]))  # near the gripper's rotation after a reset
FINGERTIP, FINGER_REACH, HAND_REACH = 0.025, 0.055, 0.1  # m: below the palm; to both sides
WIDEST = 0.035  # m; half of what goes between the open fingers, with some room


@dataclass(frozen=True)
class Box:
    """A free body that is about a box.

    Attributes:
        body: its name.
        half: half of its sides along the body's axes, m.
        centre: in the body's frame, m.
    """

    body: str
    half: tuple[float, float, float]
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def pose(self, arm: Arm) -> tuple[np.ndarray, np.ndarray]:
        """Centre [3] in m and rotation [3, 3]."""
        position, rotation = arm.body(self.body)
        return position + rotation @ self.centre, rotation

    def height(self, rotation: np.ndarray) -> float:
        """From the centre to the top, m."""
        return float(np.abs(rotation[2]) @ self.half)

    def grip(self, arm: Arm) -> np.ndarray:
        """Where to grasp it from above: [3], m; the centre, or higher if it is tall."""
        centre, rotation = self.pose(arm)
        return centre + max(0.0, self.height(rotation) - FINGERTIP) * UP


Room = Callable[[np.ndarray, np.ndarray], float]  # grip, line of the fingers -> free space in m


def grips(arm: Arm, box: Box, room: Room | None = None) -> list[np.ndarray]:
    """The gripper's rotations [3, 3], pointing down, that fit over a box as it lies; best first.

    Args:
        arm: the arm.
        box: what to grasp.
        room: up to 2 cm of free space for the fingers are sought; else the least turn from `HOME`.
    """
    _, rotation = box.pose(arm)
    found = []
    for axis, half in zip(rotation.T, box.half, strict=True):
        if abs(axis[2]) < 0.5 and half < WIDEST:
            ends = [pointing(-UP, sign * axis) for sign in (1.0, -1.0)]
            found.append(min(ends, key=lambda end: float(np.linalg.norm(turn(HOME, end)))))
    found = found or [HOME]

    def cost(end: np.ndarray) -> tuple[float, float]:
        space = 0.0 if room is None else room(box.grip(arm), end[:, 0])
        return -min(round(space, 3), 0.02), float(np.linalg.norm(turn(HOME, end)))

    return sorted(found, key=cost)


def clear_of(arm: Arm, boxes: Sequence[Box]) -> Room:
    """Free space between the open fingers and other boxes."""
    others = [(box.pose(arm)[0], max(box.half[:2])) for box in boxes]

    def room(grip: np.ndarray, fingers: np.ndarray) -> float:
        ends = [grip + sign * FINGER_REACH * fingers for sign in (1.0, -1.0)]
        return min(
            (np.linalg.norm((end - at)[:2]) - size for end in ends for at, size in others),
            default=1.0,
        )

    return room


def pick(arm: Arm, box: Box, rotation: np.ndarray, rise: float = 0.15) -> list[Waypoint]:
    """Grasps a box from above and lifts it.

    Args:
        arm: the arm; if it is low, it rises first.
        box: what to grasp.
        rotation: of the gripper, [3, 3].
        rise: m.
    """
    grip = box.grip(arm)
    low = Waypoint((0.0, 0.0, 0.1), OPEN, HERE, tolerance=0.05)
    first = [low] if arm.position[2] < grip[2] + 0.06 else []
    return [*first, *grasp(box.body, rotation, grip - arm.body(box.body)[0], lift=rise)]


def place(
    goal: np.ndarray, rotation: np.ndarray, height: float, *, tolerance: float = 0.01
) -> list[Waypoint]:
    """Carries what is held over the goal, down, and lets go.

    Args:
        goal: of the gripper, [3], m.
        rotation: of the gripper at the goal, [3, 3].
        height: of the gripper on the way, m.
        tolerance: at the goal, m.
    """
    over, turned = (*goal[:2], height), flat(rotation)
    return [
        Waypoint(over, CLOSED, "", turned, tolerance=tolerance, limit=90),
        Waypoint(tuple(goal), CLOSED, "", turned, tolerance=tolerance, speed=0.5),
        Waypoint(tuple(goal), OPEN, "", turned, tolerance=1.0, angle=9.0, hold=4),
        Waypoint((0.0, 0.0, 0.1), OPEN, HERE, tolerance=0.03),
    ]


def up_to(arm: Arm, height: float) -> Waypoint:
    """Straight up with what is held; height in m."""
    return Waypoint((*arm.position[:2], height), CLOSED, tolerance=0.03)


def _try(arm: Arm, box: Box, attempt: int, room: Room | None = None) -> list[Waypoint]:
    """Each attempt takes another of the rotations that fit."""
    choice = grips(arm, box, room)
    return pick(arm, box, choice[attempt % len(choice)])


def lift(arm: Arm, attempt: int) -> list[Waypoint]:
    """Lift: the cube 4 cm above the table."""
    return _try(arm, CUBE, attempt)


CUBE = Box("cube_main", (0.021, 0.021, 0.021))
CUBE_A = Box("cubeA_main", (0.02, 0.02, 0.02))
CUBE_B = Box("cubeB_main", (0.025, 0.025, 0.025))


def stack(arm: Arm, attempt: int) -> list[Waypoint]:
    """Stack: the red cube on the green one."""
    if not holds(arm, CUBE_A.grip(arm)):
        return _try(arm, CUBE_A, attempt, clear_of(arm, [CUBE_B]))
    held = arm.position - CUBE_A.pose(arm)[0]
    goal = CUBE_B.pose(arm)[0] + (held[2] + 0.025 + 0.02 + 0.004) * UP
    height = goal[2] + 0.06
    return [up_to(arm, height), *place(goal, arm.rotation, height, tolerance=0.005)]


GROCERIES = (  # in the order of the package's bins; measured from its meshes
    Box("Milk_main", (0.02, 0.02, 0.072), (0.0, 0.0, 0.011)),
    Box("Bread_main", (0.024, 0.02, 0.024)),
    Box("Cereal_main", (0.05, 0.015, 0.075)),
    Box("Can_main", (0.025, 0.025, 0.04)),
)
BIN_HEIGHT = 0.9  # m; the upper edge of its walls
REACH = 0.78  # m; of the gripper pointing down at this height, from the robot's base


def pick_place(arm: Arm, attempt: int) -> list[Waypoint]:
    """PickPlace: each object of the left bin into its part of the right one."""
    sim = arm.sim
    present = [i for i, box in enumerate(GROCERIES) if abs(arm.body(box.body)[0]).max() < 2.0]
    todo = [i for i in present if sim.not_in_bin(arm.body(GROCERIES[i].body)[0], i)]
    for i in todo:
        box = GROCERIES[i]
        if holds(arm, box.grip(arm)):
            centre, rotation = box.pose(arm)
            held = arm.position[2] - centre[2] + box.height(rotation)  # above the bin's floor
            goal = _in_reach(arm, sim.target_bin_placements[i]) + (held + 0.02 + 0.015) * UP
            height = BIN_HEIGHT + 0.02 + held
            return [up_to(arm, height), *place(goal, HOME, height)]
    if not todo:
        return [Waypoint((0.0, 0.0, 0.1), OPEN, HERE)]
    target = min(todo, key=lambda i: np.linalg.norm(GROCERIES[i].grip(arm) - arm.position))
    if attempt % 5 == 4:  # the nearest one may be stuck
        target = todo[attempt % len(todo)]
    others = clear_of(arm, [GROCERIES[i] for i in present if i != target])
    room = functools.partial(_room_in_bin, others, sim.bin1_pos, sim.bin_size)
    return _try(arm, GROCERIES[target], attempt, room)


def _in_reach(arm: Arm, goal: np.ndarray) -> np.ndarray:
    """The goal, or where the line to it from the robot's base gets too long."""
    base = arm.body("robot0_base")[0] * (1.0, 1.0, 0.0)
    far = (goal - base) * (1.0, 1.0, 0.0)
    return goal + min(0.0, REACH / np.linalg.norm(far) - 1.0) * far


def _room_in_bin(
    others: Room, middle: np.ndarray, size: np.ndarray, grip: np.ndarray, fingers: np.ndarray
) -> float:
    """Free space for the fingers and, where it dips below the walls, for the hand."""
    reach = HAND_REACH if grip[2] + FINGERTIP < BIN_HEIGHT else FINGER_REACH
    wall = np.min(size[:2] / 2 - np.abs(grip - middle)[:2] - reach * np.abs(fingers)[:2])
    return min(others(grip, fingers), float(wall))


HANDLES = (("SquareNut", "peg1", 0.062), ("RoundNut", "peg2", 0.068))  # m; grip along x of the nut
PEG_HEIGHT = 0.95
YAW_MIDDLE = 0.8  # rad from HOME; the last joint turns 2.9 rad to both sides of it
YAW_STEP = 1.2  # rad between waypoints of a long turn, far from the half turn where it is ambiguous


def nut_assembly(arm: Arm, attempt: int) -> list[Waypoint]:
    """NutAssembly: each nut over its peg, with the handle towards the robot."""
    sim = arm.sim
    pegs = [arm.body(peg)[0] for _, peg, _ in HANDLES]
    nuts = [arm.body(f"{name}_main") for name, _, _ in HANDLES]
    present = [i for i, (position, _) in enumerate(nuts) if abs(position).max() < 2.0]
    todo = [i for i in present if not sim.on_peg(nuts[i][0], i)]
    for i in todo:
        position, rotation = nuts[i]
        if holds(arm, position + HANDLES[i][2] * rotation[:, 0]):
            return _put_on_peg(arm, position, rotation, pegs[i])
    if not todo:
        return [Waypoint((0.0, 0.0, 0.1), OPEN, HERE)]
    i = todo[0]
    position, rotation = nuts[i]
    yaw = math.atan2(rotation[1, 0], rotation[0, 0])
    # With the fingers across the handle, the gripper's yaw from HOME is the nut's, or half a turn
    # more, and is 0 or pi when the handle points to the robot. The nearer to the joint's middle.
    ways = [(_near_middle(yaw + math.pi), 0.0), (_near_middle(yaw), math.pi)]
    end, _ = min(ways, key=lambda way: max(abs(angle - YAW_MIDDLE) for angle in way))
    offset = HANDLES[i][2] * rotation[:, 0] + (0.0, 0.0, 0.004)
    above = position + offset + 0.1 * UP
    way = turning(yaw_of(arm), end)
    low = [Waypoint((0.0, 0.0, 0.1), OPEN, HERE, tolerance=0.05)]
    return [
        *(low if arm.position[2] < above[2] - 0.04 else []),
        *(Waypoint(tuple(above), OPEN, "", flat(turned), angle=0.3) for turned in way),
        *grasp(f"{HANDLES[i][0]}_main", way[-1], tuple(offset), lift=0.05),
    ]


def _put_on_peg(
    arm: Arm, position: np.ndarray, rotation: np.ndarray, peg: np.ndarray
) -> list[Waypoint]:
    yaw = math.atan2(rotation[1, 0], rotation[0, 0])
    start, change = yaw_of(arm), math.remainder(math.pi - yaw, 2 * math.pi)
    here, height = arm.position, PEG_HEIGHT + 0.05
    if np.linalg.norm((position - peg)[:2]) < 0.006 and abs(change) < 0.08:
        on, turned = (*here[:2], peg[2] + 0.01), flat(arm.rotation)
        return [
            Waypoint(on, CLOSED, "", turned, tolerance=0.01, speed=0.5, limit=40),
            Waypoint(on, OPEN, "", turned, tolerance=1.0, angle=9.0, hold=4),
            Waypoint((0.0, 0.0, 0.12), OPEN, HERE, tolerance=0.03),
        ]
    end = _near_middle(start + change)
    goal = peg + about(UP, end - start) @ (here - position)
    up, over = (*here[:2], height), (*goal[:2], height)
    way = [flat(turned) for turned in turning(start, end)]
    return [
        up_to(arm, height),
        *(Waypoint(up, CLOSED, "", turned, tolerance=0.05, angle=0.3) for turned in way[:-1]),
        Waypoint(over, CLOSED, "", way[-1], tolerance=0.006, angle=0.06, hold=6),  # settle
    ]


def yaw_of(arm: Arm) -> float:
    """The gripper's yaw from HOME in rad, beyond half a turn as the last joint is."""
    line = arm.rotation[:, 0]
    yaw = math.atan2(-line[0], line[1])
    joints = arm.env._data.qpos[arm.sim.robots[0]._ref_joint_pos_indexes]
    turned = joints[0] - joints[6] + YAW_MIDDLE
    return turned + math.remainder(yaw - turned, 2 * math.pi)


def _near_middle(yaw: float) -> float:
    return YAW_MIDDLE + math.remainder(yaw - YAW_MIDDLE, 2 * math.pi)


def turning(start: float, end: float) -> list[np.ndarray]:
    """Rotations from one yaw to another that go round the way the joint can."""
    count = max(1, math.ceil(abs(end - start) / YAW_STEP))
    return [about(UP, start + (end - start) * k / count) @ HOME for k in range(1, count + 1)]


LATCH, BAR = (-0.175, 0.0, -0.025), (0.1, -0.1, 0.0)  # m; in the door's frame, in the latch's
HINGE_LINE = (0.255, 0.0, 0.0)  # m; in the door's frame
UNLATCHED, OPENED = 1.35, 0.37  # rad


def door_pose(arm: Arm, latch: float, hinge: float) -> tuple[np.ndarray, np.ndarray]:
    """Point [3] and rotation [3, 3] of a gripper that holds the handle.

    Args:
        arm: the arm.
        latch: angle of the handle, rad; 0 is level.
        hinge: angle of the door, rad; 0 is closed.
    """
    position, rotation = arm.body("Door_door")
    swing = about(UP, hinge - arm.joint("Door_hinge"))
    line = position + rotation @ HINGE_LINE
    door = swing @ rotation
    handle = about((0.0, 1.0, 0.0), latch)
    at = line + swing @ (position - line) + door @ (LATCH + handle @ BAR)
    towards = door @ handle @ pointing(np.array([0.0, 1.0, 0.0]), UP)  # the last joint can follow
    return at, towards


def door(arm: Arm, attempt: int) -> list[Waypoint]:
    """Door: holds the handle from the front, turns it down, pulls."""
    latch, hinge = arm.joint("Door_latch_joint"), arm.joint("Door_hinge")
    return [
        *hold_handle(arm, latch, hinge),
        *(door_waypoint(arm, angle, hinge) for angle in np.linspace(latch, UNLATCHED, 5)[1:]),
        *(door_waypoint(arm, UNLATCHED, angle) for angle in np.linspace(hinge, OPENED, 4)[1:]),
    ]


def hold_handle(arm: Arm, latch: float, hinge: float) -> list[Waypoint]:
    """Away from where the arm is, in front of the handle, and closed around it."""
    at, towards = door_pose(arm, latch, hinge)
    front, turned = at - 0.1 * towards[:, 2], flat(towards)
    between = flat(pointing(np.array([0.0, -1.0, -1.0]), np.array([-1.0, 0.0, 0.0])))
    far = (
        np.linalg.norm(turn(arm.rotation, towards)) > 2.0
    )  # near the half turn either way is wrong
    back = tuple(at - 0.2 * towards[:, 2])
    return [
        *([Waypoint(back, OPEN, "", between, tolerance=0.05, angle=0.4)] if far else []),
        Waypoint(back, OPEN, "", turned, tolerance=0.05, angle=0.3),
        Waypoint(tuple(front), OPEN, "", turned, tolerance=0.015),
        Waypoint(tuple(at), OPEN, "", turned, tolerance=0.008),
        Waypoint(tuple(at), CLOSED, "", turned, tolerance=1.0, angle=9.0, hold=8, limit=12),
    ]


def door_waypoint(arm: Arm, latch: float, hinge: float) -> Waypoint:
    """Where the closed gripper is when handle and door have these angles (rad)."""
    at, towards = door_pose(arm, latch, hinge)
    return Waypoint(tuple(at), CLOSED, "", flat(towards), tolerance=0.03, angle=0.3, limit=40)


PLANNERS: dict[str, Planner] = {
    "Lift": lift,
    "Stack": stack,
    "Door": door,
    **dict.fromkeys(("NutAssembly", "NutAssemblySingle"), nut_assembly),
    **dict.fromkeys(("NutAssemblySquare", "NutAssemblyRound"), nut_assembly),
    **dict.fromkeys(("PickPlace", "PickPlaceSingle", "PickPlaceMilk"), pick_place),
    **dict.fromkeys(("PickPlaceBread", "PickPlaceCereal", "PickPlaceCan"), pick_place),
}


def expert(env: Any) -> SkillExpert:
    """Returns the expert of a robosuite environment.

    Raises:
        UnknownTask: its task, robot or controller has none.
    """
    task = env.identity["id"].split("/")[1]
    check_arm(env)
    if task not in PLANNERS:
        raise UnknownTask(
            f"robosuite/{task} has no scripted expert; there is one for {', '.join(PLANNERS)}. "
            "Collect its data with a trained policy."
        )
    return SkillExpert(env, PLANNERS[task])


def check_arm(env: Any) -> None:
    """Checks that an environment has the arm that scripts here are written for.

    Raises:
        UnknownTask: it has another robot or controller, or is several environments.
    """
    name, kwargs = env.identity["id"], env.identity["kwargs"]
    found = kwargs["robots"], kwargs["controller"]
    if not hasattr(env, "_sim"):
        raise UnknownTask(f"{name}: a scripted expert looks at one simulator; make one for each")
    if found != ("Panda", "OSC_POSE") or not hasattr(env._sim.robots[0], "controller"):
        raise UnknownTask(
            f"{name}: scripted experts are for one Panda under OSC_POSE in robosuite 1.4, this is "
            f"{found[0]} under {found[1]}"
        )

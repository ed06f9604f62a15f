"""Scenes to play in: the cubes of robosuite's Lift and Stack."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from envs.play import Look, Scene, Skill, register_scene
from envs.robosuite_expert import (
    CUBE,
    CUBE_A,
    CUBE_B,
    HOME,
    UP,
    Box,
    check_arm,
    clear_of,
    grips,
    pick,
    place,
    turning,
    up_to,
    yaw_of,
)
from envs.skills import (
    CLOSED,
    HERE,
    OPEN,
    Arm,
    Waypoint,
    about,
    downward,
    flat,
    holds,
)

TABLE = 0.8  # m
ZONE = np.array([[-0.18, 0.08], [-0.2, 0.2]])  # m; where cubes are kept, x and y
REACH = 0.74  # m; from the base, over the table. Beyond, the arm is straight and OSC cannot bend it
DIRECTIONS = {  # as seen from the robot
    "left": (0.0, 1.0),
    "right": (0.0, -1.0),
    "forward": (1.0, 0.0),
    "back": (-1.0, 0.0),
}
CLEARANCE = 0.1  # m; between the middles of two cubes, for the open fingers to fit between


def in_zone(point: np.ndarray, margin: float = 0.0) -> bool:
    """Whether a point is over the zone, or at most `margin` (m) beside it."""
    low, high = ZONE.T
    return bool(np.all((low - margin <= point[:2]) & (point[:2] <= high + margin)))


def in_reach(arm: Arm, point: np.ndarray) -> bool:
    """Whether the gripper gets to a point on the table, [3] in m, and away again."""
    return bool(np.linalg.norm((point - arm.body("robot0_base")[0])[:2]) < REACH)


class Cube:
    """What can be done with one cube among others."""

    def __init__(self, box: Box, others: Sequence[Box]) -> None:
        """Takes the cube's box, and the boxes that may be in its way."""
        self.box, self.others = box, others
        self.name = box.body.removesuffix("_main")

    def look(self, arm: Arm) -> dict[str, float]:
        """Position (m), yaw (rad), and whether it is held, lies on another or on the table."""
        (x, y, z), rotation = self.box.pose(arm)
        yaw = math.atan2(rotation[1, 0], rotation[0, 0])
        found = {
            "x": x,
            "y": y,
            "z": z,
            "yaw": yaw,
            "held": self.held(arm),
            "stacked": any(self.on(arm, other) for other in self.others),
            "table": self.on_table(arm),
        }
        return {f"{self.name}.{key}": float(value) for key, value in found.items()}

    def held(self, arm: Arm) -> bool:
        """Whether it is between the fingers."""
        return holds(arm, self.box.grip(arm))

    def on_table(self, arm: Arm) -> bool:
        """Whether it lies on the table."""
        return abs(self.box.pose(arm)[0][2] - TABLE - self.box.half[2]) < 0.01

    def on(self, arm: Arm, other: Box) -> bool:
        """Whether it lies on another cube."""
        way = self.box.pose(arm)[0] - other.pose(arm)[0]
        level = abs(way[2] - self.box.half[2] - other.half[2]) < 0.01
        return bool(level and np.linalg.norm(way[:2]) < other.half[0])

    def free(self, arm: Arm) -> bool:
        """Whether the hand is empty, nothing is on this cube, and it is in reach."""
        if any(holds(arm, box.grip(arm)) for box in (self.box, *self.others)):
            return False
        at = self.box.pose(arm)[0]
        covered = any(
            other.pose(arm)[0][2] > at[2] + 0.02 and not self._clear(arm, other, at)
            for other in self.others
        )
        return at[2] > TABLE and not covered and in_reach(arm, at)

    def _clear(self, arm: Arm, other: Box, point: np.ndarray, needed: float = 0.04) -> bool:
        return bool(np.linalg.norm((other.pose(arm)[0] - point)[:2]) > needed)

    def room(self, arm: Arm, point: np.ndarray, needed: float = CLEARANCE) -> bool:
        """Whether no other cube is as near a point as `needed`, m."""
        return all(self._clear(arm, other, point, needed) for other in self.others)

    def spot(self, arm: Arm, rng: np.random.Generator) -> np.ndarray:
        """A free place for its centre on the table, [3]."""
        for _ in range(100):
            spot = np.append(rng.uniform(ZONE[:, 0], ZONE[:, 1]), TABLE + self.box.half[2])
            if self.room(arm, spot):
                return spot
        return np.array([0.0, 0.0, TABLE + self.box.half[2]])

    def rotation(self, arm: Arm, rng: np.random.Generator) -> np.ndarray:
        """One of the ways to grasp it, among those with room for the fingers."""
        room, grip = clear_of(arm, self.others), self.box.grip(arm)
        choice = grips(arm, self.box, room)
        choice = [turned for turned in choice if room(grip, turned[:, 0]) > 0.01] or choice[:1]
        return choice[rng.integers(len(choice))]

    def _pick(self, arm: Arm, turned: np.ndarray, rise: float) -> list[Waypoint]:
        return [*unwind(arm, turned), *pick(arm, self.box, turned, rise)]

    # ------------------------------------------------------------ with an empty hand

    def lift(self) -> Skill:
        """Up 6 to 15 cm, and held."""

        def plan(arm: Arm, rng: np.random.Generator) -> list[Waypoint]:
            return self._pick(arm, self.rotation(arm, rng), rng.uniform(0.06, 0.15))

        def achieved(before: Look, now: Look) -> bool:
            rise = now[f"{self.name}.z"] - before[f"{self.name}.z"]
            return bool(now[f"{self.name}.held"]) and rise > 0.04

        return Skill(f"lift {self.name}", self.free, plan, achieved)

    def move(self) -> Skill:
        """To another place on the table, from wherever it is."""

        def plan(arm: Arm, rng: np.random.Generator) -> list[Waypoint]:
            turned = self.rotation(arm, rng)
            goal = self.spot(arm, rng) + 0.005 * UP
            carry = place(goal, turned, TABLE + rng.uniform(0.12, 0.2))
            return [*self._pick(arm, turned, 0.1), *carry]

        return Skill(f"move {self.name}", self._movable, plan, self._has_moved)

    def _movable(self, arm: Arm) -> bool:
        return self.free(arm) and self.on_table(arm)

    def _has_moved(self, before: Look, now: Look) -> bool:
        way = [now[f"{self.name}.{axis}"] - before[f"{self.name}.{axis}"] for axis in "xy"]
        return bool(now[f"{self.name}.table"]) and math.hypot(*way) > 0.04

    def unstack(self, other: Box) -> Skill:
        """From the other cube to the table."""

        def achieved(before: Look, now: Look) -> bool:
            return bool(now[f"{self.name}.table"])

        def affords(arm: Arm) -> bool:
            return self.free(arm) and self.on(arm, other)

        return Skill(f"unstack {self.name}", affords, self.move().plan, achieved)

    def knock(self, other: Box) -> Skill:
        """Pushed off the other cube."""

        def plan(arm: Arm, rng: np.random.Generator) -> list[Waypoint]:
            ways = [way for way in DIRECTIONS.values() if self._may_push(arm, way, 0.1)]
            way = ways[rng.integers(len(ways))] if ways else (0.0, 1.0)
            return self._push(arm, rng, way, 0.06)

        def achieved(before: Look, now: Look) -> bool:
            return bool(now[f"{self.name}.table"])

        def affords(arm: Arm) -> bool:
            return self.free(arm) and self.on(arm, other)

        return Skill(f"knock {self.name} off", affords, plan, achieved)

    def push(self, direction: str) -> Skill:
        """Along the table, 5 to 12 cm, with closed fingers."""
        way = DIRECTIONS[direction]

        def affords(arm: Arm) -> bool:
            start = self.box.pose(arm)[0] - 0.07 * np.append(way, 0.0)
            open_way = self.room(arm, start, 0.06) and self._may_push(arm, way, 0.05)
            return open_way and self._movable(arm)

        def plan(arm: Arm, rng: np.random.Generator) -> list[Waypoint]:
            far = next(x for x in (0.12, 0.08, 0.05) if self._may_push(arm, way, x) or x == 0.05)
            return self._push(arm, rng, way, rng.uniform(0.05, far))

        def achieved(before: Look, now: Look) -> bool:
            moved = [now[f"{self.name}.{axis}"] - before[f"{self.name}.{axis}"] for axis in "xy"]
            return float(np.dot(moved, way)) > 0.03

        return Skill(f"push {self.name} {direction}", affords, plan, achieved)

    def _may_push(self, arm: Arm, way: tuple[float, float], far: float) -> bool:
        at, along = self.box.pose(arm)[0], np.append(way, 0.0)
        return in_zone(at + far * along) and in_reach(arm, at - 0.07 * along)

    def _push(
        self, arm: Arm, rng: np.random.Generator, way: tuple[float, float], far: float
    ) -> list[Waypoint]:
        at, along = self.box.pose(arm)[0], np.append(way, 0.0)
        back = self.box.half[0] * math.sqrt(2.0) + 0.025
        start, end = at - back * along, at + (far - back + 0.02) * along
        yaw = math.atan2(way[1], way[0]) + rng.choice([0.0, math.pi / 2])
        turned = downward(yaw, HOME)
        high = max(arm.position[2], at[2] + 0.1)
        return [
            *rise(arm, CLOSED),
            *unwind(arm, turned, CLOSED),
            Waypoint((*start[:2], high), CLOSED, "", flat(turned), tolerance=0.03),
            Waypoint(tuple(start), CLOSED, "", flat(turned), tolerance=0.015),
            Waypoint(tuple(end), CLOSED, "", flat(turned), tolerance=0.015, speed=0.6),
            Waypoint((0.0, 0.0, 0.1), CLOSED, HERE, tolerance=0.03),
        ]

    def rotate(self) -> Skill:
        """By 0.5 to 1.2 rad, held on the table, and let go."""

        def plan(arm: Arm, rng: np.random.Generator) -> list[Waypoint]:
            turned = self.rotation(arm, rng)
            yaw = math.atan2(-turned[0, 0], turned[1, 0])  # from HOME
            sign = -1.0 if yaw > 0.3 else 1.0 if yaw < -0.3 else rng.choice([-1.0, 1.0])
            end = flat(about(UP, sign * rng.uniform(0.5, 1.2)) @ turned)
            return [
                *self._pick(arm, turned, 0.0)[:-1],
                Waypoint((0.0, 0.0, 0.002), CLOSED, HERE, end, tolerance=0.02),
                Waypoint((0.0, 0.0, 0.0), OPEN, HERE, tolerance=1.0, angle=9.0, hold=4),
                Waypoint((0.0, 0.0, 0.1), OPEN, HERE, tolerance=0.03),
            ]

        def achieved(before: Look, now: Look) -> bool:
            turned = now[f"{self.name}.yaw"] - before[f"{self.name}.yaw"]
            return abs(math.remainder(turned, 2 * math.pi)) > 0.35

        return Skill(f"rotate {self.name}", self._movable, plan, achieved)

    def bring_back(self) -> Skill:
        """Into the zone, from its edge."""

        def affords(arm: Arm) -> bool:
            return self.free(arm) and not in_zone(self.box.pose(arm)[0])

        def achieved(before: Look, now: Look) -> bool:
            at = np.array([now[f"{self.name}.x"], now[f"{self.name}.y"]])
            return bool(now[f"{self.name}.table"]) and in_zone(at)

        return Skill(f"bring {self.name} back", affords, self.move().plan, achieved)

    # ------------------------------------------------------------ with the cube in the hand

    def stack(self, other: Box) -> Skill:
        """Onto the other cube, from the hand or from the table."""

        def affords(arm: Arm) -> bool:
            at = other.pose(arm)[0]
            lies = abs(at[2] - TABLE - other.half[2]) < 0.01
            return lies and in_zone(at, 0.05) and (self.held(arm) or self._movable(arm))

        def plan(arm: Arm, rng: np.random.Generator) -> list[Waypoint]:
            base = other.pose(arm)[0] + (other.half[2] + self.box.half[2] + 0.004) * UP
            height = base[2] + rng.uniform(0.06, 0.1)
            if self.held(arm):
                return self._place(arm, base, yaw_of(arm), height, tolerance=0.005)
            turned = self.rotation(arm, rng)
            carry = place(base, turned, height, tolerance=0.005)
            return [*self._pick(arm, turned, 0.1), *carry]

        def achieved(before: Look, now: Look) -> bool:
            return bool(now[f"{self.name}.stacked"]) and not now[f"{self.name}.held"]

        return Skill(f"stack {self.name}", affords, plan, achieved)

    def _place(
        self, arm: Arm, goal: np.ndarray, yaw: float, height: float, tolerance: float = 0.01
    ) -> list[Waypoint]:
        """Puts the held cube's centre at a goal [3], with a yaw (rad) of the gripper from HOME."""
        held = (arm.position - self.box.pose(arm)[0]) * UP
        turned = about(UP, yaw) @ HOME
        return [up_to(arm, height), *place(goal + held, turned, height, tolerance=tolerance)]

    def put(self) -> Skill:
        """Held, down on a free place, turned or not."""

        def plan(arm: Arm, rng: np.random.Generator) -> list[Waypoint]:
            yaw = float(np.clip(yaw_of(arm) + rng.uniform(-1.0, 1.0), -1.5, 1.5))
            goal = self.spot(arm, rng) + 0.005 * UP
            return self._place(arm, goal, yaw, TABLE + rng.uniform(0.12, 0.2))

        def achieved(before: Look, now: Look) -> bool:
            return bool(now[f"{self.name}.table"]) and not now[f"{self.name}.held"]

        return Skill(f"put {self.name} down", self.held, plan, achieved)

    def drop(self) -> Skill:
        """Held, let go from 2 to 6 cm over the table, here or at a free place."""

        def plan(arm: Arm, rng: np.random.Generator) -> list[Waypoint]:
            at = arm.position
            if not (in_zone(at) and self.room(arm, at)):
                at = self.spot(arm, rng)
            height = TABLE + self.box.half[2] + rng.uniform(0.02, 0.06)
            goal = np.append(at[:2], height)
            return self._place(arm, goal, yaw_of(arm), max(arm.position[2], height + 0.03))

        def achieved(before: Look, now: Look) -> bool:
            return bool(now[f"{self.name}.table"]) and not now[f"{self.name}.held"]

        return Skill(f"drop {self.name}", self.held, plan, achieved)

    def skills(self) -> list[Skill]:
        """All of them."""
        alone = [self.lift(), self.move(), self.rotate(), self.put(), self.drop()]
        pushes = [self.push(direction) for direction in DIRECTIONS]
        pairs = [(self.stack(box), self.unstack(box), self.knock(box)) for box in self.others]
        return [*alone, self.bring_back(), *pushes, *itertools.chain(*pairs)]


def rise(arm: Arm, grip: float) -> list[Waypoint]:
    """Up, where the gripper is low."""
    low = arm.position[2] < TABLE + 0.1
    return [Waypoint((0.0, 0.0, 0.1), grip, HERE, tolerance=0.05)] if low else []


def unwind(arm: Arm, turned: np.ndarray, grip: float = OPEN) -> list[Waypoint]:
    """Up and part of the way to a yaw, where the whole turn is near the half turn or beyond."""
    end = math.atan2(-turned[0, 0], turned[1, 0])  # within a quarter turn of HOME
    steps = [flat(step) for step in turning(yaw_of(arm), end)[:-1]]
    return [Waypoint((0.0, 0.0, 0.05), grip, HERE, step, angle=0.4) for step in steps]


def cubes(boxes: Sequence[Box], env: Any) -> Scene:
    """The scene of one or more cubes on the table."""
    check_arm(env)
    pieces = [Cube(box, [other for other in boxes if other is not box]) for box in boxes]

    def look(arm: Arm) -> dict[str, float]:
        return {key: value for piece in pieces for key, value in piece.look(arm).items()}

    def grip(arm: Arm) -> float:
        return CLOSED if any(piece.held(arm) for piece in pieces) else OPEN

    def wander(arm: Arm, rng: np.random.Generator) -> list[Waypoint]:
        points = rng.uniform([*ZONE[:, 0], 0.98], [*ZONE[:, 1], 1.12], (int(rng.integers(1, 4)), 3))
        ways = [Waypoint(tuple(point), grip(arm), tolerance=0.04, limit=30) for point in points]
        return [*rise(arm, grip(arm)), *ways]

    def rest(arm: Arm) -> list[Waypoint]:
        return [*rise(arm, OPEN), Waypoint((0.0, 0.0, 1.0), OPEN, "", flat(HOME), hold=10)]

    skills = tuple(skill for piece in pieces for skill in piece.skills())
    return Scene(skills, look, wander, rest)


register_scene("robosuite/Lift", functools.partial(cubes, (CUBE,)))
register_scene("robosuite/Stack", functools.partial(cubes, (CUBE_A, CUBE_B)))

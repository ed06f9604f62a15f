"""Scenes to play in: the tables of LIBERO, with whatever stands on them.

Skills are made from what a scene has: objects are lifted, pushed, dropped and put on the table, on
plates, in bowls and baskets, on stoves, cabinets and racks and into open drawers; drawers are
opened and closed, knobs turned. Geometry is that of the expert (`envs.libero_expert`).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from envs import libero_expert as shapes
from envs.play import Look, Scene, Skill, register_scene
from envs.robosuite_expert import HOME, UP
from envs.skills import (
    CLOSED,
    HERE,
    OPEN,
    Arm,
    Waypoint,
    flat,
    opening,
    put,
)

ZONE = np.array([[-0.28, 0.06], [-0.28, 0.28]])  # m; where objects are kept, x and y
REACH = 0.78  # m; from the base, over the table; beyond, the arm is straight and OSC stands still
MARGIN = 0.04  # m; passed over things at least this high
SHUT, OUT = -0.03, -0.12  # m; a drawer counts as closed above the one, as open below the other
LIT = 0.5  # rad; from here the package calls a stove turned on
DIRECTIONS = {"left": (0.0, 1.0), "right": (0.0, -1.0), "forward": (1.0, 0.0), "back": (-1.0, 0.0)}
_HOLDERS = ("plate", "akita_black_bowl", "white_bowl")  # objects that others are put on
_BOTTLES = ("wine_bottle",)  # all that a rack holds
_NOWHERE, _TABLE = -1.0, 0.0  # places, as a look has them; the others are numbered from 1


class AsHome(Arm):
    """An arm as if its gripper were turned as at home.

    Grasps chosen near that rotation, and not near the present one, never wind up the wrist.
    """

    @property
    def rotation(self) -> np.ndarray:
        """The gripper's frame at home, [3, 3]."""
        return np.reshape(HOME, (3, 3))


class Table:
    """What is on a table and where there is room.

    Attributes:
        height: m, of its surface.
        objects: names of what can be moved.
        places: names of objects and sites that things are put on or in.
        drawers: names of their sites.
        knobs: names of fixtures with a knob.
        home: the arm as it plans.
    """

    def __init__(self, env: Any) -> None:
        """Reads the scene."""
        self._env, sim = env, env._sim
        self.home = AsHome(env)
        self.height = self._surface()
        self.objects = list(sim.objects_dict)
        joints = {name: shapes.joints_of(self.home, name) for name in sim.object_sites_dict}
        level = {name for name, site in sim.object_sites_dict.items() if site.joints is not None}
        slides = {n for n in level if joints[n] and self._kind(joints[n][0]) == 2}
        self.drawers = sorted(slides)
        hinged = {n for n in sim.fixtures_dict if self._hinged(n)}
        self.knobs = sorted(n for n in hinged if n.startswith("flat_stove"))
        self.places = [name for name in self.objects if name.startswith(_HOLDERS)]
        for name in sorted(level):
            doors = any(name.startswith(n) for n in hinged - {*self.knobs})
            if not doors and (not joints[name] or name in slides):
                self.places.append(name)

    def _kind(self, joint: str) -> int:
        return int(self._env._model.joint(joint).type[0])

    def _hinged(self, fixture: str) -> bool:
        return any(self._kind(joint) == 3 for joint in shapes.joints_of(self.home, fixture))

    def _surface(self) -> float:
        """Height of what stands still and is no fixture, in the middle of the zone."""
        model, still = self._env._model, []
        fixtures = tuple(self._env._sim.fixtures_dict)
        for body in np.flatnonzero(model.body_weldid == 0):
            name = model.body(body).name
            if not name.startswith(("robot", "gripper", "mount", *fixtures)):
                still.append(body)
        solid = model.geom_contype | model.geom_conaffinity
        chosen = [
            geom
            for geom in np.flatnonzero(solid & (model.geom_type != 0))
            if model.geom_bodyid[geom] in still
        ]
        data, middle = self._env._data, np.append(ZONE.mean(1), 0.0)
        rotations = data.geom_xmat[chosen].reshape(-1, 3, 3)
        boxes = shapes.Boxes(data.geom_xpos[chosen], rotations, model.geom_aabb[chosen, 3:])
        return max(0.0, boxes.top(middle, middle, 0.02))

    # ------------------------------------------------------------ what is where

    def at(self, arm: Arm, name: str) -> np.ndarray:
        """Position of an object's origin, m, [3]."""
        return arm.body(shapes.body_of(arm, name))[0]

    def box(self, arm: Arm, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner of an object, m, each [3]."""
        at = self.at(arm, name)
        low, high = shapes.boxes_of(arm, shapes.body_of(arm, name)).bounds(at, np.eye(3))
        return at + low, at + high

    def in_hand(self, arm: Arm) -> str:
        """The object between the fingers, or ""."""
        return next((name for name in self.objects if shapes.held(arm, name)), "")

    def place(self, arm: Arm, name: str) -> float:
        """Number of the place that an object lies on or in; `_TABLE`, or `_NOWHERE`."""
        low, high = self.box(arm, name)
        middle = (low + high) / 2
        for number, place in enumerate(self.places, 1):
            if place == name:
                continue
            if place in self.objects:
                floor, top = self.box(arm, place)
                over = np.linalg.norm((middle - (floor + top) / 2)[:2]) < 0.05
                if over and floor[2] - 0.005 < low[2] < top[2] + 0.03:
                    return float(number)
                continue
            center, rotation = arm.site(place)
            half = np.abs(rotation @ arm.env._model.site(place).size)
            inside = np.all(np.abs(middle - center)[:2] < half[:2])
            if inside and center[2] - half[2] - 0.03 < low[2] < center[2] + half[2] + 0.02:
                return float(number)
        return _TABLE if abs(low[2] - self.height) < 0.015 else _NOWHERE

    def look(self, arm: Arm) -> dict[str, float]:
        """Positions (m), places and what is held; of drawers and knobs their joints."""
        found = {}
        for name in self.objects:
            at = self.at(arm, name)
            found |= {f"{name}.{axis}": float(x) for axis, x in zip("xyz", at, strict=True)}
            found[f"{name}.held"] = float(shapes.held(arm, name))
            found[f"{name}.place"] = self.place(arm, name)
        for name in (*self.drawers, *self.knobs):
            found[name] = arm.joint(shapes.joints_of(arm, name)[0])
        return found

    # ------------------------------------------------------------ what can be done

    def in_reach(self, arm: Arm, point: np.ndarray) -> bool:
        """Whether the gripper gets to a point, [3] in m, and away again."""
        return bool(np.linalg.norm((point - arm.body("robot0_base")[0])[:2]) < REACH)

    def free(self, arm: Arm, name: str) -> bool:
        """Whether the hand is empty, the object in reach, and nothing above it."""
        at, (low, high) = self.at(arm, name), self.box(arm, name)
        if self.in_hand(arm) or low[2] < self.height - 0.02 or not self.in_reach(arm, at):
            return False
        around = shapes.boxes_of(arm, leave_out=shapes.body_of(arm, name))
        middle = (low + high) / 2
        return around.top(middle, middle, 0.01) < high[2]

    def room(self, arm: Arm, name: str, point: np.ndarray) -> bool:
        """Whether nothing stands where an object would, and its neighbours leave it free."""
        low, high = self.box(arm, name)
        around = shapes.boxes_of(arm, leave_out=shapes.body_of(arm, name))
        needed = float((high - low)[:2].max()) / 2 + 0.03
        return around.top(point, point, needed) < self.height + 0.01

    def spot(self, arm: Arm, name: str, rng: np.random.Generator) -> np.ndarray | None:
        """A free place for an object's origin on the table, [3]."""
        below, _ = shapes.extent(arm, name)
        for _ in range(50):
            point = np.append(rng.uniform(ZONE[:, 0], ZONE[:, 1]), self.height - below + 0.01)
            if self.in_reach(arm, point) and self.room(arm, name, point):
                return point
        return None

    def over(self, arm: Arm, start: np.ndarray, end: np.ndarray) -> float:
        """Height of the gripper at which it, and what it holds, passes over everything, m."""
        name = self.in_hand(arm)
        body = shapes.body_of(arm, name) if name else ""
        below = arm.position[2] - self.box(arm, name)[0][2] if name else 0.0
        top = shapes.boxes_of(arm, leave_out=body).top(start, end)
        return max(top, self.height) + max(below, 0.0) + MARGIN

    def travel(
        self, arm: Arm, plan: list[Waypoint], rng: np.random.Generator, to: np.ndarray
    ) -> list[Waypoint]:
        """The plan after a way to its beginning, at `to` [3], over what stands there.

        What the fingers still hold on to, such as a handle, is let go first if the plan needs it.
        """
        grip, turned = plan[0].grip, plan[0].rotation
        height = self.over(arm, arm.position, to) + rng.uniform(0.0, 0.06)
        way = []
        if not self.in_hand(arm) and 0.004 < opening(arm) < 0.07:
            back = tuple(-0.05 * arm.rotation[:, 2])
            loose = Waypoint((0.0, 0.0, 0.0), OPEN, HERE, tolerance=1.0, angle=9.0, hold=3)
            way = [loose, Waypoint(back, OPEN, HERE, tolerance=0.03, limit=15)]
        if (rise := height - arm.position[2]) > 0.0:
            way.append(Waypoint((0.0, 0.0, rise), grip, HERE, tolerance=0.03, limit=30))
        high = (float(to[0]), float(to[1]), max(height, float(to[2])))
        return [*way, Waypoint(high, grip, "", turned, tolerance=0.04, angle=0.3), *plan]

    def grasp(self, name: str, rng: np.random.Generator) -> shapes.Grasp | None:
        """One of the better ways to hold an object; None where nothing of it fits the hand."""
        options = shapes.grasps(self.home, name)
        return options[min(int(rng.geometric(0.7)), len(options), 3) - 1] if options else None

    def take(
        self, arm: Arm, name: str, grasp: shapes.Grasp | None, rng: np.random.Generator
    ) -> list[Waypoint]:
        """From wherever the gripper is to an object, and up again."""
        if grasp is None:
            return [Waypoint((0.0, 0.0, 0.05), OPEN, HERE, limit=10)]
        plan = shapes.take(arm, shapes.body_of(arm, name), grasp)
        lift = Waypoint((0.0, 0.0, rng.uniform(0.03, 0.1)), CLOSED, HERE, tolerance=0.03)
        return self.travel(arm, [*plan, lift], rng, self.at(arm, name) + grasp.offset)

    def carry(
        self, arm: Arm, name: str, goal: np.ndarray, rng: np.random.Generator
    ) -> list[Waypoint]:
        """A held object's origin to a goal [3], where it is let go."""
        at, hold = self.at(arm, name), arm.position - self.at(arm, name)
        travel = max(self.over(arm, at, goal) + rng.uniform(0.0, 0.06), goal[2] + hold[2])
        lift = (0.0, 0.0, max(travel - arm.position[2], 0.0))
        plan = put(goal + hold, travel=travel)
        return [Waypoint(lift, CLOSED, HERE, tolerance=0.03, limit=30), *plan]

    def goal(self, arm: Arm, name: str, place: str) -> np.ndarray:
        """Where an object's origin goes to be on or in a place, [3]."""
        goal = shapes.destination(arm, name, place)
        if place in self.objects:  # with its bottom on the inside of what may be deep
            goal[2] = self.box(arm, place)[0][2] + 0.015 - shapes.extent(arm, name)[0]
        return goal

    def holds(self, arm: Arm, place: str, name: str) -> bool:
        """Whether a held object fits into a place that is open, empty and in reach."""
        if place == name or ("rack" in place and not name.startswith(_BOTTLES)):
            return False
        low, high = self.box(arm, name)
        if place in self.objects:
            floor, top = self.box(arm, place)
            small = (high - low)[:2].max() < (top - floor)[:2].min()
            empty = not any(
                self.place(arm, each) == self.places.index(place) + 1
                for each in self.objects
                if each != name
            )
            level = abs(floor[2] - self.height) < 0.25
            return bool(small and empty and level and self.in_reach(arm, (floor + top) / 2))
        half = np.abs(arm.site(place)[1] @ arm.env._model.site(place).size)
        if place in self.drawers:
            out = arm.joint(shapes.joints_of(arm, place)[0]) < OUT
            small = (high - low)[2] < 0.07 and (high - low)[:2].max() < 2 * half[:2].max()
            if not (out and small):
                return False
        number = self.places.index(place) + 1
        empty = all(self.place(arm, each) != number for each in self.objects if each != name)
        return empty and self.in_reach(arm, arm.site(place)[0])


# ---------------------------------------------------------------- skills


def _has_moved(name: str, way: tuple[float, float]) -> Callable[[Look, Look], bool]:
    def achieved(before: Look, now: Look) -> bool:
        moved = [now[f"{name}.{axis}"] - before[f"{name}.{axis}"] for axis in "xy"]
        return float(np.dot(moved, way)) > 0.03

    return achieved


def _is_put(name: str, number: float) -> Callable[[Look, Look], bool]:
    return lambda before, now: now[f"{name}.place"] == number and not now[f"{name}.held"]


def lift(table: Table, name: str) -> Skill:
    """Up, and held."""

    def achieved(before: Look, now: Look) -> bool:
        return bool(now[f"{name}.held"]) and now[f"{name}.z"] - before[f"{name}.z"] > 0.03

    return Skill(
        f"lift {name}",
        lambda arm: table.free(arm, name),
        lambda arm, rng: table.take(arm, name, table.grasp(name, rng), rng),
        achieved,
    )


def push(table: Table, name: str, direction: str) -> Skill:
    """Along the table, 5 to 12 cm, the open fingers around its side."""
    way = np.append(DIRECTIONS[direction], 0.0)

    def affords(arm: Arm) -> bool:
        at, (low, high) = table.at(arm, name), table.box(arm, name)
        if table.place(arm, name) != _TABLE or not table.free(arm, name):
            return False
        far = at + 0.08 * way
        inside = np.all((ZONE[:, 0] <= far[:2]) & (far[:2] <= ZONE[:, 1]))
        back = at - ((high - low)[:2].max() / 2 + 0.04) * way
        around = shapes.boxes_of(arm, leave_out=shapes.body_of(arm, name))
        clear = around.top(back, back, 0.03) < table.height + 0.01
        return bool(inside and clear and high[2] - low[2] < 0.1 and table.in_reach(arm, back))

    def plan(arm: Arm, rng: np.random.Generator) -> list[Waypoint]:
        goal = table.at(arm, name) + rng.uniform(0.05, 0.12) * way
        points = shapes.shift(table.home, name, goal)
        return table.travel(arm, points, rng, np.asarray(points[0].position))

    return Skill(f"push {name} {direction}", affords, plan, _has_moved(name, DIRECTIONS[direction]))


def put_down(table: Table, name: str) -> Skill:
    """Held, on a free spot of the table."""

    def plan(arm: Arm, rng: np.random.Generator) -> list[Waypoint]:
        spot = table.spot(arm, name, rng)
        below, _ = shapes.extent(arm, name)
        here = np.append(table.at(arm, name)[:2], table.height - below + 0.01)
        return table.carry(arm, name, here if spot is None else spot, rng)

    return Skill(
        f"put {name} down", lambda arm: shapes.held(arm, name), plan, _is_put(name, _TABLE)
    )


def drop(table: Table, name: str) -> Skill:
    """Held, let go from 2 to 5 cm above the table."""

    def plan(arm: Arm, rng: np.random.Generator) -> list[Waypoint]:
        spot = table.spot(arm, name, rng)
        goal = table.at(arm, name) if spot is None else spot
        return table.carry(arm, name, goal + rng.uniform(0.02, 0.05) * UP, rng)

    return Skill(f"drop {name}", lambda arm: shapes.held(arm, name), plan, _is_put(name, _TABLE))


def put_on(table: Table, name: str, place: str) -> Skill:
    """Held, on or in something."""

    def affords(arm: Arm) -> bool:
        return shapes.held(arm, name) and table.holds(arm, place, name)

    def plan(arm: Arm, rng: np.random.Generator) -> list[Waypoint]:
        return table.carry(arm, name, table.goal(arm, name, place), rng)

    number = table.places.index(place) + 1.0
    return Skill(f"put {name} on {place}", affords, plan, _is_put(name, number))


def bring_back(table: Table, name: str) -> Skill:
    """From the edge of the table into the zone: grasped, drawn there and let go."""

    def inside(x: float, y: float) -> bool:
        return bool(np.all((ZONE[:, 0] <= (x, y)) & ((x, y) <= ZONE[:, 1])))

    def affords(arm: Arm) -> bool:
        out = not inside(*table.at(arm, name)[:2]) and table.place(arm, name) == _TABLE
        return out and table.free(arm, name)

    def plan(arm: Arm, rng: np.random.Generator) -> list[Waypoint]:
        grasp, spot = table.grasp(name, rng), table.spot(arm, name, rng)
        taken = table.take(arm, name, grasp, rng)
        if grasp is None:
            return taken
        goal = (table.at(arm, name) if spot is None else spot) + grasp.offset
        high = table.over(arm, table.at(arm, name), goal) + 0.1  # the object hangs below
        return [*taken, *put(goal, travel=high)]

    def achieved(before: Look, now: Look) -> bool:
        return now[f"{name}.place"] == _TABLE and inside(now[f"{name}.x"], now[f"{name}.y"])

    return Skill(f"bring {name} back", affords, plan, achieved)


def drawer(table: Table, name: str) -> list[Skill]:
    """Open and close, with an empty hand."""
    owner = name.split("_region")[0].rsplit("_", 1)[0]
    others = [each for each in table.drawers if each.startswith(owner) and each != name]

    def position(arm: Arm, which: str) -> float:
        return arm.joint(shapes.joints_of(arm, which)[0])

    def may_open(arm: Arm) -> bool:  # one at a time: an open one above is in the hand's way
        shut = all(position(arm, each) > SHUT for each in others)
        return shut and position(arm, name) > OUT and not table.in_hand(arm)

    def may_close(arm: Arm) -> bool:
        return position(arm, name) < SHUT and not table.in_hand(arm)

    def use(make: Callable[[Arm, str, int], list[Waypoint]]) -> Any:
        def plan(arm: Arm, rng: np.random.Generator) -> list[Waypoint]:
            points = make(table.home, name, 0)
            return table.travel(arm, points, rng, np.asarray(points[0].position))

        return plan

    return [
        Skill(f"open {name}", may_open, use(shapes.open_drawer), lambda a, b: b[name] < OUT),
        Skill(f"close {name}", may_close, use(shapes.close_drawer), lambda a, b: b[name] > SHUT),
    ]


def knob(table: Table, name: str) -> list[Skill]:
    """Turn on and off, with an empty hand."""

    def turn(target: Callable[[np.random.Generator], float]) -> Any:
        def plan(arm: Arm, rng: np.random.Generator) -> list[Waypoint]:
            points = shapes.turn_knob(table.home, name, 0, target(rng))
            return table.travel(arm, points, rng, np.asarray(points[0].position))

        return plan

    def lit(arm: Arm) -> bool:
        return arm.joint(shapes.joints_of(arm, name)[0]) >= LIT

    return [
        Skill(
            f"turn on {name}",
            lambda arm: not (lit(arm) or table.in_hand(arm)),
            turn(lambda rng: rng.uniform(0.7, 1.2)),
            lambda before, now: now[name] >= LIT,
        ),
        Skill(
            f"turn off {name}",
            lambda arm: lit(arm) and not table.in_hand(arm),
            turn(lambda rng: rng.uniform(-0.1, 0.2)),
            lambda before, now: now[name] < LIT,
        ),
    ]


def scene(env: Any) -> Scene:
    """The scene of whatever stands on a LIBERO table."""
    table = Table(env)
    skills: list[Skill] = []
    for name in table.objects:
        if name.startswith("basket"):  # wider than the hand
            continue
        skills += [lift(table, name), put_down(table, name), drop(table, name)]
        skills += [bring_back(table, name)]
        skills += [push(table, name, direction) for direction in DIRECTIONS]
        skills += [put_on(table, name, place) for place in table.places if place != name]
    for name in table.drawers:
        skills += drawer(table, name)
    for name in table.knobs:
        skills += knob(table, name)

    def wander(arm: Arm, rng: np.random.Generator) -> list[Waypoint]:
        grip = CLOSED if table.in_hand(arm) else OPEN
        points = rng.uniform(ZONE[:, 0], ZONE[:, 1], (int(rng.integers(1, 4)), 2))
        everywhere = np.append(ZONE.mean(1), 0.0)
        high = max(table.over(arm, everywhere, np.append(p, 0.0)) for p in points)
        heights = high + rng.uniform(0.0, 0.1, len(points))
        ways = [
            Waypoint((float(x), float(y), float(z)), grip, tolerance=0.04, limit=30)
            for (x, y), z in zip(points, heights, strict=True)
        ]
        return table.travel(arm, ways, rng, np.asarray(ways[0].position))

    def rest(arm: Arm) -> list[Waypoint]:
        home = (-0.2, 0.0, table.height + 0.3)
        up = Waypoint((0.0, 0.0, 0.1), OPEN, HERE, tolerance=0.05)
        return [up, Waypoint(home, OPEN, "", flat(HOME), hold=10)]

    return Scene(tuple(skills), table.look, wander, rest)


register_scene("libero/", scene)

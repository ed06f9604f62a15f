"""The tables of LIBERO as playing sees them: what is where, what fits where, ways over everything.

Geometry is that of the expert (`envs.libero_expert`).
"""

import math
from typing import Any

import numpy as np

from envs import libero_expert as shapes
from envs.robosuite_expert import HOME
from envs.skills import CLOSED, HERE, OPEN, Arm, Waypoint, opening, put

ZONE = np.array([[-0.28, 0.06], [-0.28, 0.28]])  # m; where objects are kept, x and y
REACH = 0.78  # m; from the base, over the table; beyond, the arm is straight and OSC stands still
STRETCH, HAND = 0.78, 0.2  # m; from the shoulder to the wrist at most, from there to the fingers
MARGIN = 0.04  # m; passed over things at least this high
SHUT, OUT = -0.03, -0.12  # m; a drawer counts as closed above the one, as open below the other
_HOLDERS = ("plate", "akita_black_bowl", "white_bowl")  # objects that others are put on
_BOTTLES = ("wine_bottle",)  # all that a rack holds
WIDE = 0.078  # m; open fingers, with nothing between them
NOWHERE, TABLE = -1.0, 0.0  # places, as a look has them; the others are numbered from 1

Corners = dict[str, tuple[np.ndarray, np.ndarray]]  # lowest and highest of each object


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
        if opening(arm) > WIDE:
            return ""
        return next((name for name in self.objects if shapes.held(arm, name)), "")

    def place(self, arm: Arm, name: str, boxes: Corners | None = None) -> float:
        """Number of the place that an object lies on or in; `TABLE`, or `NOWHERE`.

        `boxes` are those of all objects, if they are known.
        """
        boxes = {each: self.box(arm, each) for each in self.objects} if boxes is None else boxes
        low, high = boxes[name]
        middle = (low + high) / 2
        for number, place in enumerate(self.places, 1):
            if place == name:
                continue
            if place in self.objects:
                floor, top = boxes[place]
                over = np.linalg.norm((middle - (floor + top) / 2)[:2]) < 0.05
                if over and floor[2] - 0.005 < low[2] < top[2] + 0.03:
                    return float(number)
                continue
            center, rotation = arm.site(place)
            half = np.abs(rotation @ arm.env._model.site(place).size)
            inside = np.all(np.abs(middle - center)[:2] < half[:2])
            if inside and center[2] - half[2] - 0.03 < low[2] < center[2] + half[2] + 0.02:
                return float(number)
        return TABLE if abs(low[2] - self.height) < 0.015 else NOWHERE

    def look(self, arm: Arm) -> dict[str, float]:
        """Positions (m), places and what is held; of drawers and knobs their joints."""
        found, holding = {}, self.in_hand(arm)
        boxes = {name: self.box(arm, name) for name in self.objects}
        for name in self.objects:
            at = self.at(arm, name)
            found |= {f"{name}.{axis}": float(x) for axis, x in zip("xyz", at, strict=True)}
            found[f"{name}.held"] = float(name == holding)
            found[f"{name}.place"] = self.place(arm, name, boxes)
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

    def ceiling(self, arm: Arm, point: np.ndarray) -> float:
        """The greatest height at which a gripper that points down is in reach, m."""
        shoulder = arm.body("robot0_link2")[0]
        way = float(np.linalg.norm(point[:2] - shoulder[:2]))
        return float(shoulder[2]) + math.sqrt(max(STRETCH**2 - way**2, 0.0)) - HAND

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
        rise = min(height, self.ceiling(arm, arm.position)) - arm.position[2]
        way = []
        if not self.in_hand(arm) and 0.004 < opening(arm) < 0.07:
            back = tuple(-0.05 * arm.rotation[:, 2])
            loose = Waypoint((0.0, 0.0, 0.0), OPEN, HERE, tolerance=1.0, angle=9.0, hold=3)
            way = [loose, Waypoint(back, OPEN, HERE, tolerance=0.03, limit=15)]
        if rise > 0.0:
            way.append(Waypoint((0.0, 0.0, rise), grip, HERE, tolerance=0.03, limit=30))
        high = (float(to[0]), float(to[1]), max(min(height, self.ceiling(arm, to)), float(to[2])))
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
        plan = shapes.descend(arm, shapes.body_of(arm, name), grasp)
        lift = Waypoint((0.0, 0.0, rng.uniform(0.03, 0.1)), CLOSED, HERE, tolerance=0.03)
        return self.travel(arm, [*plan, lift], rng, self.at(arm, name) + grasp.offset)

    def carry(
        self, arm: Arm, name: str, goal: np.ndarray, rng: np.random.Generator
    ) -> list[Waypoint]:
        """A held object's origin to a goal [3], where it is let go."""
        at, hold = self.at(arm, name), arm.position - self.at(arm, name)
        wished = min(self.over(arm, at, goal) + rng.uniform(0.0, 0.06), self.ceiling(arm, goal))
        travel = max(wished, goal[2] + hold[2])
        lift = (0.0, 0.0, max(travel - arm.position[2], 0.0))
        plan = put(goal + hold, travel=travel)
        return [Waypoint(lift, CLOSED, HERE, tolerance=0.03, limit=30), *plan]

    def goal(self, arm: Arm, name: str, place: str) -> np.ndarray:
        """Where an object's origin goes to be on or in a place, [3]."""
        goal = shapes.destination(arm, name, place)
        if place in self.objects:  # with its bottom on the inside of what may be deep
            goal[2] = self.box(arm, place)[0][2] + 0.015 - shapes.extent(arm, name)[0]
        return goal

    def suits(self, place: str, name: str) -> bool:
        """Whether an object is ever put there."""
        return place != name and ("rack" not in place or name.startswith(_BOTTLES))

    def holds(self, arm: Arm, place: str, name: str) -> bool:
        """Whether a held object fits into a place that is open, empty and in reach."""
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

"""Scenes to play in: the tables of LIBERO, with whatever stands on them.

Skills are made from what a scene has: objects are lifted, pushed, dropped and put on the table, on
plates, in bowls and baskets, on stoves, cabinets and racks and into open drawers; drawers are
opened and closed, knobs turned. What leaves the table or the arm's reach is left there.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from envs import libero_expert as shapes
from envs.play import Look, Scene, Skill, register_scene
from envs.play_table import OUT, SHUT, TABLE, ZONE, Table
from envs.robosuite_expert import HOME, UP
from envs.skills import CLOSED, HERE, OPEN, Arm, Waypoint, flat, put

LIT = 0.5  # rad; from here the package calls a stove turned on
DIRECTIONS = {"left": (0.0, 1.0), "right": (0.0, -1.0), "forward": (1.0, 0.0), "back": (-1.0, 0.0)}


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
    """Along the table, 5 to 12 cm or so, the open fingers around its side."""
    way = np.append(DIRECTIONS[direction], 0.0)

    def affords(arm: Arm) -> bool:
        at, (low, high) = table.at(arm, name), table.box(arm, name)
        if table.place(arm, name) != TABLE or not table.free(arm, name):
            return False
        far = at + 0.08 * way
        inside = np.all((ZONE[:, 0] <= far[:2]) & (far[:2] <= ZONE[:, 1]))
        back = at - ((high - low)[:2].max() / 2 + 0.04) * way
        around = shapes.boxes_of(arm, leave_out=shapes.body_of(arm, name))
        clear = around.top(back, back, 0.03) < table.height + 0.01
        return bool(inside and clear and high[2] - low[2] < 0.1 and table.in_reach(arm, back))

    def plan(arm: Arm, rng: np.random.Generator) -> list[Waypoint]:
        goal = table.at(arm, name) + rng.uniform(0.08, 0.15) * way
        points = [  # pressed on the table, the fingers stay 3 cm above where they are sent
            dataclasses.replace(point, tolerance=max(point.tolerance, 0.045))
            for point in shapes.shift(table.home, name, goal)
        ]
        return table.travel(arm, points, rng, np.asarray(points[0].position))

    return Skill(f"push {name} {direction}", affords, plan, _has_moved(name, DIRECTIONS[direction]))


def put_down(table: Table, name: str) -> Skill:
    """Held, on a free spot of the table."""

    def plan(arm: Arm, rng: np.random.Generator) -> list[Waypoint]:
        spot = table.spot(arm, name, rng)
        below, _ = shapes.extent(arm, name)
        here = np.append(table.at(arm, name)[:2], table.height - below + 0.01)
        return table.carry(arm, name, here if spot is None else spot, rng)

    return Skill(f"put {name} down", lambda arm: shapes.held(arm, name), plan, _is_put(name, TABLE))


def drop(table: Table, name: str) -> Skill:
    """Held, let go from 2 to 5 cm above the table."""

    def plan(arm: Arm, rng: np.random.Generator) -> list[Waypoint]:
        spot = table.spot(arm, name, rng)
        goal = table.at(arm, name) if spot is None else spot
        return table.carry(arm, name, goal + rng.uniform(0.02, 0.05) * UP, rng)

    return Skill(f"drop {name}", lambda arm: shapes.held(arm, name), plan, _is_put(name, TABLE))


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
        out = not inside(*table.at(arm, name)[:2]) and table.place(arm, name) == TABLE
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
        return now[f"{name}.place"] == TABLE and inside(now[f"{name}.x"], now[f"{name}.y"])

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
        skills += [put_on(table, name, place) for place in table.places if table.suits(place, name)]
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

"""What is done on the table-top: scripted skills, its scene to play in, and experts for its tasks.

Which way a skill goes (left or right round the wall, at which height, how a drawer is shut) does
not depend on what is wanted: play is multimodal, an expert goes one way only.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.play import Look, Scene, Skill, register_scene
from envs.skills import CLOSED, HERE, Arm, SkillExpert, Waypoint
from envs.tabletop import MOVE, NAMES, TASKS, achieved
from envs.tabletop_model import (
    BAR,
    BLOCK,
    BLOCK_Y,
    BUTTONS_X,
    BUTTONS_Y,
    DOOR_SIDE,
    DOOR_X,
    DOOR_Y,
    DRAWER_OUT,
    DRAWER_X,
    DRAWER_Y,
    FINGER,
    REACH,
    WALL_X,
    WALL_Y,
    ZONE_X,
)

LOW = REACH[2][0]  # height at which things are touched
ASIDE = 0.045  # how far beside the wall is passed
BEHIND = BLOCK + FINGER + 0.023  # from the block's middle, to come down beside it
GAP = BAR / 2  # from the drawer's front, between it and the bar
MIDDLE = 0.03  # how far from the middle of its zone the block is left


class Finger:
    """The table-top's finger with the senses and actions of `envs.skills.Arm`."""

    action_dim = 3
    moving = 3

    def __init__(self, env: Any) -> None:
        """Reads the environment."""
        self.env = env
        self._straight = np.eye(3)

    @property
    def position(self) -> np.ndarray:
        """The finger's tip in m, [3]."""
        return self.env.finger

    @property
    def rotation(self) -> np.ndarray:
        """It never turns, [3, 3]."""
        return self._straight

    def action(
        self, position: np.ndarray, rotation: np.ndarray, grip: float, speed: float = 1.0
    ) -> np.ndarray:
        """The action that moves straight to a point: float32[3]."""
        move = (position - self.position) / MOVE
        return (move / max(1.0, np.abs(move).max() / speed)).astype(np.float32)


@dataclass(frozen=True)
class Variant:
    """One of the ways to do things.

    Attributes:
        right: round the right end of the wall, else the left.
        height: m, of the way there.
        inside: a drawer is shut from within, against its front, else from without at the bar.
        far: in [0, 1], of how far things are moved.
    """

    right: bool = True
    height: float = 0.12
    inside: bool = False
    far: float = 0.5

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Variant":
        """Any of them."""
        right, inside = rng.integers(0, 2, 2).astype(bool)
        return cls(bool(right), rng.uniform(0.09, 0.15), bool(inside), rng.uniform(0.0, 1.0))


def _point(x: float, y: float, z: float, **options: Any) -> Waypoint:
    return Waypoint((float(x), float(y), float(z)), CLOSED, **{"limit": 15, **options})


def way(arm: Arm, x: float, y: float, variant: Variant) -> list[Waypoint]:
    """From anywhere to above a point of the table, round the wall where it is in between."""
    start, height = arm.position, variant.height
    rise = Waypoint((0.0, 0.0, height - start[2]), CLOSED, HERE, tolerance=0.03, limit=6)
    round_it = []
    if (start[1] - WALL_Y) * (y - WALL_Y) < 0:
        crossing = start[0] + (WALL_Y - start[1]) / (y - start[1]) * (x - start[0])
        if WALL_X[0] - 0.03 < crossing < WALL_X[1] + 0.03:
            beside = WALL_X[1] + ASIDE if variant.right else WALL_X[0] - ASIDE
            round_it = [_point(beside, WALL_Y, height, tolerance=0.025)]
    return [rise, *round_it, _point(x, y, height, tolerance=0.02)]


def _stroke(
    arm: Arm, start: tuple[float, float], end: tuple[float, float], variant: Variant
) -> list[Waypoint]:
    """Down at one point, along the table to another, and up."""
    up = Waypoint((0.0, 0.0, 0.07), CLOSED, HERE, tolerance=0.03, limit=6)
    down = _point(*start, LOW, tolerance=0.012)
    return [*way(arm, *start, variant), down, _point(*end, LOW, tolerance=0.012), up]


def plan(what: str, arm: Arm, variant: Variant) -> list[Waypoint]:
    """How something is done from here.

    Args:
        what: one of `TASKS`, or "block-back", "block-forth".
        arm: the finger.
        variant: in which way.
    """
    look = arm.env.look()
    thing, _, how = what.partition("-")
    if thing == "button":
        x = BUTTONS_X[NAMES.index(how)]
        return _stroke(arm, (x, BUTTONS_Y), (x, BUTTONS_Y), variant)
    if thing == "drawer":
        front = DRAWER_Y - look["drawer"]
        if how == "open":
            end = DRAWER_Y - DRAWER_OUT + 0.02 * (0.5 - variant.far) + BAR + 0.006 + FINGER
            return _stroke(arm, (DRAWER_X, front + GAP), (DRAWER_X, end), variant)
        start = front + (GAP if variant.inside else BAR - 0.048)
        end = DRAWER_Y + (-0.008 - FINGER if variant.inside else BAR - 0.006 - FINGER) + 0.008
        return _stroke(arm, (DRAWER_X, start), (DRAWER_X, end), variant)
    if thing == "door":
        side = -1.0 if how == "left" else 1.0
        post, beside = DOOR_X + look["door"], 0.012 + FINGER
        end = DOOR_X + side * (DOOR_SIDE - 0.008 + 0.016 * variant.far - beside)
        return _stroke(arm, (post - side * (beside + 0.022), DOOR_Y), (end, DOOR_Y), variant)
    x, y, beside = look["block"], look["block y"], BLOCK + FINGER
    if how in ("left", "right"):
        side = -1.0 if how == "left" else 1.0
        end = side * (0.1 + 0.06 * variant.far - beside)
        return _stroke(arm, (x - side * BEHIND, y), (end, y), variant)
    side = -1.0 if how == "forth" else 1.0
    return _stroke(arm, (x, y - side * BEHIND), (x, BLOCK_Y - side * beside), variant)


def task_expert(env: Any, rng: np.random.Generator | None = None) -> SkillExpert:
    """An expert for what the environment asks; in one way only, or in drawn ones."""
    env = env.unwrapped

    def planner(arm: Arm, attempt: int) -> list[Waypoint]:
        return plan(env.asked, arm, Variant() if rng is None else Variant.draw(rng))

    return SkillExpert(env, planner)


def _affords(what: str) -> Any:
    """When something can be done."""

    def affords(arm: Arm) -> bool:
        look = arm.env.look()
        thing, _, how = what.partition("-")
        if thing == "drawer":
            return look["drawer"] < 0.03 if how == "open" else look["drawer"] > 0.07
        if thing == "door":
            return look["door"] > 0 if how == "left" else look["door"] < 0
        if thing == "block" and how in ("left", "right"):
            return look["block"] > -0.04 if how == "left" else look["block"] < 0.04
        if thing == "block":
            aside = look["block y"] - BLOCK_Y
            return aside > MIDDLE if how == "forth" else aside < -MIDDLE
        return True

    return affords


def _centred(before: Look, now: Look) -> bool:
    return abs(now["block y"] - BLOCK_Y) < MIDDLE


def _skill(what: str) -> Skill:
    def done(before: Look, now: Look) -> bool:
        return achieved(what, before, now)

    return Skill(
        what,
        _affords(what),
        lambda arm, rng: plan(what, arm, Variant.draw(rng)),
        done if what in TASKS else _centred,
    )


def scene(env: Any) -> Scene:
    """Everything that can be done on the table."""

    def wander(arm: Arm, rng: np.random.Generator) -> list[Waypoint]:
        x, y = rng.uniform(-ZONE_X, ZONE_X), rng.uniform(-0.2, 0.05)
        return way(arm, x, y, Variant.draw(rng))

    def rest(arm: Arm) -> list[Waypoint]:
        return way(arm, 0.0, BLOCK_Y, Variant())

    skills = tuple(_skill(what) for what in (*TASKS, "block-back", "block-forth"))
    return Scene(skills, lambda arm: arm.env.look(), wander, rest)


register_scene("tabletop/", scene)

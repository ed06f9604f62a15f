"""Scene to play in: robosuite's door with a handle."""

from typing import Any

import numpy as np

from envs.play import Scene, Skill, register_scene
from envs.robosuite_expert import (
    HOME,
    OPENED,
    UNLATCHED,
    check_arm,
    door_pose,
    door_waypoint,
    hold_handle,
)
from envs.skills import HERE, OPEN, Arm, Waypoint, flat, opening

SHUT = -0.08  # rad; pushes against the stop


def let_go(arm: Arm) -> list[Waypoint]:
    """Opens the fingers, draws back and waits for the handle to spring back."""
    back = tuple(-0.1 * arm.rotation[:, 2])
    return [
        Waypoint((0.0, 0.0, 0.0), OPEN, HERE, tolerance=1.0, angle=9.0, hold=4),
        Waypoint(back, OPEN, HERE, tolerance=0.03, hold=8),
    ]


def door(env: Any) -> Scene:
    """The scene of the door with a handle."""
    check_arm(env)

    def look(arm: Arm) -> dict[str, float]:
        handle, hinge = arm.joint("Door_latch_joint"), arm.joint("Door_hinge")
        return {"handle": handle, "door": hinge, "empty": float(opening(arm) > 0.07)}

    def use(arm: Arm, latch: float, hinge: float | None = None) -> list[Waypoint]:
        """Takes the handle, turns it to `latch`, moves the door to `hinge` if any, lets go."""
        level, start, _ = look(arm).values()
        end = start if hinge is None else hinge
        turned = [door_waypoint(arm, x, start) for x in np.linspace(level, latch, 5)[1:]]
        moved = [door_waypoint(arm, latch, x) for x in np.linspace(start, end, 4)[1:]]
        back = tuple(-0.1 * door_pose(arm, latch, end)[1][:, 2])
        return [
            *hold_handle(arm, level, start),
            *turned,
            *(moved if hinge is not None else []),
            Waypoint((0.0, 0.0, 0.0), OPEN, HERE, tolerance=1.0, angle=9.0, hold=4),
            Waypoint(back, OPEN, HERE, tolerance=0.03, hold=8),
        ]

    def empty(arm: Arm) -> bool:
        return bool(look(arm)["empty"])

    def wander(arm: Arm, rng: np.random.Generator) -> list[Waypoint]:
        points = rng.uniform([-0.2, 0.0, 1.0], [0.05, 0.2, 1.2], (int(rng.integers(1, 4)), 3))
        ways = [Waypoint(tuple(point), OPEN, tolerance=0.04, limit=30) for point in points]
        return [*([] if empty(arm) else let_go(arm)), *ways]

    def rest(arm: Arm) -> list[Waypoint]:
        return [*let_go(arm), Waypoint((-0.1, 0.1, 1.05), OPEN, "", flat(HOME), hold=10)]

    skills = (
        Skill(
            "let go",
            lambda arm: not empty(arm),
            lambda arm, rng: let_go(arm),
            lambda before, now: bool(now["empty"]),
        ),
        Skill(
            "turn handle",
            lambda arm: empty(arm) and abs(look(arm)["handle"]) < 0.3,
            lambda arm, rng: use(arm, rng.uniform(0.6, UNLATCHED)),
            lambda before, now: now["handle"] > 0.5,
        ),
        Skill(
            "open door",
            lambda arm: empty(arm) and look(arm)["door"] < 0.25,
            lambda arm, rng: use(arm, UNLATCHED, rng.uniform(0.34, OPENED)),
            lambda before, now: now["door"] > 0.3,
        ),
        Skill(
            "close door",
            lambda arm: empty(arm) and look(arm)["door"] > 0.08,
            lambda arm, rng: use(arm, UNLATCHED, SHUT),
            lambda before, now: now["door"] < 0.03,
        ),
        Skill(
            "leave door ajar",
            empty,
            lambda arm, rng: use(arm, UNLATCHED, rng.uniform(0.1, 0.3)),
            lambda before, now: abs(now["door"] - before["door"]) > 0.06,
        ),
    )
    return Scene(skills, look, wander, rest)


register_scene("robosuite/Door", door)

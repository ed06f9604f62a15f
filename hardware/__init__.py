"""Robots behind one contract, with a safety envelope that latches.

    from hardware import Robot, load_limits
    robot = Robot(driver, load_limits("panda"))
    robot.connect()
    lease = robot.activate("my policy")
    state = robot.read()
    sent = robot.command(Command(...), lease)    # what was really sent, and which limits acted

Nothing here imports torch. A software stop is not an emergency stop: keep the
arm's own within reach.
"""

from hardware.errors import HardwareError, Latched, LinkLost, NotReady, OwnedByAnother, StillMoving
from hardware.limits import Limits, load_limits
from hardware.robot import Robot
from hardware.types import (
    Camera,
    Command,
    Driver,
    Gripper,
    Joint,
    Lifecycle,
    RobotState,
    Sent,
    Spec,
)

__all__ = [
    "Camera",
    "Command",
    "Driver",
    "Gripper",
    "HardwareError",
    "Joint",
    "Latched",
    "Lifecycle",
    "Limits",
    "LinkLost",
    "NotReady",
    "OwnedByAnother",
    "Robot",
    "RobotState",
    "Sent",
    "Spec",
    "StillMoving",
    "load_limits",
]

"""The values that pass between a policy, the safety envelope and a robot.

Joint vectors are float64 [n] in the order of `Spec.joints`, in rad, rad/s and N m (m, m/s and N for
a slide). Stamps are seconds on the monotonic clock of the machine beside the robot; clocks of other
machines are never compared with it.
"""

import enum
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Joint:
    """One joint and what its maker allows.

    Attributes:
        name: as the robot's messages call it.
        lower: rad.
        upper: rad.
        velocity: rad/s.
        acceleration: rad/s^2.
        effort: N m.
    """

    name: str
    lower: float
    upper: float
    velocity: float
    acceleration: float
    effort: float


@dataclass(frozen=True)
class Gripper:
    """A gripper that opens from 0 to `opening`.

    Attributes:
        opening: m, fingertip to fingertip.
        effort: N, the most it may grasp with.
    """

    opening: float
    effort: float


@dataclass(frozen=True)
class Camera:
    """A camera: its name, the size of its pictures in pixels and their rate in Hz."""

    name: str
    height: int
    width: int
    rate: float


@dataclass(frozen=True)
class Spec:
    """What is known of a robot before connecting to it, enough to check a policy against it.

    Attributes:
        name: of the robot, unique in the lab: the latch is kept under it.
        joints: in the order of all joint vectors.
        gripper: None if it has none.
        cameras: what `RobotState.images` holds.
        command_rate: Hz at which commands are sent on; accelerations are judged at this step.
        simulated: whether nobody can be hurt; only then is no enabling switch needed.
    """

    name: str
    joints: tuple[Joint, ...]
    gripper: Gripper | None = None
    cameras: tuple[Camera, ...] = ()
    command_rate: float = 100.0
    simulated: bool = False

    @property
    def names(self) -> list[str]:
        """The joints' names."""
        return [joint.name for joint in self.joints]


@dataclass(frozen=True)
class RobotState:
    """What the robot sensed.

    Attributes:
        stamp: s, when it was acquired.
        position: rad, [n].
        velocity: rad/s, [n].
        effort: N m, [n].
        gripper: m of opening; NaN-free, 0 without a gripper.
        wrench: N and N m at the tool, [6], or None without a sensor.
        images: uint8 [height, width, 3] by camera, with the stamp of each.
    """

    stamp: float
    position: np.ndarray
    velocity: np.ndarray
    effort: np.ndarray
    gripper: float = 0.0
    wrench: np.ndarray | None = None
    images: dict[str, tuple[float, np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True)
class Command:
    """Where the joints shall be at the robot's next step.

    Attributes:
        position: rad, [n].
        stamp: s, when it was decided, on the robot's clock (a remote policy echoes the stamp of
            the state it decided on, plus what it measured itself since).
        sequence: larger than that of every command before.
        gripper: m of opening, or None to leave it.
        observed: stamp of the newest state this motion was decided on: what lies between is
            motion nobody looked at.
    """

    position: np.ndarray
    stamp: float
    sequence: int
    gripper: float | None = None
    observed: float | None = None


class Act(enum.StrEnum):
    """What the envelope did to a command: the first that applies, from worst to best."""

    LATCH = "latch"  # nothing moves until an operator resets
    HOLD = "hold"  # slowed down to rest, the command was not followed
    LIMIT = "limit"  # followed as far as limits allow
    PASS = "pass"  # unchanged, bit for bit


class Cause(enum.StrEnum):
    """Which limit acted, or why the stop is latched."""

    FINITE = "non-finite"
    FRESH = "stale"
    ORDER = "out of order"
    OWNER = "second writer"
    ARMED = "enabling switch"
    WORKSPACE = "workspace"
    POSITION = "joint position"
    VELOCITY = "joint velocity"
    ACCELERATION = "joint acceleration"
    TRACKING = "tracking error"
    FORCE = "force"
    BLIND = "blind motion"
    DRIVER = "driver fault"
    LINK = "link lost"
    OPERATOR = "operator"
    SILENT = "policy silent"


@dataclass(frozen=True)
class Sent:
    """What was really sent: this is recorded, and learnt from.

    Attributes:
        stamp: s.
        position: rad, [n].
        velocity: rad/s, [n]: change since what was sent before, over the period.
        gripper: m, or None.
        act: what was done to the command.
        causes: which limits acted.
    """

    stamp: float
    position: np.ndarray
    velocity: np.ndarray
    gripper: float | None
    act: Act
    causes: tuple[Cause, ...] = ()


class Lifecycle(enum.StrEnum):
    """The states of ros2_control's hardware components."""

    UNCONFIGURED = "unconfigured"  # made
    INACTIVE = "inactive"  # link up, states readable, commands refused
    ACTIVE = "active"  # commands applied
    FINALIZED = "finalized"  # for good


class Driver(Protocol):
    """One robot's wire; `Robot` puts the envelope before it. Only `Robot` calls `write`."""

    spec: Spec

    def connect(self) -> None:
        """Makes the link. Raises LinkLost."""

    def activate(self) -> None:
        """Lets the robot follow positions from now on (brakes off, controller on)."""

    def deactivate(self) -> None:
        """The robot holds by itself from now on."""

    def read(self) -> RobotState:
        """Returns the newest state without waiting longer than one period.

        Raises:
            LinkLost: there is none.
            Disarmed: once, when the robot has ceased to follow by itself.
        """

    def write(self, position: np.ndarray, velocity: np.ndarray, gripper: float | None) -> None:
        """Sends one step. Raises LinkLost."""

    def halt(self) -> None:
        """Stops as fast as the robot can by itself; must work when everything else fails."""

    def close(self) -> None:
        """Ends the link."""

    def describe(self) -> dict[str, Any]:
        """Returns versions and settings for the record."""

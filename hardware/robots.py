"""Robots by name or file, and how they are reached: in this process or over a wire.

    find("panda_twin")            the MuJoCo twin of a Panda
    find("robosuite/Lift")        an arm that another package has offered
    find("lab/left_panda.yaml")   an arm of a lab's own, over ROS 2:

        name: left_panda
        limits: panda                  # or a YAML file like those in hardware/limits
        changes:                       # of the limits
          velocity_share: 0.3
          workspace: {lower: [0.2, -0.4, 0.05], upper: [0.8, 0.4, 0.8]}
        home: [0, -0.3, 0, -2.2, 0, 2.0, 0.785]      # rad
        command_rate: 100              # Hz
        fingers: [panda_finger_joint1, panda_finger_joint2]
        cameras: [{name: wrist, height: 240, width: 320, rate: 15}]
        enabling_switch: /enable       # std_msgs/Bool, true while it is held, ten times a second
        topics: {trajectory: /panda_arm_controller/joint_trajectory, arm: "", disarm: ""}

A robot that is not simulated needs the enabling switch. `topics` are fields of
`hardware.ros.Topics`; an empty name is not used.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hardware.errors import HardwareError
from hardware.latch import Deadman
from hardware.limits import Limits, load_limits
from hardware.robot import Robot
from hardware.ros import RosDriver, Topics
from hardware.twin import HOME, panda_twin
from hardware.types import Camera, Spec
from hardware.wire import Qos, Wire

TWINS = ("panda_twin",)
TRANSPORTS = ("local", "zenoh", "rosbridge", "rclpy")
PORTS = {"zenoh": 7447, "rosbridge": 9090}
_LOST = 0.5  # s without a joint state
_SLACK = {"velocity_share": 0.95, "acceleration_share": 0.85}  # of an envelope before another
_REST = 0.3  # s in which a robot of a lab's own brakes after the last trajectory
_SWITCH = Qos(reliable=False, depth=1)
_KEYS = ("name", "limits", "changes", "home", "command_rate", "fingers", "cameras")
_KEYS += ("enabling_switch", "topics", "simulated")


class NoSuchRobot(HardwareError, ValueError):
    """There is no robot of this name, or its file is wrong; the message says where."""


@dataclass(frozen=True)
class Arm:
    """A robot before anything is connected.

    Attributes:
        name: unique in the lab; its latch is kept under it.
        spec: of the robot.
        limits: what the envelope enforces.
        home: rad, [n], or None: wherever it is.
        topics: its names on a wire.
        fingers: the gripper's joints in its joint states.
        switch: topic of the enabling switch; empty for a simulated robot.
    """

    name: str
    spec: Spec
    limits: Limits
    home: np.ndarray | None = None
    topics: Topics = field(default_factory=Topics)
    fingers: tuple[str, ...] = ()
    switch: str = ""

    @property
    def has_twin(self) -> bool:
        """Whether `twin` makes one, which `hardware.serving` can put behind a wire."""
        return self.name in TWINS

    def twin(self, clock: Callable[[], float] = time.monotonic, live: bool = True) -> Any:
        """Makes the simulated robot.

        Raises:
            HardwareError: it has none, or MuJoCo is not installed.
        """
        if not self.has_twin:
            raise HardwareError(f"{self.name} has no twin; twins are {', '.join(TWINS)}")
        return panda_twin(
            self.name,
            limits=self.limits,
            cameras=self.spec.cameras,
            command_rate=self.spec.command_rate,
            clock=clock,
            live=live,
        )


_OFFERED: dict[str, Callable[..., Arm]] = {}


def offer(prefix: str, find_one: Callable[..., Arm]) -> None:
    """Has `find` know robots that another package simulates.

    Args:
        prefix: of their names, before the first "/".
        find_one: takes a name and the further arguments of `find`.
    """
    _OFFERED[prefix] = find_one


def find(
    robot: str | Path | Arm,
    *,
    limits: str | Path | None = None,
    cameras: Sequence[Camera] = (),
    changes: Mapping[str, Any] | None = None,
) -> Arm:
    """Looks a robot up.

    Args:
        robot: a name of `TWINS`, one that was offered, or a YAML file as above; an `Arm` is
            returned as it is.
        limits: instead of the robot's own, see `load_limits`.
        cameras: of a twin; a file names its own.
        changes: fields of `Limits`, over those of a file.

    Raises:
        NoSuchRobot: there is none of this name, or its file is wrong.
        LimitsError: its limits are wrong.
    """
    if isinstance(robot, Arm):
        return robot
    changes = dict(changes or {})
    prefix = str(robot).partition("/")[0]
    if prefix in _OFFERED and not Path(robot).is_file():
        return _OFFERED[prefix](str(robot), limits=limits, cameras=cameras, changes=changes)
    if robot in TWINS:
        chosen = load_limits(limits or "panda", **changes)
        fingers = ("panda_finger_joint1", "panda_finger_joint2")
        spec = chosen.spec(str(robot), cameras=tuple(cameras), simulated=True)
        return Arm(str(robot), spec, chosen, np.array(HOME), fingers=fingers)
    path = Path(robot)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        raise NoSuchRobot(
            f"no robot {str(robot)!r}; there is {', '.join(known())}, or give a YAML file "
            "(hardware/robots.py shows one)"
        )
    return _from_file(path, limits, changes)


def known() -> list[str]:
    """Names that `find` takes."""
    return [*TWINS, *(f"{prefix}/..." for prefix in _OFFERED)]


def _from_file(path: Path, limits: str | Path | None, changes: dict[str, Any]) -> Arm:
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise NoSuchRobot(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict) or "limits" not in content:
        raise NoSuchRobot(f"{path} needs the key `limits`, such as panda, fr3 or ur5e")
    if unknown := sorted(content.keys() - set(_KEYS)):
        raise NoSuchRobot(f"{path}: unknown keys {unknown}; allowed are {list(_KEYS)}")
    own = str(content["limits"])
    if (path.parent / own).is_file():
        own = str(path.parent / own)
    chosen = load_limits(limits or own, **{**(content.get("changes") or {}), **changes})
    name, simulated = content.get("name", path.stem), bool(content.get("simulated", False))
    switch = content.get("enabling_switch", "")
    if not simulated and not switch:
        raise NoSuchRobot(
            f"{path}: a robot that is not simulated needs `enabling_switch`, the topic of a "
            "std_msgs/Bool that is true while a person holds it"
        )
    try:
        cameras = tuple(Camera(**one) for one in content.get("cameras") or ())
        topics = Topics(**(content.get("topics") or {}))
    except TypeError as error:
        names = [one.name for one in dataclasses.fields(Topics)]
        raise NoSuchRobot(f"{path}: {error}; topics are {names}") from error
    rate = float(content.get("command_rate", 100.0))
    spec = chosen.spec(str(name), cameras=cameras, command_rate=rate, simulated=simulated)
    home = content.get("home")
    if home is not None and np.shape(home) != (len(spec.joints),):
        raise NoSuchRobot(f"{path}: home needs {len(spec.joints)} numbers")
    fingers = tuple(content.get("fingers") or ())
    home = None if home is None else np.array(home, float)
    return Arm(str(name), spec, chosen, home, topics, fingers, str(switch))


def make_wire(transport: str, address: str = "", *, serve: bool = False) -> Wire:
    """Opens a transport.

    Args:
        transport: "zenoh", "rosbridge" or "rclpy".
        address: "tcp/HOST:PORT" or "ws://HOST:PORT"; by default the usual port of this machine.
        serve: be the side that others connect to.

    Raises:
        LinkLost: nobody answers there.
        ValueError: there is no such transport, or it has no address like this.
    """
    if transport == "zenoh":
        from hardware.zenoh_ros import ZenohWire

        endpoint = address or f"tcp/127.0.0.1:{PORTS['zenoh']}"
        if serve:
            return ZenohWire((), listen=[endpoint], node="robot")
        return ZenohWire([endpoint])
    if transport == "rosbridge":
        from hardware.rosbridge import RosbridgeServer, RosbridgeWire

        url = address or f"ws://127.0.0.1:{PORTS['rosbridge']}"
        if not serve:
            return RosbridgeWire(url)
        host, _, port = url.removeprefix("ws://").rpartition(":")
        return RosbridgeServer(host, int(port))
    if transport == "rclpy":
        from hardware.rclpy_wire import RclpyWire

        return RclpyWire()
    wires = [one for one in TRANSPORTS if one != "local"]
    raise ValueError(f"transport={transport!r}; a wire is one of {', '.join(wires)}")


def make_robot(
    robot: str | Arm,
    transport: str = "local",
    address: str = "",
    options: Mapping[str, Any] | None = None,
) -> Robot:
    """Makes a robot behind its envelope; connects nothing but the wire.

    Args:
        robot: see `find`.
        transport: one of `TRANSPORTS`.
        address: see `make_wire`.
        options: further arguments of `find`.

    Raises:
        HardwareError: there is no such robot, or nobody answers.
    """
    arm = find(robot, **(options or {}))
    return connected(arm, None if transport == "local" else make_wire(transport, address))


def connected(arm: Arm, wire: Wire | None) -> Robot:
    """Puts the envelope before a robot at the end of a wire, or before a twin in this process.

    Args:
        arm: which.
        wire: closed with the robot; None for a twin.
    """
    if wire is None:
        return Robot(arm.twin(), arm.limits)
    deadman = None
    if not arm.spec.simulated:
        deadman = Deadman()
        wire.subscribe(arm.switch, "std_msgs/msg/Bool", _pressing(deadman), _SWITCH)
    lost = max(_LOST, 2.0 * arm.limits.observation_age)
    limits, rest = arm.limits, _REST
    if arm.has_twin:  # served by `hardware.ros_server`: its envelope needs slack to catch up
        limits, rest = slackened(arm.limits), 0.0
    driver = RosDriver(arm.spec, wire, arm.topics, fingers=arm.fingers, lost=lost, rest=rest)
    return Robot(driver, limits, deadman=deadman)


def slackened(limits: Limits) -> Limits:
    """Limits for an envelope before another of these: what is late there can still catch up."""
    changes = {name: share * getattr(limits, name) for name, share in _SLACK.items()}
    return dataclasses.replace(limits, **changes)


def _pressing(deadman: Deadman) -> Callable[[Mapping[str, Any], float], None]:
    def receive(message: Mapping[str, Any], arrived: float) -> None:
        if message.get("data") is True:
            deadman.beat(arrived)

    return receive

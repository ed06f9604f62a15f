"""A robot that speaks ROS 2, as a driver: over any transport of `hardware.wire`.

    /joint_states           sensor_msgs/JointState           in
    /joint_trajectory       trajectory_msgs/JointTrajectory  out, one point per step
    /gripper                control_msgs/GripperCommand      action, when the opening changes
    /<camera>/compressed    sensor_msgs/CompressedImage      in
    /wrench                 geometry_msgs/WrenchStamped      in, if there is one
    /diagnostics            diagnostic_msgs/DiagnosticArray  in: whether the robot still follows
    /arm, /disarm, /halt    std_srvs/Trigger                 services
    /stop                   std_srvs/Trigger                 latches; for anybody

`hardware.ros_server` is the other side, for a twin or any other driver. A ros2_control robot has
these under its controllers' names (`Topics`); where it lacks a service, leave that name empty. Its
controllers refuse a trajectory that ends in motion, so a second point, at rest, ends each of those
(`rest`).
"""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware import messages, pictures
from hardware.errors import Disarmed, HardwareError, LinkLost
from hardware.playout import Metronome
from hardware.types import Lifecycle, RobotState, Spec
from hardware.wire import COMMAND, SENSOR, STATE, Message, Wire

_FIRST = 5.0  # s for the first joint state to arrive
_SERVICE = (1.0, 4.0)  # s for an answer, at least and at most
_OPENING = 1e-3  # m; smaller changes of the gripper are not sent


@dataclass(frozen=True)
class Topics:
    """What a robot calls its topics, services and actions; an empty name is not used."""

    joint_states: str = "/joint_states"
    trajectory: str = "/joint_trajectory"
    gripper: str = "/gripper"
    wrench: str = "/wrench"
    pictures: str = "/{camera}/compressed"
    arm: str = "/arm"
    disarm: str = "/disarm"
    halt: str = "/halt"
    stop: str = "/stop"
    diagnostics: str = "/diagnostics"


class RosDriver:
    """A `Driver` whose robot is at the other end of a wire."""

    def __init__(
        self,
        spec: Spec,
        wire: Wire,
        topics: Topics | None = None,
        *,
        fingers: tuple[str, ...] = (),
        lost: float = 0.5,
        rest: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Subscribes to nothing yet.

        Args:
            spec: of the robot.
            wire: a transport that reaches it; closed with the driver.
            topics: its names.
            fingers: the gripper's joints in its joint states.
            lost: s without a joint state, after which the link counts as lost.
            rest: s of braking after which each trajectory ends at rest; 0 leaves it to the robot's
                own watchdog, as `hardware.ros_server` has one.
            clock: s.
            wall: s since 1970, for the stamps of what is sent.
        """
        self.spec, self._wire, self._topics = spec, wire, topics or Topics()
        self._fingers, self._lost, self._rest = fingers, lost, rest
        self._clock, self._epoch = (
            clock,
            wall() - clock(),
        )  # later jumps of the wall clock are not seen
        self._beat = Metronome(1.0 / spec.command_rate)
        self._patience = min(max(lost, _SERVICE[0]), _SERVICE[1])
        self._lock = threading.Lock()
        self._state: RobotState | None = None
        self._wrench: np.ndarray | None = None
        self._images: dict[str, tuple[float, np.ndarray]] = {}
        self._problem, self._disarmed, self._armed = "", "", False
        self._opening: float | None = None
        self._wanted = threading.Event()
        self._closed = False
        self._undo: list[Callable[[], None]] = []

    def connect(self) -> None:
        """Subscribes, and waits for the first joint state.

        Raises:
            LinkLost: none came.
        """
        names, wire = self._topics, self._wire
        self._publish = wire.publisher(names.trajectory, messages.TRAJECTORY, COMMAND)
        kind = "sensor_msgs/msg/CompressedImage"
        self._undo = [wire.subscribe(names.joint_states, messages.JOINT_STATE, self._joints, STATE)]
        if names.wrench:
            self._undo.append(wire.subscribe(names.wrench, messages.WRENCH, self._forces, SENSOR))
        if names.diagnostics:
            health = wire.subscribe(names.diagnostics, messages.DIAGNOSTICS, self._told, STATE)
            self._undo.append(health)
        for camera in self.spec.cameras:
            topic = names.pictures.format(camera=camera.name)
            self._undo.append(wire.subscribe(topic, kind, self._camera(camera.name), SENSOR))
        if self.spec.gripper is not None and names.gripper:
            threading.Thread(target=self._grip, daemon=True, name="gripper").start()
        end = time.monotonic() + _FIRST
        while self._state is None:
            if time.monotonic() > end:
                why = self._problem or "none came"
                raise LinkLost(f"{self.spec.name}: joint states on {names.joint_states}: {why}")
            time.sleep(0.005)

    def activate(self) -> None:
        """Asks the robot to follow."""
        self._ask(self._topics.arm)
        self._disarmed, self._armed = "", True

    def deactivate(self) -> None:
        """Asks the robot to hold by itself; one that cannot be reached does so by its watchdog."""
        self._armed = False
        with contextlib.suppress(LinkLost):
            self._ask(self._topics.disarm)

    def halt(self) -> None:
        """Asks the robot to stop; one that cannot be reached does so by its watchdog."""
        with contextlib.suppress(LinkLost):
            self._ask(self._topics.halt)

    def read(self) -> RobotState:
        """Returns the newest state that arrived.

        Raises:
            LinkLost: the last one is too old.
            Disarmed: the robot's side says that it does not follow any more.
        """
        with self._lock:
            if self._disarmed:
                why, self._disarmed = self._disarmed, ""
                raise Disarmed(why)
            state = self._state
            age = self._clock() - state.stamp
            if age > self._lost:
                why = f"; {self._problem}" if self._problem else ""
                raise LinkLost(f"{self.spec.name}: no joint state for {age:.2f} s{why}")
            fields = {**vars(state), "wrench": self._wrench, "images": dict(self._images)}
            return RobotState(**fields)

    def write(self, position: np.ndarray, velocity: np.ndarray, gripper: float | None) -> None:
        """Publishes a trajectory to one point, one period ahead, and on to rest if need be."""
        times, positions, velocities = [1.0 / self.spec.command_rate], [position], [velocity]
        if self._rest:
            times.append(times[0] + self._rest)
            positions.append(position + 0.5 * self._rest * velocity)
            velocities.append(np.zeros_like(velocity))
        stamp = self._epoch + self._beat.tick(self._clock())
        path = messages.trajectory(
            self.spec.names, times, np.stack(positions), np.stack(velocities), stamp=stamp
        )
        self._publish(path)
        if gripper is not None:
            change = self._opening is None or abs(gripper - self._opening) > _OPENING
            if change:
                self._opening = gripper
                self._wanted.set()

    def close(self) -> None:
        """Ends subscriptions and wire."""
        self._closed = True
        self._wanted.set()
        for undo in self._undo:
            undo()
        self._wire.close()

    def describe(self) -> dict[str, Any]:
        """Returns transport and topics."""
        return {"driver": "ros", "wire": type(self._wire).__name__, "topics": vars(self._topics)}

    # ---------------------------------------------------------------- inside

    def _joints(self, message: Message, arrived: float) -> None:
        try:
            state = messages.robot_state(message, self.spec, arrived=arrived, fingers=self._fingers)
        except HardwareError as error:
            self._problem = str(error)  # told when it is missed
            return
        with self._lock:
            self._state, self._problem = state, ""

    def _forces(self, message: Message, arrived: float) -> None:
        with contextlib.suppress(HardwareError):
            self._wrench = messages.read_wrench(message)

    def _told(self, message: Message, arrived: float) -> None:
        with contextlib.suppress(HardwareError):
            lifecycle, text = messages.read_lifecycle(message, self.spec.name)
            if self._armed and lifecycle not in ("", Lifecycle.ACTIVE):
                with self._lock:
                    self._disarmed, self._armed = f"the robot's side is {lifecycle}: {text}", False

    def _camera(self, name: str) -> Callable[[Message, float], None]:
        def receive(message: Message, arrived: float) -> None:
            with contextlib.suppress(HardwareError):
                picture = pictures.read_compressed_image(message)
                with self._lock:
                    self._images[name] = (arrived, picture)

        return receive

    def _ask(self, service: str) -> None:
        if not service:
            return
        try:
            answer = self._wire.call(service, messages.TRIGGER, {}, self._patience)
        except TimeoutError as error:
            raise LinkLost(f"{self.spec.name}: {error}") from error
        if not answer.get("success"):
            raise HardwareError(f"{self.spec.name} refuses {service}: {answer.get('message')}")

    def _grip(self) -> None:
        """Sends the newest opening, one goal after the other; the control loop never waits."""
        while self._wanted.wait() and not self._closed:
            self._wanted.clear()
            goal = messages.gripper_goal(self._opening, self.spec.gripper.effort)
            with contextlib.suppress(HardwareError, TimeoutError):
                self._wire.send_goal(self._topics.gripper, messages.GRIPPER, goal)

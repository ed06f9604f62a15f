"""A robot or its twin behind ROS 2's topics: the other side of `hardware.ros`.

The envelope, the watchdog and the latch are here, beside the robot, whatever the client does: a
trajectory is refused if it is older than one that came before, or late by more than `command_age`
against the fastest that has come (clocks of two machines are never compared). Trajectories are
played out by their stamps, a period later than the fastest would allow, so that the wire's jitter
does not reach the arm. The latch cannot be reset over the wire.
"""

import contextlib
import threading
import time
from collections.abc import Callable

import numpy as np

from hardware import messages, pictures
from hardware.errors import HardwareError, LinkLost, NotReady, OwnedByAnother
from hardware.playout import Arrivals, Metronome, Playout
from hardware.robot import Robot
from hardware.ros import Topics
from hardware.types import Cause, Command, Lifecycle, RobotState
from hardware.wire import COMMAND, SENSOR, STATE, Goal, GoalStatus, Message, Wire


class _Turns:
    """A lock that is had in turn: a loop that is late and never rests must not keep services out.

    Nobody may take it twice.
    """

    def __init__(self) -> None:
        self._next, self._held = threading.Lock(), threading.Lock()

    def __enter__(self) -> None:
        with self._next:  # who waits for the other holds this one, and so comes before us
            self._held.acquire()

    def __exit__(self, *_: object) -> None:
        self._held.release()


class RobotServer:
    """Serves one robot; `step` does what is due in one period, `run` does so until stopped.

    Attributes:
        robot: behind its envelope.
        arrivals: of trajectories.
        malformed: messages that could not be read.
    """

    def __init__(
        self,
        robot: Robot,
        wire: Wire,
        topics: Topics | None = None,
        *,
        fingers: tuple[str, ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connects the robot and offers it.

        Args:
            robot: not connected yet.
            wire: a transport; closed with the server.
            topics: the names.
            fingers: names for the gripper's joints in joint states.
            clock: s, the robot's.
        """
        self.robot, self._wire, self._clock = robot, wire, clock
        self._fingers, names = fingers, topics or Topics()
        self.arrivals, self.malformed = Arrivals(robot.limits.command_age), 0
        self._lock = _Turns()
        self._lease: str | None = None
        period = 1.0 / robot.spec.command_rate
        self._playout, self._beat = Playout(len(robot.spec.joints), period), Metronome(period)
        self._grip: float | None = None
        self._sequence = self._steps = 0
        self._said: Lifecycle | None = None  # in the last diagnosis
        self._shown: dict[str, float] = {}
        robot.connect()
        self._states = wire.publisher(names.joint_states, messages.JOINT_STATE, STATE)
        self._forces = wire.publisher(names.wrench, messages.WRENCH, SENSOR)
        self._health = wire.publisher(names.diagnostics, messages.DIAGNOSTICS, STATE)
        self._cameras = {
            camera.name: wire.publisher(
                names.pictures.format(camera=camera.name),
                "sensor_msgs/msg/CompressedImage",
                SENSOR,
            )
            for camera in robot.spec.cameras
        }
        wire.subscribe(names.trajectory, messages.TRAJECTORY, self._follow, COMMAND)
        for name, act in ((names.arm, self._arm), (names.disarm, self._disarm)):
            wire.serve(name, messages.TRIGGER, _triggered(act))
        wire.serve(names.halt, messages.TRIGGER, _triggered(self._halt))
        wire.serve(names.stop, messages.TRIGGER, _triggered(self._stop))
        wire.serve_action(names.gripper, messages.GRIPPER, self._gripper)

    def step(self) -> None:
        """Reads, follows the newest trajectory or lets the watchdog act, and publishes."""
        with self._lock:
            state = self.robot.read()
            due = self._due(self._clock())
            if self.robot.lifecycle == Lifecycle.ACTIVE:
                if due is None:
                    self.robot.tick()
                else:
                    with contextlib.suppress(NotReady, OwnedByAnother):  # /halt came in between
                        self.robot.command(due, self._lease)
            if self.robot.lifecycle != Lifecycle.ACTIVE:
                self._lease = None
                self._playout.clear()
        self._steps += 1
        with contextlib.suppress(HardwareError):  # nobody to tell; the watchdog does the rest
            self._tell(state)

    def run(self, stop: threading.Event) -> None:
        """Serves at the robot's rate, with absolute deadlines, until told to stop."""
        period = 1.0 / self.robot.spec.command_rate
        deadline = time.monotonic()
        while not stop.is_set():
            with contextlib.suppress(LinkLost):  # latched by the robot; served on when it is back
                self.step()
            deadline += period
            late = time.monotonic() - deadline
            if late > 0:
                deadline += period * np.floor(late / period)
            else:
                time.sleep(-late)

    def close(self) -> None:
        """Stops the robot and ends the wire."""
        with self._lock:
            self.robot.close()
        self._wire.close()

    # ---------------------------------------------------------------- inside

    def _follow(self, message: Message, arrived: float) -> None:
        try:
            path = messages.read_trajectory(message, self.robot.spec.names)
            sent = messages.seconds(message["header"]["stamp"])
        except (HardwareError, KeyError, TypeError):
            self.malformed += 1
            return
        if not len(path[0]):
            return
        begun = self.arrivals.accept(sent, arrived)
        if begun is None:
            return
        with self._lock:
            if self.robot.lifecycle == Lifecycle.ACTIVE:
                self._playout.add(begun, *path, arrived)

    def _due(self, now: float) -> Command | None:
        """Where the trajectories want the robot to be after its next step."""
        wanted = self._playout.at(self._beat.tick(now) + 1.0 / self.robot.spec.command_rate)
        if wanted is None:
            return None  # used up: the watchdog counts from here
        self._sequence += 1
        return Command(wanted, now, self._sequence, self._grip, self._playout.observed)

    def _arm(self) -> None:
        with self._lock:
            self._grip = None
            self._playout.clear()
            self._lease = self.robot.activate("a client on the wire")

    def _disarm(self) -> None:
        with self._lock:
            if self._lease is not None and self.robot.lifecycle == Lifecycle.ACTIVE:
                self.robot.deactivate(self._lease)
            self._lease = None
            self._playout.clear()

    def _halt(self) -> None:
        with self._lock:
            self.robot.halt()

    def _stop(self) -> None:
        with self._lock:
            self.robot.stop("asked over the wire")

    def _gripper(self, goal: Goal) -> tuple[GoalStatus, Message]:
        wanted = float(goal.request["command"]["position"])
        if not np.isfinite(wanted):
            return GoalStatus.ABORTED, self._grasp(wanted, False)
        with self._lock:
            self._grip = wanted
        end, before = time.monotonic() + 2.0, float("nan")
        while time.monotonic() < end and not goal.cancelled:
            time.sleep(0.05)
            opening = self.robot.read().gripper
            if abs(opening - wanted) < 2e-3 or abs(opening - before) < 1e-4:
                return GoalStatus.SUCCEEDED, self._grasp(wanted, abs(opening - wanted) >= 2e-3)
            before = opening
        status = GoalStatus.CANCELED if goal.cancelled else GoalStatus.ABORTED
        return status, self._grasp(wanted, True)

    def _grasp(self, wanted: float, stalled: bool) -> Message:
        opening = self.robot.read().gripper
        return {
            "position": opening,
            "effort": 0.0,
            "stalled": stalled,
            "reached_goal": abs(opening - wanted) < 2e-3,
        }

    def _tell(self, state: RobotState) -> None:
        spec, stamp = self.robot.spec, time.time()
        self._states(messages.state_message(state, spec, stamp=stamp, fingers=self._fingers))
        if state.wrench is not None:
            self._forces(messages.wrench(state.wrench, stamp=stamp, frame="tool"))
        for name, (taken, picture) in state.images.items():
            if taken > self._shown.get(name, float("-inf")):
                self._shown[name] = taken
                self._cameras[name](pictures.compressed_image(picture, stamp=stamp, frame=name))
        due = self._steps % max(1, round(spec.command_rate)) == 0
        if due or self.robot.lifecycle != self._said:
            self._said = self.robot.lifecycle
            self._health(self._diagnosis(stamp))

    def _diagnosis(self, stamp: float) -> Message:
        why = self.robot.latch.tripped
        level = messages.Level.ERROR if why else messages.Level.OK
        text = f"stopped: {why['cause']}: {why['detail']}" if why else str(self.robot.lifecycle)
        values: dict[str, object] = {messages.LIFECYCLE: str(self.robot.lifecycle)}
        values |= {str(cause): self.robot.counts[cause] for cause in Cause}
        values |= {"late or out of order": self.arrivals.refused, "malformed": self.malformed}
        name = self.robot.spec.name
        return messages.diagnostics([(name, level, text, values)], stamp=stamp, hardware=name)


def _triggered(act: Callable[[], None]) -> Callable[[Message], Message]:
    def handle(request: Message) -> Message:
        try:
            act()
        except HardwareError as error:
            return messages.trigger(False, str(error))
        return messages.trigger(True, "")

    return handle

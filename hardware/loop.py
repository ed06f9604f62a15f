"""The control loop: reads the robot, follows the timeline of actions, sends commands on time.

    policy process                     control process, 100 to 500 Hz
    observe() <----- shared memory --- robot.read()
    send(chunk) ----- pipe ----------> Timeline -> robot.command() or robot.tick()

The policy thinks as long as it likes; the loop interpolates between its actions. Deadlines are
absolute, so a late step does not shift those after it; each step that misses its deadline is
counted. When the policy is silent, late or dead, nothing is handed over any more and the robot's
watchdog acts. Nothing on the pipe is pickled: a JSON header, then the chunk's raw numbers.
"""

import collections
import contextlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from hardware.chunks import Timeline
from hardware.errors import HardwareError, LinkLost
from hardware.robot import Robot
from hardware.shared import Block, Fields
from hardware.types import Act, Cause, Command, Lifecycle, RobotState, Sent, Spec

START_SECONDS = 60.0  # imports and connecting
_STATES = list(Lifecycle)
_ACTS = list(Act)
_CAUSES = list(Cause)

Recorder = Callable[[RobotState, Sent | None], None]


@dataclass(frozen=True)
class Timing:
    """How the loop runs.

    Attributes:
        action_period: s between the actions of a chunk.
        merge: see `Timeline`.
        fade: s, see `Timeline`.
    """

    action_period: float = 0.05
    merge: str = "new"
    fade: float = 0.25


class ControlLoop:
    """One robot and the actions it is to follow; `step` does what is due in one period.

    Attributes:
        robot: behind its envelope.
        timeline: actions to come: joint positions [n], then the gripper's opening if it has one.
        steps: how many periods have been done.
        overruns: how many of them ended after their deadline.
    """

    def __init__(
        self,
        robot: Robot,
        timing: Timing | None = None,
        recorder: Recorder | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes a connected robot.

        Args:
            robot: connected; `arm` activates it.
            timing: of the actions.
            recorder: told of every step; must not block.
            clock: s, the robot's.
        """
        timing = timing or Timing()
        self.robot, self._clock, self._recorder = robot, clock, recorder
        self.timeline = Timeline(timing.action_period, merge=timing.merge, fade=timing.fade)
        self.steps = self.overruns = 0
        self.state, self.sent = robot.read(), None
        self._lease: str | None = None
        self._sequence = 0

    def arm(self, owner: str) -> None:
        """Activates the robot for an owner; actions from before are forgotten."""
        self.timeline.clear()
        self._lease = self.robot.activate(owner)

    def disarm(self) -> None:
        """Gives the robot back."""
        self.timeline.clear()
        if self.robot.lifecycle == Lifecycle.ACTIVE:
            self.robot.deactivate(self._lease)
        self._lease = None

    def add(self, chunk: np.ndarray, first: float, observed: float) -> int:
        """Takes a chunk [H, n (+ 1)]; returns how many of its actions can still be executed.

        Raises:
            ValueError: it has another width, or is not finite.
        """
        width = len(self.robot.spec.joints) + (self.robot.spec.gripper is not None)
        if chunk.ndim != 2 or chunk.shape[1] != width:
            raise ValueError(f"a chunk here is [H, {width}], got {chunk.shape}")
        if self.robot.lifecycle != Lifecycle.ACTIVE:
            return 0  # decided before a stop: never executed after it
        return self.timeline.add(chunk, first, observed, self._clock())

    def step(self) -> None:
        """Reads, then sends what is due now, or lets the watchdog act."""
        self.state, self.sent = self.robot.read(), None
        now = self._clock()
        due = self.timeline.at(now)
        if self.robot.lifecycle == Lifecycle.ACTIVE:
            if due is None:
                self.sent = self.robot.tick()
            else:
                action, observed = due
                self._sequence += 1
                joints = len(self.robot.spec.joints)
                grip = float(action[joints]) if len(action) > joints else None
                command = Command(action[:joints], now, self._sequence, grip, observed)
                self.sent = self.robot.command(command, self._lease)
        if self.robot.lifecycle != Lifecycle.ACTIVE and self._lease is not None:
            self.disarm()
        if self._recorder is not None:
            self._recorder(self.state, self.sent)
        self.steps += 1


def status_fields(spec: Spec) -> Fields:
    """What the control process tells about each of its steps."""
    n = len(spec.joints)
    return {
        "stamp": ("f8", ()),
        "position": ("f8", (n,)),
        "velocity": ("f8", (n,)),
        "effort": ("f8", (n,)),
        "gripper": ("f8", ()),
        "wrench": ("f8", (6,)),
        "has_wrench": ("?", ()),
        "sent": ("f8", (n,)),
        "act": ("i8", ()),
        "lifecycle": ("i8", ()),
        "latched": ("?", ()),
        "steps": ("i8", ()),
        "overruns": ("i8", ()),
        "ahead": ("f8", ()),
        "dropped": ("i8", ()),
        "counts": ("i8", (len(_CAUSES),)),
    }


def picture_fields(spec: Spec) -> Fields:
    """The newest picture of each camera and its stamp."""
    fields: dict[str, tuple[str, tuple[int, ...]]] = {}
    for camera in spec.cameras:
        fields[f"{camera.name}.stamp"] = ("f8", ())
        fields[camera.name] = ("u1", (camera.height, camera.width, 3))
    return fields


@dataclass(frozen=True)
class Status:
    """What the control process said last.

    Attributes:
        state: of the robot, with the newest pictures.
        sent: rad, [n], the position sent last.
        act: what the envelope did to the last command, or None.
        lifecycle: of the robot.
        latched: whether the stop is latched.
        steps: periods done.
        overruns: periods that ended too late.
        ahead: s of motion handed over.
        dropped: actions that came too late to be executed.
        counts: how often each limit acted.
    """

    state: RobotState
    sent: np.ndarray
    act: Act | None
    lifecycle: Lifecycle
    latched: bool
    steps: int
    overruns: int
    ahead: float
    dropped: int
    counts: dict[Cause, int]


class LoopProcess:
    """A control loop in a process of its own, as the policy's process sees it."""

    def __init__(
        self,
        make: Callable[[], Robot],
        spec: Spec,
        timing: Timing | None = None,
        recorder: Callable[[Robot], Recorder] | None = None,
    ) -> None:
        """Starts the process and waits until the robot is connected.

        Args:
            make: makes the robot; called in the new process, so it must be picklable: a function
                of a module, or a partial of one.
            spec: of that robot.
            timing: of the actions.
            recorder: makes the recorder, called in the new process.

        Raises:
            HardwareError: the robot could not be connected; the message says why.
        """
        context = multiprocessing.get_context("spawn")
        self.spec = spec
        self._status = Block(status_fields(spec))
        self._pictures = Block(picture_fields(spec))
        self._pipe, far = context.Pipe()
        self.process = context.Process(
            target=_serve,
            args=(
                make,
                spec,
                timing or Timing(),
                recorder,
                self._status.memory,
                self._pictures.memory,
                far,
            ),
            name=f"control of {spec.name}",
        )
        self.process.start()
        far.close()
        try:
            self._answer(START_SECONDS)
        except HardwareError:
            self.process.join(1.0)
            raise

    def observe(self) -> Status:
        """Returns what the control process said last, without asking it."""
        values = self._status.read()
        pictures = self._pictures.read()
        images = {
            camera.name: (float(pictures[f"{camera.name}.stamp"]), pictures[camera.name])
            for camera in self.spec.cameras
            if pictures[f"{camera.name}.stamp"] > 0.0
        }
        state = RobotState(
            float(values["stamp"]),
            values["position"],
            values["velocity"],
            values["effort"],
            float(values["gripper"]),
            values["wrench"] if values["has_wrench"] else None,
            images,
        )
        act = int(values["act"])
        return Status(
            state,
            values["sent"],
            None if act < 0 else _ACTS[act],
            _STATES[int(values["lifecycle"])],
            bool(values["latched"]),
            int(values["steps"]),
            int(values["overruns"]),
            float(values["ahead"]),
            int(values["dropped"]),
            {c: int(k) for c, k in zip(_CAUSES, values["counts"], strict=True) if k},
        )

    def send(self, chunk: np.ndarray, first: float, observed: float) -> None:
        """Hands over actions without waiting.

        Args:
            chunk: [H, n (+ 1)]: joint positions in rad, then the gripper's opening in m.
            first: s on this machine's monotonic clock, target time of its first action.
            observed: stamp of the state it was decided on.

        Raises:
            ValueError: it is not finite.
            LinkLost: the control process has ended.
        """
        chunk = np.ascontiguousarray(chunk, np.float64)
        if not np.isfinite(chunk).all():
            raise ValueError("the chunk is not finite; it was not handed over")
        header = {"op": "chunk", "shape": chunk.shape, "first": first, "observed": observed}
        self._send(header, chunk.tobytes())

    def arm(self, owner: str) -> None:
        """Activates the robot. Raises HardwareError, such as when its stop is latched."""
        self._ask({"op": "arm", "owner": owner})

    def disarm(self) -> None:
        """Gives the robot back."""
        self._ask({"op": "disarm"})

    def stop(self, reason: str) -> None:
        """Stops at once and latches."""
        self._ask({"op": "stop", "reason": reason})

    def reset_stop(self, reason: str, by: str | None = None) -> None:
        """Clears the latch; see `Robot.reset_stop`."""
        self._ask({"op": "reset", "reason": reason, "by": by})

    def close(self) -> None:
        """Ends the control process; the robot is left at rest."""
        with contextlib.suppress(LinkLost):
            self._send({"op": "close"})
        self.process.join(5.0)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()
        self._pipe.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def _send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        text = json.dumps(header).encode()
        try:
            self._pipe.send_bytes(len(text).to_bytes(4, "little") + text + payload)
        except (BrokenPipeError, OSError) as error:
            raise LinkLost(f"the control process of {self.spec.name} has ended") from error

    def _ask(self, header: dict[str, Any], timeout: float = 5.0) -> None:
        self._send(header)
        self._answer(timeout)

    def _answer(self, timeout: float) -> None:
        try:
            if not self._pipe.poll(timeout):
                raise LinkLost(f"the control process of {self.spec.name} does not answer")
            problem = json.loads(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            raise LinkLost(f"the control process of {self.spec.name} has ended") from error
        if problem:
            raise HardwareError(problem)


def _serve(
    make: Callable[[], Robot],
    spec: Spec,
    timing: Timing,
    make_recorder: Callable[[Robot], Recorder] | None,
    status: Any,
    pictures: Any,
    pipe: Connection,
) -> None:
    """The control process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the policy's; it closes us
    _take_priority()
    board, album = Block(status_fields(spec), status), Block(picture_fields(spec), pictures)
    try:
        robot = make()
        robot.connect()
        loop = ControlLoop(robot, timing, make_recorder(robot) if make_recorder else None)
    except Exception as error:  # whatever a driver raises, its user must read it
        pipe.send_bytes(json.dumps(f"{type(error).__name__}: {error}").encode())
        return
    with robot:
        pipe.send_bytes(b'""')
        _run(loop, pipe, board, album)


def _take_priority() -> None:
    """Asks for real-time scheduling, where this account may."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))


def _run(loop: ControlLoop, pipe: Connection, board: Block, album: Block) -> None:
    period = 1.0 / loop.robot.spec.command_rate
    deadline = time.monotonic() + period
    shown: collections.defaultdict[str, float] = collections.defaultdict(float)
    while True:
        try:
            while pipe.poll():
                if not _obey(loop, pipe):
                    return
            loop.step()
        except EOFError:
            return  # the policy's process is gone
        except LinkLost:
            pass  # latched by the robot; states go on as soon as the link does
        _tell(loop, board, album, shown)
        now = time.monotonic()
        if now > deadline:
            loop.overruns += 1
            deadline += period * np.ceil((now - deadline) / period)  # do not chase what is lost
        else:
            time.sleep(deadline - now)
            deadline += period


def _obey(loop: ControlLoop, pipe: Connection) -> bool:
    """Does what one message asks; returns whether to go on."""
    message = pipe.recv_bytes()
    size = int.from_bytes(message[:4], "little")
    header, payload = json.loads(message[4 : 4 + size]), message[4 + size :]
    if header["op"] == "close":
        return False
    if header["op"] == "chunk":
        chunk = np.frombuffer(payload).reshape(header["shape"])
        with contextlib.suppress(ValueError):  # refused chunks leave the watchdog to act
            loop.add(chunk, header["first"], header["observed"])
        return True
    problem = ""
    try:
        if header["op"] == "arm":
            loop.arm(header["owner"])
        elif header["op"] == "disarm":
            loop.disarm()
        elif header["op"] == "stop":
            loop.robot.stop(header["reason"])
        elif header["op"] == "reset":
            loop.robot.reset_stop(header["reason"], header["by"])
    except (HardwareError, ValueError) as error:
        problem = str(error)
    pipe.send_bytes(json.dumps(problem).encode())
    return True


def _tell(loop: ControlLoop, board: Block, album: Block, shown: dict[str, float]) -> None:
    state, robot, sent = loop.state, loop.robot, loop.sent
    board.write(
        stamp=state.stamp,
        position=state.position,
        velocity=state.velocity,
        effort=state.effort,
        gripper=state.gripper,
        wrench=np.zeros(6) if state.wrench is None else state.wrench,
        has_wrench=state.wrench is not None,
        sent=state.position if sent is None else sent.position,
        act=-1 if sent is None else _ACTS.index(sent.act),
        lifecycle=_STATES.index(robot.lifecycle),
        latched=robot.latch.path.exists(),
        steps=loop.steps,
        overruns=loop.overruns,
        ahead=loop.timeline.ahead(state.stamp),
        dropped=loop.timeline.dropped,
        counts=[robot.counts[cause] for cause in _CAUSES],
    )
    new = {name: picture for name, picture in state.images.items() if picture[0] > shown[name]}
    if new:
        values = {name: image for name, (_, image) in new.items()}
        values |= {f"{name}.stamp": stamp for name, (stamp, _) in new.items()}
        album.write(**values)
        shown.update({name: stamp for name, (stamp, _) in new.items()})

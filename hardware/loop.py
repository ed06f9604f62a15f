"""The control loop: reads the robot, follows the timeline of actions, sends commands on time.

    policy process                     control process, 100 to 500 Hz
    observe() <----- shared memory --- robot.read()
    send(chunk) ----- pipe ----------> Timeline -> robot.command() or robot.tick()

The policy thinks as long as it likes; the loop interpolates between its actions. Deadlines are
absolute, so a late step does not shift those after it; each step that misses its deadline is
counted. When the policy is silent, late or dead, nothing is handed over any more and the robot's
watchdog acts. Nothing on the pipe is pickled: a JSON header, then the chunk's raw numbers.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np

from hardware.chunks import Timeline
from hardware.errors import HardwareError, LinkLost
from hardware.playout import Metronome
from hardware.robot import Robot
from hardware.status import Board, Status
from hardware.types import Command, Lifecycle, RobotState, Sent, Spec

START_SECONDS = 60.0  # imports and connecting


class Recorder(Protocol):
    """Keeps what happens; `hardware.recorder.FlightRecorder` is one. Nothing here may block."""

    def __call__(self, state: RobotState, sent: Sent | None) -> None:
        """A step of the loop."""

    def note(self, topic: str, content: Mapping[str, Any]) -> None:
        """Plain JSON from the policy's process."""

    def close(self) -> None:
        """The loop has ended."""


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
            recorder: told of every step.
            clock: s, the robot's.
        """
        timing = timing or Timing()
        self.robot, self._clock, self.recorder = robot, clock, recorder
        self.timeline = Timeline(timing.action_period, merge=timing.merge, fade=timing.fade)
        self.steps = self.overruns = 0
        self.state, self.sent = robot.read(), None
        self._lease: str | None = None
        self._sequence = 0
        self._beat = Metronome(1.0 / robot.spec.command_rate)

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
        due = self.timeline.at(self._beat.tick(now))  # the envelope counts in whole periods
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
        if self.recorder is not None:
            self.recorder(self.state, self.sent)
        self.steps += 1


def _finite(chunk: np.ndarray) -> np.ndarray:
    chunk = np.ascontiguousarray(chunk, np.float64)
    if not np.isfinite(chunk).all():
        raise ValueError("the chunk is not finite; it was not handed over")
    return chunk


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
        self.timing, self._board = timing or Timing(), Board(spec)
        self._pipe, far = context.Pipe()
        self.process = context.Process(
            target=_serve,
            args=(make, spec, self.timing, recorder, self._board.memory, far),
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
        return self._board.read()

    def now(self) -> float:
        """s on this machine's monotonic clock, which the robot's stamps are of."""
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        """Lets the robot run."""
        time.sleep(seconds)

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
        chunk = _finite(chunk)
        header = {"op": "chunk", "shape": chunk.shape, "first": first, "observed": observed}
        self._send(header, chunk.tobytes())

    def note(self, topic: str, content: Mapping[str, Any]) -> None:
        """Has something written into the recording, plain JSON, without waiting."""
        self._send({"op": "note", "topic": topic, "content": dict(content)})

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
    memory: tuple[Any, Any],
    pipe: Connection,
) -> None:
    """The control process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the policy's; it closes us
    take_priority()
    board = Board(spec, memory)
    try:
        robot = make()
        robot.connect()
        loop = ControlLoop(robot, timing, make_recorder(robot) if make_recorder else None)
    except Exception as error:  # whatever a driver raises, its user must read it
        pipe.send_bytes(json.dumps(f"{type(error).__name__}: {error}").encode())
        return
    with contextlib.ExitStack() as stack:
        if loop.recorder is not None:
            stack.callback(loop.recorder.close)
        stack.enter_context(robot)
        pipe.send_bytes(b'""')
        _run(loop, pipe, board)


def take_priority() -> None:
    """Asks for real-time scheduling, where this account may."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))


def _run(loop: ControlLoop, pipe: Connection, board: Board) -> None:
    period = 1.0 / loop.robot.spec.command_rate
    deadline = time.monotonic() + period
    while True:
        try:
            while pipe.poll():
                if not _obey(loop, pipe, board):
                    return
            loop.step()
        except EOFError:
            return  # the policy's process is gone
        except LinkLost:
            pass  # latched by the robot; states go on as soon as the link does
        board.write(loop)
        now = time.monotonic()
        if now > deadline:
            loop.overruns += 1
            deadline += period * np.ceil((now - deadline) / period)  # do not chase what is lost
        else:
            time.sleep(deadline - now)
            deadline += period


def _obey(loop: ControlLoop, pipe: Connection, board: Board) -> bool:
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
    if header["op"] == "note":
        if loop.recorder is not None:
            loop.recorder.note(header["topic"], header["content"])
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
    board.write(loop)  # whoever asked sees what became of it
    pipe.send_bytes(json.dumps(problem).encode())
    return True


class LocalLoop:
    """The same as `LoopProcess` in this process, on a clock that only `wait` advances.

    For a simulated robot: it runs as fast as it computes, and the same every time.
    """

    def __init__(self, make: Callable[[Callable[[], float]], Robot], timing: Timing | None = None):
        """Makes and connects the robot.

        Args:
            make: takes the clock and makes the robot, whose driver must use that clock.
            timing: of the actions.
        """
        self._now = 0.0
        robot = make(self.now)
        robot.connect()
        self.spec = robot.spec
        self.timing, self._board = timing or Timing(), Board(self.spec)
        self.loop = ControlLoop(robot, self.timing, clock=self.now)
        self.wait(1.0 / self.spec.command_rate)

    def now(self) -> float:
        """s."""
        return self._now

    def wait(self, seconds: float) -> None:
        """Lets the robot run."""
        period = 1.0 / self.spec.command_rate
        for _ in range(max(1, round(seconds / period))):
            self._now += period
            self.loop.step()
        self._board.write(self.loop)

    def observe(self) -> Status:
        """Returns what the loop said last."""
        return self._board.read()

    def send(self, chunk: np.ndarray, first: float, observed: float) -> None:
        """Hands over actions; see `LoopProcess.send`."""
        self.loop.add(_finite(chunk), first, observed)

    def arm(self, owner: str) -> None:
        """Activates the robot."""
        self.loop.arm(owner)
        self._board.write(self.loop)

    def disarm(self) -> None:
        """Gives the robot back."""
        self.loop.disarm()
        self._board.write(self.loop)

    def stop(self, reason: str) -> None:
        """Stops at once and latches."""
        self.loop.robot.stop(reason)
        self._board.write(self.loop)

    def reset_stop(self, reason: str, by: str | None = None) -> None:
        """Clears the latch."""
        self.loop.robot.reset_stop(reason, by)
        self._board.write(self.loop)

    def close(self) -> None:
        """Ends the link."""
        self.loop.robot.close()

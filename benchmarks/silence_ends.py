"""The processes of `benchmarks.silence`: a twin behind its wire, and a policy that drives it.

    python -m benchmarks.silence_ends robot  rosbridge|zenoh PORT FOLDER
    python -m benchmarks.silence_ends policy rosbridge|zenoh PORT FOLDER

Both are told what to do on standard input and answer on standard output, one JSON object per line.
All times are of the machine's monotonic clock, which its processes share; the policy's "wall clock"
is that clock plus `EPOCH`, so that the age of every command is known exactly.
"""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from hardware import Command, HardwareError, Lifecycle, Robot, load_limits, messages
from hardware.faults import Faults, FaultyWire
from hardware.latch import Latch
from hardware.loop import take_priority
from hardware.robot import COAST
from hardware.robots import slackened
from hardware.ros import RosDriver, Topics
from hardware.ros_server import RobotServer
from hardware.rosbridge import RosbridgeServer, RosbridgeWire
from hardware.twin import HOME, panda_twin
from hardware.wire import Wire
from hardware.zenoh_ros import ZenohWire

RATE = 100.0  # Hz
EPOCH = 1.7e9  # s
SWING, TURN = 0.25, 2.0  # rad and rad/s of the motion: up to 0.5 rad/s


def say(**values: Any) -> None:
    """Answers, one line."""
    print(json.dumps(values), flush=True)


class Watched:
    """A robot server that notes what comes in and what goes out.

    Attributes:
        events: [what, s, ...]: "read" with positions and speed, "write", "followed" (a command),
            "brake", "halt", "armed", and "good" with the stamp of a message that was accepted.
    """

    def __init__(self, wire: Wire, folder: Path) -> None:
        limits = load_limits("panda")
        self._twin = panda_twin("trial", limits=limits, command_rate=RATE)
        self.spec, self.events = self._twin.spec, []
        self.robot = Robot(self, limits, latch=Latch("far", folder))
        self.server = RobotServer(self.robot, wire)
        accept, tick = self.server.arrivals.accept, self.robot.tick
        self._commanded = 0.0

        def accepted(sent: float, arrived: float) -> bool:
            good = accept(sent, arrived)
            if good and self.robot.lifecycle == Lifecycle.ACTIVE:
                self.note("good", sent - EPOCH)
            return good

        def ticked() -> Any:
            found = tick()
            if found is not None and time.monotonic() - self._commanded > COAST + 0.5 / RATE:
                self.note("brake")
            return found

        self.server.arrivals.accept, self.robot.tick = accepted, ticked
        command = self.robot.command

        def commanded(*given: Any) -> Any:
            found = command(*given)
            self._commanded = time.monotonic()
            self.note("followed")
            return found

        self.robot.command = commanded

    def note(self, what: str, *values: Any) -> None:
        """Keeps an event."""
        self.events.append([what, time.monotonic(), *values])

    def read(self) -> Any:
        """See `Driver`."""
        state = self._twin.read()
        self.note("read", state.position.tolist(), float(np.abs(state.velocity).max()))
        return state

    def write(self, position: np.ndarray, velocity: np.ndarray, gripper: float | None) -> None:
        """See `Driver`."""
        self.note("write")
        self._twin.write(position, velocity, gripper)

    def activate(self) -> None:
        """See `Driver`."""
        self.note("armed")
        self._twin.activate()

    def halt(self) -> None:
        """See `Driver`."""
        self.note("halt")
        self._twin.halt()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._twin, name)


def robot(kind: str, port: int, folder: Path) -> None:
    """Serves the twin until standard input ends."""
    take_priority()
    if kind == "rosbridge":
        wire = RosbridgeServer("127.0.0.1", port)
    else:
        wire = ZenohWire((), listen=[f"tcp/127.0.0.1:{port}"], node="robot")
    watched, stop = Watched(wire, folder), threading.Event()
    loop = threading.Thread(target=watched.server.run, args=(stop,))
    loop.start()
    say(ready=True)
    for line in sys.stdin:
        op = json.loads(line)["op"]
        if op == "take":
            events, watched.events = watched.events, []
            say(events=events)
        elif op == "arm":  # as an operator beside the robot would
            try:
                watched.server._arm()
                say(armed=True)
            except HardwareError as error:
                say(armed=False, why=str(error))
    stop.set()
    loop.join()
    watched.server.close()


class Policy:
    """Swings the arm to and fro while armed; once it fails, it waits to be armed again."""

    def __init__(self, wire: Wire, folder: Path) -> None:
        limits, self.wire = load_limits("panda"), FaultyWire(wire, Faults())
        self.arrivals: list[float] = []
        topic = Topics().joint_states
        self.wire.subscribe(topic, messages.JOINT_STATE, lambda _, t: self.arrivals.append(t))
        spec = limits.spec("trial", command_rate=RATE, simulated=True)
        driver = RosDriver(spec, self.wire, wall=lambda: time.monotonic() + EPOCH)
        self.robot = Robot(driver, slackened(limits), latch=Latch("near", folder))
        self.robot.connect()
        self.lease: str | None = None
        self.ended, self._lock, self._sequence = threading.Event(), threading.Lock(), 0

    def arm(self) -> None:
        """Clears what an operator would, and takes the arm."""
        with self._lock:
            self.lease = None
            if self.robot.lifecycle == Lifecycle.ACTIVE:
                self.robot.halt()
            if self.robot.latch.tripped:
                self.robot.reset_stop("the next trial")
            self.lease, self._begun = self.robot.activate("policy"), time.monotonic()

    def run(self) -> None:
        """Sends a command per period."""
        due = time.monotonic()
        while not self.ended.is_set():
            with self._lock:
                if self.lease is not None:
                    self._step()
            due = max(due + 1.0 / RATE, time.monotonic() - 0.1)
            time.sleep(max(0.0, due - time.monotonic()))

    def _step(self) -> None:
        now = time.monotonic()
        way = SWING * (1.0 - np.cos(TURN * (now - self._begun)))
        self._sequence += 1
        command = Command(
            np.array(HOME) + way * np.array([1, -1, 1, 1, -1, 1, 1]), now, self._sequence
        )
        try:
            self.robot.read()
            self.robot.command(command, self.lease)
        except HardwareError:
            self.lease = None


def policy(kind: str, port: int, folder: Path) -> None:
    """Drives the twin until standard input ends."""
    if kind == "rosbridge":
        wire = RosbridgeWire(f"ws://127.0.0.1:{port}", timeout=5.0)
    else:
        wire = ZenohWire([f"tcp/127.0.0.1:{port}"], node="policy", wait=5.0)
    made = Policy(wire, folder)
    loop = threading.Thread(target=made.run)
    loop.start()
    say(ready=True)
    for line in sys.stdin:
        message = json.loads(line)
        if message["op"] == "take":
            arrivals, made.arrivals = made.arrivals, []
            say(arrivals=arrivals)
        elif message["op"] == "silence":
            made.wire.silence(message["seconds"], burst=True)
            say(at=time.monotonic())
        elif message["op"] == "arm":
            try:
                made.arm()
                say(armed=True)
            except (HardwareError, TimeoutError) as error:
                say(armed=False, why=str(error))
    made.ended.set()
    loop.join()
    made.robot.close()


if __name__ == "__main__":
    {"robot": robot, "policy": policy}[sys.argv[1]](
        sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    )

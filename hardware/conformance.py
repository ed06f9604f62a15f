"""Whether a robot keeps the contract: what its spec says against what is seen on the wire.

Run it against the twin, then against the arm. Nothing moves unless motion is asked for: then the
last joint turns by a few degrees and back, and the stop is tried while the arm is held.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from hardware import messages
from hardware.errors import HardwareError, Latched, NotReady
from hardware.latch import Latch
from hardware.robot import STANDING, Robot
from hardware.robots import Arm
from hardware.types import Act, Command, Lifecycle
from hardware.wire import STATE, Message, Wire

OK, NOTE, FAIL = "ok", "note", "FAIL"
SKEW = 0.05  # s; more between the clocks of two machines is worth a note
SWING = 0.08  # rad, of the last joint
_PATIENCE = 10.0  # s for the enabling switch
_LEAST = 20  # steps of motion that can be judged


class Row(NamedTuple):
    """One line of the table: what was looked at, what it should be, what it is."""

    what: str
    expected: str
    seen: str
    verdict: str


@dataclass
class _Seen:
    """Joint states as they came."""

    arrived: list[float] = field(default_factory=list)
    stamps: list[float] = field(default_factory=list)  # s since 1970 by the sender's clock
    walls: list[float] = field(default_factory=list)  # and by ours, on arrival
    names: list[str] = field(default_factory=list)
    lengths: dict[str, int] = field(default_factory=dict)
    malformed: str = ""

    def receive(self, message: Message, arrived: float) -> None:
        """A receiver of joint states."""
        try:
            stamp = messages.seconds(message["header"]["stamp"])
            self.names = [str(name) for name in message["name"]]
            keys = ("position", "velocity", "effort")
            self.lengths = {key: len(message[key]) for key in keys}
        except (HardwareError, KeyError, TypeError) as error:
            self.malformed = str(error)
            return
        self.arrived.append(arrived)
        self.stamps.append(stamp)
        self.walls.append(time.time())


class Check:
    """Looks at one robot and keeps what was found.

    Attributes:
        rows: the table.
    """

    def __init__(self, arm: Arm, robot: Robot, wire: Wire | None, seconds: float = 2.0) -> None:
        """Takes a robot that is not connected yet.

        Args:
            arm: what it should be.
            robot: behind its envelope.
            wire: how it is reached; None in this process.
            seconds: how long to look.
        """
        self.rows: list[Row] = []
        self._arm, self._robot, self._wire, self._seconds = arm, robot, wire, seconds
        self._seen = _Seen()
        self._ages: list[float] = []
        self._rest = np.zeros(0)
        self._sequence = 0

    def run(self, motion: bool = False) -> list[Row]:
        """Does it all, as far as it gets, and closes the robot."""
        if self._wire is not None:
            topic = self._arm.topics.joint_states
            self._wire.subscribe(topic, messages.JOINT_STATE, self._seen.receive, STATE)
        with contextlib.ExitStack() as stack:
            try:
                self._robot.connect()
                stack.callback(self._robot.close)
            except HardwareError as error:
                self._add("connection", "joint states arrive", str(error), False)
                self._message()
                return self.rows
            self._add("connection", "joint states arrive", "they do", True)
            try:
                self._look()
                self._message()
                if self._latched():
                    self._latch()
                    if motion:
                        self._motion()
            except HardwareError as error:
                self._add("to the end", "no error", f"{type(error).__name__}: {error}", False)
        return self.rows

    def _add(self, what: str, expected: str, seen: str, good: bool, otherwise: str = FAIL) -> None:
        self.rows.append(Row(what, expected, seen, OK if good else otherwise))

    # ---------------------------------------------------------------- looking

    def _look(self) -> None:
        """States for a while, at rest."""
        robot, spec = self._robot, self._robot.spec
        fresh, last = 0, float("-inf")
        for _ in _ticks(1.0 / spec.command_rate, self._seconds):
            state = robot.read()
            self._ages.append(time.monotonic() - state.stamp)
            fresh, last = fresh + (state.stamp > last), state.stamp
        rate = fresh / self._seconds
        least = 2.0 / robot.limits.observation_age
        self._add("rate of states", f"{spec.command_rate:g} Hz", f"{rate:.1f} Hz", rate >= least)
        age, most = float(np.quantile(self._ages, 0.99)), robot.limits.observation_age
        self._add("age of states", f"<= {1e3 * most:.0f} ms", f"p99 {1e3 * age:.1f} ms", age < most)
        numbers = np.concatenate([state.position, state.velocity, state.effort])
        finite = bool(np.isfinite(numbers).all())
        self._add("numbers", "finite", "finite" if finite else "not finite", finite)
        self._range(state.position)
        speed = float(np.abs(state.velocity).max())
        self._add("at rest", f"<= {STANDING} rad/s", f"{speed:.4f} rad/s", speed <= STANDING)
        if spec.gripper is not None:
            opening = state.gripper
            good = -0.002 <= opening <= spec.gripper.opening + 0.002
            self._add("gripper", f"0 to {spec.gripper.opening} m", f"{opening:.4f} m", good, NOTE)
        force = "no sensor"
        if state.wrench is not None:
            force = f"{np.linalg.norm(state.wrench[:3]):.1f} N"
        gentle = state.wrench is None or np.linalg.norm(state.wrench[:3]) <= robot.limits.force
        self._add("force", f"<= {robot.limits.force:g} N", force, bool(gentle))
        for camera in spec.cameras:
            self._camera(camera, state.images)
        self._rest = state.position

    def _range(self, position: np.ndarray) -> None:
        limits, joints = self._robot.limits, self._robot.spec.joints
        pairs = list(zip(joints, position, strict=True))
        hard = [joint.name for joint, q in pairs if not joint.lower <= q <= joint.upper]
        self._add("maker's range", "inside", ", ".join(hard) or "inside", not hard)
        out = (position < limits.lower) | (position > limits.upper)
        soft = [joint.name for joint, far in zip(joints, out, strict=True) if far]
        share = f"inside {limits.range_share:.0%}"
        self._add("our range", share, ", ".join(soft) or "inside", not soft, NOTE)
        tool = limits.chain.tool(position)[0]
        box = limits.workspace
        inside = bool((tool >= box.lower).all() and (tool <= box.upper).all())
        self._add("tool", "inside the workspace", f"{np.round(tool, 3).tolist()} m", inside, NOTE)

    def _camera(self, camera: Any, images: Any) -> None:
        expected = f"{camera.height} x {camera.width}"
        if camera.name not in images:
            self._add(f"camera {camera.name}", expected, "no picture", False)
            return
        stamp, picture = images[camera.name]
        age = time.monotonic() - stamp
        seen = f"{picture.shape[0]} x {picture.shape[1]}, {1e3 * age:.0f} ms old"
        good = picture.shape[:2] == (camera.height, camera.width) and age < 3.0 / camera.rate + 0.1
        self._add(f"camera {camera.name}", expected, seen, good)

    def _message(self) -> None:
        """The messages themselves, where there is a wire."""
        seen = self._seen
        if self._wire is None:
            return
        if not seen.stamps:
            self._add("joint states", "JointState", seen.malformed or "none", False)
            return
        wanted = [*self._robot.spec.names, *self._arm.fingers]
        missing = [name for name in wanted if name not in seen.names]
        self._add("joint names", f"{len(wanted)} joints", _list(missing, "missing"), not missing)
        uneven = [k for k, n in seen.lengths.items() if n != len(seen.names)]
        told = seen.lengths["velocity"] > 0
        self._add("arrays", "a velocity each", _list(uneven, "short or empty"), told)
        gaps = np.diff(seen.stamps)
        falls = int((gaps <= 0).sum())
        self._add("stamps", "rise", f"{falls} of {len(gaps)} do not", falls == 0)
        zero = min(seen.stamps) <= 0.0
        skew = float(np.median(np.subtract(seen.walls, seen.stamps)))
        text = "not filled in" if zero else f"{1e3 * skew:+.1f} ms with the way here"
        good = not zero and abs(skew) <= SKEW
        self._add("clock skew", f"|skew| <= {1e3 * SKEW:.0f} ms", text, good, NOTE)
        if len(gaps) > 1:
            late = np.diff(seen.arrived)
            text = f"median {1e3 * np.median(late):.1f}, p99 {1e3 * np.quantile(late, 0.99):.1f} ms"
            steady = np.quantile(late, 0.99) < self._robot.limits.observation_age
            self._add("arrival", "steady", text, bool(steady), NOTE)

    # ---------------------------------------------------------------- stopping

    def _latched(self) -> bool:
        """Whether the stop is free to be tried; one that is latched is left alone."""
        why = self._robot.latch.tripped
        if why is None:
            return True
        self._add("stop", "not latched", f"latched: {why['cause']}: {why['detail']}", False)
        return False

    def _latch(self) -> None:
        """Latches at rest, asks everything that might clear it, and resets."""
        robot = self._robot
        robot.stop("conformance check")
        refused = False
        try:
            robot.activate("conformance check")
        except Latched:
            refused = True
        self._add("a latched stop", "refuses to arm", "refuses" if refused else "ARMS", refused)
        again = Latch(robot.spec.name, robot.latch.path.parent)
        kept = again.tripped is not None
        self._add("the latch", "outlives the process", str(again.path), kept)
        robot.reset_stop("conformance check: nothing moved", by="hardware check")
        cleared = robot.latch.tripped is None
        self._add("a reset with a reason", "clears it", "cleared" if cleared else "not", cleared)

    def _motion(self) -> None:
        """Holds, turns the last joint there and back, and stops."""
        robot = self._robot
        lease = self._armed()
        if lease is None:
            return
        hold = self._drive(lease, lambda t: self._rest, 0.5)
        still = float(np.abs(hold[-1][2] - self._rest).max())
        passed = hold[-1][1].act == Act.PASS
        self._add("hold", "stays", f"{still:.4f} rad, {hold[-1][1].act}", passed and still < 0.02)
        swing = np.zeros_like(self._rest)
        room = robot.limits.upper[-1] - self._rest[-1]
        swing[-1] = SWING if room > 2 * SWING else -SWING
        path = self._drive(lease, lambda t: self._rest + swing * np.sin(np.pi * t / 2.0) ** 2, 2.0)
        sent = np.array([step[1].position[-1] for step in path])
        at = np.array([step[2][-1] for step in path])
        reached = float(np.abs(at - self._rest[-1]).max())
        self._add("motion", f"{SWING} rad", f"{reached:.3f} rad", abs(reached - SWING) < 0.03)
        if len(path) < _LEAST:
            self._add("tracking", "a step per period", f"{len(path)} steps in 2 s", False)
            return self._stop()
        error, most = float(np.abs(at - sent).max()), robot.limits.tracking
        self._add("tracking", f"<= {most} rad", f"{error:.4f} rad", error <= most)
        delay = _delay(sent, at) / robot.spec.command_rate
        self._add("answer to a command", "<= 100 ms", f"{1e3 * delay:.0f} ms", delay <= 0.1, NOTE)
        self._stop()

    def _stop(self) -> None:
        robot = self._robot
        robot.stop("conformance check")
        time.sleep(0.3)
        quiet = float(np.abs(robot.read().velocity).max())
        stopped = quiet <= STANDING and robot.lifecycle == Lifecycle.INACTIVE
        self._add("stop", "at rest and disarmed", f"{quiet:.4f} rad/s", stopped)
        self._released()
        robot.reset_stop("conformance check: the arm rests", by="hardware check")

    def _armed(self) -> str | None:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._robot.activate("conformance check")
            except NotReady as error:
                if time.monotonic() > end:
                    self._add("arming", "arms", str(error), False)
                    return None
            time.sleep(0.1)

    def _released(self) -> None:
        """The switch has to be let go before a reset."""
        if not self._robot.spec.simulated:
            time.sleep(2.0 * self._robot.limits.deadman_age)

    def _drive(
        self, lease: str, wanted: Callable[[float], np.ndarray], seconds: float
    ) -> list[tuple[float, Any, np.ndarray]]:
        """Commands a path; returns time, what was sent and where the arm was, for each step."""
        found, began = [], time.monotonic()
        for _ in _ticks(1.0 / self._robot.spec.command_rate, seconds):
            state, now = self._robot.read(), time.monotonic()
            self._sequence += 1
            command = Command(wanted(now - began), now, self._sequence)
            found.append((now - began, self._robot.command(command, lease), state.position))
        return found


def _ticks(period: float, seconds: float) -> Iterator[None]:
    """Once per period, with absolute deadlines."""
    deadline = time.monotonic()
    end = deadline + seconds
    while deadline < end:
        yield
        deadline = max(deadline + period, time.monotonic() - period)
        time.sleep(max(deadline - time.monotonic(), 0.0))


def _delay(sent: np.ndarray, at: np.ndarray) -> int:
    """Steps by which the measured path lies behind the one sent, by least squares."""
    most = min(50, len(sent) // 2)
    errors = [np.square(at[k:] - sent[: len(sent) - k]).mean() for k in range(most)]
    return int(np.argmin(errors))


def _list(names: list[str], what: str) -> str:
    return f"{what}: {', '.join(names)}" if names else "all there"

"""F11, the twin's half: chunks over a bad network are executed on time or not at all.

One clock, turned by hand: nothing here depends on how fast the machine is.
"""

import numpy as np
import pytest

from hardware import HardwareError, Lifecycle, Robot, load_limits, messages
from hardware.faults import FaultyWire, parse_faults
from hardware.latch import Latch
from hardware.local_wire import Bus, LocalWire
from hardware.loop import ControlLoop, Timing
from hardware.ros import Topics
from hardware.ros_server import RobotServer
from hardware.twin import HOME, import_mujoco, panda_twin
from hardware.types import Act, Cause

try:
    import_mujoco()
except HardwareError as error:
    pytest.skip(str(error), allow_module_level=True)

RATE, ACTION, HORIZON, RADIUS, TURN = 100.0, 0.05, 20, 0.2, 2.0
SPEED = RADIUS * TURN  # rad/s, constant: two joints go round in a circle
WORST = "loss:0.05,duplicate:0.05,reorder:0.05,seed:7"


def plan(now):
    """Where the arm is to be at a time: [..., 8]."""
    now = np.asarray(now, float)[..., None]
    circle = np.concatenate([np.sin(TURN * now), np.cos(TURN * now)], -1)
    rest = np.zeros((*now.shape[:-1], 5)), np.full(now.shape, 0.04)
    position = np.concatenate([RADIUS * circle, *rest], -1)
    return position + np.array([*HOME, 0.0])


class Remote:
    """A policy that sees the twin and sends it chunks through a bad network."""

    def __init__(self, folder, text):
        self.now = 100.0
        clock = lambda: self.now  # noqa: E731
        self.limits, bus = load_limits("panda"), Bus()
        robot = Robot(
            panda_twin(limits=self.limits, clock=clock, live=False, command_rate=RATE),
            self.limits,
            latch=Latch("twin", folder),
            clock=clock,
        )
        robot.connect()
        self.loop = ControlLoop(robot, Timing(ACTION), clock=clock)
        near = LocalWire(bus, clock)
        near.subscribe("/chunk", "chunk", self._take)
        self._see = near.publisher("/seen", "seen")
        self.wire = FaultyWire(LocalWire(bus, clock), parse_faults(text), clock=clock, live=False)
        self.wire.subscribe("/seen", "seen", self._think)
        self._send = self.wire.publisher("/chunk", "chunk")
        self.ages, self.sent = [], []
        self._command, robot.command = robot.command, self._noted

    def _think(self, message, arrived):
        times = message["stamp"] + ACTION * np.arange(HORIZON)
        self._send({"chunk": plan(times), "first": times[0], "observed": message["stamp"]})

    def _take(self, message, arrived):
        self.loop.add(message["chunk"], message["first"], message["observed"])

    def _noted(self, command, lease):
        sent = self._command(command, lease)
        if sent.act in (Act.PASS, Act.LIMIT):
            self.ages.append(self.now - command.observed)
        return sent

    def run(self, seconds):
        """Returns how late each period's command was: s that the plan needs for the distance."""
        late = []
        for i in range(round(seconds * RATE)):
            self.now += 1.0 / RATE
            if i % 3 == 0:  # 33 chunks per second, between the timeline's grid points
                self._see({"stamp": self.loop.state.stamp})
            self.wire.deliver()
            self.loop.step()
            if self.loop.sent is not None:
                off = self.loop.sent.position - plan(self.now)[:7]
                late.append(np.linalg.norm(off) / SPEED)
        return np.array(late)


@pytest.mark.parametrize(
    "network",
    ["latency:5ms", "latency:2ms,jitter:98ms", "latency:50ms,jitter:20ms", "latency:95ms"],
)
def test_chunks_are_executed_on_time(tmp_path, network):
    """Round trips of 5 to 200 ms."""
    remote = Remote(tmp_path, f"{network},{WORST}")
    remote.loop.arm("remote")
    remote.run(2.0)  # it moves to where the circle is
    late = remote.run(3.0)
    assert remote.loop.robot.lifecycle == Lifecycle.ACTIVE
    assert np.quantile(late, 0.95) < 1.0 / RATE
    assert max(remote.ages) <= remote.limits.blind + 1e-9
    counts = remote.wire.counts
    assert min(counts["lost"], counts["doubled"], counts["swapped"]) > 0
    measured = remote.loop.state.position - plan(remote.loop.state.stamp)[:7]
    assert np.linalg.norm(measured) / SPEED < 0.05  # and the twin is where it was sent


def test_what_is_older_than_the_blind_budget_is_never_executed(tmp_path):
    """A round trip of 0.4 s: each chunk still has actions to come, and none may be followed."""
    remote = Remote(tmp_path, f"latency:200ms,{WORST}")
    at = remote.loop.state.position
    remote.loop.arm("remote")
    remote.run(2.0)
    assert not remote.ages and remote.loop.robot.lifecycle == Lifecycle.INACTIVE
    np.testing.assert_allclose(remote.loop.state.position, at, atol=1e-3)
    assert remote.loop.robot.counts[Cause.BLIND] + remote.loop.robot.counts[Cause.SILENT] > 0


def test_an_outage_slows_it_down_and_nothing_old_is_followed_afterwards(tmp_path):
    remote = Remote(tmp_path, f"latency:20ms,hold:2s+400ms,{WORST}")
    remote.loop.arm("remote")
    remote.run(3.0)
    assert max(remote.ages) <= remote.limits.blind + 1e-9
    assert remote.loop.robot.counts[Cause.BLIND] > 0
    assert remote.loop.robot.lifecycle == Lifecycle.ACTIVE  # the watchdog stops it after 0.5 s
    remote.run(1.0)
    assert np.quantile(remote.run(1.0), 0.95) < 1.0 / RATE


class Stream:
    """A client that streams one-point trajectories to a twin's server through a bad network."""

    def __init__(self, folder, text):
        self.now = 100.0
        clock = lambda: self.now  # noqa: E731
        limits, bus = load_limits("panda"), Bus()
        robot = Robot(
            panda_twin("twin", limits=limits, clock=clock, live=False, command_rate=RATE),
            limits,
            latch=Latch("twin", folder),
            clock=clock,
        )
        self.server = RobotServer(robot, LocalWire(bus, clock), clock=clock)
        self.wire = FaultyWire(
            LocalWire(bus, clock), parse_faults(text), clock=clock, sleep=self.wait, live=False
        )
        self._publish = self.wire.publisher(Topics().trajectory, messages.TRAJECTORY)
        self.followed = []
        accept = self.server.arrivals.accept

        def noted(sent, arrived):
            good = accept(sent, arrived)
            if good:
                self.followed.append((sent, arrived))
            return good

        self.server.arrivals.accept = noted

    def wait(self, seconds):
        self.now += seconds

    def run(self, seconds, send=True):
        path = []
        for _ in range(round(seconds * RATE)):
            self.now += 1.0 / RATE
            if send:
                names, stamp = self.server.robot.spec.names, self.now + 1e9
                position = plan(self.now)[:7]
                self._publish(messages.trajectory(names, [0.01], position[None], stamp=stamp))
            self.wire.deliver()
            self.server.step()
            path.append(self.server.robot.read().position)
        return np.array(path)


def test_a_stream_is_followed_in_order_and_never_late(tmp_path):
    stream = Stream(tmp_path, f"latency:20ms,jitter:60ms,{WORST}")
    stream.wire.call(Topics().arm, messages.TRIGGER, {}, 2.0)
    stream.run(4.0)
    robot, (sent, arrived) = stream.server.robot, np.array(stream.followed).T
    assert robot.lifecycle == Lifecycle.ACTIVE and not robot.latch.tripped
    assert (np.diff(sent) > 0).all() and np.ptp(arrived - sent) <= 0.1 + 1e-6
    assert stream.server.arrivals.refused >= stream.wire.counts["swapped"] > 0
    off = robot.read().position - plan(stream.now - 0.05)[:7]
    assert np.linalg.norm(off) / SPEED < 0.1


@pytest.mark.parametrize("armed_before", [False, True])
def test_a_burst_after_a_pause_of_five_seconds_moves_nothing(tmp_path, armed_before):
    """Nor does it when somebody arms the robot again just before it comes."""
    stream = Stream(tmp_path, "latency:5ms,seed:1")
    arm = stream.server._arm
    arm()
    stream.run(1.0)
    began, moved = stream.now, len(stream.followed)
    stream.wire.silence(5.0, burst=True)
    path = stream.run(4.9)
    assert stream.server.robot.lifecycle == Lifecycle.INACTIVE
    if armed_before:
        arm()
    path = np.concatenate([path, stream.run(0.15, send=False)])
    assert stream.wire.counts["held"] > 400 and stream.server.arrivals.refused > 400
    # what was sent in the last 0.1 s of the pause is not old
    assert all(sent - 1e9 > began + 4.88 for sent, _ in stream.followed[moved:])
    rest = path[round(0.7 * RATE) : round(4.9 * RATE)]
    assert np.abs(rest - rest[-1]).max() < 0.005
    beyond = np.maximum(path, path[0]).max(0) - np.maximum(path[0], rest[-1])
    assert beyond.max() < 0.02

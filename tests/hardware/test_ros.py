"""A twin behind ROS 2's topics and its driver, over the wire within a process."""

import contextlib
import threading
import time

import numpy as np
import pytest

from hardware import (
    Command,
    HardwareError,
    Lifecycle,
    LinkLost,
    NotReady,
    Robot,
    load_limits,
    messages,
)
from hardware.latch import Latch
from hardware.local_wire import Bus, LocalWire
from hardware.mirror import MirrorDriver
from hardware.playout import Arrivals
from hardware.ros import RosDriver, Topics
from hardware.ros_server import RobotServer
from hardware.types import Act, Cause

START = np.array([0.0, -0.3, 0.0, -2.2, 0.0, 2.0, 0.785])
FINGERS = ("panda_finger_joint1", "panda_finger_joint2")


class Pair:
    """Both ends, stepped by hand on one clock."""

    def __init__(self, folder):
        self.now = 100.0
        clock = lambda: self.now  # noqa: E731
        self.bus, self.limits = Bus(), load_limits("panda")
        far = self.limits.spec("arm", simulated=True)
        self.driver = MirrorDriver(far, START, clock)
        robot = Robot(self.driver, self.limits, latch=Latch("far", folder), clock=clock)
        wire = LocalWire(self.bus, clock)
        self.server = RobotServer(robot, wire, fingers=FINGERS, clock=clock)
        self.server.step()
        near = self.limits.spec("arm", simulated=True)
        self.thread = threading.Thread(target=self._first)
        self.thread.start()  # the first joint state comes while `connect` waits
        link = RosDriver(
            near,
            LocalWire(self.bus, clock),
            fingers=FINGERS,
            clock=clock,
            wall=lambda: 1e9 + self.now,
        )
        self.robot = Robot(link, self.limits, latch=Latch("near", folder), clock=clock)
        self.robot.connect()
        self.stop.set()
        self.thread.join()
        self.sequence = 0

    def _first(self):
        self.stop = threading.Event()
        while not self.stop.wait(0.01):
            self.server.step()

    def run(self, position, steps, lease, gripper=None):
        for _ in range(steps):
            self.now += 0.01
            self.server.step()
            self.robot.read()
            self.sequence += 1
            command = Command(np.asarray(position), self.now, self.sequence, gripper)
            sent = self.robot.command(command, lease)
        return sent

    def serve(self, steps):
        for _ in range(steps):
            self.now += 0.01
            self.server.step()


@pytest.fixture
def pair(tmp_path):
    return Pair(tmp_path / "latch")


def test_what_is_commanded_here_moves_the_robot_there(pair):
    lease = pair.robot.activate("test")
    assert pair.server.robot.lifecycle == Lifecycle.ACTIVE
    sent = pair.run(START + 0.1, 120, lease)
    assert sent.act == Act.PASS
    np.testing.assert_allclose(pair.driver.state.position, START + 0.1, atol=1e-6)
    np.testing.assert_allclose(pair.robot.read().position, START + 0.1, atol=1e-6)


def test_the_gripper_follows_by_an_action(pair):
    lease = pair.robot.activate("test")
    pair.run(START, 5, lease, gripper=0.03)
    end = time.monotonic() + 3
    while abs(pair.driver.state.gripper - 0.03) > 1e-6 and time.monotonic() < end:
        pair.run(START, 1, lease, gripper=0.03)
        time.sleep(0.01)
    pair.server.step()
    assert pair.robot.read().gripper == pytest.approx(0.03)


def test_a_silent_client_is_stopped_by_the_robots_side(pair):
    lease = pair.robot.activate("test")
    pair.run(START + 0.5, 30, lease)
    at = pair.driver.state.position.copy()
    began = pair.now
    while pair.server.robot.lifecycle == Lifecycle.ACTIVE:
        pair.serve(1)
        assert pair.now - began < 0.65
    assert pair.server.robot.counts[Cause.SILENT] and not pair.server.robot.latch.tripped
    stopped = pair.driver.state.position.copy()
    assert np.abs(stopped - at).max() < 0.3
    with contextlib.suppress(HardwareError):
        pair.run(START + 0.5, 5, lease)  # the client wakes up and goes on
    np.testing.assert_array_equal(pair.driver.state.position, stopped)


def test_a_client_hears_that_the_robots_side_has_ceased_to_follow(pair):
    lease = pair.robot.activate("test")
    pair.run(START + 0.1, 10, lease)
    pair.server.robot.halt()
    pair.serve(1)
    pair.robot.read()
    assert pair.robot.lifecycle == Lifecycle.INACTIVE and pair.robot.latch.tripped is None
    assert pair.robot.counts[Cause.DRIVER] == 1
    with pytest.raises(NotReady):
        pair.run(START + 0.1, 1, lease)
    pair.serve(100)
    pair.robot.activate("test")  # told of an old disarming no more
    pair.serve(30)
    pair.robot.read()
    assert pair.robot.lifecycle == Lifecycle.ACTIVE


def test_a_trajectory_ends_at_rest_where_the_robot_needs_it(pair):
    heard = []
    wire = LocalWire(pair.bus, lambda: pair.now)
    wire.subscribe(Topics().trajectory, messages.TRAJECTORY, lambda m, _: heard.append(m))
    spec = pair.limits.spec("arm", simulated=True)
    driver = RosDriver(spec, LocalWire(pair.bus), rest=0.3, clock=lambda: pair.now)
    with pytest.raises(LinkLost):
        driver.connect()
    driver.write(START, np.full(7, 0.4), None)
    times, positions, velocities = messages.read_trajectory(heard[0], spec.names)
    np.testing.assert_allclose(times, [0.01, 0.31])
    np.testing.assert_allclose(positions, [START, START + 0.06])
    np.testing.assert_allclose(velocities, [[0.4] * 7, [0.0] * 7])


def test_a_stop_over_the_wire_latches_there_and_only_there_it_is_reset(pair):
    wire = LocalWire(pair.bus)
    lease = pair.robot.activate("test")
    pair.run(START + 0.1, 10, lease)
    assert wire.call("/stop", messages.TRIGGER, {}, 1.0)["success"]
    stopped = pair.driver.state.position.copy()
    with contextlib.suppress(HardwareError):
        pair.run(START + 0.5, 20, lease)
    np.testing.assert_array_equal(pair.driver.state.position, stopped)
    answer = wire.call("/arm", messages.TRIGGER, {}, 1.0)
    assert not answer["success"] and "asked over the wire" in answer["message"]
    assert not any("reset" in name for name in pair.bus.services)


def test_a_lost_link_is_noticed_and_latches_if_it_was_active(pair):
    lease = pair.robot.activate("test")
    pair.run(START, 3, lease)
    pair.now += 1.0
    with pytest.raises(LinkLost, match="no joint state"):
        pair.robot.read()
    assert pair.robot.latch.tripped["cause"] == "link lost"


def test_joint_states_that_cannot_be_read_say_why(tmp_path):
    bus, limits = Bus(), load_limits("panda")
    wire = LocalWire(bus)
    publish = wire.publisher("/joint_states", messages.JOINT_STATE)
    driver = RosDriver(limits.spec("arm", simulated=True), LocalWire(bus))
    feed = threading.Timer(
        0.2, lambda: publish(messages.joint_state(["elbow"], [0.0], [0.0], stamp=0.0))
    )
    feed.start()
    import hardware.ros as module

    patience, module._FIRST = module._FIRST, 0.6
    try:
        with pytest.raises(LinkLost, match="no joint panda_joint1"):
            driver.connect()
    finally:
        module._FIRST = patience


def test_old_repeated_and_bad_trajectories_are_not_followed(pair):
    wire = LocalWire(pair.bus, lambda: pair.now)
    publish = wire.publisher(Topics().trajectory, messages.TRAJECTORY)
    assert wire.call("/arm", messages.TRIGGER, {}, 1.0)["success"]

    def send(stamp, offset=0.001):
        names = pair.limits.spec("x").names
        path = messages.trajectory(names, [0.01], START[None] + offset, stamp=stamp)
        publish(path)
        pair.serve(1)

    send(1000.0)
    send(1000.01)
    moved = len(pair.driver.written)
    send(1000.01)  # repeated
    send(1000.0)  # out of order
    pair.now += 0.3  # a pause, then a burst of what was queued
    send(1000.02)
    assert pair.server.arrivals.refused == 3
    publish({"joint_names": ["a"], "points": "nonsense"})
    publish({})
    assert pair.server.malformed == 2
    np.testing.assert_allclose(pair.driver.state.position, START + 0.001, atol=1e-3)
    assert len(pair.driver.written) - moved <= 4  # braking only


def test_a_halt_between_check_and_command_does_not_end_the_server(pair):
    wire, far = LocalWire(pair.bus, lambda: pair.now), pair.server.robot
    publish = wire.publisher(Topics().trajectory, messages.TRAJECTORY)
    wire.call("/arm", messages.TRIGGER, {}, 1.0)
    command = far.command
    far.command = lambda *given: far.halt() or command(*given)
    names, written = pair.limits.spec("x").names, len(pair.driver.written)
    publish(messages.trajectory(names, [0.01], START[None] + 0.1, stamp=1000.0))
    pair.serve(3)
    assert far.lifecycle == Lifecycle.INACTIVE and len(pair.driver.written) == written


def test_arrivals_compare_no_clocks():
    arrivals = Arrivals(0.1)
    assert arrivals.accept(1e9, 5.0) == 5.0
    assert arrivals.accept(1e9 + 0.05, 5.06) == pytest.approx(5.05)
    assert arrivals.accept(1e9 + 0.10, 5.35) is None
    assert arrivals.accept(1e9 + 0.40, 5.41)
    assert not arrivals.accept(1e9 + 0.40, 5.42)
    assert arrivals.refused == 2


def test_arrivals_follow_clocks_that_drift_but_a_burst_never_passes():
    for outage in (0.4, 5.0, 70.0):
        arrivals, now = Arrivals(0.1), 1000.0
        for i in range(7000):  # 70 s; their clock is slow by 100 ppm
            now = 1000.0 + 0.01 * i
            assert arrivals.accept(50.0 + now * (1 - 1e-4), now)
        for i in range(20):  # what they sent in the first half of the outage comes at its end
            sent = 50.0 + (now + outage * i / 40) * (1 - 1e-4)
            assert not arrivals.accept(sent, now + outage + 0.001 * i)
        assert arrivals.refused == 20
        now += outage + 0.1
        assert arrivals.accept(50.0 + now * (1 - 1e-4), now)


def test_diagnostics_tell_what_acted(pair):
    heard = []
    wire = LocalWire(pair.bus)
    wire.subscribe("/diagnostics", messages.DIAGNOSTICS, lambda m, t: heard.append(m))
    pair.server.robot.stop("test")
    pair.serve(120)
    status = heard[-1]["status"][0]
    assert status["level"] == 2 and "operator: test" in status["message"]
    assert {"key": "operator", "value": "1"} in status["values"]


def test_a_server_that_is_never_on_time_still_answers(pair):
    """Its loop does not rest, so a service must get its turn."""
    slow = pair.server.robot.read

    def read():
        time.sleep(0.02)
        return slow()

    pair.server.robot.read = read
    stop = threading.Event()
    thread = threading.Thread(target=pair.server.run, args=(stop,))
    thread.start()
    answered = [pair.bus.services["/halt"]({}) for _ in range(5)]
    stop.set()
    thread.join()
    assert all(answer["success"] for answer in answered)

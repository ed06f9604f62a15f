"""Commands over a wire that jitters are played out evenly."""

import contextlib
import threading

import numpy as np
import pytest

from hardware import Command, Robot, load_limits
from hardware.latch import Latch
from hardware.local_wire import Bus, LocalWire
from hardware.mirror import MirrorDriver
from hardware.playout import Metronome, Playout
from hardware.robots import slackened
from hardware.ros import RosDriver
from hardware.ros_server import RobotServer

START = np.array([0.0, -0.3, 0.0, -2.2, 0.0, 2.0, 0.78])
PERIOD = 0.01


def test_a_metronome_evens_out_what_jitters_and_follows_what_drifts():
    rng = np.random.default_rng(0)
    true = 100.0 + 1.001 * PERIOD * np.arange(2000)
    beats = np.array([*map(Metronome(PERIOD).tick, true + rng.uniform(-2e-3, 2e-3, 2000))])
    assert np.abs(np.diff(beats) - PERIOD).max() < 5e-4
    assert np.abs(beats - true)[100:].max() < 1.5e-3


def test_a_metronome_begins_anew_after_missed_periods():
    beat = Metronome(PERIOD)
    assert beat.tick(5.0) == 5.0
    assert beat.tick(5.01) == pytest.approx(5.01)
    assert beat.tick(5.03) == 5.03
    assert beat.tick(4.0) == 4.0


def test_a_playout_is_late_by_its_delay_and_coasts_for_a_moment_only():
    playout, speed = Playout(1, 0.02), np.array([[2.0]])
    assert playout.at(0.0) is None
    playout.add(10.0, np.array([0.01]), np.array([[1.0]]), speed, 10.0)
    playout.add(10.01, np.array([0.01]), np.array([[1.02]]), speed, 10.01)
    np.testing.assert_allclose(playout.at(10.03), [1.0])
    np.testing.assert_allclose(playout.at(10.035), [1.01])
    np.testing.assert_allclose(playout.at(10.05), [1.04])
    np.testing.assert_allclose(playout.at(10.059), [1.058])
    assert playout.at(10.061) is None
    playout.clear()
    assert playout.at(10.035) is None


def test_usual_jitter_is_waited_for_and_a_single_hiccup_is_not():
    rng, playout = np.random.default_rng(0), Playout(1, PERIOD)
    point = np.array([PERIOD]), np.array([[0.0]]), None

    def receive(late):
        playout.add(0.0, *point, late)

    for late in rng.uniform(0.0, 0.03, 300):
        receive(late)
    assert 0.035 < playout.delay < 0.05
    before = playout.delay
    receive(0.1)
    assert playout.delay < before + 0.015
    for late in rng.uniform(0.0, 0.3, 300):
        receive(late)
    assert playout.delay == pytest.approx(PERIOD + 0.08)
    for _ in range(300):
        receive(0.0)
    assert playout.delay == pytest.approx(PERIOD, abs=1e-4)


def test_a_later_trajectory_replaces_an_earlier_one_from_its_first_point_on():
    playout = Playout(1, 0.0)
    playout.add(0.0, np.array([0.1, 0.2, 0.3]), np.array([[1.0], [2.0], [3.0]]), None, 0.0)
    playout.add(0.05, np.array([0.1, 0.2]), np.array([[0.0], [-1.0]]), None, 0.05)
    np.testing.assert_allclose(playout.at(0.1), [1.0])
    np.testing.assert_allclose(playout.at(0.15), [0.0], atol=1e-12)
    np.testing.assert_allclose(playout.at(0.2), [-0.5])
    np.testing.assert_allclose(playout.at(0.25), [-1.0])


@contextlib.contextmanager
def serving(server):
    """Steps a server, whose first joint state `connect` waits for."""
    stop = threading.Event()

    def run():
        while not stop.wait(0.01):
            server.step()

    thread = threading.Thread(target=run)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.mark.parametrize("jitter", [0.0, 0.004, 0.012])
def test_two_envelopes_in_a_row_stay_together_whatever_the_jitter(tmp_path, jitter):
    """To and fro at the limits of acceleration: the far side must neither lag nor overshoot."""
    rng, now = np.random.default_rng(1), [100.0]
    clock = lambda: now[0]  # noqa: E731
    bus, limits, queue = Bus(), load_limits("panda"), []
    far = Robot(
        MirrorDriver(limits.spec("far", simulated=True), START, clock),
        limits,
        latch=Latch("far", tmp_path),
        clock=clock,
    )
    server = RobotServer(far, LocalWire(bus, clock), clock=clock)
    wire = LocalWire(bus, clock)
    wire.publisher = lambda *given: lambda message: queue.append((now[0] + delay(), message))
    delay = lambda: 0.001 + rng.uniform(0.0, jitter)  # noqa: E731
    near = limits.spec("near", simulated=True)
    driver = RosDriver(near, wire, clock=clock, wall=lambda: now[0] + 1e9)
    robot = Robot(driver, slackened(limits), latch=Latch("near", tmp_path), clock=clock)
    with serving(server):
        robot.connect()
    lease = robot.activate("test")
    lags, reached = [], []
    events = sorted(
        [(100.0 + PERIOD * k + rng.uniform(0, jitter / 4), "near", k) for k in range(500)]
        + [(100.0 + PERIOD * (k + 0.3) + rng.uniform(0, jitter / 4), "far", k) for k in range(500)]
    )
    for at, side, k in events:
        while queue and min(queue, key=lambda one: one[0])[0] <= at:
            arrives, message = queue.pop(min(range(len(queue)), key=lambda i: queue[i][0]))
            now[0] = max(now[0], arrives)
            server._follow(message, now[0])
        now[0] = max(now[0], at)
        if side == "far":
            server.step()
            continue
        robot.read()
        wished = START + (0.3 if k // 100 % 2 else -0.3)
        sent = robot.command(Command(wished, now[0], k), lease)
        reached.append(far._motion.position[0])
        lags.append(np.abs(sent.position - far._motion.position).max())
    assert robot.latch.tripped is None and far.latch.tripped is None
    assert max(lags) < 0.04 + 2.2 * jitter  # 1 rad/s over two or three periods, and the wire
    assert min(reached) < -0.25 and max(reached[200:]) > 0.15

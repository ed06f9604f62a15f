import functools
import os
import signal
import time

import numpy as np
import pytest

from hardware import HardwareError, Lifecycle, LinkLost, Robot, load_limits
from hardware.latch import Latch
from hardware.loop import ControlLoop, LoopProcess, Timing
from hardware.mirror import MirrorDriver
from hardware.types import Act, Cause

START = np.array([0.0, -0.3, 0.0, -2.2, 0.0, 2.0, 0.785, 0.0])


def make_robot(folder, rate):
    """In the control process."""
    limits = load_limits("panda")
    spec = limits.spec("loop test", command_rate=rate, simulated=True)
    return Robot(MirrorDriver(spec, START[:7]), limits, latch=Latch(spec.name, folder))


@pytest.fixture
def loop(rig):
    made = rig()
    made.robot.connect()
    control = ControlLoop(made.robot, Timing(0.05, fade=0.1), clock=made.clock)
    return made, control


def _run(made, control, seconds, policy=None, every=0.05):
    acts, next_chunk = [], made.clock.now
    for _ in range(round(seconds / made.period)):
        made.clock.now += made.period
        if policy is not None and made.clock.now >= next_chunk:
            policy(made.clock.now)
            next_chunk += every
        control.step()
        acts.append(control.sent.act if control.sent else None)
    return acts


def _hold_chunk(control, goal, horizon):
    def policy(now):
        control.add(np.repeat(goal[None], horizon, 0), now + 0.01, observed=now)

    return policy


def test_it_follows_chunks_and_stops_when_they_end(loop):
    made, control = loop
    control.arm("test")
    goal = START + 0.1
    acts = _run(made, control, 1.5, _hold_chunk(control, goal, 8))
    np.testing.assert_allclose(made.position, goal[:7], atol=1e-9)
    assert acts[-1] == Act.PASS and made.driver.state.gripper == pytest.approx(0.08)
    acts = _run(made, control, 1.2)  # the policy is silent: 0.4 s are still handed over
    assert made.robot.counts[Cause.BLIND] > 0  # but at most 0.3 s after the last look
    assert made.robot.lifecycle == Lifecycle.INACTIVE and acts[-1] is None


def test_a_chunk_longer_than_the_blind_budget_is_not_run_to_its_end(loop):
    made, control = loop
    control.arm("test")
    fast = START + np.linspace(0, 2.5, 50)[:, None] * [0.5, 0, 0, 0, 0, 0, 0, 0]
    now = made.clock.now
    control.add(fast, now, observed=now)
    _run(made, control, 3.0)
    moved = made.position[0] - START[0]
    assert 0.05 < moved < 0.5 * 0.3 + 0.15  # what 0.3 s allow, and the braking


def test_actions_from_before_a_stop_are_forgotten(loop):
    made, control = loop
    control.arm("test")
    control.add(np.repeat(START[None] + 0.3, 20, 0), made.clock.now, observed=made.clock.now)
    _run(made, control, 0.1)
    control.robot.stop("hand in the way")
    at = made.position.copy()
    _run(made, control, 0.2)
    control.robot.reset_stop("hand is gone")
    assert control.add(np.repeat(START[None], 5, 0), made.clock.now, made.clock.now) == 0
    control.arm("test")
    _run(made, control, 0.3)
    np.testing.assert_array_equal(made.position, at)


def test_a_chunk_of_the_wrong_width_is_refused(loop):
    with pytest.raises(ValueError, match=r"\[H, 8\]"):
        loop[1].add(np.zeros((4, 7)), 0.0, 0.0)


@pytest.fixture
def process(tmp_path):
    make = functools.partial(make_robot, tmp_path / "latch", 100.0)
    spec = load_limits("panda").spec("loop test", command_rate=100.0, simulated=True)
    with LoopProcess(make, spec, Timing(0.05)) as made:
        yield made


def _wait(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_process_of_its_own(process):
    process.arm("test")
    goal = START + 0.05
    for _ in range(12):
        status = process.observe()
        chunk = np.repeat(goal[None], 6, 0)
        process.send(chunk, time.monotonic() + 0.02, status.state.stamp)
        time.sleep(0.05)
    _wait(lambda: np.abs(process.observe().state.position - goal[:7]).max() < 1e-3)
    status = process.observe()
    assert status.lifecycle == Lifecycle.ACTIVE and status.steps > 40
    with pytest.raises(ValueError, match="not finite"):
        process.send(np.full((2, 8), np.nan), 0.0, 0.0)
    process.stop("test is over")
    _wait(lambda: process.observe().latched)
    with pytest.raises(HardwareError, match="test is over"):
        process.arm("test")
    process.reset_stop("the test goes on")
    process.arm("again")
    _wait(lambda: process.observe().lifecycle == Lifecycle.ACTIVE)


def test_a_silent_policy_ends_in_a_stop(process):
    process.arm("test")
    _wait(lambda: process.observe().lifecycle == Lifecycle.INACTIVE, 2.0)
    assert process.observe().counts[Cause.SILENT] > 0 and not process.observe().latched


def test_a_dead_control_process_is_noticed(process):
    os.kill(process.process.pid, signal.SIGKILL)
    process.process.join()
    with pytest.raises(LinkLost):
        process.arm("test")


def make_nothing():
    raise HardwareError("no arm at this address")


def test_what_went_wrong_in_the_process_is_told():
    spec = load_limits("panda").spec("loop test", simulated=True)
    with pytest.raises(HardwareError, match="no arm at this address"):
        LoopProcess(make_nothing, spec)

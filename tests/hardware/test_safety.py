"""F8: whatever comes in, what goes out keeps every limit."""

import math
import os
import tempfile

import numpy as np
import pytest

from hardware import load_limits
from hardware.errors import LimitsError
from hardware.safety import Envelope, Motion, behind, braking_velocity, clearance, patience, slowed
from hardware.types import Act, Cause, RobotState

BOX = {"lower": [0.25, -0.35, 0.1], "upper": [0.75, 0.35, 0.8], "angle": 0.9}


@pytest.mark.parametrize("arm", ["panda", "fr3"])
@pytest.mark.parametrize("rate", [20.0, 100.0])
def test_random_commands_never_leave_the_limits(rig, arm, rate):
    """25,000 commands each, 100,000 in all: 10 % non-finite, 20 % outside, jumps, denormals."""
    rng = np.random.default_rng([int(rate), len(arm)])
    made = rig(arm=arm, rate=rate, workspace=BOX, folder=_memory())
    made.arm()
    limits, period = made.limits, made.period
    sent = [made.position.copy()]
    acts = set()
    for _ in range(25_000):
        wanted = _random_wish(rng, sent, limits)
        result = made.go(wanted)
        acts.add(result.act)
        if made.robot.latch.tripped:  # a non-finite number: the operator comes
            made.clock.now += 1.0
            made.driver.halt()
            made.robot.reset_stop("test")
            made.lease = made.robot.activate("test")
            sent.append(made.position.copy())
            sent.append(made.position.copy())
        else:
            sent.append(result.position)
    assert acts >= {Act.PASS, Act.LIMIT, Act.HOLD, Act.LATCH}
    moved = np.array([position for _, position in made.driver.written])
    assert np.isfinite(moved).all()
    assert (moved <= limits.upper + 1e-9).all() and (moved >= limits.lower - 1e-9).all()
    velocity = np.diff(sent, axis=0) / period
    assert (np.abs(velocity) <= limits.velocity * (1 + 1e-9)).all()
    tools, rotations = limits.chain.tool(moved)
    workspace = limits.workspace
    for tool, rotation in zip(tools.tolist(), rotations.tolist(), strict=True):
        assert min(clearance(tool, [row[2] for row in rotation], workspace)) >= -1e-9
    change = np.diff(velocity, axis=0) / period
    fine = np.abs(change) <= limits.acceleration * (1 + 1e-9) + 1e-7
    # a latched stop halts the arm by its own means, which is no command of ours
    halted = [i for i in range(len(sent) - 1) if np.array_equal(sent[i], sent[i + 1])]
    near_halt = {j for i in halted for j in (i - 2, i - 1, i, i + 1)}
    assert all(i in near_halt for i in np.flatnonzero(~fine.all(1)))


def _memory():
    """A folder without a disk behind it, where there is one: thousands of latches are tripped."""
    return tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)


def _random_wish(rng, sent, limits):
    kind = rng.random()
    last = sent[-1]
    if kind < 0.10:
        wish = last.copy()
        wish[rng.integers(len(wish))] = rng.choice([np.nan, np.inf, -np.inf])
        return wish
    if kind < 0.30:
        return rng.uniform(-8, 8, last.shape)
    if kind < 0.60:
        before = sent[-2] if len(sent) > 1 else last
        return 2 * last - before + rng.normal(size=last.shape) * rng.choice([1e-4, 1e-3, 5e-310])
    return last + rng.normal(size=last.shape) * rng.choice([1e-3, 0.02, 0.3])


def test_a_wish_inside_passes_bit_for_bit(rig):
    made = rig().arm()
    wanted = made.position + np.array([1e-4, -3e-5, 7e-310, 0.0, 1e-5, 2e-5, -1e-5])
    result = made.go(wanted)
    assert result.act == Act.PASS and result.causes == ()
    assert result.position.tobytes() == wanted.tobytes()


def test_scaling_keeps_the_direction(rig):
    made = rig().arm()
    start = made.position.copy()
    wanted = start + np.array([0.5, 0.2, -0.3, 0.1, 0.4, -0.2, 0.3])
    result = made.go(wanted)
    step, wish = result.position - start, wanted - start
    cosine = step @ wish / np.linalg.norm(step) / np.linalg.norm(wish)
    assert cosine == pytest.approx(1.0, abs=1e-12)
    assert {Cause.VELOCITY, Cause.ACCELERATION} == set(result.causes)


def test_a_jump_is_approached_without_overshoot(rig):
    made = rig().arm()
    start = made.position.copy()
    target = start + np.array([0.5, 0.2, -0.3, 0.1, 0.4, -0.2, 0.3])
    path = np.array([made.go(target).position for _ in range(200)])
    done = (path - start) / (target - start)
    np.testing.assert_allclose(path[-1], target, atol=1e-12)
    assert done.max() < 1.01
    np.testing.assert_allclose(done, done.mean(1, keepdims=True) * np.ones(7), atol=0.02)


def test_a_path_that_is_a_little_too_fast_is_followed_without_stopping(rig):
    made = rig().arm()
    fastest = made.limits.velocity[0]
    aim, speeds = made.position.copy(), []
    for _ in range(150):
        aim[0] += 1.05 * fastest * made.period
        speeds.append(made.go(aim).velocity[0])
    np.testing.assert_allclose(speeds[80:], fastest, rtol=1e-6)


def test_it_arrives_and_brakes_for_the_end_of_a_joint(rig):
    made = rig(range_share=0.9).arm()
    target = made.limits.upper.copy() + 1.0
    for _ in range(2000):
        result = made.go(target)
    np.testing.assert_allclose(made.position, made.limits.upper, atol=1e-9)
    assert np.abs(result.velocity).max() < 1e-9


@pytest.mark.parametrize("distance, steps", [(0.0, 0), (1.0, 1), (3.0, 2), (6.0, 3), (4.5, 2.5)])
def test_braking_velocity(distance, steps):
    change, period = 0.4, 0.05
    found = braking_velocity(distance * change * period, change, period)
    assert found == pytest.approx(steps * change)


def test_braking_velocity_is_as_large_as_it_may_be():
    rng = np.random.default_rng(0)
    for _ in range(200):
        change, period, distance = rng.uniform(0.01, 1), rng.uniform(0.002, 0.1), rng.exponential()
        velocity, moved = braking_velocity(distance, change, period), 0.0
        while velocity > 0:
            moved += velocity * period
            velocity -= change
        assert moved == pytest.approx(distance, rel=1e-9)


def test_outside_the_workspace_only_the_way_back_is_open():
    limits = load_limits("panda", workspace={"lower": [0.6, -0.2, 0.2], "upper": [0.7, 0.2, 0.6]})
    envelope = Envelope(limits, 0.01)
    home = np.array([0.0, -0.3, 0.0, -2.2, 0.0, 2.0, 0.785])  # x = 0.484
    step = np.array([0, 0.01, 0, 0, 0, 0, 0])
    away, back = home - step, home + step
    rest = Motion(home, np.zeros(7))
    assert envelope.next(rest, away)[1:] == (Act.HOLD, (Cause.ACCELERATION, Cause.WORKSPACE))
    assert envelope.next(rest, back)[1] == Act.LIMIT


def test_limits_of_the_makers():
    panda = load_limits("panda")
    assert panda.velocity.tolist() == [0.5 * v for v in (2.175,) * 4 + (2.61,) * 3]
    assert panda.acceleration[1] == pytest.approx(0.25 * 7.5)
    assert panda.upper[3] == pytest.approx((-0.0698 - 3.0718) / 2 + 0.9 * (3.0718 - 0.0698) / 2)
    assert len(load_limits("ur5e").joints) == 6
    assert load_limits("fr3").joints[5].upper == 4.2094


@pytest.mark.parametrize(
    "arm, changes, message",
    [
        ("kuka", {}, "known are fr3, panda, ur5e"),
        ("panda", {"velocity_share": 1.5}, "must be in"),
        ("panda", {"speed": 1}, "unknown keys"),
        ("panda", {"force": math.nan}, "positive and finite"),
        ("panda", {"workspace": {"lower": [0, 0, 0], "upper": [0, 1, 1]}}, "below"),
    ],
)
def test_bad_limits_say_what_is_wrong(arm, changes, message):
    with pytest.raises(LimitsError, match=message):
        load_limits(arm, **changes)


def test_a_file_with_a_missing_number(tmp_path):
    file = tmp_path / "arm.yaml"
    file.write_text("joints: {names: [a, b], lower: [0]}\nchain: {}\n")
    with pytest.raises(LimitsError, match=r"joints\.lower needs one finite number for each of 2"):
        load_limits(file)


def test_an_arm_that_lags_is_given_time_but_a_blocked_one_is_found_out():
    limits, start = load_limits("panda"), np.linspace(-1, 1, 7)  # may lag by 0.2 rad
    state = lambda lag: RobotState(0.0, start - lag, np.zeros(7), np.zeros(7))  # noqa: E731
    lags = [behind(state(lag), start) for lag in (0.0, 0.1, 0.15, 0.2, 1.0)]
    np.testing.assert_allclose(lags, [0.0, 0.1, 0.15, 0.2, 1.0])
    shares = [patience(lag, limits) for lag in lags]
    np.testing.assert_allclose(shares, [1.0, 1.0, 0.6, 0.2, 0.2])
    halved = slowed(start + 1.0, start, 0.5, limits, 0.01)
    np.testing.assert_allclose(halved, start + 0.005 * limits.velocity)
    np.testing.assert_allclose(slowed(start - 1e-3, start, 0.5, limits, 0.01), start - 5e-4)

"""F10: once tripped, nothing moves the arm until an operator resets it with a reason."""

import subprocess
import sys

import numpy as np
import pytest

from hardware import Command, Latched, Lifecycle, OwnedByAnother, StillMoving
from hardware.latch import Latch
from hardware.types import Act, Cause


def _nan(made):
    made.go(np.full(7, np.nan))


def _stale(made):
    for _ in range(3):
        made.go(made.position, stamp=made.clock.now - 0.2)


def _old_observation(made):
    made.clock.now += 0.1
    for _ in range(3):
        made.clock.now += 0.1
        made.sequence += 1
        made.robot.command(Command(made.position, made.clock.now, made.sequence), made.lease)


def _force(made):
    made.driver.state = _changed(made, wrench=np.array([0, 0, 100.0, 0, 0, 0]))
    made.go(made.position)


def _lag(made):
    made.driver.state = _changed(made, position=made.position + 0.5)
    made.go(made.position)


def _state_nan(made):
    made.driver.state = _changed(made, effort=np.full(7, np.inf))
    made.go(made.position)


def _link(made):
    made.driver.close()
    with pytest.raises(ConnectionError):
        made.robot.read()
    made.driver.connect()


def _operator(made):
    made.robot.stop("smoke")


def _changed(made, **fields):
    return type(made.driver.state)(**{**vars(made.driver.state), **fields})


CAUSES = [_nan, _stale, _old_observation, _force, _lag, _state_nan, _link, _operator]


@pytest.mark.parametrize("cause", CAUSES)
def test_nothing_moves_it_until_an_operator_resets(rig, cause, tmp_path):
    made = rig().arm()
    for _ in range(20):
        made.go(made.position + 0.01)
    cause(made)
    assert made.robot.latch.tripped
    moved = len(made.driver.written)
    old = made.lease
    far = made.position + 0.5
    assert made.go(far, lease=old).act == Act.LATCH  # the same writer goes on
    assert made.robot.tick() is None
    with pytest.raises(Latched):
        made.robot.activate("recovery")
    again = rig()  # a new connection, in effect a new process
    again.robot.connect()
    with pytest.raises(Latched):
        again.robot.activate("second client")
    assert again.go(far, lease="made up").act == Act.LATCH
    assert len(made.driver.written) == moved and not again.driver.written

    made.driver.state = _changed(made, velocity=np.full(7, 0.5), wrench=None, effort=np.zeros(7))
    with pytest.raises(StillMoving):
        made.robot.reset_stop("looks fine")
    made.driver.halt()
    with pytest.raises(ValueError, match="reason"):
        made.robot.reset_stop("  ")
    made.robot.reset_stop("cable plugged in again", by="A. Operator")
    assert made.robot.latch.tripped is None and made.robot.lifecycle == Lifecycle.INACTIVE
    made.lease = made.robot.activate("test")
    assert made.go(made.position + 1e-4).act == Act.PASS
    log = made.robot.latch.log.read_text()
    assert "cable plugged in again" in log and "A. Operator" in log


def test_a_new_process_sees_the_latch(tmp_path):
    latch = Latch("arm", tmp_path)
    latch.trip(Cause.FORCE, "80 N")
    code = f"from hardware.latch import Latch; print(Latch('arm', {str(tmp_path)!r}).tripped)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'force'" in shown.stdout


def test_the_first_cause_is_kept_and_an_unreadable_file_is_a_stop(tmp_path):
    latch = Latch("arm", tmp_path)
    assert latch.tripped is None
    latch.trip(Cause.FORCE, "first")
    latch.trip(Cause.FINITE, "second")
    assert latch.tripped["detail"] == "first"
    latch.path.write_text("{")
    assert latch.tripped["cause"] == "unreadable latch"


def test_a_latch_set_elsewhere_stops_this_process(rig, tmp_path):
    made = rig().arm()
    made.go(made.position + 1e-4)
    Latch("test arm", tmp_path / "latch").trip(Cause.OPERATOR, "button on the wall")
    assert made.go(made.position + 1e-4).act == Act.LATCH
    assert made.robot.lifecycle == Lifecycle.INACTIVE


def test_one_writer(rig):
    made = rig().arm()
    with pytest.raises(OwnedByAnother, match="'test'"):
        made.robot.activate("another")
    written = len(made.driver.written)
    with pytest.raises(OwnedByAnother):
        made.go(made.position, lease="another")
    assert len(made.driver.written) == written
    assert made.robot.counts[Cause.OWNER] == 1
    made.robot.deactivate(made.lease)
    assert made.robot.activate("another") != made.lease


def test_without_the_switch_it_brakes(rig):
    made = rig(simulated=False).arm()
    for _ in range(30):
        fast = made.go(made.position + 0.02)
    assert fast.act != Act.HOLD
    made.clock.now += made.limits.deadman_age  # let go
    made.robot.read()
    speeds = []
    for _ in range(40):
        made.deadman._beat = -1.0
        made.clock.now += made.period
        made.robot.read()
        made.sequence += 1
        command = Command(made.position + 0.02, made.clock.now, made.sequence)
        result = made.robot.command(command, made.lease)
        assert (result.act, result.causes) == (Act.HOLD, (Cause.ARMED,))
        speeds.append(np.abs(result.velocity).max())
    assert speeds[-1] == 0.0 and speeds == sorted(speeds, reverse=True)
    made.robot.stop("check")
    made.deadman.beat(made.clock.now)
    with pytest.raises(StillMoving, match="let it go"):
        made.robot.reset_stop("checked")


def test_watchdog_holds_then_asks_to_be_armed_again(rig):
    made = rig().arm()
    for _ in range(50):
        made.go(made.position + 0.02)
    began, at = made.clock.now, made.position.copy()
    seen = {}
    while made.robot.lifecycle == Lifecycle.ACTIVE:
        made.clock.now += made.period
        made.robot.read()
        sent = made.robot.tick()
        if sent is not None:
            seen.setdefault("hold", made.clock.now - began)
    assert seen["hold"] <= 0.11 and made.clock.now - began <= 0.6
    assert np.abs(made.position - at).max() < 0.3 and not made.robot.latch.tripped
    assert made.robot.activate("again")


def test_missed_commands_are_bridged_within_the_acceleration(rig):
    """One of ten is lost here; a longer gap would slow it down, but never stop it dead."""
    made, rng = rig().arm(), np.random.default_rng(0)
    aim, lags = made.position.copy(), []
    for _ in range(300):
        aim += 0.4 * made.period
        if rng.random() < 0.9:
            made.go(aim)
        else:
            made.clock.now += made.period
            made.robot.read()
            made.robot.tick()
        lags.append(np.abs(made.position - aim).max())
    path = np.array([position for _, position in made.driver.written])
    change = np.diff(path, n=2, axis=0) / made.period**2
    assert (np.abs(change) <= made.limits.acceleration * (1 + 1e-9) + 1e-7).all()
    assert max(lags[150:]) < 0.01 and not made.robot.latch.tripped


def test_old_and_repeated_commands_are_not_sent(rig):
    made = rig().arm()
    made.go(made.position + 1e-3)
    written = len(made.driver.written)
    for sequence in (made.sequence, made.sequence - 1):
        command = Command(made.position + 1e-3, made.clock.now, sequence)
        assert made.robot.command(command, made.lease).causes == (Cause.ORDER,)
    assert len(made.driver.written) == written


def test_motion_decided_without_a_recent_look_is_held(rig):
    made = rig().arm()
    held = made.go(made.position + 1e-3, observed=made.clock.now - 0.35)
    assert (held.act, held.causes) == (Act.HOLD, (Cause.BLIND,))

"""A robot behind its safety envelope: the only way by which anything here moves one.

The shape is ros2_control's: a lifecycle (unconfigured, inactive, active, finalized), one owner of
the command interface at a time, states shared. The order of checks of a command:

    latched, finite, fresh, owner, armed, force, tracking, blind motion, joints, workspace

An arm that lags by more than half of what it may is led on more slowly (`safety.patience`). A
latched stop holds through reconnects and restarts until `reset_stop`. Between commands, `tick`
keeps the watchdog: for 0.03 s the arm goes on as it moved, so that a lost command is not felt; then
it brakes; silent for 0.1 s, that counts as a hold; for 0.5 s, it is halted by its own means and
must be armed again.
"""

import collections
import getpass
import os
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from hardware import safety
from hardware.errors import Disarmed, HardwareError, Latched, NotReady, OwnedByAnother, StillMoving
from hardware.latch import Deadman, Latch
from hardware.limits import Limits
from hardware.types import Act, Cause, Command, Driver, Lifecycle, RobotState, Sent, Spec

COAST = 0.030  # s without a command that are bridged
HOLD_AFTER = 0.100
STOP_AFTER = 0.500
STANDING = 0.02  # rad/s; below it an arm counts as standing still


Listener = Callable[[Cause, str], None]


class Robot:
    """One robot: lifecycle, ownership, envelope, watchdog and latch around a driver.

    Methods may be called from several threads.

    Attributes:
        spec: what is known before connecting.
        limits: what the envelope enforces.
        latch: the stop that outlives this object.
        lifecycle: the present state.
        counts: how often each limit acted.
        listener: told each time a limit acts, or None.
    """

    def __init__(
        self,
        driver: Driver,
        limits: Limits,
        *,
        latch: Latch | None = None,
        deadman: Deadman | None = None,
        clock: Callable[[], float] = time.monotonic,
        listener: Listener | None = None,
    ) -> None:
        """Puts the envelope before a driver; connects nothing.

        Args:
            driver: the robot's wire.
            limits: of the same joints.
            latch: by default the one under the robot's name on this machine.
            deadman: the enabling switch; may be None for a simulated robot only.
            clock: monotonic, s; the same that stamps states and commands.
            listener: told each time a limit acts, for a recorder.

        Raises:
            HardwareError: limits and driver are of different joints, or there is no switch.
        """
        self.spec: Spec = driver.spec
        named = [joint.name for joint in limits.joints]
        if named != self.spec.names:
            raise HardwareError(
                f"{self.spec.name}: the limits are of joints {named}, the robot has "
                f"{self.spec.names}; order matters"
            )
        if deadman is None and not self.spec.simulated:
            raise HardwareError(
                f"{self.spec.name} is not simulated: it needs an enabling switch (deadman=...)"
            )
        self.limits, self.latch = limits, latch or Latch(self.spec.name)
        self.lifecycle = Lifecycle.UNCONFIGURED
        self.counts: collections.Counter[Cause] = collections.Counter()
        self._driver, self._deadman, self._clock = driver, deadman, clock
        self.listener = listener
        self._envelope = safety.Envelope(limits, 1.0 / self.spec.command_rate)
        self._lock = threading.RLock()
        self._lease: str | None = None
        self._owner = ""
        self._state: RobotState | None = None
        self._motion: safety.Motion | None = None
        self._sequence = -1
        self._misses = 0
        self._last_good = float("-inf")

    # ---------------------------------------------------------------- lifecycle

    def connect(self) -> None:
        """Makes the link and reads once: unconfigured to inactive.

        Raises:
            NotReady: in another lifecycle state.
            LinkLost: the robot does not answer.
        """
        with self._lock:
            self._needs("connect", Lifecycle.UNCONFIGURED)
            self._driver.connect()
            self.lifecycle = Lifecycle.INACTIVE
            self.read()

    def activate(self, owner: str) -> str:
        """Arms the robot for one owner: inactive to active. This is the explicit re-arming.

        Args:
            owner: who will command, in words, for messages to others.

        Returns:
            The lease to hand to `command`.

        Raises:
            Latched: the stop is latched.
            OwnedByAnother: somebody else has it.
            NotReady: not connected, or the arm is moving.
        """
        with self._lock:
            if self._lease is not None:
                raise OwnedByAnother(f"{self.spec.name} is commanded by {self._owner!r}")
            self._needs("activate", Lifecycle.INACTIVE)
            self._refuse_latched()
            state = self.read()
            if np.abs(state.velocity).max() > STANDING:
                raise NotReady(f"{self.spec.name} is moving; wait until it stands still")
            self._driver.activate()
            # a joint that rests outside its range is led back, never jerked
            self._motion = safety.Motion(state.position.copy(), np.zeros_like(state.position))
            self._sequence, self._misses = -1, 0
            self._last_good = self._clock()
            self._lease, self._owner = secrets.token_hex(8), owner
            self.lifecycle = Lifecycle.ACTIVE
            return self._lease

    def deactivate(self, lease: str) -> None:
        """Gives the robot back: active to inactive.

        Raises:
            OwnedByAnother: the lease is not the present one.
        """
        with self._lock:
            self._check_lease(lease)
            self._deactivate()

    def close(self) -> None:
        """Stops and ends the link, for good."""
        with self._lock:
            if self.lifecycle == Lifecycle.ACTIVE:
                self._driver.halt()
                self._deactivate()
            if self.lifecycle == Lifecycle.INACTIVE:
                self._driver.close()
            self.lifecycle = Lifecycle.FINALIZED

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    # ---------------------------------------------------------------- states and commands

    def read(self) -> RobotState:
        """Returns the newest state.

        Raises:
            NotReady: not connected.
            LinkLost: the robot does not answer; the stop is then latched if it was active.
        """
        with self._lock:
            self._needs("read", Lifecycle.INACTIVE, Lifecycle.ACTIVE)
            try:
                self._state = self._read()
            except HardwareError as error:
                self._failed(Cause.LINK, error)
                raise
            return self._state

    def command(self, command: Command, lease: str) -> Sent:
        """Sends the step towards a command that the limits leave.

        Call it once per period of `spec.command_rate`, after `read`.

        Args:
            command: where to.
            lease: of `activate`.

        Returns:
            What was really sent. While the stop is latched that is always braking and holding.

        Raises:
            OwnedByAnother: another lease is the present one; nothing was sent.
            NotReady: not active.
            ValueError: the command has the wrong number of joints.
        """
        with self._lock:
            if self.lifecycle != Lifecycle.ACTIVE and self.latch.tripped:
                return self._resting(Act.LATCH)
            self._check_lease(lease)
            if np.shape(command.position) != self._motion.position.shape:
                raise ValueError(
                    f"{self.spec.name}: the command has shape {np.shape(command.position)}, needed "
                    f"is {self._motion.position.shape} for {self.spec.names}"
                )
            now = self._clock()
            if command.sequence <= self._sequence:
                self._note(Cause.ORDER, f"sequence {command.sequence} after {self._sequence}")
                return self._resting(Act.HOLD, Cause.ORDER)
            self._sequence = command.sequence
            lag = safety.behind(self._state, self._motion.position)
            refused = self._refused(now, command, lag)
            if refused is not None:
                return self._brake(now, *refused)
            self._misses, self._last_good = 0, now
            motion, act, causes = self._next(command.position, lag)
            for cause in causes:
                self._note(cause, "")
            return self._send(now, motion, self._grip(command), act, causes)

    def tick(self) -> Sent | None:
        """Keeps the watchdog; call it in every period in which no command came.

        Returns:
            What was sent: None if the robot is not active, or at rest and the last command recent.
        """
        with self._lock:
            if self.lifecycle != Lifecycle.ACTIVE:
                return None
            now = self._clock()
            silent = now - self._last_good
            if silent < HOLD_AFTER:
                if not self._motion.velocity.any():
                    return None
                onward = self._envelope.coast if silent <= COAST else self._envelope.brake
                return self._send(now, onward(self._motion), None, Act.HOLD)
            if silent >= STOP_AFTER:
                self._note(Cause.SILENT, f"{silent:.3f} s; deactivated")
                self._halt()
                return None
            return self._brake(now, Act.HOLD, Cause.SILENT, f"{silent:.3f} s")

    # ---------------------------------------------------------------- stopping

    def halt(self) -> None:
        """Stops at once by the robot's own means; it must be armed again, but is not latched."""
        with self._lock:
            self._halt()

    def stop(self, reason: str) -> None:
        """Stops at once and latches; anybody may call it at any time."""
        with self._lock:
            self._trip(Cause.OPERATOR, reason)

    def reset_stop(self, reason: str, by: str | None = None) -> None:
        """Clears the latch; motion still needs `activate` afterwards. For operators only.

        Args:
            reason: what happened and why it is safe now; goes to the latch's log.
            by: the operator; by default the account's name.

        Raises:
            ValueError: there is no reason.
            StillMoving: the arm moves, or the enabling switch is held (let it go, reset, press it
                again).
            NotReady: not connected: whether the arm stands still is not known.
        """
        if not reason.strip():
            raise ValueError("reset_stop needs a reason: what happened, and why it is safe now")
        with self._lock:
            state = self.read()
            if not np.abs(state.velocity).max() <= STANDING:  # also refuses NaN
                raise StillMoving(f"{self.spec.name} moves; the stop is reset at rest only")
            now = self._clock()
            if self._deadman is not None and self._deadman.held(now, self.limits.deadman_age):
                raise StillMoving("the enabling switch is held; let it go, reset, press it again")
            self.latch.reset(reason, by or getpass.getuser())

    def describe(self) -> dict[str, Any]:
        """Returns the driver's versions and settings, for the record."""
        return self._driver.describe()

    # ---------------------------------------------------------------- inside

    def _read(self) -> RobotState:
        try:
            return self._driver.read()
        except Disarmed as error:  # the watchdog or the latch beside the robot was quicker
            if self.lifecycle == Lifecycle.ACTIVE:
                self._note(Cause.DRIVER, str(error))
                self._release()
            return self._driver.read()

    def _needs(self, what: str, *allowed: Lifecycle) -> None:
        if self.lifecycle not in allowed:
            raise NotReady(
                f"{self.spec.name} is {self.lifecycle}; {what} needs it {' or '.join(allowed)}"
            )

    def _refuse_latched(self) -> None:
        if why := self.latch.tripped:
            raise Latched(
                f"{self.spec.name} is stopped ({why['cause']}: {why['detail']}); an operator "
                "resets it with `Robot.reset_stop`, giving a reason"
            )

    def _check_lease(self, lease: str) -> None:
        if self._lease is None:
            self._needs("a command", Lifecycle.ACTIVE)
        if lease != self._lease:
            self._note(Cause.OWNER, "a command without the present lease")
            raise OwnedByAnother(f"{self.spec.name} is commanded by {self._owner!r}")

    def _refused(self, now: float, command: Command, lag: float) -> tuple[Act, Cause, str] | None:
        """The first check that a command does not pass."""
        state, limits = self._state, self.limits
        if os.path.exists(self.latch.path):  # another process may have tripped it
            return Act.LATCH, Cause.OPERATOR, ""
        if not safety.finite(command, state):
            return Act.LATCH, Cause.FINITE, "a number in the command or the state"
        if not safety.fresh(now, command, state, limits):
            self._misses += 1
            act = Act.LATCH if self._misses >= limits.misses else Act.HOLD
            ages = f"observation {now - state.stamp:.3f} s, command {now - command.stamp:.3f} s old"
            return act, Cause.FRESH, ages
        if self._deadman is not None and not self._deadman.held(now, limits.deadman_age):
            return Act.HOLD, Cause.ARMED, "not held"
        if not safety.gentle(state, limits):
            return Act.LATCH, Cause.FORCE, f"wrench {np.round(state.wrench, 2).tolist()}"
        if lag > limits.tracking:
            off = np.round(state.position - self._motion.position, 3)
            return Act.LATCH, Cause.TRACKING, f"off by {off.tolist()} rad"
        if not safety.seen(now, command, limits):
            return Act.HOLD, Cause.BLIND, f"{now - command.observed:.3f} s since the last look"
        return None

    def _next(self, wanted: np.ndarray, lag: float) -> tuple[safety.Motion, Act, tuple[Cause, ...]]:
        """The step towards a wish that the limits and the arm's lag leave."""
        share = safety.patience(lag, self.limits)
        if share == 1.0:
            return self._envelope.next(self._motion, wanted)
        sent, period = self._motion.position, self._envelope.period
        wanted = safety.slowed(wanted, sent, share, self.limits, period)
        motion, act, causes = self._envelope.next(self._motion, wanted)
        return motion, Act.LIMIT if act == Act.PASS else act, (*causes, Cause.TRACKING)

    def _brake(self, now: float, act: Act, cause: Cause, detail: str) -> Sent:
        """Slows down towards rest; latches if asked."""
        self._note(cause, detail)
        if act == Act.LATCH and self.latch.tripped is None:
            self._trip(cause, detail)
        elif act == Act.LATCH and self.lifecycle == Lifecycle.ACTIVE:
            self._halt()
        elif cause != Cause.ARMED and now - self._last_good >= STOP_AFTER:
            self._note(Cause.SILENT, "no command that could be followed")
            self._halt()
        if self.lifecycle != Lifecycle.ACTIVE:
            return self._resting(act, cause)
        return self._send(now, self._envelope.brake(self._motion), None, act, (cause,))

    def _trip(self, cause: Cause, detail: str) -> None:
        """Latches first, so that nothing that fails afterwards can lose it; then stops."""
        self._note(cause, detail)
        self.latch.trip(cause, detail)
        self._halt()

    def _halt(self) -> None:
        if self.lifecycle == Lifecycle.ACTIVE:
            try:
                self._driver.halt()
            finally:
                self._deactivate()

    def _release(self) -> None:
        self._lease, self._owner = None, ""
        self.lifecycle = Lifecycle.INACTIVE

    def _deactivate(self) -> None:
        self._release()
        self._driver.deactivate()

    def _failed(self, cause: Cause, error: Exception) -> None:
        if self.lifecycle == Lifecycle.ACTIVE:
            self._trip(cause, str(error))

    def _send(
        self,
        now: float,
        motion: safety.Motion,
        gripper: float | None,
        act: Act,
        causes: tuple[Cause, ...] = (),
    ) -> Sent:
        try:
            self._driver.write(motion.position, motion.velocity, gripper)
        except HardwareError as error:
            self._failed(Cause.LINK, error)
            raise
        self._motion = motion
        return Sent(now, motion.position, motion.velocity, gripper, act, causes)

    def _resting(self, act: Act, *causes: Cause) -> Sent:
        """Nothing was sent: the last position stands."""
        motion = self._motion
        if motion is None:
            position = np.array(self._state.position) if self._state else np.zeros(0)
            motion = safety.Motion(position, np.zeros_like(position))
        return Sent(self._clock(), motion.position, motion.velocity, None, act, causes)

    def _grip(self, command: Command) -> float | None:
        if command.gripper is None or self.spec.gripper is None:
            return None
        return float(min(max(command.gripper, 0.0), self.spec.gripper.opening))

    def _note(self, cause: Cause, detail: str) -> None:
        self.counts[cause] += 1
        if self.listener is not None:
            self.listener(cause, detail)

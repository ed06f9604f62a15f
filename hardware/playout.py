"""A stream of commands over a wire that jitters: judged by age, and played out evenly.

Two ends that each step once a period hand positions over. Neither is punctual, nor is the wire; and
an envelope that is fed positions at uneven moments sees accelerations that nobody meant. So both
ends count in whole periods (`Metronome`), and what arrives is played later than the fastest message
would allow, by a period and the usual jitter (`Playout`). What comes later still is bridged: for a
period here, then by the robot's watchdog.
"""

import numpy as np

_SLOW_CLOCK = 60.0  # s; the fastest message is one of the last or the present such span
_KEPT = 0.2  # s of a trajectory that a later one has replaced
_MOST = 0.08  # s of jitter that are waited for
_PULL = 0.05  # share of a beat's error, or of a message's lateness, that the next one takes up


class Metronome:
    """Even beats for a loop whose steps come a little early or late."""

    def __init__(self, period: float) -> None:
        """Begins with the first step.

        Args:
            period: s between steps.
        """
        self._period, self._last = period, float("-inf")

    def tick(self, now: float) -> float:
        """The beat of a step at `now`: a period after the last, unless a period has been missed."""
        beat = self._last + self._period
        off = now - beat
        self._last = now if abs(off) >= self._period else beat + _PULL * off
        return self._last


class Arrivals:
    """Tells old messages from new ones without comparing clocks.

    Attributes:
        refused: how many were out of order or too late.
    """

    def __init__(self, age: float) -> None:
        """Begins without a message.

        Args:
            age: s that a message may be later than the fastest one.
        """
        self._age = age
        self._last = float("-inf")
        self._offset = self._before = float("inf")  # of this span and of the one before
        self._since = 0.0
        self.refused = 0

    def accept(self, sent: float, arrived: float) -> float | None:
        """Judges a message sent at `sent` by their clock and here at `arrived`.

        Returns:
            s by our clock, when it would have come had it been as fast as the fastest; None if it
            is not to be followed.
        """
        if arrived - self._since > _SLOW_CLOCK:
            # clocks drift, so the offset is forgotten in time; but never all at once, or the first
            # message of a burst would pass as the fastest
            self._before, self._offset, self._since = self._offset, float("inf"), arrived
        self._offset = min(self._offset, arrived - sent)
        begun = sent + min(self._offset, self._before)
        if sent <= self._last or arrived - begun > self._age:
            self.refused += 1
            return None
        self._last = sent
        return begun


class Playout:
    """Where a stream of trajectories wants the arm to be, at any moment.

    A trajectory replaces what came before from its first point on.
    """

    def __init__(self, joints: int, period: float) -> None:
        """Begins without any.

        Args:
            joints: how many, n.
            period: s between trajectories, and for which the motion goes on after the last point.
        """
        self._joints, self._period = joints, period
        self._late = self._spread = 0.0  # s, mean and mean deviation
        self.clear()

    @property
    def delay(self) -> float:
        """How much later than its time a point is played, s: a period and the usual jitter."""
        return self._period + min(self._late + 2.0 * self._spread, _MOST)

    def clear(self) -> None:
        """Forgets all."""
        self._times, self._positions = np.zeros(0), np.zeros((0, self._joints))
        self._speed: np.ndarray | float = 0.0
        self.observed = float("-inf")  # s, when the newest trajectory came

    def add(
        self,
        begun: float,
        times: np.ndarray,
        positions: np.ndarray,
        velocities: np.ndarray | None,
        arrived: float,
    ) -> None:
        """Takes a trajectory: times [t] in s from `begun`, positions [t, n], velocities or None."""
        late = arrived - begun
        self._spread += _PULL * (abs(late - self._late) - self._spread)
        self._late += _PULL * (late - self._late)
        times = begun + self.delay + times
        old = self._times < times[0]
        old &= self._times > times[0] - 1.0  # s; what is longer ago is not asked for any more
        self._times = np.concatenate([self._times[old], times])
        self._positions = np.concatenate([self._positions[old], positions])
        self._speed = 0.0 if velocities is None else velocities[-1]
        self.observed = arrived

    def at(self, moment: float) -> np.ndarray | None:
        """The position [n] at a moment in s; None if there is no trajectory for it."""
        late = moment - self._times[-1] if len(self._times) else np.inf
        if late > self._period:
            return None
        if late >= 0:
            return self._positions[-1] + late * self._speed
        return np.array([np.interp(moment, self._times, column) for column in self._positions.T])

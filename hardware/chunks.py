"""Chunks of future actions: merging them, timing them, and joining them without a jump.

A policy that predicts H actions at once is asked again before they are used up. What is predicted
twice is merged by one of these:

    ensemble    mean over all predictions of a step, weights exp(-m i), i = 0 the oldest
                (ACT, Zhao et al. 2023, arXiv 2304.13705; m = 0.01)
    new, old    one of them; mean: 0.3 old + 0.7 new (LeRobot's asynchronous inference)
    real-time chunking (Black et al. 2025, arXiv 2506.07339): the policy itself continues the old
                chunk, by `prefix_weights` and `guidance_weight` in each of its denoising steps

Each action has an absolute target time. An action whose time is past is dropped, never executed
late. Actions are joint positions or anything else that may be interpolated, [n].
"""

import collections
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

MERGES = ("ensemble", "new", "old", "mean")


def ensemble(predictions: np.ndarray, m: float = 0.01) -> np.ndarray:
    """ACT's temporal ensemble of one step.

    Args:
        predictions: [k, n], oldest first.
        m: how much faster old ones count less; 0 is the plain mean. Larger than 0 the oldest
            counts most, as published.

    Returns:
        [n].
    """
    weights = np.exp(-m * np.arange(len(predictions)))
    return weights @ predictions / weights.sum()


def prefix_weights(delay: int, end: int, horizon: int, schedule: str = "exp") -> np.ndarray:
    """How strongly each action of a new chunk must continue the old one (equation 5).

    Args:
        delay: d, steps that will have been executed when the new chunk arrives: weight 1.
        end: H - s, from where on the old chunk has nothing to say: weight 0. A delay beyond it is
            cut to it.
        horizon: H.
        schedule: between the two, "linear", "exp" (the paper's), "ones" or "zeros".

    Returns:
        float64 [horizon]. With c_i = (end - i) / (end - delay + 1), linear is c_i and exp is
        c_i (e^c_i - 1) / (e - 1).

    Raises:
        ValueError: the schedule is unknown, or a number is out of range.
    """
    if not (delay >= 0 and 0 <= end <= horizon):
        raise ValueError(f"need 0 <= delay and 0 <= end <= horizon, got {delay}, {end}, {horizon}")
    delay, i = min(delay, end), np.arange(horizon)
    if schedule == "ones":
        weights = np.ones(horizon)
    elif schedule == "zeros":
        weights = (i < delay).astype(float)
    elif schedule in ("linear", "exp"):
        weights = np.clip((end - i) / (end - delay + 1), 0.0, 1.0)
        weights[:delay] = 1.0
        if schedule == "exp":
            weights = weights * np.expm1(weights) / (math.e - 1.0)
    else:
        raise ValueError(f'schedule={schedule!r}; allowed are "linear", "exp", "ones", "zeros"')
    return np.where(i < end, weights, 0.0)


def guidance_weight(t: float, most: float = 5.0) -> float:
    """How strongly a denoising step is pulled towards the old chunk.

    Args:
        t: time of the flow, 0 noise to 1 action.
        most: beta; 5 in the paper, 10 in LeRobot.

    Returns:
        min(beta, (1 - t) / t * (t^2 + (1 - t)^2) / (1 - t)^2).
    """
    if t <= 0.0 or t >= 1.0:
        return most
    rest = 1.0 - t
    return min(most, rest / t * (t * t + rest * rest) / (rest * rest))


def guided_velocity(
    velocity: np.ndarray,
    noisy: np.ndarray,
    old: np.ndarray,
    weights: np.ndarray,
    t: float,
    pull_back: Callable[[np.ndarray], np.ndarray],
    most: float = 5.0,
) -> np.ndarray:
    """The flow's velocity, corrected so that the chunk continues the old one (algorithm 1).

    Args:
        velocity: v(noisy, t), [H, n].
        noisy: [H, n], the chunk being denoised.
        old: [H, n], the old chunk from this chunk's first step on; anything where weights are 0.
        weights: [H], of `prefix_weights`.
        t: time of the flow.
        pull_back: vector-Jacobian product of the denoised chunk noisy + (1 - t) v(noisy, t) with
            respect to `noisy`.
        most: see `guidance_weight`.
    """
    error = (old - (noisy + (1.0 - t) * velocity)) * weights[:, None]
    return velocity + guidance_weight(t, most) * pull_back(error)


class Latency:
    """How long inference takes: the last measurements and their 95th percentile."""

    def __init__(self, window: int = 100, first: float = 0.0) -> None:
        """Begins with one assumed measurement.

        Args:
            window: how many measurements count.
            first: s, assumed until there are any.
        """
        self._values: collections.deque[float] = collections.deque(maxlen=window)
        self._first = first

    def add(self, seconds: float) -> None:
        """Notes a measurement, from acquiring the observation to having the chunk."""
        if not (math.isfinite(seconds) and seconds >= 0.0):
            raise ValueError(f"a latency is finite and not negative, got {seconds}")
        self._values.append(seconds)

    @property
    def p95(self) -> float:
        """s; the maximum would be too pessimistic after one hiccup."""
        return float(np.quantile(self._values, 0.95)) if self._values else self._first

    def steps(self, period: float) -> int:
        """d: how many actions will have been executed before a new chunk arrives."""
        return math.ceil(self.p95 / period - 1e-9)


@dataclass
class _Step:
    """What is predicted for one moment."""

    predictions: list[np.ndarray] = field(default_factory=list)
    observed: float = -math.inf  # stamp of the newest observation behind it


class Timeline:
    """Actions by target time, merged from overlapping chunks and read at any rate.

    Attributes:
        period: s between actions.
        dropped: how many actions were too old to be executed when they came.
    """

    def __init__(
        self, period: float, *, merge: str = "new", m: float = 0.01, fade: float = 0.25
    ) -> None:
        """Begins empty.

        Args:
            period: s between the actions of a chunk.
            merge: one of `MERGES`, for steps that several chunks predict.
            m: of `ensemble`.
            fade: s in which the distance between what was sent last and a new chunk is faded out;
                0 jumps.

        Raises:
            ValueError: `merge` is unknown, or a number is out of range.
        """
        if merge not in MERGES:
            raise ValueError(f"merge={merge!r}; allowed are {MERGES}")
        if period <= 0.0 or fade < 0.0:
            raise ValueError(f"period={period} must be positive and fade={fade} not negative")
        self.period, self.dropped = period, 0
        self._merge, self._m, self._fade = merge, m, fade
        self._origin: float | None = None  # time of step 0
        self._steps: dict[int, _Step] = {}
        self._last: np.ndarray | None = None
        self._offset: np.ndarray | None = None
        self._joined = -math.inf

    def add(self, chunk: np.ndarray, first: float, observed: float, now: float) -> int:
        """Takes a chunk.

        Args:
            chunk: [H, n], finite.
            first: s, target time of its first action. Actions between the grid points of the first
                chunk are interpolated to them; a single one is rounded to the nearest.
            observed: stamp of the observation it was predicted from.
            now: s.

        Returns:
            How many of its actions can still be executed.

        Raises:
            ValueError: the chunk is not finite or has the wrong shape.
        """
        chunk = np.asarray(chunk, float)
        if chunk.ndim != 2 or not np.isfinite(chunk).all():
            raise ValueError(f"a chunk is [H, n] and finite, got shape {chunk.shape}")
        before = self._faded(now)
        if self._origin is None:
            self._origin = first
        chunk, start = self._on_grid(chunk, (first - self._origin) / self.period)
        begin = max(0, math.ceil((now - self._origin) / self.period - 1e-9) - start)
        self.dropped += min(begin, len(chunk))
        for i in range(begin, len(chunk)):
            step = self._steps.setdefault(start + i, _Step())
            if observed <= step.observed and self._merge == "new":
                continue  # a chunk that was overtaken on its way
            step.predictions.append(chunk[i])
            step.observed = max(step.observed, observed)
        kept = max(len(chunk) - begin, 0)
        at = self._last if before is None else before[0]
        if kept and at is not None:
            planned = self._read(now)
            self._offset = None if planned is None else at - planned[0]
            self._joined = now
        return kept

    def at(self, now: float) -> tuple[np.ndarray, float] | None:
        """The action for this moment, between those of the steps around it.

        Returns:
            The action [n] and the stamp of the observation behind it; None when there is none, as
            after the last step. What is past is forgotten.
        """
        found = self._faded(now)
        if found is None:
            return None
        before = math.floor((now - self._origin) / self.period + 1e-9)
        for index in [i for i in self._steps if i < before]:
            del self._steps[index]
        self._last = found[0]
        return found

    def ahead(self, now: float) -> float:
        """Seconds of motion from now to the last step."""
        if not self._steps:
            return 0.0
        return max(0.0, self._origin + max(self._steps) * self.period - now)

    def clear(self) -> None:
        """Forgets all steps, as after a stop."""
        self._steps.clear()
        self._last = self._offset = self._origin = None

    def _on_grid(self, chunk: np.ndarray, at: float) -> tuple[np.ndarray, int]:
        """Values at whole periods of a chunk that begins at `at`, and the first such period."""
        near = round(at)
        if abs(at - near) < 1e-3 or len(chunk) == 1:
            return chunk, near
        start = math.ceil(at)
        share = start - at
        return (1.0 - share) * chunk[:-1] + share * chunk[1:], start

    def _faded(self, now: float) -> tuple[np.ndarray, float] | None:
        """The plan at a moment, and what is left of the distance it was joined at."""
        found = self._read(now)
        if found is None or self._offset is None or now - self._joined >= self._fade:
            return found
        share = 1.0 - (now - self._joined) / self._fade
        return found[0] + share * self._offset, found[1]

    def _read(self, now: float) -> tuple[np.ndarray, float] | None:
        if self._origin is None:
            return None
        exact = (now - self._origin) / self.period
        index = math.floor(exact + 1e-9)
        share = max(exact - index, 0.0)
        low, high = self._steps.get(index), self._steps.get(index + 1)
        if low is None and self._last is None and high is not None:
            low = high  # before the very first step
        if low is None or (high is None and share > 1e-6):
            if high is None or low is not None:
                return None
            return self._value(high), high.observed
        if high is None:
            return self._value(low), low.observed
        value = (1.0 - share) * self._value(low) + share * self._value(high)
        return value, min(low.observed, high.observed)

    def _value(self, step: _Step) -> np.ndarray:
        predictions = step.predictions
        if self._merge == "ensemble":
            return ensemble(np.stack(predictions), self._m)
        if self._merge == "mean" and len(predictions) > 1:
            return 0.3 * predictions[-2] + 0.7 * predictions[-1]
        return predictions[0 if self._merge == "old" else -1]

"""Intervals for the numbers we publish."""

from __future__ import annotations

import math

import numpy as np


def wilson(successes: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson score interval of a success rate (Wilson 1927), 95 % by default.

    Returns:
        (low, high) in [0, 1]; (0, 1) when n is 0.
    """
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = p + z * z / (2 * n)
    margin = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Probability that one of k answers is right, without bias (Chen et al. 2021, 2107.03374).

    1 - C(n - c, k) / C(n, k), for c right ones of n that were drawn.

    Raises:
        ValueError: k is not in 1 to n, or c not in 0 to n.
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(f"no pass@{k} of {correct} right answers among {samples}")
    return 1 - math.comb(samples - correct, k) / math.comb(samples, k)


def bootstrap_mean(
    values: np.ndarray, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean (Efron 1979).

    Args:
        values: [n] independent values, one per seed.
        resamples: number of resamples.
        level: coverage.
        seed: of the resampling, so that a page can be rebuilt to the digit.
    """
    values = np.asarray(values, float)
    generator = np.random.default_rng(seed)
    means = generator.choice(values, (resamples, len(values))).mean(axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)

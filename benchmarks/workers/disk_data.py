"""The episodes whose windows are read from disk."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

OBS, ACT, BATCH, EPISODES, LENGTH, WINDOW = 39, 4, 256, 500, 200, 64


def episodes() -> Iterator[dict[str, np.ndarray]]:
    """Columns of each episode, [LENGTH, ...] each."""
    rng = np.random.default_rng(0)
    for _ in range(EPISODES):
        yield {
            "observation.state": rng.standard_normal((LENGTH, OBS), np.float32),
            "action": rng.uniform(-0.9, 0.9, (LENGTH, ACT)).astype(np.float32),
            "next.reward": rng.random(LENGTH, np.float32),
            "next.done": np.arange(LENGTH) == LENGTH - 1,
        }

"""Learning rates as functions of the updates done."""

from __future__ import annotations

import math


def warm_cosine(update: int, total: int, warm_up: int, final: float) -> float:
    """Factor of the learning rate: rises linearly, then falls along a cosine.

    Args:
        update: updates done before this one.
        total: updates of the whole run.
        warm_up: updates of the rise.
        final: factor at the end.
    """
    if update < warm_up:
        return (update + 1) / warm_up
    share = min(1.0, (update - warm_up) / max(1, total - warm_up))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share))


def warm_linear(update: int, total: int, warm_up: int) -> float:
    """Factor of the learning rate: rises linearly, then falls to 0 as linearly.

    Args:
        update: updates done before this one.
        total: updates until the factor is 0.
        warm_up: updates of the rise.
    """
    if update < warm_up:
        return (update + 1) / warm_up
    return max(0.0, (total - update) / max(1, total - warm_up))

"""Behaviour cloning."""

from __future__ import annotations

from torch import Tensor


def weighted_cloning_loss(log_prob: Tensor, weight: Tensor | None = None) -> Tensor:
    """-E[w log pi(a_data | s)]: plain behaviour cloning, or advantage-weighted with w.

    Args:
        log_prob: [B].
        weight: [B] without gradient, or None for 1.
    """
    return -(log_prob if weight is None else weight.detach() * log_prob).mean()

"""Likelihood of actions under mixtures of discretised logistics, one mixture per action dimension.

Salimans et al. 2017 (PixelCNN++, arXiv 1701.05517), as the action decoder of Play-LMP (Lynch et
al. 2019, arXiv 1903.01973) uses it. The interval [low, high] has K equally spaced values, a bin
around each of half width delta = (high - low) / (2 (K - 1)); the end bins reach to infinity.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EDGE = 1e-3  # an action this near to a bound has everything beyond it too


def discretised_logistic_log_mass(
    value: Tensor, mean: Tensor, log_scale: Tensor, low: float, high: float, classes: int
) -> Tensor:
    """log P of the bin around each value under a logistic: broadcast shape, float32 or wider.

    With u = (a - m) / s and d = delta / s the mass is

        sigma(u + d) - sigma(u - d) = sigma(u + d) sigma(d - u) (1 - exp(-2 d)),

    at the lower bound sigma(u + d), at the upper sigma(d - u). The product, unlike the difference,
    loses no digits however small the mass is.

    Args:
        value: actions in [low, high].
        mean: m.
        log_scale: log s.
        low: lower bound.
        high: upper bound.
        classes: K.
    """
    dtype = torch.promote_types(mean.dtype, torch.float32)
    value, mean, log_scale = value.to(dtype), mean.to(dtype), log_scale.to(dtype)
    inverse = torch.exp(-log_scale)
    u = (value - mean) * inverse
    d = (high - low) / (2 * (classes - 1)) * inverse
    from_below, from_above = F.logsigmoid(u + d), F.logsigmoid(d - u)
    middle = from_below + from_above + torch.log(-torch.expm1(-2 * d))
    at_high = torch.where(value > high - EDGE, from_above, middle)
    return torch.where(value < low + EDGE, from_below, at_high)


def logistic_mixture_log_prob(
    action: Tensor,
    logits: Tensor,
    mean: Tensor,
    log_scale: Tensor,
    low: float = -1.0,
    high: float = 1.0,
    classes: int = 256,
) -> Tensor:
    """sum over dimensions of log sum_i w_i P_i(a): [...].

    Args:
        action: [..., A] in [low, high].
        logits: [..., A, M] of the weights w.
        mean: [..., A, M].
        log_scale: [..., A, M].
        low: lower bound of every dimension.
        high: upper bound.
        classes: K, values per dimension.
    """
    mass = discretised_logistic_log_mass(action[..., None], mean, log_scale, low, high, classes)
    return (F.log_softmax(logits.to(mass.dtype), -1) + mass).logsumexp(-1).sum(-1)


def sequence_nll(log_prob: Tensor, mask: Tensor | None = None) -> Tensor:
    """-mean over windows of the mean over their real steps: a scalar.

    Args:
        log_prob: [B, T].
        mask: [B, T], 1 on real steps; None for all. Masked values may be anything.
    """
    if mask is None:
        return -log_prob.mean()
    steps = mask.sum(-1).clamp(min=1)
    return -(log_prob.where(mask.bool(), 0).sum(-1) / steps).mean()

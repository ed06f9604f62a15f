"""The regularisers of CQL (Kumar et al. 2020) and Cal-QL (Nakamoto et al. 2023).

Shapes: E critics, B rows, K sampled actions per row (uniform ones first, then policy actions).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def calibrate(q: Tensor, lower_bound: Tensor, unbounded: int) -> Tensor:
    """max(Q, V_mu) on the policy actions; the gradient vanishes where the bound acts.

    Args:
        q: [E, B, K] values of sampled actions.
        lower_bound: [B] Monte-Carlo returns of the behaviour policy at the same states.
        unbounded: how many leading actions per row are left alone (the uniform ones).
    """
    bounded = torch.maximum(q[..., unbounded:], lower_bound[:, None])
    return torch.cat([q[..., :unbounded], bounded], dim=-1)


def cql_gap(
    q_sampled: Tensor,
    q_data: Tensor,
    log_density: Tensor | None,
    temperature: float = 1.0,
) -> Tensor:
    """lse(s) - Q(s, a_data) per critic and row: what CQL(H) pushes down.

    lse(s) = T log sum_j exp((Q(s, a_j) - log p_j) / T) estimates log integral exp Q by importance
    sampling. Without densities the data action joins the sum and T log(K + 1) is subtracted
    (WSRL official code, kitchen).

    Args:
        q_sampled: [E, B, K].
        q_data: [E, B].
        log_density: [B, K] log density each action was drawn from, or None.
        temperature: T.

    Returns:
        [E, B].
    """
    if log_density is None:
        scores = torch.cat([q_sampled, q_data[..., None]], dim=-1)
        offset = temperature * math.log(scores.shape[-1])
    else:
        scores, offset = q_sampled - log_density, 0.0
    lse = temperature * torch.logsumexp(scores / temperature, dim=-1)
    return lse - offset - q_data


def cql_gap_gradient(
    q_sampled: Tensor,
    q_data: Tensor,
    log_density: Tensor | None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """`cql_gap`, and the gradient of its sum: the softmax of the scores, less 1 at the data.

    Returns:
        (gap [E, B], its gradient to q_sampled [E, B, K], to q_data [E, B]).
    """
    gap = cql_gap(q_sampled, q_data, log_density, temperature)
    if log_density is not None:
        scores = (q_sampled - log_density) / temperature
        return gap, scores.softmax(-1), torch.full_like(q_data, -1.0)
    share = (torch.cat([q_sampled, q_data[..., None]], dim=-1) / temperature).softmax(-1)
    return gap, share[..., :-1], share[..., -1] - 1.0


def lagrange_loss(multiplier: Tensor, gap: Tensor, threshold: float) -> Tensor:
    """-alpha' (gap - threshold): minimising it raises alpha' while the gap is too wide.

    Args:
        multiplier: alpha' >= 0, scalar with gradient.
        gap: mean CQL gap, scalar.
        threshold: the gap tolerated.
    """
    return -multiplier * (gap.detach() - threshold)

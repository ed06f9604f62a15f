"""Targets and losses of ensemble critics and their actors.

Shapes: E critics, B rows, K actions per row. Sources are named per function; the offline-to-online
family shares them all.
"""

from __future__ import annotations

import torch
from torch import Tensor


def td_target(reward: Tensor, mask: Tensor, next_value: Tensor, discount: float) -> Tensor:
    """y = r + gamma m V(s'), without gradient.

    Args:
        reward: [B].
        mask: [B], 0 where the task terminated; 1 on time-outs.
        next_value: [B].
        discount: gamma.
    """
    return (reward + discount * mask * next_value).detach()


def min_over_members(q: Tensor) -> Tensor:
    """Clipped double-Q over the critics given: [E, B] -> [B] (REDQ, Chen et al. 2021, eq. 1)."""
    return q.min(dim=0).values


def max_min_backup(q: Tensor) -> Tensor:
    """max over actions of the min over critics: [E, B, K] -> [B].

    The order is min first (Cal-QL and WSRL official code); max first would be larger.
    """
    return q.min(dim=0).values.max(dim=-1).values


def td_loss(q: Tensor, target: Tensor, members: int) -> Tensor:
    """(1 / E B) sum_i sum_b (Q_i - y)^2, the share of the critics given.

    Args:
        q: [E', B] of E' of the critics.
        target: [B], the same for all critics.
        members: E, so that the shares of all chunks add up to the mean.
    """
    return (q - target).square().sum() / (members * q.shape[-1])


def td_gradient(q: Tensor, target: Tensor, terms: int) -> Tensor:
    """Gradient 2 (q - y) / (E B) of `td_loss`, for some critics and rows.

    Args:
        q: [E', R].
        target: [R].
        terms: E B of the whole loss.

    Returns:
        [E', R].
    """
    return (q - target).mul_(2.0 / terms)


def actor_loss(log_prob: Tensor, q: Tensor, temperature: Tensor | float) -> Tensor:
    """E[beta log pi(a|s) - Q(s, a)] with reparameterised a (SAC, Haarnoja et al. 2018, eq. 7).

    Args:
        log_prob: [B].
        q: [B], already aggregated over critics.
        temperature: beta, no gradient.
    """
    return (temperature * log_prob - q).mean()


def temperature_loss(temperature: Tensor, entropy: Tensor | float, target: float) -> Tensor:
    """beta (H - H_target), H without gradient: beta rises while the entropy is too low.

    Args:
        temperature: beta, scalar with gradient.
        entropy: H, scalar.
        target: H_target in nats.
    """
    entropy = entropy.detach() if isinstance(entropy, Tensor) else entropy
    return temperature * (entropy - target)


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """E[|kappa - 1(u < 0)| u^2] (IQL, Kostrikov et al. 2021, eq. 5).

    Args:
        difference: [B] u = Q - V.
        expectile: kappa in (0, 1).
    """
    weight = torch.where(difference < 0, 1.0 - expectile, expectile)
    return (weight * difference.square()).mean()


def advantage_weights(advantage: Tensor, inverse_temperature: float, clip: float) -> Tensor:
    """min(exp(lambda A), clip), without gradient: [B] (IQL, eq. 7 and official code).

    The exponent is capped before exp, so that a large advantage is clipped instead of infinite.
    """
    return torch.exp((inverse_temperature * advantage).clamp(max=80.0)).clamp(max=clip).detach()

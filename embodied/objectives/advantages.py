"""Advantages without gradient: groups of answers to one prompt, and generalised advantages.

Shapes: B = P K sequences, K answers to each of P prompts, next to one another; T positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

SCALES = ("group", "batch", "none")


def group_advantages(
    reward: Tensor, group: int, scale: str = "group", epsilon: float = 1e-4
) -> Tensor:
    """(r - mean of the group) / (s + epsilon): [B].

    The deviation s is unbiased. group: of the group (GRPO, Shao et al. 2024, sec. 4.1.2); batch: of
    the whole batch; none: 1 and no epsilon (Dr. GRPO, Liu et al. 2025).

    Args:
        reward: [B].
        group: K, at least 2.
        scale: one of `SCALES`.
        epsilon: keeps a group of equal rewards at zero.
    """
    grouped = _grouped(reward, group)
    centred = grouped - grouped.mean(-1, keepdim=True)
    if scale == "group":
        centred = centred / (grouped.std(-1, keepdim=True) + epsilon)
    elif scale == "batch":
        centred = centred / (reward.detach().std() + epsilon)
    elif scale != "none":
        raise ValueError(f"scale={scale!r}; one of {', '.join(SCALES)}")
    return centred.reshape(-1)


def leave_one_out(reward: Tensor, group: int) -> Tensor:
    """r_i minus the mean of the others in its group: [B] (RLOO, Ahmadian et al. 2024, eq. 6)."""
    grouped = _grouped(reward, group)
    return ((grouped - grouped.mean(-1, keepdim=True)) * (group / (group - 1))).reshape(-1)


def _grouped(reward: Tensor, group: int) -> Tensor:
    if group < 2 or reward.ndim != 1 or len(reward) % group:
        raise ValueError(f"rewards {tuple(reward.shape)} do not form groups of {group}, 2 or more")
    return reward.detach().reshape(-1, group)


def token_rewards(kl: Tensor, score: Tensor, mask: Tensor, coefficient: float) -> Tensor:
    """-c KL_t for every token, and the score at the last one: [B, T].

    Args:
        kl: [B, T] estimates.
        score: [B].
        mask: [B, T], ones first.
        coefficient: c.
    """
    reward = (-coefficient * kl.detach()).where(mask.bool(), 0)
    last = (mask.sum(-1).long() - 1).clamp(min=0)
    return reward.scatter_add(1, last[:, None], score.detach()[:, None].to(reward.dtype))


def generalised_advantages(
    reward: Tensor, value: Tensor, mask: Tensor, discount: float, trace: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns of episodes that end with their mask, [B, T] each.

    delta_t = r_t + gamma V_{t+1} - V_t, A_t = delta_t + gamma lambda A_{t+1}, R_t = A_t + V_t, with
    V = 0 after the last token (GAE, Schulman et al. 2015, eq. 16).

    Args:
        reward: [B, T].
        value: [B, T] before each token.
        mask: [B, T], ones first.
        discount: gamma.
        trace: lambda.
    """
    real = mask.bool()
    reward, value = reward.detach().where(real, 0), value.detach().where(real, 0)
    after = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], 1)
    delta = reward + discount * after - value
    advantage, later = torch.zeros_like(delta), torch.zeros_like(delta[:, 0])
    for t in reversed(range(delta.shape[1])):
        later = (delta[:, t] + discount * trace * later).where(real[:, t], 0)
        advantage[:, t] = later
    return advantage, advantage + value


def whiten(values: Tensor, mask: Tensor, *, shift: bool = True, epsilon: float = 1e-8) -> Tensor:
    """(x - mean) / sqrt(var + epsilon) over real tokens, unbiased; 0 elsewhere: [B, T].

    Args:
        values: [B, T].
        mask: [B, T].
        shift: without it the mean stays where it was.
        epsilon: added to the variance.
    """
    real = mask.bool()
    chosen = values[real]
    mean = chosen.mean()
    white = (values - mean) * torch.rsqrt(chosen.var() + epsilon)
    return (white if shift else white + mean).where(real, 0)

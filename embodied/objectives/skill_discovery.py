"""Intrinsic rewards of skill discovery, and advantages of several rewards at once.

Shapes: K rewards, N stretches of T steps. `mask: [N, T]` is 1 on real steps, the others count for
nothing. A skill z is a point on the unit sphere or one-hot, and stays for a whole episode.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from embodied.objectives.policy_gradient import clipped_surrogate

TINY = 1e-8


def reach_reward(hand: Tensor, thing: Tensor, sharpness: float, near: float) -> Tensor:
    """exp(-k max(|p_hand - p_object| - d_0, 0)), in (0, 1]: [..., D] twice -> [...].

    Args:
        hand: positions, in the unit of `near`.
        thing: positions.
        sharpness: k.
        near: d_0, a distance that is near enough.
    """
    apart = torch.linalg.vector_norm(hand - thing, dim=-1)
    return torch.exp(-sharpness * (apart - near).clamp(min=0))


def safety_reward(position: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """-1 where a number is outside its bounds, else 0: [..., D] -> [...]."""
    return -((position < low) | (position > high)).any(-1).to(position.dtype)


def centred_skill(one_hot: Tensor) -> Tensor:
    """(z - mean of z) K / (K - 1): the direction of a discrete skill, [..., K] (LSD's code)."""
    count = one_hot.shape[-1]
    return (one_hot - one_hot.mean(-1, keepdim=True)) * (count / max(1, count - 1))


def lipschitz_skill_reward(before: Tensor, after: Tensor, skill: Tensor) -> Tensor:
    """(phi(o') - phi(o))' z: [..., D] three times -> [...] (LSD, Park et al. 2022, eq. 5).

    Over an episode it telescopes, and is at most |o' - o| |z| for a 1-Lipschitz phi.

    Args:
        before: phi(o).
        after: phi(o').
        skill: z; of a discrete skill its `centred_skill`.
    """
    return ((after - before) * skill).sum(-1)


def information_reward(output: Tensor, skill: Tensor, discrete: bool) -> Tensor:
    """log q(z|o') - log p(z): [..., D] twice -> [...] (DIAYN, Eysenbach et al. 2018, eq. 3).

    Of a discrete skill q is a softmax and p uniform. Of a continuous one q is a unit normal around
    the output, compared with a unit normal around 0: an output of 0, which knows nothing, gets 0.

    Args:
        output: of the discriminator at o': logits, or a mean.
        skill: z, one-hot if discrete.
        discrete: which of the two.
    """
    if discrete:
        return (output.log_softmax(-1) * skill).sum(-1) + math.log(skill.shape[-1])
    return (output * skill).sum(-1) - 0.5 * output.square().sum(-1)


def traced_advantages(
    reward: Tensor,
    value: Tensor,
    after: Tensor,
    going: Tensor,
    ended: Tensor,
    discount: Tensor,
    trace: Tensor,
) -> Tensor:
    """Generalised advantages of K rewards with a critic each, [K, N, T] (GAE, Schulman 2015).

    delta_t = r_t + gamma g_t V(s_{t+1}) - V(s_t), A_t = delta_t + gamma lambda (1 - e_t) A_{t+1}.

    Args:
        reward: [K, N, T].
        value: [K, N, T], V(s_t).
        after: [K, N, T], V(s_{t+1}), also of the state that a time limit was reached in.
        going: [N, T], g, 0 where the task terminated.
        ended: [N, T], e, 1 on the last step of an episode, for whatever reason.
        discount: [K], gamma.
        trace: [K], lambda.
    """
    gamma, decay = discount[:, None], (discount * trace)[:, None]
    delta = reward + gamma[..., None] * going * after - value
    advantage, later = torch.zeros_like(delta), torch.zeros_like(delta[..., 0])
    for t in reversed(range(delta.shape[-1])):
        later = delta[..., t] + decay * (1 - ended[:, t]) * later
        advantage[..., t] = later
    return advantage


def standardised(
    advantage: Tensor, mask: Tensor, least: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(A_i - mean A_i) / (max(std A_i, least_i) + 1e-8) over all real steps; 0 on the others.

    The deviation is that of the population; an advantage that is the same everywhere becomes 0.

    Args:
        advantage: [K, N, T].
        mask: [N, T].
        least: [K], the smallest deviation to divide by.

    Returns:
        The standardised advantages [K, N, T] and the deviations found [K].
    """
    real = mask.to(advantage.dtype)
    count = real.sum().clamp(min=1)
    mean = (advantage * real).sum((1, 2)) / count
    centred = (advantage - mean[:, None, None]) * real
    deviation = (centred.square().sum((1, 2)) / count).sqrt()
    divisor = deviation if least is None else torch.maximum(deviation, least)
    return centred / (divisor + TINY)[:, None, None], deviation


def combined(advantage: Tensor, weight: Tensor) -> Tensor:
    """sum_i w_i A_i: [K, ...] and [K] -> [...]."""
    return torch.einsum("k...,k->...", advantage, weight)


def multi_surrogate(ratio: Tensor, advantage: Tensor, weight: Tensor, clip: float) -> Tensor:
    """-sum_i w_i min(rho A_i, clip(rho) A_i), each reward clipped by itself: [B].

    SLIM sums first and clips once (`clipped_surrogate` of `combined`); this is the order of
    CompositeMotion (Xu et al. 2023), and another objective: where advantages cancel, a clipped
    ratio still gets the gradient of the side that is not clipped.

    Args:
        ratio: [B], rho.
        advantage: [K, B].
        weight: [K].
        clip: epsilon.
    """
    return combined(clipped_surrogate(ratio[None], advantage, clip), weight)


def critics_loss(value: Tensor, target: Tensor) -> Tensor:
    """sum_i mean (V_i - R_i)^2, no gradient through R_i: [K, B] twice -> a scalar."""
    return (value - target.detach()).square().mean(-1).sum()

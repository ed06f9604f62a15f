"""Self-correction without a model: three numbers, and SCoRe's two stages by exact gradients."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from embodied.llm.score import turn_returns

QUALITY = 0.8
START = (0.5, 0.2, 0.3)


class Corrector(NamedTuple):
    """What a bandit has come to.

    Attributes:
        first: probability of a right first answer.
        second: of a right second one.
        mend_rate: of a right second answer after a wrong first.
        spoil_rate: of a wrong second answer after a right first.
    """

    first: float
    second: float
    mend_rate: float
    spoil_rate: float

    @property
    def delta(self) -> float:
        """Gain of the second turn."""
        return self.second - self.first


def ascend(
    stages: list[tuple[int, int]],
    *,
    alpha: float = 10.0,
    discount: float = 0.0,
    beta_first: float = 2.0,
    beta: float = 0.0,
    lr: float = 0.5,
) -> Corrector:
    """Follow the exact gradient.

    A first answer is right with probability sigma(u). A wrong one is edited with probability
    sigma(w), and an edit is then right with probability `QUALITY`; a right one is edited, and so
    broken, with probability sigma(c).

    Args:
        stages: (stage, steps), in order.
        alpha: of the bonus.
        discount: of the second turn's return, for the first.
        beta_first: what pins the first turn in stage 1.
        beta: of both turns in stage 2.
        lr: of the ascent.
    """
    start = torch.tensor(START, dtype=torch.float64).logit()
    weights = start.clone().requires_grad_(True)
    for stage, steps in stages:
        for _ in range(steps):
            gain = _gain(weights, stage, alpha, discount)
            gain = gain - _penalty(weights, start, stage, beta_first, beta)
            (gradient,) = torch.autograd.grad(gain, weights)
            with torch.no_grad():
                weights += lr * gradient
    first, edit, spoil = weights.sigmoid().tolist()
    second = first * (1 - spoil) + (1 - first) * edit * QUALITY
    return Corrector(first, second, edit * QUALITY, spoil)


def _gain(weights: Tensor, stage: int, alpha: float, discount: float) -> Tensor:
    """A scalar whose gradient is the policy gradient, summed over all outcomes."""
    u, w, c = weights
    right, wrong, edit, keep = logsigmoid(u), logsigmoid(-u), logsigmoid(w), logsigmoid(-w)
    broken, kept = logsigmoid(c), logsigmoid(-c)
    outcomes = [  # r1, r2, log pi(y1), log pi(y2 | y1), chance that is not the policy's
        (1.0, 0.0, right, broken, 1.0),
        (1.0, 1.0, right, kept, 1.0),
        (0.0, 1.0, wrong, edit, QUALITY),
        (0.0, 0.0, wrong, edit, 1 - QUALITY),
        (0.0, 0.0, wrong, keep, 1.0),
    ]
    total = weights.new_zeros(())
    for r1, r2, one, two, chance in outcomes:
        rewards = weights.new_tensor(r1), weights.new_tensor(r2)
        first, second = turn_returns(*rewards, stage=stage, alpha=alpha, discount=discount)
        weight = chance * (one + two).exp().detach()
        total = total + weight * (first * one + second * two)
    return total


def _penalty(weights: Tensor, start: Tensor, stage: int, beta_first: float, beta: float) -> Tensor:
    """Divergences from the start, those of the second turn as often as it is come by."""
    u, w, c = _divergence(weights, start)
    if stage == 1:
        return beta_first * u
    right = weights[0].sigmoid().detach()
    return beta * (u + (1 - right) * w + right * c)


def _divergence(weights: Tensor, start: Tensor) -> Tensor:
    """KL of coins, [3]."""
    p, q = weights.sigmoid(), start.sigmoid()
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()

"""Policy gradients over tokens: ratios, clipping, KL estimates, and how a loss is averaged.

Shapes: B sequences, T positions of the completion. `mask: [B, T]` is 1 on the tokens of a
completion, its end symbol included. Log-probabilities are at the sampling temperature; `old` are
those of the policy that sampled and `ref` those of the frozen reference, neither with gradient.
A robot's action tokens take the same functions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from embodied.objectives.likelihood import masked_mean, sequence_sums

AGGREGATIONS = ("grpo", "bnpo", "dapo", "dr_grpo", "seq_sum")


def token_ratio(log_prob: Tensor, old: Tensor | None) -> Tensor:
    """rho = pi / pi_old per token: [B, T].

    Without `old`, for one update per batch, the value is 1 and the gradient that of log pi.
    """
    return torch.exp(log_prob - (log_prob.detach() if old is None else old.detach()))


def sequence_ratio(log_prob: Tensor, old: Tensor | None, mask: Tensor, mean: bool = True) -> Tensor:
    """One ratio per sequence, which broadcasts over its tokens: [B, 1].

    exp of the mean over tokens of log pi - log pi_old (GSPO, Zheng et al. 2025, eq. 7), or of the
    sum: pi / pi_old of the whole sequence (RLOO, Ahmadian et al. 2024).
    """
    difference = log_prob - (log_prob.detach() if old is None else old.detach())
    total = sequence_sums(difference, mask)
    return torch.exp(total / mask.sum(-1).clamp(min=1) if mean else total)[:, None]


def clipped_surrogate(
    ratio: Tensor,
    advantage: Tensor,
    low: float,
    high: float | None = None,
    *,
    bound: float | None = None,
    dual: float | None = None,
) -> Tensor:
    """-min(min(rho, delta) A, clip(rho, 1 - low, 1 + high) A), like `ratio` (PPO, eq. 7).

    Args:
        ratio: [B, T] or [B, 1].
        advantage: broadcasts against it; no gradient flows through it.
        low: epsilon below 1.
        high: epsilon above 1, `low` by default (clip-higher, DAPO, Yu et al. 2025, eq. 10).
        bound: delta, the most the unclipped ratio may be; it acts where A < 0 (two-sided clip).
        dual: c > 1; where A < 0 the loss is at most -c A (dual clip, Ye et al. 2020).
    """
    advantage = advantage.detach()
    clipped = ratio.clamp(1 - low, 1 + (low if high is None else high))
    free = ratio if bound is None else ratio.clamp(max=bound)
    loss = -torch.minimum(free * advantage, clipped * advantage)
    if dual is not None:
        loss = torch.where(advantage < 0, torch.minimum(loss, -dual * advantage), loss)
    return loss


def weighted_log_prob(log_prob: Tensor, ratio: Tensor, advantage: Tensor, high: float) -> Tensor:
    """-sg[min(rho, high)] A log pi: [B, T] (CISPO, MiniMax 2025, eq. 4).

    Clipped tokens keep a gradient.
    """
    return -ratio.detach().clamp(max=high) * advantage.detach() * log_prob


def kl_estimate(log_prob: Tensor, ref: Tensor, kind: str = "k3") -> Tensor:
    """Estimates KL(pi, ref) per token from its sample: [B, T] (Schulman 2020).

    With d = log pi - log ref: k1 = d, unbiased, for rewards; k2 = d^2 / 2; k3 = exp(-d) + d - 1,
    never negative. As a loss off-policy, k3 has the right gradient only if multiplied by rho.
    """
    d = log_prob - ref
    if kind == "k1":
        return d
    if kind == "k2":
        return d.square() / 2
    if kind == "k3":
        return torch.exp(-d) + d - 1
    raise ValueError(f"kind={kind!r}; one of k1, k2, k3")


def exact_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """KL(pi, ref) over all symbols: [B, T, V] twice -> [B, T]."""
    log_p, log_q = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def aggregate(
    loss: Tensor,
    mask: Tensor,
    kind: str,
    *,
    longest: int | None = None,
    tokens: Tensor | float | None = None,
    sequences: int | None = None,
) -> Tensor:
    """A scalar of token losses, by the names of TRL.

    grpo: mean over sequences of the mean over their tokens.
    bnpo: mean over the tokens of this part of the batch.
    dapo: the same over the tokens of the whole batch, of which this is a part.
    dr_grpo: sum / (sequences x longest possible completion) (Liu et al. 2025).
    seq_sum: mean over sequences of the sum over their tokens.

    Args:
        loss: [B, T].
        mask: [B, T].
        kind: one of `AGGREGATIONS`.
        longest: of dr_grpo, a constant of the run.
        tokens: of dapo, how many the whole batch has.
        sequences: how many the whole batch has; B by default.
    """
    loss = loss.where(mask.bool(), 0)
    sequences = len(loss) if sequences is None else sequences
    if kind == "grpo":
        return (loss.sum(-1) / mask.sum(-1).clamp(min=1)).sum() / sequences
    if kind == "bnpo":
        return loss.sum() / mask.sum().clamp(min=1)
    if kind == "dapo":
        if tokens is None:
            raise ValueError("dapo divides by the tokens of the whole batch: give tokens")
        return loss.sum() / tokens
    if kind == "dr_grpo":
        if longest is None:
            raise ValueError("dr_grpo divides by the longest possible completion: give longest")
        return loss.sum() / (sequences * longest)
    if kind == "seq_sum":
        return loss.sum() / sequences
    raise ValueError(f"kind={kind!r}; one of {', '.join(AGGREGATIONS)}")


def reinforce_loss(log_prob: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """-mean over sequences of A sum_t log pi (Williams 1992): a scalar.

    Args:
        log_prob: [B, T].
        advantage: [B].
        mask: [B, T].
    """
    return -(advantage.detach() * sequence_sums(log_prob, mask)).mean()


def value_loss(
    value: Tensor,
    old: Tensor,
    target: Tensor,
    mask: Tensor,
    clip: float,
    tokens: Tensor | None = None,
) -> Tensor:
    """Half the mean of the larger squared error, clipped around the old value or not: a scalar.

    Args:
        value: [B, T] with gradient.
        old: [B, T], of the critic that made the targets.
        target: [B, T] returns.
        mask: [B, T].
        clip: how far the value may move from the old one.
        tokens: to divide by, where this is a part of a batch.
    """
    near = old.detach() + (value - old.detach()).clamp(-clip, clip)
    target = target.detach()
    squares = torch.maximum((value - target) ** 2, (near - target) ** 2)
    return 0.5 * masked_mean(squares, mask, tokens)

"""Log-probabilities of tokens, and maximum likelihood.

Shapes: B sequences, T positions of the completion, V symbols. `mask: [B, T]` is 1 on the tokens of
a completion, its end symbol included, and 0 on padding and prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_log_probs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """log pi(token) of a softmax at a temperature, in float32 or wider: [B, T].

    Args:
        logits: [B, T, V], each of the position before its token.
        tokens: [B, T] int64.
        temperature: divides the logits, as it did when the tokens were sampled.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature != 1.0:
        logits = logits / temperature
    chosen = logits.gather(-1, tokens[..., None])[..., 0]
    return chosen - logits.logsumexp(-1)


def masked_mean(values: Tensor, mask: Tensor, tokens: Tensor | None = None) -> Tensor:
    """sum(m x) / sum(m), 0 where nothing is left: a scalar. Masked values may be anything.

    Args:
        values: [B, T].
        mask: [B, T].
        tokens: to divide by, where this is a part of a batch.
    """
    count = mask.sum() if tokens is None else tokens
    return values.where(mask.bool(), 0).sum() / count.clamp(min=1)


def sequence_sums(values: Tensor, mask: Tensor) -> Tensor:
    """sum_t m x: [B, T] -> [B]. Masked values may be anything."""
    return values.where(mask.bool(), 0).sum(-1)


def nll_loss(
    log_prob: Tensor, mask: Tensor, weight: Tensor | None = None, tokens: Tensor | None = None
) -> Tensor:
    """-sum(w m log pi) / sum(m): the mean over the tokens of the batch, not over sequences.

    Args:
        log_prob: [B, T].
        mask: [B, T].
        weight: [B] or [B, T] without gradient; None for 1. It does not change the divisor.
        tokens: how many tokens the whole batch has, where this is a part of it.
    """
    if weight is not None:
        weight = weight.detach()
        log_prob = log_prob * (weight[:, None] if weight.ndim == 1 else weight)
    total = log_prob.where(mask.bool(), 0).sum()
    return -total / (mask.sum() if tokens is None else tokens).clamp(min=1)

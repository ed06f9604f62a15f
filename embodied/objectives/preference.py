"""Learning from pairs of a chosen and a rejected completion.

Margins are Delta = sum_t (log pi - log pi_ref) over a completion's tokens, its end symbol included.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("sigmoid", "robust", "hinge", "ipo")


def preference_loss(
    chosen: Tensor,
    rejected: Tensor,
    beta: float,
    *,
    kind: str = "sigmoid",
    label_smoothing: float = 0.0,
    lengths: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Loss of each pair, with h = beta (Delta_w - Delta_l): [B].

    sigmoid: -(1 - e) log s(h) - e log s(-h) (DPO, Rafailov et al. 2023, eq. 7; e: cDPO).
    robust: [-(1 - e) log s(h) + e log s(-h)] / (1 - 2 e) (Chowdhury et al. 2024).
    hinge: max(0, 1 - h) (SLiC, Zhao et al. 2023).
    ipo: (Delta_w - Delta_l - 1 / (2 beta))^2 (Azar et al. 2023, eq. 17); with `lengths` each
    margin is divided by its number of tokens, as TRL does and the paper does not.

    Args:
        chosen: [B] Delta_w.
        rejected: [B] Delta_l.
        beta: inverse temperature.
        kind: one of `KINDS`.
        label_smoothing: e, the probability that a label is wrong, in [0, 0.5).
        lengths: tokens of the chosen and of the rejected completions, [B] each.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}; one of {', '.join(KINDS)}")
    if kind == "ipo":
        if lengths is not None:
            chosen, rejected = chosen / lengths[0], rejected / lengths[1]
        return (chosen - rejected - 1 / (2 * beta)).square()
    h = beta * (chosen - rejected)
    if kind == "hinge":
        return torch.relu(1 - h)
    right, wrong = -F.logsigmoid(h), -F.logsigmoid(-h)
    if kind == "robust":
        return ((1 - label_smoothing) * right - label_smoothing * wrong) / (1 - 2 * label_smoothing)
    return (1 - label_smoothing) * right + label_smoothing * wrong

"""The critics' losses, in the closed form that `CriticEnsemble.accumulate` takes row by row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from embodied.objectives.conservative import calibrate, cql_gap_gradient
from embodied.objectives.q_learning import td_gradient
from policies.critic import RowLoss


class TDLoss(RowLoss):
    """The TD loss of all critics for targets [B]."""

    def __init__(self, target: Tensor, members: int) -> None:
        self.target, self.members = target, members

    def gradient(self, q: Tensor, span: slice) -> tuple[Tensor, Tensor]:
        """The share critics and rows have of the loss, and dL/dq [E', R]."""
        terms = self.members * len(self.target)
        return td_gradient(q, self.target[span], terms)


@dataclass
class ConservativeLoss(RowLoss):
    """alpha (lse - Q_data), with the data action in column 0 of q; see `ConservativeConfig`.

    Attributes:
        weight: alpha over the number of critics and rows.
        density: [B, K] log densities of the sampled actions, or None.
        bound: [B] lower bounds of Cal-QL, or None.
        free: how many of the K actions are never bounded.
        temperature: T of the log-sum-exp.
        td: TD loss of the data action, to be taken in the same pass, or None.
    """

    weight: Tensor | float
    density: Tensor | None
    bound: Tensor | None
    free: int
    temperature: float
    td: TDLoss | None = None

    def __post_init__(self) -> None:
        self.gap_sum: Tensor | float = 0.0  # over critics and rows
        self.td_loss: Tensor | float = 0.0

    def gradient(self, q: Tensor, span: slice) -> tuple[Tensor, Tensor]:
        """The share critics and rows have of the loss, and dL/dq [E', R, 1 + K]."""
        data, sampled = q[..., 0], q[..., 1:]
        bound = None if self.bound is None else self.bound[span]
        bounded = sampled if bound is None else calibrate(sampled, bound, self.free)
        density = None if self.density is None else self.density[span]
        gap, d_sampled, d_data = cql_gap_gradient(bounded, data, density, self.temperature)
        if bound is not None:
            d_sampled[..., self.free :] *= sampled[..., self.free :] > bound[:, None]
        gap = gap.sum()
        self.gap_sum = self.gap_sum + gap
        loss, dq = self.weight * gap, self.weight * torch.cat([d_data[..., None], d_sampled], -1)
        if self.td is not None:
            td_loss, d_td = self.td.gradient(data, span)
            self.td_loss = self.td_loss + td_loss
            loss = loss + td_loss
            dq[..., 0] += d_td
        return loss, dq

"""The critics' losses, in the closed form that `CriticEnsemble.accumulate` takes row by row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from embodied.objectives.conservative import calibrate, cql_gap_gradient
from embodied.objectives.q_learning import td_gradient, td_loss
from policies.critic import RowLoss


class TDLoss(RowLoss):
    """The TD loss of all critics for targets [B]."""

    def __init__(self, target: Tensor, members: int) -> None:
        self.target, self.members = target, members
        self._terms = members * len(target)

    def gradient(self, q: Tensor, span: slice) -> Tensor:
        """dL/dq [E', R]."""
        return td_gradient(q, self.target[span], self._terms)

    def value(self, q: Tensor) -> Tensor:
        """The loss of all critics and rows, [E, B] -> scalar."""
        return td_loss(q, self.target, self.members)


@dataclass
class ConservativeLoss(RowLoss):
    """alpha (lse - Q_data), with the data action in column 0 of q; see `ConservativeConfig`.

    Attributes:
        weight: alpha over the number of critics and rows.
        density: [B, K] log densities of the sampled actions, or None.
        bound: [B] lower bounds of Cal-QL, or None.
        free: how many of the K actions are never bounded.
        temperature: T of the log-sum-exp.
        td: TD loss of the data action, whose gradient is to be taken in the same pass, or None.
        gap_sum: lse - Q_data, summed over the critics and rows seen so far.
    """

    weight: Tensor | float
    density: Tensor | None
    bound: Tensor | None
    free: int
    temperature: float
    td: TDLoss | None = None
    gap_sum: Tensor | float = 0.0

    def gradient(self, q: Tensor, span: slice) -> Tensor:
        """dL/dq [E', R, 1 + K]."""
        data, sampled = q[..., 0], q[..., 1:]
        bound = None if self.bound is None else self.bound[span]
        bounded = sampled if bound is None else calibrate(sampled, bound, self.free)
        density = None if self.density is None else self.density[span]
        gap, d_sampled, d_data = cql_gap_gradient(bounded, data, density, self.temperature)
        if bound is not None:
            d_sampled[..., self.free :] *= sampled[..., self.free :] > bound[:, None]
        self.gap_sum = self.gap_sum + gap.sum()
        dq = torch.cat([d_data[..., None], d_sampled], -1).mul_(self.weight)
        if self.td is not None:
            dq[..., 0] += self.td.gradient(data, span)
        return dq

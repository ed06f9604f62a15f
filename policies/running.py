"""A policy that sees observations centred and scaled by what has been met so far."""

import torch
from torch import Tensor, nn

from policies.gaussian import TanhGaussian

SMALLEST = 1e-4  # of a deviation: a column that never moves is centred, not blown up


class RunningScale(nn.Module):
    """x -> (x - mean) / std, clipped to +-10, by running moments; at first the identity.

    Args:
        dim: Features of an observation, O.
        fixed: So many of the last features are left alone.
    """

    def __init__(self, dim: int, fixed: int = 0):
        super().__init__()
        self.moving = dim - fixed
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("square", torch.ones(dim, dtype=torch.float64))  # about the mean
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    @torch.no_grad()
    def add(self, rows: Tensor) -> None:
        """Counts rows [B, O] in (Chan et al. 1979)."""
        rows, n = rows[:, : self.moving].double(), float(len(rows))
        total = self.count + n
        mean, square = self.mean[: self.moving], self.square[: self.moving]
        difference = rows.mean(0) - mean
        spread = rows.var(0, unbiased=False) * n + difference**2 * (self.count * n / total)
        square.copy_((square * self.count + spread) / total)
        mean.add_(difference * (n / total))
        self.count.copy_(total)
        self.shift[: self.moving] = mean.float()
        self.scale[: self.moving] = (1 / square.sqrt().clamp(min=SMALLEST)).float()

    def forward(self, x: Tensor) -> Tensor:
        """[..., O] -> [..., O]."""
        return ((x - self.shift) * self.scale).clamp(-10.0, 10.0)


class ScaledActor(nn.Module):
    """A tanh-Gaussian policy behind a scale of its observations.

    Args:
        actor: The policy.
        scale: What its observations go through first.
    """

    def __init__(self, actor: TanhGaussian, scale: RunningScale):
        super().__init__()
        self.actor, self.scale = actor, scale

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """See `TanhGaussian.log_prob`."""
        return self.actor.log_prob(self.scale(obs), action)

    def act(self, obs: Tensor, noise: Tensor) -> Tensor:
        """See `TanhGaussian.act`."""
        return self.actor.act(self.scale(obs), noise)

    def mode(self, obs: Tensor) -> Tensor:
        """See `TanhGaussian.mode`."""
        return self.actor.mode(self.scale(obs))


class RunningMean(nn.Module):
    """Means of numbers over time, what is further back counting less; 0 before the first.

    Args:
        count: How many numbers, K.
        keep: What is left of a weight after the next number.
    """

    def __init__(self, count: int, keep: float):
        super().__init__()
        self.keep = keep
        self.register_buffer("total", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))

    @property
    def mean(self) -> Tensor:
        """[K], float64, without the bias of beginning at 0 (Kingma and Ba 2015)."""
        return self.total / self.weight.clamp(min=1e-12)

    @torch.no_grad()
    def add(self, values: Tensor) -> None:
        """Counts values [K] in."""
        self.total.mul_(self.keep).add_(values.double(), alpha=1 - self.keep)
        self.weight.mul_(self.keep).add_(1 - self.keep)

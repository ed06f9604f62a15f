"""Gaussian policies: squashed by tanh (SAC, Cal-QL, WSRL) and plain (IQL).

Noise is always an argument, standard normal, [B, A] for one action per observation or
[B, K, A] for K of them; the network then still runs once per observation.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policies.mlp import MLP

LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
ATANH_LIMIT = 0.99999  # actions are clipped to +-this before atanh


def normal_log_prob(mean: Tensor, std: Tensor, value: Tensor) -> Tensor:
    """Log density of a diagonal normal, summed over the last axis: [..., A] -> [...]."""
    z = (value - mean) / std
    return (-0.5 * z * z - std.log() - LOG_SQRT_2PI).sum(-1)


def tanh_normal_log_prob(mean: Tensor, std: Tensor, pre_tanh: Tensor) -> Tensor:
    """Log density of a = tanh(u), u ~ N(mean, std), at u = `pre_tanh` [..., A] -> [...].

    log pi(a) = sum_k log N(u_k) - log(1 - tanh(u_k)^2), where
    log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)) stays finite for large |u|
    (Haarnoja et al. 2018, appendix C).
    """
    log_slope = 2.0 * (math.log(2.0) - pre_tanh - F.softplus(-2.0 * pre_tanh))
    return normal_log_prob(mean, std, pre_tanh) - log_slope.sum(-1)


def tanh_normal_sample(mean: Tensor, std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Reparameterised sample a = tanh(mean + std * noise) and its log density.

    Args:
        mean: [..., A].
        std: [..., A].
        noise: [..., A], standard normal.

    Returns:
        (action [..., A] in [-1, 1], log_prob [...]).
    """
    pre_tanh = mean + std * noise
    return torch.tanh(pre_tanh), tanh_normal_log_prob(mean, std, pre_tanh)


def _match(mean: Tensor, std: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Gives mean and std [B, A] an axis for the K actions of `other` [B, K, A], if it has one."""
    if other.dim() == mean.dim() + 1:
        return mean.unsqueeze(-2), std.unsqueeze(-2)
    return mean, std


class TanhGaussian(nn.Module):
    """The soft actor-critic actor: a diagonal normal squashed into (-1, 1) by tanh.

    Args:
        obs_dim: Features of an observation, O.
        act_dim: Features of an action, A.
        hidden: Width of each hidden layer.
        layer_norm: LayerNorm in the network.
        state_dependent_std: std = exp(net(obs)), else exp of a free parameter [A].
        std_min: Lower clip of the standard deviation.
        std_max: Upper clip of the standard deviation.
        out_gain: Gain of the output layer's initial weights.
        generator: Source of the initial weights.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        hidden: Sequence[int] = (256, 256),
        *,
        layer_norm: bool = False,
        state_dependent_std: bool = True,
        std_min: float = 1e-5,
        std_max: float = 10.0,
        out_gain: float = 1e-2,
        generator: torch.Generator,
    ):
        super().__init__()
        if not 0.0 < std_min < std_max:
            raise ValueError(f"TanhGaussian: need 0 < std_min < std_max, got {std_min}, {std_max}")
        self.act_dim = act_dim
        self.log_std_range = (math.log(std_min), math.log(std_max))
        outputs = 2 * act_dim if state_dependent_std else act_dim
        self.net = MLP(
            obs_dim, hidden, outputs, layer_norm=layer_norm, out_gain=out_gain, generator=generator
        )
        self.log_std = None if state_dependent_std else nn.Parameter(torch.zeros(act_dim))

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation before tanh: obs [B, O] -> [B, A], [B, A]."""
        if self.log_std is None:
            mean, log_std = self.net(obs).chunk(2, -1)
        else:
            mean = self.net(obs)
            log_std = self.log_std.expand_as(mean)
        # Clipping before exp equals clipping after it, without inf * 0 in the gradient.
        return mean, log_std.clamp(*self.log_std_range).exp()

    def sample(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reparameterised actions.

        Args:
            obs: [B, O].
            noise: [B, A] or [B, K, A], standard normal.

        Returns:
            (action, log_prob): [B, A] and [B], or [B, K, A] and [B, K].
        """
        return tanh_normal_sample(*_match(*self(obs), noise), noise)

    def act(self, obs: Tensor, noise: Tensor) -> Tensor:
        """The action of `sample` without its log density, for acting: [B, A]."""
        mean, std = self(obs)
        return torch.tanh(torch.addcmul(mean, std, noise))

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log density of action [B, A] or [B, K, A], clipped to +-0.99999: [B] or [B, K]."""
        pre_tanh = action.clamp(-ATANH_LIMIT, ATANH_LIMIT).atanh()
        return tanh_normal_log_prob(*_match(*self(obs), action), pre_tanh)

    def mode(self, obs: Tensor) -> Tensor:
        """tanh of the mean, the deterministic action: [B, A]."""
        if self.log_std is None:
            return torch.tanh(self.net(obs)[..., : self.act_dim])
        return torch.tanh(self.net(obs))


class Gaussian(nn.Module):
    """The implicit Q-learning actor: a diagonal normal, its std a free parameter, not squashed.

    Kostrikov et al. 2021 squash the mean by tanh and leave the density normal. Samples can
    leave [-1, 1]; whoever sends them to an environment clips them.

    Args:
        obs_dim: Features of an observation, O.
        act_dim: Features of an action, A.
        hidden: Width of each hidden layer.
        layer_norm: LayerNorm in the network.
        tanh_mean: mean = tanh(net(obs)), else net(obs).
        dropout: Dropout probability in the network, for `log_prob` only.
        log_std_min: Lower clip of the log standard deviation.
        log_std_max: Upper clip of the log standard deviation.
        out_gain: Gain of the output layer's initial weights.
        generator: Source of the initial weights.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        hidden: Sequence[int] = (256, 256),
        *,
        layer_norm: bool = False,
        tanh_mean: bool = True,
        dropout: float = 0.0,
        log_std_min: float = -5.0,
        log_std_max: float = 2.0,
        out_gain: float = 1e-2,
        generator: torch.Generator,
    ):
        super().__init__()
        self.tanh_mean = tanh_mean
        self.log_std_range = (log_std_min, log_std_max)
        self.net = MLP(
            obs_dim,
            hidden,
            act_dim,
            layer_norm=layer_norm,
            dropout=dropout,
            out_gain=out_gain,
            generator=generator,
        )
        self.log_std = nn.Parameter(torch.zeros(act_dim))

    def forward(self, obs: Tensor, dropout: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation: obs [B, O] -> [B, A], [B, A]."""
        mean = self.net(obs, dropout)
        if self.tanh_mean:
            mean = torch.tanh(mean)
        return mean, self.log_std.clamp(*self.log_std_range).exp().expand_as(mean)

    def sample(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reparameterised actions: see `TanhGaussian.sample`."""
        mean, std = _match(*self(obs), noise)
        action = mean + std * noise
        return action, normal_log_prob(mean, std, action)

    def act(self, obs: Tensor, noise: Tensor) -> Tensor:
        """The action of `sample` without its log density, for acting: [B, A]."""
        mean, std = self(obs)
        return torch.addcmul(mean, std, noise)

    def log_prob(
        self, obs: Tensor, action: Tensor, dropout: torch.Generator | None = None
    ) -> Tensor:
        """Log density of action [B, A] or [B, K, A]: [B] or [B, K]; dropout as in `MLP`."""
        return normal_log_prob(*_match(*self(obs, dropout), action), action)

    def mode(self, obs: Tensor) -> Tensor:
        """The mean, the deterministic action: [B, A]."""
        mean = self.net(obs)
        return torch.tanh(mean) if self.tanh_mean else mean

"""Divergences between diagonal normals."""

from __future__ import annotations

from torch import Tensor


def gaussian_kl(mean: Tensor, std: Tensor, other_mean: Tensor, other_std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(other_mean, other_std^2)), summed over the last axis: [...]."""
    ratio = (std / other_std).square()
    shift = ((mean - other_mean) / other_std).square()
    return 0.5 * (ratio + shift - 1.0 - ratio.log()).sum(-1)


def balanced_kl(
    mean: Tensor, std: Tensor, prior_mean: Tensor, prior_std: Tensor, alpha: float
) -> Tensor:
    """alpha KL(sg(q) || p) + (1 - alpha) KL(q || sg(p)): [...].

    The value is KL(q || p) for any alpha; the prior p learns with weight alpha, the posterior q
    with 1 - alpha (Hafner et al. 2021, arXiv 2010.02193, equation 3). At alpha = 1/2 the gradient
    is half that of the plain KL.
    """
    to_prior = gaussian_kl(mean.detach(), std.detach(), prior_mean, prior_std)
    to_posterior = gaussian_kl(mean, std, prior_mean.detach(), prior_std.detach())
    return alpha * to_prior + (1.0 - alpha) * to_posterior

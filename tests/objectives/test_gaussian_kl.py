"""The divergence between normals, and whom its balanced form moves."""

import pytest
import torch

from embodied.objectives.gaussian_kl import balanced_kl, gaussian_kl


def draws(seed=0, rows=5, width=3):
    g = torch.Generator().manual_seed(seed)
    mean, other = (torch.randn(rows, width, generator=g, dtype=torch.float64) for _ in range(2))
    std, other_std = (
        torch.rand(rows, width, generator=g, dtype=torch.float64) + 0.2 for _ in range(2)
    )
    return [x.requires_grad_() for x in (mean, std, other, other_std)]


def test_golden():
    one = [torch.tensor([x], dtype=torch.float64) for x in (1.0, 0.5, 0.0, 1.0)]
    assert float(gaussian_kl(*one)) == pytest.approx(0.818147, abs=1e-6)


def test_it_is_torchs():
    mean, std, other, other_std = draws()
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(other, other_std)
    ).sum(-1)
    torch.testing.assert_close(gaussian_kl(mean, std, other, other_std), expected)


def test_equal_normals_do_not_diverge():
    mean, std, *_ = draws()
    assert float(gaussian_kl(mean, std, mean, std).detach().abs().max()) == 0.0


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.8, 1.0])
def test_balancing_changes_gradients_only(alpha):
    inputs = draws(1)
    plain, balanced = gaussian_kl(*inputs), balanced_kl(*inputs, alpha)
    torch.testing.assert_close(plain, balanced)
    whole = torch.autograd.grad(plain.sum(), inputs)
    parts = torch.autograd.grad(balanced.sum(), inputs)
    for i, share in enumerate((1 - alpha, 1 - alpha, alpha, alpha)):
        torch.testing.assert_close(parts[i], share * whole[i])


def test_gradients():
    assert torch.autograd.gradcheck(gaussian_kl, draws(2))

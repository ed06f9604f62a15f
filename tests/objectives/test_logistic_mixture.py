"""Golden values of the discretised logistic mixture, and what must hold for any of them."""

import itertools
import math

import pytest
import torch

from embodied.objectives.logistic_mixture import (
    discretised_logistic_log_mass,
    logistic_mixture_log_prob,
    sequence_nll,
)


def double(x):
    return torch.tensor(x, dtype=torch.float64)


def mass(value, mean, scale, low=-1.0, high=1.0, classes=256):
    found = discretised_logistic_log_mass(
        double(value), double(mean), double(scale).log(), low, high, classes
    )
    return found.exp()


def grid(low, high, classes):
    return torch.linspace(low, high, classes, dtype=torch.float64)


@pytest.mark.parametrize(
    ("value", "mean", "scale", "expected"),
    [(0.0, 0.0, 0.1, 0.0196053), (1.0, 0.9, 0.1, 0.2767212), (-1.0, 0.0, 0.5, 0.1200289)],
)
def test_golden_masses(value, mean, scale, expected):
    assert float(mass(value, mean, scale)) == pytest.approx(expected, abs=1e-7)


def test_golden_log_likelihoods():
    one = dict(logits=double([[0.0]]), log_scale=double([[math.log(0.1)]]))
    assert float(-logistic_mixture_log_prob(double([0.0]), mean=double([[0.0]]), **one)) == (
        pytest.approx(3.931954, abs=1e-6)
    )
    assert float(-logistic_mixture_log_prob(double([1.0]), mean=double([[0.9]]), **one)) == (
        pytest.approx(1.284745, abs=1e-6)
    )


def test_five_classes():
    found = mass(grid(-1, 1, 5).tolist(), 0.2, 0.3, classes=5)
    expected = [0.040440, 0.141986, 0.359145, 0.320588, 0.137842]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("mean", [-1.3, -0.2, 0.0, 0.71])
@pytest.mark.parametrize("scale", [0.002, 0.05, 0.4, 3.0])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-2.0, 2.0)])
def test_masses_sum_to_one(mean, scale, low, high):
    values = grid(low, high, 256).tolist()
    assert float(mass(values, mean, scale, low, high).sum()) == pytest.approx(1.0, abs=1e-12)


def test_small_masses_are_exact_and_continuous():
    """Where the authors' code changes to the density: the product needs no such branch."""
    delta = 4.0 / (2 * 255)
    assert delta == pytest.approx(0.0078431, abs=1e-7)
    values = torch.linspace(-1.5, 0.2, 2001, dtype=torch.float64)
    found = discretised_logistic_log_mass(values, double(0.8), double(0.1).log(), -2.0, 2.0, 256)
    assert found[0] < math.log(1e-5) < found[-1]  # it passes their threshold
    assert float(found.diff().diff().abs().max()) < 1e-4
    u = (values - 0.8) / 0.1
    density = u - math.log(0.1) - 2 * torch.nn.functional.softplus(u) + math.log(2 * delta)
    assert float((found - density).abs().max()) < 1.1e-3  # (delta / s)^2 / 6


def test_float32_has_no_holes():
    found = discretised_logistic_log_mass(
        torch.tensor(0.9), torch.tensor(-0.9), torch.tensor(-7.0), -1.0, 1.0, 256
    )
    assert found.dtype == torch.float32 and -2100 < float(found) < -1900
    half = torch.tensor(0.1, dtype=torch.float16)
    assert discretised_logistic_log_mass(half, half, half, -1, 1, 256).dtype == torch.float32


def test_a_mixture_is_a_sum_over_components_and_dimensions():
    g = torch.Generator().manual_seed(0)
    logits, mean, log_scale = (
        torch.randn(2, 3, 4, generator=g, dtype=torch.float64) * x for x in (1.0, 0.5, 0.5)
    )
    action = torch.rand(2, 3, generator=g, dtype=torch.float64) * 1.9 - 0.95
    found = logistic_mixture_log_prob(action, logits, mean, log_scale)
    for row in range(2):
        total = 0.0
        for dim in range(3):
            weights = logits[row, dim].softmax(-1)
            parts = [
                float(mass(float(action[row, dim]), float(m), float(s.exp())))
                for m, s in zip(mean[row, dim], log_scale[row, dim], strict=True)
            ]
            total += math.log(sum(float(w) * p for w, p in zip(weights, parts, strict=True)))
        assert float(found[row]) == pytest.approx(total, abs=1e-9)


def test_gradients():
    g = torch.Generator().manual_seed(1)
    parts = [torch.randn(4, 2, 3, generator=g, dtype=torch.float64) * 0.5 for _ in range(3)]
    action = double([[-1.0, 1.0], [0.3, -0.99], [0.0, 0.999], [0.5, -0.2]])
    inputs = [part.requires_grad_() for part in parts]
    assert torch.autograd.gradcheck(
        lambda *p: logistic_mixture_log_prob(action, *p, classes=16), inputs
    )


def test_masked_equals_sliced():
    log_prob = torch.randn(3, 6, generator=torch.Generator().manual_seed(2))
    lengths = [6, 2, 4]
    mask = torch.tensor([[t < n for t in range(6)] for n in lengths])
    spoilt = log_prob.where(mask, torch.nan)
    sliced = [-log_prob[i, :n].mean() for i, n in enumerate(lengths)]
    torch.testing.assert_close(sequence_nll(spoilt, mask), torch.stack(sliced).mean())
    torch.testing.assert_close(sequence_nll(log_prob), -log_prob.mean())


RIGHT = [p for p in itertools.product((-1.0, 1.0), repeat=3) if math.prod(p) > 0]


def chance_of_right(mean):
    """Probability of a sign pattern whose product is +1, two classes per dimension."""
    logits, log_scale = torch.zeros_like(mean), torch.full_like(mean, math.log(0.05))
    patterns = double(RIGHT)
    shape = (len(RIGHT), *mean.shape)
    parts = (x.expand(shape) for x in (logits, mean, log_scale))
    return float(logistic_mixture_log_prob(patterns, *parts, classes=2).exp().sum())


def test_parity_is_what_independent_dimensions_cannot_have():
    both_signs = double([[-1.0, 1.0]] * 3)
    assert chance_of_right(both_signs) == pytest.approx(0.5, abs=1e-12)
    for pattern in RIGHT:  # two bits of plan say which
        assert chance_of_right(double([[x, x] for x in pattern])) == pytest.approx(1.0, abs=1e-6)

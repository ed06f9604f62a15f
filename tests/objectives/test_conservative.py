"""Golden values of the CQL and Cal-QL regularisers: d = 1, n = 1, T = 1."""

import math

import pytest
import torch

from embodied.objectives.conservative import (
    calibrate,
    cql_gap,
    cql_gap_gradient,
    lagrange_loss,
)

DENSITY = [[math.log(0.5), -0.5, -1.2]]
RETURN = -0.8


def values():
    """Q_rand -2, Q_cur -1, Q_next -3 and Q_data -1.5: [1, 1, 3] and [1, 1]."""
    sampled = torch.tensor([[[-2.0, -1.0, -3.0]]], dtype=torch.float64, requires_grad=True)
    return sampled, torch.tensor([[-1.5]], dtype=torch.float64, requires_grad=True)


def double(x):
    return torch.tensor(x, dtype=torch.float64)


def gap(sampled, data, *, bound=None, free=1, weights=True):
    if bound is not None:
        sampled = calibrate(sampled, double([bound]), free)
    return cql_gap(sampled, data, double(DENSITY) if weights else None)


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, 1.541622),
        ({"bound": RETURN}, 2.417615),
        ({"bound": RETURN, "free": 0}, 2.641449),
        ({"weights": False}, -0.139727),
        ({"weights": False, "bound": RETURN}, 0.342532),
    ],
)
def test_gap(options, expected):
    assert gap(*values(), **options).item() == pytest.approx(expected, abs=1e-6)


def test_log_sum_exp():
    sampled, data = values()
    zero = torch.zeros_like(data)
    assert gap(sampled, zero).item() == pytest.approx(0.041622, abs=1e-6)
    assert gap(sampled, zero, bound=RETURN).item() == pytest.approx(0.917615, abs=1e-6)


def test_gradients():
    sampled, data = values()
    gap(sampled, data).sum().backward()
    assert sampled.grad.flatten().tolist() == pytest.approx([0.2596, 0.5818, 0.1586], abs=5e-5)
    assert data.grad.item() == -1.0
    sampled, data = values()
    gap(sampled, data, bound=RETURN).sum().backward()
    assert sampled.grad.flatten().tolist() == pytest.approx([0.1081, 0.0, 0.0], abs=5e-5)
    assert data.grad.item() == -1.0


def random_values(shape=(2, 3, 6)):
    g = torch.Generator().manual_seed(0)
    sampled = torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_()
    data = torch.randn(shape[:2], generator=g, dtype=torch.float64).requires_grad_()
    return sampled, data, torch.randn(shape[1:], generator=g, dtype=torch.float64)


def test_without_a_bound_cal_ql_is_cql():
    sampled, data, density = random_values()
    no_bound = torch.full((3,), -math.inf, dtype=torch.float64)
    plain = cql_gap(sampled, data, density)
    calibrated = cql_gap(calibrate(sampled, no_bound, 2), data, density)
    assert torch.equal(plain, calibrated)
    grads = [torch.autograd.grad(g.sum(), (sampled, data)) for g in (plain, calibrated)]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_above_every_value_policy_actions_have_no_gradient():
    sampled, data, density = random_values()
    bounded = calibrate(sampled, torch.full((3,), 1e3, dtype=torch.float64), 2)
    # the sum saturates at the bound, so look at the clamp itself as well
    cql_gap(bounded, data, density).sum().backward(retain_graph=True)
    assert not sampled.grad[..., 2:].any()
    sampled.grad = None
    bounded.sum().backward()
    assert torch.equal(sampled.grad[..., :2], torch.ones(2, 3, 2, dtype=torch.float64))
    assert not sampled.grad[..., 2:].any()


@pytest.mark.parametrize("n, d", [(1, 1), (10, 2), (4, 6)])
def test_constant_q_leaves_the_offset(n, d):
    c = -7.5
    sampled = torch.full((1, 2, 3 * n), c, dtype=torch.float64)
    density = torch.full((2, 3 * n), d * math.log(0.5), dtype=torch.float64)
    lse = cql_gap(sampled, torch.zeros(1, 2, dtype=torch.float64), density)
    assert lse.flatten().tolist() == pytest.approx([c + math.log(3 * n * 2**d)] * 2, abs=1e-9)
    without = cql_gap(sampled, torch.full((1, 2), c, dtype=torch.float64), None)
    assert without.flatten().tolist() == pytest.approx([0.0] * 2, abs=1e-9)


def test_temperature_of_the_sum():
    sampled, data, density = random_values()
    soft = cql_gap(sampled, data, density, temperature=2.0)
    by_hand = 2.0 * ((sampled - density) / 2.0).exp().sum(-1).log() - data
    torch.testing.assert_close(soft, by_hand)
    hard = cql_gap(sampled, data, density, temperature=1e-3)
    torch.testing.assert_close(hard, (sampled - density).amax(-1) - data, atol=0.01, rtol=0.0)


@pytest.mark.parametrize("gap_value, slope", [(2.0, -1.2), (0.5, 0.3)])
def test_multiplier_rises_while_the_gap_is_too_wide(gap_value, slope):
    multiplier = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    gap_ = torch.tensor(gap_value, dtype=torch.float64, requires_grad=True)
    loss = lagrange_loss(multiplier, gap_, 0.8)
    loss.backward()
    assert loss.item() == pytest.approx(slope, abs=1e-12)
    assert multiplier.grad.item() == pytest.approx(slope, abs=1e-12)
    assert gap_.grad is None


def test_rows_and_members_do_not_mix():
    sampled, data, density = random_values()
    bound = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    whole = cql_gap(calibrate(sampled, bound, 2), data, density)
    for row in range(3):
        part = slice(row, row + 1)
        one = cql_gap(calibrate(sampled[:, part], bound[part], 2), data[:, part], density[part])
        torch.testing.assert_close(whole[:, part], one)
    torch.testing.assert_close(
        whole[1:], cql_gap(calibrate(sampled[1:], bound, 2), data[1:], density)
    )


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_closed_gradient_is_that_of_autograd(weights, temperature):
    sampled, data, density = random_values()
    density = density if weights else None
    gap_, d_sampled, d_data = cql_gap_gradient(sampled, data, density, temperature)
    expected = torch.autograd.grad(gap_.sum(), (sampled, data))
    torch.testing.assert_close((d_sampled, d_data), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_gradcheck(weights, temperature):
    sampled, data, density = random_values()
    bound = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)

    def loss(q_sampled, q_data):
        clamped = calibrate(q_sampled, bound, 2)
        return cql_gap(clamped, q_data, density if weights else None, temperature)

    assert torch.autograd.gradcheck(loss, (sampled, data))
    multiplier = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: lagrange_loss(m, double(2.0), 0.8), (multiplier,))

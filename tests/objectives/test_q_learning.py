"""Golden values of backups, losses and weights."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from embodied.objectives.cloning import weighted_cloning_loss
from embodied.objectives.q_learning import (
    actor_loss,
    advantage_weights,
    expectile_loss,
    max_min_backup,
    min_over_members,
    td_loss,
    td_target,
    temperature_loss,
)


def double(x, grad=False):
    return torch.tensor(x, dtype=torch.float64, requires_grad=grad)


def random(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_()


def test_a_time_out_bootstraps_and_a_termination_does_not():
    y = td_target(double([1.0, 1.0]), double([1.0, 0.0]), double([10.0, 10.0]), 0.9)
    assert y.tolist() == pytest.approx([10.0, 1.0])


def test_target_has_no_gradient():
    assert not td_target(double([1.0]), double([1.0]), double([2.0], True), 0.9).requires_grad


def test_backup_takes_the_min_over_critics_first():
    q = double([[1.0, 5.0], [4.0, 2.0]])  # critics x actions
    assert max_min_backup(q[:, None]).item() == 2.0
    assert q.max(dim=1).values.min().item() == 4.0  # the other order


def test_min_over_members():
    q = double([[1.0, 5.0], [4.0, 2.0]])
    assert min_over_members(q).tolist() == [1.0, 2.0]


def test_td_loss_of_chunks_adds_up_to_the_mean():
    q, y = random(5, 7), random(7, seed=1).detach()
    whole = td_loss(q, y, 5)
    torch.testing.assert_close(whole, F.mse_loss(q, y.expand(5, 7)))
    torch.testing.assert_close(whole, td_loss(q[:2], y, 5) + td_loss(q[2:], y, 5))


def test_actor_loss():
    log_prob, q = double([-1.0, -3.0]), double([2.0, 4.0])
    assert actor_loss(log_prob, q, 0.5).item() == pytest.approx((-0.5 - 2 - 1.5 - 4) / 2)


def test_temperature_rises_while_the_entropy_is_too_low():
    rho = double(math.log(math.expm1(1.0)), grad=True)
    assert rho.item() == pytest.approx(0.5413, abs=5e-5)
    entropy = double(-3.0, grad=True)
    loss = temperature_loss(F.softplus(rho), entropy, -2.0)
    loss.backward()
    assert loss.item() == pytest.approx(-1.0)
    assert rho.grad.item() == pytest.approx(-0.6321, abs=5e-5)
    assert entropy.grad is None


@pytest.mark.parametrize(
    "sample, kappa, minimiser",
    [
        ([0.0, 1.0], 0.5, 0.5),
        ([0.0, 1.0], 0.7, 0.7),
        ([0.0, 1.0], 0.9, 0.9),
        ([0.0, 1.0, 2.0], 0.5, 1.0),
        ([0.0, 1.0, 2.0], 0.7, 1.30769),
        ([0.0, 1.0, 2.0], 0.9, 1.72727),
    ],
)
def test_expectile_minimiser(sample, kappa, minimiser):
    sample = double(sample)

    def slope(v):
        v = double(v, grad=True)
        return torch.autograd.grad(expectile_loss(sample - v, kappa), v)[0].item()

    assert slope(minimiser) == pytest.approx(0.0, abs=5e-6)
    assert slope(minimiser - 0.01) < 0.0 < slope(minimiser + 0.01)


def test_expectile_near_one_is_the_maximum():
    sample, v = double([0.0, 1.0, 2.0]), double(1.999, grad=True)
    (slope,) = torch.autograd.grad(expectile_loss(sample - v, 0.9999), v)
    assert slope < 0.0


def test_expectile_loss_value():
    assert expectile_loss(double([2.0, -2.0]), 0.7).item() == pytest.approx(2.0 * (0.7 + 0.3))


@pytest.mark.parametrize("inverse_temperature, advantage", [(10.0, 0.4605), (0.5, 9.21)])
def test_weights_are_clipped(inverse_temperature, advantage):
    below, above = advantage * 0.999, advantage * 1.001
    weights = advantage_weights(double([below, above, 1e6]), inverse_temperature, 100.0)
    assert weights[0].item() == pytest.approx(math.exp(inverse_temperature * below))
    assert weights[0] < 100.0
    assert weights[1:].tolist() == [100.0, 100.0]


def test_weights_are_finite_in_single_precision_and_have_no_gradient():
    advantage = torch.tensor([1e30, -1e30], requires_grad=True)
    weights = advantage_weights(advantage, 10.0, 100.0)
    assert weights.tolist() == [100.0, 0.0]
    assert not weights.requires_grad


def test_cloning_loss():
    log_prob = double([-1.0, -3.0])
    assert weighted_cloning_loss(log_prob).item() == 2.0
    assert weighted_cloning_loss(log_prob, double([2.0, 0.0])).item() == 1.0
    weight = double([2.0, 1.0], grad=True)
    assert not weighted_cloning_loss(log_prob, weight).requires_grad


def test_a_weight_of_zero_is_a_row_left_out():
    log_prob = random(6)
    weight = double([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    masked = weighted_cloning_loss(log_prob, weight) * 6 / 4
    torch.testing.assert_close(masked, weighted_cloning_loss(log_prob[weight > 0]))


@pytest.mark.parametrize("steps, share", [(4, 0.01985), (100, 0.3942), (1000, 0.9933)])
def test_polyak_share_of_a_constant_gap(steps, share):
    target = torch.zeros(1, dtype=torch.float64)
    for _ in range(steps):
        target.lerp_(torch.ones(1, dtype=torch.float64), 0.005)
    assert target.item() == pytest.approx(share, abs=5e-5)


def expected_min(values, *, replacement):
    pairs = list(itertools.product(values, repeat=2))
    if not replacement:
        pairs = [(a, b) for a, b in pairs if a != b]
    return sum(map(min, pairs)) / len(pairs)


def test_expected_minimum_of_two_of_ten():
    assert expected_min(range(1, 11), replacement=True) == pytest.approx(3.85)
    assert expected_min(range(1, 11), replacement=False) == pytest.approx(3.6667, abs=5e-5)


def test_gradcheck():
    check = torch.autograd.gradcheck
    q, y, weight = random(3, 5), random(5, seed=1).detach(), random(5, seed=2).detach().abs()
    assert check(lambda q: td_loss(q, y, 3), (q,))
    assert check(min_over_members, (q,))
    assert check(max_min_backup, (random(3, 5, 4),))
    assert check(lambda lp, q: actor_loss(lp, q, 0.3), (random(5), random(5, seed=3)))
    assert check(lambda rho: temperature_loss(F.softplus(rho), -3.0, -2.0), (random(1),))
    assert check(lambda u: expectile_loss(u, 0.7), (random(9),))
    assert check(lambda lp: weighted_cloning_loss(lp, weight), (random(5),))
    assert check(weighted_cloning_loss, (random(5),))

import math

import pytest
import torch

from policies.gaussian import (
    Gaussian,
    TanhGaussian,
    normal_log_prob,
    tanh_normal_log_prob,
    tanh_normal_sample,
)

OBS, ACT, ROWS = 5, 3, 6


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def observations():
    return torch.randn(ROWS, OBS, generator=generator(1))


def noise(*shape):
    return torch.randn(*shape, generator=generator(2))


def actor(**options):
    return TanhGaussian(OBS, ACT, (16,), out_gain=1.0, generator=generator(), **options)


def double(*values):
    return [torch.tensor([v], dtype=torch.float64) for v in values]


def test_golden_sample():
    mean, std, u = double(0.3, 0.5, 0.7)
    action, log_prob = tanh_normal_sample(mean, std, (u - mean) / std)
    assert action.item() == pytest.approx(0.604368, abs=1e-6)
    assert log_prob.item() == pytest.approx(-0.091251, abs=1e-6)


def test_stable_form_equals_the_naive_one():
    u = torch.linspace(-3, 3, 101, dtype=torch.float64).unsqueeze(-1)
    mean, std = double(0.3, 0.5)
    normal = -0.5 * ((u - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)
    naive = (normal - torch.log(1 - torch.tanh(u) ** 2)).squeeze(-1)
    torch.testing.assert_close(tanh_normal_log_prob(mean, std, u), naive, rtol=0, atol=1e-12)
    at = torch.tensor([0.7], dtype=torch.float64)
    naive = (
        -0.5 * 0.8**2 - math.log(0.5 * math.sqrt(2 * math.pi)) - math.log(1 - math.tanh(0.7) ** 2)
    )
    assert tanh_normal_log_prob(mean, std, at).item() == pytest.approx(naive, abs=1e-12)


@pytest.mark.parametrize("u", [20.0, -20.0, 80.0])
def test_log_prob_is_finite_far_out(u):
    pre_tanh = torch.tensor([u], requires_grad=True)
    log_prob = tanh_normal_log_prob(torch.zeros(1), torch.ones(1), pre_tanh)
    log_prob.backward()
    assert torch.isfinite(log_prob) and torch.isfinite(pre_tanh.grad).all()
    expected = -0.5 * u * u - 0.5 * math.log(2 * math.pi) - 2 * math.log(2) + 2 * abs(u)
    assert log_prob.item() == pytest.approx(expected, rel=1e-6)


def test_density_integrates_to_one():
    a = torch.linspace(-1, 1, 200_001, dtype=torch.float64)[1:-1].unsqueeze(-1)
    mean, std = double(0.3, 0.5)
    density = tanh_normal_log_prob(mean, std, a.atanh()).exp()
    assert torch.trapezoid(density, a.squeeze(-1)).item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("state_dependent_std", [True, False])
def test_shapes_and_broadcast_over_k(state_dependent_std):
    policy = actor(state_dependent_std=state_dependent_std)
    obs, z = observations(), noise(ROWS, 4, ACT)
    mean, std = policy(obs)
    assert mean.shape == std.shape == (ROWS, ACT)
    action, log_prob = policy.sample(obs, z)
    assert action.shape == (ROWS, 4, ACT) and log_prob.shape == (ROWS, 4)
    for k in range(4):
        one, lp = policy.sample(obs, z[:, k])
        torch.testing.assert_close(action[:, k], one)
        torch.testing.assert_close(log_prob[:, k], lp)
        torch.testing.assert_close(policy.act(obs, z[:, k]), one)
    torch.testing.assert_close(policy.mode(obs), torch.tanh(mean))
    assert (policy.log_std is None) == state_dependent_std


def test_network_runs_once_per_observation():
    policy, rows = actor(), []
    policy.net.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    policy.sample(observations(), noise(ROWS, 10, ACT))
    assert rows == [ROWS]


def test_log_prob_of_a_sample():
    policy = actor(std_max=0.5).double()
    obs, z = observations().double(), noise(ROWS, 4, ACT).double()
    action, log_prob = policy.sample(obs, z)
    assert action.abs().max() < 0.99999
    torch.testing.assert_close(policy.log_prob(obs, action), log_prob)
    torch.testing.assert_close(policy.log_prob(obs, action[:, 0]), log_prob[:, 0])


def test_log_prob_of_actions_on_the_bound_is_that_of_the_clip():
    policy = actor()
    bound = torch.ones(ROWS, ACT)
    log_prob = policy.log_prob(observations(), bound)
    assert torch.isfinite(log_prob).all()
    torch.testing.assert_close(log_prob, policy.log_prob(observations(), 0.99999 * bound))


def test_std_is_clipped_with_a_finite_gradient():
    policy = actor(std_min=1e-3, std_max=2.0)
    with torch.no_grad():
        policy.net.linears[-1].bias[ACT] = 500.0
        policy.net.linears[-1].bias[ACT + 1] = -500.0
    _, std = policy(observations())
    torch.testing.assert_close(std[:, 0], torch.full((ROWS,), 2.0))
    torch.testing.assert_close(std[:, 1], torch.full((ROWS,), 1e-3))
    std.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in policy.parameters())
    with pytest.raises(ValueError, match="std_min"):
        actor(std_min=2.0, std_max=1.0)


def test_sample_is_reparameterised():
    policy = actor().double()
    obs, z = observations().double(), noise(ROWS, ACT).double()

    def total(bias):
        parameters = dict(policy.named_parameters()) | {"net.linears.1.bias": bias}
        action, log_prob = torch.func.functional_call(
            _Sampler(policy), {f"policy.{k}": v for k, v in parameters.items()}, (obs, z)
        )
        return action.sum() + log_prob.sum()

    bias = policy.net.linears[-1].bias.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(total, (bias,))


class _Sampler(torch.nn.Module):
    def __init__(self, policy):
        super().__init__()
        self.policy = policy

    def forward(self, obs, z):
        return self.policy.sample(obs, z)


@pytest.mark.parametrize("tanh_mean", [True, False])
def test_gaussian(tanh_mean):
    policy = Gaussian(OBS, ACT, (16,), tanh_mean=tanh_mean, out_gain=20.0, generator=generator())
    obs, z = observations(), noise(ROWS, ACT)
    mean, std = policy(obs)
    assert (std == 1).all()
    assert bool((mean.abs() > 1).any()) != tanh_mean
    action, log_prob = policy.sample(obs, z)
    torch.testing.assert_close(action, mean + z)
    expected = torch.distributions.Normal(mean, std).log_prob(action).sum(-1)
    torch.testing.assert_close(log_prob, expected)
    torch.testing.assert_close(policy.log_prob(obs, action), expected)
    torch.testing.assert_close(policy.mode(obs), mean)
    torch.testing.assert_close(policy.act(obs, z), action)
    many, many_log_prob = policy.sample(obs, noise(ROWS, 4, ACT))
    assert many.shape == (ROWS, 4, ACT)
    torch.testing.assert_close(policy.log_prob(obs, many), many_log_prob)
    with torch.no_grad():
        policy.log_std.fill_(-9.0)
    torch.testing.assert_close(policy(obs)[1], torch.full((ROWS, ACT), math.exp(-5.0)))


def test_gaussian_dropout_has_its_own_stream():
    policy = Gaussian(OBS, ACT, (64,), dropout=0.5, out_gain=1.0, generator=generator())
    obs, action = observations(), noise(ROWS, ACT)
    before = torch.get_rng_state()
    plain = policy.log_prob(obs, action)
    noisy = policy.log_prob(obs, action, dropout=generator(4))
    assert torch.equal(noisy, policy.log_prob(obs, action, dropout=generator(4)))
    assert not torch.equal(noisy, policy.log_prob(obs, action, dropout=generator(5)))
    assert not torch.allclose(noisy, plain)
    assert torch.equal(plain, policy.log_prob(obs, action))
    assert torch.equal(torch.get_rng_state(), before)


def test_normal_log_prob_golden():
    zero = torch.zeros(2, dtype=torch.float64)
    assert normal_log_prob(zero, zero + 1, zero).item() == pytest.approx(-1.8378770664)

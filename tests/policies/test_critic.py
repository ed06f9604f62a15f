import copy
import itertools
import math

import pytest
import torch

from policies.critic import CriticEnsemble, RowLoss, chunk_sizes

OBS, ACT, ROWS = 5, 3, 12
ALL = 1 << 30


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(hidden=(16, 24), *, members=4, layer_norm=True, dtype=torch.float64, chunk=None, seed=0):
    critic = CriticEnsemble(
        OBS,
        ACT,
        members=members,
        hidden=hidden,
        layer_norm=layer_norm,
        generator=generator(seed),
        dtype=dtype,
        chunk=chunk,
    )
    # Away from the initial point, where biases and LayerNorm parameters hide mistakes.
    noise = torch.randn(critic.weight.shape, generator=generator(seed + 1), dtype=dtype)
    with torch.no_grad():
        critic.weight += 0.1 * noise
    return critic


def batch(repeat=None, rows=ROWS, dtype=torch.float64):
    g = generator(9)
    obs = torch.randn(rows, OBS, generator=g, dtype=dtype)
    shape = (rows, ACT) if repeat is None else (rows, repeat, ACT)
    return obs, torch.rand(shape, generator=g, dtype=dtype) * 2 - 1


class Curved(RowLoss):
    """Its own for each row, nonlinear, coupled over the actions where there are any."""

    def value(self, q, span=slice(None)):
        target = TARGETS[span][: q.shape[1]].to(q).view(-1, *[1] * (q.dim() - 2))
        loss = ((q - target) ** 3).sum()
        if q.dim() == 3:
            loss = loss + 5.0 * (torch.logsumexp(q, -1) - q[..., 0]).sum()
        return loss

    def gradient(self, q, span):
        with torch.enable_grad():
            leaf = q.detach().requires_grad_()
            return torch.autograd.grad(self.value(leaf, span), leaf)[0]


TARGETS, CURVED = torch.linspace(-1, 1, 100, dtype=torch.float64), Curved()


def relative_error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


CASES = list(
    itertools.product(
        [(16,), (16, 24), (16, 24, 8)],
        [True, False],
        [None, 1, 4],
        [(1, ALL), (2, ALL), (ALL, ALL), (1, 5), (3, 1)],
    )
)


@pytest.mark.parametrize(("hidden", "layer_norm", "repeat", "chunk"), CASES)
@pytest.mark.parametrize("members", [None, [3, 0, 1]])
def test_training_path_equals_autograd(hidden, layer_norm, repeat, chunk, members):
    critic = make(hidden, layer_norm=layer_norm, chunk=chunk)
    obs, act = batch(repeat)
    q = critic(obs, act, members=members)
    (expected,) = torch.autograd.grad(CURVED.value(q), critic.weight)

    torch.testing.assert_close(critic.values(obs, act, members=members), q, rtol=1e-12, atol=1e-12)
    before = critic.copy_weight()
    actual = critic.accumulate(obs, act, CURVED, members=members)
    torch.testing.assert_close(actual, q.detach(), rtol=1e-12, atol=1e-12)
    assert relative_error(critic.weight.grad, expected) < 1e-10
    assert not actual.requires_grad
    assert torch.equal(critic.weight, before)
    untouched = [i for i in range(4) if members is not None and i not in members]
    assert not critic.weight.grad[untouched].any()


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("chunk", [None, (1, 64), (ALL, ALL)])
@pytest.mark.parametrize("repeat", [None, 7])
def test_float32_gradient(layer_norm, chunk, repeat):
    critic = make((64, 64), layer_norm=layer_norm, chunk=chunk, dtype=torch.float32)
    obs, act = batch(repeat, rows=100, dtype=torch.float32)
    (expected,) = torch.autograd.grad(CURVED.value(critic(obs, act)), critic.weight)
    critic.accumulate(obs, act, CURVED)
    assert relative_error(critic.weight.grad, expected) < 1e-5


@pytest.mark.parametrize("repeat", [None, 4])
def test_forward_is_the_sum_of_its_formula(repeat):
    """Against a network written out with torch.nn, one member at a time."""
    critic = make((16, 24))
    obs, act = batch(repeat)
    x = torch.cat([obs if repeat is None else obs[:, None].expand(-1, repeat, -1), act], -1)
    q = critic(obs, act)
    for member, flat in enumerate(critic.weight.detach()):
        shapes = [(8, 16), (16,), (16,), (16,), (16, 24), (24,), (24,), (24,), (24, 1), (1,)]
        w = [
            part.view(shape)
            for part, shape in zip(
                flat.split([torch.Size(s).numel() for s in shapes]), shapes, strict=True
            )
        ]
        h = x
        for i in (0, 4):
            z = h @ w[i] + w[i + 1]
            z = (z - z.mean(-1, keepdim=True)) / (z.var(-1, False, keepdim=True) + 1e-6).sqrt()
            h = (z * w[i + 2] + w[i + 3]).clamp(min=0)
        torch.testing.assert_close(q[member], (h @ w[8] + w[9]).squeeze(-1))


def test_actions_of_an_observation_are_evaluated_one_by_one():
    critic = make()
    obs, act = batch(4)
    q = critic.values(obs, act)
    for k in range(4):
        torch.testing.assert_close(q[..., k], critic.values(obs, act[:, k]))


def test_target_weights():
    critic = make(chunk=(1, 5))
    other = make(seed=5)
    obs, act = batch()
    expected = other(obs, act, members=[0, 2]).detach()
    actual = critic.values(obs, act, members=torch.tensor([0, 2]), weight=other.copy_weight())
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        critic(obs, act, members=[0, 2], weight=other.copy_weight()), expected
    )


def test_accumulate_adds_up_and_clear_grad_keeps_the_buffer():
    critic = make()
    obs, act = batch()
    critic.clear_grad()
    buffer = critic.weight.grad
    critic.accumulate(obs, act, CURVED)
    once = buffer.clone()
    critic.accumulate(obs, act, CURVED, members=[1])
    expected = once.clone()
    expected[1] *= 2
    torch.testing.assert_close(buffer, expected)
    critic.clear_grad()
    assert critic.weight.grad is buffer and not buffer.any()


@pytest.mark.parametrize("reduce", ["min", "mean"])
@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("chunk", [None, (1, ALL), (1, 5), (3, 5), (ALL, ALL), (ALL, 5)])
@pytest.mark.parametrize("hidden", [(16,), (16, 24)])
@pytest.mark.parametrize("members", [2, 4])
def test_action_gradient_equals_autograd(reduce, layer_norm, chunk, hidden, members):
    critic = make(hidden, members=members, layer_norm=layer_norm, chunk=chunk)
    obs, act = batch(rows=30)
    leaf = act.clone().requires_grad_()
    q = critic(obs, leaf)
    expected = q.min(0)[0] if reduce == "min" else q.mean(0)
    (gradient,) = torch.autograd.grad(expected.sum(), leaf)
    actual, actual_gradient = critic.action_gradient(obs, leaf, reduce=reduce)
    torch.testing.assert_close(actual, expected.detach(), rtol=1e-12, atol=1e-12)
    assert relative_error(actual_gradient, gradient) < 1e-10
    assert critic.weight.grad is None and leaf.grad is None
    assert len(critic.values(obs, act).argmin(0).unique()) > 1


@pytest.mark.parametrize("chunk", [(1, ALL), (ALL, ALL)])
def test_action_gradient_of_a_tie_is_one_members(chunk):
    critic = make(members=3, chunk=chunk)
    with torch.no_grad():
        critic.weight[2] = critic.weight[0]
        # Negated output layer (weights and bias): never the minimum unless equal.
        critic.weight[1, -25:] = critic.weight[0, -25:]
        critic.weight[1, -1] += 100.0
    obs, act = batch()
    leaf = act.clone().requires_grad_()
    (expected,) = torch.autograd.grad(critic(obs, leaf).min(0)[0].sum(), leaf)
    _, gradient = critic.action_gradient(obs, act, reduce="min")
    assert relative_error(gradient, expected) < 1e-10


def test_state_dict_is_the_weight():
    critic = make()
    critic.values(*batch())
    assert list(critic.state_dict()) == ["weight"]
    other = make(seed=7)
    other.load_state_dict(critic.state_dict())
    assert torch.equal(other(*batch()), critic(*batch()))


def test_copy_weight_is_separate():
    critic = make()
    target = critic.copy_weight()
    with torch.no_grad():
        critic.weight += 1.0
    assert not target.requires_grad
    torch.testing.assert_close(critic.weight - 1.0, target)
    target.lerp_(critic.weight.detach(), 0.25)
    torch.testing.assert_close(critic.weight - 0.75, target)


def test_initialisation():
    before = torch.get_rng_state()
    critic = CriticEnsemble(39, 4, members=3, hidden=(64, 32), generator=generator(3))
    again = CriticEnsemble(39, 4, members=3, hidden=(64, 32), generator=generator(3))
    double = CriticEnsemble(
        39, 4, members=3, hidden=(64, 32), generator=generator(3), dtype=torch.float64
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(critic.weight, again.weight)
    assert torch.equal(critic.weight.double(), double.weight)
    assert not torch.equal(critic.weight[0], critic.weight[1])
    first, bias, scale, shift, second = critic.weight[0].split(
        [43 * 64, 64, 64, 64, 64 * 32, critic.weight.shape[1] - 43 * 64 - 192 - 64 * 32]
    )[:5]
    first, second = first.view(43, 64), second.view(64, 32)
    torch.testing.assert_close(first @ first.t(), 2 * torch.eye(43), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(second.t() @ second, 2 * torch.eye(32), rtol=1e-4, atol=1e-4)
    assert not bias.any() and not shift.any() and (scale == 1).all()
    assert abs(critic.weight[0, -33:-1].norm().item() - 2**0.5) < 1e-4
    assert critic.weight[0, -1] == 0


def test_training_does_not_touch_the_global_generator():
    critic = make()
    before = torch.get_rng_state()
    critic.accumulate(*batch(), CURVED)
    critic.action_gradient(*batch(), reduce="min")
    assert torch.equal(torch.get_rng_state(), before)


def test_chunk_sizes():
    cpu = torch.device("cpu")
    assert chunk_sizes(cpu, 4, 77_569, 256, 256) == (1, 256)
    assert chunk_sizes(cpu, 4, 77_569, 256, 7936) == (1, 2048)
    assert chunk_sizes(cpu, 4, 1_500, 32, 64) >= (4, 64)
    assert min(chunk_sizes(torch.device("cuda"), 4, 77_569, 256, 7936)) > 7936


def test_errors_say_what_is_wrong():
    critic = make()
    obs, act = batch()
    with pytest.raises(ValueError, match=r"need obs \[B, 5\]"):
        critic.values(obs[:, :4], act)
    with pytest.raises(ValueError, match="need obs"):
        critic(obs[:3], act)
    with pytest.raises(ValueError, match=r"members must be in \[0, 4\)"):
        critic.values(obs, act, members=[4])
    with pytest.raises(ValueError, match="reduce"):
        critic.action_gradient(obs, act, reduce="max")
    with pytest.raises(ValueError, match=r"\[B, A\]"):
        critic.action_gradient(obs, batch(2)[1], reduce="min")
    with pytest.raises(ValueError, match="hidden"):
        CriticEnsemble(OBS, ACT, hidden=(), generator=generator())


@pytest.mark.parametrize("chunk", [(1, ALL), (1, 5), (2, 5), (ALL, ALL)])
@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("repeat", [None, 4])
def test_overwriting_ignores_the_old_gradient(chunk, layer_norm, repeat):
    critic = make(chunk=chunk, layer_norm=layer_norm)
    obs, act = batch(repeat)
    (expected,) = torch.autograd.grad(CURVED.value(critic(obs, act)), critic.weight)
    critic.clear_grad()
    critic.weight.grad.fill_(math.nan)
    critic.accumulate(obs, act, CURVED, add=False)
    assert relative_error(critic.weight.grad, expected) < 1e-10


def test_overwriting_needs_all_members():
    with pytest.raises(ValueError, match="all members"):
        make().accumulate(*batch(), CURVED, members=[0], add=False)


@pytest.mark.parametrize("chunk", [(1, ALL), (ALL, ALL)])
def test_views_follow_the_weights(chunk):
    """Values after a step in place, new storage, a new gradient buffer and a copy of the module."""
    critic = make(chunk=chunk)
    obs, act = batch()
    critic.accumulate(obs, act, CURVED)
    twin = copy.deepcopy(critic)
    with torch.no_grad():
        critic.weight += 0.1
    torch.testing.assert_close(critic.values(obs, act), critic(obs, act).detach())
    torch.testing.assert_close(twin.values(obs, act), twin(obs, act).detach())
    assert not torch.allclose(twin.values(obs, act), critic.values(obs, act))
    critic.weight.data = critic.weight.data + 0.1
    torch.testing.assert_close(critic.values(obs, act), critic(obs, act).detach())
    for _ in range(20):
        critic.zero_grad(set_to_none=True)
        critic.accumulate(obs, act, CURVED)
        (expected,) = torch.autograd.grad(CURVED.value(critic(obs, act)), critic.weight)
        assert relative_error(critic.weight.grad, expected) < 1e-10
    single = critic.float()
    assert single.values(obs.float(), act.float()).dtype == torch.float32

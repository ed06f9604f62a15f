import pytest
import torch
import torch.nn.functional as F

from policies.mlp import MLP


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(**options):
    return MLP(5, (16, 12), 3, generator=generator(), **options)


def test_layers_written_out():
    net = make(layer_norm=True, activation=torch.tanh).double()
    x = torch.randn(7, 5, generator=generator(1), dtype=torch.float64)
    h = x
    for linear in net.linears[:2]:
        h = h @ linear.weight.t() + linear.bias
        h = (h - h.mean(-1, keepdim=True)) / (h.var(-1, False, keepdim=True) + 1e-6).sqrt()
        h = torch.tanh(h)
    torch.testing.assert_close(net(x), h @ net.linears[2].weight.t() + net.linears[2].bias)
    plain = make()
    h = F.relu(plain.linears[0](x.float()))
    h = F.relu(plain.linears[1](h))
    torch.testing.assert_close(plain(x.float()), plain.linears[2](h))


def test_initialisation():
    before = torch.get_rng_state()
    net = make(out_gain=0.01)
    assert torch.equal(torch.get_rng_state(), before)
    first, second, output = (linear.weight for linear in net.linears)
    torch.testing.assert_close(first.t() @ first, 2 * torch.eye(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(second @ second.t(), 2 * torch.eye(12), atol=1e-5, rtol=0)
    torch.testing.assert_close(output @ output.t(), 1e-4 * torch.eye(3), atol=1e-8, rtol=0)
    assert not any(linear.bias.any() for linear in net.linears)
    for a, b in zip(net.parameters(), make(out_gain=0.01).parameters(), strict=True):
        assert torch.equal(a, b)
    other = MLP(5, (16, 12), 3, generator=generator(1))
    assert not torch.equal(net.linears[0].weight, other.linears[0].weight)


def test_dropout_keeps_the_expectation_and_needs_a_generator():
    net = MLP(5, (4000,), 1, dropout=0.3, generator=generator())
    x = torch.ones(1, 5)
    with torch.no_grad():
        net.linears[1].weight.fill_(1 / 4000)
    plain, noisy = net(x), net(x, generator(3))
    assert torch.equal(net.train()(x), plain) and torch.equal(net.eval()(x), plain)
    assert not torch.equal(plain, noisy)
    torch.testing.assert_close(plain, noisy, rtol=0.1, atol=0)
    with pytest.raises(ValueError, match="dropout"):
        make(dropout=1.0)


def test_no_hidden_layer_is_linear():
    net = MLP(5, (), 2, layer_norm=True, generator=generator())
    x = torch.randn(3, 5, generator=generator(1))
    torch.testing.assert_close(net(x), x @ net.linears[0].weight.t())

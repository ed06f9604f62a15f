"""Golden values of ratios, clipping, KL estimates and the ways of averaging."""

import itertools

import pytest
import torch

from embodied.objectives.advantages import group_advantages, leave_one_out
from embodied.objectives.policy_gradient import (
    AGGREGATIONS,
    aggregate,
    clipped_surrogate,
    exact_kl,
    kl_estimate,
    reinforce_loss,
    sequence_ratio,
    token_ratio,
    value_loss,
    weighted_log_prob,
)


def double(x, grad=False):
    return torch.tensor(x, dtype=torch.float64, requires_grad=grad)


MASK = double([[1, 1, 0, 0], [1, 1, 1, 1]])
RATIO = double([[1.5, 0.9, 1, 1], [0.5, 1.1, 1.3, 0.7]])
ADVANTAGE = double([[1.0], [-1.0]])
HOW = {"longest": 8, "tokens": 6.0}


def random(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64)


def test_token_losses():
    loss = clipped_surrogate(RATIO, ADVANTAGE, 0.2)
    assert loss[0, :2].tolist() == pytest.approx([-1.2, -0.9])
    assert loss[1].tolist() == pytest.approx([0.8, 1.1, 1.3, 0.8])


@pytest.mark.parametrize(
    "kind, high, expected",
    [
        ("grpo", 0.2, -0.025),
        ("bnpo", 0.2, 0.3166667),
        ("dapo", 0.2, 0.3166667),
        ("dr_grpo", 0.2, 0.11875),
        ("seq_sum", 0.2, 0.95),
        ("grpo", 0.28, -0.045),
        ("bnpo", 0.28, 0.3033333),
        ("dr_grpo", 0.28, 0.11375),
        ("seq_sum", 0.28, 0.91),
    ],
)
def test_aggregation(kind, high, expected):
    loss = clipped_surrogate(RATIO, ADVANTAGE, 0.2, high)
    assert aggregate(loss, MASK, kind, **HOW).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("bnpo", [[0, -0.15, 0, 0], [0, 0.1833333, 0.2166667, 0]]),
        ("grpo", [[0, -0.225, 0, 0], [0, 0.1375, 0.1625, 0]]),
    ],
)
def test_gradient_with_respect_to_the_log_probability(kind, expected):
    log_prob = RATIO.log().requires_grad_()
    loss = clipped_surrogate(token_ratio(log_prob, torch.zeros_like(log_prob)), ADVANTAGE, 0.2)
    aggregate(loss, MASK, kind).backward()
    torch.testing.assert_close(log_prob.grad, double(expected), atol=1e-6, rtol=0)


def test_at_ratio_one_the_gradient_is_minus_the_advantage():
    log_prob = random(3, 5).requires_grad_()
    advantage = random(3, 1, seed=1)
    clipped_surrogate(token_ratio(log_prob, None), advantage, 0.2).sum().backward()
    torch.testing.assert_close(log_prob.grad, -advantage.expand(3, 5))
    assert (token_ratio(log_prob, None) == 1).all()


def test_sequence_ratio():
    ratio = sequence_ratio(RATIO.log(), torch.zeros_like(RATIO), MASK)
    assert ratio[:, 0].tolist() == pytest.approx([1.1618950, 0.8411066], abs=1e-6)


def test_bounds_on_the_ratio():
    ratio, negative = double([[5.0]]), double([[-1.0]])
    assert clipped_surrogate(ratio, negative, 0.2).item() == 5.0
    assert clipped_surrogate(ratio, negative, 0.2, dual=3.0).item() == 3.0
    assert clipped_surrogate(ratio, negative, 0.2, bound=1.5).item() == 1.5
    assert clipped_surrogate(ratio, -negative, 0.2, dual=3.0).item() == pytest.approx(-1.2)


def test_weighted_log_prob_keeps_the_gradient_of_clipped_tokens():
    log_prob = double([[-1.0, -2.0]], grad=True)
    ratio = double([[9.0, 0.5]], grad=True)
    weighted_log_prob(log_prob, ratio, double([[2.0]]), 1.3).sum().backward()
    assert log_prob.grad.tolist() == [[-2.6, -1.0]] and ratio.grad is None


def test_kl_estimates():
    log_prob, ref = double([-1, -0.5, -2]), double([-1.5, -0.5, -1])
    assert kl_estimate(log_prob, ref, "k1").tolist() == [0.5, 0, -1]
    assert kl_estimate(log_prob, ref, "k2").tolist() == [0.125, 0, 0.5]
    k3 = kl_estimate(log_prob, ref)
    assert k3.tolist() == pytest.approx([0.1065307, 0, 0.7182818], abs=1e-6)
    with pytest.raises(ValueError, match="k1, k2, k3"):
        kl_estimate(log_prob, ref, "k4")


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_estimates_have_the_exact_kl_as_their_mean(kind):
    logits, other = random(7), random(7, seed=1)
    log_p, log_q = logits.log_softmax(-1), other.log_softmax(-1)
    mean = (log_p.exp() * kl_estimate(log_p, log_q, kind)).sum()
    torch.testing.assert_close(mean, exact_kl(logits, other))


def test_value_loss():
    value, old = double([[0.8, 0.5, 0.3]]), double([[0.5, 0.4, 0.6]])
    target, mask = double([[1.02125, 1.075, 1.1]]), torch.ones(1, 3)
    assert value_loss(value, old, target, mask, 0.2).item() == pytest.approx(0.17897109, abs=1e-6)
    assert value_loss(value, old, target, mask, 9.0).item() == pytest.approx(0.16992943, abs=1e-6)


@pytest.mark.parametrize("kind", AGGREGATIONS)
def test_what_the_mask_hides_changes_nothing(kind):
    loss = random(4, 6)
    mask = (torch.arange(6) < double([[6], [2], [4], [1]])).double()
    expected = aggregate(loss, mask, kind, **HOW)
    hidden = loss.masked_fill(mask == 0, float("nan")).requires_grad_()
    more = torch.nn.functional.pad(hidden, (0, 3), value=float("inf"))
    got = aggregate(more, torch.nn.functional.pad(mask, (0, 3)), kind, **HOW)
    torch.testing.assert_close(got, expected)
    got.backward()
    assert hidden.grad.isfinite().all() and (hidden.grad[mask == 0] == 0).all()


@pytest.mark.parametrize("kind", AGGREGATIONS)
def test_parts_of_a_batch_add_up(kind):
    loss, mask = random(4, 6), (random(4, 6, seed=1) > 0).double()
    whole = {"longest": 8, "tokens": mask.sum(), "sequences": 4}
    parts = sum(aggregate(loss[i : i + 2], mask[i : i + 2], kind, **whole) for i in (0, 2))
    together = aggregate(loss, mask, kind, **whole)
    assert torch.isclose(parts, together) == (kind != "bnpo")


def test_missing_constants_are_named():
    for kind, name in (("dapo", "tokens"), ("dr_grpo", "longest"), ("mean", "grpo")):
        with pytest.raises(ValueError, match=name):
            aggregate(RATIO, MASK, kind)


def test_gradients():
    log_prob, old = random(2, 3).requires_grad_(), random(2, 3, seed=1)
    advantage, mask = random(2, 1, seed=2), torch.ones(2, 3)

    def loss(x):
        ratio = token_ratio(x, old) * sequence_ratio(x, old, mask)
        return aggregate(clipped_surrogate(ratio, advantage, 0.3, 0.5), mask, "grpo")

    assert torch.autograd.gradcheck(loss, log_prob)
    assert torch.autograd.gradcheck(lambda x: kl_estimate(x, old).sum(), log_prob)


BANDIT = {
    "none": (lambda r: r, [2 / 9, -1 / 9, -1 / 9]),
    "constant": (lambda r: r - 0.7, [2 / 9, -1 / 9, -1 / 9]),
    "leave one out": (lambda r: leave_one_out(r, 4), [2 / 9, -1 / 9, -1 / 9]),
    "mean": (lambda r: group_advantages(r, 4, "none"), [1 / 6, -1 / 12, -1 / 12]),
    "normalised": (lambda r: group_advantages(r, 4), [0.3134260, -0.1567130, -0.1567130]),
}


@pytest.mark.parametrize("baseline", BANDIT)
def test_bias_of_baselines(baseline):
    """A bandit with three arms, four samples: the mean gradient over all 81 outcomes."""
    advantages, expected = BANDIT[baseline]
    total = torch.zeros(3, dtype=torch.float64)
    for arms in itertools.product(range(3), repeat=4):
        theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        log_prob = theta.log_softmax(-1)[list(arms)][:, None]
        reward = double([1.0 if arm == 0 else 0.0 for arm in arms])
        reinforce_loss(log_prob, advantages(reward), torch.ones(4, 1)).backward()
        total -= theta.grad / 81
    assert total.tolist() == pytest.approx(expected, abs=1e-6)


def test_sequence_ratio_of_the_whole_answer():
    ratio = sequence_ratio(RATIO.log(), torch.zeros_like(RATIO), MASK, mean=False)[:, 0]
    torch.testing.assert_close(ratio, RATIO.where(MASK.bool(), 1).prod(-1))

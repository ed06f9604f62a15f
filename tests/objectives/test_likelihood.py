"""Golden values of maximum likelihood and of preference losses."""

import math

import pytest
import torch

from embodied.objectives.likelihood import nll_loss, sequence_sums, token_log_probs
from embodied.objectives.preference import preference_loss


def double(x, grad=False):
    return torch.tensor(x, dtype=torch.float64, requires_grad=grad)


def test_token_log_probs():
    logits = double([[[2.0, 0, 0], [2.0, 0, 0]]])
    found = token_log_probs(logits, torch.tensor([[0, 1]]))
    assert found[0].tolist() == pytest.approx([-0.23954477, -2.23954477], abs=1e-8)
    hot = token_log_probs(logits * 3, torch.tensor([[0, 1]]), temperature=3.0)
    torch.testing.assert_close(hot, found)


def test_half_precision_is_widened():
    logits = torch.zeros(1, 1, 4, dtype=torch.bfloat16)
    found = token_log_probs(logits, torch.tensor([[2]]))
    assert found.dtype == torch.float32 and found.item() == pytest.approx(-math.log(4))


LOG_PROB = double([[-0.4, 5.0, float("nan")], [-1.0, -1.0, -1.0]])
MASK = torch.tensor([[1, 0, 0], [1, 1, 1]])


def test_the_mean_is_over_tokens():
    assert nll_loss(LOG_PROB, MASK).item() == pytest.approx(0.85)
    parts = sum(nll_loss(LOG_PROB[i : i + 1], MASK[i : i + 1], tokens=double(4)) for i in (0, 1))
    assert parts.item() == pytest.approx(0.85)
    assert sequence_sums(LOG_PROB, MASK).tolist() == [-0.4, -3.0]


def test_weights():
    by_row = nll_loss(LOG_PROB, MASK, double([2.0, 1.0]))
    by_token = nll_loss(LOG_PROB, MASK, double([[2.0] * 3, [1.0] * 3]))
    assert by_row.item() == by_token.item() == pytest.approx((0.8 + 3) / 4)


def test_nothing_to_learn_from():
    log_prob = double([[-1.0]], grad=True)
    loss = nll_loss(log_prob, torch.zeros(1, 1))
    loss.backward()
    assert loss.item() == 0 and log_prob.grad.item() == 0


CHOSEN, REJECTED = 2.0, -1.0  # -10 - -12, -11 - -10


@pytest.mark.parametrize(
    "how, expected",
    [
        ({}, 0.55435524),
        ({"label_smoothing": 0.1}, 0.58435524),
        ({"kind": "robust", "label_smoothing": 0.1}, 0.51685524),
        ({"kind": "hinge"}, 0.7),
        ({"kind": "ipo", "lengths": (double([4.0]), double([5.0]))}, 18.49),
        ({"kind": "ipo"}, 4.0),
    ],
)
def test_preference_losses(how, expected):
    loss = preference_loss(double([CHOSEN]), double([REJECTED]), 0.1, **how)
    assert loss.item() == pytest.approx(expected, abs=1e-8)


def test_preference_gradient():
    chosen, rejected = double([CHOSEN], True), double([REJECTED], True)
    preference_loss(chosen, rejected, 0.1).sum().backward()
    assert chosen.grad.item() == pytest.approx(-0.04255575, abs=1e-8)
    assert rejected.grad.item() == pytest.approx(0.04255575, abs=1e-8)


def test_the_reference_itself_loses_ln_2():
    assert preference_loss(double([0.0]), double([0.0]), 0.1).item() == pytest.approx(math.log(2))


def test_an_extreme_margin_stays_finite():
    assert preference_loss(double([-1e6]), double([1e6]), 1.0).item() == 2e6


def test_unknown_kind():
    with pytest.raises(ValueError, match="sigmoid, robust"):
        preference_loss(double([0.0]), double([0.0]), 1.0, kind="dpo")

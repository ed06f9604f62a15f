"""Golden values of group advantages, token rewards and generalised advantages."""

import pytest
import torch

from embodied.objectives.advantages import (
    generalised_advantages,
    group_advantages,
    leave_one_out,
    token_rewards,
    whiten,
)


def double(x):
    return torch.tensor(x, dtype=torch.float64)


ONE = double([1.0, 0, 0, 0])
FIVE = double([1.0] * 5 + [0] * 3)


@pytest.mark.parametrize(
    "reward, how, expected",
    [
        (ONE, {}, [1.49970006, -0.49990002]),
        (ONE, {"epsilon": 1e-6}, [1.499997, -0.499999]),
        (ONE, {"scale": "none"}, [0.75, -0.25]),
        (FIVE, {}, [0.72442886, -1.20738144]),
        (FIVE, {"scale": "none"}, [0.375, -0.625]),
    ],
)
def test_group_advantages(reward, how, expected):
    found = group_advantages(reward, len(reward), **how)
    assert sorted(set(found.tolist()), reverse=True) == pytest.approx(expected, abs=1e-8)


def test_leave_one_out():
    assert leave_one_out(ONE, 4).tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    by_hand = [r - (ONE.sum() - r) / 3 for r in ONE]
    torch.testing.assert_close(leave_one_out(ONE, 4), torch.stack(by_hand))


def test_a_batch_is_scaled_as_a_whole():
    reward = double([1.0, 0, 3, 0])
    expected = double([0.5, -0.5, 1.5, -1.5]) / (reward.std() + 1e-4)
    torch.testing.assert_close(group_advantages(reward, 2, "batch"), expected)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_equal_rewards_teach_nothing(scale):
    assert (group_advantages(double([0.3] * 6), 3, scale) == 0).all()


def test_groups_do_not_mix_and_their_order_does_not_matter():
    reward = double([1.0, 0, 0, 5, 7, 9])
    found = group_advantages(reward, 3)
    torch.testing.assert_close(found[:3], group_advantages(reward[:3], 3))
    order = torch.tensor([2, 0, 1, 5, 4, 3])
    torch.testing.assert_close(group_advantages(reward[order], 3), found[order])


def test_groups_must_fit():
    for group in (1, 3):
        with pytest.raises(ValueError, match="do not form groups"):
            group_advantages(ONE, group)
    with pytest.raises(ValueError, match="group, batch, none"):
        group_advantages(ONE, 2, "rows")


LOG_PROB, REF = double([[-1, -0.5, -2]]), double([[-1.2, -0.5, -1]])
VALUE, REWARD = double([[0.5, 0.4, 0.6]]), double([[-0.02, 0, 1.1]])


def test_token_rewards():
    found = token_rewards(LOG_PROB - REF, double([1.0]), torch.ones(1, 3), 0.1)
    torch.testing.assert_close(found, REWARD)
    short = token_rewards(LOG_PROB - REF, double([1.0]), torch.tensor([[1, 1, 0]]), 0.1)
    torch.testing.assert_close(short, double([[-0.02, 1, 0]]))


@pytest.mark.parametrize(
    "discount, trace, expected",
    [
        (1.0, 0.95, [0.52125, 0.675, 0.5]),
        (1.0, 1.0, [0.58, 0.7, 0.5]),
        (0.9, 0.95, [0.3252125, 0.5675, 0.5]),
    ],
)
def test_generalised_advantages(discount, trace, expected):
    advantage, returns = generalised_advantages(REWARD, VALUE, torch.ones(1, 3), discount, trace)
    torch.testing.assert_close(advantage, double([expected]))
    torch.testing.assert_close(returns, advantage + VALUE)


def test_nothing_flows_back_from_the_padding():
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    reward = torch.cat([REWARD, double([[9.0, float("nan")]])], 1)
    value = torch.cat([VALUE, double([[float("inf"), 7.0]])], 1)
    advantage, returns = generalised_advantages(reward, value, mask, 1.0, 0.95)
    torch.testing.assert_close(advantage, double([[0.52125, 0.675, 0.5, 0, 0]]))
    assert (returns[:, 3:] == 0).all()


def test_whitening():
    advantage = double([[0.52125, 0.675, 0.5, 9.0]])
    mask = torch.tensor([[1, 1, 1, 0]])
    white = whiten(advantage, mask)
    assert white[0].tolist() == pytest.approx([-0.4625028, 1.1475304, -0.6850277, 0], abs=1e-6)
    kept = whiten(advantage, mask, shift=False)
    torch.testing.assert_close(kept[0, :3].mean(), advantage[0, :3].mean())

"""Golden values of the specification of SLIM, gradients, and masked steps as if they were not."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from embodied.objectives.policy_gradient import clipped_surrogate
from embodied.objectives.skill_discovery import (
    centred_skill,
    combined,
    critics_loss,
    information_reward,
    lipschitz_skill_reward,
    multi_surrogate,
    reach_reward,
    safety_reward,
    standardised,
    traced_advantages,
)
from policies.lipschitz import LipschitzMLP


def double(x):
    return torch.tensor(x, dtype=torch.float64)


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


ROW = torch.ones(1, 3, dtype=torch.float64)
GOING, ENDED = ROW, double([[0.0, 0, 1]])
TWO = double([[[1.0, 2, 3]], [[100.0, 0, -100]]])


def traced(reward, value, discount=0.9, trace=0.8, going=GOING, ended=ENDED):
    """Advantages of [K, N, T], where nothing follows the last step."""
    count = len(reward)
    after = torch.cat([value[..., 1:], torch.zeros_like(value[..., :1])], -1)
    gamma = torch.full((count,), discount, dtype=torch.float64)
    return traced_advantages(
        reward, value, after, going, ended, gamma, torch.full_like(gamma, trace)
    )


def test_standardised_and_combined():
    found, deviation = standardised(TWO, ROW)
    assert found[0, 0].tolist() == pytest.approx([-1.22474, 0, 1.22474], abs=1e-5)
    assert found[1, 0].tolist() == pytest.approx([1.22474, 0, -1.22474], abs=1e-5)
    assert deviation.tolist() == pytest.approx([math.sqrt(2 / 3), math.sqrt(2e4 / 3)])
    assert combined(found, double([1.0, 1]))[0].tolist() == pytest.approx([0, 0, 0], abs=1e-7)
    two_one = combined(found, double([2.0, 1]))[0].tolist()
    assert two_one == pytest.approx([-1.22474, 0, 1.22474], abs=1e-5)
    assert combined(TWO, double([1.0, 1]))[0].tolist() == [101, 2, -97]


def test_advantages_are_linear_in_reward_and_value():
    r1, v1 = double([[[1.0, 0, 2]]]), double([[[0.5, 0.2, 0.1]]])
    r2, v2 = double([[[0.0, -1, 0]]]), double([[[0.0, 0.3, -0.2]]])
    apart = 2 * traced(r1, v1) + 3 * traced(r2, v2)
    assert apart[0, 0].tolist() == pytest.approx([1.09576, -1.492, 4.4], abs=1e-9)
    together = traced(2 * r1 + 3 * r2, 2 * v1 + 3 * v2)
    torch.testing.assert_close(together, apart)
    stacked = traced(torch.cat([r1, r2]), torch.cat([v1, v2]))
    torch.testing.assert_close(combined(stacked, double([2.0, 3])), apart[0])


def test_each_reward_has_its_own_discount():
    reward, value = draw(2, 1, 3), draw(2, 1, 3, seed=1)
    after = torch.cat([value[..., 1:], torch.zeros(2, 1, 1)], -1)
    gamma, trace = double([0.9, 0.5]), double([0.8, 1.0])
    found = traced_advantages(reward, value, after, GOING, ENDED, gamma, trace)
    for i, (g, t) in enumerate(((0.9, 0.8), (0.5, 1.0))):
        torch.testing.assert_close(
            found[i : i + 1], traced(reward[i : i + 1], value[i : i + 1], g, t)
        )


def test_a_time_limit_bootstraps_and_a_termination_does_not():
    reward, value, after = double([[[1.0, 1]]]), double([[[0.0, 0]]]), double([[[5.0, 7]]])
    gamma = double([0.5])
    going, ended = double([[0.0, 1]]), double([[1.0, 1]])
    found = traced_advantages(reward, value, after, going, ended, gamma, double([1.0]))
    assert found[0, 0].tolist() == [1.0, 1.0 + 0.5 * 7]


def surrogate_gradient(advantage, weights, summed):
    """Of the policy's loss with respect to the ratios."""
    ratio = torch.ones(advantage.shape[1:], dtype=torch.float64, requires_grad=True)
    if not summed:
        advantage = standardised(advantage, torch.ones_like(ratio))[0]
    clipped_surrogate(ratio, combined(advantage, weights), 0.2).mean().backward()
    return ratio.grad


@pytest.mark.parametrize("c", [30.0, 1e-3])
def test_the_unit_of_a_reward_does_not_matter(c):
    reward, value = draw(2, 4, 5), draw(2, 4, 5, seed=1)
    going = torch.ones(4, 5, dtype=torch.float64)
    ended = torch.zeros(4, 5, dtype=torch.float64)
    plain = traced(reward, value, going=going, ended=ended)
    other = double([1.0, c])[:, None, None]
    scaled = traced(reward * other, value * other, going=going, ended=ended)
    weights = double([1.0, 0.5])
    pairs = [surrogate_gradient(a, weights, summed=False) for a in (plain, scaled)]
    torch.testing.assert_close(*pairs, atol=1e-6, rtol=0)
    first, second = (surrogate_gradient(a, weights, summed=True) for a in (plain, scaled))
    assert (first - second).abs().max() > 1e-3


def test_skill_rewards_telescope_and_are_bounded():
    phi = LipschitzMLP(2, (16, 16), 3, generator=torch.Generator().manual_seed(0)).double()
    path, z = 3 * draw(20, 2), torch.nn.functional.normalize(draw(3, seed=1), dim=0)
    with torch.no_grad():
        seen = phi(path)
        found = lipschitz_skill_reward(seen[:-1], seen[1:], z)
    torch.testing.assert_close(found.sum(), (seen[-1] - seen[0]) @ z)
    moved = (path[1:] - path[:-1]).norm(dim=1)
    assert (found.abs() <= moved * z.norm() + 1e-9).all() and found.abs().max() > 0.05
    with torch.no_grad():
        for parameter in phi.parameters():
            parameter.mul_(100)  # however large the weights are
        assert (phi(path[1:]) - phi(path[:-1])).norm(dim=1).le(moved + 1e-9).all()


def test_discrete_skills():
    z = centred_skill(torch.eye(4, dtype=torch.float64))
    assert z[0].tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert z.sum(-1).abs().max() < 1e-12


def test_information():
    z = torch.eye(4, dtype=torch.float64)
    assert information_reward(0 * z, z, True).tolist() == pytest.approx([0] * 4, abs=1e-12)
    assert information_reward(1e3 * z, z, True).tolist() == pytest.approx([1.386294] * 4, abs=1e-6)
    point = double([[0.6, 0.8]])
    assert information_reward(torch.zeros(1, 2), point, False).item() == 0
    assert information_reward(point, point, False).item() == pytest.approx(0.5)


def test_the_order_of_sum_and_clip():
    advantage, weight = double([[1.0], [-1.0]]), double([1.0, 1.0])
    ratio = double([1.5]).requires_grad_()
    summed = -clipped_surrogate(ratio, combined(advantage, weight), 0.2)
    assert summed.item() == 0
    assert torch.autograd.grad(summed.sum(), ratio)[0].item() == 0
    each = -multi_surrogate(ratio, advantage, weight, 0.2)
    assert each.item() == pytest.approx(-0.3)
    assert torch.autograd.grad(each.sum(), ratio)[0].item() == -1


def test_a_constant_reward_contributes_nothing():
    found, deviation = standardised(
        torch.stack([draw(2, 3), torch.ones(2, 3).double()]), ROW.repeat(2, 1)
    )
    assert (found[1] == 0).all() and deviation[1] == 0 and torch.isfinite(found).all()


def test_a_floor_under_the_deviation():
    mask = ROW
    found, _ = standardised(TWO, mask, double([10.0, 1.0]))
    assert found[0, 0].tolist() == pytest.approx([-0.1, 0, 0.1])
    torch.testing.assert_close(found[1], standardised(TWO, mask)[0][1])


def test_masked_steps_count_for_nothing():
    advantage, mask = draw(2, 3, 5), torch.ones(3, 5, dtype=torch.float64)
    mask[:, 3:] = 0
    found, deviation = standardised(advantage, mask)
    part, part_deviation = standardised(advantage[..., :3], mask[:, :3])
    torch.testing.assert_close(found[..., :3], part)
    torch.testing.assert_close(deviation, part_deviation)
    assert (found[..., 3:] == 0).all()


def test_steps_after_an_end_change_nothing_before_it():
    reward, value, after = draw(2, 3, 5), draw(2, 3, 5, seed=1), draw(2, 3, 5, seed=2)
    going, ended = torch.ones(3, 5).double(), torch.zeros(3, 5).double()
    ended[:, 2] = 1
    gamma = double([0.9, 0.8])
    whole = traced_advantages(reward, value, after, going, ended, gamma, gamma)
    cut = (x[..., :3] for x in (reward, value, after, going, ended))
    torch.testing.assert_close(whole[..., :3], traced_advantages(*cut, gamma, gamma))


def test_reaching_and_safety():
    hand, thing = double([[0.0, 0], [0, 0], [0, 0]]), double([[0.1, 0], [0.3, 0], [3.0, 4]])
    found = reach_reward(hand, thing, 5.0, 0.1)
    assert found.tolist() == pytest.approx([1, math.exp(-1), math.exp(-24.5)])
    low, high = double([-1.0, 0]), double([1.0, 2])
    at = double([[0.0, 1], [1.1, 1], [0, -0.1], [1.0, 2]])
    assert safety_reward(at, low, high).tolist() == [0, -1, -1, 0]


def test_gradients():
    a, b, c = (draw(4, 3, seed=s).requires_grad_() for s in range(3))
    one_hot = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0]]
    assert gradcheck(lambda x, y: reach_reward(x, y, 2.0, 0.1), (a, b))
    assert gradcheck(lipschitz_skill_reward, (a, b, c))
    assert gradcheck(lambda x: information_reward(x, one_hot, True), (a,))
    assert gradcheck(lambda x: information_reward(x, one_hot, False), (a,))
    weight = double([1.0, 0.5, 2.0])
    ratio = (1 + 0.3 * draw(4)).requires_grad_()
    assert gradcheck(lambda x: multi_surrogate(x, draw(3, 4, seed=5), weight, 0.2), (ratio,))
    assert gradcheck(lambda x: critics_loss(x, b.detach()), (a,))
    phi = LipschitzMLP(3, (8,), 2, generator=torch.Generator().manual_seed(1)).double()
    weight = draw(8, 3, seed=7)  # an orthogonal one has no largest singular value

    def with_weight(w):
        return torch.func.functional_call(phi, {"net.linears.0.weight": w}, (draw(5, 3),))

    assert gradcheck(with_weight, (weight.requires_grad_(),))

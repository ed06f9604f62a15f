"""The learner the family shares, against plain autograd and against the table of its settings."""

import copy

import numpy as np
import pytest
import tiny
import torch
from reference import Reference, assert_agree, to_double

from embodied.agents.actor_critic import ActorCritic, ActorCriticConfig, ConservativeConfig

WSRL = {
    "members": 5,
    "subset": 2,
    "subset_replacement": True,
    "entropy_backup": False,
    "actor_layer_norm": True,
    "critic_layer_norm": True,
    "utd": 4,
}


def make(conservative=None, *, chunk=None, seed=0, **settings):
    settings = {**tiny.NETWORK, "batch_size": 4, **settings}
    config = ActorCriticConfig(**settings)
    learner = ActorCritic(config, tiny.task(seed), conservative=conservative)
    learner.critic.chunk = chunk
    return learner


def state(learner):
    return tiny.frozen(learner)


CALQL = {"calibrated": True, "actions": 3}
CASES = {
    "wsrl": (WSRL, None),
    "sac": ({}, None),
    "redq": (
        {"members": 4, "subset": 2, "utd": 3, "actor_reduce": "mean", "actor_rows": "last"},
        None,
    ),
    "max target": ({**WSRL, "max_target_actions": 3}, None),
    "shared std": ({"state_dependent_std": False}, None),
    "cql": ({"entropy_backup": False}, {"actions": 3}),
    "calql": ({**WSRL, "utd": 1}, CALQL),
    "calql pair": ({**WSRL, "utd": 1}, {**CALQL, "subset": 2}),
    "calql random bound": ({"entropy_backup": False}, {**CALQL, "bound_random_actions": True}),
    "calql kitchen": ({"entropy_backup": False}, {**CALQL, "importance_weights": False}),
    "calql antmaze": (
        {**WSRL, "utd": 1, "max_target_actions": 3},
        {**CALQL, "lagrange_threshold": 0.8, "lagrange_lr": 1e-2},
    ),
}


@pytest.mark.parametrize("chunk", [None, (2, 3)])
@pytest.mark.parametrize("case", CASES)
def test_the_fast_path_agrees_with_autograd(case, chunk):
    settings, conservative = CASES[case]
    regulariser = None if conservative is None else ConservativeConfig(**conservative)
    rates = {"actor_lr": 1e-2, "critic_lr": 1e-2, "temperature_lr": 1e-2}
    learner = to_double(make(regulariser, chunk=chunk, **settings, **rates))
    reference = Reference(learner)
    start = state(learner)
    for i in range(4):
        rows = learner.config.batch_size * learner.config.utd
        batch = tiny.batch(rows, seed=i, returns=True, dtype=torch.float64)
        learner.update(tiny.Fixed(batch))
        reference.update(batch)
        assert_agree(learner, reference)
    assert (learner.critic.weight - start["critic"]["weight"]).abs().max() > 1e-2
    assert torch.equal(learner.noise.get_state(), reference.generator.get_state())


class Spy(ActorCritic):
    """Notes which rows each step sees and how often the target moves."""

    def critic_step(self, batch):
        self.seen.append(batch["reward"].tolist())
        return super().critic_step(batch)

    def actor_step(self, batch):
        self.actor_seen.append(batch["reward"].tolist())
        return super().actor_step(batch)


def spy(**settings):
    learner = Spy(ActorCriticConfig(**tiny.NETWORK, **settings), tiny.task())
    learner.seen, learner.actor_seen = [], []
    return learner


def test_an_update_is_sliced():
    learner = spy(utd=4, batch_size=2)
    batch = tiny.batch(8)
    batch["reward"] = torch.arange(8.0)
    learner.update(tiny.Fixed(batch))
    assert learner.seen == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert learner.actor_seen == [[0, 1, 2, 3, 4, 5, 6, 7]]
    critic, actor = learner.critic_optimizer.state_dict(), learner.actor_optimizer.state_dict()
    assert critic["0"]["step"] == 4
    assert {s["step"].item() for s in actor.values()} == {1}
    assert learner.temperature_optimizer.state_dict()["0"]["step"] == 1


def test_actor_on_the_last_slice():
    learner = spy(utd=4, batch_size=2, actor_rows="last")
    batch = tiny.batch(8)
    batch["reward"] = torch.arange(8.0)
    learner.update(tiny.Fixed(batch))
    assert learner.actor_seen == [[6, 7]]


def test_the_target_moves_once_per_critic_step():
    learner = make(utd=4, batch_size=2, critic_lr=0.0)
    gap = torch.full_like(learner.target, 0.5)
    learner.target = learner.critic.copy_weight() - gap
    learner.update(tiny.Fixed(tiny.batch(8)))
    left = learner.critic.weight.detach() - learner.target
    torch.testing.assert_close(
        1 - left / gap, torch.full_like(gap, 1 - 0.995**4), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("replacement, expected", [(True, 3.85), (False, 11 / 3)])
def test_expected_minimum_of_a_drawn_pair(replacement, expected):
    learner = make(members=10)
    values = np.arange(1, 11)
    draws = np.array([values[learner._draw(2, replacement)] for _ in range(4000)])
    assert (draws[:, 0] == draws[:, 1]).any() == replacement
    # half the distance of the two expectations, 2.6 standard errors
    assert draws.min(1).mean() == pytest.approx(expected, abs=0.09)


def test_no_draw_is_all_members():
    learner = make(members=10)
    before = learner.noise.get_state()
    assert learner._draw(0, True) is None
    assert learner._draw(10, False) is None
    assert torch.equal(before, learner.noise.get_state())


@pytest.mark.parametrize("reduce, expected", [("min", 1.0), ("mean", 5.5)])
def test_what_the_actor_maximises(reduce, expected):
    learner = make(members=10, actor_reduce=reduce)
    with torch.no_grad():
        learner.critic.weight.zero_()
        learner.critic.weight[:, -1] = torch.arange(1.0, 11.0)  # output biases: Q_i = i
    metrics = learner.actor_step(tiny.batch(8))
    beta_log_prob = -metrics["actor/temperature"] * metrics["actor/entropy"]
    torch.testing.assert_close(beta_log_prob - metrics["actor/loss"], torch.tensor(expected))


def test_the_temperature_follows_the_entropy():
    learner = make(target_entropy_per_dim=-50.0)
    learner.actor_step(tiny.batch(8))
    assert learner.temperature < 1.0
    learner = make(target_entropy_per_dim=50.0)
    learner.actor_step(tiny.batch(8))
    assert learner.temperature > 1.0


def test_time_outs_bootstrap_and_terminations_do_not():
    learner = make(entropy_backup=False)
    batch = tiny.batch(4)
    batch["mask"] = torch.tensor([1.0, 0.0, 1.0, 0.0])
    y = learner._td_target(batch)
    assert torch.equal(y[1::2], batch["reward"][1::2])
    assert not torch.isclose(y[::2], batch["reward"][::2]).any()


def test_a_regulariser_of_weight_zero_is_sac_to_the_bit():
    plain, zero = make(), make(ConservativeConfig(weight=0.0, actions=3))
    for _ in range(3):
        for learner in (plain, zero):
            learner.critic_step(tiny.batch(4))
            learner.actor_step(tiny.batch(4))
    assert tiny.equal(state(plain), state(zero))


def test_the_critic_step_moves_no_actor_parameter():
    learner = make(ConservativeConfig(actions=3))
    before = state(learner)
    learner.critic_step(tiny.batch(4))
    after = state(learner)
    assert all(p.grad is None or not p.grad.any() for p in learner.actor.parameters())
    for name in ("actor", "actor_optimizer", "temperature", "temperature_optimizer"):
        assert tiny.equal(before[name], after[name])
    assert not tiny.equal(before["critic"], after["critic"])


def test_the_actor_step_moves_no_critic_parameter():
    learner = make()
    before = state(learner)
    learner.actor_step(tiny.batch(4))
    after = state(learner)
    for name in ("critic", "critic_optimizer", "target"):
        assert tiny.equal(before[name], after[name])
    assert learner.critic.weight.grad is None
    assert not tiny.equal(before["actor"], after["actor"])


def test_multiplier_replaces_the_weight():
    batch = tiny.batch(4)
    one = make(ConservativeConfig(actions=3, weight=1.0))
    learnt = make(ConservativeConfig(actions=3, weight=5.0, lagrange_threshold=0.8))
    for learner in (one, learnt):
        learner.critic_step(batch)
    torch.testing.assert_close(one.critic.weight, learnt.critic.weight)


@pytest.mark.parametrize("threshold, sign", [(-1e3, 1), (1e3, -1)])
def test_multiplier_rises_while_the_gap_is_too_wide(threshold, sign):
    learner = make(ConservativeConfig(actions=3, lagrange_threshold=threshold))
    before = learner._multiplier.item()
    learner.critic_step(tiny.batch(4))
    assert np.sign(learner._multiplier.item() - before) == sign


def test_calibration_without_returns_is_an_error():
    learner = make(ConservativeConfig(calibrated=True, actions=3))
    with pytest.raises(ValueError, match="mc_return"):
        learner.critic_step(tiny.batch(4))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"actor_reduce": "max"}, "actor_reduce"),
        ({"actor_rows": "first"}, "actor_rows"),
        ({"subset": 3}, "subset"),
        ({"utd": 0}, "utd"),
        ({"max_target_actions": 10}, "entropy_backup"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        ActorCriticConfig(**settings)


def test_policies_are_clipped_finite_and_follow_updates():
    learner = make()
    obs = np.zeros((3, 2), np.float32)
    mode = learner.policy(deterministic=True)
    before = mode.act(obs)
    assert np.array_equal(before, mode.act(obs))
    assert not np.array_equal(learner.policy().act(obs), learner.policy().act(obs))
    learner.update(tiny.Fixed(tiny.batch(4)))
    assert not np.array_equal(before, mode.act(obs))
    with torch.no_grad():
        next(learner.actor.parameters()).fill_(float("nan"))
    with pytest.raises(ArithmeticError, match="action"):
        mode.act(obs)


def test_take_over_copies():
    pretrained, learner = make(seed=1), make(seed=2)
    pretrained.update(tiny.Fixed(tiny.batch(4)))
    learner.take_over(pretrained.state_dict())
    handed, fresh = state(learner), copy.deepcopy(state(make(seed=2)))
    assert tiny.equal(handed["noise"], fresh["noise"])
    assert tiny.equal(handed["exploration"], fresh["exploration"])
    pretrained.update(tiny.Fixed(tiny.batch(4, seed=1)))
    assert tiny.equal(handed, state(learner))


def test_probe():
    learner = make(members=3)
    batch = tiny.batch(4)
    found = learner.probe(batch)
    q = learner.critic(batch["observation"], batch["action"])
    mode = learner.actor.mode(batch["next_observation"])
    value = learner.critic(batch["next_observation"], mode, weight=learner.target).amin(0)
    y = batch["reward"] + 0.99 * batch["mask"] * value
    torch.testing.assert_close(found["q"], q.mean().detach())
    torch.testing.assert_close(found["td"], ((q - y) ** 2).mean().detach())

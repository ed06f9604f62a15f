"""CQL: what the regulariser does to Q, and what the phases do."""

import dataclasses
import math

import pytest
import tiny
import torch

from embodied.agents import calql, cql
from embodied.agents.actor_critic import ConservativeConfig

SETTINGS = {**tiny.NETWORK, "batch_size": 4, "offline_updates": 3, "wait_steps": 2}
SMALL = ConservativeConfig(actions=3)


def make(*, seed=0, **changes):
    return cql.build(
        cql.CQLConfig(**{**SETTINGS, "conservative": SMALL, **changes}), tiny.task(seed)
    )


def with_returns(value, rows=4):
    return {**tiny.batch(rows), "mc_return": torch.full((rows,), value)}


def test_q_falls_on_sampled_actions_relative_to_the_data():
    learner, batch = make(critic_lr=1e-2), tiny.batch(4)
    plain = make(critic_lr=1e-2, conservative=ConservativeConfig(weight=0.0, actions=3))

    def advantage(learner):
        """Q of the data's actions over Q of other actions."""
        other = tiny.batch(4, seed=5)["action"]
        obs = batch["observation"]
        return (
            learner.critic.values(obs, batch["action"]) - learner.critic.values(obs, other)
        ).mean()

    before = advantage(learner)
    for _ in range(30):
        learner.critic_step(batch)
        plain.critic_step(batch)
    assert advantage(learner) > before + 0.5
    assert advantage(learner) > advantage(plain) + 0.5


def test_constant_q_has_the_known_gap():
    learner = make()
    with torch.no_grad():
        learner.critic.weight.zero_()
        learner.critic.weight[:, -1] = -4.0
    config = dataclasses.replace(SMALL, importance_weights=False)
    learner.conservative = config
    learner.critic_optimizer.zero_grad()
    assert learner._accumulate_conservative(tiny.batch(4))[
        "critic/cql_gap"
    ].item() == pytest.approx(0.0, abs=1e-6)


def test_a_bound_of_minus_infinity_makes_cal_ql_cql():
    plain = make()
    settings = {**SETTINGS, "conservative": dataclasses.replace(SMALL, calibrated=True)}
    calibrated = calql.build(calql.CalQLConfig(**settings), tiny.task())
    calibrated.load_state_dict(plain.state_dict())
    batch = with_returns(-math.inf)
    for _ in range(3):
        plain.critic_step(batch)
        calibrated.critic_step(batch)
        plain.actor_step(batch)
        calibrated.actor_step(batch)
    assert tiny.equal(plain.state_dict(), calibrated.state_dict())


def test_a_random_pair_is_regularised():
    learner = make(members=5, conservative=dataclasses.replace(SMALL, subset=2, weight=100.0))
    touched = set()
    for _ in range(10):
        learner.critic_optimizer.zero_grad()
        learner._accumulate_conservative(tiny.batch(4))
        members = learner.critic.weight.grad.abs().sum(1).nonzero().flatten().tolist()
        assert 1 <= len(members) <= 2  # drawn with replacement
        touched |= set(members)
    assert touched == set(range(5))


def test_defaults():
    config = cql.CQLConfig()
    assert (config.actor_lr, config.critic_lr, config.temperature_lr) == (1e-4, 3e-4, 1e-4)
    assert (config.members, config.subset, config.utd) == (2, 0, 1)
    assert not config.entropy_backup and not config.conservative.calibrated
    assert (config.conservative.weight, config.conservative.actions) == (5.0, 10)
    assert config.conservative.lagrange_threshold is None


def test_offline_then_online_with_the_data(tmp_path):
    config = cql.CQLConfig(**SETTINGS, conservative=SMALL, online_steps=8, online_utd=2)
    task = tiny.task(collector=tiny.collector())
    trainer = tiny.train(cql.recipe(config, task), tmp_path, checkpoint_every=0)
    trainer.run()
    # the third step is the first with more than wait_steps = 2 collected
    assert (trainer.counters.env_steps, trainer.counters.updates) == (8, 3 + 2 * 6)


def test_offline_then_online_without_the_data(tmp_path):
    config = cql.CQLConfig(**SETTINGS, conservative=SMALL, online_steps=8, offline_ratio=0.0)
    recipe = cql.recipe(config, tiny.task(collector=tiny.collector()))
    offline = recipe.phases[0].source
    trainer = tiny.train(recipe, tmp_path, checkpoint_every=0)
    tiny.run_phase(trainer, "offline")
    assert not offline.dropped
    trainer.run()
    assert offline.dropped
    assert recipe.phases[1].source is not offline


@pytest.mark.parametrize("ratio", [-0.5, 1.5])
def test_ratio_is_checked(ratio):
    with pytest.raises(ValueError, match="offline_ratio"):
        cql.CQLConfig(offline_ratio=ratio)


def test_settings_of_both_parents_are_checked():
    with pytest.raises(ValueError, match="actor_rows"):
        cql.CQLConfig(actor_rows="first")

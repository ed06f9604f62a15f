"""Cal-QL: the bound, and where the returns come from."""

import math

import numpy as np
import pytest
import tiny
import torch

from embodied.agents import calql
from embodied.agents.actor_critic import ConservativeConfig
from embodied.core.replay import RewardTransform

SMALL = ConservativeConfig(calibrated=True, actions=3)
SETTINGS = {**tiny.NETWORK, "batch_size": 4, "offline_updates": 3, "wait_steps": 2}


def make(**conservative):
    config = calql.CalQLConfig(
        **SETTINGS, conservative=ConservativeConfig(calibrated=True, actions=3, **conservative)
    )
    return calql.build(config, tiny.task())


def with_returns(value, rows=4):
    return {**tiny.batch(rows), "mc_return": torch.full((rows,), value)}


def gradient(learner, bound):
    learner.noise.manual_seed(0)
    learner.critic_optimizer.zero_grad()
    metrics = learner._accumulate_conservative(with_returns(bound))
    return metrics, learner.critic.weight.grad.clone()


def test_above_every_value_only_uniform_and_data_actions_count():
    """The bound enters the log-sum-exp as a constant, so with a large one only the data is left."""
    learner = make()
    metrics, clamped = gradient(learner, 1e4)
    assert metrics["critic/bound_rate"] == 1.0
    batch = tiny.batch(4)
    q = learner.critic(batch["observation"], batch["action"])
    (expected,) = torch.autograd.grad(-5.0 * q.mean(), learner.critic.weight)
    torch.testing.assert_close(clamped, expected)


def test_the_bound_rate_counts_policy_actions():
    metrics, _ = gradient(make(), -1e4)
    assert metrics["critic/bound_rate"] == 0.0


def test_the_uniform_actions_are_free_unless_asked():
    _, free = gradient(make(), 3.0)
    _, bound = gradient(make(bound_random_actions=True), 3.0)
    assert not torch.allclose(free, bound)


def rows_of(task, discount=0.9):
    rows = task.offline(discount).rows()
    return rows["reward"].numpy(), rows["mc_return"].numpy()


def test_returns_are_of_the_transformed_reward():
    """One success on the last of three steps and one failure, as 10 r - 5 of AntMaze."""
    data = tiny.episodes(2, 3)[::-1]
    task = tiny.task(data=data, reward=RewardTransform(10.0, -5.0))
    rewards, returns = rows_of(task, 0.99)
    assert rewards.tolist() == [-5, -5, 5, -5, -5, -5]
    assert returns.tolist() == pytest.approx([-5.0495, -0.05, 5.0, -500, -500, -500], abs=1e-4)


@pytest.mark.parametrize(
    "reward, success, failure",
    [((1.0, -1.0), [-1.99, -1.0, 0.0], -100.0), ((1.0, -4.0), None, -400.0)],
)
def test_failures_go_on_for_ever(reward, success, failure):
    data = tiny.episodes(2, 3)[::-1]
    _, returns = rows_of(tiny.task(data=data, reward=RewardTransform(*reward)), 0.99)
    assert returns[3:].tolist() == pytest.approx([failure] * 3, rel=1e-5)
    if success is not None:
        assert returns[:3].tolist() == pytest.approx(success, abs=1e-6)


def test_dense_failures_stop_at_the_last_step():
    data = tiny.episodes(2, 3)[::-1]
    task = tiny.task(data=data, reward=RewardTransform(1.0, -1.0), sparse=False)
    _, returns = rows_of(task, 0.99)
    assert returns[3:].tolist() == pytest.approx([-2.9701, -1.99, -1.0], abs=1e-5)


def test_fine_tuning_waits_for_a_finished_episode(tmp_path):
    config = calql.CalQLConfig(**SETTINGS, conservative=SMALL, online_steps=14)
    task = tiny.task(collector=tiny.collector(step_size=1e-3), reward=RewardTransform(1.0, -1.0))
    recipe = calql.recipe(config, task)
    trainer = tiny.train(recipe, tmp_path, checkpoint_every=0)
    tiny.run_phase(trainer, "offline")
    trainer.step()
    online, updates = recipe.phases[1].source, []
    while not trainer.done:
        trainer.step()
        updates.append(trainer.counters.updates - 3)
    assert updates[:9] == [0] * 9 and updates[9] == 1  # the horizon is 10
    stored = online.online.rows.view(0, 10)
    assert np.allclose(stored["mc_return"], -1.0 / (1 - config.discount))
    assert len(online.online) == 10


def test_half_of_an_online_batch_is_offline(tmp_path):
    config = calql.CalQLConfig(**SETTINGS, conservative=SMALL, online_steps=12)
    recipe = calql.recipe(config, tiny.task(collector=tiny.collector()))
    assert recipe.phases[1].source.offline_ratio == 0.5


def test_offline_updates_are_finite(tmp_path):
    config = calql.CalQLConfig(**SETTINGS, conservative=SMALL)
    recipe = calql.recipe(config, tiny.task())
    learner, source = recipe.phases[0].learner, recipe.phases[0].source
    for _ in range(3):
        metrics = learner.update(source)
    assert {"critic/cql_gap", "critic/cql_loss", "critic/bound_rate"} <= metrics.keys()
    assert all(math.isfinite(float(v)) for v in metrics.values())


def test_defaults():
    config = calql.CalQLConfig()
    assert config.conservative.calibrated and not config.conservative.bound_random_actions
    assert (config.conservative.weight, config.conservative.actions) == (5.0, 10)
    assert (config.actor_lr, config.critic_lr, config.offline_ratio) == (1e-4, 3e-4, 0.5)
    assert (config.discount, config.tau, config.entropy_backup) == (0.99, 0.005, False)

"""BC: maximum likelihood, nothing else."""

import numpy as np
import pytest
import tiny
import torch

from embodied.agents import bc

SETTINGS = {**tiny.NETWORK, "batch_size": 16}
del SETTINGS["critic_hidden"]


def make(**changes):
    return bc.BC(bc.BCConfig(**SETTINGS | changes), tiny.task())


def test_the_loss_is_the_negative_log_likelihood():
    learner, batch = make(), tiny.batch(16)
    mean, std = learner.actor(batch["observation"])
    normal = torch.distributions.Normal(mean, std).log_prob(batch["action"].atanh())
    expected = -(normal - torch.log(1 - batch["action"] ** 2)).sum(-1).mean()
    loss = learner.update(tiny.Fixed(batch))["actor/bc_loss"]
    torch.testing.assert_close(loss, expected.detach())


def test_it_learns_a_function_of_the_state():
    learner, batch = make(actor_lr=1e-2), tiny.batch(16)
    batch["action"] = 0.5 * torch.tanh(batch["observation"])
    for _ in range(300):
        learner.update(tiny.Fixed(batch))
    mode = learner.policy(deterministic=True).act(batch["observation"].numpy())
    assert np.abs(mode - batch["action"].numpy()).mean() < 0.05


def test_actions_on_the_border_are_finite():
    batch = tiny.batch(16)
    batch["action"] = torch.sign(batch["action"])
    assert torch.isfinite(make().update(tiny.Fixed(batch))["actor/bc_loss"])


def test_rewards_do_not_matter():
    one, two, batch = make(), make(), tiny.batch(16)
    one.update(tiny.Fixed(batch))
    two.update(tiny.Fixed({**batch, "reward": batch["reward"] + 1.0, "mask": 1 - batch["mask"]}))
    assert tiny.equal(one.state_dict(), two.state_dict())


def test_a_bad_batch_changes_nothing():
    learner, batch = make(), tiny.batch(16)
    before = tiny.frozen(learner)
    batch["action"][3, 0] = float("nan")
    with pytest.raises(ArithmeticError, match="action"):
        learner.update(tiny.Fixed(batch))
    assert tiny.equal(before, learner.state_dict())


def test_recipe(tmp_path):
    recipe = bc.recipe(bc.BCConfig(**SETTINGS, offline_updates=4), tiny.task())
    trainer = tiny.train(recipe, tmp_path, checkpoint_every=0)
    trainer.run()
    assert (trainer.counters.updates, trainer.counters.samples) == (4, 64)

"""IQL against a plain re-statement, in the authors' order of steps."""

import copy
import math

import numpy as np
import pytest
import tiny
import torch

from embodied.agents import iql

SETTINGS = {**tiny.NETWORK, "batch_size": 8}


def make(**changes):
    learner = iql.IQL(iql.IQLConfig(**SETTINGS | changes), tiny.task())
    for network in (learner.actor, learner.critic, learner.value):
        network.double()
    learner.target = learner.target.double()
    return learner


class Reference:
    """V, then the actor with the new V, then Q with the new V, then the targets."""

    def __init__(self, learner):
        self.config = learner.config
        self.actor, self.critic, self.value = map(
            copy.deepcopy, (learner.actor, learner.critic, learner.value)
        )
        self.target = learner.target.clone()
        config = self.config
        self.adams = {
            network: torch.optim.Adam(network.parameters(), lr=lr)
            for network, lr in (
                (self.value, config.critic_lr),
                (self.actor, config.actor_lr),
                (self.critic, config.critic_lr),
            )
        }

    def step(self, network, loss):
        self.adams[network].zero_grad()
        loss.backward()
        self.adams[network].step()

    def update(self, b):
        config, s, a = self.config, b["observation"], b["action"]
        q = self.critic(s, a, weight=self.target).amin(0).detach()
        u = q - self.value(s)[:, 0]
        self.step(self.value, ((config.expectile - (u < 0).double()).abs() * u**2).mean())
        advantage = (q - self.value(s)[:, 0]).detach()
        weight = (config.inverse_temperature * advantage).exp().clamp(max=config.weight_clip)
        self.step(self.actor, -(weight * self.log_prob(s, a)).mean())
        next_value = self.value(b["next_observation"])[:, 0].detach()
        y = b["reward"] + config.discount * b["mask"] * next_value
        self.step(self.critic, ((self.critic(s, a) - y) ** 2).mean())
        self.target = (1 - config.tau) * self.target + config.tau * self.critic.weight.detach()

    def log_prob(self, s, a):
        mean, std = self.actor(s)
        if not self.config.squash:
            return torch.distributions.Normal(mean, std).log_prob(a).sum(-1)
        normal = torch.distributions.Normal(mean, std).log_prob(a.atanh())
        return (normal - torch.log(1 - a**2)).sum(-1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"expectile": 0.9, "inverse_temperature": 10.0, "members": 4},
        {"squash": True, "critic_layer_norm": True, "state_dependent_std": True},
        {"inverse_temperature": 100.0, "weight_clip": 2.0},
    ],
)
def test_agrees_with_the_reference(changes):
    learner = make(actor_lr=1e-2, critic_lr=1e-2, tau=0.1, **changes)
    reference = Reference(learner)
    for i in range(5):
        batch = tiny.batch(8, seed=i, dtype=torch.float64)
        learner.update(tiny.Fixed(batch))
        reference.update(batch)
    pairs = [(learner.target, reference.target)]
    for name in ("actor", "critic", "value"):
        mine, other = getattr(learner, name), getattr(reference, name)
        pairs += zip(mine.parameters(), other.parameters(), strict=True)
    for mine, other in pairs:
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kappa, fixed_point", [(0.5, 1.0), (0.7, 1.30769), (0.9, 1.72727)])
def test_the_value_is_an_expectile(kappa, fixed_point):
    """Three actions with values 0, 1 and 2 in one state."""
    learner = make(expectile=kappa, critic_lr=0.02)
    obs = torch.zeros(3, 2, dtype=torch.float64)
    q = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    for _ in range(300):
        learner._value_step(obs, q)
    assert learner.value(obs)[0].item() == pytest.approx(fixed_point, abs=1e-2)


def test_a_termination_does_not_bootstrap():
    learner = make(critic_lr=0.02, discount=1.0)
    batch = {k: v[:2] for k, v in tiny.batch(8, dtype=torch.float64).items()}
    batch["mask"] = torch.tensor([0.0, 1.0], dtype=torch.float64)
    with torch.no_grad():
        for parameter in learner.value.parameters():
            parameter.zero_()
        learner.value.linears[-1].bias.fill_(5.0)  # V = 5 everywhere
    for _ in range(800):
        learner._critic_step(batch)
    expected = batch["reward"] + torch.tensor([0.0, 5.0], dtype=torch.float64)
    q = learner.critic.values(batch["observation"], batch["action"])
    torch.testing.assert_close(q, expected.expand(2, -1), atol=2e-2, rtol=0)


def test_cosine_decay():
    learner = iql.IQL(
        iql.IQLConfig(**SETTINGS, cosine_decay=True, offline_updates=4, actor_lr=1e-3), tiny.task()
    )
    rates = []
    for i in range(6):
        learner.update(tiny.Fixed(tiny.batch(8, seed=i)))
        rates.append(learner.actor_optimizer.lr)
    expected = [5e-4 * (1 + math.cos(math.pi * min(i, 4) / 4)) for i in range(6)]
    assert rates == pytest.approx(expected)


def test_dropout_is_of_the_learner_only():
    learner = iql.IQL(iql.IQLConfig(**SETTINGS, dropout=0.5), tiny.task())
    before = learner.noise.get_state()
    learner.update(tiny.Fixed(tiny.batch(8)))
    assert not torch.equal(before, learner.noise.get_state())
    policy, obs = learner.policy(deterministic=True), np.zeros((2, 2), np.float32)
    assert np.array_equal(policy.act(obs), policy.act(obs))


def test_samples_are_clipped():
    learner = iql.IQL(iql.IQLConfig(**SETTINGS), tiny.task())  # std 1 at first
    actions = learner.policy().act(np.zeros((200, 2), np.float32))
    assert np.abs(actions).max() == 1.0


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"expectile": 1.0}, "expectile"),
        ({"dropout": 0.1, "squash": True}, "squash"),
        ({"offline_ratio": 2.0}, "offline_ratio"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        iql.IQLConfig(**settings)


def test_fine_tuning_keeps_all_the_data(tmp_path):
    config = iql.IQLConfig(**SETTINGS, offline_updates=2, online_steps=6, wait_steps=0)
    recipe = iql.recipe(config, tiny.task(collector=tiny.collector()))
    trainer = tiny.train(recipe, tmp_path, checkpoint_every=0)
    trainer.run()
    assert (trainer.counters.env_steps, trainer.counters.updates) == (6, 2 + 6)
    assert recipe.phases[1].source.offline_ratio is None


def test_defaults_are_the_authors():
    config = iql.IQLConfig()
    assert (config.expectile, config.inverse_temperature, config.weight_clip) == (0.7, 3.0, 100.0)
    assert (config.actor_lr, config.critic_lr, config.tau) == (3e-4, 3e-4, 0.005)
    assert (config.hidden, config.members, config.offline_ratio) == ((256, 256), 2, -1)

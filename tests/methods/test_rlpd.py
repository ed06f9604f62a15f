"""RLPD: what every minibatch is made of, and that nothing is trained before the first step."""

import pytest
import tiny
import torch

from embodied.agents import rlpd

SETTINGS = {
    **tiny.NETWORK,
    "members": 4,
    "batch_size": 4,
    "utd": 2,
    "online_steps": 30,
    "random_steps": 5,
}
MARK = 7.0  # no observation of the maze is that large


def make(**changes):
    data = tiny.episodes()
    for episode in data:
        episode["observation"] = episode["observation"] + MARK
    task = tiny.task(data=data, collector=tiny.collector())
    return rlpd.recipe(rlpd.RLPDConfig(**SETTINGS | changes), task)


def test_every_minibatch_is_half_offline(tmp_path):
    recipe = make()
    trainer = tiny.train(recipe, tmp_path, checkpoint_every=0)
    learner = recipe.phases[1].learner
    seen, actor_seen = [], []
    critic_step, actor_step = learner.critic_step, learner.actor_step

    def offline(batch):
        return (batch["observation"][:, 0] > MARK / 2).tolist()

    def spy_critic(batch):
        seen.append((offline(batch), batch["observation"].clone()))
        return critic_step(batch)

    def spy_actor(batch):
        actor_seen.append((offline(batch), batch["observation"].clone()))
        return actor_step(batch)

    learner.critic_step, learner.actor_step = spy_critic, spy_actor
    trainer.run()
    assert len(seen) == 2 * 25 and len(actor_seen) == 25
    assert all(rows == [False, True, False, True] for rows, _ in seen)
    for last, actor in zip(seen[1::2], actor_seen, strict=True):
        assert torch.equal(last[1], actor[1])


def test_ratio_zero_is_online_only(tmp_path):
    recipe = make(offline_ratio=0.0)
    trainer = tiny.train(recipe, tmp_path, checkpoint_every=0)
    tiny.run_phase(trainer, "random")
    batch = recipe.phases[1].source.next(8)
    assert (batch["observation"] < MARK / 2).all()


def test_nothing_is_trained_at_first(tmp_path):
    recipe = make()
    trainer = tiny.train(recipe, tmp_path, checkpoint_every=0)
    before = tiny.frozen(recipe.phases[0].learner)
    tiny.run_phase(trainer, "random")
    assert tiny.equal(before, recipe.phases[0].learner.state_dict())
    trainer.step()
    assert not tiny.equal(before["critic"], recipe.phases[0].learner.state_dict()["critic"])


def test_policy_first_acts_with_the_untrained_policy(tmp_path):
    recipe = make(policy_first=True)
    trainer = tiny.train(recipe, tmp_path, checkpoint_every=0)
    before = tiny.frozen(recipe.phases[0].learner)
    tiny.run_phase(trainer, "random")
    after = recipe.phases[0].learner.state_dict()
    assert not torch.equal(before["exploration"], after["exploration"])
    assert tiny.equal(before["actor"], after["actor"])


def test_without_random_steps(tmp_path):
    recipe = make(random_steps=0)
    assert [p.name for p in recipe.phases] == ["online"]
    trainer = tiny.train(recipe, tmp_path, checkpoint_every=0)
    trainer.run()
    assert (trainer.counters.env_steps, trainer.counters.updates) == (30, 30)
    assert "offline" in trainer.probes


def test_defaults_are_the_authors():
    config = rlpd.RLPDConfig()
    assert (config.members, config.subset, config.subset_replacement) == (10, 2, False)
    assert (config.utd, config.batch_size, config.offline_ratio) == (20, 256, 0.5)
    assert (config.actor_reduce, config.actor_rows) == ("mean", "last")
    assert config.critic_layer_norm and not config.actor_layer_norm
    assert config.target_entropy_per_dim == -0.5 and config.entropy_backup
    assert (config.actor_lr, config.critic_lr, config.temperature_lr) == (3e-4, 3e-4, 3e-4)
    learner = rlpd.build(rlpd.RLPDConfig(**SETTINGS), tiny.task())
    assert learner.target_entropy == -1.0  # -d/2


def test_random_steps_within_the_budget():
    with pytest.raises(ValueError, match="must exceed"):
        rlpd.RLPDConfig(online_steps=5, random_steps=5)

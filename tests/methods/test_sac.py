"""SAC and REDQ: defaults, random actions first, entropy in the backup."""

import numpy as np
import pytest
import tiny
import torch

from embodied.agents import sac

SETTINGS = {**tiny.NETWORK, "batch_size": 2, "online_steps": 12, "random_steps": 5}


def run(tmp_path, **changes):
    recipe = sac.recipe(sac.SACConfig(**SETTINGS | changes), tiny.task(collector=tiny.collector()))
    return tiny.train(recipe, tmp_path, checkpoint_every=0), recipe


def test_random_actions_first_and_no_update(tmp_path):
    trainer, recipe = run(tmp_path)
    learner, replay = recipe.phases[0].learner, recipe.phases[0].source
    before = tiny.frozen(learner)
    tiny.run_phase(trainer, "random")
    assert tiny.equal(before, learner.state_dict())
    expected = np.random.Generator(tiny.Streams(0).numpy("sac/random").bit_generator)
    drawn = expected.uniform(-1, 1, (5, 2)).astype(np.float32)
    assert np.array_equal(replay.rows.view(0, 5)["action"].numpy(), drawn)
    trainer.run()
    assert (trainer.counters.env_steps, trainer.counters.updates) == (12, 7)


def test_without_random_steps_there_is_no_such_phase(tmp_path):
    trainer, recipe = run(tmp_path, random_steps=0)
    assert [p.name for p in recipe.phases] == ["online"]
    trainer.run()
    assert (trainer.counters.env_steps, trainer.counters.updates) == (12, 12)


def test_random_steps_within_the_budget():
    with pytest.raises(ValueError, match="must exceed"):
        sac.SACConfig(online_steps=5, random_steps=5)


def test_the_backup_has_the_entropy():
    batch = tiny.batch(4)
    targets = []
    for entropy in (True, False):
        config = sac.SACConfig(**SETTINGS, entropy_backup=entropy, init_temperature=0.5)
        learner = sac.build(config, tiny.task())
        targets.append(learner._td_target(batch))
    noise = torch.Generator()
    noise.set_state(sac.build(config, tiny.task()).noise.get_state())
    _, log_prob = learner.actor.sample(
        batch["next_observation"], torch.randn(4, 2, generator=noise)
    )
    difference = -0.99 * batch["mask"] * 0.5 * log_prob.detach()
    torch.testing.assert_close(targets[0] - targets[1], difference)


def test_redq_is_a_setting():
    config = sac.SACConfig(
        **tiny.NETWORK,
        batch_size=2,
        members=10,
        subset=2,
        utd=20,
        actor_reduce="mean",
        actor_rows="last",
    )
    assert not config.subset_replacement
    learner = sac.build(config, tiny.task())
    subsets, values = [], learner.critic.values

    def spy(*args, members=None, **kwargs):
        subsets.append(members)
        return values(*args, members=members, **kwargs)

    learner.critic.values = spy
    learner.update(tiny.Fixed(tiny.batch(40)))
    assert len(subsets) == 20
    assert all(len(set(ids)) == 2 for ids in subsets)
    assert len({tuple(ids) for ids in subsets}) > 5
    assert learner.critic_optimizer.state_dict()["0"]["step"] == 20
    assert learner.temperature_optimizer.state_dict()["0"]["step"] == 1


def test_defaults():
    config = sac.SACConfig()
    assert (config.members, config.subset, config.utd, config.batch_size) == (2, 0, 1, 256)
    assert (config.actor_lr, config.critic_lr, config.temperature_lr) == (3e-4, 3e-4, 3e-4)
    assert (config.discount, config.tau, config.hidden) == (0.99, 0.005, (256, 256))
    assert config.entropy_backup and config.actor_reduce == "min"
    assert config.target_entropy_per_dim == -1.0

"""PPO: its critic, what its update does on hand-made batches, and that it learns."""

import dataclasses

import numpy as np
import pytest
import torch

from embodied.core.trainer import Trainer, TrainerOptions
from embodied.llm.ppo import PPO, PPOConfig, recipe
from policies.token_values import TokenValues
from tests import tiny_language

pytest.importorskip("transformers")
SMALL = PPOConfig(prompts=4, epochs=2, lr=1e-2, critic_lr=1e-2, temperature=1.0)


def test_a_value_does_not_see_its_token():
    model = tiny_language.model()
    critic = TokenValues(model, torch.Generator().manual_seed(0))
    batch = tiny_language.Batches().next(4)
    inputs = [batch[name] for name in ("prompt", "prompt_mask", "completion", "mask")]
    before = critic(*inputs)
    assert before.shape == (4, 4)
    changed = inputs[2].clone()
    changed[:, 2] = (changed[:, 2] + 1) % 60
    after = critic(inputs[0], inputs[1], changed, inputs[3])
    full = inputs[3].all(1)  # elsewhere token 2 is padding
    torch.testing.assert_close(after[:, :3], before[:, :3])
    assert (after[full, 3] != before[full, 3]).all()


def test_only_the_critic_learns_where_the_policy_may_not():
    learner = PPO(dataclasses.replace(SMALL, lr=0.0), tiny_language.task())
    source, losses = tiny_language.Batches(), []
    batch = source.next(4)
    batch["old_log_prob"] = torch.full((4, 4), -4.0)

    class Same:
        def next(self, n):
            return batch

    before = [p.clone() for p in learner.model.network.parameters()]
    losses = [learner.update(Same())["critic/loss"].item() for _ in range(12)]
    assert losses[-1] < losses[0]
    assert all(map(torch.equal, before, learner.model.network.parameters()))


def test_it_learns_what_is_rewarded(tmp_path):
    task = tiny_language.task(length=1)
    task.score = lambda prompt, text: float(text.startswith("3"))
    config = dataclasses.replace(SMALL, steps=30, prompts=20, lr=3e-2, kl_coef=0.0)
    options = TrainerOptions(log_every=1000, checkpoint_every=0, tensorboard=False)
    trainer = Trainer(recipe(config, task), tmp_path / "run", options=options)
    trainer.run()
    _, texts, _ = trainer.recipe.phases[0].learner.policy().answer(task.prompts)
    assert np.mean([text.startswith("3") for text in texts]) > 0.9


def test_a_dear_reference_is_kept(tmp_path):
    """With a large KL coefficient and no score the policy goes back to the reference."""
    task = tiny_language.task(length=1)
    task.score = lambda prompt, text: 0.0
    config = dataclasses.replace(SMALL, steps=12, prompts=20, lr=5e-3, kl_coef=1.0)
    learner = PPO(config, task)
    with torch.no_grad():
        for p in learner.model.network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    made = recipe(config, task)
    made.phases[0].learner = learner
    trainer = Trainer(made, tmp_path / "run", options=TrainerOptions(tensorboard=False))
    kls = []
    while not trainer.done:
        trainer.step()
        kls += [trainer.metrics.pop().get("kl", np.nan)] if trainer.counters.updates else []
    kls = [float(kl) for kl in kls if np.isfinite(kl)]
    assert np.mean(kls[-3:]) < 0.5 * np.mean(kls[:3])


def test_settings_are_checked():
    with pytest.raises(ValueError, match="cannot be cut"):
        PPOConfig(prompts=10, minibatches=3)
    with pytest.raises(ValueError, match="k1 or k3"):
        PPOConfig(kl="k2")

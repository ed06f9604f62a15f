"""SFT: what it fits, and what it leaves alone."""

import pytest
import torch

from embodied.core.trainer import Trainer, TrainerOptions
from embodied.llm.sft import SFT, SFTConfig, recipe
from tests import tiny_language

pytest.importorskip("transformers")
OPTIONS = TrainerOptions(log_every=1000, tensorboard=False)


def test_it_learns_to_answer(tmp_path):
    task = tiny_language.task(length=1)
    task.examples = [e for e in task.examples if len(e.response) == 2]
    config = SFTConfig(updates=80, batch_size=16, lr=2e-2, final_lr=0.1)
    trainer = Trainer(recipe(config, task), tmp_path / "run", options=OPTIONS)
    trainer.run()
    policy = trainer.recipe.phases[0].learner.policy(deterministic=True)
    prompts = sorted({e.prompt for e in task.examples})
    _, texts, _ = policy.answer(prompts)
    for prompt, text in zip(prompts, texts, strict=True):
        assert tiny_language.CHAIN.verify(prompt, text).all_steps


def test_padding_and_the_prompt_are_no_targets():
    losses = []
    for pad in (0, 7):
        learner, batch = SFT(SFTConfig(batch_size=4), tiny_language.task()), None
        batch = tiny_language.Batches().next(4)
        batch["completion"][~batch["mask"]] = pad

        class Once:
            def next(self, n, batch=batch):
                return batch

        losses.append(learner.update(Once())["loss"].item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_the_learning_rate_follows_its_schedule():
    config = SFTConfig(updates=10, batch_size=4, lr=1.0, warm_up=2, final_lr=0.1)
    learner, rates = SFT(config, tiny_language.task()), []
    for _ in range(11):
        learner.update(tiny_language.Batches())
        rates.append(learner.optimizer.lr)
    assert rates[:3] == [0.5, 1.0, 1.0] and rates[-1] == pytest.approx(0.1)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_a_weight_of_zero_is_not_learnt_from():
    learner = SFT(SFTConfig(batch_size=4, weight_decay=0.0), tiny_language.task())
    batch = tiny_language.Batches().next(4)
    batch["weight"] = torch.zeros(4)

    class Once:
        def next(self, n):
            return batch

    assert learner.update(Once())["grad_norm"] == 0

"""GRPO: its loss by hand, what micro-batches and resuming may not change, and that it learns."""

import dataclasses

import numpy as np
import pytest
import torch

from embodied.core.checkpoint import digest
from embodied.core.trainer import Trainer, TrainerOptions
from embodied.core.types import UserError
from embodied.llm.grpo import GRPO, GRPOConfig, grpo_loss, recipe
from tests import tiny_language

pytest.importorskip("transformers")
OPTIONS = TrainerOptions(log_every=1000, checkpoint_every=0, tensorboard=False)
SMALL = GRPOConfig(prompts=2, group=4, lr=1e-2, steps=6)


class Same:
    def __init__(self, n=8):
        self.batch = tiny_language.Batches().next(n)

    def next(self, n):
        return self.batch


def test_the_loss_by_hand():
    ratio = torch.tensor([[1.5, 0.9, 1, 1], [0.5, 1.1, 1.3, 0.7]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    advantage = torch.tensor([1.0, -1.0], dtype=torch.float64)
    old = torch.zeros_like(ratio)
    how = {"longest": 8, "tokens": mask.sum(), "sequences": 2}
    for settings, expected in (
        ({}, 0.3166667),
        ({"aggregation": "grpo"}, -0.025),
        ({"aggregation": "dr_grpo", "clip_high": 0.28}, 0.11375),
    ):
        config = dataclasses.replace(SMALL, **settings)
        loss, metrics = grpo_loss(config, ratio.log(), old, None, advantage, mask, **how)
        assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert metrics["clipped"].item() == pytest.approx(3 / 6)
    ref = torch.full_like(ratio, -0.5)
    config = dataclasses.replace(SMALL, beta=0.1)
    with_kl, metrics = grpo_loss(config, ratio.log(), old, ref, advantage, mask, **how)
    d = ratio.log() + 0.5
    kl = ((torch.exp(-d) + d - 1) * ratio * mask).sum() / 6
    assert with_kl.item() == pytest.approx(0.3166667 + 0.1 * kl.item(), abs=1e-6)


@pytest.mark.parametrize("aggregation", ["dapo", "grpo", "dr_grpo", "seq_sum"])
def test_micro_batches_change_nothing(aggregation):
    gradients, told = [], []
    for size in (0, 4):
        config = dataclasses.replace(
            SMALL, aggregation=aggregation, micro_batch=size, epochs=2, beta=0.1
        )
        learner = GRPO(config, tiny_language.task())
        told.append(learner.update(Same()))
        gradients.append([p.grad for p in learner.optimizer.parameters])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-4)
    assert told[0].keys() == told[1].keys()
    for name, value in told[0].items():
        assert float(told[1][name]) == pytest.approx(float(value), rel=1e-4, abs=1e-6), name


def test_equal_rewards_teach_nothing():
    source = Same()
    source.batch["reward"] = torch.zeros(8, 4)
    metrics = GRPO(SMALL, tiny_language.task()).update(source)
    assert metrics["grad_norm"] == 0 and metrics["advantage_zero"] == 1


def run(directory, config=SMALL, seed=0, **options):
    made = recipe(config, tiny_language.task(seed))
    return Trainer(made, directory, options=dataclasses.replace(OPTIONS, **options))


def test_resumed_to_the_bit(tmp_path):
    whole = run(tmp_path / "whole")
    whole.run()
    cut = run(tmp_path / "cut", checkpoint_every=1)
    for _ in range(3):
        cut.step()
    cut.close()
    again = run(tmp_path / "cut", seed=9)  # weights and streams come from the checkpoint
    assert again.resume() == 3
    again.run()
    for name, state in whole.state_dict().items():
        if name not in ("trainer", "config"):
            assert digest({"": state}) == digest({"": again.state_dict()[name]}), name
    assert whole.counters.tokens == again.counters.tokens > 0
    assert whole.counters.updates == 6 and whole.counters.episodes == 48


def test_it_learns_what_is_rewarded(tmp_path):
    task = tiny_language.task(length=1)
    task.score = lambda prompt, text: float(text.startswith("3"))
    config = GRPOConfig(steps=45, prompts=4, group=8, lr=3e-2)
    trainer = Trainer(recipe(config, task), tmp_path / "run", options=OPTIONS)
    trainer.run()
    _, texts, _ = trainer.recipe.phases[0].learner.policy().answer(task.prompts)
    assert np.mean([text.startswith("3") for text in texts]) > 0.9


def test_a_task_without_rewards_is_refused():
    task = tiny_language.task()
    task.score = None
    with pytest.raises(UserError, match="generates answers"):
        recipe(SMALL, task)
    with pytest.raises(ValueError, match="group must be at least 2"):
        GRPOConfig(group=1)

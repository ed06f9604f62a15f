"""DPO: where it starts, what it moves, and that it learns the better answers."""

import math

import pytest
import torch

from embodied.core.trainer import Trainer, TrainerOptions
from embodied.llm.dpo import DPO, DPOConfig, recipe
from tests import tiny_language

pytest.importorskip("transformers")


def test_it_starts_at_ln_2_and_leaves_the_reference_alone():
    learner = DPO(DPOConfig(batch_size=4, lr=1e-2), tiny_language.task())
    source = tiny_language.Batches(rows=2)
    before = [p.clone() for p in learner.reference.network.parameters()]
    metrics = learner.update(source)
    assert metrics["loss"].item() == pytest.approx(math.log(2), abs=1e-6)
    assert metrics["preferred"] == 0 and metrics["grad_norm"] > 0
    assert all(map(torch.equal, before, learner.reference.network.parameters()))


def test_swapped_pairs_give_the_opposite_gradient():
    gradients = []
    for swap in (False, True):
        learner = DPO(DPOConfig(batch_size=4, clip_norm=1e9), tiny_language.task())
        batch = tiny_language.Batches(rows=2).next(4)
        if swap:
            batch = {name: torch.cat(column.chunk(2)[::-1]) for name, column in batch.items()}

        class Once:
            def next(self, n, batch=batch):
                return batch

        learner.update(Once())
        gradients.append(torch.cat([p.grad.flatten() for p in learner.optimizer.parameters]))
    torch.testing.assert_close(gradients[0], -gradients[1], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge"])
def test_it_learns_what_is_preferred(loss, tmp_path):
    config = DPOConfig(updates=30, batch_size=20, lr=1e-2, loss=loss)
    options = TrainerOptions(log_every=1, tensorboard=False)
    trainer = Trainer(recipe(config, tiny_language.task()), tmp_path / "run", options=options)
    trainer.run()
    learner = trainer.recipe.phases[0].learner
    assert learner.update(trainer.recipe.phases[0].source)["preferred"] > 0.8


def test_settings_are_checked():
    with pytest.raises(ValueError, match="sigmoid, robust, hinge, ipo"):
        DPOConfig(loss="dpo")
    with pytest.raises(ValueError, match="label_smoothing"):
        DPOConfig(label_smoothing=0.5)

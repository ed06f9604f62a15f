"""SPIN: where an iteration starts, what minimum the theory promises, how iterations follow."""

import dataclasses
import math

import pytest
import torch

from embodied.core.checkpoint import digest
from embodied.core.trainer import Trainer, TrainerOptions
from embodied.llm.spin import SPIN, SPINConfig, recipe
from embodied.objectives.likelihood import sequence_sums
from embodied.objectives.preference import preference_loss
from tests import tiny_language

pytest.importorskip("transformers")
OPTIONS = TrainerOptions(log_every=1000, checkpoint_every=0, tensorboard=False)
SMALL = SPINConfig(iterations=3, updates=3, batch_size=4, lr=1e-3, answers=8, warm_up=0.0)


class Same:
    def __init__(self, batch):
        self.batch = batch

    def next(self, n):
        return self.batch


def gradients(learner):
    return torch.cat([p.grad.flatten() for p in learner.optimizer.parameters])


@pytest.mark.parametrize("beta", [0.1, 5.0])
def test_it_starts_at_ln_2_with_half_the_difference_of_the_scores(beta):
    learner = SPIN(dataclasses.replace(SMALL, beta=beta, clip_norm=1e9), tiny_language.task())
    batch = tiny_language.Batches(rows=2).next(4)
    learner.optimizer.zero_grad()
    real, own = sequence_sums(learner.log_probs(batch), batch["mask"]).chunk(2)
    (-beta / 2 * (real - own).mean()).backward()
    expected = gradients(learner)
    metrics = learner.update(Same(batch))
    assert metrics["loss"].item() == pytest.approx(math.log(2), abs=1e-6)
    torch.testing.assert_close(gradients(learner), expected, atol=1e-5, rtol=0)


def test_equal_answers_teach_nothing_and_swapped_ones_the_opposite():
    batch = tiny_language.Batches(rows=2).next(4)
    swapped = {name: torch.cat(column.chunk(2)[::-1]) for name, column in batch.items()}
    equal = {name: torch.cat(2 * [column.chunk(2)[0]]) for name, column in batch.items()}
    found = []
    for each in (batch, swapped, equal):
        learner = SPIN(dataclasses.replace(SMALL, clip_norm=1e9), tiny_language.task())
        loss = learner.update(Same(each))["loss"].item()
        assert loss == pytest.approx(math.log(2), abs=1e-6)
        found.append(gradients(learner))
    torch.testing.assert_close(found[0], -found[1], atol=1e-6, rtol=1e-4)
    assert found[2].abs().max() < 1e-8


def test_hinge_is_one_at_zero():
    zero = torch.zeros(3)
    assert preference_loss(zero, zero, 0.1, kind="hinge").tolist() == [1, 1, 1]


def expected_loss(p, data, old, beta):
    """Over all pairs of a demonstration and an answer of the opponent: a scalar."""
    ratio = p.log() - old.log()
    pairs = preference_loss(ratio[:, None], ratio[None, :], beta)
    return (data[:, None] * old[None, :] * pairs).sum()


def closed_form(data, old, beta):
    p = old * (data / old) ** (1 / beta)
    return p / p.sum()


def fitted(data, old, beta, steps):
    logits = old.log().clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([logits], max_iter=steps, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = expected_loss(logits.softmax(-1), data, old, beta)
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits.detach().softmax(-1), closure().item()


DATA = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
OLD = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)


@pytest.mark.parametrize(
    "beta, expected",
    [
        (0.5, (0.8909, 0.0727, 0.0364)),
        (1.0, (0.7, 0.2, 0.1)),
        (2.0, (0.5550, 0.2967, 0.1483)),
        (10.0, (0.4304, 0.3797, 0.1899)),
    ],
)
def test_the_minimum_over_three_answers(beta, expected):
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(closed_form(DATA, OLD, beta), expected, atol=1e-4, rtol=0)
    found, loss = fitted(DATA, OLD, beta, 300)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert loss == pytest.approx(0.60489, abs=1e-5)


def test_the_data_is_the_fixed_point():
    found, _ = fitted(DATA, DATA, 1.0, 50)
    assert (found - DATA).abs().sum() / 2 < 1e-3
    p, before = OLD, math.inf
    for _ in range(15):
        kl = (DATA * (DATA / p).log()).sum().item()
        assert kl < before
        p, before = closed_form(DATA, p, 2.0), kl
    torch.testing.assert_close(p, DATA, atol=1e-4, rtol=0)


def run(directory, config=SMALL, seed=0, **options):
    made = recipe(config, tiny_language.task(seed))
    return Trainer(made, directory, options=dataclasses.replace(OPTIONS, **options))


def weights(model):
    return digest({"": dict(model.network.state_dict())})


def test_iterations(tmp_path):
    trainer = run(tmp_path / "run")
    learner, pairs = trainer.phase.learner, trainer.phase.source
    for iteration in range(3):
        begun = weights(learner.model)
        while trainer.phase and trainer.phase.name == "answer":
            trainer.step()
        assert weights(learner.model) == begun == weights(learner.reference)
        rounds = [a.round for a in pairs.kept]
        assert sorted(set(rounds)) == [iteration - 1, iteration][iteration == 0 :]
        newest = [a.index for a in pairs.kept if a.round == iteration]
        assert sorted(newest) == list(range(20)), "each prompt is answered once"
        while trainer.phase_index == 2 * iteration + 1 or trainer.due:
            trainer.step()
        assert weights(learner.reference) == begun != weights(learner.model)
    assert trainer.done and trainer.counters.episodes == 60 and trainer.counters.updates == 9


def test_pairs_hold_the_demonstration_of_the_prompt(tmp_path):
    trainer = run(tmp_path / "run")
    while trainer.phase.name == "answer":
        trainer.step()
    task, batch = tiny_language.task(), trainer.phase.source.next(5)
    texts = [
        task.model.tokenizer.decode(torch.cat([row[real], after[kept]]))
        for row, real, after, kept in zip(
            batch["prompt"], batch["prompt_mask"], batch["completion"], batch["mask"], strict=True
        )
    ]
    assert set(texts[:5]) <= {e.prompt + e.response for e in task.examples}
    assert [text[:7] for text in texts[:5]] == [text[:7] for text in texts[5:]]


def test_factors_go_on(tmp_path):
    config = dataclasses.replace(SMALL, beta_factors=(1.0, 50.0), lr_factors=(1.0, 0.2))
    learner = SPIN(config, tiny_language.task())
    rates = []
    for iteration in range(3):
        learner.begin(iteration)
        learner.update(tiny_language.Batches(rows=2))
        rates.append(learner.optimizer.lr)
    assert rates == pytest.approx([1e-3, 2e-4, 2e-4])


@pytest.mark.parametrize("at", [2, 4, 8])
def test_resumed_to_the_bit(at, tmp_path):
    whole = run(tmp_path / "whole")
    whole.run()
    cut = run(tmp_path / "cut", checkpoint_every=1)
    for _ in range(at):
        cut.step()
    cut.close()
    again = run(tmp_path / "cut", seed=9)  # weights and streams come from the checkpoint
    again.resume()
    again.run()
    for name, state in whole.state_dict().items():
        if name not in ("trainer", "config"):
            assert digest({"": state}) == digest({"": again.state_dict()[name]}), name


def test_settings_are_checked():
    with pytest.raises(ValueError, match="sigmoid, hinge"):
        SPINConfig(loss="ipo")
    with pytest.raises(ValueError, match="need a number"):
        SPINConfig(lr_factors=())

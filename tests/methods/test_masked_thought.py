"""Masked thought: what is hidden, when, from whom, and that nothing else changes."""

import dataclasses

import pytest
import torch

from embodied.llm.learner import LanguageLearner
from embodied.llm.masked_thought import MaskedThought, MaskedThoughtConfig, hidden, mask_rate
from tests import tiny_language

pytest.importorskip("transformers")
SMALL = MaskedThoughtConfig(
    updates=10, batch_size=4, lr=1e-2, mask_rate=1.0, mask_warm_up=0.0, warm_up=0.0
)


@pytest.mark.parametrize(
    "update, rate",
    [(0, 0.0), (100, 0.0605144), (330, 0.1996974), (660, 0.3993949), (661, 0.4), (999, 0.4)],
)
def test_the_rate_rises(update, rate):
    assert mask_rate(update, 1000, 0.4, 0.66) == pytest.approx(rate, abs=1e-7)


def test_shares():
    ids = torch.full((100, 1000), 5)
    allowed = torch.ones_like(ids, dtype=torch.bool)
    read, masked, chosen = hidden(ids, allowed, 0.4, 0.5, 50, torch.Generator().manual_seed(0))
    share = chosen.float().mean().item()
    assert share == pytest.approx(0.4, abs=5e-3)
    assert masked.float().mean().item() == pytest.approx(share / 2, abs=5e-3)
    assert not (masked & ~chosen).any() and (read[~chosen | masked] == 5).all()
    random = chosen & ~masked
    assert (read[random] == 5).float().mean().item() == pytest.approx(1 / 50, abs=5e-3)
    assert read[random].max() < 50


def test_only_what_may_be_hidden_is_and_seeds_decide():
    ids = torch.arange(60).reshape(4, 15)
    allowed = ids % 3 == 0
    draws = [
        hidden(ids, allowed, 0.5, 0.5, 60, torch.Generator().manual_seed(seed)) for seed in (1, 1)
    ]
    for one, two in zip(*draws, strict=True):
        assert torch.equal(one, two)
    read, _, chosen = draws[0]
    assert chosen.any() and not (chosen & ~allowed).any()
    assert torch.equal(read[~allowed], ids[~allowed])
    again = hidden(ids, allowed, 0.5, 0.5, 60, torch.Generator().manual_seed(2))[2]
    assert not torch.equal(again, chosen)


def logits(learner, batch, rate=1.0):
    inputs = [batch[name] for name in ("prompt", "prompt_mask", "completion", "mask")]
    with torch.no_grad():
        return learner.model.logits(*inputs, learner._read(batch, rate))


def test_all_hidden_leaves_the_question_the_length_and_the_place():
    learner, batch = MaskedThought(SMALL, tiny_language.task()), tiny_language.Batches().next(4)
    before = logits(learner, batch)
    other = {**batch, "completion": torch.where(batch["mask"], 20, batch["completion"])}
    torch.testing.assert_close(logits(learner, other), before)
    asked = {**batch, "prompt": batch["prompt"].roll(1, 0)}
    assert (logits(learner, asked) - before).abs().max() > 1e-3


def test_the_first_prediction_sees_no_mask():
    learner, batch = MaskedThought(SMALL, tiny_language.task()), tiny_language.Batches().next(4)
    inputs = [batch[name] for name in ("prompt", "prompt_mask", "completion", "mask")]
    plain = learner.model.logits(*inputs).detach()
    found = logits(learner, batch)
    torch.testing.assert_close(found[:, 0], plain[:, 0])
    assert (found[:, 1:] - plain[:, 1:]).abs().max() > 1e-4


def test_the_question_alone():
    learner = MaskedThought(dataclasses.replace(SMALL, part="question"), tiny_language.task())
    batch = tiny_language.Batches().next(4)
    before = logits(learner, batch)
    asked = {**batch, "prompt": batch["prompt"].roll(1, 0)}
    torch.testing.assert_close(logits(learner, asked), before)


class Same:
    def __init__(self):
        self.batch = tiny_language.Batches().next(4)

    def next(self, n):
        return self.batch


def test_at_rate_zero_it_is_fine_tuning_to_the_bit():
    config, source = dataclasses.replace(SMALL, mask_rate=0.0), Same()
    masked = MaskedThought(config, tiny_language.task())
    plain = LanguageLearner(
        "sft", tiny_language.task(), 1e-2, weight_decay=0.0, clip_norm=1.0, decoupled=True
    )
    one, two = masked.update(source), plain.imitate(source.batch)
    assert one["loss"] == two["loss"]
    pairs = zip(masked.optimizer.parameters, plain.optimizer.parameters, strict=False)
    assert all(torch.equal(a.grad, b.grad) for a, b in pairs)


def test_labels_are_never_hidden_unless_asked():
    for hide in (False, True):
        learner = MaskedThought(dataclasses.replace(SMALL, hide_labels=hide), tiny_language.task())
        batch = dict(tiny_language.Batches().next(4))
        completion = batch["completion"].clone()
        learner._read(batch, 1.0)
        assert torch.equal(batch["completion"], completion)
        assert ("target" in batch) == hide
        if hide:
            ends = (completion == learner.model.end) & batch["mask"]
            assert torch.equal(batch["target"], ends)


def test_the_mask_learns_and_is_no_token():
    learner = MaskedThought(SMALL, tiny_language.task())
    before = learner.mask[0].detach().clone()
    vocabulary = learner.model.network.get_output_embeddings().weight.shape[0]
    source = Same()
    learner.update(source)
    assert torch.equal(learner.mask[0], before), "nothing is hidden at first"
    learner.update(source)
    assert not torch.equal(learner.mask[0], before)
    assert learner.model.network.get_output_embeddings().weight.shape[0] == vocabulary
    drawn = [learner.policy(deterministic=True).answer(["^c12__:"])[1] for _ in range(2)]
    assert drawn[0] == drawn[1], "answering hides nothing"


def test_settings_are_checked():
    with pytest.raises(ValueError, match="answer, question"):
        MaskedThoughtConfig(part="both")
    with pytest.raises(ValueError, match=r"mask_rate must lie in \[0, 1\]"):
        MaskedThoughtConfig(mask_rate=1.5)

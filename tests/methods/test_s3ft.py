"""S3FT: which target is taken, when a paraphrase is asked for, and what is fitted in the end."""

import dataclasses

import pytest
import torch

from embodied.core.checkpoint import digest
from embodied.core.trainer import Trainer, TrainerOptions
from embodied.llm.s3ft import S3FTConfig, Target, recipe, select
from embodied.objectives.likelihood import nll_loss, token_log_probs
from tests import tiny_language

pytest.importorskip("transformers")
OPTIONS = TrainerOptions(log_every=1000, checkpoint_every=0, tensorboard=False)
SMALL = S3FTConfig(
    updates=4, batch_size=4, lr=1e-2, answers=8, paraphrase="{prompt}{response:_<5}?"
)


def test_the_decision_table():
    calls = []

    def draft(name):
        def made(places):
            calls.append((name, places))
            return [f"{name}{i}" for i in places]

        return made

    right = {"own0", "paraphrase1", "own3", "paraphrase3"}
    judged = []

    def judge(place, answer):
        judged.append(place)
        return answer in right

    drafts = {"own": draft("own"), "paraphrase": draft("paraphrase")}
    found = select(["gold0", "gold1", "gold2", "gold3"], drafts, judge)
    assert found == [
        Target("own0", "own"),
        Target("paraphrase1", "paraphrase"),
        Target("gold2", "gold"),
        Target("own3", "own"),
    ]
    assert calls == [("own", [0, 1, 2, 3]), ("paraphrase", [1, 2])]
    assert max(judged.count(place) for place in range(4)) == 2


def test_own_answers_pull_less():
    logits = torch.tensor([[[0.9, 0.1]]], dtype=torch.float64).log().requires_grad_(True)
    for target, expected in ((0, [-0.1, 0.1]), (1, [0.9, -0.9])):
        log_prob = token_log_probs(logits, torch.tensor([[target]]))
        (gradient,) = torch.autograd.grad(nll_loss(log_prob, torch.ones(1, 1)), logits)
        assert gradient.flatten().tolist() == pytest.approx(expected)


def run(directory, config=SMALL, score=None, seed=0, **options):
    task = tiny_language.task(seed)
    task.score = score
    made = recipe(config, task)
    return Trainer(made, directory, options=dataclasses.replace(OPTIONS, **options)), task


def targets(trainer, task):
    while trainer.phase.name == "choose":
        trainer.step()
    kept = trainer.phase.source.kept
    assert sorted(a.index for a in kept) == list(range(20))
    return {a.index: task.model.tokenizer.decode(a.completion) for a in kept}


def test_always_wrong_is_plain_fine_tuning(tmp_path):
    trainer, task = run(tmp_path / "run", score=lambda prompt, text: 0.0)
    assert targets(trainer, task) == {i: e.response for i, e in enumerate(task.examples)}


def test_always_right_is_the_models_own(tmp_path):
    trainer, task = run(tmp_path / "run", score=lambda prompt, text: 1.0)
    _, own, _ = trainer.phase.learner.policy(True).answer([e.prompt for e in task.examples])
    assert targets(trainer, task) == dict(enumerate(own))


@pytest.mark.parametrize("sources", [("paraphrase",), ()])
def test_other_sources(sources, tmp_path):
    config = dataclasses.replace(SMALL, sources=sources)
    trainer, task = run(tmp_path / "run", config, score=lambda prompt, text: 1.0)
    asked = [config.paraphrase.format(prompt=e.prompt, response=e.response) for e in task.examples]
    _, paraphrases, _ = trainer.phase.learner.policy(True).answer(asked)
    expected = paraphrases if sources else [e.response for e in task.examples]
    assert targets(trainer, task) == dict(enumerate(expected))


def test_own_answers_are_the_likeliest(tmp_path):
    """Greedy answers of one token are likelier than any other, so than the given ones."""
    trainer, task = run(tmp_path / "run", score=lambda prompt, text: 1.0)
    while trainer.phase.name == "choose":
        trainer.step()
    pool = trainer.phase.source
    order = {a.index: a for a in pool.kept}
    first = [order[i].completion[0] for i in range(20)]
    gold = task.model.tokenizer([e.response for e in task.examples])["input_ids"]
    policy = trainer.phase.learner.policy()
    _, _, (prompt, mask) = policy.answer([e.prompt for e in task.examples])
    one = torch.ones(20, 1, dtype=torch.long)
    with torch.no_grad():
        log_prob = task.model.logits(prompt, mask, one, one)[:, 0].log_softmax(-1)
    rows = torch.arange(20)
    own, given = log_prob[rows, first], log_prob[rows, [row[0] for row in gold]]
    assert (own >= given).all() and own.mean() > given.mean()


@pytest.mark.parametrize("at", [2, 5])
def test_resumed_to_the_bit(at, tmp_path):
    def score(prompt, text):
        return float(ord(text[0]) % 2)

    whole, _ = run(tmp_path / "whole", score=score)
    whole.run()
    cut, _ = run(tmp_path / "cut", score=score, checkpoint_every=1)
    for _ in range(at):
        cut.step()
    cut.close()
    again, _ = run(tmp_path / "cut", score=score, seed=9)
    again.resume()
    again.run()
    for name, state in whole.state_dict().items():
        if name not in ("trainer", "config"):
            assert digest({"": state}) == digest({"": again.state_dict()[name]}), name


def test_settings_are_checked():
    with pytest.raises(ValueError, match="own and paraphrase, not gold"):
        S3FTConfig(sources=("gold",))
    with pytest.raises(ValueError, match="prompt"):
        S3FTConfig(paraphrase="{question}")

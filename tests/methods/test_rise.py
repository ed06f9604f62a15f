"""RISE: weights, which turns are examples, the loss by hand, resuming, and that it learns."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from embodied.core.checkpoint import digest
from embodied.core.trainer import Trainer, TrainerOptions
from embodied.core.types import Rollout
from embodied.llm.rise import RISE, Improvements, RISEConfig, kept, recipe
from embodied.revisions import majority, revision_metrics
from tests import tiny_language

pytest.importorskip("transformers")
OPTIONS = TrainerOptions(log_every=1000, checkpoint_every=0, tensorboard=False)
SMALL = RISEConfig(problems=4, prompts=2, updates=3, batch_size=4, lr=1e-2, tries=(1, 3))


@pytest.mark.parametrize(
    "rewards, criterion, count",
    [
        ((0, 0, 1), "all", 3),
        ((0, 0, 1), "better", 2),
        ((0, 0, 1), "best", 3),
        ((0, 0, 1), "success", 1),
        ((0, -1), "better", 1),
        ((0, -1), "best", 1),
        ((1,), "all", 1),
    ],
)
def test_which_turns_are_examples(rewards, criterion, count):
    chosen = kept(rewards, criterion)
    assert sum(chosen) == count and (chosen[0] or criterion == "success")


def dialogues(rewards, texts):
    episode = np.repeat(np.arange(len(rewards)), [len(r) for r in rewards])
    reward = np.concatenate([np.array(r, np.float32) for r in rewards])[:, None]
    ids = np.zeros((len(reward), 1), np.int64)
    return Rollout(ids, ids, reward, meta={"columns": {"episode": episode}, "texts": texts})


def test_weights_and_duplicates():
    source = Improvements(RISEConfig(), tiny_language.task())
    texts = [("^c1___:", "1."), ("^c1___:?", "2."), ("^c1___:", "1."), ("^c2___:", "?")]
    source.add(dialogues([(0, 1), (0,), (-1,)], texts))
    assert list(source.examples.values()) == pytest.approx([1, 12.1825, 0.0821], abs=1e-4)
    batch = source.next(3)
    assert batch["prompt_mask"].sum(1).sort().values.tolist() == [7, 7, 8]
    assert batch["weight"].sum() == pytest.approx(1 + math.exp(2.5) + math.exp(-2.5), rel=1e-5)
    source.clear()
    assert len(source) == 0


class Same:
    def __init__(self, rewards, tau):
        self.batch = tiny_language.Batches().next(4)
        self.batch["weight"] = torch.tensor([math.exp(r / tau) for r in rewards])

    def next(self, n):
        return dict(self.batch)


def losses(learner, batch):
    """Mean cross-entropy of each example."""
    log_prob = learner.log_probs(batch).detach()
    return -(log_prob * batch["mask"]).sum(1) / batch["mask"].sum(1)


def test_the_loss_between_its_limits():
    learner = RISE(dataclasses.replace(SMALL, lr=0.0), tiny_language.task())
    rewards = [1, 0, 1, 0]
    source = Same(rewards, 0.4)
    each = losses(learner, source.batch)
    found = float(learner.update(source)["loss"])
    assert found == pytest.approx(float((source.batch["weight"] * each).mean()), rel=1e-5)
    assert float(learner.update(Same(rewards, 1e9))["loss"]) == pytest.approx(
        float(each.mean()), abs=1e-6
    )
    sharp = Same([r - 1 for r in rewards], 0.01)  # divided by the largest weight
    right = torch.tensor(rewards, dtype=torch.bool)
    assert float(learner.update(sharp)["loss"]) == pytest.approx(
        float(each[right].sum() / 4), abs=1e-6
    )


def test_only_the_last_action_is_a_target():
    learner = RISE(SMALL, tiny_language.task())
    batch = Same([1, 0, 1, 0], 0.4).batch
    log_prob = learner.log_probs(batch)
    log_prob.retain_grad()
    (-(batch["weight"][:, None] * log_prob).where(batch["mask"], 0).sum()).backward()
    assert not log_prob.grad[~batch["mask"]].any() and log_prob.shape == batch["completion"].shape


def run(directory, seed=0, **options):
    made = recipe(SMALL, tiny_language.task(seed))
    return Trainer(made, directory, options=dataclasses.replace(OPTIONS, **options))


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_resumed_to_the_bit(steps, tmp_path):
    whole = run(tmp_path / "whole")
    whole.run()
    cut = run(tmp_path / "cut", checkpoint_every=1)
    while cut.iteration < steps:
        cut.step()
    cut.close()
    again = run(tmp_path / "cut", seed=9)
    assert again.resume() == steps
    again.run()
    for name, state in whole.state_dict().items():
        if name not in ("trainer", "config"):
            assert digest({"": state}) == digest({"": again.state_dict()[name]}), name
    assert whole.counters.updates == 6 and whole.counters.episodes == 8


def test_dialogues_stop_when_right_and_grow_a_turn_longer():
    class Right:
        def __init__(self, prompt):
            self.turns, self.at = 0, int(prompt)

        def ask(self):
            return 0, "^c12__:"

        def take(self, answer):
            self.turns += 1

        def rewards(self):
            return [float(turn == self.at) for turn in range(self.turns)]

    made = tiny_language.task()
    made.prompts, made.begin = ["0", "1", "9", "9"], Right
    config = dataclasses.replace(SMALL, prompts=4)
    lengths = []
    for phase in recipe(config, made).phases[::2]:
        rollout = phase.collector.collect(phase.learner.policy())
        lengths.append(np.bincount(rollout.meta["columns"]["episode"]).tolist())
    assert [sorted(counts) for counts in lengths] == [[1, 2, 2, 2], [1, 2, 3, 3]]


def test_it_learns_the_best_of_several(tmp_path):
    """Right is an attempt that begins with 3, which one answer in a few does at the second turn."""

    class Again:
        def __init__(self, prompt):
            self.right = []

        def ask(self):
            return 0, "^c12__:" + "?" * min(len(self.right), 1)

        def take(self, answer):
            self.right.append(answer.startswith("3"))

        def rewards(self):
            return [float(right) for right in self.right]

    made = tiny_language.task()
    made.begin = Again
    config = RISEConfig(problems=64, updates=60, batch_size=32, lr=3e-2, tries=(1, 32))
    trainer = Trainer(recipe(config, made), tmp_path / "run", options=OPTIONS)
    trainer.run()
    _, texts, _ = trainer.recipe.phases[0].learner.policy().answer(["^c12__:?"], 50)
    assert np.mean([text.startswith("3") for text in texts]) > 0.8


def test_votes_and_rates():
    assert majority(["b", "a", "a"]) == "a" and majority(["b", "a"]) == "b"
    right = np.array([[1, 1], [0, 1], [0, 0], [1, 0]], bool)
    found = revision_metrics(right, right[:, 0], right[:, 0])
    assert found["vote_turns"] == found["accuracy/1"] == 0.5  # the vote of one turn is accuracy
    assert found["delta"] == found["mended"] - found["spoilt"] == 0
    assert found["mend_rate"] == found["spoil_rate"] == 0.5 and found["any_turn"] == 0.75


def test_impossible_settings():
    with pytest.raises(ValueError, match="criterion"):
        RISEConfig(criterion="worst")
    with pytest.raises(ValueError, match="tau"):
        RISEConfig(tau=0.0)

"""SEC: what an arm pays, how its value moves, what is drawn, and that it resumes."""

import collections
import dataclasses

import numpy as np
import pytest
import torch

from embodied.core.checkpoint import digest
from embodied.core.trainer import Trainer, TrainerOptions
from embodied.core.types import UserError
from embodied.llm.sec import SEC, Curriculum, SECConfig, arm_probabilities, arm_values, recipe
from embodied.objectives.advantages import group_advantages
from tests import tiny_language

pytest.importorskip("transformers")
OPTIONS = TrainerOptions(log_every=1000, checkpoint_every=0, tensorboard=False)
SMALL = SECConfig(steps=5, prompts=4, group=4, minibatch=2, lr=1e-2, sharpness=0.2)


@pytest.mark.parametrize(
    "p, scaled, raw", [(0.1, 0.6, 0.18), (0.25, 0.8660254, 0.375), (0.5, 1.0, 0.5)]
)
def test_what_an_arm_pays(p, scaled, raw):
    reward = (torch.arange(1000) < 1000 * p).double()
    found = group_advantages(reward, 1000, "none").abs().mean().item()
    assert found == pytest.approx(raw)
    assert found / reward.std(unbiased=False).item() == pytest.approx(scaled)
    assert group_advantages(torch.ones(8), 8).abs().max() == 0


def test_a_group_with_a_reward_for_format():
    reward = torch.tensor(3 * [1.0] + 5 * [0.1], dtype=torch.float64)
    assert group_advantages(reward, 8).abs().mean().item() == pytest.approx(0.9057, abs=2e-4)
    assert group_advantages(reward, 8, "none").abs().mean().item() == pytest.approx(0.421875)


OBSERVED = [[0.8, 0.2, 0.0], [0.8, None, 0.1], [0.5, 0.9, None]]


@pytest.mark.parametrize(
    "decay, expected",
    [
        (True, [[0.4, 0.1, 0], [0.6, 0.05, 0.05], [0.55, 0.475, 0.025]]),
        (False, [[0.4, 0.1, 0], [0.6, 0.1, 0.05], [0.55, 0.5, 0.05]]),
    ],
)
def test_values(decay, expected):
    values = torch.zeros(3, dtype=torch.float64)
    for seen, after in zip(OBSERVED, expected, strict=True):
        kinds = torch.tensor([i for i, pay in enumerate(seen) if pay is not None])
        pay = torch.tensor([pay for pay in seen if pay is not None], dtype=torch.float64)
        values = arm_values(values, kinds.repeat(2), pay.repeat(2), 0.5, decay)
        assert values.tolist() == pytest.approx(after)


def test_probabilities():
    values = torch.tensor([0.4, 0.1, 0.0], dtype=torch.float64)
    for sharpness, expected in (
        (1.0, [0.41474, 0.30725, 0.27801]),
        (0.2, [0.73612, 0.16425, 0.09962]),
        (float("inf"), [1 / 3, 1 / 3, 1 / 3]),
        (1e-4, [1, 0, 0]),
    ):
        found = arm_probabilities(values, sharpness)
        assert found.tolist() == pytest.approx(expected, abs=1e-5)
        torch.testing.assert_close(arm_probabilities(values + 7, sharpness), found)


def draws(p, n=7, kinds=(0, 0, 0, 1, 1)):
    items = [f"problem {i}" for i in range(len(kinds))]
    return Curriculum(items, np.array(kinds), lambda: np.array(p), np.random.default_rng(0))


def test_problems_are_refilled():
    curriculum = draws([1.0, 0.0])
    found = curriculum.draw(7)
    counts = collections.Counter(found)
    assert set(counts) == {"problem 0", "problem 1", "problem 2"}
    assert set(counts.values()) == {2, 3}
    assert len(set(found[:3])) == len(set(found[3:6])) == 3, "never twice within a pass"
    assert [curriculum.items[i] for i in curriculum.drawn] == found


def test_kinds_are_drawn_by_their_probability():
    found = draws([0.25, 0.75]).draw(4000)
    share = np.mean([text in ("problem 3", "problem 4") for text in found])
    assert share == pytest.approx(0.75, abs=0.03)


def test_the_state_of_a_curriculum_continues():
    first, second = draws([0.5, 0.5]), draws([0.5, 0.5])
    first.draw(5)
    second.load_state_dict(first.state_dict())
    assert first.draw(9) == second.draw(9)
    with pytest.raises(UserError, match="2 kinds of problems, here are 1"):
        draws([1.0], kinds=(0, 0)).load_state_dict(first.state_dict())


class Same:
    def __init__(self, right):
        self.batch = tiny_language.Batches().next(16)
        self.batch["reward"] = torch.tensor(right, dtype=torch.float32)[:, None]
        self.batch["index"] = torch.tensor([0, 1, 2, 3]).repeat_interleave(4)

    def next(self, n):
        return self.batch


@pytest.mark.parametrize("signal", ["advantage", "raw", "reward"])
def test_the_arms_are_paid_for_their_problems(signal):
    task = tiny_language.task()
    task.categories = ["a", "b", "a", "c", *(16 * ["d"])]
    learner = SEC(dataclasses.replace(SMALL, signal=signal), task)
    learner.update(Same([1, 0, 1, 0] + 4 * [1] + 4 * [0] + [1, 0, 0, 0]))
    scaled = 0.5 / (1 / 3 + 1e-8) ** 0.5, 0.375 / 0.5
    expected = {
        "advantage": [scaled[0] / 2, 0, scaled[1], 0],
        "raw": [0.25, 0, 0.375, 0],
        "reward": [0.25, 1, 0.25, 0],
    }[signal]
    assert learner.values.tolist() == pytest.approx([x / 2 for x in expected], abs=2e-4)
    assert learner.probabilities().sum() == pytest.approx(1)


def run(directory, seed=0, **options):
    task = tiny_language.task(seed)
    task.score = lambda prompt, text: float(ord(text[0]) % 2)
    made = recipe(SMALL, task)
    return Trainer(made, directory, options=dataclasses.replace(OPTIONS, **options))


def test_resumed_to_the_bit(tmp_path):
    whole = run(tmp_path / "whole")
    whole.run()
    cut = run(tmp_path / "cut", checkpoint_every=1)
    for _ in range(3):
        cut.step()
    cut.close()
    again = run(tmp_path / "cut", seed=9)
    again.resume()
    again.run()
    for name, state in whole.state_dict().items():
        if name not in ("trainer", "config"):
            assert digest({"": state}) == digest({"": again.state_dict()[name]}), name
    assert whole.recipe.phases[0].learner.values.abs().sum() > 0


def test_what_is_missing_or_wrong_is_said():
    task = tiny_language.task()
    task.categories = None
    with pytest.raises(UserError, match="give prompts a category"):
        recipe(SMALL, task)
    with pytest.raises(ValueError, match="advantage, raw, reward"):
        SECConfig(signal="entropy")
    with pytest.raises(ValueError, match="sharpness > 0"):
        SECConfig(sharpness=0)

"""B-STaR: the balance score, what is kept, what is chosen, and that iterations go on."""

import dataclasses

import numpy as np
import pytest

from embodied.core.checkpoint import digest
from embodied.core.trainer import Trainer, TrainerOptions
from embodied.llm.answers import Answer
from embodied.llm.b_star import (
    BStarConfig,
    answer_score,
    balance,
    chosen,
    different,
    growth,
    recipe,
    sweep,
)
from tests import tiny_language

pytest.importorskip("transformers")
OPTIONS = TrainerOptions(log_every=1000, checkpoint_every=0, tensorboard=False)
SMALL = BStarConfig(
    iterations=2,
    updates=2,
    batch_size=4,
    samples=4,
    aside=6,
    temperatures=(0.5, 1.0),
    enough=2,
    aside_target=12,
    target=40,
    answers=8,
    lr=1e-2,
)


def one(right, kept, **more):
    return float(balance(np.array([right]), np.array([kept]), 8, **more))


@pytest.mark.parametrize(
    "right, kept, expected",
    [(8, 8, 1), (4, 4, 0.5), (4, 8, 0.25), (16, 20, 0.8), (0, 5, 0), (6, 16, 0.28125), (0, 0, 0)],
)
def test_the_balance_score(right, kept, expected):
    assert one(right, kept) == pytest.approx(expected)


def test_right_answers_never_lower_it_and_wrong_ones_do():
    for right in range(1, 12):
        for kept in range(right, 20):
            assert one(right + 1, kept + 1) >= one(right, kept) > one(right, kept + 1)
    assert one(3, 4, kind="precision") == 0.75 and one(4, 16, kind="count") == 0.5


def test_no_wrong_answer_outranks_a_right_one():
    assert answer_score(True, -0.5) == pytest.approx(0.9)
    assert answer_score(False, 1.0) == pytest.approx(0.2)
    assert answer_score(True, -1.0) > answer_score(False, 1.0)


def test_the_best_of_each_question_until_there_are_enough():
    above = np.array([5, 1, 2])
    assert growth(above, 6) == 3 and np.minimum(above, 3).sum() == 6
    assert growth(above, 3) == 1 and growth(above, 99) == 5
    assert growth(np.array([0, 0]), 6) == 1


def answers(rows):
    return [Answer(np.zeros(1, int), np.array(text), i, score, 0) for i, text, score in rows]


ROWS = answers([(0, [1, 7], 1.0), (0, [2, 7], 1.1), (0, [1, 7], 1.0), (0, [3], 0.1), (4, [1], 0.0)])


def test_the_same_text_counts_once():
    found = different(ROWS)
    assert {index: len(some) for index, some in found.items()} == {0: 3, 4: 1}
    kept = chosen(ROWS, 0.0, 2)
    assert [a.completion.tolist() for a in kept] == [[2, 7], [1, 7]], "one end, two texts"
    assert len(chosen(ROWS, -1.0, 4)) == 4 and not chosen(ROWS, 2.0, 4)


def test_the_first_of_equal_thresholds():
    grid = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    place, found = sweep([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]], grid, 99, 2, "balance")
    assert grid[place] == 0.0 and found[2] == found[3] == 0.75 and found[4] == 0
    assert found[0] == pytest.approx(np.mean([2 / 3, 1 / 6]))
    assert sweep([[0.0], [0.0]], grid, 99, 2, "balance")[0] == 0


def run(directory, config=SMALL, seed=0, **options):
    task = tiny_language.task(seed)
    task.score = lambda prompt, text: float(ord(text[0]) % 2)
    made = recipe(config, task)
    return Trainer(made, directory, options=dataclasses.replace(OPTIONS, **options))


def test_an_iteration(tmp_path):
    trainer = run(tmp_path / "run")
    learner, pool = trainer.phase.learner, trainer.phase.source
    while trainer.phase.name == "explore":
        trainer.step()
    assert {t: len(some) for t, some in pool.explored.items()} == {"0.5": 24, "1.0": 24}
    assert {a.index for a in pool.explored["1.0"]} == set(range(6))
    while trainer.phase.name == "answer":
        trainer.step()
    assert sorted({a.index for a in pool.kept}) == list(range(20)) and len(pool.kept) == 80
    assert not pool.explored and learner.drawn_at in (0.5, 1.0)
    trainer.step()
    assert all(a.reward > learner.choice["threshold"] for a in pool.kept)
    texts = {(a.index, a.completion.tobytes()) for a in pool.kept}
    assert learner.choice["kept"] == len(pool.kept) == len(texts)
    while not trainer.done:
        trainer.step()
    assert learner.updates == 4, "the optimizer goes on"
    steps = {float(s["step"]) for s in learner.optimizer.state_dict().values()}
    assert steps == {4.0}


def test_answers_come_at_the_chosen_temperature(tmp_path):
    trainer = run(tmp_path / "run", dataclasses.replace(SMALL, temperatures=(0.7,)))
    assert trainer.phase.learner.policy().sampling.temperature == 0.7
    assert trainer.phase.learner.policy(True).sampling.temperature == 0
    trainer.run()
    assert trainer.counters.episodes == 2 * (24 + 80)


@pytest.mark.parametrize("at", [1, 4, 9])
def test_resumed_to_the_bit(at, tmp_path):
    whole = run(tmp_path / "whole")
    whole.run()
    cut = run(tmp_path / "cut", checkpoint_every=1)
    for _ in range(at):
        cut.step()
    cut.close()
    again = run(tmp_path / "cut", seed=9)
    again.resume()
    again.run()
    for name, state in whole.state_dict().items():
        if name not in ("trainer", "config"):
            assert digest({"": state}) == digest({"": again.state_dict()[name]}), name


def test_settings_are_checked():
    with pytest.raises(ValueError, match="balance, precision, count"):
        BStarConfig(score="both")
    with pytest.raises(ValueError, match="temperatures"):
        BStarConfig(temperatures=())
    with pytest.raises(ValueError, match="enough=99"):
        BStarConfig(enough=99)

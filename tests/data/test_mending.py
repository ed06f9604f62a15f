"""Lessons for EDIT: what their texts show, and that the chances are those of the texts."""

import math
from dataclasses import replace

import numpy as np
import pytest

from embodied.data import tiny
from embodied.data.tiny.mending import LESSONS, symbol_chances

TASK = tiny.Edit()
MENDING = replace(TASK, keep=0.0, fix=1.0)
MEND_TURN = slice(2 * TASK.longest + 3, -1)


def texts(kind, task=TASK, count=300, seed=1):
    """Of a kind, about five pairs."""
    rng = np.random.default_rng(seed)
    return [LESSONS[kind](task, prompt, rng) for prompt in task.problems(count, rng, 5)]


@pytest.mark.parametrize("kind", LESSONS)
def test_every_symbol_was_drawn_from_its_chances(kind):
    seen = texts(kind, count=1500)
    for shown in seen:
        assert len(shown.chances) == len(shown.response) and TASK.understands(shown.prompt)
        for symbol, chances in zip(shown.response, shown.chances, strict=True):
            assert not chances or (chances[symbol] > 0 and math.isclose(sum(chances.values()), 1))
    for at in range(min(len(shown.chances) for shown in seen)):
        here = [(shown.chances[at], shown.response[at]) for shown in seen if shown.chances[at]]
        excess = [chances[symbol] - sum(p * p for p in chances.values()) for chances, symbol in here]
        assert abs(sum(excess)) <= 2 * math.sqrt(len(here))  # unbiased draws: standard deviation <= .5


def test_a_proof_has_the_right_step_after_each_wrong_one():
    wrong = 0
    for shown in texts("proof"):
        text, right, at = shown.response, TASK.attempt(shown.prompt, np.random.default_rng()), 0
        assert len(text) == len(right) and text[0] in "01234"
        while at < 5:
            if text[at] == right[at]:
                at += 1
                continue
            assert text[at + 1] == right[at] and shown.chances[at + 1] == {right[at]: 1.0}
            wrong, at = wrong + 1, at + 2
    assert wrong / 300 == pytest.approx(5 / 3, abs=0.3)  # a wrong step takes the place of the next


@pytest.mark.parametrize("kind, digits", [("slight", 5), ("glaring", 10)])
def test_edits_are_taught_where_one_step_was_drawn_anew(kind, digits):
    kept, seen = 0, set()
    for shown in texts(kind, MENDING, 600):
        attempt, edit = shown.response.split("?")
        attempt, edit = attempt.rstrip(tiny.PAD), edit.rstrip(tiny.PAD)
        assert [bool(each) for each in shown.chances] == 7 * [False] + 3 * [True]
        assert TASK.verify(shown.prompt, TASK.edited(attempt, edit)).all_steps
        kept, seen = kept + (edit == "=."), seen | set(attempt[:5])
    assert kept / 600 == pytest.approx(1 / digits, abs=0.06) and len(seen) == digits


def test_the_other_texts_are_attempts_and_demonstrations():
    for shown in texts("sums", replace(TASK, slip=0.0)):
        assert TASK.verify(shown.prompt, shown.response).all_steps
    seen = texts("whole", count=3000)
    right = [TASK.verify(shown.prompt, shown.response.split("?")[0]).all_steps for shown in seen]
    assert np.mean(right) == pytest.approx(TASK.odds(5).first, abs=0.04)
    for shown in seen[:100]:  # as a later turn is asked for
        attempt, edit = shown.response.split("?")
        assert TASK.again(shown.prompt, attempt.rstrip(tiny.PAD)) + edit == (
            shown.prompt + shown.response
        )


def test_chances_of_symbols_multiply_to_those_of_texts():
    odds = TASK.edits("^e3142031420:", "12340.")
    for text, chance in odds.items():
        symbols = symbol_chances(odds, text)
        assert math.prod(s[c] for s, c in zip(symbols, text, strict=True)) == pytest.approx(chance)

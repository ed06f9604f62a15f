"""Demonstrations with chances: that they are demonstrations, and drawn as the chances say."""

import math
from dataclasses import replace

import numpy as np
import pytest

from embodied.data import tiny
from embodied.data.tiny.shown import shown, symbol_chances

TASK = tiny.Edit()


def texts(task=TASK, count=2000, seed=1, **options):
    """About five pairs."""
    rng = np.random.default_rng(seed)
    return [shown(task, prompt, rng, **options) for prompt in task.problems(count, rng, 5)]


def test_every_symbol_was_drawn_from_its_chances():
    seen = texts()
    for at in range(13):
        excess = 0.0
        for each in seen:
            chances = each.chances[at]
            assert len(each.chances) == 13 and math.isclose(sum(chances.values()), 1)
            excess += chances[each.response[at]] - sum(p * p for p in chances.values())
        assert abs(excess) <= 2 * math.sqrt(len(seen))  # four standard deviations of at most 0.5


def test_they_are_demonstrations():
    first, second = [], []
    for each in texts():
        attempt, edit = (part.rstrip(tiny.PAD) for part in each.response.split("?"))
        assert TASK.understands(each.prompt)
        assert TASK.again(each.prompt, attempt) + TASK.slot(edit) == each.prompt + each.response
        first.append(TASK.verify(each.prompt, attempt).all_steps)
        second.append(TASK.verify(each.prompt, TASK.edited(attempt, edit)).all_steps)
    odds = TASK.odds(5)
    assert (np.mean(first), np.mean(second)) == pytest.approx(odds[:2], abs=0.045)  # four


def test_steps_may_slip_beyond_what_is_to_be_learned():
    task, right = replace(TASK, slip=0.0, keep=0.0, fix=1.0), []
    for each in texts(task, slip=0.3):
        sums = task.attempt(each.prompt, np.random.default_rng())
        assert [max(chances, key=chances.get) for chances in each.chances[:6]] == list(sums)
        assert all(max(chances.values()) == 1 for chances in each.chances[:6])
        attempt, edit = (part.rstrip(tiny.PAD) for part in each.response.split("?"))
        before, after = (
            sum(task.verify(each.prompt, text).per_step)
            for text in (attempt, task.edited(attempt, edit))
        )
        assert after == min(before + 1, 5)
        right.append(before)
    assert np.mean(right) == pytest.approx(5 * 0.7, abs=0.1)


def test_chances_of_symbols_multiply_to_those_of_texts():
    odds = TASK.edits("^e3142031420:", "12340.")
    for text, chance in odds.items():
        symbols = symbol_chances(odds, text)
        assert math.prod(s[c] for s, c in zip(symbols, text, strict=True)) == pytest.approx(chance)

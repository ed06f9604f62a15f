"""The tiny suite: what is right, what slips, and how often; odds against the specification."""

import itertools
import re

import numpy as np
import pytest

from embodied.data import tiny

TASKS = {
    "chain": tiny.Chain(),
    "chain, systematic": tiny.Chain(slips="systematic", slip=0.7),
    "chain, modulo 10": tiny.Chain(modulus=10),
    "add": tiny.Add(),
    "sort": tiny.Sort(),
    "edit": tiny.Edit(),
}
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def rng(seed=0):
    return np.random.default_rng(seed)


@every_task
def test_problems_have_one_width_and_are_understood(task):
    prompts = task.problems(50, rng())
    assert len(set(map(len, prompts))) == 1 and len(set(prompts)) > 10
    for prompt in prompts:
        assert task.understands(prompt) and set(prompt) <= set(tiny.SYMBOLS)
        for strange in (prompt[:-1], prompt + "1", "^z" + prompt[2:], prompt.replace(":", "?")):
            assert not task.understands(strange)
    assert not task.understands(prompt[:2] + tiny.PAD * (len(prompt) - 3) + ":")
    assert task.problems(5, rng(1), 2) == task.problems(5, rng(1), 2)


@every_task
def test_attempts_without_a_slip_are_right(task):
    for prompt in task.problems(200, rng()):
        answer = task.attempt(prompt, rng())
        verdict = task.verify(prompt, answer)
        assert verdict.final and verdict.all_steps and verdict.parsable and all(verdict.per_step)
        assert answer.endswith(tiny.END) and len(answer) <= task.response_length


@every_task
def test_every_step_slips_as_often_as_asked(task):
    prompts = task.problems(4000, rng(), 3)
    verdicts = [task.verify(p, task.attempt(p, rng(i), 0.3)) for i, p in enumerate(prompts)]
    steps = np.array([verdict.per_step[:3] for verdict in verdicts])
    assert np.abs(steps.mean(0) - 0.7).max() < 0.03  # four standard deviations
    assert np.mean([v.all_steps for v in verdicts]) == pytest.approx(0.7**3, abs=0.03)


@every_task
def test_mistakes_are_wrong(task):
    for prompt in task.problems(100, rng()):
        verdict = task.verify(prompt, task.mistake(prompt, rng()))
        assert verdict.parsable and not verdict.all_steps


@every_task
@pytest.mark.parametrize("change", [lambda t: t[:-1], lambda t: "1" + t, lambda t: "Y" + t[1:]])
def test_what_has_not_the_form_of_an_attempt(task, change):
    prompt = task.problems(1, rng())[0]
    verdict = task.verify(prompt, change(task.attempt(prompt, rng())))
    assert verdict == (False, False, (), False)


@every_task
def test_demonstrations_fill_their_slots(task):
    texts = [task.demonstration(prompt, rng()) for prompt in task.problems(50, rng())]
    assert len(set(map(len, texts))) == 1
    assert all(text[task.response_length] == "?" for text in texts)


def test_systematic_slips_go_one_up():
    task = tiny.Chain(slips="systematic")
    assert task.attempt("^c11111___:", rng(), slip=1.0) == "24130."
    assert task.attempt("^c11111___:", rng()) == "12340."


def test_an_answer_may_be_right_by_two_slips():
    verdict = tiny.Chain().verify("^c123_____:", "101.")
    assert verdict == (True, False, (True, False, False), True)


def test_addition():
    task, prompt = tiny.Add(), "^a7825__:"  # 27 + 58
    assert task.attempt(prompt, rng()) == "5180085."
    assert task.verify(prompt, "5070075.") == (False, False, (False, True, True), True)
    assert task.verify(prompt, "5180075.") == (False, False, (True, True, False), True)
    assert not task.understands("^a782___:")


def test_sorting():
    task, prompt = tiny.Sort(), "^r3139__:"
    assert task.attempt(prompt, rng()) == "1339."
    assert task.verify(prompt, "1393.").per_step == (True, True, False, True)
    assert task.verify(prompt, "7133.").per_step == (False, True, True, True)


def test_odds_of_edits_are_those_of_the_specification():
    task = tiny.Edit()
    odds = task.odds(5)
    assert odds == pytest.approx((0.4437, 0.3524, 0.0861, 0.1775), abs=5e-5)
    assert odds.second - odds.first == pytest.approx(-0.0914, abs=5e-5)
    ceilings = [task.ceiling(5, edits) for edits in range(1, 6)]
    assert ceilings == pytest.approx([0.8352, 0.9734, 0.9978, 0.9999, 1.0], abs=5e-5)


@pytest.mark.parametrize("length", [1, 3, 5])
def test_demonstrated_edits_have_these_odds(length):
    task, generator = tiny.Edit(), rng(length)
    first, second = [], []
    for prompt in task.problems(6000, generator, length):
        text = task.demonstration(prompt, generator)
        attempt, edit = (part.rstrip(tiny.PAD) for part in text.split("?"))
        assert re.fullmatch(r"=*[0-4]?=*\.", edit) and len(edit) == length + 1
        first.append(task.verify(prompt, attempt).all_steps)
        second.append(task.verify(prompt, task.edited(attempt, edit)).all_steps)
    first, second = np.array(first), np.array(second)
    measured = (first.mean(), second.mean(), (second & ~first).mean(), (first & ~second).mean())
    assert measured == pytest.approx(task.odds(length), abs=0.025)  # four standard deviations


def test_the_odds_of_edits_are_those_of_each_edit():
    """Enumerated: any attempt at one problem, any edit of it."""
    task, prompt = tiny.Edit(longest=3), "^e314212:"
    second = 0.0
    for steps in itertools.product(range(5), repeat=3):
        wrong = sum(a != b for a, b in zip(steps, task.sums(prompt), strict=True))
        odds = task.edits(prompt, attempt := "{}{}{}.".format(*steps))
        assert sum(odds.values()) == pytest.approx(1) and len(odds) == 16
        for edit, chance in odds.items():
            right = task.verify(prompt, task.edited(attempt, edit)).all_steps
            second += right * chance * 0.85 ** (3 - wrong) * (0.15 / 4) ** wrong
    assert second == pytest.approx(task.odds(3).second)


@pytest.mark.parametrize("slips", ["uniform", "systematic"])
def test_steps_are_drawn_as_their_odds_say(slips):
    task, generator = tiny.Edit(slips=slips), rng()
    odds = task.steps(3, 5, 0.3)
    seen = [str(task.step(3, 5, 0.3, generator)) for _ in range(4000)]
    assert sum(odds.values()) == pytest.approx(1) and odds["3"] == 0.7
    for symbol in "01234":  # four standard deviations
        assert seen.count(symbol) / 4000 == pytest.approx(odds.get(symbol, 0), abs=0.03)


@pytest.mark.parametrize(
    "edit, after",
    [
        ("=4=.", "143."),
        ("4==.", "423."),
        ("===.", "123."),
        ("=44.", "123."),
        ("==4=.", "123."),
        ("=4.", "123."),
        ("=4=", "123."),
        ("=b=.", "123."),
        ("", "123."),
    ],
)
def test_edits(edit, after):
    assert tiny.Edit().edited("123.", edit) == after


@pytest.mark.parametrize(
    "make, options",
    [
        (tiny.Chain, {"slips": "random"}),
        (tiny.Sort, {"slip": 1.5}),
        (tiny.Add, {"longest": 0}),
        (tiny.Edit, {"keep": 0.9}),
    ],
)
def test_wrong_options(make, options):
    with pytest.raises(ValueError, match=re.escape(str(next(iter(options.values()))))):
        make(**options)

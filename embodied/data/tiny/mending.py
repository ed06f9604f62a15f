"""Lessons from which EDIT is learned: texts, and how likely each of their symbols was.

A demonstration of EDIT shows what a right edit is in a fifth of its edits, at random places among
others. A small model that imitates such texts edits at random. It learns to find the wrong sum
where an edit has no other aim, and after it has learned to tell each wrong sum as it reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from embodied.data.tiny.edit import EDIT_WIDTH, MODULUS, Edit
from embodied.data.tiny.task import END, PAD, drawn, written

Chances = dict[str, float]
"""How likely each symbol is at a place; none of them is to be learned where it is empty."""


@dataclass(frozen=True)
class Shown:
    """A text to learn from.

    Attributes:
        prompt: what is given.
        response: what follows, as it was drawn.
        chances: of each symbol of the response, given those before it.
    """

    prompt: str
    response: str
    chances: list[Chances]


def sums(task: Edit, prompt: str, rng: np.random.Generator) -> Shown:
    """An attempt that slips as often as the task's do."""
    return _shown(prompt, [*_steps(task, prompt), {END: 1.0}], rng)


def proof(task: Edit, prompt: str, rng: np.random.Generator) -> Shown:
    """An attempt whose every second step is wrong, with the right one in the next one's place.

    So each step is compared with the truth where it stands: that decides what follows it.
    """
    text, chances, missed = "", [], False
    right = [*written(task.sums(prompt)), END]
    for at, symbol in enumerate(right):
        if missed:
            found: Chances = {right[at - 1]: 1.0}
        else:
            found = {END: 1.0} if symbol == END else task.steps(int(symbol), MODULUS, 0.5)
        text, chances = text + drawn(found, rng), [*chances, found]
        missed = not missed and text[-1] != symbol
    return Shown(prompt, text, chances)


def whole(task: Edit, prompt: str, rng: np.random.Generator) -> Shown:
    """A demonstration: an attempt and an edit."""
    first = sums(task, prompt, rng)
    edit = _edit(task, prompt, first.response, rng)
    gap = task.slot(first.response)[len(first.response) :] + "?"
    fixed = [{symbol: 1.0} for symbol in gap]
    return Shown(prompt, first.response + gap + edit.response, first.chances + fixed + edit.chances)


def slight(task: Edit, prompt: str, rng: np.random.Generator) -> Shown:
    """An edit of a given attempt, in which one step may be any sum."""
    return _mended(task, prompt, rng, MODULUS)


def glaring(task: Edit, prompt: str, rng: np.random.Generator) -> Shown:
    """An edit of a given attempt, in which one step may be any digit: most can be no sum."""
    return _mended(task, prompt, rng, 10)


LESSONS: dict[str, Callable[[Edit, str, np.random.Generator], Shown]] = {
    make.__name__: make for make in (sums, proof, whole, slight, glaring)
}


def symbol_chances(odds: Mapping[str, float], text: str) -> list[Chances]:
    """How likely each symbol is after the ones of `text` before it.

    Args:
        odds: of whole texts, of which `text` is one.
        text: as it was drawn.
    """
    found = []
    for at in range(len(text)):
        left: Chances = {}
        for other, chance in odds.items():
            if other.startswith(text[:at]):
                left[other[at]] = left.get(other[at], 0.0) + chance
        total = sum(left.values())
        found.append({symbol: chance / total for symbol, chance in left.items()})
    return found


def _steps(task: Edit, prompt: str) -> list[Chances]:
    return [task.steps(right, MODULUS, task.slip) for right in task.sums(prompt)]


def _shown(prompt: str, chances: list[Chances], rng: np.random.Generator) -> Shown:
    return Shown(prompt, "".join(drawn(each, rng) for each in chances), chances)


def _edit(task: Edit, prompt: str, attempt: str, rng: np.random.Generator) -> Shown:
    odds = task.edits(prompt, attempt)
    edit = drawn(odds, rng)
    padding = EDIT_WIDTH - len(edit)
    chances = symbol_chances(odds, edit) + padding * [{PAD: 1.0}]
    return Shown(prompt, edit + padding * PAD, chances)


def _mended(task: Edit, prompt: str, rng: np.random.Generator, values: int) -> Shown:
    steps = task.sums(prompt)
    steps[rng.integers(len(steps))] = int(rng.integers(values))
    attempt = written(steps) + END
    edit = _edit(task, prompt, attempt, rng)
    given = task.slot(attempt) + "?"
    return Shown(prompt, given + edit.response, [{} for _ in given] + edit.chances)

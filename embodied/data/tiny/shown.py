"""Demonstrations of EDIT with how likely each of their symbols was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from embodied.data.tiny.edit import MODULUS, Edit
from embodied.data.tiny.task import END, drawn

Chances = dict[str, float]


@dataclass(frozen=True)
class Shown:
    """A text to learn from.

    Attributes:
        prompt: what is given.
        response: what follows.
        chances: of each symbol there, given those before it.
    """

    prompt: str
    response: str
    chances: list[Chances]


def shown(task: Edit, prompt: str, rng: np.random.Generator, slip: float | None = None) -> Shown:
    """A demonstration.

    Args:
        task: whose demonstrations they are.
        prompt: a problem.
        rng: draws it.
        slip: share of its steps that are wrong, where the chances are to stay those of the task.
    """
    steps = [task.steps(right, MODULUS, task.slip) for right in task.sums(prompt)]
    attempt = task.attempt(prompt, rng, task.slip if slip is None else slip)
    odds = task.edits(prompt, attempt)
    edit = drawn(odds, rng)
    gap, rest = (task.slot(text)[len(text) :] for text in (attempt, edit))
    chances = [*steps, *_sure(END + gap + "?"), *symbol_chances(odds, edit), *_sure(rest)]
    return Shown(prompt, f"{attempt}{gap}?{edit}{rest}", chances)


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


def _sure(text: str) -> list[Chances]:
    return [{symbol: 1.0} for symbol in text]

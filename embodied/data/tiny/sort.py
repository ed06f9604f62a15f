"""SORT: digits in ascending order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from embodied.data.tiny.task import END, UNPARSABLE, Slots, Verdict, digits, inside, parsed, written

RADIX = 10


@dataclass(frozen=True)
class Sort(Slots):
    """The digits of a problem in ascending order.

    Step i is right if it is the smallest digit of the problem that has not been written yet. A slip
    writes any other digit, also one the problem does not have; it then stays to be written.

    Attributes:
        longest: the most digits.
    """

    longest: int = 6

    TAG: ClassVar[str] = "r"

    def problem(self, length: int, rng: np.random.Generator) -> str:
        """Digits, which may come twice."""
        return written(rng.integers(0, RADIX, length))

    def attempt(self, prompt: str, rng: np.random.Generator, slip: float = 0.0) -> str:
        """Digits and an end; each is wrong with probability `slip`."""
        problem, steps = digits(inside(prompt)), []
        for _ in problem:
            steps.append(self.step(_next(problem, steps), RADIX, slip, rng))
        return written(steps) + END

    def verify(self, prompt: str, response: str) -> Verdict:
        """Compare a response with the truth."""
        problem = digits(inside(prompt))
        steps = parsed(response, len(problem))
        if steps is None:
            return UNPARSABLE
        per_step = tuple(step == _next(problem, steps[:i]) for i, step in enumerate(steps))
        right = steps == sorted(problem)
        return Verdict(right, right, per_step, True)


def _next(problem: Iterable[int], steps: Iterable[int]) -> int:
    """The smallest digit that is still to be written."""
    left = sorted(problem)
    for step in steps:
        if step in left:
            left.remove(step)
    return left[0]

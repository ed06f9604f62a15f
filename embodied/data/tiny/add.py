"""ADD: column addition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from embodied.data.tiny.task import END, UNPARSABLE, Slots, Verdict, digits, inside, parsed, written


@dataclass(frozen=True)
class Add(Slots):
    """The sum of two numbers, as one adds on paper.

    A problem is its columns, least digits first: 27 + 58 is `7825`. The answer has a digit and a
    carry per column, then the number with all its carries: `5180` and `085`.

    Attributes:
        longest: the most digits.
    """

    longest: int = 3

    TAG: ClassVar[str] = "a"

    @property
    def problem_width(self) -> int:
        """Symbols of the slot a problem is written in."""
        return 2 * self.longest

    @property
    def response_length(self) -> int:
        """Tokens of the longest attempt, its end included."""
        return 3 * self.longest + 2

    def problem(self, length: int, rng: np.random.Generator) -> str:
        """Columns of two digits."""
        return written(rng.integers(0, 10, 2 * length))

    def is_problem(self, text: str) -> bool:
        """Whether a text without its slot is a problem."""
        return len(text) in range(2, self.problem_width + 1, 2) and text.isdecimal()

    def attempt(self, prompt: str, rng: np.random.Generator, slip: float = 0.0) -> str:
        """Columns, number, end; a column is wrong with probability `slip`, the number is not."""
        carry, columns = 0, []
        for a, b in _pairs(digits(inside(prompt))):
            total = self.step(a + b + carry, 20, slip, rng)
            carry = total // 10
            columns += [total % 10, carry]
        return written(columns) + written(_number(columns)) + END

    def verify(self, prompt: str, response: str) -> Verdict:
        """Compare a response with the truth; the number is one step more."""
        problem = digits(inside(prompt))
        steps = parsed(response, len(problem) + len(problem) // 2 + 1)
        if steps is None:
            return UNPARSABLE
        columns, number = steps[: len(problem)], steps[len(problem) :]
        carry, per_step = 0, []
        for (a, b), (digit, next_carry) in zip(_pairs(problem), _pairs(columns), strict=True):
            per_step.append(10 * next_carry + digit == a + b + carry)
            carry = next_carry
        per_step.append(number == _number(columns))
        sums = sum((a + b) * 10**i for i, (a, b) in enumerate(_pairs(problem)))
        return Verdict(int(written(number)) == sums, all(per_step), tuple(per_step), True)


def _pairs(values: list[int]) -> list[tuple[int, int]]:
    return list(zip(values[::2], values[1::2], strict=True))


def _number(columns: list[int]) -> list[int]:
    """The number that (digit, carry) columns make, its first digit the last carry."""
    return [columns[-1], *columns[-2::-2]]

"""The tiny suite: tasks of one line that a model of 160,000 weights learns in a minute.

One symbol is one token. A problem has a slot of fixed width, an attempt another: the offset between
a step and its operand is the same for every length, without which such a model does not learn.
Every written step of the demonstrations is wrong with a known probability, so that the base model
has the skill and calibrated slips: something to improve.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

PAD, BEGIN, END = "_", "^", "."
SYMBOLS = "_^.0123456789+=:#,|?![]YNabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLM"


class Verdict(NamedTuple):
    """What a verifier says of a response.

    Attributes:
        final: whether the last step is right and the response ended.
        all_steps: whether every step is right too.
        per_step: whether each written step follows from the written one before it.
        parsable: whether it has the form of an attempt.
    """

    final: bool
    all_steps: bool
    per_step: tuple[bool, ...]
    parsable: bool


@dataclass(frozen=True)
class Chain:
    """Running sums of digits modulo `modulus`; the last one is the answer.

    The digits d_1 ... d_k are answered by s_i = (s_{i-1} + d_i) mod M and an end.

    Attributes:
        modulus: M.
        longest: K, the most digits, and the width of the slot.
    """

    modulus: int = 5
    longest: int = 8

    @property
    def response_length(self) -> int:
        """Tokens of the longest attempt, its end included."""
        return self.longest + 1

    def prompt(self, digits: np.ndarray) -> str:
        """A problem."""
        return f"{BEGIN}c{_text(digits).ljust(self.longest, PAD)}:"

    def problems(self, count: int, rng: np.random.Generator, length: int | None = None) -> list:
        """Prompts of `length` digits each, or of random lengths."""
        lengths = rng.integers(1, self.longest + 1, count) if length is None else [length] * count
        return [self.prompt(rng.integers(0, self.modulus, k)) for k in lengths]

    def attempt(self, prompt: str, rng: np.random.Generator, slip: float = 0.0) -> str:
        """Steps and an end; each is wrong with probability `slip`, and later ones go on from it."""
        total, steps = 0, []
        for digit in self._digits(prompt):
            total = (total + digit) % self.modulus
            if rng.random() < slip:
                total = (total + 1 + int(rng.integers(self.modulus - 1))) % self.modulus
            steps.append(total)
        return _text(steps) + END

    def understands(self, prompt: str) -> bool:
        """Whether a text is a problem of this task."""
        shape = rf"\^c(?=\d)\d*{PAD}*:"
        return len(prompt) == self.longest + 3 and re.fullmatch(shape, prompt) is not None

    def mistake(self, prompt: str, rng: np.random.Generator) -> str:
        """An attempt that slips at one step, or more, somewhere."""
        right = self.attempt(prompt, rng)
        while (wrong := self.attempt(prompt, rng, slip=0.3)) == right:
            pass
        return wrong

    def verify(self, prompt: str, response: str) -> Verdict:
        """Compare a response with the truth."""
        digits = self._digits(prompt)
        body, end, _ = response.partition(END)
        if not end or not body.isdecimal() or len(body) != len(digits):
            return Verdict(False, False, (), False)
        steps = [int(symbol) for symbol in body]
        truth = (np.cumsum(digits) % self.modulus).tolist()
        before = [0, *steps[:-1]]
        per_step = tuple(
            s == (b + d) % self.modulus for s, b, d in zip(steps, before, digits, strict=True)
        )
        return Verdict(steps[-1] == truth[-1], steps == truth, per_step, True)

    def demonstration(
        self,
        prompt: str,
        rng: np.random.Generator,
        slip: float = 0.15,
        second_slip: float = 0.2,
        copy: float = 0.3,
    ) -> str:
        """Two attempts, the second after a question mark and sometimes a copy of the first."""
        first = self.attempt(prompt, rng, slip)
        second = first if rng.random() < copy else self.attempt(prompt, rng, second_slip)
        width = self.response_length
        return f"{first.ljust(width, PAD)}?{second.ljust(width, PAD)}"

    def _digits(self, prompt: str) -> list[int]:
        return [int(symbol) for symbol in prompt[2:-1].rstrip(PAD)]


def _text(digits: object) -> str:
    return "".join(str(int(digit)) for digit in digits)


TASKS = {"chain": Chain}

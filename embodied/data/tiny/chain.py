"""CHAIN: running sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from embodied.data.tiny.task import END, UNPARSABLE, Slots, Verdict, digits, inside, parsed, written


@dataclass(frozen=True)
class Chain(Slots):
    """Running sums of digits modulo `modulus`; the last one is the answer.

    The digits d_1 ... d_k are answered by s_i = (s_{i-1} + d_i) mod M and an end.

    Attributes:
        modulus: M.
        longest: K, the most digits.
    """

    modulus: int = 5
    longest: int = 8

    TAG: ClassVar[str] = "c"

    def problem(self, length: int, rng: np.random.Generator) -> str:
        """Digits below the modulus."""
        return written(rng.integers(0, self.modulus, length))

    def attempt(self, prompt: str, rng: np.random.Generator, slip: float = 0.0) -> str:
        """Sums and an end; each is wrong with probability `slip`, and later ones go on from it."""
        total, steps = 0, []
        for digit in digits(inside(prompt)):
            total = self.step((total + digit) % self.modulus, self.modulus, slip, rng)
            steps.append(total)
        return written(steps) + END

    def verify(self, prompt: str, response: str) -> Verdict:
        """Compare a response with the truth."""
        terms = digits(inside(prompt))
        steps = parsed(response, len(terms))
        if steps is None:
            return UNPARSABLE
        truth = (np.cumsum(terms) % self.modulus).tolist()
        before = [0, *steps[:-1]]
        per_step = tuple(
            s == (b + d) % self.modulus for s, b, d in zip(steps, before, terms, strict=True)
        )
        return Verdict(steps[-1] == truth[-1], steps == truth, per_step, True)

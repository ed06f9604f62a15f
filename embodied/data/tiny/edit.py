"""EDIT: sums to write down and then to mend, one at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from embodied.data.tiny.task import (
    END,
    PAD,
    UNPARSABLE,
    Slots,
    Verdict,
    digits,
    drawn,
    inside,
    parsed,
    written,
)

MODULUS = 5
KEEP = "="


class Odds(NamedTuple):
    """Accuracies of the demonstrations, by arithmetic.

    Attributes:
        first: of the attempt.
        second: after one edit.
        mended: share of problems that the edit made right (i -> c).
        spoilt: share that it made wrong (c -> i).
    """

    first: float
    second: float
    mended: float
    spoilt: float


@dataclass(frozen=True)
class Edit(Slots):
    """Element-wise sums of pairs modulo 5; a later turn keeps the attempt or changes one of them.

    A problem is a_1 ... a_k b_1 ... b_k in two slots, its attempt s_i = (a_i + b_i) mod 5: no step
    depends on another. An edit has a symbol per step: `=` keeps it, a digit, one at most, takes its
    place.

    Deviations from the specification, neither of which changes an accuracy (see `odds`):
    1. It names the place of an edit by a letter. Whether the step at a far place is wrong, and what
       its letter is, 2200 updates on demonstrations do not teach so small a model.
    2. It leaves open which of several wrong steps is mended. Here it is the first, which a model
       knows when it comes to it; for a random one it had to count those that follow.

    Attributes:
        longest: K, the most pairs.
        keep: share of edits in the demonstrations that keep the attempt.
        fix: share that mends the first wrong position, and keeps if there is none; all others set
            a random position to a random digit.
    """

    longest: int = 5
    keep: float = 0.3
    fix: float = 0.2

    TAG: ClassVar[str] = "e"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.keep, self.fix) < 0 or self.keep + self.fix > 1:
            raise ValueError(f"keep and fix are shares of edits; got {self}")

    @property
    def problem_width(self) -> int:
        """Symbols of the two slots a problem is written in."""
        return 2 * self.longest

    def problem(self, length: int, rng: np.random.Generator) -> str:
        """The two rows of digits."""
        rows = rng.integers(0, MODULUS, (2, length))
        return "".join(written(row).ljust(self.longest, PAD) for row in rows)

    def is_problem(self, text: str) -> bool:
        """Whether a text without its slot is a problem."""
        first, second = self._rows(text)
        return 1 <= len(first) == len(second) and (first + second).isdecimal()

    def attempt(self, prompt: str, rng: np.random.Generator, slip: float = 0.0) -> str:
        """Sums and an end; each is wrong with probability `slip`."""
        return written(self.step(s, MODULUS, slip, rng) for s in self.sums(prompt)) + END

    def verify(self, prompt: str, response: str) -> Verdict:
        """Compare an attempt, or what edits made of one, with the truth."""
        sums = self.sums(prompt)
        steps = parsed(response, len(sums))
        if steps is None:
            return UNPARSABLE
        per_step = tuple(a == b for a, b in zip(steps, sums, strict=True))
        return Verdict(all(per_step), all(per_step), per_step, True)

    def demonstration(self, prompt: str, rng: np.random.Generator) -> str:
        """An attempt and, after `?`, an edit."""
        attempt = self.attempt(prompt, rng, self.slip)
        return f"{self.slot(attempt)}?{self.slot(self.edit(prompt, attempt, rng))}"

    def edit(self, prompt: str, attempt: str, rng: np.random.Generator) -> str:
        """An edit of the demonstrations' policy, and an end."""
        return drawn(self.edits(prompt, attempt), rng)

    def edits(self, prompt: str, attempt: str) -> dict[str, float]:
        """How likely the demonstrations' policy makes each edit, its end included."""
        sums, steps = self.sums(prompt), digits(attempt.partition(END)[0])
        wrong = [i for i, (a, b) in enumerate(zip(steps, sums, strict=True)) if a != b]
        chance = (1 - self.keep - self.fix) / (len(sums) * MODULUS)
        odds = {KEEP * len(sums) + END: self.keep + (0 if wrong else self.fix)}
        for at in range(len(sums)):
            for value in range(MODULUS):
                mends = at in wrong[:1] and value == sums[at]
                edit = f"{KEEP * at}{value}{KEEP * (len(sums) - at - 1)}{END}"
                odds[edit] = chance + (self.fix if mends else 0)
        return odds

    def sums(self, prompt: str) -> list[int]:
        """The right sums."""
        rows = map(digits, self._rows(inside(prompt)))
        return [(a + b) % MODULUS for a, b in zip(*rows, strict=True)]

    def revised(self, attempt: str, answer: str) -> str:
        """The attempt after an edit."""
        return self.edited(attempt, answer)

    def edited(self, attempt: str, edit: str) -> str:
        """An attempt after an edit; an edit without the right form changes nothing."""
        steps, body = attempt.partition(END)[0], edit.removesuffix(END)
        new = body.replace(KEEP, "")
        if body == edit or len(body) != len(steps) or not (new.isdecimal() and len(new) == 1):
            return attempt
        return "".join(a if b == KEEP else b for a, b in zip(steps, body, strict=True)) + END

    def odds(self, length: int) -> Odds:
        """What the demonstrations' accuracies are, by arithmetic."""
        first = (1 - self.slip) ** length
        one_wrong = length * self.slip * (1 - self.slip) ** (length - 1)
        chance = 1 - self.keep - self.fix
        spoilt = first * chance * (MODULUS - 1) / MODULUS
        mended = one_wrong * (self.fix + chance / (length * MODULUS))
        return Odds(first, first - spoilt + mended, mended, spoilt)

    def ceiling(self, length: int, edits: int) -> float:
        """Accuracy after so many edits, each of which mends a wrong position."""
        return sum(
            math.comb(length, wrong) * self.slip**wrong * (1 - self.slip) ** (length - wrong)
            for wrong in range(min(edits, length) + 1)
        )

    def _rows(self, text: str) -> tuple[str, str]:
        return text[: self.longest].rstrip(PAD), text[self.longest :].rstrip(PAD)

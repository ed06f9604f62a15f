"""What the tasks of the tiny suite share: symbols, slots, slips, and how they are asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

PAD, BEGIN, END = "_", "^", "."
SYMBOLS = "_^.0123456789+=:#,|?![]YNabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLM"
SLIPS = ("uniform", "systematic")
COPIES, WORSE = 0.3, 0.05  # second attempts that repeat the first; how much oftener others slip


class Verdict(NamedTuple):
    """What a verifier says of a response.

    Attributes:
        final: whether the answer is right (the last sum, the number, the list) and it ended.
        all_steps: whether every step is right too.
        per_step: whether each written step follows from the written ones before it.
        parsable: whether it has the form of an attempt.
    """

    final: bool
    all_steps: bool
    per_step: tuple[bool, ...]
    parsable: bool


UNPARSABLE = Verdict(False, False, (), False)


class Task(Protocol):
    """A task that makes its problems, solves them, badly if asked to, and judges answers.

    Attributes:
        longest: steps of the longest problem.
    """

    longest: int

    @property
    def response_length(self) -> int:
        """Tokens of the longest attempt, its end included."""

    def problems(
        self, count: int, rng: np.random.Generator, length: int | None = None
    ) -> list[str]:
        """Prompts of `length` steps each, or of random lengths."""

    def attempt(self, prompt: str, rng: np.random.Generator, slip: float = 0.0) -> str:
        """Steps and an end; each is wrong with probability `slip`, and later ones go on from it."""

    def mistake(self, prompt: str, rng: np.random.Generator) -> str:
        """An attempt that slips at one step, or more, somewhere."""

    def verify(self, prompt: str, response: str) -> Verdict:
        """Compare a response with the truth."""

    def demonstration(self, prompt: str, rng: np.random.Generator) -> str:
        """What the base model learns to write: an attempt, and after `?` a second turn."""

    def understands(self, prompt: str) -> bool:
        """Whether a text is a problem of this task."""

    def again(self, prompt: str, attempt: str) -> str:
        """The prompt for another turn: a problem and the attempt so far."""

    def revised(self, attempt: str, answer: str) -> str:
        """What the answer to such a prompt makes of the attempt."""


@dataclass(frozen=True)
class Slots(ABC):
    """Problems and attempts in slots of fixed width, and attempts that slip.

    Attributes:
        slip: probability that a step of a demonstration is wrong.
        slips: uniform, to any wrong value, or systematic, to the next one. With more than half of
            the steps wrong in the same way, the likeliest answer is wrong and the right one latent.
    """

    slip: float = field(default=0.15, kw_only=True)
    slips: str = field(default="uniform", kw_only=True)

    TAG: ClassVar[str]
    longest: ClassVar[int]

    def __post_init__(self) -> None:
        if self.slips not in SLIPS or not 0 <= self.slip <= 1 or self.longest < 1:
            raise ValueError(
                f"longest must be at least 1, slip lie in [0, 1], and slips be one of "
                f"{', '.join(SLIPS)}; got {self}"
            )

    @property
    def problem_width(self) -> int:
        """Symbols of the slot a problem is written in."""
        return self.longest

    @property
    def response_length(self) -> int:
        """Tokens of the longest attempt, its end included."""
        return self.longest + 1

    @abstractmethod
    def problem(self, length: int, rng: np.random.Generator) -> str:
        """What stands in the slot of a problem of `length` steps."""

    @abstractmethod
    def attempt(self, prompt: str, rng: np.random.Generator, slip: float = 0.0) -> str:
        """Steps and an end; each is wrong with probability `slip`, and later ones go on from it."""

    def prompt(self, problem: str) -> str:
        """A problem in its slot."""
        return f"{BEGIN}{self.TAG}{problem.ljust(self.problem_width, PAD)}:"

    def problems(
        self, count: int, rng: np.random.Generator, length: int | None = None
    ) -> list[str]:
        """Prompts of `length` steps each, or of random lengths."""
        lengths = rng.integers(1, self.longest + 1, count) if length is None else [length] * count
        return [self.prompt(self.problem(k, rng)) for k in lengths]

    def mistake(self, prompt: str, rng: np.random.Generator) -> str:
        """An attempt that slips at one step, or more, somewhere."""
        right = self.attempt(prompt, rng)
        while (wrong := self.attempt(prompt, rng, slip=0.3)) == right:
            pass
        return wrong

    def demonstration(self, prompt: str, rng: np.random.Generator) -> str:
        """Two attempts, the second after `?`, a little worse or a copy of the first."""
        first = self.attempt(prompt, rng, self.slip)
        if rng.random() < COPIES:
            second = first
        else:
            second = self.attempt(prompt, rng, min(1.0, self.slip + WORSE))
        return f"{self.slot(first)}?{self.slot(second)}"

    def slot(self, attempt: str) -> str:
        """An attempt in its slot."""
        return attempt.ljust(self.response_length, PAD)

    def again(self, prompt: str, attempt: str) -> str:
        """The prompt for another turn: a problem and the attempt so far."""
        return f"{prompt}{self.slot(attempt)}?"

    def revised(self, attempt: str, answer: str) -> str:
        """What the answer to such a prompt makes of the attempt: it is the new one."""
        return answer

    def understands(self, prompt: str) -> bool:
        """Whether a text is a problem of this task."""
        text = inside(prompt)
        return prompt == self.prompt(text) and self.is_problem(text)

    def is_problem(self, text: str) -> bool:
        """Whether a text without its slot is a problem."""
        return 1 <= len(text) <= self.longest and text.isdecimal()

    def step(self, right: int, values: int, slip: float, rng: np.random.Generator) -> int:
        """A step: `right`, or with probability `slip` another of `values` values."""
        if rng.random() >= slip:
            return right
        shift = 1 + int(rng.integers(values - 1)) if self.slips == "uniform" else 1
        return (right + shift) % values

    def steps(self, right: int, values: int, slip: float) -> dict[str, float]:
        """How likely each such step is, as it is written."""
        shifts = range(1, values) if self.slips == "uniform" else (1,)
        wrong = {str((right + shift) % values): slip / len(shifts) for shift in shifts}
        return {str(right): 1 - slip} | wrong


def drawn(odds: Mapping[str, float], rng: np.random.Generator) -> str:
    """One of some texts, each as often as its probability says."""
    left = rng.random()
    for text, chance in odds.items():
        left -= chance
        if left < 0:
            return text
    return max(odds, key=odds.__getitem__)  # the probabilities' sum fell short of 1 by rounding


def inside(prompt: str) -> str:
    """What stands in the slot of a prompt."""
    return prompt[2:-1].rstrip(PAD)


def digits(text: str) -> list[int]:
    """The digits of a text."""
    return [int(symbol) for symbol in text]


def written(values: Iterable[int]) -> str:
    """Digits as text."""
    return "".join(str(int(value)) for value in values)


def parsed(response: str, length: int) -> list[int] | None:
    """The digits before the end, if they are `length` many and nothing else."""
    body, end, _ = response.partition(END)
    return digits(body) if end and len(body) == length and body.isdecimal() else None

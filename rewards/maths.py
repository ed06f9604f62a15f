"""Whether the answer to a problem of mathematics equals the true one."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import selectors
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

from rewards.reward import WrongFacts

NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3})?(?:/\d+)?")
FRACTION = re.compile(r"([-+]?)\\frac\{([-+]?\d+)\}\{([-+]?\d+)\}")
BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
NOISE = re.compile(r"\\left|\\right|\\[,;:! $]|\$|\s+|\.$")
LONGEST = 1000  # characters of an answer that is looked at
START = 60.0  # seconds in which the judge must have started; importing sympy takes a few


@dataclass(frozen=True)
class Maths:
    r"""1 if a response's answer equals the row's `answer`, else 0.

    The answer of a response is what its last `\boxed{...}` holds, or without one its last number.
    Two answers are equal as text, else as numbers if both are, else as what math-verify takes them
    for: expressions, equations, intervals, sets, matrices in LaTeX.

    Attributes:
        symbolic: ask math-verify, of the `maths` extra; without it text and numbers decide.
        boxed: no box, no reward.
        seconds: for one question to math-verify, after which its process is killed and the answers
            count as different.
    """

    FACTS: ClassVar[str] = "answer: text or number; of `... #### 42` the part behind the signs"

    symbolic: bool = True
    boxed: bool = False
    seconds: float = 5.0

    def check(self, facts: Mapping[str, Any]) -> None:
        """Refuse a prompt without an answer.

        Raises:
            ImportError: math-verify is needed and not installed.
        """
        truth(facts)
        if self.symbolic and importlib.util.find_spec("math_verify") is None:
            raise ImportError("math-verify is not installed", name="math_verify")

    def __call__(self, prompt: str, response: str, facts: Mapping[str, Any]) -> float:
        """1 or 0."""
        given = extract(response, self.boxed)
        return float(given is not None and self.equal(given, truth(facts)))

    def equal(self, given: str, true: str) -> bool:
        """Whether two answers are the same."""
        first, second = tidy(given), tidy(true)
        if first == second:
            return first != ""
        numbers = number(first), number(second)
        if None not in numbers:
            return numbers[0] == numbers[1]
        if not self.symbolic or max(len(first), len(second)) > LONGEST:
            return False
        return judge().equal(given, true, self.seconds)


def extract(text: str, boxed: bool = False) -> str | None:
    """The answer in a text: its last box, or without one (unless `boxed`) its last number."""
    for start in reversed(list(BOX.finditer(text))):
        if (inside := _braced(text, start.end())) is not None:
            return inside
    numbers = [] if boxed else NUMBER.findall(text)
    return numbers[-1] if numbers else None


def _braced(text: str, start: int) -> str | None:
    """What stands between a brace and its other half; the text begins behind the brace."""
    depth, at = 1, start
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] in "{}":
            depth += 1 if text[at] == "{" else -1
            if depth == 0:
                return text[start:at]
        at += 1
    return None


def truth(facts: Mapping[str, Any]) -> str:
    """The true answer of a row."""
    answer = facts.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or answer == "":
        raise WrongFacts(f"needed is {Maths.FACTS}; got answer={answer!r:.60}")
    text = str(answer).rpartition("####")[2].strip()
    boxed = extract(text, boxed=True)
    return text if boxed is None else boxed


def tidy(text: str) -> str:
    """A text without what does not change its meaning."""
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("{,}", "")
    return NOISE.sub("", text.strip())


def number(text: str) -> Fraction | None:
    """The number a tidied text is, exactly; None if it is none."""
    if len(text) > LONGEST:
        return None
    if match := FRACTION.fullmatch(text):
        text = f"{match[1]}{match[2]}/{match[3]}".replace("+", "").replace("--", "")
    elif not NUMBER.fullmatch(text):
        return None
    above, _, below = text.replace(",", "").partition("/")
    return Fraction(above) / Fraction(below or 1) if Fraction(below or 1) else None


class Judge:
    """A process that compares expressions and can be killed: on some, sympy works for ever."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def equal(self, given: str, true: str, seconds: float) -> bool:
        """Whether two answers in LaTeX are the same; False if that cannot be said in time."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("symbolic.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            if self._answer(START) != "ready":
                self.close()
                raise RuntimeError("the process that compares expressions did not start")
        try:
            self._process.stdin.write(json.dumps([given, true]).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self.close()
            return False
        answer = self._answer(seconds)
        if answer is None:
            self.close()
        return answer == "equal"

    def _answer(self, seconds: float) -> str | None:
        """A line of the process; None if it takes too long or ends."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            line = self._process.stdout.readline() if selector.select(seconds) else b""
        return line.decode().strip() or None

    def close(self) -> None:
        """Kill the process; the next question starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@functools.cache
def judge() -> Judge:
    """The one of this process."""
    return Judge()

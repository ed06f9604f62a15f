"""Whether a program that was written as an answer does what its tests ask."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rewards import sandbox
from rewards.reward import WrongFacts

ISOLATION = ("full", "any")
FENCE = re.compile(
    r"^[ \t]*```[ \t]*(?:python3?|py)?[ \t]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE | re.I
)
RAN_OUT = {
    sandbox.TIME: "took too long",
    sandbox.OUTPUT: "printed too much",
    sandbox.KILLED: "was killed",
}


@dataclass(frozen=True)
class Verdict:
    """What the tests say of a program.

    Attributes:
        passed: by test.
        errors: by test, why it failed; empty where it passed.
        printed: by the last process, up to the limit.
    """

    passed: tuple[bool, ...]
    errors: tuple[str, ...]
    printed: str

    @property
    def share(self) -> float:
        """Share of tests that passed."""
        return sum(self.passed) / len(self.passed)


@dataclass(frozen=True)
class Code:
    """1 if a response's program passes all its tests, else 0; see `rewards.sandbox` for its walls.

    The program is the last block fenced as Python, or the whole response if there is none. A row's
    `tests` are Python statements run after the program in its module, such as `assert f(1) == 2` (a
    string, or a list of them), or a list of `{"input": ..., "output": ...}`: what the program then
    prints must be the output, but for white space at the ends of lines.

    Statements share the program's interpreter, so a program can cheat on them, by an object that
    equals everything or by searching memory. It cannot on inputs and outputs: these are compared
    out here, and the program never sees the output.

    Attributes:
        seconds: of wall time, for all statements together or one input.
        cpu_seconds: of processor time, likewise.
        memory: MiB.
        partial: reward the share of tests that pass.
        isolation: full refuses to run anything on a machine that lacks one of the walls; any runs
            it behind those there are.
    """

    FACTS: ClassVar[str] = (
        'tests: statements such as "assert f(1) == 2", or a list of {"input": ..., "output": ...}'
    )

    seconds: float = 10.0
    cpu_seconds: float = 5.0
    memory: int = 1024
    partial: bool = False
    isolation: str = "full"

    def __post_init__(self) -> None:
        if self.isolation not in ISOLATION:
            raise ValueError(f"isolation must be full or any, got {self.isolation!r}")
        self._limits()

    def check(self, facts: Mapping[str, Any]) -> None:
        """Refuse a prompt without tests."""
        _tests(facts)

    def __call__(self, prompt: str, response: str, facts: Mapping[str, Any]) -> float:
        """1 or 0, or the share of tests that pass."""
        verdict = self.verdict(response, facts)
        return verdict.share if self.partial else float(all(verdict.passed))

    def verdict(self, response: str, facts: Mapping[str, Any]) -> Verdict:
        """Run the tests."""
        program, tests = extract(response), _tests(facts)
        if isinstance(tests[0], str):
            return self._statements(program, tests)
        return self._conversations(program, tests)

    def _statements(self, program: str, tests: Sequence[str]) -> Verdict:
        files = {"program.py": program, **{f"test_{i}.py": test for i, test in enumerate(tests)}}
        outcome = self._run(files)
        ended = [error or "" for error in outcome.errors]
        why = ended[0] if ended and ended[0] else RAN_OUT.get(outcome.status, "left early")
        errors = (*ended[1:], *[why] * (len(tests) + 1 - max(1, len(ended))))
        return Verdict(tuple(not error for error in errors), errors, outcome.printed)

    def _conversations(self, program: str, tests: Sequence[Mapping[str, str]]) -> Verdict:
        errors, printed = [], ""
        for test in tests:
            outcome = self._run({"program.py": program}, test["input"])
            printed = outcome.printed
            error = outcome.errors[0] if outcome.errors else None
            if outcome.status != sandbox.ENDED:
                errors.append(RAN_OUT[outcome.status])
            elif error not in (None, "SystemExit: 0"):
                errors.append(error)
            else:
                same = _lines(printed) == _lines(test["output"])
                errors.append("" if same else "printed something else")
        return Verdict(tuple(not error for error in errors), tuple(errors), printed)

    def _run(self, files: Mapping[str, str], stdin: str = "") -> sandbox.Outcome:
        required = sandbox.LAYERS if self.isolation == "full" else ()
        return sandbox.run(files, self._limits(), stdin=stdin, required=required)

    def _limits(self) -> sandbox.Limits:
        return sandbox.Limits(self.seconds, self.cpu_seconds, self.memory)


def extract(response: str) -> str:
    """The last block fenced as Python or as nothing, or all of it if there is none."""
    blocks = FENCE.findall(response)
    return blocks[-1] if blocks else response


def _tests(facts: Mapping[str, Any]) -> list:
    tests = facts.get("tests")
    tests = [tests] if isinstance(tests, str) else tests
    if isinstance(tests, list) and tests:
        if all(isinstance(test, str) and test.strip() for test in tests):
            return tests
        if all(_is_conversation(test) for test in tests):
            return tests
    raise WrongFacts(f"needed are {Code.FACTS}; got tests={str(tests)[:60]}")


def _is_conversation(test: Any) -> bool:
    return isinstance(test, Mapping) and all(
        isinstance(test.get(name), str) for name in ("input", "output")
    )


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]

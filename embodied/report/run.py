"""What a run directory says, read once for figures, reports and the command line."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embodied.core.log import read_log
from embodied.core.stats import wilson
from embodied.core.types import UserError

PRETRAINING = "offline"  # the phase whose last evaluation is "before"


@dataclass(frozen=True)
class EvaluationLine:
    """One evaluation of the log.

    Attributes:
        of: phase evaluated.
        env_steps: environment steps done by then.
        updates: learner updates done by then.
        successes: episodes with success.
        episodes: episodes evaluated.
        interval: Wilson 95 % interval of the success rate.
        mean_return: mean episode return.
        ledger: one dict per episode.
    """

    of: str
    env_steps: int
    updates: int
    successes: int
    episodes: int
    interval: tuple[float, float]
    mean_return: float
    ledger: list[dict[str, Any]] = field(repr=False)

    @property
    def success(self) -> float:
        """Success rate."""
        return self.successes / self.episodes

    def __str__(self) -> str:
        return f"{percent(self.success)} ({self.successes}/{self.episodes})"


@dataclass(frozen=True)
class Span:
    """A stretch of the run spent in one phase, in environment steps and in updates."""

    name: str
    env_steps: tuple[int, int]
    updates: tuple[int, int]


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        directory: where it lies.
        info: `run.json`; empty if the run has none.
        config: `config.json`; empty if the run has none.
        events: every line of the log.
    """

    directory: Path
    info: dict[str, Any]
    config: dict[str, Any]
    events: list[dict[str, Any]] = field(repr=False)

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """The events of one kind."""
        return [e for e in self.events if e["kind"] == kind]

    @property
    def evaluations(self) -> list[EvaluationLine]:
        """Every evaluation that ran episodes, in order."""
        return [_evaluation(e) for e in self.of_kind("evaluation") if e.get("ledger")]

    @property
    def before(self) -> EvaluationLine | None:
        """The last evaluation of the offline phase, if anything was evaluated after it."""
        found = [i for i, e in enumerate(self.evaluations) if e.of == PRETRAINING]
        if not found or found[-1] == len(self.evaluations) - 1:
            return None
        return self.evaluations[found[-1]]

    @property
    def after(self) -> EvaluationLine | None:
        """The last evaluation."""
        return self.evaluations[-1] if self.evaluations else None

    @property
    def finished(self) -> bool:
        """Whether the log reaches the end of the last phase."""
        return bool(self.events) and self.events[-1]["phase"] == "done"

    @property
    def last(self) -> dict[str, Any]:
        """Counters of the last line."""
        return self.events[-1]["counters"] if self.events else {"env_steps": 0, "updates": 0}

    @property
    def spans(self) -> list[Span]:
        """The phases entered, in order."""
        entered = self.of_kind("phase")
        ends = [*(e["counters"] for e in entered[1:]), self.last]
        return [
            Span(
                e["phase"],
                (e["counters"]["env_steps"], end["env_steps"]),
                (e["counters"]["updates"], end["updates"]),
            )
            for e, end in zip(entered, ends, strict=False)  # a log may hold no phase
        ]

    @property
    def title(self) -> str:
        """Method on environment."""
        return f"{self.info.get('method', 'run')} on {self.info.get('env', self.directory.name)}"


def read_run(directory: str | Path) -> Run:
    """Read a run directory.

    Raises:
        UserError: it has no log, or one of its files is not what it should be.
    """
    directory = Path(directory)
    if not (directory / "log.jsonl").is_file():
        raise UserError(f"{directory} is not a run directory: it has no log.jsonl")
    try:
        events = read_log(directory)
    except json.JSONDecodeError as error:
        raise UserError(f"{directory / 'log.jsonl'} has a broken line: {error}") from error
    return Run(
        directory, _read_json(directory / "run.json"), _read_json(directory / "config.json"), events
    )


def headline(before: EvaluationLine | None, after: EvaluationLine | None) -> tuple[str, str]:
    """What came out, and how sure one may be of it, in plain words.

    Args:
        before: evaluation of the pre-trained policy, or None.
        after: the last evaluation, or None.

    Returns:
        Two sentences.
    """
    if after is None:
        return "This run has no evaluation.", "Nothing can be said about its success."
    if before is None:
        phase = "offline training" if after.of == PRETRAINING else "training"
        return (
            f"Success after {phase}: {after}.",
            "There is no evaluation before and after fine-tuning to compare.",
        )
    if after.success == before.success:
        return f"Success stayed at {after}.", "No change was measured."
    word = "rose" if after.success > before.success else "fell"
    what = f"Success {word} from {before} to {after}."
    if before.interval[1] < after.interval[0] or after.interval[1] < before.interval[0]:
        change = "gain" if word == "rose" else "loss"
        return what, (
            f"The 95 % intervals are apart: this {change} is more than the luck of the evaluated "
            "episodes. One seed says nothing about other seeds."
        )
    change = "an improvement" if word == "rose" else "a loss"
    return what, (
        f"The 95 % intervals overlap: these episodes alone do not establish {change}. Evaluate on "
        "more episodes or run more seeds."
    )


def percent(rate: float) -> str:
    """A rate as a percentage: 0.985 is "98.5 %", 0.9 is "90 %"."""
    return f"{100 * rate:.1f}".removesuffix(".0") + " %"


def percent_range(low: float, high: float) -> str:
    """An interval of rates: "18.1–56.7 %"."""
    return f"{100 * low:.1f}–{100 * high:.1f} %"


def number(value: Any) -> float:
    """A logged value as a float; the log keeps non-finite numbers as text."""
    return float(value) if isinstance(value, int | float | str) else math.nan


def _evaluation(event: dict[str, Any]) -> EvaluationLine:
    ledger = event["ledger"]
    successes = sum(bool(e["success"]) for e in ledger)
    return EvaluationLine(
        of=event["of"],
        env_steps=event["counters"]["env_steps"],
        updates=event["counters"]["updates"],
        successes=successes,
        episodes=len(ledger),
        interval=wilson(successes, len(ledger)),
        mean_return=sum(number(e["episode_return"]) for e in ledger) / len(ledger),
        ledger=ledger,
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error

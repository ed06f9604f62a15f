"""A method is a recipe: phases in order, possibly several times over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from embodied.core.counters import COUNTER_NAMES, Counters
from embodied.core.types import Collector, Learner, Policy, Source, Stateful

if TYPE_CHECKING:
    from embodied.core.trainer import Trainer


@dataclass(frozen=True)
class Until:
    """A phase ends once `counter` has grown by `amount` since the phase began."""

    counter: str
    amount: float

    def __post_init__(self) -> None:
        if self.counter not in COUNTER_NAMES:
            raise ValueError(f"unknown counter {self.counter!r}; one of {', '.join(COUNTER_NAMES)}")

    def progress(self, now: Counters, start: Counters) -> float:
        """How much of the amount has been done, in units of the counter."""
        return getattr(now, self.counter) - getattr(start, self.counter)

    def reached(self, now: Counters, start: Counters) -> bool:
        """Whether the phase is over."""
        return self.progress(now, start) >= self.amount


@dataclass
class Phase:
    """One stretch of training with fixed roles.

    Attributes:
        name: shown in logs, figures and checkpoints; unique within a recipe.
        learner: what is trained, or merely acts when no updates are due.
        source: where the learner's batches come from; new experience goes here as well if it can
            take any (it has `add`). None for a phase that makes no updates.
        until: when the phase ends.
        collector: makes experience, or None for offline phases.
        updates_per_step: updates owed per collected step (the remainder carries over); a phase
            without a collector makes one update per trainer step.
        updates_per_rollout: if given, updates owed per call of the collector instead, however many
            steps it took: answers differ in length.
        start_after: no update is owed until more than this many steps were collected in the phase.
        start_rows: nor until the source holds this many rows.
        policy: who acts while collecting; the learner's own policy if None.
        on_enter: called once as the phase begins (not on resume): freeze, reset, hand over.
        eval_every: evaluate each time `until.counter` has grown by this much; 0 means never.
        eval_at_end: also evaluate when the phase ends.
    """

    name: str
    learner: Learner
    source: Source | None
    until: Until
    collector: Collector | None = None
    updates_per_step: Fraction = Fraction(1)
    updates_per_rollout: Fraction | None = None
    start_after: int = 0
    start_rows: int = 0
    policy: Policy | None = None
    on_enter: Callable[[Trainer], None] | None = None
    eval_every: int = 0
    eval_at_end: bool = True

    def __post_init__(self) -> None:
        self.updates_per_step = Fraction(self.updates_per_step)
        if self.updates_per_rollout is not None:
            self.updates_per_rollout = Fraction(self.updates_per_rollout)
        if self.source is None and (self.collector is None or self.updates_per_step > 0):
            raise ValueError(f"phase {self.name!r} makes updates but has no source of batches")

    def owed(self, steps: int) -> Fraction:
        """Updates owed for a rollout of so many steps."""
        if self.updates_per_rollout is not None:
            return self.updates_per_rollout
        return self.updates_per_step * steps


@dataclass
class Recipe:
    """The phases of a method, run in order, `cycles` times over."""

    phases: list[Phase]
    cycles: int = 1

    def __post_init__(self) -> None:
        names = [p.name for p in self.phases]
        if not names:
            raise ValueError("a recipe needs at least one phase")
        if len(set(names)) != len(names):
            raise ValueError(f"phase names must be unique, got {names}")

    def __len__(self) -> int:
        return len(self.phases) * self.cycles

    def __getitem__(self, index: int) -> Phase:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.phases[index % len(self.phases)]

    def parts(self) -> Iterator[tuple[str, Stateful]]:
        """Every stateful part once, named after the first phase that uses it."""
        seen: set[int] = set()
        for phase in self.phases:
            for role in ("learner", "source", "collector", "policy"):
                part = getattr(phase, role)
                if isinstance(part, Stateful) and id(part) not in seen:
                    seen.add(id(part))
                    yield f"{phase.name}.{role}", part

"""Where a run is in its recipe, and what is due next."""

from __future__ import annotations

from fractions import Fraction

from embodied.core.counters import Counters
from embodied.core.phase import Phase, Recipe
from embodied.core.types import State

_VALUES = ("iteration", "phase_index", "entered", "due", "evaluated_at")


class Position:
    """All that decides what a run does next, apart from the states of its parts.

    Attributes:
        counters: what has been done.
        phase_start: the counters as the current phase began.
        iteration: trainer steps done.
        phase_index: position in the recipe.
        entered: whether the current phase has begun.
        due: name of the phase whose evaluation is due, or None.
        evaluated_at: progress of the phase at its last evaluation.
        debt: updates owed; a fraction of one is carried over.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.counters, self.phase_start = Counters(), Counters()
        self.iteration = self.phase_index = 0
        self.entered = False
        self.due: str | None = None
        self.evaluated_at = 0.0
        self.debt = Fraction(0)

    @property
    def phase(self) -> Phase | None:
        """The current phase; None when the recipe is done."""
        return self.recipe[self.phase_index] if self.phase_index < len(self.recipe) else None

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.phase is None and self.due is None

    @property
    def checkpoint_key(self) -> int:
        """Number of a checkpoint: two per trainer step, the odd one with its evaluation done."""
        return 2 * self.iteration + (self.due is None)

    def enter(self) -> None:
        """Begin the current phase."""
        self.phase_start = self.counters.copy()
        self.debt, self.evaluated_at, self.entered = Fraction(0), 0.0, True

    def advance(self) -> None:
        """Leave the phase if it is over; note whether an evaluation is due."""
        phase = self.phase
        progress = phase.until.progress(self.counters, self.phase_start)
        if progress >= phase.until.amount:
            self.due = phase.name if phase.eval_at_end else None
            self.phase_index += 1
            self.entered = False
        elif phase.eval_every and progress - self.evaluated_at >= phase.eval_every:
            self.evaluated_at = progress
            self.due = phase.name

    def position_state(self) -> State:
        """The position as JSON values."""
        return {
            **{name: getattr(self, name) for name in _VALUES},
            "counters": self.counters.state_dict(),
            "phase_start": self.phase_start.state_dict(),
            "debt": [self.debt.numerator, self.debt.denominator],
        }

    def load_position(self, state: State) -> None:
        """Take over a position."""
        for name in _VALUES:
            setattr(self, name, state[name])
        self.counters.load_state_dict(state["counters"])
        self.phase_start.load_state_dict(state["phase_start"])
        self.debt = Fraction(*state["debt"])
        self._reopen()

    def _reopen(self) -> None:
        """Go back into the phase just left if it has been made longer since."""
        if self.entered or not 0 < self.phase_index <= len(self.recipe):
            return
        last = self.recipe[self.phase_index - 1]
        if last.until.progress(self.counters, self.phase_start) < last.until.amount:
            self.phase_index -= 1
            self.entered, self.due = True, None

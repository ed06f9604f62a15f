"""The live line of a run: phase, counters, success, speed, time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from embodied.core.trainer import Trainer

REFRESH = 0.25  # seconds


class ProgressLine:
    """Draws the state of a trainer a few times per second; costs nothing in between."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:3.0f}%"),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TextColumn("ETA {task.fields[eta]}"),
        )
        self._task: int | None = None
        self._phase = -1
        self._last = 0.0
        self._mark = (0.0, 0.0, 0)  # time, progress and updates when the phase was first seen

    def __enter__(self) -> ProgressLine:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def print(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, highlight=False)

    def update(self, trainer: Trainer) -> None:
        """Redraw if it is time."""
        now = time.monotonic()
        if now - self._last < REFRESH or trainer.phase is None:
            return
        self._last = now
        phase, counters = trainer.phase, trainer.counters
        done = phase.until.progress(counters, trainer.phase_start)
        if trainer.phase_index != self._phase:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._phase = trainer.phase_index
            self._mark = (now, done, counters.updates)
            name = f"{phase.name} ({self._phase + 1}/{len(trainer.recipe)})"
            self._task = self._progress.add_task(
                name, total=phase.until.amount, text="", eta="--:--"
            )
        since, first, updates = self._mark
        seconds = max(now - since, 1e-9)
        rate = (done - first) / seconds
        eta = _clock((phase.until.amount - done) / rate) if rate > 0 else "--:--"
        text = f"{counters.env_steps:,} steps  {counters.updates:,} updates"
        if counters.updates > updates:
            text += f" ({(counters.updates - updates) / seconds:.0f}/s)"
        if trainer.recent_success is not None:
            text += f"  success {trainer.recent_success:.0%}"
        self._progress.update(self._task, completed=done, text=text, eta=eta)


@contextmanager
def bar(title: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """A progress bar with the time left.

    Yields:
        What to call with how much more is done, and a new title if there is one.
    """
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(title, total=total, completed=done)

        def advance(count: int, title: str | None = None) -> None:
            progress.update(task, advance=count, description=title)

        yield advance


class CollectionBar:
    """A progress bar that appears with the first episode collected."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._advance: Callable[..., None] | None = None
        self._successes = self._first = 0

    def __enter__(self) -> CollectionBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def advance(self, index: int, total: int, success: bool) -> None:
        """An episode was recorded; an `EpisodeHook`."""
        if self._advance is None:
            self._advance = self._stack.enter_context(bar("collecting", total, index))
            self._first = index
        self._successes += success
        share = self._successes / (index + 1 - self._first)
        self._advance(1, f"collecting, {share:.0%} successful")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"

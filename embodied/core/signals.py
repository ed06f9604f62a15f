"""Stopping a run from outside: SIGINT and SIGTERM ask, the trainer saves and leaves."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from embodied.core import ranks
from embodied.core.types import UserError


class Interrupted(UserError):
    """The run was asked to stop; its state is saved."""

    exit_code = 130


class StopSignals:
    """While entered, notes SIGINT and SIGTERM instead of dying of them; main thread only."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self.number = None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.number = number

    def check(self, step: int, together: bool = False) -> None:
        """Raise Interrupted if a signal came; its exit code is 0 for SIGTERM, else 130.

        Args:
            step: trainer steps so far.
            together: between two steps, where every rank asks: one that was told stops all.
        """
        if together and ranks.count > 1 and ranks.any_of(self.number is not None):
            self.number = self.number or signal.SIGTERM
        elif ranks.count > 1:
            return
        if self.number is not None:
            name = signal.Signals(self.number).name
            stopped = Interrupted(f"{name}: saved after {step} trainer steps")
            stopped.exit_code = 0 if self.number == signal.SIGTERM else 130
            raise stopped

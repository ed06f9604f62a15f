"""The live line of a robot: what it does, how fast, what holds it back."""

from __future__ import annotations

import collections
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

REFRESH = 0.15  # s
RECENT = 20  # steps whose rate is shown


class StatusLine:
    """Draws the state of a station a few times per second."""

    def __init__(self, station: Any, console: Console | None = None) -> None:
        from hardware.chunks import Latency

        self._station, self._latency = station, Latency()
        self._live = Live(console=console, transient=True, auto_refresh=False)
        self._times: collections.deque[float] = collections.deque(maxlen=RECENT)
        self._successes = self._done = 0
        self._last = float("-inf")

    def __enter__(self) -> StatusLine:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def ended(self, success: bool) -> None:
        """An episode has ended."""
        self._successes, self._done = self._successes + success, self._done + 1

    def update(self, episode: int, episodes: int, latency: float) -> None:
        """A step was taken; redraws if it is time."""
        self._latency.add(max(latency, 0.0))
        now = time.monotonic()
        self._times.append(now)
        if now - self._last >= REFRESH:
            self._last = now
            self._live.update(self.text(episode, episodes), refresh=True)

    def text(self, episode: int, episodes: int) -> Text:
        """The line as it is now."""
        status = self._station.observe()
        span = self._times[-1] - self._times[0] if len(self._times) > 1 else 0.0
        rate = f"{(len(self._times) - 1) / span:.1f} Hz" if span > 0 else "-- Hz"
        limits = ", ".join(f"{cause} {count}" for cause, count in status.counts.items()) or "none"
        parts = [
            f"episode {episode + 1}/{episodes}",
            f"success {self._successes}/{self._done}",
            f"{status.lifecycle} {rate}",
            f"latency p95 {1e3 * self._latency.p95:.0f} ms",
            f"overruns {status.overruns}/{status.steps}",
            f"limits: {limits}",
        ]
        line = Text("  ".join(parts))
        if status.latched:
            line.append("  STOP LATCHED", style="bold red")
        return line

"""A bad network on purpose: a wire whose messages come late, twice, in another order or never.

    wire = FaultyWire(LocalWire(bus), parse_faults("latency:50ms,jitter:10ms,loss:0.05,seed:3"))

It stands in front of any `hardware.wire.Wire`, on either side, and what passes it is a function of
the seed and of the times at which messages were sent. Each topic and direction draws from a
generator of its own, so one topic's traffic does not change what happens to another's.
"""

import dataclasses
import heapq
import itertools
import math
import re
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hardware.errors import HardwareError
from hardware.wire import (
    COMMAND,
    STATE,
    Goal,
    GoalStatus,
    Message,
    Pursuit,
    Qos,
    Receiver,
    Undo,
    Wire,
)

Window = tuple[float, float]  # s: begin and end
_UNITS = {"ms": 1e-3, "s": 1.0}
_SHARES = ("loss", "duplicate", "reorder")
_DURATIONS = ("latency", "jitter")


@dataclass(frozen=True)
class Faults:
    """What happens to messages, each way.

    Attributes:
        latency: s that each message is late.
        jitter: s; each is later by up to that much besides, without overtaking.
        loss: share that never arrives.
        duplicate: share that arrives once more, up to latency + jitter later.
        reorder: share that arrives after the next message of its topic.
        drop: windows, s since the wire was made, in which nothing arrives, as with a pulled cable.
        hold: windows in which nothing arrives until their end, and then all at once.
        seed: of all draws.
    """

    latency: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    drop: tuple[Window, ...] = ()
    hold: tuple[Window, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in _DURATIONS:
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0.0):
                raise ValueError(f"{name}={getattr(self, name)}; it must be finite and >= 0 s")
        for name in _SHARES:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)}; it is a share from 0 to 1")
        for begin, end in (*self.drop, *self.hold):
            if not 0.0 <= begin < end:
                raise ValueError(f"a silence from {begin} to {end} s; it must begin before its end")


def parse_faults(text: str) -> Faults:
    """Reads faults by name, as a command line gives them.

    Args:
        text: such as "latency:50ms,jitter:10ms,loss:0.05,duplicate:0.01,reorder:0.02,seed:3".
            "drop:5s+2s" is silent from 5 s on for 2 s; "hold:5s+2s" lets all of it through at the
            end. Both may be repeated. An empty text has no faults.

    Raises:
        ValueError: a name or a value is wrong; the message says which are allowed.
    """
    found: dict[str, object] = {"drop": (), "hold": ()}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, value = (piece.strip() for piece in part.partition(":"))
        if name in ("drop", "hold"):
            begin, _, length = value.partition("+")
            start = _seconds(name, begin)
            found[name] = (*found[name], (start, start + _seconds(name, length)))
        elif name in found:
            raise ValueError(f"faults: {name} is given twice")
        elif name in _DURATIONS:
            found[name] = _seconds(name, value)
        elif name in _SHARES or name == "seed":
            found[name] = _number(name, value, int if name == "seed" else float)
        else:
            known = ", ".join(field.name for field in dataclasses.fields(Faults))
            raise ValueError(f"faults: there is no {name!r}; allowed are {known}")
    return Faults(**found)


def _seconds(name: str, text: str) -> float:
    match = re.fullmatch(r"\s*([0-9.]+)\s*(ms|s)\s*", text)
    if not match:
        example = "5s+2s" if name in ("drop", "hold") else "50ms"
        raise ValueError(f"faults: {name}:{text!r} is no duration; write it like {name}:{example}")
    return _number(name, match[1], float) * _UNITS[match[2]]


def _number(name: str, text: str, kind: type) -> float:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"faults: {name}:{text!r} is no number") from None


class _Line:
    """One topic in one direction: decides when, and how often, each message arrives."""

    def __init__(self, faults: Faults, name: str, counts: Counter[str]) -> None:
        self._faults, self._counts = faults, counts
        self._rng = np.random.default_rng([faults.seed, zlib.crc32(name.encode())])
        self._latest = -math.inf
        self._withheld: Message | None = None

    def pass_on(self, message: Message, now: float) -> list[tuple[float, Message]]:
        """What arrives when, because this message was sent now."""
        faults = self._faults
        lost, doubled, swapped, later, extra = self._rng.random(5)  # always as many draws
        if lost < faults.loss:
            self._counts["lost"] += 1
            return []
        due = max(self._latest, now + faults.latency + later * faults.jitter)
        if swapped < faults.reorder and self._withheld is None:
            self._counts["swapped"] += 1
            self._withheld = message
            return []
        self._latest = due
        arrivals = [(due, message)]
        if self._withheld is not None:
            arrivals.append((due, self._withheld))
            self._withheld = None
        if doubled < faults.duplicate:
            self._counts["doubled"] += 1
            arrivals.append((due + extra * (faults.latency + faults.jitter), message))
        return arrivals

    def jitter(self) -> float:
        """s that a question or an answer is later than the latency."""
        return self._rng.random() * self._faults.jitter


class FaultyWire:
    """A `Wire` in front of another one, with faults in both directions.

    Topics get all of them. Calls and goals, which travel over reliable streams, are as late, and
    time out in a silence; that acts where they are called, not where they are served.

    Attributes:
        faults: what happens.
        counts: messages "lost", "doubled", "swapped", "held" and "silent" (sent or arriving in a
            window of silence), and "link", those that the wire behind did not take.
    """

    def __init__(
        self,
        wire: Wire,
        faults: Faults,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        live: bool = True,
    ) -> None:
        """Takes a wire, which is closed with this one.

        Args:
            wire: what messages really travel on.
            faults: what happens to them.
            clock: s.
            sleep: waits, s, as long as a call travels.
            live: messages arrive by a thread of this wire; otherwise whenever `deliver` is called.
        """
        self.faults, self.counts = faults, Counter()
        self._wire, self._clock, self._sleep = wire, clock, sleep
        now = clock()
        self._drop, self._hold = (
            [(now + begin, now + end) for begin, end in windows]
            for windows in (faults.drop, faults.hold)
        )
        self._lines: dict[str, _Line] = {}
        self._serial = itertools.count()
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self._changed, self._closed = threading.Condition(), False
        self._thread: threading.Thread | None = None
        if live:
            self._thread = threading.Thread(target=self._run, daemon=True, name="faults")
            self._thread.start()

    @property
    def connected(self) -> bool:
        """Whether the wire behind stands."""
        return self._wire.connected

    def silence(self, seconds: float, *, burst: bool = False) -> None:
        """Begins a silence now; with `burst`, what was sent meanwhile arrives at its end."""
        now = self._clock()
        with self._changed:
            (self._hold if burst else self._drop).append((now, now + seconds))

    def deliver(self) -> int:
        """Hands over what is due by now; returns how many messages that were."""
        count = 0
        while (act := self._due()) is not None:
            count += 1
            try:
                act()
            except HardwareError:  # a link that is down takes no messages either
                self.counts["link"] += 1
        return count

    def publisher(self, topic: str, kind: str, qos: Qos = COMMAND) -> Callable[[Message], None]:
        """Returns a function that publishes through the faults; it raises LinkLost."""
        publish = self._wire.publisher(topic, kind, qos)
        return lambda message: self._send(f"out {topic}", message, publish)

    def subscribe(self, topic: str, kind: str, receiver: Receiver, qos: Qos = STATE) -> Undo:
        """Receives a topic's messages through the faults, stamped when they come out of them."""

        def come(message: Message) -> None:
            receiver(message, self._clock())

        name = f"in {topic}"
        return self._wire.subscribe(topic, kind, lambda m, _: self._send(name, m, come), qos)

    def serve(self, service: str, kind: str, handler: Callable[[Message], Message]) -> Undo:
        """See `Wire`."""
        return self._wire.serve(service, kind, handler)

    def call(self, service: str, kind: str, request: Message, timeout: float) -> Message:
        """See `Wire`."""
        left = self._travel(f"call {service}", timeout)
        return self._wire.call(service, kind, request, left)

    def serve_action(
        self, action: str, kind: str, execute: Callable[[Goal], tuple[GoalStatus, Message]]
    ) -> Undo:
        """See `Wire`."""
        return self._wire.serve_action(action, kind, execute)

    def send_goal(
        self,
        action: str,
        kind: str,
        goal: Message,
        feedback: Callable[[Message], None] | None = None,
        timeout: float = 2.0,
    ) -> Pursuit:
        """See `Wire`."""
        left = self._travel(f"goal {action}", timeout)
        return self._wire.send_goal(action, kind, goal, feedback, left)

    def close(self) -> None:
        """Closes the wire; what is still on its way never arrives."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(2.0)
        self._wire.close()

    # ---------------------------------------------------------------- inside

    def _send(self, name: str, message: Message, act: Callable[[Message], None]) -> None:
        now = self._clock()
        with self._changed:
            arrivals = self._line(name).pass_on(message, now)
            if self._until(self._drop, now) is not None:
                self.counts["silent"] += len(arrivals)
                return
            for due, each in arrivals:
                entry = (due, next(self._serial), lambda each=each: act(each))
                heapq.heappush(self._waiting, entry)
            self._changed.notify_all()

    def _line(self, name: str) -> _Line:
        if name not in self._lines:
            self._lines[name] = _Line(self.faults, name, self.counts)
        return self._lines[name]

    def _until(self, windows: list[Window], moment: float) -> float | None:
        """The end of the silence at a moment, or None."""
        return max((end for begin, end in windows if begin <= moment < end), default=None)

    def _travel(self, name: str, timeout: float) -> float:
        """Waits as long as a question and its answer are on their way; s that are left."""
        now = self._clock()
        with self._changed:
            jitter = self._line(name).jitter() + self._line(name).jitter()
            arrives = now + 2.0 * self.faults.latency + jitter
            arrives = self._until(self._hold, arrives) or arrives
            if any(self._until(self._drop, moment) is not None for moment in (now, arrives)):
                arrives = math.inf
        self._sleep(min(arrives - now, timeout))
        if arrives - now >= timeout:
            raise TimeoutError(f"{name}: no answer within {timeout:g} s")
        return timeout - (arrives - now)

    def _due(self) -> Callable[[], None] | None:
        with self._changed:
            now = self._clock() + 1e-9
            while self._waiting and self._waiting[0][0] <= now:
                due, serial, act = heapq.heappop(self._waiting)
                if self._until(self._drop, due) is not None:
                    self.counts["silent"] += 1
                elif (end := self._until(self._hold, due)) is not None:
                    self.counts["held"] += 1
                    heapq.heappush(self._waiting, (end, serial, act))
                else:
                    return act
        return None

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                wait = self._waiting[0][0] - self._clock() if self._waiting else None
                if wait is None or wait > 0.0:
                    self._changed.wait(wait)
            self.deliver()

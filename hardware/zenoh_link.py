"""A Zenoh session that notices when its link is lost, and takes it up again.

Zenoh itself notices a closed connection, and connects again. But where it does so before the other
side has noticed, that one forgets what the session had declared, and nothing comes any more. Nor
does it notice within a second that the other side fell silent (a frozen process, a pulled cable):
how long it waits is set by the other side, 60 s with rmw_zenoh. So each neighbour is asked several
times a second for something that only it can answer, and when a connection is closed or there is no
answer, another session is opened.
"""

import atexit
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from hardware.errors import LinkLost
from hardware.wire import Undo

BEAT = 0.2
"""s between two questions to each neighbour."""
PATIENCE = 0.6
"""s to wait for an answer; after BEAT + PATIENCE the link counts as lost."""
RENEW = 1.0
"""s of silence after which the session is opened anew."""

_log = logging.getLogger(__name__)

Declare = Callable[[Any], Undo]
"""Declares something on a session and returns what takes it back."""


def zenoh() -> Any:
    """Returns the library, or raises ImportError that names the extra."""
    try:
        import zenoh as library
    except ImportError as error:
        raise ImportError("Zenoh is missing: pip install 'embodied[hardware]'") from error
    return library


def settings(
    connect: Sequence[str], listen: Sequence[str], mode: str, wait: float, largest: int
) -> dict[str, Any]:
    """Returns Zenoh's configuration: no multicast, no gossip, only the given endpoints."""
    return {
        "mode": mode,
        "connect/endpoints": list(connect),
        "connect/timeout_ms": int(wait * 1000),
        "connect/exit_on_failure": mode == "client",
        "connect/retry": {
            "period_init_ms": 100,
            "period_max_ms": 400,
            "period_increase_factor": 2.0,
        },
        "listen/endpoints": list(listen),
        "scouting/multicast/enabled": False,
        "scouting/gossip/enabled": False,
        "timestamping/enabled": True,  # latched topics need it
        "adminspace/enabled": True,  # answers the other side's questions
        "transport/unicast/open_timeout": 1000,
        "transport/link/tx/lease": 2000,
        "transport/link/rx/max_message_size": largest + (1 << 20),
    }


class Link:
    """A session and what is declared on it.

    Attributes:
        session: the present one.
        renewed: how often it was opened anew.
    """

    def __init__(
        self, connect: Sequence[str], listen: Sequence[str], mode: str, wait: float, largest: int
    ) -> None:
        """Opens it; see `hardware.zenoh_ros.ZenohWire`."""
        self._where = ", ".join(connect)
        self._renewable = bool(connect) and not listen  # its port is taken; others connect to it
        self._config = settings(connect, listen, mode, wait, largest)
        self._declared: dict[object, tuple[Declare, Undo]] = {}
        self._lock = threading.RLock()  # guards session and declared
        self._closed = threading.Event()
        self._heard: dict[str, float] = {}  # neighbour -> when it last answered
        self.renewed = 0
        self.session, self._changes = self._open()
        deadline = time.monotonic() + wait
        while connect and self.alone and time.monotonic() < deadline:
            time.sleep(0.02)
        if connect and self.alone:
            self.session.close()
            raise LinkLost(f"nobody answers at {self._where} within {wait:g} s")
        self._heard = dict.fromkeys(self._neighbours(), time.monotonic())
        self._thread = threading.Thread(target=self._watch, name="zenoh link", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a thread that still waits in Zenoh at exit aborts the process

    @property
    def up(self) -> bool:
        """Whether a neighbour is there and answers."""
        now = time.monotonic()
        return any(now - heard <= BEAT + PATIENCE for heard in list(self._heard.values()))

    @property
    def alone(self) -> bool:
        """Whether no neighbour is connected at this very moment."""
        return not self._neighbours()

    def require(self) -> None:
        """Raises LinkLost if there should be a link and is none."""
        if self._closed.is_set():
            raise LinkLost("this wire is closed")
        if self._where and not self.up:
            raise LinkLost(f"no link to {self._where} at present")

    def declare(self, make: Declare) -> Undo:
        """Declares something now, and again whenever the session is opened anew."""
        key = object()
        with self._lock:
            if self._closed.is_set():
                raise LinkLost("this wire is closed")
            self._declared[key] = (make, make(self.session))

        def undo() -> None:
            with self._lock:
                _, take_back = self._declared.pop(key, (None, None))
            if take_back:
                take_back()

        return undo

    def close(self) -> None:
        """Takes back all that was declared, and closes the session."""
        self._closed.set()
        atexit.unregister(self.close)
        self._thread.join()
        with self._lock:
            declared, self._declared = list(self._declared.values()), {}
            self._heard = {}
        _discard(self.session, [take_back for _, take_back in declared])

    # --- the watch ------------------------------------------------------------------------------

    def _watch(self) -> None:
        silent_since = None
        while not self._closed.wait(BEAT):
            try:
                if self._was_cut() and self._renewable:
                    self._renew("was cut off")
                self._ask()
                if self.up or self.alone:  # if nobody is there, Zenoh itself connects
                    silent_since = None
                    continue
                silent_since = silent_since or time.monotonic()
                if self._renewable and time.monotonic() - silent_since > RENEW - PATIENCE:
                    self._renew("fell silent")
            except (zenoh().ZError, LinkLost) as error:
                _log.warning("zenoh: %s", error)

    def _ask(self) -> None:
        """Asks each neighbour below its own key, where only it answers (with nothing)."""
        asked = {
            neighbour: self.session.get(f"@/{neighbour}/*/pulse", timeout=PATIENCE)
            for neighbour in self._neighbours()
        }
        # A neighbour is deaf if the question ran into its time limit, which is told as an error.
        alive = [n for n, replies in asked.items() if all(r.err is None for r in replies)]
        now, present = time.monotonic(), self._neighbours()
        self._heard = {
            neighbour: now if neighbour in alive else self._heard.get(neighbour, 0.0)
            for neighbour in present
            if neighbour in alive or neighbour in self._heard
        }

    def _was_cut(self) -> bool:
        """Whether a connection of the present session was closed since the last look."""
        changes = list(iter(self._changes.try_recv, None))
        return any(change.kind == zenoh().SampleKind.DELETE for change in changes)

    def _neighbours(self) -> list[str]:
        return [str(transport.zid) for transport in self.session.info.transports()]

    def _renew(self, why: str) -> None:
        """Opens a session beside the present one, and moves all that is declared to it."""
        _log.warning("zenoh: %s %s, opening the session anew", self._where, why)
        fresh, changes = self._open()
        with self._lock:
            old, self.session, self._changes = self.session, fresh, changes
            self.renewed += 1
            take_back = [undo for _, undo in self._declared.values()]
            for key, (make, _) in list(self._declared.items()):
                self._declared[key] = (make, make(fresh))
        # Beside, since a dead link may make it wait.
        threading.Thread(target=_discard, args=(old, take_back), daemon=True).start()

    def _open(self) -> tuple[Any, Any]:
        """A session, and what tells of its connections as they are opened and closed."""
        library = zenoh()
        config = library.Config()
        for key, value in self._config.items():
            config.insert_json5(key, json.dumps(value))
        try:
            session = library.open(config)
        except library.ZError as error:
            raise LinkLost(f"nobody answers at {self._where}: {error}") from error
        ring = library.handlers.RingChannel(16)
        return session, session.info.declare_transport_events_listener(ring)


def _discard(session: Any, take_back: list[Undo]) -> None:
    for undo in take_back:
        undo()
    session.close()

"""The transport within one process: for tests, and for a twin beside its policy."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable

from hardware.errors import HardwareError, LinkLost
from hardware.wire import COMMAND, STATE, Goal, GoalStatus, Message, Pursuit, Qos, Receiver, Undo


class Bus:
    """What the wires of one process are connected to."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.receivers: dict[str, list[Receiver]] = defaultdict(list)
        self.latched: dict[str, Message] = {}
        self.services: dict[str, Callable[[Message], Message]] = {}
        self.actions: dict[str, Callable[[Goal], tuple[GoalStatus, Message]]] = {}


class LocalWire:
    """A `Wire` to the others of its bus. Receivers run on the publisher's thread, at once."""

    def __init__(self, bus: Bus, clock: Callable[[], float] = time.monotonic) -> None:
        """Connects.

        Args:
            bus: shared with the other side.
            clock: s, of the arrival stamps.
        """
        self._bus, self._clock = bus, clock
        self._undo: list[Undo] = []
        self.connected = True

    def publisher(self, topic: str, kind: str, qos: Qos = COMMAND) -> Callable[[Message], None]:
        """Returns a function that hands a message to the topic's receivers."""

        def publish(message: Message) -> None:
            self._check()
            if qos.latched:
                self._bus.latched[topic] = message
            for receiver in list(self._bus.receivers[topic]):
                receiver(message, self._clock())

        return publish

    def subscribe(self, topic: str, kind: str, receiver: Receiver, qos: Qos = STATE) -> Undo:
        """Receives a topic's messages."""
        receivers = self._bus.receivers[topic]
        receivers.append(receiver)
        if qos.latched and topic in self._bus.latched:
            receiver(self._bus.latched[topic], self._clock())
        return self._keep(lambda: receivers.remove(receiver))

    def serve(self, service: str, kind: str, handler: Callable[[Message], Message]) -> Undo:
        """Answers a service."""
        self._bus.services[service] = handler
        return self._keep(lambda: self._bus.services.pop(service, None))

    def call(self, service: str, kind: str, request: Message, timeout: float) -> Message:
        """Calls a service on the caller's thread."""
        self._check()
        if service not in self._bus.services:
            raise TimeoutError(f"nobody serves {service}")
        return self._bus.services[service](request)

    def serve_action(
        self, action: str, kind: str, execute: Callable[[Goal], tuple[GoalStatus, Message]]
    ) -> Undo:
        """Executes goals."""
        self._bus.actions[action] = execute
        return self._keep(lambda: self._bus.actions.pop(action, None))

    def send_goal(
        self,
        action: str,
        kind: str,
        goal: Message,
        feedback: Callable[[Message], None] | None = None,
        timeout: float = 2.0,
    ) -> Pursuit:
        """Begins a goal in a thread of its own."""
        self._check()
        if action not in self._bus.actions:
            raise TimeoutError(f"nobody executes {action}")
        return _Pursued(self._bus.actions[action], goal, feedback)

    def close(self) -> None:
        """Leaves the bus."""
        self.connected = False
        for undo in self._undo:
            undo()
        self._undo.clear()

    def _keep(self, undo: Callable[[], object]) -> Undo:
        def once() -> None:
            if once in self._undo:
                self._undo.remove(once)
                undo()

        self._undo.append(once)
        return lambda: once()

    def _check(self) -> None:
        if not self.connected:
            raise LinkLost("the wire is closed")


class _Pursued:
    """A goal in its thread; its server's view and its client's."""

    def __init__(
        self,
        execute: Callable[[Goal], tuple[GoalStatus, Message]],
        request: Message,
        feedback: Callable[[Message], None] | None,
    ) -> None:
        self.request, self.cancelled = request, False
        self._feedback = feedback
        self._found: tuple[GoalStatus, Message] | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(execute,), daemon=True)
        self._thread.start()

    def _run(self, execute: Callable[[Goal], tuple[GoalStatus, Message]]) -> None:
        try:
            self._found = execute(self)
        except Exception as error:  # the client is told, whatever it was
            self._error = error

    def feedback(self, message: Message) -> None:
        if self._feedback is not None:
            self._feedback(message)

    def result(self, timeout: float) -> tuple[GoalStatus, Message]:
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"the goal is not done after {timeout} s")
        if self._found is None:
            raise HardwareError(f"the goal failed: {self._error}")
        return self._found

    def cancel(self) -> None:
        self.cancelled = True

"""What every transport offers: topics, services and actions in ROS 2's terms.

A message is a dict with the fields of its ROS 2 type, nested as in the type: numbers, strings,
bools, lists and, for arrays of numbers, numpy arrays of the field's dtype (uint8[] as bytes or
array). `hardware.messages` makes and reads the ones a manipulation policy needs. A kind is the
type's full name, such as "sensor_msgs/msg/JointState".
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

Message: TypeAlias = dict[str, Any]
Receiver: TypeAlias = Callable[[Message, float], None]  # message, monotonic stamp of its arrival
Undo: TypeAlias = Callable[[], None]


@dataclass(frozen=True)
class Qos:
    """Quality of service, as far as it matters here.

    Attributes:
        reliable: else best effort. A reliable subscriber hears no best-effort publisher.
        depth: how many messages are kept for a slow receiver; the newest win.
        latched: a late subscriber gets the last message (transient local). Never for commands.
    """

    reliable: bool = True
    depth: int = 1
    latched: bool = False


SENSOR = Qos(reliable=False, depth=5)
STATE = Qos(reliable=True, depth=5)
COMMAND = Qos(reliable=True, depth=1)
LATCHED = Qos(reliable=True, depth=1, latched=True)


class GoalStatus(enum.IntEnum):
    """How an action ended: `action_msgs/msg/GoalStatus`."""

    UNKNOWN = 0
    ACCEPTED = 1
    EXECUTING = 2
    CANCELING = 3
    SUCCEEDED = 4
    CANCELED = 5
    ABORTED = 6


class Goal(Protocol):
    """An action's goal as its server sees it."""

    request: Message

    @property
    def cancelled(self) -> bool:
        """Whether the client asked to cancel."""

    def feedback(self, message: Message) -> None:
        """Tells the client how it goes."""


class Pursuit(Protocol):
    """An action's goal as its client sees it."""

    def result(self, timeout: float) -> tuple[GoalStatus, Message]:
        """Waits for the end. Raises TimeoutError, LinkLost."""

    def cancel(self) -> None:
        """Asks the server to cancel."""


class Wire(Protocol):
    """A transport. Receivers run on the transport's own thread and must return soon.

    Everything that waits has a time-out. A lost link raises LinkLost where it is noticed and is
    taken up again by itself; subscriptions and servers then continue.
    """

    @property
    def connected(self) -> bool:
        """Whether the link stands now."""

    def publisher(self, topic: str, kind: str, qos: Qos = COMMAND) -> Callable[[Message], None]:
        """Returns a function that publishes a message on a topic; it raises LinkLost."""

    def subscribe(self, topic: str, kind: str, receiver: Receiver, qos: Qos = STATE) -> Undo:
        """Calls `receiver` for each message; returns what ends it."""

    def serve(self, service: str, kind: str, handler: Callable[[Message], Message]) -> Undo:
        """Answers a service's calls."""

    def call(self, service: str, kind: str, request: Message, timeout: float) -> Message:
        """Calls a service. Raises TimeoutError, LinkLost, HardwareError (it failed there)."""

    def serve_action(
        self, action: str, kind: str, execute: Callable[[Goal], tuple[GoalStatus, Message]]
    ) -> Undo:
        """Executes an action's goals, each in a thread of its own."""

    def send_goal(
        self,
        action: str,
        kind: str,
        goal: Message,
        feedback: Callable[[Message], None] | None = None,
        timeout: float = 2.0,
    ) -> Pursuit:
        """Sends a goal; waits until it is accepted. Raises TimeoutError, HardwareError."""

    def close(self) -> None:
        """Ends the link and its threads."""

"""ROS 2 over Zenoh without ROS: topics, services and actions as rmw_zenoh puts them on the wire.

    with ZenohWire(["tcp/192.168.1.10:7447"], node="policy") as wire:
        wire.subscribe("/joint_states", "sensor_msgs/msg/JointState", print)

Speaks with nodes that run `RMW_IMPLEMENTATION=rmw_zenoh_cpp` (through their router, `rmw_zenohd`),
and between our own processes without any router. `ros2 topic list` shows its endpoints.

Nothing is sent later than it was published: without a link `publish` raises, and a sample that
finds the sending queue full is dropped. What arrives twice, late or malformed is dropped and
counted.
"""

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Self

from hardware import cdr
from hardware.actions import Actions
from hardware.wire import COMMAND, STATE, Goal, GoalStatus, Message, Pursuit, Qos, Receiver, Undo
from hardware.zenoh_endpoints import Client, Context, Endpoint, Publisher, Server, Subscription
from hardware.zenoh_link import Link
from hardware.zenoh_names import NO_HASH, SERVICE_QOS, resolve

ROUTER = "tcp/127.0.0.1:7447"
"""Where `rmw_zenohd` listens on the same machine."""


class ZenohWire:
    """`hardware.wire.Wire` over Zenoh.

    Attributes:
        dropped: what was not delivered, counted by reason: "malformed", "wrong type", "too large",
            "out of order", "receiver failed" and "unanswered".
    """

    def __init__(
        self,
        connect: Sequence[str] = (ROUTER,),
        *,
        listen: Sequence[str] = (),
        mode: str | None = None,
        node: str = "embodied",
        namespace: str = "/",
        domain: int | None = None,
        type_hashes: bool = True,
        wait: float = 2.0,
        largest: int = 64 << 20,
    ) -> None:
        """Opens a session.

        Args:
            connect: endpoints of a router or of peers, such as "tcp/192.168.1.10:7447".
            listen: endpoints to listen at; whoever only listens needs nobody else.
            mode: "client" (of a router or peer), "peer" or "router"; by default "client", and
                "peer" if there is something to listen at.
            node: our node's name.
            namespace: of the node; relative names of topics are put under it.
            domain: ROS domain id; by default $ROS_DOMAIN_ID or 0.
            type_hashes: False to speak with ROS 2 Humble and older, which have none.
            wait: s for the first link.
            largest: bytes of a message; larger ones are dropped.

        Raises:
            LinkLost: nobody answers at `connect`.
            ValueError: no ROS name, or a domain id out of range.
        """
        if domain is None:
            domain = int(os.environ.get("ROS_DOMAIN_ID") or 0)
        if not 0 <= domain <= 232:
            raise ValueError(f"domain {domain}; ROS domain ids are 0 to 232")
        resolve(node, "/")
        self._namespace = "/" if namespace == "/" else resolve(namespace, "/")
        self._hashed, self._entities = type_hashes, itertools.count(1)
        self._clients: dict[tuple[str, str], Client] = {}
        mode = mode or ("peer" if listen else "client")
        self._link = Link(connect, listen, mode, wait, largest)
        self._context = Context(self._link, domain, node, self._namespace, largest)
        self.dropped = self._context.dropped
        self._link.declare(
            lambda session: (
                session.liveliness().declare_token(self._context.identity(session).token).undeclare
            )
        )
        self._actions = Actions(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """Whether a neighbour is there and answered within the last 0.8 s."""
        return self._link.up

    def publisher(self, topic: str, kind: str, qos: Qos = COMMAND) -> Callable[[Message], None]:
        """See `Wire`. It raises LinkLost if there is something to connect to and no link."""
        return self.publish_until(topic, kind, qos)[0]

    def publish_until(
        self, topic: str, kind: str, qos: Qos = COMMAND
    ) -> tuple[Callable[[Message], None], Undo]:
        """Like `publisher`, and returns what ends it too."""
        publisher = Publisher(self._context, self._endpoint("MP", topic, kind, qos))
        return publisher, self._link.declare(publisher.declare)

    def subscribe(self, topic: str, kind: str, receiver: Receiver, qos: Qos = STATE) -> Undo:
        """See `Wire`. Each subscription has its own thread; the newest `qos.depth` wait."""
        endpoint = self._endpoint("MS", topic, kind, qos)
        return self._link.declare(Subscription(self._context, endpoint, receiver).declare)

    def serve(self, service: str, kind: str, handler: Callable[[Message], Message]) -> Undo:
        """See `Wire`. Calls are answered one after the other, on the service's own thread."""
        return self.serve_later(service, kind, lambda request, answer: answer(handler(request)))

    def serve_later(
        self, service: str, kind: str, take: Callable[[Message, Callable[[Message], None]], None]
    ) -> Undo:
        """Like `serve`, but `take` is handed the function to answer with, now or later."""
        endpoint = self._endpoint("SS", service, kind, SERVICE_QOS)
        return self._link.declare(Server(self._context, endpoint, take).declare)

    def call(self, service: str, kind: str, request: Message, timeout: float) -> Message:
        """See `Wire`. A call is sent once, as soon as there is a server."""
        key = (resolve(service, self._namespace), kind)
        if key not in self._clients:
            client = Client(self._context, self._endpoint("SC", *key, SERVICE_QOS))
            self._link.declare(client.declare)
            self._clients[key] = client
        return self._clients[key](request, timeout)

    def serve_action(
        self, action: str, kind: str, execute: Callable[[Goal], tuple[GoalStatus, Message]]
    ) -> Undo:
        """See `Wire`."""
        return self._actions.serve(action, kind, execute)

    def send_goal(
        self,
        action: str,
        kind: str,
        goal: Message,
        feedback: Callable[[Message], None] | None = None,
        timeout: float = 2.0,
    ) -> Pursuit:
        """See `Wire`."""
        return self._actions.send(action, kind, goal, feedback, timeout)

    def close(self) -> None:
        """Ends the link and its threads."""
        self._actions.close()
        self._link.close()

    def _endpoint(self, what: str, name: str, kind: str, qos: Qos) -> Endpoint:
        cdr.prepare(kind)
        of = cdr.type_hash(kind)
        full = resolve(name, self._namespace)
        return Endpoint(
            next(self._entities), what, full, kind, of if self._hashed else NO_HASH, qos
        )

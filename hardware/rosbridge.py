"""Topics, services and actions over a rosbridge (protocol v2): both ends of it.

    wire = RosbridgeWire("ws://robot:9090")       # a client of a lab's rosbridge_server, or of ours
    server = RosbridgeServer("127.0.0.1", 9090)   # what a twin runs: any rosbridge client connects

Both are a `hardware.wire.Wire`. What was published while a link was down, or still waited when it
broke, is never sent later. rosbridge has no authentication: keep it on loopback or in a private
network.
"""

import asyncio
import threading
from collections.abc import Callable

from hardware.errors import LinkLost
from hardware.rosbridge_codec import MAX_SIZE, Frame, Operation, encode, need
from hardware.rosbridge_link import Link, heard_of
from hardware.rosbridge_peer import OPENING, Bridge, Execute, Provider, key, served
from hardware.rosbridge_server import RosbridgeServer
from hardware.wire import COMMAND, STATE, Message, Pursuit, Qos, Receiver, Undo

__all__ = ["RosbridgeServer", "RosbridgeWire"]

FIRST_WAIT, LONGEST_WAIT = 0.05, 0.5  # s between attempts to connect


class RosbridgeWire(Bridge):
    """A client of a rosbridge server, which connects again by itself.

    Attributes:
        url: of the server.
        counts: see `Bridge`; "reconnects" among them.
    """

    def __init__(
        self,
        url: str,
        *,
        compression: str = "cbor",
        fragment_size: int = 0,
        alive: float = 1.0,
        timeout: float = 2.0,
        max_size: int = MAX_SIZE,
        fragment_timeout: float = 10.0,
    ) -> None:
        """Connects.

        Args:
            url: such as "ws://127.0.0.1:9090".
            compression: of what the server sends: "none", "png" or "cbor".
            fragment_size: characters to cut longer texts into, both ways; 0 for never.
            alive: s of silence after which the link counts as lost.
            timeout: s to wait for the first connection; 0 to let it come later.
            max_size: bytes of the largest message.
            fragment_timeout: s after which the fragments of an incomplete message are dropped.

        Raises:
            LinkLost: there is no server.
            ValueError: an argument is wrong.
        """
        if compression not in ("none", "png", "cbor"):
            raise ValueError(f'compression={compression!r}; it may be "none", "png" or "cbor"')
        try:
            need("websockets.uri").parse_uri(url)
        except need("websockets.exceptions").InvalidURI as error:
            raise ValueError(f"url={url!r}: {error}; it looks like ws://robot:9090") from error
        super().__init__(alive, max_size, fragment_timeout)
        self.url, self._compression, self._size = url, compression, fragment_size
        self._link: Link | None = None
        self._up, self._problem = threading.Event(), "no answer"
        self._standing: dict[object, Operation] = {}  # what is told to each new connection
        self._latched: dict[str, Frame] = {}
        self._handlers["publish"] = lambda link, op: self._deliver(op["topic"], op["msg"])
        self._thread.start(self._connect())
        if timeout > 0 and not self._up.wait(timeout):
            self.close()
            raise LinkLost(
                f"{url}: no rosbridge within {timeout} s ({self._problem}); is it started there, "
                "and the address right?"
            )

    @property
    def connected(self) -> bool:
        """Whether the link stands now."""
        return self._link is not None

    async def _connect(self) -> None:
        client = need("websockets.asyncio.client")
        refused = (OSError, TimeoutError, need("websockets.exceptions").WebSocketException)
        wait = FIRST_WAIT
        options = {"proxy": None, "open_timeout": OPENING, **self._socket_options}
        while True:
            try:
                socket = await client.connect(
                    self.url,
                    create_connection=heard_of(client.ClientConnection, 2 * options["max_size"]),
                    **options,
                )
            except refused as error:
                self._problem = str(error) or type(error).__name__
                await asyncio.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
                continue
            wait = FIRST_WAIT
            await self._use(Link(socket, self._handle, self.counts, **self._link_options))
            await asyncio.sleep(wait)

    async def _use(self, link: Link) -> None:
        with self._lock:
            for op in self._standing.values():
                link.post(op)
            for topic, frame in self._latched.items():
                link.publish(topic, frame, 1, size=self._size)
            self._link = link
        self.counts["reconnects"] += self._up.is_set()
        self._up.set()
        try:
            await link.run()
        finally:
            self._link = None
            self._lost(link)

    def _stand(self, op: Operation) -> object:
        """Tells the server something, now and after every reconnection."""
        entry = object()
        with self._lock:
            self._standing[entry] = op
            if self._link:
                self._link.post(op)
        return entry

    def _withdraw(self, entry: object, op: Operation) -> None:
        with self._lock:
            if self._standing.pop(entry, None) and self._link:
                self._link.post(op)

    def _linked(self) -> Link:
        if self._link is None:
            raise LinkLost(f"{self.url}: the link is down ({self._problem}); it is tried again")
        return self._link

    def publisher(self, topic: str, kind: str, qos: Qos = COMMAND) -> Callable[[Message], None]:
        """Returns a function that publishes a message on a topic; it raises LinkLost."""
        op = {"op": "advertise", "id": f"advertise:{topic}", "topic": topic, "type": kind}
        self._stand({**op, "latch": qos.latched, "queue_size": qos.depth})

        def publish(message: Message) -> None:
            link = self._linked()
            frame = encode({"op": "publish", "topic": topic, "msg": message})
            if qos.latched:
                self._latched[topic] = frame
            if not link.publish(topic, frame, qos.depth, size=self._size):
                raise LinkLost(f"{self.url}: the link broke")

        return publish

    def subscribe(self, topic: str, kind: str, receiver: Receiver, qos: Qos = STATE) -> Undo:
        """Calls `receiver` for each message; returns what ends it."""
        end = self._add_box(topic, kind, receiver, qos)
        name = f"subscribe:{topic}:{self._self}:{next(self._numbers)}"
        op = {"op": "subscribe", "id": name, "topic": topic, "type": kind}
        op |= {"compression": self._compression, "queue_length": qos.depth, "throttle_rate": 0}
        entry = self._stand({**op, "fragment_size": self._size or None})

        def undo() -> None:
            end()
            self._withdraw(entry, {"op": "unsubscribe", "id": name, "topic": topic})

        return undo

    def serve(self, service: str, kind: str, handler: Callable[[Message], Message]) -> Undo:
        """Answers a service's calls, each in a thread of its own."""
        return self._provide(self._services, "service", service, Provider(kind, served(handler)))

    def serve_action(self, action: str, kind: str, execute: Execute) -> Undo:
        """Executes an action's goals, each in a thread of its own."""
        return self._provide(self._actions, "action", action, Provider(kind, execute))

    def _provide(
        self, table: dict[str, Provider], what: str, name: str, provider: Provider
    ) -> Undo:
        table[key(name)] = provider
        entry = self._stand({"op": f"advertise_{what}", what: name, "type": provider.kind})

        def undo() -> None:
            if table.get(key(name)) is provider:
                del table[key(name)]
            self._withdraw(entry, {"op": f"unadvertise_{what}", what: name})

        return undo

    def call(self, service: str, kind: str, request: Message, timeout: float) -> Message:
        """Calls a service. Raises TimeoutError, LinkLost, HardwareError (it failed there)."""
        provider = Provider(kind, link=self._linked())
        return self._wait_call(provider, service, kind, request, timeout)

    def send_goal(
        self,
        action: str,
        kind: str,
        goal: Message,
        feedback: Callable[[Message], None] | None = None,
        timeout: float = 2.0,
    ) -> Pursuit:
        """Sends a goal. Raises LinkLost.

        rosbridge has no word for acceptance, so this does not wait: `Pursuit.result` raises
        HardwareError if the goal was refused.
        """
        provider = Provider(kind, link=self._linked())
        return self._pursue(provider, action, kind, goal, feedback)

    def close(self) -> None:
        """Ends the link and its threads."""

        async def leave() -> None:
            if self._link:
                await self._link.close()

        self._end(leave)

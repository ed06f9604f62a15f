"""A rosbridge server without ROS; see `hardware.rosbridge`."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hardware.errors import HardwareError, LinkLost
from hardware.rosbridge_codec import (
    MAX_SIZE,
    Frame,
    Malformed,
    Operation,
    canonical,
    encode,
    need,
    typed,
)
from hardware.rosbridge_link import Link, heard_of
from hardware.rosbridge_peer import OPENING, Bridge, Execute, Provider, key, served
from hardware.wire import COMMAND, STATE, Message, Pursuit, Qos, Receiver, Undo

REGISTERED = 1000  # subscriptions, services and actions of one client
RELAYED = 10  # messages between two clients that wait, unless the subscriber says
LATCHES = 8  # topics of clients whose last message is kept for late subscribers
Serializer = Callable[[str, Message], bytes]


@dataclass
class _Listener:
    """A client's subscription to a topic; its requests are merged as rosbridge does."""

    link: Link
    topic: str  # as the client spells it
    requests: dict[str | int | None, Operation] = field(default_factory=dict)
    form: str = "none"
    size: int = 0
    depth: int = 0
    period: float = 0.0
    due: float = 0.0

    def merge(self) -> None:
        """The strongest compression, the smallest fragments, the highest rate, most messages."""
        ops = self.requests.values()
        wanted = {op.get("compression", "none") for op in ops}
        self.form = next((f for f in ("cbor-raw", "cbor", "png") if f in wanted), "none")
        self.size = int(min((s for op in ops if (s := op.get("fragment_size", 0)) > 0), default=0))
        self.depth = int(min(100, max(op.get("queue_length", 0) for op in ops)))
        self.period = max(0.0, min(op.get("throttle_rate", 0) for op in ops) / 1000)


class RosbridgeServer(Bridge):
    """A rosbridge server without ROS: what is published here or by a client reaches all others.

    Attributes:
        host: where it listens.
        port: chosen by the system if 0 was asked for.
        url: for clients on this machine.
        counts: see `Bridge`.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 9090,
        *,
        alive: float = 1.0,
        max_size: int = MAX_SIZE,
        fragment_timeout: float = 10.0,
        clients: int = 32,
        serializer: Serializer | None = None,
    ) -> None:
        """Listens.

        Args:
            host: an address of this machine; other machines reach only others than loopback.
            port: 0 for any that is free.
            alive: s of silence after which a client counts as gone.
            max_size: bytes of the largest message.
            fragment_timeout: s after which the fragments of an incomplete message are dropped.
            clients: at once.
            serializer: makes CDR of a kind and a message, for clients that ask for "cbor-raw".

        Raises:
            HardwareError: it cannot listen there.
        """
        library = need("websockets.asyncio.server")
        super().__init__(alive, max_size, fragment_timeout)
        self._clients, self._serializer = clients, serializer
        self._links: set[Link] = set()
        self._known: dict[Link, set[tuple]] = {}
        self._listeners: dict[str, dict[Link, _Listener]] = {}
        self._kinds: dict[str, str] = {}  # of topics of ours
        self._advertised: dict[str, dict[Link, Operation]] = {}
        self._latched: dict[str, Message] = {}
        for op in ("advertise", "unadvertise", "publish", "subscribe", "unsubscribe", "set_level"):
            self._handlers[op] = getattr(self, f"_on_{op}")
        for what, table in (("service", self._services), ("action", self._actions)):
            self._handlers[f"advertise_{what}"] = self._provider_of(what, table)
            self._handlers[f"unadvertise_{what}"] = self._no_provider_of(what, table)

        async def listen() -> Any:
            return await library.serve(
                self._welcome,
                host,
                port,
                create_connection=heard_of(library.ServerConnection, 2 * max_size),
                open_timeout=OPENING,
                **self._socket_options,
            )

        try:
            self._server = self._thread.start(listen()).result(5.0)
        except OSError as error:
            self._end(None)
            raise HardwareError(f"cannot listen on {host}:{port}: {error}") from error
        self.host, self.port = host, self._server.sockets[0].getsockname()[1]
        self.url = f"ws://{'127.0.0.1' if host in ('', '0.0.0.0') else host}:{self.port}"

    @property
    def connected(self) -> bool:
        """Whether it listens."""
        return not self._closing

    async def _welcome(self, socket: Any) -> None:
        if len(self._links) >= self._clients:
            await socket.close(1013, "too many clients")
            return
        link = Link(socket, self._handle, self.counts, complain=True, **self._link_options)
        self._links.add(link)
        self._known[link] = set()
        try:
            await link.run()
        finally:
            self._forget(link)
            self._lost(link)

    def _forget(self, link: Link) -> None:
        with self._lock:
            self._links.discard(link)
            del self._known[link]
            for table in (self._listeners, self._advertised):
                for topic in [topic for topic, links in table.items() if link in links]:
                    self._drop(table, topic, link)
            for providers in (self._services, self._actions):
                for name in [n for n, provider in providers.items() if provider.link is link]:
                    del providers[name]

    def _drop(self, table: dict[str, dict[Link, Any]], topic: str, link: Link) -> None:
        links = table.get(topic, {})
        links.pop(link, None)
        if not links:
            table.pop(topic, None)
            if table is self._advertised and topic not in self._kinds:
                self._latched.pop(topic, None)

    def _register(self, link: Link, *entry: Any) -> None:
        known = self._known[link]
        if entry not in known and len(known) >= REGISTERED:
            raise Malformed(f"{entry[0]}: more than {REGISTERED} topics, services and actions")
        known.add(entry)

    # ---- operations of clients ----------------------------------------------------------------

    def _kind(self, topic: str) -> str | None:
        if topic in self._kinds:
            return self._kinds[topic]
        return next((op["type"] for op in self._advertised.get(topic, {}).values()), None)

    def _agree(self, op: Operation) -> str:
        """The topic's key; refuses a type other than the topic's."""
        topic = key(op["topic"])
        kind, said = self._kind(topic), op.get("type")
        if kind and said and canonical(kind) != canonical(said):
            raise Malformed(f"{op['op']}: {op['topic']} is of type {kind}, not {said}")
        return topic

    def _on_advertise(self, link: Link, op: Operation) -> None:
        with self._lock:
            topic = self._agree(op)
            self._register(link, "advertise", topic)
            self._advertised.setdefault(topic, {})[link] = op

    def _on_unadvertise(self, link: Link, op: Operation) -> None:
        with self._lock:
            self._known[link].discard(("advertise", key(op["topic"])))
            self._drop(self._advertised, key(op["topic"]), link)

    def _on_publish(self, link: Link, op: Operation) -> None:
        topic = key(op["topic"])
        with self._lock:
            said = self._advertised.get(topic, {}).get(link, {})
            kind = self._kind(topic)
            message = typed(op["msg"], kind) if kind else op["msg"]
            latched = said.get("latch") and topic not in self._kinds
            if latched and (topic in self._latched or len(self._latched) < LATCHES):
                self._latched[topic] = message
        self._spread(topic, message, RELAYED)

    def _on_subscribe(self, link: Link, op: Operation) -> None:
        form = op.get("compression", "none")
        if form not in ("none", "png", "cbor", "cbor-raw"):
            raise Malformed(f"subscribe: there is no compression {form!r}")
        if form == "cbor-raw" and self._serializer is None:
            raise Malformed("subscribe: this server has no CDR for cbor-raw; ask for cbor")
        with self._lock:
            topic = self._agree(op)
            self._register(link, "subscribe", topic, op.get("id"))
            listeners = self._listeners.setdefault(topic, {})
            listener = listeners.setdefault(link, _Listener(link, op["topic"]))
            listener.requests[op.get("id")] = op
            listener.merge()
            last = self._latched.get(topic)
        if last is not None:
            self._send(listener, last, 1, {})

    def _on_unsubscribe(self, link: Link, op: Operation) -> None:
        topic = key(op["topic"])
        with self._lock:
            listener = self._listeners.get(topic, {}).get(link)
            if listener is None:
                return
            for name in [op["id"]] if "id" in op else list(listener.requests):
                self._known[link].discard(("subscribe", topic, name))
                listener.requests.pop(name, None)
            if listener.requests:
                listener.merge()
            else:
                self._drop(self._listeners, topic, link)

    def _on_set_level(self, link: Link, op: Operation) -> None:
        if op["level"] not in ("info", "warning", "error", "none"):
            raise Malformed(f"set_level: there is no level {op['level'][:20]!r}")
        link.level = op["level"]

    def _provider_of(self, what: str, table: dict[str, Provider]) -> Callable:
        def advertise(link: Link, op: Operation) -> None:
            name = key(op[what])
            with self._lock:
                if name in table and table[name].link is None:
                    raise Malformed(f"advertise_{what}: {op[what]} is served here already")
                self._register(link, what, name)
                table[name] = Provider(op["type"], link=link, name=op[what])

        return advertise

    def _no_provider_of(self, what: str, table: dict[str, Provider]) -> Callable:
        def unadvertise(link: Link, op: Operation) -> None:
            name = key(op[what])
            with self._lock:
                self._known[link].discard((what, name))
                if name in table and table[name].link is link:
                    del table[name]

        return unadvertise

    # ---- topics -------------------------------------------------------------------------------

    def _spread(self, topic: str, message: Message, depth: int) -> None:
        self._deliver(topic, message)
        now, frames = time.monotonic(), {}
        with self._lock:
            listeners = list(self._listeners.get(topic, {}).values())
        for listener in listeners:
            if now >= listener.due:
                listener.due = now + listener.period
                self._send(listener, message, depth, frames)

    def _send(
        self, to: _Listener, message: Message, depth: int, frames: dict[tuple, Frame]
    ) -> None:
        form = "json" if to.form in ("none", "png") else to.form
        frame = frames.get((form, to.topic))
        if frame is None:
            op = {"op": "publish", "topic": to.topic, "msg": message}
            if form == "cbor-raw":
                try:
                    op["msg"] = self._raw(to, message)
                except (KeyError, ValueError, TypeError) as error:
                    to.link.status("error", f"{to.topic} as cbor-raw: {error}")
                    return
            frame = frames[form, to.topic] = encode(op, form[:4])
        to.link.publish(to.topic, frame, to.depth or depth, png=to.form == "png", size=to.size)

    def _raw(self, to: _Listener, message: Message) -> Message:
        kind = self._kind(key(to.topic))
        if kind is None:
            raise ValueError("the type of the topic is not known")
        seconds, rest = divmod(time.time_ns(), 10**9)
        return {"secs": seconds, "nsecs": rest, "bytes": self._serializer(kind, message)}

    def listeners(self, topic: str) -> int:
        """How many clients listen to a topic."""
        return len(self._listeners.get(key(topic), ()))

    def publisher(self, topic: str, kind: str, qos: Qos = COMMAND) -> Callable[[Message], None]:
        """Returns a function that publishes a message on a topic; LinkLost after `close`."""
        name = key(topic)
        with self._lock:
            self._agree({"op": "publisher", "topic": topic, "type": kind})
            self._kinds[name] = kind

        def publish(message: Message) -> None:
            if self._closing:
                raise LinkLost(f"{self.url}: the server is closed")
            if qos.latched:
                with self._lock:
                    self._latched[name] = message
            self._spread(name, message, qos.depth)

        return publish

    def subscribe(self, topic: str, kind: str, receiver: Receiver, qos: Qos = STATE) -> Undo:
        """Calls `receiver` for each message of a client or of ours; returns what ends it."""
        with self._lock:
            self._agree({"op": "subscribe", "topic": topic, "type": kind})
            self._kinds[key(topic)] = kind
            undo = self._add_box(topic, kind, receiver, qos)
            last = self._latched.get(key(topic))
        if last is not None and qos.latched:
            self._boxes[key(topic)][-1][1].put(last, time.monotonic())
        return undo

    # ---- services and actions -----------------------------------------------------------------

    def serve(self, service: str, kind: str, handler: Callable[[Message], Message]) -> Undo:
        """Answers a service's calls, each in a thread of its own."""
        return self._provide(self._services, service, Provider(kind, served(handler)))

    def serve_action(self, action: str, kind: str, execute: Execute) -> Undo:
        """Executes an action's goals, each in a thread of its own."""
        return self._provide(self._actions, action, Provider(kind, execute))

    def _provide(self, table: dict[str, Provider], name: str, provider: Provider) -> Undo:
        with self._lock:
            table[key(name)] = provider

        def undo() -> None:
            with self._lock:
                if table.get(key(name)) is provider:
                    del table[key(name)]

        return undo

    def call(self, service: str, kind: str, request: Message, timeout: float) -> Message:
        """Calls a service of a client's, or ours. Raises TimeoutError, LinkLost, HardwareError."""
        provider = self._services.get(key(service))
        return self._wait_call(provider, service, kind, request, timeout)

    def send_goal(
        self,
        action: str,
        kind: str,
        goal: Message,
        feedback: Callable[[Message], None] | None = None,
        timeout: float = 2.0,
    ) -> Pursuit:
        """Sends a goal to a client, or to an action of ours; see `RosbridgeWire.send_goal`."""
        return self._pursue(self._actions.get(key(action)), action, kind, goal, feedback)

    def close(self) -> None:
        """Ends all links and the threads."""

        async def leave() -> None:
            self._server.close()
            await self._server.wait_closed()

        self._end(leave)

"""Publishers, subscriptions, servers and clients of `hardware.zenoh_ros`.

Each declares itself on a session, and again on the next one when the link had to be opened anew;
its counters go on.
"""

import collections
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hardware import cdr
from hardware.errors import HardwareError, LinkLost
from hardware.messages import MessageError
from hardware.wire import Message, Qos, Receiver, Undo
from hardware.zenoh_link import Link, zenoh
from hardware.zenoh_names import Attachment, Node, data_key, gid, read_attachment

WAITING = 64
"""Calls that wait for a service; further ones push out the oldest, which then fail."""
SENDERS = 64
"""Publishers of one topic whose last sample is remembered."""

_log = logging.getLogger(__name__)


@dataclass
class Context:
    """What all endpoints of a wire share.

    Attributes:
        link: the session.
        domain: ROS domain id.
        node: our node's name.
        namespace: of the node.
        largest: bytes of a message.
        dropped: counts by reason.
    """

    link: Link
    domain: int
    node: str
    namespace: str
    largest: int
    dropped: collections.Counter[str] = field(default_factory=collections.Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def identity(self, session: Any) -> Node:
        """Returns our node in a session."""
        return Node(self.domain, str(session.info.zid()), self.node, self.namespace)

    def drop(self, why: str, where: str, detail: object = "") -> None:
        """Counts something that is not delivered."""
        with self._lock:
            self.dropped[why] += 1
        _log.debug("zenoh: %s: %s %s", where, why, detail)

    def read(self, sample: Any, kind: str, where: str) -> tuple[Message, Attachment] | None:
        """Returns a sample's or query's message, or counts why it has none."""
        if sample.payload is not None and len(sample.payload) > self.largest:
            return self.drop("too large", where, len(sample.payload))
        try:
            if sample.payload is None or sample.attachment is None:
                raise ValueError("no payload or no attachment")
            attachment = read_attachment(sample.attachment.to_bytes())
            return cdr.decode(kind, sample.payload.to_bytes()), attachment
        except ValueError as error:  # MessageError too
            return self.drop("malformed", where, error)


@dataclass(frozen=True)
class Endpoint:
    """What an endpoint is called.

    Attributes:
        entity: its number among its session's.
        what: MP, MS, SS or SC; see `Node.endpoint`.
        name: full name of the topic or service.
        kind: type.
        type_hash: as in keys.
        qos: of the endpoint.
    """

    entity: int
    what: str
    name: str
    kind: str
    type_hash: str
    qos: Qos

    def key(self, domain: int) -> str:
        """Returns its key."""
        return data_key(domain, self.name, self.kind, self.type_hash)

    def token(self, node: Node) -> str:
        """Returns the key of its liveliness token."""
        return node.endpoint(self.entity, self.what, self.name, self.kind, self.type_hash, self.qos)


class Publisher:
    """Publishes messages of one topic."""

    def __init__(self, context: Context, endpoint: Endpoint) -> None:
        self._context, self._at, self._key = context, endpoint, endpoint.key(context.domain)
        self._lock, self._sequence = threading.Lock(), 0
        self._publisher: Any = None
        self._gid = b""

    def declare(self, session: Any) -> Undo:
        """See `Link.declare`."""
        library = zenoh()
        options = {
            "congestion_control": library.CongestionControl.DROP,
            "express": True,  # not kept back to be sent with others
            "reliability": library.Reliability.RELIABLE
            if self._at.qos.reliable
            else library.Reliability.BEST_EFFORT,
        }
        if self._at.qos.latched:
            options |= {
                "cache": library.ext.CacheConfig(self._at.qos.depth),
                "publisher_detection": True,
            }
            made = library.ext.declare_advanced_publisher(session, self._key, **options)
        else:
            made = session.declare_publisher(self._key, **options)
        token = self._at.token(self._context.identity(session))
        with self._lock:
            self._publisher, self._gid = made, gid(token)
        return together(session.liveliness().declare_token(token).undeclare, made.undeclare)

    def __call__(self, message: Message) -> None:
        """Publishes now or never; raises LinkLost, MessageError."""
        self._context.link.require()
        data = cdr.encode(self._at.kind, message)
        if len(data) > self._context.largest:
            raise MessageError(
                f"{self._at.name}: {len(data)} bytes, more than {self._context.largest}"
            )
        with self._lock:
            self._sequence += 1
            attachment = Attachment(self._sequence, time.time_ns(), self._gid).pack()
            try:
                self._publisher.put(data, attachment=attachment)
            except zenoh().ZError as error:
                raise LinkLost(f"{self._at.name}: {error}") from error


class Subscription:
    """Hands a topic's newest messages to a receiver."""

    def __init__(self, context: Context, endpoint: Endpoint, receiver: Receiver) -> None:
        self._context, self._at, self._receiver = context, endpoint, receiver
        self._key = endpoint.key(context.domain)
        self._last: collections.OrderedDict[bytes, tuple[int, int]] = collections.OrderedDict()

    def declare(self, session: Any) -> Undo:
        """See `Link.declare`."""
        library, depth = zenoh(), self._at.qos.depth
        newest = library.handlers.RingChannel(depth)
        # Of any type and hash, so that those which do not fit are counted instead of unseen.
        key = f"{self._context.domain}/{self._at.name.strip('/')}/*/*"
        if self._at.qos.latched:
            history = library.ext.HistoryConfig(detect_late_publishers=True, max_samples=depth)
            made = library.ext.declare_advanced_subscriber(session, key, newest, history=history)
        else:
            made = session.declare_subscriber(key, newest)
        ended = threading.Event()
        thread = threading.Thread(
            target=self._run, args=(made.handler, ended), name=self._at.name, daemon=True
        )
        thread.start()
        token = session.liveliness().declare_token(self._at.token(self._context.identity(session)))
        return together(ended.set, token.undeclare, made.undeclare, partial(_join, thread))

    def _run(self, samples: Any, ended: threading.Event) -> None:
        while (sample := received(samples)) and not ended.is_set():
            arrived = time.monotonic()
            message = self._accept(sample)
            if message is None:
                continue
            try:
                self._receiver(message, arrived)
            except Exception:
                self._context.drop("receiver failed", self._at.name)
                _log.exception("zenoh: the receiver of %s failed", self._at.name)

    def _accept(self, sample: Any) -> Message | None:
        if str(sample.key_expr) != self._key:
            return self._context.drop("wrong type", self._at.name, sample.key_expr)
        read = self._context.read(sample, self._at.kind, self._at.name)
        if read is None:
            return None
        message, by = read
        sequence, stamp = self._last.get(by.gid, (-1, -1))
        if by.sequence <= sequence and by.stamp <= stamp:  # twice, or late
            return self._context.drop("out of order", self._at.name, by.sequence)
        self._last[by.gid] = by.sequence, by.stamp
        self._last.move_to_end(by.gid)
        if len(self._last) > SENDERS:
            self._last.popitem(last=False)
        return message


class Server:
    """Answers a service's calls, one after the other."""

    def __init__(
        self,
        context: Context,
        endpoint: Endpoint,
        take: Callable[[Message, Callable[[Message], None]], None],
    ) -> None:
        self._context, self._at, self._take = context, endpoint, take
        self._key = endpoint.key(context.domain)

    def declare(self, session: Any) -> Undo:
        """See `Link.declare`."""
        made = session.declare_queryable(
            self._key, zenoh().handlers.RingChannel(WAITING), complete=True
        )
        thread = threading.Thread(
            target=self._run, args=(made.handler,), name=self._at.name, daemon=True
        )
        thread.start()
        token = session.liveliness().declare_token(self._at.token(self._context.identity(session)))
        return together(token.undeclare, made.undeclare, partial(_join, thread))

    def _run(self, queries: Any) -> None:
        while query := received(queries):
            self._answer(query)

    def _answer(self, query: Any) -> None:
        read = self._context.read(query, f"{self._at.kind}_Request", self._at.name)
        if read is None:
            self._finish(query, lambda: query.reply_err("malformed request"))
            return
        request, by = read

        def answer(response: Message) -> None:
            data = cdr.encode(f"{self._at.kind}_Response", response)
            attachment = Attachment(by.sequence, time.time_ns(), by.gid).pack()
            self._finish(query, lambda: query.reply(self._key, data, attachment=attachment))

        try:
            self._take(request, answer)
        except Exception as error:
            _log.exception("zenoh: the handler of %s failed", self._at.name)
            self._finish(query, lambda error=error: query.reply_err(f"{error}"))

    def _finish(self, query: Any, reply: Callable[[], None]) -> None:
        try:
            reply()
            query.drop()
        except zenoh().ZError as error:  # the caller has gone
            self._context.drop("unanswered", self._at.name, error)


class Client:
    """Calls a service."""

    def __init__(self, context: Context, endpoint: Endpoint) -> None:
        self._context, self._at = context, endpoint
        self._key = endpoint.key(context.domain)
        self._lock, self._sequence = threading.Lock(), 0
        self._session: Any = None
        self._querier: Any = None
        self._gid = b""

    def declare(self, session: Any) -> Undo:
        """See `Link.declare`."""
        querier = session.declare_querier(self._key, target=zenoh().QueryTarget.ALL_COMPLETE)
        token = self._at.token(self._context.identity(session))
        with self._lock:
            self._session, self._querier, self._gid = session, querier, gid(token)
        return together(session.liveliness().declare_token(token).undeclare, querier.undeclare)

    def __call__(self, request: Message, timeout: float) -> Message:
        """See `Wire.call`."""
        data, deadline = cdr.encode(f"{self._at.kind}_Request", request), time.monotonic() + timeout
        self._wait_for_server(deadline, timeout)
        replies: queue.SimpleQueue[Any] = queue.SimpleQueue()
        library = zenoh()
        with self._lock:
            self._sequence += 1
            attachment = Attachment(self._sequence, time.time_ns(), self._gid).pack()
            self._session.get(
                self._key,
                library.handlers.Callback(replies.put, lambda: replies.put(None), indirect=False),
                target=library.QueryTarget.ALL_COMPLETE,
                consolidation=library.ConsolidationMode.NONE,
                timeout=max(deadline - time.monotonic(), 0.001),
                payload=data,
                attachment=attachment,
            )
        while True:
            try:
                return self._read(replies.get(timeout=0.05), timeout)
            except queue.Empty:
                self._context.link.require()
                if time.monotonic() > deadline + 0.5:  # Zenoh's own time limit comes first
                    raise TimeoutError(self._late(timeout)) from None

    def _wait_for_server(self, deadline: float, timeout: float) -> None:
        while True:
            self._context.link.require()
            if self._querier.matching_status.matching:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{self._at.name}: no server of type {self._at.kind} within {timeout:g} s"
                )
            time.sleep(0.01)

    def _read(self, reply: Any, timeout: float) -> Message:
        if reply is None:
            if self._context.link.alone:
                raise LinkLost(f"{self._at.name}: the link was lost before the answer")
            raise HardwareError(f"{self._at.name}: the server ended the call without an answer")
        if reply.err is not None:
            text = reply.err.payload.to_bytes().decode(errors="replace")
            if text == "Timeout":
                raise TimeoutError(self._late(timeout))
            raise HardwareError(f"{self._at.name}: the server failed: {text}")
        read = self._context.read(reply.ok, f"{self._at.kind}_Response", self._at.name)
        if read is None:
            raise HardwareError(f"{self._at.name}: the server's answer is malformed")
        return read[0]

    def _late(self, timeout: float) -> str:
        return f"{self._at.name}: no answer within {timeout:g} s"


def received(channel: Any) -> Any:
    """Waits for what comes next; None at the end."""
    try:
        return channel.recv()
    except zenoh().ZError:
        return None


def _join(thread: threading.Thread) -> None:
    if thread is not threading.current_thread():  # whoever ends it from its own receiver
        thread.join(1.0)


def together(*undos: Undo) -> Undo:
    """Returns what does several things."""

    def undo() -> None:
        for each in undos:
            each()

    return undo

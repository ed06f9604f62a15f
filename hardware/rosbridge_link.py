"""One websocket of rosbridge, and the threads around it.

A loop thread reads and writes sockets and is never held up by users: receivers run on a second
thread, behind queues in which the newest messages win, and what is sent waits in such queues too.
"""

import asyncio
import collections
import concurrent.futures
import functools
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from hardware.rosbridge_codec import (
    MAX_SIZE,
    Assembler,
    Frame,
    Malformed,
    Operation,
    encode,
    need,
    split,
    to_png,
)
from hardware.wire import Receiver

log = logging.getLogger(__name__)

QUEUED = 4  # messages of the largest size that wait for one peer at most
SPARE = 65536  # bytes that wait for a peer; beyond it hears no `status` and no feedback


class Mailbox:
    """What waits for one receiver; if it is slow, the newest messages win."""

    def __init__(self, post: "PostOffice", receiver: Callable[..., None], depth: int) -> None:
        self._post, self._receiver = post, receiver
        self._waiting: collections.deque[tuple] = collections.deque(maxlen=max(1, depth))
        self._lock, self._queued, self._open = threading.Lock(), False, True

    def put(self, *arguments: Any) -> None:
        """Leaves something; never waits."""
        with self._lock:
            if len(self._waiting) == self._waiting.maxlen:
                self._post.counts["overrun"] += 1
            self._waiting.append(arguments)
            if self._queued:
                return
            self._queued = True
        self._post.ready.put(self)

    def close(self) -> None:
        """Delivers nothing any more."""
        self._open = False

    def deliver(self) -> None:
        """Hands the oldest over, on the receivers' thread."""
        with self._lock:
            arguments = self._waiting.popleft()
        try:
            if self._open:
                self._receiver(*arguments)
        except Exception:
            self._post.counts["receiver failed"] += 1
            log.exception("a receiver of rosbridge messages failed")
        with self._lock:
            self._queued = bool(self._waiting)
        if self._queued:
            self._post.ready.put(self)


class PostOffice:
    """The receivers' thread."""

    def __init__(self, counts: collections.Counter[str]) -> None:
        self.counts = counts
        self.ready: queue.SimpleQueue[Mailbox | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="rosbridge receivers", daemon=True)
        self._thread.start()

    def mailbox(self, receiver: Receiver | Callable[..., None], depth: int) -> Mailbox:
        """Makes the queue of one receiver."""
        return Mailbox(self, receiver, depth)

    def close(self) -> None:
        """Ends the thread."""
        self.ready.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(2.0)

    def _run(self) -> None:
        while (box := self.ready.get()) is not None:
            box.deliver()


class LoopThread:
    """An asyncio loop in a thread of its own."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def start(self, work: Coroutine) -> concurrent.futures.Future:
        """Runs a coroutine there."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def close(self) -> None:
        """Ends what still runs, and the thread."""

        async def finish() -> None:
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        self.start(finish()).result(5.0)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5.0)
        self.loop.close()


@functools.cache
def heard_of(base: type, most: int) -> type:
    """A connection class that notes when anything came last: any byte is a sign of life.

    It is cut when more than `most` bytes wait for a peer that sends and does not read: each ping is
    answered at once, and a flood of them would fill the memory.
    """

    class Connection(base):
        heard, cut = 0.0, False

        def data_received(self, data: bytes) -> None:
            self.heard = time.monotonic()
            if self.transport.get_write_buffer_size() > most:
                self.cut = True
                self.transport.abort()
            else:
                super().data_received(data)

    return Connection


Entry = tuple[Frame, bool, int]  # the frame, whether as a picture, size of its fragments or 0


class Link:
    """One connection: queues of what is sent, a reader, a writer and a watch for silence.

    Services and actions go in order, and only an action's feedback is ever left out; topics keep
    their newest messages.

    Attributes:
        jobs: what the peer asked for and still waits for, by its id.
        level: which `status` the peer wants to hear.
        closed: whether it is over.
    """

    def __init__(
        self,
        socket: Any,
        handle: Callable[["Link", Operation], None],
        counts: collections.Counter[str],
        *,
        alive: float,
        max_size: int = MAX_SIZE,
        fragment_timeout: float = 10.0,
        complain: bool = False,
    ) -> None:
        """Takes an open socket; `run` serves it.

        Args:
            socket: a connection of `websockets`, of a class by `heard_of`.
            handle: told each operation, on the loop's thread.
            counts: of what went wrong.
            alive: s of silence after which the peer counts as gone.
            max_size: bytes of one message.
            fragment_timeout: s, see `Assembler`.
            complain: whether malformed frames are answered with a `status`.
        """
        self._socket, self._handle, self._counts = socket, handle, counts
        self._alive, self._complain = alive, complain
        self._budget = QUEUED * max_size
        self._assembler = Assembler(max_size, fragment_timeout, counts)
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        self._lock, self._waking, self._held = threading.Lock(), False, 0
        self._ordered: collections.deque[Entry] = collections.deque()
        self._topics: dict[str, collections.deque[Entry]] = {}
        self._turns: collections.deque[str] = collections.deque()
        self._serial = itertools.count()
        self.jobs: dict[str | int, Any] = {}
        self.level, self.closed = "error", False

    # ---- sending, from any thread -------------------------------------------------------------

    def post(self, op: Operation, png: bool = False, size: int = 0, *, spare: bool = False) -> bool:
        """Sends an operation in order; False if the link is over.

        A spare one is left out while the peer has much to read.
        """
        if spare and self._held > SPARE:
            self._counts["left out"] += 1
            return True
        op = {name: value for name, value in op.items() if value is not None}
        entry = (encode(op), png, size)
        with self._lock:
            if self.closed:
                return False
            self._held += len(entry[0])
            self._ordered.append(entry)
            if self._held > self._budget:  # the peer does not read, and order forbids to leave out
                self._loop.call_soon_threadsafe(self._abort, "does not read what it asked for")
        self._rouse()
        return True

    def publish(
        self, topic: str, frame: Frame, depth: int, png: bool = False, size: int = 0
    ) -> bool:
        """Sends a topic's message when the peer reads; older ones than `depth` are left out."""
        with self._lock:
            if self.closed:
                return False
            waiting = self._topics.get(topic)
            if waiting is None:
                waiting = self._topics[topic] = collections.deque()
                self._turns.append(topic)
            self._held += len(frame)
            waiting.append((frame, png, size))
            while waiting and (len(waiting) > depth or self._held > self._budget):
                self._held -= len(waiting.popleft()[0])
                self._counts["left out"] += 1
        self._rouse()
        return True

    def status(self, level: str, text: str, name: str | int | None = None) -> None:
        """Tells the peer what it did wrong, if it wants to hear."""
        heard = {"none": (), "error": ("error",), "warning": ("error", "warning")}
        if level in heard.get(self.level, (level,)):
            op = {"op": "status", "level": level, "msg": text[:300], "id": name}
            self.post(op, spare=True)

    def _rouse(self) -> None:
        with self._lock:
            if not (self._waking or self.closed):
                self._waking = True
                self._loop.call_soon_threadsafe(self._wake.set)

    # ---- on the loop --------------------------------------------------------------------------

    async def run(self) -> None:
        """Serves the link until it is over; what still waits to be sent is thrown away."""
        closed = need("websockets.exceptions").ConnectionClosed
        tasks = [asyncio.create_task(self._guard(work)) for work in (self._write(), self._watch())]
        try:
            async for frame in self._socket:
                self._take(frame)
        except closed:
            pass  # the reason is counted below
        finally:
            with self._lock:
                self.closed, self._held = True, 0
                self._ordered.clear()
                self._topics.clear()
                self._turns.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._counts["aborted"] += self._socket.cut
            sent = self._socket.protocol.close_sent
            if sent and sent.code in (1002, 1007, 1009):  # broken, not UTF-8, too big
                self._counts["malformed"] += 1

    async def close(self) -> None:
        """Ends the link."""
        await self._socket.close()

    async def _guard(self, work: Coroutine) -> None:
        try:
            await work
        except need("websockets.exceptions").ConnectionClosed:
            pass  # the reader notices too
        except Exception:
            log.exception("rosbridge: a link failed")
            self._abort("cannot be served")

    def _take(self, frame: Frame) -> None:
        op: Operation | None = None
        try:
            op = self._assembler.take(frame)
            if op is not None:
                self._handle(self, op)
        except Malformed as error:
            self._counts["malformed"] += 1
            log.debug("dropped a frame: %s", error)
            if self._complain:
                self.status("error", str(error), op.get("id") if op else None)
        except Exception:
            self._counts["fault"] += 1
            log.exception("an operation of rosbridge failed: %s", op and op["op"])

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            with self._lock:
                self._waking = False
            while (entry := self._next()) is not None:
                for frame in self._frames(*entry):
                    await self._socket.send(frame)

    def _next(self) -> Entry | None:
        with self._lock:
            entry = self._ordered.popleft() if self._ordered else None
            while entry is None and self._turns:
                topic = self._turns.popleft()
                waiting = self._topics[topic]
                entry = waiting.popleft() if waiting else None
                if waiting:
                    self._turns.append(topic)
                else:
                    del self._topics[topic]
            self._held -= len(entry[0]) if entry else 0
            return entry

    def _frames(self, frame: Frame, png: bool, size: int) -> Iterator[Frame]:
        if isinstance(frame, bytes):
            return iter((frame,))
        frame = to_png(frame) if png else frame
        if not 0 < size < len(frame):
            return iter((frame,))
        return split(frame, size, f"fragments:{next(self._serial)}")

    async def _watch(self) -> None:
        self._socket.heard = time.monotonic()
        ping: asyncio.Task | None = None
        while True:
            await asyncio.sleep(self._alive / 10)
            silent = time.monotonic() - self._socket.heard
            if silent > 0.8 * self._alive:
                self._abort(f"was silent for {silent:.1f} s")
            elif silent > 0.2 * self._alive and (ping is None or ping.done()):
                ping = asyncio.create_task(self._guard(self._ping()))

    async def _ping(self) -> None:
        await self._socket.ping()  # the answer is heard as any other byte

    def _abort(self, why: str) -> None:
        self._counts["aborted"] += 1
        log.warning("rosbridge: cut the link to %s, which %s", self._socket.remote_address, why)
        self._socket.transport.abort()

"""Serves a policy to other machines; see `hardware.policy_wire` for what is said. Needs no torch.

    with PolicyServer(act, {"observation.state": Column("float32", (39,)),
                            "action": Column("float32", (4,))}, name="mine") as server:
        server.url ...

Questions are answered in the order in which they came, one at a time, and none is left out: a
client asks again only when it has its answer. Each message that is no question is counted and
answered with what is wrong with it; who breaks the websocket's own rules is let go. The other
clients do not notice.
"""

import asyncio
import collections
import hmac
import ipaddress
import itertools
import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hardware.errors import HardwareError
from hardware.policy_wire import (
    ACTION,
    MAX_BYTES,
    SCHEMA,
    Column,
    WireError,
    checked_token,
    describe,
    differences,
    pack,
    printable,
    unpack,
)
from hardware.rosbridge_link import LoopThread, heard_of

ROWS = 256  # of one question
ANSWER = 8 * 2**20  # bytes of all actions of one answer
HANDSHAKE_SECONDS = 5.0
SEND_SECONDS = 5.0
CLOSE_SECONDS = 0.5
BROKEN = (1002, 1007, 1009)  # websocket's: against the protocol, not UTF-8, too big

log = logging.getLogger(__name__)
_quiet = logging.getLogger(f"{__name__}.websockets")  # says with stack traces what is counted here
_quiet.disabled = True

Row = dict[str, Any]
Policy = Callable[[list[Row]], Sequence[np.ndarray]]
"""Rows to an action [A] or a chunk [H, A] each. A row has `episode`, `step`, `task`, `observation`
and `client`, a number; an episode belongs to its client."""


def on_loopback(host: str) -> bool:
    """Whether only this machine reaches an address.

    Raises:
        HardwareError: there is no such address.
    """
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host or "0.0.0.0", None)}
    except (OSError, UnicodeError) as error:
        raise HardwareError(f"no such address: {host!r} ({error})") from error
    return all(ipaddress.ip_address(each.split("%")[0]).is_loopback for each in found)


class PolicyServer:
    """A policy behind a websocket.

    Attributes:
        host: where it listens.
        port: chosen by the system if 0 was asked for.
        url: for clients on this machine.
        columns: of observations and, named "action", of one action.
        limit: bytes of the longest message it takes.
        counts: "clients", "answered" and, of what went wrong, "malformed" (no message, or a
            question that does not fit the columns), "failed" (the policy did), "unauthorized",
            "turned away" (too many clients), "stuck" (a client that does not read), "idle",
            "fault".
    """

    def __init__(
        self,
        policy: Policy,
        columns: Mapping[str, Column],
        *,
        name: str,
        about: Mapping[str, Any] | None = None,
        host: str = "127.0.0.1",
        port: int = 8000,
        token: str | None = None,
        clients: int = 8,
        idle: float = 600.0,
        tell: Callable[[str], None] = log.info,
    ) -> None:
        """Listens.

        Args:
            policy: called on one thread, with at most `ROWS` rows that fit the columns. All clients
                wait for it, so that nothing stands between a question and its answer.
            columns: what it maps.
            name: told to clients.
            about: JSON values told to clients besides.
            host: an address of this machine; any but loopback needs a token.
            port: 0 for any that is free.
            token: only clients that know it are let in.
            clients: at once.
            idle: s after which a client that asks nothing is let go.
            tell: told in words who comes, goes and errs.

        Raises:
            HardwareError: it may not or cannot listen there.
            ValueError: there is no action among the columns, or one row is larger than a message.
        """
        from websockets.asyncio.server import ServerConnection, serve

        if token is None and not on_loopback(host):
            raise HardwareError(
                f"without a token only 127.0.0.1 may be listened on, not {host or 'everything'}"
            )
        self._token = None if token is None else f"Bearer {checked_token(token)}".encode()
        self.columns = dict(columns)
        if len(self.columns.get(ACTION, Column("", ())).shape) != 1:
            raise ValueError('the columns need an "action" of one axis')
        self._observed = {name: c for name, c in self.columns.items() if name != ACTION}
        row = 1024 + sum(96 + len(name) + c.size for name, c in self._observed.items())
        if row > MAX_BYTES - 65536:
            raise ValueError(f"an observation of {row:,} bytes; a message has {MAX_BYTES:,}")
        self.limit = min(MAX_BYTES, 65536 + ROWS * row)
        told = {"schema": SCHEMA, "name": name, "columns": describe(self.columns)}
        self._hello = pack({**(about or {}), **told})
        self._policy, self._most, self._idle, self._tell = policy, clients, idle, tell
        self.counts: collections.Counter[str] = collections.Counter()
        self._links: set[Any] = set()
        self._serial = itertools.count(1)
        self._loop = LoopThread("policy server")

        async def listen() -> Any:
            return await serve(
                self._welcome,
                host or None,
                port,
                create_connection=heard_of(ServerConnection, 2 * ANSWER),
                process_request=self._admit,
                origins=[None],  # no page in a browser of this machine may ask
                compression=None,
                max_size=self.limit,
                max_queue=2,
                open_timeout=HANDSHAKE_SECONDS,
                close_timeout=CLOSE_SECONDS,
                ping_interval=None,  # no answer is heard while the policy computes
                logger=_quiet,
            )

        try:
            self._server = self._loop.start(listen()).result(10.0)
        except (OSError, OverflowError) as error:
            self._loop.close()
            raise HardwareError(f"cannot listen on {host}:{port}: {error}") from error
        self.host, self.port = host, self._server.sockets[0].getsockname()[1]
        self.url = f"ws://{'127.0.0.1' if host in ('', '0.0.0.0', '::') else host}:{self.port}"

    def __enter__(self) -> "PolicyServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets all clients go."""

        async def leave() -> None:
            self._server.close()
            await self._server.wait_closed()

        try:
            self._loop.start(leave()).result(5.0)
        except TimeoutError:  # the policy computes still; its thread ends with the process
            return
        self._loop.close()

    # ---- clients, on the loop -----------------------------------------------------------------

    def _answer(self, rows: list[Row]) -> dict[str, Any]:
        start = time.perf_counter()
        try:
            actions = list(self._policy(rows))
            seconds = time.perf_counter() - start
            chunks = [self._action(action) for action in actions]
            if len(chunks) != len(rows):
                raise ValueError(f"{len(chunks)} actions for {len(rows)} rows")
            if sum(chunk.nbytes for chunk in chunks) > ANSWER:
                raise ValueError(f"actions of more than {ANSWER:,} bytes")
        except Exception as error:  # whatever a policy raises, the clients hear it
            self.counts["failed"] += 1
            log.exception("the policy failed")
            return {"error": f"the policy failed: {type(error).__name__}: {printable(error)}"}
        self.counts["answered"] += 1
        return {"actions": chunks, "seconds": seconds}

    def _action(self, action: Any) -> np.ndarray:
        action = np.asarray(action, np.float32)
        wanted = self.columns[ACTION].shape
        if action.ndim not in (1, 2) or action.shape[-1:] != wanted or not action.size:
            raise ValueError(f"an action of shape {action.shape} instead of {wanted}")
        if not np.isfinite(action).all():
            raise ValueError("an action that is not finite")
        return action

    def _admit(self, link: Any, request: Any) -> Any:
        given = request.headers.get_all("Authorization")
        said = given[0].encode(errors="replace") if len(given) == 1 else b""
        if self._token is not None and not hmac.compare_digest(said, self._token):
            self.counts["unauthorized"] += 1
            return link.respond(401, "a token is needed\n")
        return None

    async def _welcome(self, link: Any) -> None:
        from websockets.exceptions import ConnectionClosed

        if len(self._links) >= self._most:
            self.counts["turned away"] += 1
            await link.close(1013, f"{self._most} clients at once are the limit")
            return
        self._links.add(link)
        self.counts["clients"] += 1
        who = "{}:{}".format(*(link.remote_address or ("?", "?"))[:2])
        self._tell(f"{who} has come")
        try:
            why = await self._converse(link, who)
        except ConnectionClosed:
            why = "was let go: it does not read" if link.cut else "has gone"
            self.counts["stuck"] += link.cut
            sent = link.protocol.close_sent
            if sent and sent.code in BROKEN:
                self.counts["malformed"] += 1
                why = f"was let go: {printable(sent.reason) or 'no websocket frame'}"
        except Exception:
            self.counts["fault"] += 1
            log.exception("a client could not be served")
            why = "could not be served"
        finally:
            self._links.discard(link)
        self._tell(f"{who} {why}")

    async def _converse(self, link: Any, who: str) -> str:
        """Answers until there is a reason not to, and returns it."""
        client, complained = next(self._serial), False
        sent = await self._send(link, self._hello)
        while sent:
            try:
                async with asyncio.timeout(self._idle):
                    raw = await link.recv()
            except TimeoutError:
                self.counts["idle"] += 1
                await link.close(1001, f"nothing was asked for {self._idle:g} s")
                return "was let go: it asked nothing"
            number = None
            try:
                question = unpack(raw)
                number = _number(question.get("id"))
                answer = self._answer(self._rows(question, client))
            except WireError as error:
                self.counts["malformed"] += 1
                answer = {"error": str(error)}
                if not complained:
                    self._tell(f"{who} sent what cannot be answered: {error}")
                complained = True
            sent = await self._send(link, pack({"id": number, **answer}))
        self.counts["stuck"] += 1
        return "was let go: it does not read"

    async def _send(self, link: Any, raw: bytes) -> bool:
        """Sends, or cuts the link of a client that does not read: False."""
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await link.send(raw)
        except TimeoutError:
            link.transport.abort()
            return False
        return True

    def _rows(self, question: Mapping[Any, Any], client: int) -> list[Row]:
        rows = question.get("rows")
        if _number(question.get("id")) is None:
            raise WireError("a question without an id, a whole number")
        if type(rows) is not list or not 0 < len(rows) <= ROWS:
            raise WireError(f"a question without a list of 1 to {ROWS} rows")
        return [self._row(row, client) for row in rows]

    def _row(self, row: Any, client: int) -> Row:
        if type(row) is not dict or type(row.get("observation")) is not dict:
            raise WireError("a row without an observation")
        for name in ("episode", "step"):
            if _number(row.get(name)) is None:
                raise WireError(f"a row without {name}, a whole number")
        task, observation = row.get("task", ""), row["observation"]
        if type(task) is not str:
            raise WireError("a row whose task is no text")
        strange = [name for name, value in observation.items() if type(value) is not np.ndarray]
        if strange:
            raise WireError(f"{strange[0]!r:.80} is no array")
        found = {name: Column.of(value) for name, value in observation.items()}
        wrong = differences(self._observed, found)
        if wrong:
            raise WireError(f"this policy takes other observations: {printable(wrong)}")
        for name, value in observation.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise WireError(f"{name} is not finite")
        return {
            "client": client,
            "episode": row["episode"],
            "step": row["step"],
            "task": task,
            "observation": observation,
        }


def _number(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**63 else None

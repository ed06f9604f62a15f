"""The client of a policy server: asks it for actions, one question at a time. Needs no torch.

    policy = RemotePolicy("ws://gpu:8000", timeout=0.5, token=read_token("token"))
    policy.check(columns)                  # says what differs before anything moves
    chunk, = policy.act([{"episode": 1, "step": 0, "task": "lift", "observation": {...}}])
    policy.seconds, policy.inference       # how long that took, and how much of it was inference

Each wait ends: connecting, the greeting, sending, an answer. After any failure the connection is
closed, so an answer that comes too late is never taken for that to a later question; connect anew.
"""

import contextlib
import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hardware.policy_wire import (
    ACTION,
    MAX_BYTES,
    SCHEMA,
    TOKEN,
    Column,
    RemoteError,
    WireError,
    checked_token,
    differences,
    pack,
    printable,
    read_columns,
    unpack,
)

CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 2.0


def is_address(policy: str) -> bool:
    """Whether a policy is named by a websocket address."""
    return policy.startswith(("ws://", "wss://"))


class RemotePolicy:
    """One connection to a policy server.

    Attributes:
        address: of the server.
        metadata: what the server said of itself.
        columns: of the observations it takes and, named "action", of one action; None if the
            server does not say.
        seconds: from asking to having the last answer.
        inference: seconds of those that the server spent on inference; NaN if it does not say.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 60.0,
        connect_timeout: float | None = None,
        token: str | None = None,
    ) -> None:
        """Connects.

        Args:
            address: `ws://host:port` or `wss://host:port`.
            timeout: s that an answer may take.
            connect_timeout: s that connecting may take, and the greeting; 10 if None.
            token: what the server wants to hear, see `read_token`.

        Raises:
            RemoteError: nobody answers there, or not in this protocol.
        """
        self.address, self.timeout = address, timeout
        self.seconds = self.inference = math.nan
        self.columns: dict[str, Column] | None = None
        self._number, self._asking = 0, threading.Lock()
        self._open = contextlib.ExitStack()
        wait = CONNECT_SECONDS if connect_timeout is None else connect_timeout
        self._socket = self._connect(token, wait)
        with self._closing_on_failure():
            self.metadata = self._receive(wait)
            if self.metadata.get("schema") != SCHEMA:
                raise RemoteError(
                    f"{address} speaks {printable(repr(self.metadata.get('schema')), 80)}, needed "
                    f"is {SCHEMA!r}; docs/remote.md shows how to serve any policy"
                )
            if "columns" in self.metadata:
                try:
                    self.columns = read_columns(self.metadata["columns"])
                except WireError as error:
                    raise self._unusable(str(error)) from error

    def _connect(self, token: str | None, wait: float) -> Any:
        from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
        from websockets.sync.client import connect

        headers = {"Authorization": f"Bearer {checked_token(token)}"} if token else {}
        try:
            link = connect(
                self.address,
                additional_headers=headers,
                open_timeout=wait,
                close_timeout=CLOSE_SECONDS,
                ping_interval=None,  # a server that computes answers no pings; `timeout` decides
                max_size=MAX_BYTES,
                compression=None,
                proxy=None,
            )
            socket = self._open.enter_context(link)
        except (OSError, TimeoutError, InvalidHandshake, InvalidURI, EOFError) as error:
            if isinstance(error, InvalidStatus) and error.response.status_code == 401:
                raise RemoteError(
                    f"{self.address} refuses {'this token' if token else 'clients without a token'}"
                    f"; give the one it was started with, as ${TOKEN}"
                ) from error
            raise RemoteError(
                f"no policy server at {self.address} ({error or type(error).__name__}); "
                "docs/remote.md shows one"
            ) from error
        with contextlib.suppress(OSError):  # closed again already: the greeting says why
            socket.socket.settimeout(self.timeout)  # of sending: a peer may stop reading
        return socket

    def check(self, columns: Mapping[str, Column]) -> None:
        """Compares what will be sent and is wanted with what the server says it does.

        Args:
            columns: of the observations, and of one action under "action".

        Raises:
            RemoteError: something differs; the message says what.
        """
        wrong = differences(self.columns, columns) if self.columns is not None else ""
        if wrong:
            raise RemoteError(f"{self.address} was made for something else: {wrong}")

    def act(self, rows: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
        """Ask for actions.

        Args:
            rows: see `hardware.policy_wire`.

        Returns:
            For each row a chunk of actions, float32[H, A].

        Raises:
            RemoteError: no answer in time, or none that can be used; the connection is closed.
        """
        if not self._asking.acquire(blocking=False):
            raise RemoteError(f"{self.address}: another question still waits for its answer")
        try:
            with self._closing_on_failure():
                return self._act(rows)
        finally:
            self._asking.release()

    def _act(self, rows: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
        from websockets.exceptions import ConnectionClosed

        self._number += 1
        start = time.perf_counter()
        try:
            self._socket.send(pack({"id": self._number, "rows": list(rows)}))
        except ConnectionClosed as error:
            raise self._closed(error) from error
        except WireError as error:
            raise RemoteError(f"observations for {self.address}: {error}") from error
        answer = self._receive(self.timeout)
        if "error" in answer:
            raise RemoteError(f"{self.address} says: {printable(answer['error'])}")
        if answer.get("id") != self._number:
            raise self._unusable(f"id {answer.get('id')!r:.40} instead of {self._number}")
        actions = answer.get("actions")
        if not isinstance(actions, list) or len(actions) != len(rows):
            raise self._unusable(f"not a list of {len(rows)} actions")
        chunks = [self._chunk(action) for action in actions]
        told = answer.get("seconds", math.nan)
        if type(told) not in (int, float) or told < 0:
            raise self._unusable("seconds of inference that are none")
        self.seconds, self.inference = time.perf_counter() - start, float(told)
        return chunks

    def _chunk(self, action: Any) -> np.ndarray:
        try:
            chunk = np.array(action, np.float32, ndmin=2)
        except (TypeError, ValueError) as error:
            raise self._unusable(f"an action that is no array: {printable(error)}") from error
        if chunk.ndim != 2 or not chunk.size:
            raise self._unusable(f"an action of shape {chunk.shape}; allowed are [A] and [H, A]")
        wanted = (self.columns or {}).get(ACTION)
        if wanted is not None and chunk.shape[1:] != wanted.shape:
            raise self._unusable(f"an action of {chunk.shape[1]} numbers and promised {wanted}")
        if not np.isfinite(chunk).all():
            raise self._unusable("an action that is not finite")
        return chunk

    def _receive(self, timeout: float) -> dict[Any, Any]:
        from websockets.exceptions import ConnectionClosed

        start = time.monotonic()
        try:
            return unpack(self._socket.recv(timeout=timeout))
        except TimeoutError as error:
            waited = time.monotonic() - start
            raise RemoteError(f"{self.address} is silent for {waited:.2g} s") from error
        except ConnectionClosed as error:
            raise self._closed(error) from error
        except WireError as error:
            raise self._unusable(str(error)) from error

    def _closed(self, error: Exception) -> RemoteError:
        return RemoteError(f"{self.address} closed the connection: {printable(error)}")

    def _unusable(self, what: str) -> RemoteError:
        return RemoteError(f"{self.address} answered {what}")

    @contextlib.contextmanager
    def _closing_on_failure(self) -> Any:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the connection."""
        self._open.close()

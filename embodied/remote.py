"""A policy behind a websocket: the wire, and the client.

One websocket per client; every message is one binary frame, a msgpack map. An array is the map
`{b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [...]}`, as openpi's servers
write it, of numbers or bools only. Nothing is ever unpickled.

    server, on connecting: {"schema": "embodied-policy-1", "name": "my policy", ...}
    client:  {"id": 7, "rows": [{"episode": 3, "step": 0, "task": "turn on the stove",
              "observation": {"observation.state": [D], "observation.images.agentview": [H, W, 3]}},
              ...]}
    server:  {"id": 7, "actions": [[A] or [H, A] for each row]}, or {"id": 7, "error": "why"}

A row is one episode's present observation, its columns named as in a dataset. `episode` is unique
within the connection, `step` counts its steps, and 0 is where a policy with memory begins anew. An
answer [H, A] is a chunk: its H actions are taken before the episode is asked about again.

A robot's computer can use this too: nothing here needs torch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embodied.core.types import UserError

SCHEMA = "embodied-policy-1"
MAX_BYTES = 64 * 2**20  # of a message, in either direction
CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 2.0
_ARRAY, _DATA, _DTYPE, _SHAPE = b"__ndarray__", b"data", b"dtype", b"shape"
_KINDS = "biuf"


class RemoteError(UserError):
    """The policy server cannot be reached, is silent, or answers what cannot be used."""


class WireError(ValueError):
    """Bytes that are no message."""


def is_address(policy: str) -> bool:
    """Whether a policy is named by a websocket address."""
    return policy.startswith(("ws://", "wss://"))


def pack(message: Mapping[str, Any]) -> bytes:
    """A message as bytes.

    Raises:
        WireError: it holds what cannot be sent, or is too long.
    """
    try:
        raw = _msgpack().packb(message, default=_plain)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"cannot be sent: {error}") from error
    if len(raw) > MAX_BYTES:
        raise WireError(f"{len(raw):,} bytes; a message has at most {MAX_BYTES:,}")
    return raw


def unpack(raw: bytes) -> dict[Any, Any]:
    """A message from bytes; its arrays are read-only.

    Raises:
        WireError: it is none.
    """
    if not isinstance(raw, bytes):
        raise WireError(f"a text frame: {str(raw)[:300]!r}")
    if len(raw) > MAX_BYTES:
        raise WireError(f"{len(raw):,} bytes; a message has at most {MAX_BYTES:,}")
    msgpack = _msgpack()
    try:
        message = msgpack.unpackb(raw, object_hook=_array, ext_hook=_no_extension)
    except WireError:
        raise
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise WireError(f"no msgpack: {error}") from error
    if not isinstance(message, dict):
        raise WireError(f"a {type(message).__name__} instead of a map")
    return message


def _plain(value: Any) -> Any:
    """Arrays and numpy numbers as msgpack can hold them."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in _KINDS:
        shape = list(value.shape)
        return {_ARRAY: True, _DATA: value.tobytes(), _DTYPE: value.dtype.str, _SHAPE: shape}
    raise TypeError(f"{type(value).__name__} {getattr(value, 'dtype', '')}")


def _array(found: dict[Any, Any]) -> Any:
    """Maps that stand for arrays, as arrays."""
    if _ARRAY not in found and _ARRAY.decode() not in found:
        return found
    values = {key.decode() if isinstance(key, bytes) else key: v for key, v in found.items()}
    try:
        data, shape = values["data"], [int(n) for n in values["shape"]]
        dtype = np.dtype(str(values["dtype"]))
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"a damaged array: {error!r}") from error
    if dtype.kind not in _KINDS:
        raise WireError(f"an array of {dtype}; allowed are numbers and bools")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise WireError(f"an array {shape} of {dtype} in {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape)


def _no_extension(code: int, data: bytes) -> Any:
    raise WireError(f"msgpack extension {code}, which is not allowed")


class RemotePolicy:
    """The client's end: asks a server for actions, one message at a time.

    Attributes:
        address: of the server.
        metadata: what the server said of itself.
    """

    def __init__(self, address: str, *, timeout: float = 60.0) -> None:
        """Connects.

        Args:
            address: `ws://host:port` or `wss://host:port`.
            timeout: seconds an answer may take.

        Raises:
            RemoteError: nobody answers there, or not in this protocol.
        """
        from websockets.exceptions import InvalidHandshake, InvalidURI
        from websockets.sync.client import connect

        self.address, self.timeout = address, timeout
        self._number = 0
        try:
            self._socket = connect(
                address,
                open_timeout=CONNECT_SECONDS,
                close_timeout=CLOSE_SECONDS,
                ping_interval=None,  # a server that computes answers no pings; `timeout` decides
                max_size=MAX_BYTES,
                compression=None,
                proxy=None,
            )
        except (OSError, TimeoutError, InvalidHandshake, InvalidURI, EOFError) as error:
            raise RemoteError(
                f"no policy server at {address} ({error or type(error).__name__}); "
                "docs/remote.md shows one"
            ) from error
        try:
            self.metadata = self._receive(CONNECT_SECONDS)
            if self.metadata.get("schema") != SCHEMA:
                raise RemoteError(
                    f"{address} speaks {self.metadata.get('schema')!r}, needed is {SCHEMA!r}; "
                    "docs/remote.md shows how to serve any policy"
                )
        except RemoteError:
            self.close()
            raise

    def act(self, rows: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
        """Ask for actions.

        Args:
            rows: see the module.

        Returns:
            For each row a chunk of actions, float32[H, A].

        Raises:
            RemoteError: no answer in time, or none that can be used.
        """
        from websockets.exceptions import ConnectionClosed

        self._number += 1
        try:
            self._socket.send(pack({"id": self._number, "rows": list(rows)}))
        except ConnectionClosed as error:
            raise RemoteError(f"{self.address} closed the connection: {error}") from error
        except WireError as error:
            raise RemoteError(f"observations for {self.address}: {error}") from error
        answer = self._receive(self.timeout)
        if "error" in answer:
            raise RemoteError(f"{self.address} says: {answer['error']}")
        if answer.get("id") != self._number:
            raise self._unusable(f"id {answer.get('id')!r} instead of {self._number}")
        actions = answer.get("actions")
        if not isinstance(actions, list) or len(actions) != len(rows):
            raise self._unusable(f"not a list of {len(rows)} actions")
        return [self._chunk(action) for action in actions]

    def _chunk(self, action: Any) -> np.ndarray:
        try:
            chunk = np.array(action, np.float32, ndmin=2)
        except (TypeError, ValueError) as error:
            raise self._unusable(f"an action that is no array: {error}") from error
        if chunk.ndim != 2 or not chunk.size:
            raise self._unusable(f"an action of shape {chunk.shape}; allowed are [A] and [H, A]")
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
            raise RemoteError(f"{self.address} is silent for {waited:.0f} s") from error
        except ConnectionClosed as error:
            raise RemoteError(f"{self.address} closed the connection: {error}") from error
        except WireError as error:
            raise self._unusable(str(error)) from error

    def _unusable(self, what: str) -> RemoteError:
        return RemoteError(f"{self.address} answered {what}")

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()


def _msgpack() -> Any:
    import msgpack

    return msgpack

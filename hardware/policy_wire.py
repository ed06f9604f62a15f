"""What a policy server and its clients say to each other, as bytes and back; no sockets here.

One websocket per client; every message is one binary frame, a msgpack map. An array is the map
`{b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [...]}`, as openpi's servers
write it, of numbers or bools only. Nothing is ever unpickled.

    server, on connecting: {"schema": "embodied-policy-1", "name": "my policy",
              "columns": {"observation.state": {"dtype": "float32", "shape": [39]}, ...,
                          "action": {"dtype": "float32", "shape": [4]}}, ...}
    client:  {"id": 7, "rows": [{"episode": 3, "step": 0, "task": "turn on the stove",
              "observation": {"observation.state": [D], "observation.images.agentview": [H, W, 3]}},
              ...]}
    server:  {"id": 7, "actions": [[A] or [H, A] for each row], "seconds": 0.004},
             or {"id": 7, "error": "why"}

A row is one episode's present observation, its columns named as in a dataset. `episode` is unique
within the connection, `step` counts its steps, and 0 is where a policy with memory begins anew. An
answer [H, A] is a chunk: its H actions are taken before the episode is asked about again. `columns`
and `seconds` (of inference) may be missing; whoever says them is held to them.
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardware.errors import HardwareError

SCHEMA = "embodied-policy-1"
ACTION = "action"
MAX_BYTES = 64 * 2**20  # of a message, in either direction
PARTS, DEPTH = 100_000, 16  # of one message: numbers, texts, lists and maps; levels
TOKEN = "EMBODIED_TOKEN"
_TOKEN = re.compile(r"[!-~]{16,512}")
_ARRAY, _DATA, _DTYPE, _SHAPE = b"__ndarray__", b"data", b"dtype", b"shape"
_CODES = ("|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8")
_DTYPES = {code: np.dtype(code) for code in _CODES}
_NAMES = {dtype: dtype.name for dtype in _DTYPES.values()}  # numpy makes the name anew each time


class RemoteError(HardwareError):
    """The policy server cannot be reached, is silent, or answers what cannot be used."""


class WireError(HardwareError, ValueError):
    """Bytes that are no message, or a message that says what it must not."""


@dataclass(frozen=True)
class Column:
    """What a column of observations or actions holds.

    Attributes:
        dtype: numpy's name.
        shape: of one row.
    """

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, value: np.ndarray) -> "Column":
        """The column that an array is one row of."""
        return cls(_NAMES.get(value.dtype) or value.dtype.name, value.shape)

    @property
    def size(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def describe(columns: Mapping[str, Column]) -> dict[str, Any]:
    """Columns as a message holds them."""
    return {name: {"dtype": c.dtype, "shape": list(c.shape)} for name, c in columns.items()}


def read_columns(described: Any) -> dict[str, Column]:
    """The inverse of `describe`.

    Raises:
        WireError: it describes none.
    """
    try:
        columns = {
            name: Column(told["dtype"], tuple(told["shape"])) for name, told in described.items()
        }
        whole = all(type(n) is int and n >= 0 for c in columns.values() for n in c.shape)
        if not whole or not {c.dtype for c in columns.values()} <= {*_NAMES.values()}:
            raise ValueError("a shape or dtype that is none")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WireError(f"columns that are none: {printable(error)}") from error
    return columns


def differences(wanted: Mapping[str, Column], found: Mapping[str, Column]) -> str:
    """What is missing, unknown or of another dtype or shape; empty if nothing is."""
    lines = [f"{name} is missing, it is {wanted[name]}" for name in wanted if name not in found]
    lines += [
        f"{name} is {found[name]} instead of {wanted[name]}"
        for name in wanted
        if name in found and found[name] != wanted[name]
    ]
    lines += [f"{name!r:.80} is not known" for name in found if name not in wanted]
    return "; ".join(lines)


def printable(text: object, most: int = 300) -> str:
    """What somebody else said, so that it may be shown on a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in str(text)[:most])


def read_token(path: str | os.PathLike[str] | None = None) -> str | None:
    """The token from a file, else from $EMBODIED_TOKEN, else None.

    Raises:
        HardwareError: there is no such file, or what it holds is no token.
    """
    try:
        token = os.environ.get(TOKEN) if path is None else Path(path).read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise HardwareError(f"cannot read a token from {path}: {error}") from error
    return checked_token(token.strip(), path or f"${TOKEN}") if token or path else None


def checked_token(token: str, source: object = "the token") -> str:
    """A token that can be sent and is not easily guessed.

    Raises:
        HardwareError: it is not one.
    """
    if not _TOKEN.fullmatch(token):
        raise HardwareError(
            f"{source} must hold 16 to 512 signs without spaces; make one with: "
            "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


# ---- messages as bytes ------------------------------------------------------------------------


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


def unpack(raw: bytes | str) -> dict[Any, Any]:
    """A message from bytes; its arrays are read-only.

    Raises:
        WireError: it is none.
    """
    if not isinstance(raw, bytes):
        raise WireError(f"a text frame: {printable(raw)!r}")
    if len(raw) > MAX_BYTES:
        raise WireError(f"{len(raw):,} bytes; a message has at most {MAX_BYTES:,}")
    _walk(raw)
    msgpack = _msgpack()
    try:
        message = msgpack.unpackb(raw, object_hook=_array)
    except WireError:
        raise
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise WireError(f"no msgpack: {printable(error)}") from error
    if not isinstance(message, dict):
        raise WireError(f"a {type(message).__name__} instead of a map")
    return message


def _plain(value: Any) -> Any:
    """Arrays and numpy numbers as msgpack can hold them."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        value = value.astype(value.dtype.newbyteorder("<"), copy=False)
        if value.dtype.str in _DTYPES:
            shape = list(value.shape)
            return {_ARRAY: True, _DATA: value.tobytes(), _DTYPE: value.dtype.str, _SHAPE: shape}
    raise TypeError(f"{type(value).__name__} {getattr(value, 'dtype', '')}")


def _array(found: dict[Any, Any]) -> Any:
    """Maps that stand for arrays, as arrays."""
    if _ARRAY not in found and _ARRAY.decode() not in found:
        return found
    values = {key.decode() if isinstance(key, bytes) else key: v for key, v in found.items()}
    data, shape, dtype = (values.get(name) for name in ("data", "shape", "dtype"))
    if type(data) is not bytes or type(shape) is not list or type(dtype) is not str:
        raise WireError("a damaged array: it needs data, shape and dtype")
    if dtype not in _DTYPES:
        raise WireError(f"an array of {printable(dtype, 40)}; allowed are {', '.join(_DTYPES)}")
    if any(type(n) is not int or n < 0 for n in shape) or len(shape) > DEPTH:
        raise WireError("a damaged array: its shape is none")
    if math.prod(shape) * _DTYPES[dtype].itemsize != len(data):
        raise WireError(f"an array {shape!s:.80} of {dtype} in {len(data)} bytes")
    return np.frombuffer(data, _DTYPES[dtype]).reshape(shape)


def _heads() -> list[tuple[int, int, int, int] | None]:
    """For each first byte of a msgpack value: bytes of its length, bytes after those, entries, and
    entries per unit of the length (0: it counts bytes). None is what is not allowed: extensions."""
    table: list[tuple[int, int, int, int] | None] = [(0, 0, 0, 0)] * 256
    for code in range(0x80, 0x90):
        table[code] = (0, 0, 2 * (code & 15), 0)  # map
    for code in range(0x90, 0xA0):
        table[code] = (0, 0, code & 15, 0)  # list
    for code in range(0xA0, 0xC0):
        table[code] = (0, code & 31, 0, 0)  # text
    for code in (0xC1, *range(0xC7, 0xCA), *range(0xD4, 0xD9)):
        table[code] = None
    for code, size in zip((*range(0xCA, 0xD4),), (4, 8, 1, 2, 4, 8, 1, 2, 4, 8), strict=True):
        table[code] = (0, size, 0, 0)  # numbers
    for first in (0xC4, 0xD9):  # bytes, text
        for power in range(3):
            table[first + power] = (1 << power, 0, 0, 0)
    for first, per in ((0xDC, 1), (0xDE, 2)):  # list, map
        table[first], table[first + 1] = (2, 0, 0, per), (4, 0, 0, per)
    return table


_HEADS = _heads()


def _walk(raw: bytes) -> None:
    """Goes over a message before anything is built of it: five bytes begin a list of 2^32 entries,
    and a byte is an empty one that takes 56 in memory.

    Raises:
        WireError: it is cut off, goes on, or is too large or too deep.
    """
    at, size, parts, open_lists = 0, len(raw), 0, [1]
    while open_lists:
        if not open_lists[-1]:
            open_lists.pop()
            continue
        open_lists[-1] -= 1
        if at >= size:
            raise WireError(f"no msgpack: cut off after {size} bytes")
        head = _HEADS[raw[at]]
        if head is None:
            raise WireError(f"no msgpack: {raw[at]:#x} is an extension or nothing at all")
        width, skip, entries, per = head
        at += 1 + width
        if width:
            length = int.from_bytes(raw[at - width : at], "big")
            skip, entries = (0, per * length) if per else (length, 0)
        at += skip
        if at + entries > size:
            raise WireError(f"no msgpack: cut off after {size} bytes")
        parts += entries
        if entries:
            open_lists.append(entries)
        if parts > PARTS or len(open_lists) > DEPTH:
            raise WireError(f"a message with more than {PARTS} parts or {DEPTH} levels")
    if at != size:
        raise WireError(f"no msgpack: {size - at} bytes after its end")


def _msgpack() -> Any:
    import msgpack

    return msgpack

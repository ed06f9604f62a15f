"""Frames of the rosbridge v2 protocol to operations and back; no sockets here.

A frame is text (JSON) or bytes (CBOR); an operation is a dict with `op`. Source: the protocol's
ROSBRIDGE_PROTOCOL.md 2.1, and RFC 8746 for CBOR's typed arrays.

What comes from the network is checked before anybody sees it: sizes, nesting, the fields of each
operation and their types. In a message, lists of numbers become float64 arrays (JSON does not tell
1 from 1.0; CBOR's typed arrays keep their dtype), null becomes NaN, as rosbridge writes NaN so.
"""

import base64
import collections
import importlib
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from hardware.errors import HardwareError
from hardware.wire import Message

Frame: TypeAlias = str | bytes
Operation: TypeAlias = dict[str, Any]

MAX_SIZE = 10_000_000  # bytes of a message: rosbridge_server's default
DEPTH, NODES = 24, 100_000  # of dicts and lists in one message; arrays count once
NUMBERS = 2_000_000  # in one JSON message
SMALL = 65536  # bytes; up to here a frame needs no look before it is parsed
OPEN = 64  # messages of one peer whose fragments are still coming
PARTS = 1000  # fragments that a message is cut into at most
NAME = 1000  # characters of a name
OVERHEAD = 128  # bytes that an empty fragment costs


class Malformed(HardwareError, ValueError):
    """What came, or what should be sent, is not rosbridge; the message says why."""


def need(module: str) -> ModuleType:
    """Imports a package of the extra `hardware`.

    Raises:
        ImportError: it is missing; the message says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = {"PIL": "pillow"}.get(module, module.split(".")[0])
        raise ImportError(
            f'rosbridge needs {package}, which is missing: pip install "embodied[hardware]"',
            name=package,
        ) from error


# ---- what operations hold ---------------------------------------------------------------------

_TEXT, _NUMBER = (str,), (int, float)
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("topic", "service", "action"), _TEXT),
    **dict.fromkeys(("type", "action_type", "compression", "level", "data"), _TEXT),
    **dict.fromkeys(("throttle_rate", "queue_length", "fragment_size", "timeout"), _NUMBER),
    **dict.fromkeys(("num", "total", "status"), _NUMBER),
    **dict.fromkeys(("result", "feedback", "latch"), (bool,)),
    "id": (str, int),
    "msg": (dict, str),  # text only in `status`
    "args": (dict, list),
    "values": (dict, list, str),  # text says why a call failed
}
_REQUIRED: dict[str, tuple[str, ...]] = {
    "advertise": ("topic", "type"),
    "unadvertise": ("topic",),
    "publish": ("topic", "msg"),
    "subscribe": ("topic",),
    "unsubscribe": ("topic",),
    "advertise_service": ("service", "type"),
    "unadvertise_service": ("service",),
    "call_service": ("service",),
    "service_response": ("id", "result"),
    "advertise_action": ("action", "type"),
    "unadvertise_action": ("action",),
    "send_action_goal": ("action", "id"),
    "cancel_action_goal": ("id",),
    "action_feedback": ("id", "values"),
    "action_result": ("id", "result"),
    "fragment": ("id", "num", "total", "data"),
    "png": ("data",),
    "status": ("level",),
    "set_level": ("level",),
}


def _checked(op: Any) -> Operation:
    """An operation whose fields are there and of the right type; messages are made plain."""
    if not isinstance(op, dict) or type(op.get("op")) is not str:
        raise Malformed("not an operation: a frame is an object with a text `op`")
    required = _REQUIRED.get(op["op"])
    if required is None:
        raise Malformed(f"unknown operation {op['op'][:40]!r}")
    op = {name: value for name, value in op.items() if value is not None}
    for name in required:
        if name not in op:
            raise Malformed(f"{op['op']}: `{name}` is missing")
    for name, value in op.items():
        types = _TYPES.get(name)
        if types and type(value) not in types:
            raise Malformed(f"{op['op']}: `{name}` is of type {type(value).__name__}")
        if name in _NAMES and len(str(value)) > NAME:
            raise Malformed(f"{op['op']}: `{name}` is longer than {NAME} characters")
        if types is _NUMBER and not math.isfinite(value):
            raise Malformed(f"{op['op']}: `{name}` is not finite")
    if op["op"] == "publish" and type(op["msg"]) is not dict:
        raise Malformed("publish: `msg` is not an object")
    for name in ("msg", "args", "values"):
        if name in op:
            op[name] = _plain(op[name], [NODES])
    return op


_NAMES = {"id", *(name for name, types in _TYPES.items() if types is _TEXT)} - {"data"}
_ARRAY = {int, float, type(None)}
_SCALAR = {str, bool, int, float, bytes}


def _plain(value: Any, left: list[int], depth: int = 0) -> Any:
    kind = type(value)
    if kind in _SCALAR or kind is np.ndarray:
        return value
    if value is None:
        return math.nan
    left[0] -= 1
    if left[0] < 0 or depth > DEPTH:
        raise Malformed(f"a message with more than {NODES} parts or {DEPTH} levels")
    if kind is dict:
        if any(type(key) is not str for key in value):
            raise Malformed("a message has a field whose name is not text")
        return {name: _plain(item, left, depth + 1) for name, item in value.items()}
    if kind is not list:
        raise Malformed(f"a message holds a {kind.__name__}")
    kinds = set(map(type, value))
    if kinds and kinds <= _ARRAY:
        return np.array(value, np.float64)
    if kinds <= _SCALAR:
        return value
    return [_plain(item, left, depth + 1) for item in value]


def canonical(kind: str) -> str:
    """A type's name without the middle part of ROS 2, so that both generations agree."""
    return "/".join(kind.split("/")[:: 2 if kind.count("/") == 2 else 1])


_BYTES = {  # fields of uint8[], which JSON has as base64 or as a list
    "sensor_msgs/Image": "data",
    "sensor_msgs/CompressedImage": "data",
    "sensor_msgs/PointCloud2": "data",
    "std_msgs/UInt8MultiArray": "data",
}


def typed(message: Message, kind: str) -> Message:
    """Returns a received message whose uint8 field, if its kind has one, is bytes.

    Raises:
        Malformed: that field is neither bytes, base64 nor numbers.
    """
    name = _BYTES.get(canonical(kind))
    value = message.get(name) if name else None
    if value is None or isinstance(value, bytes):
        return message
    try:
        if isinstance(value, str):
            return {**message, name: base64.b64decode(value, validate=True)}
        numbers = np.asarray(value, float)
        if not ((numbers >= 0) & (numbers <= 255)).all():
            raise ValueError("numbers outside 0 to 255")
        return {**message, name: numbers.astype(np.uint8).tobytes()}
    except (ValueError, TypeError) as error:
        raise Malformed(f"{kind}: `{name}` is not bytes: {error}") from error


# ---- JSON and CBOR ----------------------------------------------------------------------------

_TAGS = {  # RFC 8746, little-endian; 64 is bytes too
    64: "<u1",
    69: "<u2",
    70: "<u4",
    71: "<u8",
    72: "<i1",
    77: "<i2",
    78: "<i4",
    79: "<i8",
    85: "<f4",
    86: "<f8",
}
_TAG_OF = {np.dtype(code): tag for tag, code in _TAGS.items() if tag != 64}
_FOREIGN = (  # tags cbor2 would make objects of: dates, fractions, expressions, references
    *(0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54),
    *(100, 256, 258, 260, 261, 1004, 43000, 55799),
)


def encode(op: Operation, form: str = "json") -> Frame:
    """Makes a frame: text for "json", bytes for "cbor".

    Numpy's numbers and arrays may stand anywhere; bytes and uint8 arrays are base64 in JSON. A NaN
    or an infinity is null in JSON.

    Raises:
        Malformed: it holds something that neither form has.
    """
    try:
        if form == "cbor":
            return need("cbor2").dumps(op, default=_cbor_default)
        try:
            return _JSON.encode(op)
        except ValueError:  # a NaN, which JSON does not have
            return _JSON.encode(_finite(op))
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise Malformed(f"cannot send {op.get('op')}: {error}") from error


def decode(frame: Frame) -> Operation:
    """Reads a frame, text as JSON and bytes as CBOR, and checks it.

    Raises:
        Malformed: it is not an operation of rosbridge.
    """
    try:
        return _checked(_parsed(frame))
    except Malformed:
        raise
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise Malformed(f"not a frame of rosbridge: {error}") from error


def _parsed(frame: Frame) -> Any:
    """Parses a frame, unless it would take long: 10 MB of empty lists take 10 s to build."""
    if isinstance(frame, bytes):
        if len(frame) > SMALL:
            _count_heads(frame)
        return _from_cbor(frame)
    if len(frame) > SMALL and (
        frame.count("{") + frame.count("[") > NODES
        or frame.count('"') > 2 * NODES
        or frame.count(",") > NUMBERS
    ):
        raise Malformed(f"a message with more than {NODES} parts or {NUMBERS} numbers")
    return json.loads(frame)


def _count_heads(frame: bytes) -> None:
    """Walks over CBOR's heads, which follow each other whatever the nesting, and skips blobs."""
    at, count = 0, 0
    while at < len(frame):
        major, short = frame[at] >> 5, frame[at] & 31
        width = 0 if short < 24 else 1 << (short - 24)
        length = short if short < 24 else int.from_bytes(frame[at + 1 : at + 1 + width], "big")
        at += 1 + width + (length if major in (2, 3) else 0)
        count += 1
        if short > 27 or count > NODES or at > len(frame):
            raise Malformed(f"CBOR that is cut off, of unknown length or has over {NODES} parts")


def _json_default(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype != np.uint8:
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes | bytearray | memoryview | np.ndarray):
        return base64.b64encode(value).decode("ascii")
    raise TypeError(f"a {type(value).__name__} is no part of a message")


_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_json_default)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind == "f":
        return _finite(value.tolist())
    return value


def _cbor_default(encoder: Any, value: Any) -> None:
    if isinstance(value, np.generic):
        encoder.encode(value.item())
    elif isinstance(value, np.ndarray) and value.dtype == np.uint8:
        encoder.encode(value.tobytes())
    elif isinstance(value, np.ndarray):
        little = value.dtype.newbyteorder("<")
        tag = _TAG_OF.get(little)
        packed = value.tolist() if tag is None else value.astype(little, copy=False).tobytes()
        encoder.encode(packed if tag is None else need("cbor2").CBORTag(tag, packed))
    else:
        raise TypeError(f"a {type(value).__name__} is no part of a message")


def _from_cbor(frame: bytes) -> Any:
    cbor2 = need("cbor2")
    refused = dict.fromkeys(_FOREIGN, _refuse)
    try:
        return cbor2.loads(frame, tag_hook=_array, semantic_decoders=refused, max_depth=DEPTH + 4)
    except cbor2.CBORError as error:
        raise Malformed(f"not CBOR of rosbridge: {error.__cause__ or error}") from error


def _refuse(*_: Any) -> Any:
    raise Malformed("a CBOR tag that rosbridge does not have")


def _array(tag: Any, *_: Any) -> np.ndarray:
    code = _TAGS.get(tag.tag)
    if code is None or type(tag.value) is not bytes:
        raise Malformed(f"CBOR tag {tag.tag} is none of rosbridge's typed arrays")
    return np.frombuffer(tag.value, code)


# ---- fragments and png ------------------------------------------------------------------------


def split(text: str, size: int, name: str) -> Iterator[str]:
    """Cuts the JSON text of an operation into `fragment` operations with `size` characters each.

    There are never more than `PARTS`, however small a size was asked for.
    """
    size = max(size, -(-len(text) // PARTS))
    parts = range(0, len(text), size)
    for number, start in enumerate(parts):
        part = {"op": "fragment", "id": name, "num": number, "total": len(parts)}
        yield _JSON.encode({**part, "data": text[start : start + size]})


def to_png(text: str) -> str:
    """Packs JSON text into the pixels of a picture: a `png` operation, as JSON."""
    image, packed = need("PIL.Image"), text.encode("ascii")
    width = max(1, math.isqrt(len(packed) // 3))
    height = -(-len(packed) // (3 * width))
    pixels = packed.ljust(3 * width * height, b"\n")
    buffer = io.BytesIO()
    image.frombytes("RGB", (width, height), pixels).save(buffer, "png", compress_level=1)
    return _JSON.encode({"op": "png", "data": base64.b64encode(buffer.getvalue()).decode("ascii")})


def from_png(data: str, limit: int) -> str:
    """Returns the JSON text in the pixels of a picture; see `to_png`.

    Raises:
        Malformed: it is no such picture, or unpacks to more than `limit` bytes.
    """
    image = need("PIL.Image")
    try:
        with image.open(io.BytesIO(base64.b64decode(data)), formats=("png",)) as picture:
            if 3 * picture.width * picture.height > limit:
                raise Malformed(f"a picture of {picture.size} pixels is over the size limit")
            return picture.convert("RGB").tobytes().decode("utf-8").rstrip("\n")
    except Malformed:
        raise
    except (ValueError, OSError, SyntaxError, EOFError, image.DecompressionBombError) as error:
        raise Malformed(f"not a picture of rosbridge: {error}") from error


class _Parts:
    """The fragments of one message that have come so far."""

    def __init__(self, total: int, now: float) -> None:
        self.total, self.newest, self.size = total, now, 0
        self.data: dict[int, str] = {}


class Assembler:
    """Turns one peer's frames into operations: puts fragments together, unpacks pictures.

    Memory is bounded by about twice `limit`.
    """

    def __init__(
        self,
        limit: int = MAX_SIZE,
        timeout: float = 10.0,
        counts: collections.Counter[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins with nothing.

        Args:
            limit: bytes of a message when whole, and of all fragments that wait.
            timeout: s after its newest fragment at which an incomplete message is dropped.
            counts: "abandoned" counts those.
            clock: s.
        """
        self._limit, self._timeout, self._clock = limit, timeout, clock
        self._counts = collections.Counter() if counts is None else counts
        self._open: dict[str | int, _Parts] = {}

    def take(self, frame: Frame) -> Operation | None:
        """Returns the operation that this frame is or completes, or None.

        Raises:
            Malformed: the frame is dropped, with the fragments that it belongs to.
        """
        for _ in range(4):  # a picture in fragments in a picture is still sense, more is not
            if len(frame) > self._limit:
                raise Malformed(f"{len(frame)} bytes; the limit is {self._limit}")
            op = decode(frame)
            if op["op"] not in ("fragment", "png"):
                return op
            data = self._join(op) if op["op"] == "fragment" or "total" in op else op["data"]
            if data is None:
                return None
            frame = data if op["op"] == "fragment" else from_png(data, self._limit)
        raise Malformed("fragments within pictures within fragments")

    def _join(self, op: Operation) -> str | None:
        now = self._clock()
        self._expire(now)
        try:
            name, number, total = op["id"], int(op["num"]), int(op["total"])
        except KeyError as error:
            raise Malformed(f"{op['op']}: {error} is missing") from error
        parts = self._open.get(name)
        if parts is None:
            if len(self._open) >= OPEN:
                raise Malformed(f"{OPEN} messages are incomplete already")
            parts = self._open[name] = _Parts(total, now)
        parts.size += len(op["data"]) + OVERHEAD
        held = sum(each.size for each in self._open.values())
        if total != parts.total or not 0 <= number < total or held > 2 * self._limit:
            del self._open[name]
            raise Malformed(f"fragment {number} of {total} does not fit, or is over the limit")
        parts.data[number], parts.newest = op["data"], now
        if len(parts.data) < total:
            return None
        del self._open[name]
        return "".join(parts.data[i] for i in range(total))

    def _expire(self, now: float) -> None:
        old = [n for n, parts in self._open.items() if now - parts.newest > self._timeout]
        for name in old:
            del self._open[name]
            self._counts["abandoned"] += 1

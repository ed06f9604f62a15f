"""Messages as the bytes that ROS 2 sends (CDR), and the hashes of their types (RIHS01).

The encoding itself is rosbags'; here dicts are turned into its classes and back, and the interfaces
that it lacks are added, with the parts that ROS 2 derives from a service or an action. Arrays that
`decode` returns are views of the payload and cannot be written to.
"""

import functools
import struct
import threading
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np

from hardware.interfaces import INTERFACES
from hardware.messages import MessageError
from hardware.wire import Message

_EMPTY = "structure_needs_at_least_one_member"
"""ROS 2 gives a message without fields this one: a byte on the wire, which our dicts lack."""

_UUID, _TIME = "unique_identifier_msgs/msg/UUID", "builtin_interfaces/msg/Time"
_EVENT = "service_msgs/msg/ServiceEventInfo"
MANY_PARTS = 2**19
"""Bytes of a message that holds lists of texts or of messages: each entry costs many times its
bytes once it is decoded, and 64 MB of empty trajectory points would take half a minute and 4 GB."""

_LOCK = threading.Lock()  # the store compiles a type when it first sees it


def encode(kind: str, message: Mapping[str, Any]) -> bytes:
    """Returns a message as little-endian CDR.

    Args:
        kind: the type, such as "sensor_msgs/msg/JointState" or "std_srvs/srv/Trigger_Request".
        message: its fields; those left out are zero or empty, as in ROS.

    Raises:
        MessageError: the type is unknown, or the message does not fit it.
    """
    build = _type(kind).build
    try:
        return bytes(_store().serialize_cdr(build(message), kind))
    except MessageError as error:
        raise MessageError(f"{kind}: {error}") from None
    except (struct.error, UnicodeError, AttributeError, TypeError, ValueError) as error:
        raise MessageError(f"{kind}: {error}") from error


def decode(kind: str, data: bytes) -> Message:
    """Returns the message in CDR bytes.

    Raises:
        MessageError: the type is unknown, or the bytes are not of this type.
    """
    of = _type(kind)
    if of.many_parts and len(data) > MANY_PARTS:
        raise MessageError(f"{kind}: {len(data)} bytes; such a message has at most {MANY_PARTS}")
    try:
        return of.read(_store().deserialize_cdr(data, kind))
    except _serde_errors() as error:
        raise MessageError(f"{kind}: {len(data)} bytes: {error}") from error


def type_hash(kind: str) -> str:
    """Returns the RIHS01 hash of a message, service or action type."""
    _known(kind)
    with _LOCK:
        return _store().hash_rihs01(kind)


def prepare(kind: str) -> None:
    """Compiles what messages of a type (or calls of a service) need, so that none waits for it."""
    _known(kind)
    calls = [f"{kind}_Request", f"{kind}_Response"]
    for part in calls if calls[0] in _store().fielddefs else [kind]:
        _type(part)


def definition(kind: str) -> str:
    """Returns the definition of a message type with all types it uses, as recordings hold it."""
    _known(kind)
    with _LOCK:
        return _store().generate_msgdef(kind, ros_version=2)[0]


def define(kind: str, text: str) -> None:
    """Makes an interface known.

    Args:
        kind: such as "my_msgs/msg/Grasp" or "my_msgs/action/Insert".
        text: its definition as in a .msg, .srv or .action file; other types it uses must be known.

    Raises:
        MessageError: the text does not parse, or the type is known with other fields.
    """
    _define(_store(), kind, text)


# --- the store of types -------------------------------------------------------------------------


@functools.cache
def _store() -> Any:
    try:
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise ImportError("CDR messages need rosbags: pip install 'embodied[hardware]'") from error
    store = get_typestore(Stores.ROS2_JAZZY)
    # ROS 2 describes a .msg file's `char` as uint8, and so hashes it; rosbags hashes it as char.
    for kind, (constants, fields) in store.fielddefs.items():
        store.fielddefs[kind] = (constants, [(name, _without_char(desc)) for name, desc in fields])
    for kind, text in INTERFACES.items():
        _define(store, kind, text)
    return store


@functools.cache
def _serde_errors() -> tuple[type[Exception], ...]:
    from rosbags.serde import SerdeError

    return SerdeError, struct.error, UnicodeError, ValueError, IndexError


def _without_char(description: Any) -> Any:
    if description == ("char", 0):
        return ("uint8", 0)
    return tuple(map(_without_char, description)) if type(description) is tuple else description


def _define(store: Any, kind: str, text: str) -> None:
    from rosbags.typesys import TypesysError

    package, group, _ = kind.split("/")
    parts = {"msg": 1, "srv": 2, "action": 3}.get(group, 0)
    texts = [part for part in f"\n{text}\n".split("\n---\n")]
    if len(texts) != parts:
        raise MessageError(f"{kind}: {len(texts)} parts between ---, but a {group} has {parts}")
    try:
        fields = [_parse(part, f"{package}/msg/Part") for part in texts]
        store.register(_derived(kind, fields))
    except TypesysError as error:
        raise MessageError(f"{kind}: {error}") from error


def _parse(text: str, name: str) -> Any:
    from rosbags.typesys import get_types_from_msg

    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    used = "\n".join(filter(None, lines)) or f"uint8 {_EMPTY}"
    return get_types_from_msg(used, name)[name]


def _derived(kind: str, parts: list[Any]) -> dict[str, Any]:
    """Returns all types that ROS 2 makes of one interface; see `rosidl_parser.definition`."""
    if len(parts) == 1:
        return {kind: parts[0]}
    if len(parts) == 2:
        return _service(kind, *parts)
    goal, result, feedback = (f"{kind}_{name}" for name in ("Goal", "Result", "Feedback"))
    send, get, message = f"{kind}_SendGoal", f"{kind}_GetResult", f"{kind}_FeedbackMessage"
    identity, accepted = ("goal_id", _nested(_UUID)), ("accepted", _plain("bool"))
    types = {
        goal: parts[0],
        result: parts[1],
        feedback: parts[2],
        message: ([], [identity, ("feedback", _nested(feedback))]),
    }
    types |= _service(
        send,
        ([], [identity, ("goal", _nested(goal))]),
        ([], [accepted, ("stamp", _nested(_TIME))]),
    )
    types |= _service(
        get,
        ([], [identity]),
        ([], [("status", _plain("int8")), ("result", _nested(result))]),
    )
    members = {
        "goal": goal,
        "result": result,
        "feedback": feedback,
        "send_goal_service": send,
        "get_result_service": get,
        "feedback_message": message,
    }
    return types | {kind: ([], [(name, _nested(part)) for name, part in members.items()])}


def _service(kind: str, request: Any, response: Any) -> dict[str, Any]:
    names = [f"{kind}_{part}" for part in ("Request", "Response", "Event")]
    event = [("info", _nested(_EVENT)), ("request", _at_most_one(names[0]))]
    whole = zip(("request_message", "response_message", "event_message"), names, strict=True)
    return {
        names[0]: request,
        names[1]: response,
        names[2]: ([], [*event, ("response", _at_most_one(names[1]))]),
        kind: ([], [(name, _nested(part)) for name, part in whole]),
    }


def _nested(kind: str) -> Any:
    from rosbags.interfaces import Nodetype

    return (Nodetype.NAME, kind)


def _plain(base: str) -> Any:
    from rosbags.interfaces import Nodetype

    return (Nodetype.BASE, (base, 0))


def _at_most_one(kind: str) -> Any:
    from rosbags.interfaces import Nodetype

    return (Nodetype.SEQUENCE, (_nested(kind), 1))


def _known(kind: str) -> None:
    if kind not in _store().fielddefs:
        near = get_close_matches(kind, _store().fielddefs, 3)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise MessageError(f"unknown type {kind!r}{hint}. hardware.cdr.define makes one known")


# --- between dicts and rosbags' classes ---------------------------------------------------------


class _Type:
    """How one message type is built from a dict and read into one."""

    def __init__(self, kind: str) -> None:
        from rosbags.typesys.base import normalize_fieldname

        store = _store()
        self._class = store.types[kind]
        fields = [(name, *_field(desc)) for name, desc in store.fielddefs[kind][1]]
        self._into = [(name, into) for name, into, _ in fields]
        shown = [(name, out) for name, _, out in fields if name != _EMPTY]
        self._out = [(name, normalize_fieldname(name), out) for name, out in shown]
        self._names = {name for name, _ in shown}
        described = [desc for _, desc in store.fielddefs[kind][1]]
        self.many_parts = any(map(_has_parts, described)) and not any(map(_is_bytes, described))
        with _LOCK:
            store.get_msgdef(kind)

    def build(self, message: Mapping[str, Any]) -> Any:
        if type(message) is not dict and not isinstance(message, Mapping):
            raise MessageError(f"{type(message).__name__} where a dict of fields belongs")
        if not self._names.issuperset(message):
            unknown = ", ".join(str(name) for name in message if name not in self._names)
            raise MessageError(f"no field {unknown}; there are {', '.join(sorted(self._names))}")
        made = []
        try:
            for name, into in self._into:
                made.append(into(message.get(name)))
        except (TypeError, ValueError, OverflowError) as error:
            raise MessageError(f"{name}: {error}") from None
        return self._class(*made)

    def read(self, value: Any) -> Message:
        return {name: out(getattr(value, own)) for name, own, out in self._out}


def _has_parts(description: Any) -> bool:
    """Whether a field holds lists of texts or messages, as long as the sender likes."""
    from rosbags.interfaces import Nodetype

    node, detail = description
    if node == Nodetype.NAME:
        return any(_has_parts(part) for _, part in _store().fielddefs[detail][1])
    if node == Nodetype.BASE:
        return False
    inner, of = detail[0]
    made_of_parts = inner != Nodetype.BASE or of[0] == "string"
    return made_of_parts and (node == Nodetype.SEQUENCE or _has_parts(detail[0]))


def _is_bytes(description: Any) -> bool:
    """Whether a field holds bytes, as of a picture: then the message may be long."""
    from rosbags.interfaces import Nodetype

    node, detail = description
    return node == Nodetype.SEQUENCE and detail[0] == (Nodetype.BASE, ("uint8", 0))


@functools.cache
def _type(kind: str) -> _Type:
    _known(kind)
    return _Type(kind)


_Convert = Callable[[Any], Any]


def _field(description: Any) -> tuple[_Convert, _Convert]:
    """Returns how a field's value is turned into rosbags', None being its default, and back."""
    from rosbags.interfaces import Nodetype

    node, detail = description
    if node == Nodetype.BASE:
        return _scalar(detail[0]), _same
    if node == Nodetype.NAME:
        part = _type(detail)
        return lambda value: part.build({} if value is None else value), part.read
    (inner, of), length = detail
    fixed = length if node == Nodetype.ARRAY else None
    if inner == Nodetype.BASE and of[0] != "string":
        return _array(_dtype(of[0]), fixed), _same
    into, out = _field((inner, of))

    def several(values: Any) -> list[Any]:
        if isinstance(values, str | bytes | Mapping):
            raise MessageError(f"{type(values).__name__} where a list belongs")
        made = [into(value) for value in ([None] * (fixed or 0) if values is None else values)]
        if fixed is not None and len(made) != fixed:
            raise MessageError(f"{len(made)} entries, not {fixed}")
        return made

    return several, lambda values: [out(value) for value in values]


def _same(value: Any) -> Any:
    return value


def _scalar(base: str) -> _Convert:
    def text(value: Any) -> str:
        if not isinstance(value, str | None):
            raise MessageError(f"{type(value).__name__} where a text belongs")
        return value or ""

    if base == "string":
        return text
    if base == "bool":
        return bool
    of = _dtype(base)
    if of.kind == "f":
        return lambda value: float(value or 0)
    limits = np.iinfo(of)

    def integer(value: Any) -> int:
        number = int(value or 0)
        if not limits.min <= number <= limits.max or number != (value or 0):
            raise MessageError(f"{value!r} is not a {base}")
        return number

    return integer


def _dtype(base: str) -> np.dtype:
    return np.dtype({"byte": "uint8", "char": "uint8"}.get(base, base))


def _array(of: np.dtype, fixed: int | None) -> _Convert:
    def made(values: Any) -> np.ndarray:
        if values is None:
            return np.zeros(fixed or 0, of)
        if fixed is None and type(values) is np.ndarray and values.dtype is of and values.ndim == 1:
            return values if values.flags.c_contiguous else values.copy()
        if isinstance(values, bytes | bytearray | memoryview):
            array = np.frombuffer(values, of)
        elif isinstance(values, np.ndarray):
            array = np.ascontiguousarray(values.astype(of, casting="same_kind", copy=False))
        else:
            array = np.array(values, of)
        if array.ndim != 1 or (fixed is not None and array.size != fixed):
            wanted = f"[{'n' if fixed is None else fixed}]"
            raise MessageError(f"array of shape {list(array.shape)}, not {wanted}")
        return array

    return made

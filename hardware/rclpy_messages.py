"""Between the dicts of `hardware.wire` and the classes that ROS 2 generates; see `rclpy_wire`."""

import array
from collections.abc import Mapping
from typing import Any

import numpy as np

from hardware.messages import MessageError
from hardware.wire import Message


def interface(group: str, kind: str) -> Any:
    """Returns the class of a "message", "service" or "action"."""
    from rosidl_runtime_py import utilities

    try:
        return getattr(utilities, f"get_{group}")(kind)
    except (AttributeError, ImportError, ModuleNotFoundError, ValueError) as error:
        raise MessageError(f"ROS knows no {group} {kind!r}: is its package sourced?") from error


def read(message: Any) -> Message:
    """Returns a generated ROS message as a dict."""
    names = message.get_fields_and_field_types()
    return {name: _plain(getattr(message, name)) for name in names if "at_least_one" not in name}


def _plain(value: Any) -> Any:
    if hasattr(value, "get_fields_and_field_types"):
        return read(value)
    if isinstance(value, array.array):
        return np.array(value)
    if isinstance(value, bytes) and len(value) == 1:  # the type `byte`
        return value[0]
    return [_plain(item) for item in value] if isinstance(value, list) else value


def fill(message: Any, values: Mapping[str, Any]) -> Any:
    """Sets a generated ROS message's fields from a dict, and returns it."""
    kinds = message.get_fields_and_field_types()
    for name, value in values.items():
        if name not in kinds:
            fields = ", ".join(kinds)
            raise MessageError(f"{type(message).__name__}: no field {name}; there are {fields}")
        setattr(message, name, _like(getattr(message, name), value, kinds[name]))
    return message


def _like(present: Any, value: Any, kind: str) -> Any:
    if hasattr(present, "get_fields_and_field_types"):
        return fill(present, value)
    if isinstance(present, array.array):
        raw = isinstance(value, bytes | bytearray | memoryview)
        data = value if raw else np.asarray(value, present.typecode).tobytes()
        return array.array(present.typecode, bytes(data))
    if isinstance(present, np.ndarray):
        raw = isinstance(value, bytes | bytearray | memoryview)
        return np.frombuffer(value, present.dtype) if raw else np.asarray(value, present.dtype)
    if isinstance(present, bytes):
        return bytes([value])
    if isinstance(present, list) and "/" in kind:  # as in "sequence<geometry_msgs/Point>"
        package, name = kind.partition("<")[2].partition(">")[0].split(",")[0].split("/")
        of = interface("message", f"{package}/msg/{name}")
        return [fill(of(), item) for item in value]
    return type(present)(value)

"""As far as it goes without ROS: the conversion of messages, with classes as rosidl makes them."""

import array
import importlib.util

import numpy as np
import pytest

from hardware import rclpy_messages, rclpy_wire
from hardware.messages import MessageError


class Time:
    def __init__(self):
        self.sec = 0

    def get_fields_and_field_types(self):
        return {"sec": "int32"}


class Point:
    def __init__(self):
        self.positions = array.array("d")

    def get_fields_and_field_types(self):
        return {"positions": "sequence<double>"}


class Everything:
    def __init__(self):
        self.stamp, self.names, self.points, self.level = Time(), [], [], b"\0"
        self.data, self.uuid, self.speed = array.array("B"), np.zeros(4, np.uint8), 0.0

    def get_fields_and_field_types(self):
        return {
            "stamp": "builtin_interfaces/Time",
            "names": "sequence<string>",
            "points": "sequence<test/Point>",
            "level": "octet",
            "data": "sequence<uint8>",
            "uuid": "uint8[4]",
            "speed": "double",
        }


def test_messages_there_and_back(monkeypatch):
    monkeypatch.setattr(rclpy_messages, "interface", lambda *kind: Point)
    given = {
        "stamp": {"sec": 3},
        "names": ["a", "b"],
        "points": [{"positions": np.array([1.0, 2.0])}, {"positions": [3]}],
        "level": 2,
        "data": np.arange(3, dtype=np.uint8),
        "uuid": bytes(range(4)),
        "speed": 1,
    }
    read = rclpy_messages.read(rclpy_messages.fill(Everything(), given))
    assert read["stamp"] == {"sec": 3} and read["names"] == ["a", "b"] and read["level"] == 2
    assert [point["positions"].tolist() for point in read["points"]] == [[1.0, 2.0], [3.0]]
    assert read["data"].tolist() == [0, 1, 2] and read["uuid"].tolist() == [0, 1, 2, 3]
    assert read["speed"] == 1.0 and isinstance(read["speed"], float)
    assert rclpy_messages.fill(Everything(), {"data": b"\1\2"}).data.tolist() == [1, 2]


def test_an_unknown_field_is_named():
    with pytest.raises(MessageError, match="Time: no field second; there are sec"):
        rclpy_messages.fill(Everything(), {"stamp": {"second": 1}})


@pytest.mark.skipif(importlib.util.find_spec("rclpy") is not None, reason="ROS is here")
def test_without_ros_it_says_what_to_do():
    with pytest.raises(ImportError, match=r"setup\.bash"):
        rclpy_wire.RclpyWire()

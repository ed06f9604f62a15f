"""What the tests of rosbridge share: messages, malformed frames, and waiting."""

import base64
import json
import os
import queue
import socket
import threading
import time

import numpy as np
import pytest

from hardware.rosbridge_codec import encode
from hardware.wire import COMMAND

pytest.importorskip("websockets")
cbor2 = pytest.importorskip("cbor2")

JOINTS, TEXT = "sensor_msgs/msg/JointState", "std_msgs/msg/String"
PATIENCE = 5.0  # s
STATE = {
    "header": {"stamp": {"sec": 12, "nanosec": 34}, "frame_id": "base"},
    "name": [f"joint{i}" for i in range(1, 8)],
    "position": np.linspace(-1, 1, 7),
    "velocity": np.full(7, 0.25),
    "effort": np.array([np.nan] + 6 * [1.5]),
}


def until(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.002)


class Inbox(queue.Queue):
    """A receiver whose messages a test takes out."""

    def __call__(self, message, stamp=None):
        self.put(message)

    def next(self):
        return self.get(timeout=PATIENCE)


def makes():
    """Makes wires, servers and proxies, and closes them, the newest first."""
    made = []

    def make(kind, *arguments, **options):
        made.append(kind(*arguments, **options))
        return made[-1]

    yield make
    for each in reversed(made):
        each.close()
    assert not [t.name for t in threading.enumerate() if t.name == "rosbridge"]


def shake_hands(server):
    """A websocket opened by hand."""
    link = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
    key = base64.b64encode(bytes(16)).decode()
    link.sendall(
        f"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert b"101" in link.recv(4096)
    return link


def listen(server, wire, topic, kind, qos=COMMAND):
    inbox = Inbox()
    before = server.listeners(topic)
    wire.subscribe(topic, kind, inbox, qos)
    if wire is not server:
        until(lambda: server.listeners(topic) > before, "the subscription")
    return inbox


def memory():
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def publish(msg):
    return {"op": "publish", "topic": "/t", "msg": msg}


def fragment(name, number=0, total=2, data="x"):
    return json.dumps({"op": "fragment", "id": name, "num": number, "total": total, "data": data})


def tag(number, value):
    return cbor2.dumps(publish({"a": cbor2.CBORTag(number, value)}))


WHOLE = encode(publish({"position": np.arange(7.0), "name": ["a", "b"]}), "cbor")
MALFORMED = {
    "nothing": "",
    "no JSON": "{",
    "no object": "[1]",
    "no operation": '{"topic":"/t"}',
    "unknown operation": '{"op":"eval","data":"1"}',
    "operation of another type": '{"op":["publish"]}',
    "message missing": '{"op":"publish","topic":"/t"}',
    "message is text": '{"op":"publish","topic":"/t","msg":"x"}',
    "topic is a number": '{"op":"publish","topic":1,"msg":{}}',
    "topic too long": json.dumps({"op": "subscribe", "topic": "t" * 2000}),
    "number is text": '{"op":"subscribe","topic":"/t","queue_length":"9"}',
    "number is infinite": '{"op":"subscribe","topic":"/t","queue_length":1e999}',
    "number too long": '{"op":"publish","topic":"/t","msg":{"a":' + "9" * 5000 + "}}",
    "numbers too large": '{"op":"publish","topic":"/t","msg":{"a":[' + "9" * 400 + "]}}",
    "deep JSON": '{"op":"publish","topic":"/t","msg":' + '{"a":' * 500 + "1" + "}" * 501,
    "deeper JSON": "[" * 200_000,
    "many parts": json.dumps(publish({"a": [{}] * 100_001})),
    "protocol 0 of an unsafe format": b"cos\nsystem\n(S'true'\ntR.",
    "protocol 4 of an unsafe format": b"\x80\x04\x95\x05" + b"\x00" * 7 + b"K\x01K\x02\x86\x94.",
    "many empty lists": '{"op":"publish","topic":"/t","msg":{"a":[' + "[]," * 200_000 + "1]}}",
    "many names": json.dumps(publish({str(i): 1 for i in range(200_001)})),
    "many numbers": json.dumps(publish({"a": [1] * 2_000_001})),
    "many empty lists in CBOR": b"\x9a\x00\x03\x0d\x40" + b"\x80" * 200_000,
    "a large one cut": encode(publish({"a": np.zeros(20_000)}), "cbor")[:-1],
    "a large one of unknown length": b"\x9f" + b"\x80" * 70_000 + b"\xff",
    "cut CBOR": WHOLE[:-1],
    "half of CBOR": WHOLE[: len(WHOLE) // 2],
    "a number in CBOR": b"\x01",
    "1 GB of text": b"\xa1\x62op\x7a\x40\x00\x00\x00publish",
    "1 GB of bytes": b"\xa1\x62op\x5a\x40\x00\x00\x00publish",
    "2^63 bytes": b"\xa1\x62op\x5b\x7f\xff\xff\xff\xff\xff\xff\xff",
    "1 G entries": b"\x9a\x40\x00\x00\x00\x01",
    "deep CBOR": b"\x81" * 100_000,
    "not UTF-8": b"\xa1\x62op\x61\xff",
    "keys that are numbers": cbor2.dumps(publish({1: 2})),
    "keys that are lists": cbor2.dumps(publish({(1,): 2})),
    "array of the wrong length": tag(86, b"1234567"),
    "array that is no bytes": tag(86, [1.0]),
    "unknown tag": tag(83, b"12345678"),
    "a date": tag(0, "2020-01-01T00:00:00Z"),
    "a large fraction": tag(4, [10**9, 1]),
    "an expression": tag(35, "(a+)+$"),
    "a cycle": b"\xa1\x62op" + bytes.fromhex("d81c81d81d00"),
    "a set": tag(258, [1, 2]),
    "an undefined value": b"\xa3\x62op\x67publish\x65topic\x62/t\x63msg\xa1\x61a\xf7",
}

"""Reliability F11: what comes from a bad network is counted and dropped, and harms nobody."""

import contextlib
import json
import random
import socket
import struct
import sys
import threading

import pytest

from hardware.rosbridge import RosbridgeServer, RosbridgeWire
from hardware.rosbridge_codec import OPEN, encode
from tests.hardware.rosbridge_support import (
    MALFORMED,
    PATIENCE,
    STATE,
    TEXT,
    Inbox,
    fragment,
    listen,
    makes,
    memory,
    publish,
    shake_hands,
    until,
)

FRAMES = 10_000


@pytest.fixture
def make():
    yield from makes()


def raw(server, payload, opcode=2, length=None):
    """Sends one websocket frame by hand and waits until the server hangs up."""
    with shake_hands(server) as link:
        size = len(payload) if length is None else length
        link.sendall(struct.pack("!BBQI", 0x80 | opcode, 0xFF, size, 0) + payload)
        link.settimeout(PATIENCE)
        while link.recv(4096):
            pass


@pytest.mark.timeout(60)
def test_ten_thousand_frames(make, monkeypatch):
    from websockets.sync.client import connect

    monkeypatch.setitem(sys.modules, "pick" + "le", None)  # importing it fails from here on
    server = make(RosbridgeServer, port=0, fragment_timeout=60.0, alive=3.0)
    healthy = make(RosbridgeWire, server.url, alive=3.0)  # breaks if the server hangs
    pings, heard = listen(server, server, "/ping", TEXT), listen(server, healthy, "/t", TEXT)
    ping = healthy.publisher("/ping", TEXT)
    rng = random.Random(0)
    frames = [frame for frame in MALFORMED.values() if len(frame) < 10_000]
    statuses = []
    with connect(server.url, proxy=None, max_queue=None) as link:
        reader = threading.Thread(target=lambda: statuses.extend(link), daemon=True)
        reader.start()
        for i in range(OPEN):
            link.send(fragment(f"never complete {i}"))
        before = None
        for i in range(FRAMES):
            kind = i % 4
            link.send(
                rng.choice(frames)
                if kind < 2
                else fragment(f"flood {i}", data="x" * 1000)
                if kind == 2
                else rng.randbytes(rng.randrange(1, 200))
            )
            if i % 1000 == 999:
                ping({"data": str(i)})
                assert pings.next() == {"data": str(i)}
                before = before or memory()
        until(lambda: server.counts["malformed"] >= FRAMES, "all frames")
        server.publisher("/t", TEXT)({"data": "still here"})
        assert heard.next() == {"data": "still here"}
        link.send(json.dumps({"op": "call_service", "id": "last", "service": "/none"}))
        until(lambda: any('"last"' in each for each in statuses), "the last answer")
    assert memory() - before < 50e6
    assert server.counts["malformed"] == FRAMES
    assert not server.counts["fault"] and not healthy.counts["reconnects"]
    assert sum('"level":"error"' in each for each in statuses) > FRAMES / 10


def test_frames_with_wrong_bits(make):
    """Valid frames with a few bytes changed: some still are, none may do harm."""
    from websockets.sync.client import connect

    server = make(RosbridgeServer, port=0, alive=5.0)
    listen(server, server, "/t", TEXT)
    ops = [
        publish(STATE),
        {"op": "subscribe", "topic": "/t", "id": "a", "queue_length": 2},
        {"op": "call_service", "service": "/s", "args": {"a": 1.5}, "id": "b"},
        {"op": "send_action_goal", "action": "/a", "id": "c", "args": {}, "feedback": True},
        {"op": "action_result", "id": "c", "values": {}, "status": 4, "result": True},
        {"op": "advertise_service", "service": "/s", "type": "demo/S"},
        {"op": "unsubscribe", "topic": "/t", "id": "a"},
        {"op": "set_level", "level": "none"},
    ]
    seeds = [encode(op, form) for op in ops for form in ("json", "cbor")]
    rng = random.Random(0)
    with connect(server.url, proxy=None, max_queue=None) as link:
        threading.Thread(target=lambda: list(link), daemon=True).start()
        for _ in range(2000):
            frame = rng.choice(seeds)
            data = bytearray(frame.encode() if isinstance(frame, str) else frame)
            for _ in range(rng.randrange(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(32, 127)
            link.send(data.decode() if isinstance(frame, str) else bytes(data))
        ours = make(RosbridgeWire, server.url)
        server.serve("/alive", "demo/srv/A", lambda request: {"yes": True})
        assert ours.call("/alive", "demo/srv/A", {}, PATIENCE) == {"yes": True}
        until(lambda: server.counts["malformed"] > 500, "the frames")
    assert not server.counts["fault"]


def test_frames_that_no_websocket_sends(make):
    server = make(RosbridgeServer, port=0)
    raw(server, b"abc", length=1 << 30)  # a gigabyte is announced
    raw(server, b"\xff\xfe", opcode=1)  # text that is not UTF-8
    raw(server, b"abc", opcode=5)  # there is no such frame
    until(lambda: server.counts["malformed"] == 3, "three refusals")
    with socket.create_connection(("127.0.0.1", server.port)) as link:
        link.sendall(b"\x00" * 1000)  # no websocket at all
    wire = make(RosbridgeWire, server.url)
    server.serve("/alive", "demo/srv/A", lambda request: {"yes": True})
    assert wire.call("/alive", "demo/srv/A", {}, PATIENCE) == {"yes": True}


def test_fragments_and_pings_without_end(make):
    """Those of websockets themselves: bounded in number, and cut when nobody reads the answers."""
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    server = make(RosbridgeServer, port=0, alive=5.0, max_size=100_000)
    with connect(server.url, proxy=None, close_timeout=0.1) as link:
        with pytest.raises(ConnectionClosed, match="too many fragments"):
            link.send([""] * 100_000)
            link.recv(PATIENCE)
        until(lambda: server.counts["malformed"] == 1, "the refusal")
    ping = struct.pack("!BBI", 0x89, 0xFD, 0) + bytes(125)
    with contextlib.suppress(OSError), shake_hands(server) as link:
        for _ in range(1000):
            link.sendall(ping * 100)
    until(lambda: server.counts["aborted"] == 1, "the end of it")
    wire = make(RosbridgeWire, server.url, alive=5.0)
    server.serve("/alive", "demo/srv/A", lambda request: {"yes": True})
    assert wire.call("/alive", "demo/srv/A", {}, PATIENCE) == {"yes": True}


def test_a_client_hears_malformed_frames_too(make):
    from websockets.sync.server import serve

    def talk(link):
        link.recv(PATIENCE)  # the subscription
        for frame in MALFORMED.values():
            link.send(frame)
        link.send(encode({"op": "publish", "topic": "/t", "msg": {"data": "fine"}}))
        link.recv(PATIENCE)

    with serve(talk, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        wire = make(RosbridgeWire, f"ws://127.0.0.1:{server.socket.getsockname()[1]}")
        inbox = Inbox()
        wire.subscribe("/t", TEXT, inbox)
        assert inbox.next() == {"data": "fine"}
        assert wire.counts["malformed"] == len(MALFORMED)
        server.shutdown()


def test_registrations_are_bounded(make):
    from websockets.sync.client import connect

    server = make(RosbridgeServer, port=0)
    with connect(server.url, proxy=None) as link:
        for i in range(1010):
            link.send(json.dumps({"op": "subscribe", "topic": f"/t{i}", "id": "x"}))
        until(lambda: server.counts["malformed"] == 10, "refusals")
        assert "more than 1000" in link.recv(PATIENCE)
    until(lambda: not server._listeners, "the end of its subscriptions")

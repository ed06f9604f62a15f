"""Reliability F11 for policy servers: what is no question is counted and harms nobody.

At its full length: EMBODIED_FRAMES=10000 pytest -s tests/hardware/test_policy_malformed.py -k flood
"""

import contextlib
import importlib
import itertools
import os
import socket
import struct
import threading
import time

import numpy as np
import pytest

pytest.importorskip("msgpack")
pytest.importorskip("websockets")

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from hardware import policy_server
from hardware.policy_client import RemotePolicy
from hardware.policy_wire import pack, unpack
from tests.hardware.policy_frames import GOOD, frames, kinds, make, question, row
from tests.hardware.rosbridge_support import memory, shake_hands, until

PATIENCE = 10.0


@pytest.fixture(autouse=True)
def no_unpickling(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("something was unpickled")

    unpickler = importlib.import_module("pick" + "le")
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(unpickler, name, refuse)


@pytest.fixture
def server():
    with make() as made:
        yield made


def dial(server):
    return connect(server.url, compression=None, max_size=None, proxy=None)


def batched(frames, size=100):
    """Lists of frames: so many are under way at a time."""
    frames = iter(frames)
    return iter(lambda: list(itertools.islice(frames, size)), [])


def asked(link, frames):
    """Sends frames, and returns an answer for each."""
    for frame in frames:
        link.send(frame)
    return [unpack(link.recv(PATIENCE)) for _ in frames]


class Good:
    """A client that asks properly all the while, and notes the longest it waited."""

    def __init__(self, url):
        self._policy, self._end = RemotePolicy(url, timeout=PATIENCE), threading.Event()
        self.answers, self.longest, self.error = 0, 0.0, None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            while not self._end.is_set():
                start = time.monotonic()
                (chunk,) = self._policy.act([row()])
                assert np.allclose(chunk, np.tanh(0.5))
                self.longest = max(self.longest, time.monotonic() - start)
                self.answers += 1
                time.sleep(0.005)
        except Exception as error:
            self.error = error

    def end(self):
        self._end.set()
        self._thread.join(PATIENCE)
        self._policy.close()
        assert self.error is None, self.error


@pytest.mark.parametrize("name", kinds(np.random.default_rng(0)))
def test_each_kind_is_told_what_is_wrong(server, name):
    frame = kinds(np.random.default_rng(0))[name]
    with dial(server) as link:
        link.recv(PATIENCE)
        link.send(frame)
        answer = unpack(link.recv(PATIENCE))
        assert answer["error"] and "actions" not in answer
        link.send(GOOD)  # and the next question is answered
        assert unpack(link.recv(PATIENCE))["id"] == 1
    assert server.counts["malformed"] == 1 and server.counts["answered"] == 1


def test_a_flood(server):
    """Each frame is counted and answered once, others are served meanwhile, no memory is lost."""
    count = int(os.environ.get("EMBODIED_FRAMES", 1000))
    good, before = Good(server.url), None
    with dial(server) as link:
        link.recv(PATIENCE)
        for some in batched(frames(count)):
            assert all("error" in answer for answer in asked(link, some))
            before = before or memory()
    good.end()
    assert memory() - before < 50e6
    assert server.counts["malformed"] == count
    assert server.counts["answered"] == good.answers > 10
    assert not server.counts["fault"] and not server.counts["failed"]
    print(f"{count} frames; the good client waited {good.longest:.3f} s at most", end=" ")


def test_questions_with_wrong_bits(server):
    """Some still are questions; each gets one answer."""
    rng = np.random.default_rng(0)
    count = 1000
    with dial(server) as link:
        link.recv(PATIENCE)
        spoilt = []
        for _ in range(count):
            spoilt.append(bytearray(GOOD))
            for place in rng.integers(0, len(GOOD), 2):
                spoilt[-1][place] = rng.integers(256)
        for some in batched(map(bytes, spoilt)):
            answers = asked(link, some)
            assert all(("error" in answer) != ("actions" in answer) for answer in answers)
    assert server.counts["malformed"] + server.counts["answered"] == count
    assert min(server.counts["malformed"], server.counts["answered"]) > 50
    assert not server.counts["fault"] and not server.counts["failed"]


def test_fragments(server):
    """A message in a hundred of them is one; one in thousands is none, even if they are empty."""
    with dial(server) as link:
        link.recv(PATIENCE)
        link.send([GOOD[i : i + 3] for i in range(0, len(GOOD), 3)])
        assert "actions" in unpack(link.recv(PATIENCE))
        with pytest.raises(ConnectionClosed, match="too many fragments"):
            link.send([b""] * 100_000)
            link.recv(PATIENCE)
    with dial(server) as link:
        link.recv(PATIENCE)
        with pytest.raises(ConnectionClosed, match="1009"):
            link.send(bytes(server.limit + 1))
            link.recv(PATIENCE)
    until(lambda: server.counts["malformed"] == 2, "two refusals")


def by_hand(server, frame):
    """Sends bytes where a frame belongs, and waits until the server hangs up."""
    with shake_hands(server) as link, contextlib.suppress(OSError):
        link.sendall(frame)
        while link.recv(65536):
            pass


def test_frames_that_no_websocket_sends(server):
    good = Good(server.url)
    by_hand(server, struct.pack("!BBQI", 0x82, 0xFF, 1 << 30, 0) + b"abc")  # 1 GB is announced
    by_hand(server, struct.pack("!BBI", 0x81, 0x82, 0) + b"\xff\xfe")  # text that is not UTF-8
    by_hand(server, struct.pack("!BBI", 0x85, 0x83, 0) + b"abc")  # there is no such frame
    by_hand(server, struct.pack("!BB", 0x82, 0x03) + b"abc")  # a client must mask
    until(lambda: server.counts["malformed"] == 4, "four refusals")
    for raw in (b"\0" * 1000, b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 10_000, b""):
        with socket.create_connection(("127.0.0.1", server.port)) as link:
            link.sendall(raw)
    good.end()
    assert good.answers and not server.counts["fault"]


def test_a_flood_of_pings_of_a_client_that_does_not_read(monkeypatch, request):
    monkeypatch.setattr(policy_server, "ANSWER", 2**20)
    server = request.getfixturevalue("server")
    ping = struct.pack("!BBI", 0x89, 0xFD, 0) + bytes(125)
    good, before = Good(server.url), memory()
    with contextlib.suppress(OSError), shake_hands(server) as link:
        for _ in range(2000):
            link.sendall(ping * 500)
    until(lambda: server.counts["stuck"] == 1, "the end of it")
    good.end()
    assert memory() - before < 50e6


def test_broken_messages_do_not_fool_the_client():
    """A server that answers nonsense is named, and its connection closed."""
    from websockets.sync.server import serve

    from hardware.policy_wire import SCHEMA, RemoteError

    answers = iter([frame for frame in frames(40) if isinstance(frame, bytes)])

    def talk(link):
        with contextlib.suppress(ConnectionClosed):
            link.send(pack({"schema": SCHEMA}))
            link.recv(PATIENCE)
            link.send(next(answers))
            link.recv(PATIENCE)

    with serve(talk, "127.0.0.1", 0, compression=None) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        url = f"ws://127.0.0.1:{found.socket.getsockname()[1]}"
        for _ in range(30):
            policy = RemotePolicy(url, timeout=PATIENCE)
            with pytest.raises(RemoteError, match="answered"):
                policy.act(question()["rows"])
            with pytest.raises(RemoteError, match="closed"):
                policy.act(question()["rows"])
        found.shutdown()

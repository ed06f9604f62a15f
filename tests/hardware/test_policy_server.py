"""The policy server and its client on loopback: who is let in, what is answered, what ends."""

import base64
import contextlib
import hashlib
import re
import socket
import threading

import numpy as np
import pytest

pytest.importorskip("msgpack")
pytest.importorskip("websockets")

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from hardware import policy_server
from hardware.errors import HardwareError
from hardware.policy_client import RemotePolicy
from hardware.policy_server import on_loopback
from hardware.policy_wire import Column, RemoteError, pack, unpack
from tests.hardware.policy_frames import COLUMNS, GOOD, make, observation, question, row
from tests.hardware.rosbridge_support import until

PATIENCE = 10.0
TOKEN = "a-token-of-the-tests"


@contextlib.contextmanager
def asking(server, **options):
    policy = RemotePolicy(server.url, **{"timeout": PATIENCE, **options})
    try:
        yield policy
    finally:
        policy.close()


def test_questions_are_answered():
    with make(about={"updates": 7}) as server, asking(server) as policy:
        assert policy.columns == COLUMNS
        assert policy.metadata["name"] == "test" and policy.metadata["updates"] == 7
        rows = [row(observation=observation(value)) for value in (0.0, 1.0)]
        chunks = policy.act(rows)
        assert [chunk.shape for chunk in chunks] == [(1, 4), (1, 4)]
        assert np.array_equal(chunks[1][0], np.tanh(np.ones(4, np.float32)))
        assert 0 <= policy.inference < policy.seconds
        assert server.counts == {"clients": 1, "answered": 1}


def test_what_differs_is_named():
    with make() as server, asking(server) as policy:
        policy.check(COLUMNS)
        camera = {"observation.images.top": Column("uint8", (8, 8, 3))}
        with pytest.raises(RemoteError, match=r"observation\.images\.top' is not known"):
            policy.check(COLUMNS | camera)
        with pytest.raises(RemoteError, match=r"action is float32\[7\] instead of float32\[4\]"):
            policy.check(COLUMNS | {"action": Column("float32", (7,))})
        state = np.zeros(38, np.float32)
        with pytest.raises(RemoteError, match=r"state is float32\[38\] instead of float32\[39\]"):
            policy.act([row(observation=observation(state=state))])
    assert server.counts["malformed"] == 1


def test_clients_and_their_episodes_are_told_apart():
    seen = []

    def act(rows):
        seen.extend((row["client"], row["episode"], row["step"], row["task"]) for row in rows)
        return [np.zeros((3, 4)) for _ in rows]

    with make(act) as server, asking(server) as one, asking(server) as other:
        assert one.act([row(episode=5), row(episode=6, step=2)])[0].shape == (3, 4)
        other.act([row(episode=5, task="")])
    assert seen == [(1, 5, 0, "lift"), (1, 6, 2, "lift"), (2, 5, 0, "")]


def test_no_question_is_left_out():
    """Asked while the policy computes, all are answered, each in its turn."""
    begun, go, seen = threading.Event(), threading.Event(), []

    def act(rows):
        begun.set()
        assert go.wait(PATIENCE)
        seen.extend(row["step"] for row in rows)
        return [np.full(4, row["step"], np.float32) for row in rows]

    with make(act) as server, connect(server.url, proxy=None) as link:
        link.recv(PATIENCE)
        for number in range(20):
            link.send(pack(question(number, step=number)))
        assert begun.wait(PATIENCE)
        go.set()
        answers = [unpack(link.recv(PATIENCE)) for _ in range(20)]
    assert [answer["id"] for answer in answers] == seen == list(range(20))
    assert [answer["actions"][0][0] for answer in answers] == seen


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda rows: [{}["x"]], "the policy failed: KeyError: 'x'"),
        (lambda rows: [], "0 actions for 1 rows"),
        (lambda rows: [np.zeros(3)], r"shape \(3,\) instead of \(4,\)"),
        (lambda rows: [np.full(4, np.nan)], "not finite"),
        (lambda rows: [np.zeros((600_000, 4))], "actions of more than"),
    ],
)
def test_a_policy_that_fails(act, message):
    with make(act) as server:
        for _ in range(2):
            with asking(server) as policy, pytest.raises(RemoteError, match=message):
                policy.act([row()])
        assert server.counts["failed"] == 2


# ---- who is let in ----------------------------------------------------------------------------


def test_only_loopback_without_a_token():
    for host in ("0.0.0.0", "", "::"):
        with pytest.raises(HardwareError, match="without a token"):
            make(host=host)
    assert on_loopback("127.0.0.1") and on_loopback("localhost") and on_loopback("::1")
    with pytest.raises(HardwareError, match="no such address"):
        on_loopback("no such host")
    with pytest.raises(HardwareError, match="16 to 512 signs"):
        make(token="short")
    with make(host="0.0.0.0", token=TOKEN) as server, asking(server, token=TOKEN) as policy:
        assert policy.act([row()])


def test_a_token_is_needed():
    said = []
    with make(token=TOKEN, tell=said.append) as server:
        for token in (None, TOKEN + "x", TOKEN[:-1]):
            with pytest.raises(RemoteError, match=r"refuses .*EMBODIED_TOKEN"):
                RemotePolicy(server.url, token=token)
        with pytest.raises(HardwareError, match="16 to 512"):
            RemotePolicy(server.url, token=f"{TOKEN}\r\nX: y")
        with asking(server, token=TOKEN) as policy:
            assert policy.act([row()]) and TOKEN not in str(policy.metadata)
        assert server.counts["unauthorized"] == 3 and TOKEN not in "".join(said)


def test_pages_in_a_browser_are_refused():
    with make() as server, pytest.raises(InvalidStatus, match="403"):
        connect(server.url, origin="https://example.org", proxy=None).__enter__()


def test_clients_are_bounded():
    with make(clients=2) as server, asking(server) as one, asking(server) as other:
        with pytest.raises(RemoteError, match="2 clients at once are the limit"):
            RemotePolicy(server.url)
        assert one.act([row()]) and other.act([row()])
        other.close()
        until(lambda: len(server._links) == 1, "a free place")
        with asking(server) as third:
            assert third.act([row()])
        assert server.counts["turned away"] == 1


def test_ports_that_cannot_be_had():
    with make() as server, pytest.raises(HardwareError, match=f"cannot listen on .*{server.port}"):
        make(port=server.port)
    with pytest.raises(HardwareError, match="cannot listen"):
        make(port=70_000)


def test_columns_that_cannot_be_served():
    with pytest.raises(ValueError, match='need an "action"'):
        make(columns={"observation.state": Column("float32", (3,))})
    with pytest.raises(ValueError, match="an observation of"):
        make(columns=COLUMNS | {"observation.x": Column("float64", (2**24,))})


# ---- what ends --------------------------------------------------------------------------------


def test_a_client_that_asks_nothing_is_let_go():
    said = []
    with (
        make(idle=0.05, tell=said.append) as server,
        asking(server) as policy,
        pytest.raises(RemoteError, match="nothing was asked for"),
    ):
        until(lambda: server.counts["idle"] == 1, "the end of patience")
        policy.act([row()])
    assert re.search(r"^127\.0\.0\.1:\d+ was let go: it asked nothing$", said[-1])


def test_a_client_that_does_not_read_is_cut(monkeypatch):
    monkeypatch.setattr(policy_server, "SEND_SECONDS", 0.2)
    with (
        make(lambda rows: [np.zeros((200_000, 4), np.float32) for _ in rows]) as server,
        connect(server.url, max_queue=1, max_size=None, proxy=None, close_timeout=0.1) as link,
    ):
        for number in range(10):
            with contextlib.suppress(ConnectionClosed):
                link.send(pack(question(number)))
        until(lambda: server.counts["stuck"] == 1, "the end of patience")
        with asking(server) as policy:
            assert policy.act([row()])[0].shape == (200_000, 4)


def test_a_late_answer_is_never_taken_for_another():
    go = threading.Event()

    def act(rows):
        go.wait(PATIENCE)
        return [np.zeros(4)]

    with make(act) as server:
        policy = RemotePolicy(server.url, timeout=0.1)
        with pytest.raises(RemoteError, match="is silent"):
            policy.act([row()])
        go.set()
        with pytest.raises(RemoteError, match="closed the connection"):
            policy.act([row()])
        with asking(server) as policy:
            assert policy.act([row()])


def test_one_question_at_a_time():
    begun, go = threading.Event(), threading.Event()

    def act(rows):
        begun.set()
        go.wait(PATIENCE)
        return [np.zeros(4)]

    with make(act) as server, asking(server) as policy:
        first = threading.Thread(target=policy.act, args=([row()],))
        first.start()
        assert begun.wait(PATIENCE)
        with pytest.raises(RemoteError, match="another question"):
            policy.act([row()])
        go.set()
        first.join(PATIENCE)
        assert policy.act([row()])


def test_a_server_that_stops_reading():
    """Half-open: the greeting comes, then nothing is read any more; sending gives up too."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}"
        links = []

        def greet():
            link, _ = listener.accept()
            links.append(link)
            asked = b""
            while b"\r\n\r\n" not in asked:
                asked += link.recv(4096)
            key = re.search(rb"Sec-WebSocket-Key: (\S+)", asked)[1]
            magic = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1(key + magic).digest()).decode()
            hello = pack({"schema": "embodied-policy-1"})
            link.sendall(
                f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade"
                f"\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode()
                + bytes((0x82, len(hello)))
                + hello
            )

        threading.Thread(target=greet, daemon=True).start()
        policy = RemotePolicy(url, timeout=0.3)
        with pytest.raises(RemoteError, match="closed the connection"):
            policy.act([row(observation={"x": np.zeros(2**22, np.float64)})])
        links[0].close()


def test_closing_lets_all_go():
    server = make()
    with asking(server) as policy:
        server.close()
        with pytest.raises(RemoteError, match="closed the connection"):
            policy.act([row()])
        with pytest.raises(RemoteError, match="no policy server"):
            RemotePolicy(server.url, connect_timeout=1.0)
    assert not [t.name for t in threading.enumerate() if t.name == "policy server"]
    assert len(GOOD) < server.limit

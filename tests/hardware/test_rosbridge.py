"""Both ends of our rosbridge on loopback: what they carry, and what they survive."""

import base64
import json
import os
import queue
import random
import socket
import struct
import sys
import threading
import time

import numpy as np
import pytest

from hardware.errors import HardwareError, LinkLost
from hardware.rosbridge import RosbridgeServer, RosbridgeWire
from hardware.rosbridge_codec import OPEN, Malformed, encode
from hardware.wire import COMMAND, LATCHED, GoalStatus, Qos
from tests.hardware.test_rosbridge_codec import MALFORMED, fragment, publish

pytest.importorskip("websockets")
pytest.importorskip("cbor2")

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


def equal(message, expected):
    assert message.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(message[name], value)
        else:
            assert message[name] == value


class Inbox(queue.Queue):
    """A receiver whose messages a test takes out."""

    def __call__(self, message, stamp=None):
        self.put(message)

    def next(self):
        return self.get(timeout=PATIENCE)


class Proxy:
    """TCP between a client and a server, which can stall (half-open) or break."""

    def __init__(self, port):
        self.target, self.stalled, self.sockets = port, False, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"ws://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return
            self.sockets += [client, server]
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source, sink):
        try:
            while data := source.recv(65536):
                if not self.stalled:  # what comes meanwhile is lost, as in a network that is gone
                    sink.sendall(data)
        except OSError:
            return

    def resume(self):
        """Lets new connections through; those from before stay dead."""
        for each in self.sockets:
            each.close()
        self.stalled, self.sockets = False, []

    def close(self):
        self.listener.close()
        self.resume()


@pytest.fixture
def make():
    """Makes wires, servers and proxies, and closes them, the newest first."""
    made = []

    def make(kind, *arguments, **options):
        made.append(kind(*arguments, **options))
        return made[-1]

    yield make
    for each in reversed(made):
        each.close()
    assert not [t.name for t in threading.enumerate() if t.name == "rosbridge"]


@pytest.fixture
def pair(make):
    server = make(RosbridgeServer, port=0)
    return server, make(RosbridgeWire, server.url)


def listen(server, wire, topic, kind, qos=COMMAND):
    inbox = Inbox()
    before = server.listeners(topic)
    wire.subscribe(topic, kind, inbox, qos)
    if wire is not server:
        until(lambda: server.listeners(topic) > before, "the subscription")
    return inbox


class TestTopics:
    @pytest.mark.parametrize("size", [0, 100])
    @pytest.mark.parametrize("form", ["none", "png", "cbor"])
    def test_both_ways_in_every_form(self, make, form, size):
        server = make(RosbridgeServer, port=0)
        wire = make(RosbridgeWire, server.url, compression=form, fragment_size=size)
        inbox = listen(server, wire, "/joint_states", JOINTS)
        server.publisher("/joint_states", JOINTS)(STATE)
        equal(inbox.next(), STATE)
        inbox = listen(server, server, "/target", JOINTS)
        wire.publisher("/target", JOINTS)(STATE)
        equal(inbox.next(), STATE)
        assert not +server.counts and not +wire.counts

    @pytest.mark.parametrize("form", ["none", "png", "cbor"])
    def test_a_picture(self, make, form):
        server = make(RosbridgeServer, port=0)
        wire = make(RosbridgeWire, server.url, compression=form, fragment_size=20_000)
        pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        image = {"height": 64, "width": 64, "encoding": "rgb8", "step": 192, "data": pixels.ravel()}
        inbox = listen(server, wire, "/image", "sensor_msgs/msg/Image")
        server.publisher("/image", "sensor_msgs/msg/Image")(image)
        assert inbox.next() == {**image, "data": pixels.tobytes()}
        inbox = listen(server, server, "/seen", "sensor_msgs/msg/Image")
        wire.publisher("/seen", "sensor_msgs/msg/Image")(image)
        assert inbox.next() == {**image, "data": pixels.tobytes()}

    def test_two_receivers_and_their_ends(self, pair):
        server, wire = pair
        first, second = Inbox(), Inbox()
        undo = wire.subscribe("/text", TEXT, first)
        listen(server, wire, "text", TEXT)  # the slash may be missing
        undo_second = server.subscribe("/text", TEXT, second)
        publish = server.publisher("/text", TEXT)
        publish({"data": "a"})
        assert first.next() == second.next() == {"data": "a"}
        undo()
        undo_second()
        other = listen(server, wire, "/other", TEXT)  # sent later, so the end has arrived
        publish({"data": "b"})
        server.publisher("/other", TEXT)({"data": "c"})
        assert other.next() == {"data": "c"}
        assert first.empty() and second.empty()

    def test_latched_topics_and_no_others_wait_for_late_subscribers(self, pair):
        server, wire = pair
        server.publisher("/kept", TEXT, LATCHED)({"data": "kept"})
        server.publisher("/command", TEXT, COMMAND)({"data": "old"})
        assert listen(server, wire, "/kept", TEXT).next() == {"data": "kept"}
        commands = listen(server, wire, "/command", TEXT)
        server.publisher("/command", TEXT, COMMAND)({"data": "new"})
        assert commands.next() == {"data": "new"} and commands.empty()

    def test_a_slow_receiver_gets_the_newest(self, pair):
        server, wire = pair
        started, go_on, heard = threading.Event(), threading.Event(), []

        def slow(message, stamp):
            heard.append(message["data"])
            started.set()
            assert go_on.wait(PATIENCE)

        wire.subscribe("/numbers", "std_msgs/msg/Int32", slow, Qos(depth=3))
        last = listen(server, wire, "/last", TEXT)
        publish = server.publisher("/numbers", "std_msgs/msg/Int32", Qos(depth=200))
        publish({"data": 0})
        assert started.wait(PATIENCE)
        for i in range(1, 100):
            publish({"data": i})
        until(lambda: wire.counts["overrun"] + server.counts["left out"] >= 96, "all messages")
        server.publisher("/last", TEXT)({"data": "end"})
        go_on.set()
        last.next()
        assert heard[0] == 0 and heard[-1] == 99 and len(heard) <= 4
        assert heard == sorted(heard)

    def test_a_failing_receiver_harms_nobody(self, pair, caplog):
        server, wire = pair
        wire.subscribe("/text", TEXT, lambda message, stamp: 1 / 0)
        inbox = listen(server, wire, "/text", TEXT)
        server.publisher("/text", TEXT)({"data": "a"})
        assert inbox.next() == {"data": "a"}
        assert wire.counts["receiver failed"] == 1
        assert "ZeroDivisionError" in caplog.text

    def test_what_cannot_be_sent_is_the_publishers_error(self, pair):
        server, wire = pair
        listen(server, wire, "/text", TEXT)
        for each in pair:
            with pytest.raises(Malformed, match="cannot send publish"):
                each.publisher("/text", TEXT)({"data": object()})

    def test_types_must_agree(self, pair):
        server, wire = pair
        server.publisher("/text", TEXT)
        with pytest.raises(HardwareError, match=r"/text is of type .*String"):
            server.subscribe("/text", JOINTS, print)
        wire.subscribe("/text", JOINTS, print)
        until(lambda: server.counts["malformed"] == wire.counts["status error"] == 1, "the refusal")
        assert server.listeners("/text") == 0
        wire.subscribe("/text", "std_msgs/String", print)  # as ROS 1 wrote it
        until(lambda: server.listeners("/text"), "the subscription")

    def test_a_client_that_does_not_read_stops_nobody(self, make):
        server = make(RosbridgeServer, port=0, alive=60.0, max_size=1_000_000)
        from websockets.sync.client import connect

        with connect(server.url, proxy=None, max_queue=1, close_timeout=0) as idle:
            idle.send(json.dumps({"op": "subscribe", "topic": "/big", "queue_length": 100}))
            until(lambda: server.listeners("/big"), "the subscription")
            publish, before = server.publisher("/big", "std_msgs/msg/UInt8MultiArray"), memory()
            for _ in range(300):
                publish({"data": np.zeros(100_000, np.uint8)})
            assert server.counts["left out"] > 200
            assert memory() - before < 20e6


class TestQuestions:
    def test_services_both_ways(self, pair):
        for server, client in (pair, pair[::-1]):
            undo = server.serve("/sum", "demo/srv/Sum", lambda r: {"sum": float(sum(r["of"]))})
            if server is pair[1]:
                until(lambda: "/sum" in pair[0]._services, "the service")
            answer = client.call("/sum", "demo/srv/Sum", {"of": np.arange(4.0)}, PATIENCE)
            assert answer == {"sum": 6.0}
            with pytest.raises(HardwareError, match=r"/sum: KeyError: 'of'"):
                client.call("/sum", "demo/srv/Sum", {}, PATIENCE)
            undo()
            until(lambda: "/sum" not in pair[0]._services, "its end")
            with pytest.raises(HardwareError, match="nobody serves"):
                client.call("/sum", "demo/srv/Sum", {}, PATIENCE)

    def test_a_service_that_does_not_answer(self, pair):
        server, wire = pair
        go_on = threading.Event()
        server.serve("/slow", "demo/srv/Slow", lambda request: {"late": go_on.wait(PATIENCE)})
        with pytest.raises(TimeoutError, match="/slow did not answer within"):
            wire.call("/slow", "demo/srv/Slow", {}, 0.05)
        go_on.set()
        until(lambda: wire.counts["unasked"] == 1, "the late answer")
        assert not wire._questions

    def test_a_service_may_call_another(self, pair):
        server, wire = pair
        server.serve("/inner", "demo/srv/A", lambda request: {"n": request["n"] + 1})
        server.serve(
            "/outer", "demo/srv/A", lambda r: server.call("/inner", "demo/srv/A", r, PATIENCE)
        )
        assert wire.call("/outer", "demo/srv/A", {"n": 1}, PATIENCE) == {"n": 2}

    def test_nobody_takes_a_service_of_the_server(self, pair):
        server, wire = pair
        server.serve("/stop", "std_srvs/srv/Trigger", lambda request: {"success": True})
        wire.serve("/stop", "std_srvs/srv/Trigger", lambda request: {"success": False})
        until(lambda: wire.counts["status error"] == 1, "the refusal")
        assert server.call("/stop", "std_srvs/srv/Trigger", {}, PATIENCE) == {"success": True}

    @pytest.mark.parametrize("ours", [True, False])
    def test_actions_both_ways(self, pair, ours):
        server, client = pair if ours else pair[::-1]

        def follow(goal):
            goal.feedback({"at": 0.5})
            until(lambda: goal.cancelled or "short" in goal.request, "a reason to end")
            if goal.cancelled:
                return GoalStatus.CANCELED, {"error_code": -1}
            if goal.request["short"] < 0:
                return GoalStatus.ABORTED, {"error_code": -4}
            return GoalStatus.SUCCEEDED, {"error_code": 0}

        kind, inbox = "control_msgs/action/FollowJointTrajectory", Inbox()
        server.serve_action("/follow", kind, follow)
        if not ours:
            until(lambda: "/follow" in client._actions, "the action")
        goal = client.send_goal("/follow", kind, {"short": 1}, inbox)
        assert goal.result(PATIENCE) == (GoalStatus.SUCCEEDED, {"error_code": 0})
        assert inbox.next() == {"at": 0.5}
        goal = client.send_goal("/follow", kind, {"short": -1})
        assert goal.result(PATIENCE) == (GoalStatus.ABORTED, {"error_code": -4})
        goal = client.send_goal("/follow", kind, {}, inbox)
        inbox.next()
        with pytest.raises(TimeoutError):
            goal.result(0.01)
        goal.cancel()
        assert goal.result(PATIENCE) == (GoalStatus.CANCELED, {"error_code": -1})
        with pytest.raises(HardwareError, match="nobody serves this action"):
            client.send_goal("/other", kind, {}).result(PATIENCE)

    def test_goals_of_a_client_that_is_gone_are_cancelled(self, make):
        server = make(RosbridgeServer, port=0)
        started, ended = threading.Event(), threading.Event()

        def move(goal):
            started.set()
            until(lambda: goal.cancelled, "the cancellation")
            ended.set()
            return GoalStatus.CANCELED, {}

        server.serve_action("/move", "demo/action/Move", move)
        wire = make(RosbridgeWire, server.url)
        goal = wire.send_goal("/move", "demo/action/Move", {})
        assert started.wait(PATIENCE)
        wire.close()
        assert ended.wait(PATIENCE)
        with pytest.raises(LinkLost, match="/move"):
            goal.result(PATIENCE)


class TestLinks:
    def test_no_server(self, make):
        with pytest.raises(LinkLost, match="no rosbridge within"):
            RosbridgeWire("ws://127.0.0.1:1", timeout=0.2)
        wire = make(RosbridgeWire, "ws://127.0.0.1:1", timeout=0)
        assert not wire.connected
        for use in (
            lambda: wire.publisher("/text", TEXT)({"data": ""}),
            lambda: wire.call("/service", "demo/srv/A", {}, 1.0),
            lambda: wire.send_goal("/action", "demo/action/A", {}),
        ):
            with pytest.raises(LinkLost, match="the link is down"):
                use()

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"url": "robot:9090"}, "looks like ws://"),
            ({"compression": "zip"}, "compression='zip'"),
        ],
    )
    def test_wrong_arguments(self, arguments, match):
        with pytest.raises(ValueError, match=match):
            RosbridgeWire(**{"url": "ws://127.0.0.1:1", **arguments})

    def test_a_port_that_is_taken(self, pair):
        with pytest.raises(HardwareError, match="cannot listen on"):
            RosbridgeServer(port=pair[0].port)

    def test_missing_packages_are_named(self, monkeypatch):
        for module in list(sys.modules):
            if module.startswith("websockets"):
                monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, "websockets", None)
        with pytest.raises(ImportError, match=r'pip install "embodied\[hardware\]"'):
            RosbridgeWire("ws://127.0.0.1:1")

    def test_all_goes_on_after_a_restart_but_no_command_is_sent_again(self, make):
        server = make(RosbridgeServer, port=0)
        wire = make(RosbridgeWire, server.url)
        states, text = Inbox(), []
        wire.subscribe("/joint_states", JOINTS, states)
        wire.serve("/double", "demo/srv/D", lambda request: {"value": 2 * request["value"]})
        command = wire.publisher("/command", TEXT)
        wire.publisher("/about", TEXT, LATCHED)({"data": "about"})
        command({"data": "old"})
        server.close()
        until(lambda: not wire.connected, "the loss")
        with pytest.raises(LinkLost):
            command({"data": "lost"})
        server = make(RosbridgeServer, port=server.port)
        server.subscribe("/command", TEXT, lambda message, stamp: text.append(message["data"]))
        until(lambda: wire.connected and server.listeners("/joint_states"), "the reconnection")
        server.publisher("/joint_states", JOINTS)(STATE)
        equal(states.next(), STATE)
        assert server.call("/double", "demo/srv/D", {"value": 4}, PATIENCE) == {"value": 8}
        assert listen(server, server, "/about", TEXT, LATCHED).next() == {"data": "about"}
        command({"data": "new"})
        until(lambda: text, "the new command")
        assert text == ["new"] and wire.counts["reconnects"] == 1

    def test_a_half_open_link_is_noticed_at_both_ends(self, make):
        server = make(RosbridgeServer, port=0, alive=0.3)
        proxy = make(Proxy, server.port)
        wire = make(RosbridgeWire, proxy.url, alive=0.3)
        commands, cancelled = [], threading.Event()
        server.subscribe("/command", TEXT, lambda message, stamp: commands.append(message["data"]))

        def move(goal):
            until(lambda: goal.cancelled, "the cancellation")
            cancelled.set()
            return GoalStatus.CANCELED, {}

        server.serve_action("/move", "demo/action/Move", move)
        goal, command = (
            wire.send_goal("/move", "demo/action/Move", {}),
            wire.publisher("/command", TEXT),
        )
        command({"data": "before"})
        until(lambda: commands == ["before"], "the first command")
        proxy.stalled = True
        with pytest.raises(LinkLost):  # noticed while commands go out, which fill the buffers
            for _ in range(2000):
                command({"data": "x" * 100_000})
                time.sleep(0.001)
        assert cancelled.wait(PATIENCE)
        until(lambda: not server._links, "the server to notice")
        with pytest.raises(LinkLost):
            goal.result(PATIENCE)
        proxy.resume()
        until(lambda: wire.connected, "the reconnection")
        command({"data": "after"})
        until(lambda: "after" in commands, "the next command")
        assert commands == ["before", "after"]

    def test_a_busy_link_is_not_taken_for_dead(self, make):
        server = make(RosbridgeServer, port=0, alive=0.2)
        wire = make(RosbridgeWire, server.url, alive=0.2)
        time.sleep(0.6)
        assert wire.connected and not wire.counts["aborted"] and not server.counts["aborted"]

    def test_too_many_clients(self, make):
        server = make(RosbridgeServer, port=0, clients=1)
        make(RosbridgeWire, server.url)
        extra = make(RosbridgeWire, server.url, timeout=0)
        until(lambda: extra.counts["reconnects"] > 0, "refusals")
        assert len(server._links) == 1


def memory():
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def raw(server, payload, opcode=2, length=None):
    """Sends one websocket frame by hand and waits until the server hangs up."""
    with socket.create_connection(("127.0.0.1", server.port)) as link:
        key = base64.b64encode(bytes(16)).decode()
        link.sendall(
            f"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert b"101" in link.recv(4096)
        size = len(payload) if length is None else length
        link.sendall(struct.pack("!BBQI", 0x80 | opcode, 0xFF, size, 0) + payload)
        link.settimeout(PATIENCE)
        while link.recv(4096):
            pass


class TestMalformed:
    """Reliability F11: what comes from a bad network is counted and dropped."""

    FRAMES = 10_000

    @pytest.mark.timeout(60)
    def test_ten_thousand_frames(self, make, monkeypatch):
        from websockets.sync.client import connect

        monkeypatch.setitem(sys.modules, "pick" + "le", None)  # importing it fails from here on
        server = make(RosbridgeServer, port=0, fragment_timeout=60.0)
        healthy = make(RosbridgeWire, server.url, alive=1.0)  # breaks if the server hangs
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
            for i in range(self.FRAMES):
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
            until(lambda: server.counts["malformed"] >= self.FRAMES, "all frames")
            server.publisher("/t", TEXT)({"data": "still here"})
            assert heard.next() == {"data": "still here"}
            link.send(json.dumps({"op": "call_service", "id": "last", "service": "/none"}))
            until(lambda: any('"last"' in each for each in statuses), "the last answer")
        assert memory() - before < 50e6
        assert server.counts["malformed"] == self.FRAMES
        assert not server.counts["fault"] and not healthy.counts["reconnects"]
        assert sum('"level":"error"' in each for each in statuses) > self.FRAMES / 10

    def test_frames_with_wrong_bits(self, make):
        """Valid frames with a few bytes changed: some still are, none may do harm."""
        from websockets.sync.client import connect

        server = make(RosbridgeServer, port=0)
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

    def test_frames_that_no_websocket_sends(self, make):
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

    def test_a_client_hears_malformed_frames_too(self, make):
        from websockets.sync.server import serve

        def talk(link):
            for frame in MALFORMED.values():
                link.send(frame)
            link.send(encode({"op": "publish", "topic": "/t", "msg": {"data": "fine"}}))
            link.recv(PATIENCE)

        with serve(talk, "127.0.0.1", 0) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            wire = make(RosbridgeWire, f"ws://127.0.0.1:{server.socket.getsockname()[1]}")
            inbox = Inbox()
            wire.subscribe("/t", TEXT, inbox)
            until(lambda: wire.counts["malformed"] == len(MALFORMED), "all of them")
            server.shutdown()

    def test_registrations_are_bounded(self, pair):
        server, _ = pair
        from websockets.sync.client import connect

        with connect(server.url, proxy=None) as link:
            for i in range(1010):
                link.send(json.dumps({"op": "subscribe", "topic": f"/t{i}", "id": "x"}))
            until(lambda: server.counts["malformed"] == 10, "refusals")
            assert "more than 1000" in link.recv(PATIENCE)
        until(lambda: not server._listeners, "the end of its subscriptions")

"""Both ends of our rosbridge on loopback: what they carry, and what they survive."""

import json
import sys
import threading
import time

import numpy as np
import pytest

from benchmarks.relay import Relay
from hardware.errors import HardwareError, LinkLost
from hardware.rosbridge import RosbridgeServer, RosbridgeWire
from hardware.rosbridge_codec import Malformed
from hardware.wire import COMMAND, LATCHED, GoalStatus, Qos
from tests.hardware.rosbridge_support import (
    JOINTS,
    PATIENCE,
    STATE,
    TEXT,
    Inbox,
    listen,
    makes,
    memory,
    until,
)


def equal(message, expected):
    assert message.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(message[name], value)
        else:
            assert message[name] == value


@pytest.fixture
def make():
    yield from makes()


@pytest.fixture
def pair(make):
    server = make(RosbridgeServer, port=0)
    return server, make(RosbridgeWire, server.url)


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
        until(lambda: heard[-1] == 99, "the newest")
        assert heard[0] == 0 and len(heard) <= 4
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
        server = make(RosbridgeServer, port=0, alive=1.0)
        relay = make(Relay, server.port)
        wire = make(RosbridgeWire, f"ws://127.0.0.1:{relay.port}", alive=1.0)
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
        relay.deaf = True
        with pytest.raises(LinkLost):  # noticed while commands go out, which fill the buffers
            for _ in range(2000):
                command({"data": "x" * 100_000})
                time.sleep(0.001)
        assert cancelled.wait(PATIENCE)
        until(lambda: not server._links, "the server to notice")
        with pytest.raises(LinkLost):
            goal.result(PATIENCE)
        relay.deaf = False
        relay.cut()
        until(lambda: wire.connected, "the reconnection")
        command({"data": "after"})
        until(lambda: "after" in commands, "the next command")
        assert commands == ["before", "after"]

    def test_a_quiet_link_is_not_taken_for_dead(self, make):
        server = make(RosbridgeServer, port=0, alive=0.5)
        wire = make(RosbridgeWire, server.url, alive=0.5)
        time.sleep(1.0)
        assert wire.connected and not wire.counts["aborted"] and not server.counts["aborted"]

    def test_too_many_clients(self, make):
        server = make(RosbridgeServer, port=0, clients=1)
        make(RosbridgeWire, server.url)
        extra = make(RosbridgeWire, server.url, timeout=0)
        until(lambda: extra.counts["reconnects"] > 0, "refusals")
        assert len(server._links) == 1

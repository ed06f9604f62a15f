"""Our rosbridge against clients that others wrote: roslibpy, and roslib from npm.

roslib is looked for in the folder that $EMBODIED_ROSLIB names (the one that holds `node_modules`;
`npm install roslib@2.1.0 ws` makes it).
"""

import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from hardware.errors import HardwareError
from hardware.rosbridge import RosbridgeServer, RosbridgeWire
from hardware.wire import LATCHED, GoalStatus
from tests.hardware.rosbridge_support import JOINTS, PATIENCE, STATE, TEXT, Inbox, until

FLAT = {name: np.asarray(STATE[name]).tolist() for name in ("name", "position", "velocity")}


def count(goal):
    """The action of the tests: counts, unless it is to go on until it is cancelled."""
    for number in range(int(goal.request.get("to", 0))):
        goal.feedback({"at": number})
    until(lambda: "to" in goal.request or goal.cancelled, "the end of the goal")
    status = GoalStatus.CANCELED if goal.cancelled else GoalStatus.SUCCEEDED
    return status, {"counted": goal.request.get("to", -1)}


def endless(goal):
    goal.feedback({"at": 0})
    return count(goal)


def refuse(request):
    raise ValueError("this service never works")


@pytest.fixture(scope="module")
def server():
    server = RosbridgeServer(port=0, serializer=lambda kind, message: b"\x00\x01\x00\x00" + b"cdr")
    server.serve("/add", "demo/srv/Add", lambda r: {"sum": r["a"] + r["b"]})
    server.serve("/refuse", "demo/srv/Add", refuse)
    server.serve_action("/count", "demo/action/Count", count)
    server.serve_action("/endless", "demo/action/Count", endless)
    yield server
    server.close()


class TestRoslibpy:
    @pytest.fixture(scope="class")
    def ros(self, server):
        roslibpy = pytest.importorskip("roslibpy")
        ros = roslibpy.Ros("127.0.0.1", server.port, transport="asyncio")
        ros.run(timeout=PATIENCE)
        yield ros
        ros.close()

    def test_a_topic_reaches_it(self, server, ros):
        import roslibpy

        heard = Inbox()
        topic = roslibpy.Topic(ros, "/joint_states", "sensor_msgs/JointState")
        topic.subscribe(heard.put)
        until(lambda: server.listeners("/joint_states"), "its subscription")
        server.publisher("/joint_states", JOINTS)(STATE)
        message = heard.next()
        assert {name: message[name] for name in FLAT} == FLAT
        assert message["header"] == STATE["header"]
        assert message["effort"] == [None] + 6 * [1.5]
        topic.unsubscribe()
        until(lambda: not server.listeners("/joint_states"), "the end of its subscription")

    def test_a_latched_topic_reaches_it_late(self, server, ros):
        import roslibpy

        server.publisher("/description", TEXT, LATCHED)({"data": "<robot/>"})
        heard = Inbox()
        roslibpy.Topic(ros, "/description", "std_msgs/String").subscribe(heard.put)
        assert heard.next() == {"data": "<robot/>"}

    def test_its_topic_reaches_us_and_other_clients(self, server, ros):
        import roslibpy

        heard, relayed = Inbox(), Inbox()
        server.subscribe("/target", JOINTS, heard)
        other = RosbridgeWire(server.url)
        other.subscribe("/target", JOINTS, relayed)
        until(lambda: server.listeners("/target"), "the other's subscription")
        topic = roslibpy.Topic(ros, "/target", "sensor_msgs/JointState")
        topic.publish(roslibpy.Message(FLAT))
        for message in (heard.next(), relayed.next()):
            assert message["name"] == STATE["name"]
            np.testing.assert_array_equal(message["position"], STATE["position"])
        other.close()

    def test_it_calls_our_services(self, server, ros):
        import roslibpy

        service = roslibpy.Service(ros, "/add", "demo/Add")
        answer = service.call(roslibpy.ServiceRequest({"a": 2, "b": 3}), timeout=PATIENCE)
        assert answer["sum"] == 5
        errors = Inbox()
        service = roslibpy.Service(ros, "/refuse", "demo/Add")
        service.call(roslibpy.ServiceRequest({}), errors.put, lambda text: errors.put(text))
        assert "never works" in errors.next()

    def test_it_calls_another_clients_service(self, server, ros):
        import roslibpy

        other = RosbridgeWire(server.url)
        other.serve("/triple", "demo/srv/Triple", lambda request: {"value": 3 * request["value"]})
        until(lambda: "/triple" in server._services, "the advertised service")
        service = roslibpy.Service(ros, "/triple", "demo/Triple")
        answer = service.call(roslibpy.ServiceRequest({"value": 5}), timeout=PATIENCE)
        assert answer["value"] == 15
        other.close()

    def test_we_call_its_services(self, server, ros):
        import roslibpy

        def halve(request, response):
            response["value"] = request["value"] / 2
            return request["value"] >= 0

        service = roslibpy.Service(ros, "/halve", "demo/Halve")
        service.advertise(halve)
        until(lambda: "/halve" in server._services, "its service")
        ours = RosbridgeWire(server.url)
        for wire in (server, ours):
            assert wire.call("/halve", "demo/srv/Halve", {"value": 3.0}, PATIENCE) == {"value": 1.5}
        ours.close()
        service.unadvertise()
        until(lambda: "/halve" not in server._services, "the end of its service")
        with pytest.raises(HardwareError, match="nobody serves"):
            server.call("/halve", "demo/srv/Halve", {"value": 3.0}, PATIENCE)

    def test_its_goals_are_executed_and_cancelled(self, server, ros):
        import roslibpy

        results, feedback = Inbox(), Inbox()
        client = roslibpy.ActionClient(ros, "/count", "demo/Count")
        client.send_goal(roslibpy.Goal({"to": 3}), results.put, feedback.put, results.put)
        result = results.next()
        assert result["values"] == {"counted": 3}
        assert result["status"].value == GoalStatus.SUCCEEDED
        assert [feedback.next()["at"] for _ in range(3)] == [0, 1, 2]
        client = roslibpy.ActionClient(ros, "/endless", "demo/Count")
        goal = client.send_goal(roslibpy.Goal({}), results.put, feedback.put, results.put)
        feedback.next()
        client.cancel_goal(goal)
        assert results.next()["status"].value == GoalStatus.CANCELED

    def test_it_never_sent_what_we_call_malformed(self, server, ros):
        assert server.counts["malformed"] == server.counts["fault"] == 0


class Peer:
    """roslib in a process of node; `events` are kept by name."""

    def __init__(self, folder, url):
        script = Path(__file__).parent / "peers" / "roslib_peer.mjs"
        self.process = subprocess.Popen(
            ["node", str(script), folder, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.events, self.thread = {}, threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        for line in self.process.stdout:
            event = json.loads(line)
            self.events.setdefault(event.pop("event"), []).append(event)

    def wait(self, name, number=1):
        until(lambda: len(self.events.get(name, [])) >= number, f"{name}; there is {self.events}")
        return self.events[name][number - 1]

    def close(self):
        self.process.stdin.close()
        self.thread.join(PATIENCE)
        assert self.process.wait(PATIENCE) == 0


@pytest.fixture(scope="module")
def peer(server):
    folder = os.environ.get("EMBODIED_ROSLIB")
    if not folder or not shutil.which("node"):
        pytest.skip("needs node, and roslib in the folder $EMBODIED_ROSLIB")
    server.publisher("/wrong_type", JOINTS)
    peer = Peer(folder, server.url)
    peer.wait("ready")
    yield peer
    peer.close()
    assert "error" not in peer.events and "wrong" not in peer.events, peer.events


class TestRoslib:
    @pytest.mark.parametrize("form", ["none", "png", "cbor", "pieces", "pictures"])
    def test_every_form_reaches_it(self, server, peer, form):
        until(lambda: server.listeners(form), "its subscription")
        server.publisher(f"/{form}", JOINTS)(STATE)
        event = peer.wait(form)
        assert {name: event["msg"][name] for name in FLAT} == FLAT
        assert event["msg"]["header"] == STATE["header"]
        assert event["msg"]["effort"] == [None] + 6 * [1.5]
        if form == "cbor":
            assert event["position"] == "Float64Array"

    def test_cbor_raw_reaches_it(self, server, peer):
        until(lambda: server.listeners("/raw"), "its subscription")
        server.publisher("/raw", JOINTS)(STATE)
        event = peer.wait("raw")
        assert event["raw"] == "Uint8Array"
        assert bytes(event["msg"]["bytes"]) == b"\x00\x01\x00\x00cdr"
        assert abs(event["msg"]["secs"] - time.time()) < 60 and 0 <= event["msg"]["nsecs"] < 1e9

    def test_its_topic_reaches_us(self, server, peer):
        heard = Inbox()
        server.subscribe("/chatter", TEXT, heard)
        assert heard.next() == {"data": "hello"}

    def test_it_calls_our_services_and_actions(self, peer):
        assert peer.wait("added") == {"values": {"sum": 5}}
        assert "nobody serves" in peer.wait("refused")["text"]
        assert peer.wait("counted") == {"values": {"counted": 3}}
        assert [peer.wait("counting", i + 1)["values"]["at"] for i in range(3)] == [0, 1, 2]
        assert "canceled" in peer.wait("ended")["text"].lower()

    def test_we_call_its_services_and_actions(self, server, peer):
        ours = RosbridgeWire(server.url)
        until(lambda: "/steps" in server._actions and "/double" in server._services, "them")
        for wire in (server, ours):
            assert wire.call("/double", "demo/srv/Double", {"value": 4}, PATIENCE) == {"value": 8}
            heard = Inbox()
            goal = wire.send_goal("/steps", "demo/action/Steps", {"steps": 5}, heard.put)
            assert goal.result(PATIENCE) == (GoalStatus.SUCCEEDED, {"done": 5})
            assert heard.next() == {"at": 1}
            goal = wire.send_goal("/steps", "demo/action/Steps", {"forever": True}, heard.put)
            heard.next()
            goal.cancel()
            assert goal.result(PATIENCE) == (GoalStatus.CANCELED, {"done": 0})
            with pytest.raises(HardwareError, match="/broken"):
                wire.call("/broken", "demo/srv/Double", {"value": 4}, PATIENCE)
        ours.close()

    def test_it_hears_that_a_type_is_wrong(self, peer):
        assert "of type sensor_msgs/msg/JointState" in peer.wait("status")["text"]

"""The Zenoh wire when the other side sends nonsense, falls silent or goes away."""

import os
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

pytest.importorskip("zenoh")
pytest.importorskip("rosbags")

import zenoh

from hardware import cdr
from hardware import messages as m
from hardware.errors import HardwareError, LinkLost
from hardware.wire import LATCHED, STATE, Qos
from hardware.zenoh_names import Attachment, data_key
from hardware.zenoh_ros import ZenohWire
from tests.hardware.rosbridge_support import memory
from tests.hardware.wires import arrived, state, until

HASH = "RIHS01_a13ee3a330e346c9d87b5aa18d24e11690752bd33a0350f11c5882bc9179260e"
KEY = f"0/joint_states/sensor_msgs::msg::dds_::JointState_/{HASH}"

# --- what comes in malformed ----------------------------------------------------------------------


@pytest.fixture
def intruder(pair, endpoint):
    config = zenoh.Config()
    config.insert_json5("mode", '"client"')
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("connect/endpoints", f'["{endpoint}"]')
    session = zenoh.open(config)
    yield session
    session.close()


def test_malformed_samples_are_counted_and_dropped(open_wire, free_port, tmp_path, monkeypatch):
    """F11; at its full length with EMBODIED_FRAMES=10000."""
    monkeypatch.setitem(sys.modules, "pick" + "le", None)  # importing it fails from here on
    frames = int(os.environ.get("EMBODIED_FRAMES", 2000))
    endpoint = f"tcp/127.0.0.1:{free_port()}"
    robot = open_wire((), listen=[endpoint], largest=10_000)
    raw = open_wire([endpoint])._link.session
    heard = []
    robot.subscribe("/joint_states", m.JOINT_STATE, lambda x, _: heard.append(x), Qos(depth=20000))
    good, count = cdr.encode(m.JOINT_STATE, state()), iter(range(1, 10**9))

    def attachment():
        return Attachment(next(count), time.time_ns(), bytes(16)).pack()

    def put(payload, key=KEY, **given):
        given = {"attachment": attachment(), **given}
        raw.put(key, payload, congestion_control=zenoh.CongestionControl.BLOCK, **given)

    arrived(lambda: put(good), heard)
    pickled = b"cos\nmkdir\n(V" + str(tmp_path / "unpickled").encode() + b"\ntR."
    bad = [pickled, b"", good[:-1], b"\0\1\0\0" + b"\xff" * 40, b"\x80\4", good + bytes(8)]
    for payload in bad:
        put(payload)
    for broken in (b"", bytes(32), bytes(33), b"sequence_number"):
        put(good, attachment=broken)
    raw.put(KEY, good)  # without any
    put(bytes(20_000))
    put(good, key=KEY[:-1] + "f")  # another version of the type
    put(good, key=KEY.rsplit("/", 1)[0] + "/TypeHashNotSupported")
    put(good, key="0/joint_states/sensor_msgs::msg::dds_::Image_/RIHS01_0")
    raw.delete(KEY, attachment=attachment())
    put(good, attachment=Attachment(1, 1, bytes(16)).pack())  # late, or sent twice
    rng, used = np.random.default_rng(0), memory()
    for _ in range(frames):
        put(b"\0\1\0\0" + rng.bytes(60))
    before = len(heard)
    until(lambda: put(good) or len(heard) > before)
    dropped = dict(robot.dropped)
    assert dropped == {
        "malformed": len(bad) + 4 + 1 + 1 + frames,
        "too large": 1,
        "wrong type": 3,
        "out of order": 1,
    }
    assert memory() - used < 50e6
    assert not (tmp_path / "unpickled").exists()


def test_malformed_calls(pair, intruder):
    robot, policy = pair
    robot.serve("/stop", m.TRIGGER, lambda _: m.trigger(True))
    policy.call("/stop", m.TRIGGER, {}, 10.0)
    key = data_key(0, "/stop", m.TRIGGER, cdr.type_hash(m.TRIGGER))
    good, attachment = b"\0\1\0\0\0", Attachment(1, 1, bytes(16)).pack()
    for payload, with_it in ((None, attachment), (b"\x80\4", attachment), (good, b"short")):
        replies = list(intruder.get(key, payload=payload, attachment=with_it, timeout=10.0))
        assert [reply.err.payload.to_string() for reply in replies] == ["malformed request"]
    assert robot.dropped == {"malformed": 3}
    assert policy.call("/stop", m.TRIGGER, {}, 10.0)["success"]


def test_a_malformed_answer(pair, intruder):
    key = data_key(0, "/bad", m.TRIGGER, cdr.type_hash(m.TRIGGER))
    reply = [b"\0\1\0\0\x01\xff\xff\xff\xff"]
    served = intruder.declare_queryable(
        key, lambda query: query.reply(key, reply[0], attachment=bytes(33)), complete=True
    )
    with pytest.raises(HardwareError, match="answer is malformed"):
        pair[1].call("/bad", m.TRIGGER, {}, 10.0)
    assert pair[1].dropped == {"malformed": 1}
    served.undeclare()


# --- the link ------------------------------------------------------------------------------------


class Proxy:
    """TCP connections that can fall silent for a while (`flows`) or for good, or be cut."""

    def __init__(self, port, target):
        self._target, self._open, self._mute, self.flows = target, [], [], threading.Event()
        self.flows.set()
        self.accepted = 0
        self._server = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            self._open += [near, far]
            self.accepted += 1
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source, sink):
        try:
            while data := source.recv(65536):
                self.flows.wait()
                if source not in self._mute:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def mute(self):
        """As if a cable was pulled: nobody is told, and only new connections work."""
        self._mute += self._open

    def cut(self):
        for end in self._open:
            end.close()

    def close(self):
        self._server.close()
        self.flows.set()
        self.cut()


@pytest.fixture
def proxied(open_wire, free_port):
    """A robot's wire, and a function that connects a policy's through a proxy."""
    ports = free_port(), free_port()
    robot = open_wire((), listen=[f"tcp/127.0.0.1:{ports[1]}"], node="robot")
    proxy = Proxy(*ports)
    yield robot, proxy, lambda mode: open_wire([f"tcp/127.0.0.1:{ports[0]}"], mode=mode)
    proxy.close()


@pytest.mark.parametrize("mode", ["client", "peer"])
def test_nobody_there(open_wire, endpoint, mode):
    with pytest.raises(LinkLost, match=f"nobody answers at {endpoint}"):
        open_wire([endpoint], mode=mode, wait=0.2)


@pytest.mark.parametrize("mode", ["client", "peer"])
def test_a_silent_link_is_noticed_and_taken_up_again(proxied, mode):
    robot, proxy, connect = proxied
    policy = connect(mode)
    states, commands, passed = [], [], []
    policy.subscribe("/state", m.JOINT_STATE, lambda x, _: states.append(x))
    robot.subscribe("/command", m.JOINT_STATE, lambda x, _: commands.append(x["position"][0]))
    robot.serve("/stop", m.TRIGGER, lambda _: m.trigger(True))
    tell, command = (
        robot.publisher("/state", m.JOINT_STATE),
        policy.publisher("/command", m.JOINT_STATE),
    )
    arrived(lambda: tell(state()), states)
    arrived(lambda: command(state(0)), commands)
    assert policy.call("/stop", m.TRIGGER, {}, 10.0)["success"]

    proxy.flows.clear()
    until(lambda: not policy.connected)
    for i in range(100, 200):
        with pytest.raises(LinkLost, match="no link to"):
            command(state(i))
    with pytest.raises(LinkLost):
        policy.call("/stop", m.TRIGGER, {}, 10.0)
    until(lambda: not robot.connected)  # whose side of the link Zenoh has closed
    states.clear()

    proxy.flows.set()
    until(lambda: policy.connected)
    arrived(lambda: tell(state()), states)

    def obeyed():
        command(state(1000 + len(passed)))
        passed.append(True)
        return any(position >= 1000 for position in commands)

    until(obeyed)
    assert not [position for position in commands if 100 <= position < 200]
    assert policy.call("/stop", m.TRIGGER, {}, 10.0)["success"]
    assert not robot.dropped and not policy.dropped


@pytest.mark.parametrize("mode", ["client", "peer"])
def test_a_dead_connection_is_replaced(proxied, mode):
    robot, proxy, connect = proxied
    policy, heard = connect(mode), []
    policy.subscribe("/state", m.JOINT_STATE, lambda x, _: heard.append(x))
    tell = robot.publisher("/state", m.JOINT_STATE)
    arrived(lambda: tell(state()), heard)
    proxy.mute()
    until(lambda: not policy.connected)
    heard.clear()
    until(lambda: policy.connected)
    arrived(lambda: tell(state()), heard)
    assert policy.connected and not policy.dropped


def test_all_moves_to_a_session_that_is_opened_anew(pair):
    robot, policy = pair
    states, latched, commands, told = [], [], [], []
    undo = policy.subscribe("/state", m.JOINT_STATE, lambda x, _: states.append(x))
    policy.subscribe("/latched", m.JOINT_STATE, lambda x, _: latched.append(x), LATCHED)
    robot.subscribe("/command", m.JOINT_STATE, lambda x, _: commands.append(x))
    tell = robot.publisher("/state", m.JOINT_STATE)
    robot.publisher("/latched", m.JOINT_STATE, LATCHED)(state())
    command = policy.publisher("/command", m.JOINT_STATE)
    robot.serve("/stop", m.TRIGGER, lambda _: m.trigger(True))
    policy.serve("/told", m.TRIGGER, lambda _: told.append(1) or m.trigger(True))
    arrived(lambda: tell(state()), states)
    arrived(lambda: command(state()), commands)
    assert policy.call("/stop", m.TRIGGER, {}, 10.0)["success"]
    until(lambda: latched)
    for _ in range(2):
        policy._link._renew("is tested")
        until(lambda: policy.connected)
        states.clear(), commands.clear(), told.clear()
        arrived(lambda: tell(state()), states)
        arrived(lambda: command(state()), commands)
        assert policy.call("/stop", m.TRIGGER, {}, 10.0)["success"]
        assert robot.call("/told", m.TRIGGER, {}, 10.0)["success"] and told == [1]
    assert len(latched) == 1  # the new session asked for it again, and had it already
    undo()
    states.clear()
    for _ in range(5):
        tell(state())
    time.sleep(0.2)
    assert not states


def test_a_call_that_waits_when_the_link_falls_silent(proxied):
    robot, proxy, connect = proxied
    policy, free = connect("client"), threading.Event()
    robot.serve("/slow", m.TRIGGER, lambda _: free.wait(20.0) and m.trigger(True))
    threading.Timer(0.3, proxy.flows.clear).start()
    with pytest.raises(LinkLost):
        policy.call("/slow", m.TRIGGER, {}, 30.0)
    free.set()


@pytest.mark.parametrize("mode", ["client", "peer"])
def test_a_cut_link_is_taken_up_again(proxied, mode):
    robot, proxy, connect = proxied
    policy, heard = connect(mode), []
    policy.subscribe("/state", m.JOINT_STATE, lambda x, _: heard.append(x))
    tell = robot.publisher("/state", m.JOINT_STATE)
    arrived(lambda: tell(state()), heard)
    for _ in range(3):
        before = policy._link.renewed
        proxy.cut()
        until(lambda before=before: policy._link.renewed > before and policy.connected)
        heard.clear()
        arrived(lambda: tell(state()), heard)


def test_the_other_side_is_started_anew(open_wire, endpoint):
    first, heard = ZenohWire((), listen=[endpoint]), []
    policy = open_wire([endpoint])
    policy.subscribe("/state", m.JOINT_STATE, lambda x, _: heard.append(x["position"][0]))
    command = policy.publisher("/command", m.JOINT_STATE)
    publish = first.publisher("/state", m.JOINT_STATE)
    arrived(lambda: publish(state(1)), heard)
    first.close()

    def lost():
        try:
            command(state(-1))
        except LinkLost:
            return True

    until(lost)
    commands, second = [], open_wire((), listen=[endpoint])
    second.subscribe("/command", m.JOINT_STATE, lambda x, _: commands.append(x["position"][0]))
    publish = second.publisher("/state", m.JOINT_STATE)
    until(lambda: publish(state(2)) or 2 in heard)
    until(lambda: policy.connected)
    arrived(lambda: command(state(5)), commands)
    assert set(commands) == {5}


# --- the process itself ---------------------------------------------------------------------------


def test_a_process_that_forgets_to_close_ends_well(endpoint):
    script = (
        "from hardware.zenoh_ros import ZenohWire\n"
        f"wire = ZenohWire((), listen=['{endpoint}'])\n"
        "wire.subscribe('/x', 'sensor_msgs/msg/JointState', print)\n"
        "wire.serve('/y', 'std_srvs/srv/Trigger', print)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, env=dict(os.environ))


def test_a_closed_wire_says_so(open_wire, endpoint):
    wire = open_wire((), listen=[endpoint])
    publish = wire.publisher("/x", m.JOINT_STATE, STATE)
    wire.close()
    with pytest.raises(LinkLost, match="closed"):
        publish(state())
    with pytest.raises(LinkLost, match="closed"):
        wire.subscribe("/x", m.JOINT_STATE, print)
    assert not wire.connected

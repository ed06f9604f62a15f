"""Our bytes, keys and tokens against implementations that we did not write.

EMBODIED_ROS_PEERS_PYTHON names an interpreter that has zenoh-ros2-sdk, cyclonedds and
mcap-ros2-support; without it these tests are skipped.
"""

import json
import os
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags")
pytest.importorskip("zenoh")

from hardware import cdr, pictures
from hardware import messages as m
from hardware.wire import LATCHED, SENSOR
from hardware.zenoh_ros import ZenohWire
from tests.hardware.wires import until

PYTHON = os.environ.get("EMBODIED_ROS_PEERS_PYTHON")
HASH = "RIHS01_a13ee3a330e346c9d87b5aa18d24e11690752bd33a0350f11c5882bc9179260e"
ADD = "example_interfaces/srv/AddTwoInts"

pytestmark = pytest.mark.skipif(not PYTHON, reason="EMBODIED_ROS_PEERS_PYTHON is not set")


class Peer:
    def __init__(self):
        self.process = subprocess.Popen(
            [PYTHON, str(Path(__file__).with_name("ros_peer.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def __call__(self, do, **given):
        self.process.stdin.write(json.dumps({"do": do, **given}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the peer failed at {do}"
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)


@pytest.fixture(scope="module")
def peer():
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture(scope="module")
def graph(peer, free_port):
    """Our wire, to which a node of zenoh-ros2-sdk is connected."""
    port = free_port()
    cdr.define(ADD, "int64 a\nint64 b\n---\nint64 sum")
    with ZenohWire((), listen=[f"tcp/127.0.0.1:{port}"], node="ours") as wire:
        peer("open", port=port)
        yield wire


def state(i=0.0):
    return m.joint_state(["a", "b"], [i, 2.0], [0.5, 0.25], [], stamp=7.25, frame="base")


# --- zenoh-ros2-sdk ------------------------------------------------------------------------------


def test_it_hears_us(peer, graph):
    key = peer("subscribe", topic="/ours/joint_states")["key"]
    assert key == f"0/ours/joint_states/sensor_msgs::msg::dds_::JointState_/{HASH}"
    publish = graph.publisher("/ours/joint_states", m.JOINT_STATE, SENSOR)
    time.sleep(0.3)
    for i in range(20):
        publish(state(i))
        time.sleep(0.005)
    heard = []
    until(lambda: len(heard.extend(peer("told")["heard"]) or heard) >= 20)
    assert [message["position"][0] for message in heard] == list(range(20))
    assert heard[0] == {
        "stamp": [7, 250000000],
        "frame": "base",
        "name": ["a", "b"],
        "position": [0.0, 2.0],
        "velocity": [0.5, 0.25],
        "effort": [],
    }


def test_we_hear_it(peer, graph):
    heard = []
    undo = graph.subscribe(
        "/peer/joint_states", m.JOINT_STATE, lambda message, _: heard.append(message)
    )
    peer("publish", topic="/peer/joint_states", name=["b", "a"], position=[1.0, 2.0], times=20)
    until(lambda: len(heard) == 20)
    np.testing.assert_array_equal(m.read_joints(heard[-1], ["a", "b"]), [21.0, 20.0])
    assert heard[0]["header"] == {"stamp": {"sec": 7, "nanosec": 8}, "frame_id": "base"}
    assert not graph.dropped
    undo()


def test_a_late_subscriber_of_theirs_gets_the_latched_message(peer, graph):
    # 0.1.8 looks for publishers of "/a/b" under the token of "%a/b", so the name has no second part
    graph.publisher("/latched", m.JOINT_STATE, LATCHED)(state(5.0))
    peer("subscribe", topic="/latched", latched=True)
    heard = []
    until(lambda: heard.extend(peer("told")["heard"]) or heard)
    assert [message["position"] for message in heard] == [[5.0, 2.0]]


def test_its_tools_see_our_endpoints(peer, graph):
    graph.publisher("/ours/seen", m.JOINT_STATE, SENSOR)
    undo = graph.subscribe("/ours/seen", m.JOINT_STATE, print)
    time.sleep(0.2)
    seen = peer("topic", name="/ours/seen")
    assert seen["types"] == [m.JOINT_STATE]
    assert seen["publishers"] == seen["subscribers"] == 1
    assert ["ours", HASH, "2::,5:,:,:,,"] in seen["ends"]
    undo()
    time.sleep(0.2)
    assert peer("topic", name="/ours/seen")["subscribers"] == 0


def test_it_calls_our_service(peer, graph):
    asked = []

    def add(request):
        asked.append(request)
        return {"sum": request["a"] + request["b"]}

    undo = graph.serve("/ours/add", ADD, add)
    reply = peer("call", service="/ours/add", a=40, b=2)
    assert reply["sum"] == 42 and asked == [{"a": 40, "b": 2}]
    assert reply["key"].endswith(cdr.type_hash(ADD))
    time.sleep(0.1)
    assert ["/ours/add", [ADD]] in peer("services")["services"]
    undo()


def test_we_call_its_service(peer, graph):
    threading.Timer(0.2, lambda: peer("serve", service="/peer/add")).start()
    assert graph.call("/peer/add", ADD, {"a": 20, "b": 22}, 10.0) == {"sum": 42}
    assert graph.call("/peer/add", ADD, {"a": -1, "b": 1}, 2.0) == {"sum": 0}


# --- CycloneDDS and mcap-ros2-support -------------------------------------------------------------


@pytest.mark.parametrize("frame", ["", "a", "ab", "abc", "base_link"])  # moves all that follows
@pytest.mark.parametrize("joints", [0, 1, 7])
def test_cyclonedds_reads_and_writes_the_same_bytes(peer, frame, joints):
    names, values = [f"j{'x' * i}" for i in range(joints)], np.linspace(-3.0, 3.0, joints)
    ours = cdr.encode(
        m.JOINT_STATE, m.joint_state(names, values, values / 2, stamp=1.5, frame=frame)
    )
    theirs = peer("dds", cdr=ours.hex())
    assert theirs["message"]["position"] == values.tolist()
    assert theirs["message"]["name"] == names
    assert theirs["cdr"] == ours.hex()


STAMPED = (
    "\n" + "=" * 80 + "\nMSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n"
)
IMAGE = (
    "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\n"
    "uint32 step\nuint8[] data" + STAMPED
)
PATH = (
    "std_msgs/Header header\nstring[] joint_names\nJointTrajectoryPoint[] points"
    + STAMPED
    + "=" * 80
    + "\nMSG: trajectory_msgs/JointTrajectoryPoint\nfloat64[] positions\nfloat64[] velocities\n"
    "float64[] accelerations\nfloat64[] effort\nbuiltin_interfaces/Duration time_from_start\n"
)


def test_mcap_reads_our_pictures(peer):
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    ours = cdr.encode(pictures.IMAGE, pictures.image(pixels, stamp=2.0, frame="front"))
    read = peer("mcap", cdr=ours.hex(), kind=pictures.IMAGE, definition=IMAGE)["message"]
    assert (read["height"], read["width"], read["step"], read["encoding"]) == (4, 6, 18, "rgb8")
    assert bytes.fromhex(read["data"]) == pixels.tobytes()


def test_mcap_reads_our_trajectories(peer):
    path = m.trajectory(["a", "b"], [0.1, 1.25], np.array([[1.0, 2.0], [3.0, 4.0]]), stamp=9.5)
    ours = cdr.encode(m.TRAJECTORY, path)
    read = peer("mcap", cdr=ours.hex(), kind=m.TRAJECTORY, definition=PATH)["message"]
    assert read["joint_names"] == ["a", "b"]
    assert [point["positions"] for point in read["points"]] == [[1.0, 2.0], [3.0, 4.0]]
    assert read["points"][1]["time_from_start"] == {"sec": 1, "nanosec": 250000000}

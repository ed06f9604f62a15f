import numpy as np
import pytest

pytest.importorskip("rosbags")

from hardware import cdr
from hardware import messages as m
from hardware import pictures as p
from hardware.actions import CANCEL, STATUS
from hardware.messages import MessageError
from hardware.types import Camera
from tests.hardware.rosbridge_support import memory

GOAL = f"{m.FOLLOW_TRAJECTORY}_SendGoal_Request"
NAMES = [f"panda_joint{i}" for i in range(1, 8)]
PATH = m.trajectory(NAMES, [0.1, 0.2], np.arange(14.0).reshape(2, 7), stamp=1.0, frame="base")


def samples():
    return {
        m.JOINT_STATE: m.joint_state(NAMES, np.arange(7.0), np.arange(7.0), stamp=1.25, frame="b"),
        p.IMAGE: p.image(np.arange(60, dtype=np.uint8).reshape(4, 5, 3), stamp=1.0),
        p.COMPRESSED_IMAGE: {"header": m.header(1.0), "format": "jpeg", "data": b"\1\2\3"},
        p.CAMERA_INFO: p.camera_info(Camera("a", 4, 5, 30.0), 3.0, stamp=1.0),
        m.POSE: m.pose([1, 2, 3], [0, 0, 0, 1], stamp=1.0, frame="base"),
        m.TWIST: m.twist(np.arange(6.0), stamp=1.0, frame=""),
        m.WRENCH: m.wrench(np.arange(6.0), stamp=1.0, frame=""),
        m.TRAJECTORY: PATH,
        GOAL: {"goal_id": {"uuid": bytes(range(16))}, "goal": m.follow_goal(PATH, 0.5)},
        f"{m.FOLLOW_TRAJECTORY}_Result": {"error_code": -4, "error_string": "joint 3"},
        f"{m.GRIPPER}_Goal": m.gripper_goal(0.04, 20.0),
        f"{m.PARALLEL_GRIPPER}_Goal": m.parallel_gripper_goal("finger", 0.04, 20.0),
        f"{m.TRIGGER}_Request": {},
        f"{m.TRIGGER}_Response": m.trigger(True, "stopped"),
        m.DIAGNOSTICS: m.diagnostics([("arm", m.Level.WARN, "hot", {"t": 61})], stamp=1.0),
        m.CLOCK: m.clock(12.5),
    }


def same(a, b):
    if isinstance(a, dict):
        return all(same(value, b[key]) for key, value in a.items())
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, bytes | np.ndarray):
        return bytes(memoryview(a)) == bytes(memoryview(b))
    return a == b


@pytest.mark.parametrize("kind", samples())
def test_there_and_back(kind):
    message = samples()[kind]
    data = cdr.encode(kind, message)
    assert data[:4] == b"\0\1\0\0" and same(message, cdr.decode(kind, data))
    assert cdr.encode(kind, cdr.decode(kind, data)) == data


def test_golden_bytes():
    message = m.joint_state(["a", "bc"], [1.0, -2.0], [0.5, 0.25], stamp=1.5, frame="x")
    assert cdr.encode(m.JOINT_STATE, message) == bytes.fromhex(
        "00010000"  # little-endian CDR
        "01000000" "0065cd1d"  # 1 s, 500,000,000 ns
        "02000000" "7800" "0000"  # "x" with its end, to the next multiple of four
        "02000000" "02000000" "6100" "0000" "03000000" "626300" "00"  # names
        "02000000" "000000000000f03f" "00000000000000c0"  # position, at 40: a multiple of eight
        "02000000" "00000000" "000000000000e03f" "000000000000d03f"  # velocity, from 60 to 64
        "00000000"  # no effort
    )  # fmt: skip


def test_a_message_without_fields_is_one_byte():
    assert cdr.encode(f"{m.TRIGGER}_Request", {}) == b"\0\1\0\0\0"
    assert cdr.decode(f"{m.TRIGGER}_Request", b"\0\1\0\0\0") == {}


def test_big_endian_is_read():
    data = b"\0\0\0\0" + (7).to_bytes(4, "big") + (9).to_bytes(4, "big")
    assert cdr.decode(m.CLOCK, data) == {"clock": {"sec": 7, "nanosec": 9}}


def test_what_is_left_out_is_zero_or_empty():
    message = cdr.decode(p.IMAGE, cdr.encode(p.IMAGE, {}))
    assert message["height"] == 0 and message["encoding"] == "" and len(message["data"]) == 0
    pose = cdr.decode(p.CAMERA_INFO, cdr.encode(p.CAMERA_INFO, {}))
    assert pose["k"].tolist() == [0.0] * 9


# As ROS 2 Jazzy and later compute them: the first from `ros2 topic info -v`, those of services and
# actions from rmw_zenoh's design document and from the type descriptions that ROS installs.
HASHES = {
    m.JOINT_STATE: "a13ee3a330e346c9d87b5aa18d24e11690752bd33a0350f11c5882bc9179260e",
    "std_msgs/msg/String": "df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18",
    m.TRIGGER: "eeff2cd6fa5ad9d27cdf4dec64818317839b62f212a91e6b5304b634b2062c5f",
    CANCEL: "573d8b0a534451d7bc2ac8c5ffde8ac14b8593b7001175d0cd6516dcbeb8689a",
    STATUS: "6c1684b00f177d37438febe6e709fc4e2b0d4248dca4854946f9ed8b30cda83e",
}
FIBONACCI = {
    "": "9508051da1ea4658de144b09bd0690ff3de52104683d847aed764d2915906f51",
    "_Goal": "226cb437e4355dcd3e914f930382a3b0cc1da81545bd319ed554e95a03255f51",
    "_SendGoal": "d1a57fb2a4afe8c21e34fb10db206f16ce6729b28531141472df92277c55b557",
    "_GetResult": "1b0de0d5d29dc955d92f546706568428632771db13ec84c15ec1c1a59f424a57",
    "_FeedbackMessage": "c1de71afd52e49a89c53d8262366884185bc0a02f78ce051c4e46b0a7fe59bb2",
}


@pytest.mark.parametrize("kind", HASHES)
def test_hashes_of_types(kind):
    assert cdr.type_hash(kind) == f"RIHS01_{HASHES[kind]}"


def test_hashes_of_what_a_lab_defines():
    add, fibonacci = "example_interfaces/srv/AddTwoInts", "example_interfaces/action/Fibonacci"
    cdr.define(add, "int64 a\nint64 b\n---\nint64 sum")
    golden = "RIHS01_e118de6bf5eeb66a2491b5bda11202e7b68f198d6f67922cf30364858239c81a"
    assert cdr.type_hash(add) == golden
    cdr.define(fibonacci, "int32 order # of it\n---\nint32[] sequence\n---\nint32[] sequence\n")
    for part, value in FIBONACCI.items():
        assert cdr.type_hash(fibonacci + part) == f"RIHS01_{value}"


def test_definitions_that_are_refused():
    with pytest.raises(MessageError, match="1 parts between ---, but a srv has 2"):
        cdr.define("my/srv/A", "int32 a")
    with pytest.raises(MessageError, match="my/msg/A"):
        cdr.define("my/msg/A", "int32 32")
    with pytest.raises(MessageError, match="different definition"):
        cdr.define(f"{m.TRIGGER}", "int32 a\n---\nbool success")


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"positions": []}, "no field positions; there are effort, header, name, position"),
        ({"name": "ab"}, "name: str where a list belongs"),
        ({"name": [1]}, "name: int where a text belongs"),
        ({"position": [[1.0]]}, r"position: array of shape \[1, 1\], not \[n\]"),
        ({"position": ["a"]}, "position: could not convert"),
        ({"header": 3}, "header: int where a dict of fields belongs"),
        ({"header": {"stamp": {"sec": 2**31}}}, "sec: 2147483648 is not a int32"),
        ({"header": {"stamp": {"nanosec": 0.5}}}, "nanosec: 0.5 is not a uint32"),
        ({"header": {"stamp": {"sec": float("nan")}}}, "sec: cannot convert"),
    ],
)
def test_messages_that_do_not_fit(message, error):
    with pytest.raises(MessageError, match=error):
        cdr.encode(m.JOINT_STATE, message)


def test_more_that_does_not_fit():
    with pytest.raises(MessageError, match="uuid: array of shape"):
        cdr.encode("unique_identifier_msgs/msg/UUID", {"uuid": bytes(15)})
    with pytest.raises(MessageError, match="data: "):
        cdr.encode(p.IMAGE, {"data": [256]})
    with pytest.raises(MessageError, match="data: "):
        cdr.encode(p.IMAGE, {"data": np.array([0.5])})
    with pytest.raises(MessageError, match=r"unknown type .*near it: sensor_msgs/msg/JointState"):
        cdr.encode("sensor_msgs/msg/JointStates", {})


@pytest.mark.parametrize("kind", samples())
def test_bytes_that_are_of_no_message(kind):
    """Cut off at every place, with flipped bits, and at random: an error, or some message."""
    data, rng = cdr.encode(kind, samples()[kind]), np.random.default_rng(0)
    for end in range(4 if len(data) == 5 else len(data) - 3):  # ROS pads to four bytes
        with pytest.raises(MessageError):
            cdr.decode(kind, data[:end])
    for i in range(150):
        broken = bytearray(data) if i % 2 else bytearray(data[:4] + rng.bytes(len(data)))
        for place in rng.integers(0, len(data), 3):
            broken[place] = rng.choice([0, 255, int(rng.integers(256))])
        try:
            cdr.decode(kind, bytes(broken))
        except MessageError:
            continue


@pytest.mark.parametrize("kind", samples())
def test_lengths_that_lie(kind):
    """Every four bytes of a message, replaced by lengths up to 4 GB: an error, or some message."""
    data = cdr.encode(kind, samples()[kind])
    before = memory()
    for place in range(4, len(data) - 3, 4):
        for length in (0xFFFFFFFF, 0x7FFFFFFF, 0x40000000, 0x10000, len(data)):
            lie = data[:place] + length.to_bytes(4, "little") + data[place + 4 :]
            try:
                cdr.decode(kind, lie)
            except MessageError:
                continue
    assert memory() - before < 50e6


def test_many_parts_are_refused_before_they_are_built():
    points = {"points": [{"positions": [0.0]}] * 30_000}
    with pytest.raises(MessageError, match="bytes; such a message has at most"):
        cdr.decode(m.TRAJECTORY, cdr.encode(m.TRAJECTORY, points))
    cloud = {"data": bytes(2**20)}  # whose fields are a list of messages, but the rest are bytes
    for kind in (p.IMAGE, "sensor_msgs/msg/PointCloud2"):
        assert len(cdr.decode(kind, cdr.encode(kind, cloud))["data"]) == 2**20
    floats = {"data": np.zeros(2**18)}
    with pytest.raises(MessageError, match="at most"):  # its layout is a list of messages
        kind = "std_msgs/msg/Float64MultiArray"
        cdr.decode(kind, cdr.encode(kind, floats))


def test_a_length_of_gigabytes_is_refused_at_once():
    data = bytearray(cdr.encode(p.IMAGE, samples()[p.IMAGE]))
    place = data.rindex((60).to_bytes(4, "little"), 0, len(data) - 50)
    data[place : place + 4] = b"\xff\xff\xff\x7f"
    with pytest.raises(MessageError, match="Invalid sequence length"):
        cdr.decode(p.IMAGE, bytes(data))

"""Our wire against itself on loopback."""

import threading
import time

import numpy as np
import pytest

pytest.importorskip("zenoh")
pytest.importorskip("rosbags")

from hardware import messages as m
from hardware import pictures as p
from hardware.errors import HardwareError
from hardware.messages import MessageError
from hardware.wire import COMMAND, LATCHED, SENSOR, GoalStatus, Qos
from hardware.zenoh_names import Attachment, Node, data_key, dds_type, qos_text, read_attachment
from hardware.zenoh_ros import ZenohWire
from tests.hardware.wires import arrived, state, until

# --- names: as in rmw_zenoh's design document -----------------------------------------------------


def test_golden_names():
    chatter = "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18"
    assert data_key(0, "/robot1/chatter", "std_msgs/msg/String", chatter) == (
        f"0/robot1/chatter/std_msgs::msg::dds_::String_/{chatter}"
    )
    assert dds_type("control_msgs/action/FollowJointTrajectory_SendGoal") == (
        "control_msgs::action::dds_::FollowJointTrajectory_SendGoal_"
    )
    node = Node(2, "aac3178e146ba6f1fc6e6a4085e77f21", "talker")
    assert node.token == "@ros2_lv/2/aac3178e146ba6f1fc6e6a4085e77f21/0/0/NN/%/%/talker"
    assert node.endpoint(10, "MP", "/chatter", "std_msgs/msg/String", chatter, SENSOR) == (
        "@ros2_lv/2/aac3178e146ba6f1fc6e6a4085e77f21/0/10/MP/%/%/talker/%chatter/"
        f"std_msgs::msg::dds_::String_/{chatter}/2::,5:,:,:,,"
    )
    left = Node(0, "ab", "talker", "/left/arm")
    assert left.token == "@ros2_lv/0/ab/0/0/NN/%/%left%arm/talker"


@pytest.mark.parametrize(
    ("qos", "text"),
    [
        (Qos(depth=10), "::,10:,:,:,,"),
        (COMMAND, "::,1:,:,:,,"),
        (SENSOR, "2::,5:,:,:,,"),
        (LATCHED, ":1:,1:,:,:,,"),
    ],
)
def test_golden_qos(qos, text):
    assert qos_text(qos) == text


def test_golden_attachment():
    packed = Attachment(1, 2, bytes(range(16))).pack()
    assert packed.hex() == (
        "0100000000000000" "0200000000000000" "10" "000102030405060708090a0b0c0d0e0f"
    )  # fmt: skip
    assert read_attachment(packed) == Attachment(1, 2, bytes(range(16)))
    for broken in (packed[:-1], packed + b"\0", b"", packed[:16] + b"\x0f" + packed[17:]):
        with pytest.raises(ValueError, match="attachment"):
            read_attachment(broken)


@pytest.mark.parametrize("name", ["", "/", "/1a", "/a//b", "/a b", "/a/*", "/a$b", "/a?x"])
def test_names_that_ros_does_not_allow(pair, name):
    with pytest.raises(ValueError, match="no ROS name"):
        pair[0].publisher(name, m.JOINT_STATE)


# --- topics ---------------------------------------------------------------------------------------


def test_topics_both_ways(pair):
    robot, policy = pair
    states, commands = [], []
    policy.subscribe("joint_states", m.JOINT_STATE, lambda x, at: states.append((x, at)), SENSOR)
    robot.subscribe("/command", m.TRAJECTORY, lambda x, at: commands.append(x))
    publish = robot.publisher("/joint_states", m.JOINT_STATE, SENSOR)
    before = time.monotonic()
    arrived(lambda: publish(state(3.0)), states)
    assert m.read_joints(states[0][0], ["a"]).tolist() == [3.0]
    assert before <= states[0][1] <= time.monotonic()
    path = m.trajectory(["a"], [0.1], np.ones((1, 1)))
    command = policy.publisher("/command", m.TRAJECTORY)
    arrived(lambda: command(path), commands)
    assert m.read_trajectory(commands[0], ["a"])[1].tolist() == [[1.0]]
    until(lambda: robot.connected and policy.connected)
    assert not robot.dropped and not policy.dropped


def test_a_picture(pair):
    heard, pixels = [], np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    pair[1].subscribe("/image", p.IMAGE, lambda x, _: heard.append(p.read_image(x)), SENSOR)
    publish = pair[0].publisher("/image", p.IMAGE, SENSOR)
    arrived(lambda: publish(p.image(pixels, stamp=1.0)), heard)
    np.testing.assert_array_equal(heard[0], pixels)


def test_a_late_subscriber_gets_the_last_latched_message_and_no_old_command(pair):
    latched = pair[0].publisher("/latched", m.JOINT_STATE, LATCHED)
    command = pair[0].publisher("/command", m.JOINT_STATE, COMMAND)
    for i in range(3):
        latched(state(i))
        command(state(i))
    heard, commands = [], []
    pair[1].subscribe("/command", m.JOINT_STATE, lambda x, _: commands.append(x), LATCHED)
    pair[1].subscribe("/latched", m.JOINT_STATE, lambda x, _: heard.append(x), LATCHED)
    until(lambda: heard)
    assert [m.read_joints(x, ["a"])[0] for x in heard] == [2.0] and commands == []


def test_a_slow_receiver_gets_the_newest(pair):
    robot, policy = pair
    heard, free = [], threading.Event()

    def slow(message, _):
        heard.append(m.read_joints(message, ["a"])[0])
        free.wait(20.0)

    policy.subscribe("/x", m.JOINT_STATE, slow, Qos(depth=2))
    publish = robot.publisher("/x", m.JOINT_STATE)
    arrived(lambda: publish(state(-1.0)), heard)
    for i in range(50):
        publish(state(i))
        time.sleep(0.005)  # a full sending queue would drop some, as it should
    time.sleep(0.3)
    free.set()
    until(lambda: len(heard) >= 3)
    time.sleep(0.1)
    assert heard[0] == -1.0 and len(heard) == 3 and 40 <= heard[1] < heard[2]


def test_what_is_ended_is_not_called_again(pair):
    robot, policy = pair
    heard, ends = [], []

    def once(message, _):
        heard.append(message)
        ends[0]()

    ends.append(policy.subscribe("/x", m.JOINT_STATE, once))
    publish = robot.publisher("/x", m.JOINT_STATE)
    arrived(lambda: publish(state()), heard)
    for _ in range(20):
        publish(state())
    time.sleep(0.2)
    assert len(heard) == 1


def test_a_receiver_that_fails_is_counted_and_called_again(pair):
    robot, policy = pair
    heard = []

    def failing(message, _):
        heard.append(message)
        raise RuntimeError("on purpose")

    policy.subscribe("/x", m.JOINT_STATE, failing)
    publish = robot.publisher("/x", m.JOINT_STATE)
    until(lambda: publish(state()) or len(heard) > 3)
    assert policy.dropped["receiver failed"] >= 3


def test_a_message_that_does_not_fit_is_not_published(open_wire, endpoint):
    wire = open_wire((), listen=[endpoint], largest=1000)
    with pytest.raises(MessageError, match="no field positon"):
        wire.publisher("/x", m.JOINT_STATE)({"positon": []})
    with pytest.raises(MessageError, match="unknown type"):
        wire.publisher("/x", "sensor_msgs/msg/Joint")
    with pytest.raises(MessageError, match="more than 1000"):
        wire.publisher("/x", p.IMAGE)(p.image(np.zeros((20, 20, 3), np.uint8), stamp=1.0))


def test_domains_are_apart_and_humble_has_no_hashes(open_wire, endpoint, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    old = open_wire((), listen=[endpoint], type_hashes=False)
    monkeypatch.delenv("ROS_DOMAIN_ID")
    same = open_wire([endpoint], domain=7, type_hashes=False)
    other, newer = open_wire([endpoint], type_hashes=False), open_wire([endpoint], domain=7)
    heard, none = [], []
    same.subscribe("/x", m.JOINT_STATE, lambda x, _: heard.append(x))
    for wire in (other, newer):
        wire.subscribe("/x", m.JOINT_STATE, lambda x, _: none.append(x))
    publish = old.publisher("/x", m.JOINT_STATE)
    arrived(lambda: publish(state()), heard)
    until(lambda: publish(state()) or newer.dropped["wrong type"])
    assert not none and not other.dropped
    with pytest.raises(ValueError, match="0 to 232"):
        ZenohWire(domain=233)


def test_a_router_between(open_wire, endpoint):
    """As with rmw_zenohd: everybody is a client of the router."""
    open_wire((), listen=[endpoint], mode="router", node="router")
    robot, policy = open_wire([endpoint], node="robot"), open_wire([endpoint], node="policy")
    heard = []
    policy.subscribe("/x", m.JOINT_STATE, lambda x, _: heard.append(x))
    publish = robot.publisher("/x", m.JOINT_STATE)
    arrived(lambda: publish(state()), heard)
    robot.serve("/stop", m.TRIGGER, lambda _: m.trigger(True, "stopped"))
    assert policy.call("/stop", m.TRIGGER, {}, 5.0) == {"success": True, "message": "stopped"}


# --- services and actions -------------------------------------------------------------------------


def test_services(pair, caplog):
    robot, policy = pair
    robot.serve("/stop", m.TRIGGER, lambda _: m.trigger(True, "stopped"))
    for _ in range(3):
        assert policy.call("/stop", m.TRIGGER, {}, 5.0) == {"success": True, "message": "stopped"}
    with pytest.raises(TimeoutError, match=r"/none: no server of type std_srvs/srv/Trigger"):
        policy.call("/none", m.TRIGGER, {}, 0.1)

    def fails(_):
        raise RuntimeError("the arm is on fire")

    robot.serve("/fails", m.TRIGGER, fails)
    with pytest.raises(HardwareError, match="the arm is on fire"):
        policy.call("/fails", m.TRIGGER, {}, 5.0)
    robot.serve("/wrong", m.TRIGGER, lambda _: {"succes": True})
    with pytest.raises(HardwareError, match="no field succes"):
        policy.call("/wrong", m.TRIGGER, {}, 5.0)
    free = threading.Event()
    robot.serve("/slow", m.TRIGGER, lambda _: free.wait(20.0) and m.trigger(True))
    with pytest.raises(TimeoutError, match=r"/slow: no answer within 0\.2 s"):
        policy.call("/slow", m.TRIGGER, {}, 0.2)
    free.set()


def test_a_server_starts_after_the_call(pair):
    robot, policy = pair
    stop = threading.Timer(0.2, lambda: robot.serve("/stop", m.TRIGGER, lambda _: m.trigger(True)))
    stop.start()
    assert policy.call("/stop", m.TRIGGER, {}, 10.0)["success"]
    stop.join()


def follow(goal):
    for i in range(len(goal.request["trajectory"]["points"])):
        goal.feedback({"joint_names": ["a"], "actual": {"positions": [i]}})
    while not goal.cancelled and not len(goal.request["trajectory"]["points"]):
        time.sleep(0.005)
    if goal.cancelled:
        return GoalStatus.CANCELED, {"error_string": "as asked"}
    return GoalStatus.SUCCEEDED, {"error_code": 0, "error_string": "there"}


def path(points):
    times = 0.1 * np.arange(1, points + 1)
    return m.follow_goal(m.trajectory(["a"], times, np.zeros((points, 1))))


def test_an_action_succeeds(pair):
    robot, policy = pair
    robot.serve_action("/arm/follow", m.FOLLOW_TRAJECTORY, follow)
    statuses, told = [], []
    policy.subscribe(
        "/arm/follow/_action/status",
        "action_msgs/msg/GoalStatusArray",
        lambda x, _: statuses.append([s["status"] for s in x["status_list"]]),
        LATCHED,
    )
    pursuit = policy.send_goal("/arm/follow", m.FOLLOW_TRAJECTORY, path(3), told.append, 10.0)
    for _ in range(2):  # the result is kept
        status, result = pursuit.result(10.0)
        assert (status, result["error_string"]) == (GoalStatus.SUCCEEDED, "there")
    until(lambda: statuses and statuses[-1] == [GoalStatus.SUCCEEDED])
    assert {x["actual"]["positions"][0] for x in told} <= {0.0, 1.0, 2.0}


def test_an_action_is_cancelled(pair):
    robot, policy = pair
    robot.serve_action("/arm/follow", m.FOLLOW_TRAJECTORY, follow)
    pursuit = policy.send_goal("/arm/follow", m.FOLLOW_TRAJECTORY, path(0), timeout=10.0)
    with pytest.raises(TimeoutError):
        pursuit.result(0.1)
    pursuit.cancel()
    status, result = pursuit.result(10.0)
    assert (status, result["error_string"]) == (GoalStatus.CANCELED, "as asked")


def test_actions_that_fail(pair, caplog):
    robot, policy = pair

    def breaks(goal):
        raise RuntimeError("on purpose")

    undo = robot.serve_action("/breaks", m.GRIPPER, breaks)
    goal = m.gripper_goal(0.04, 20.0)
    pursuit = policy.send_goal("/breaks", m.GRIPPER, goal, timeout=10.0)
    assert pursuit.result(10.0)[0] == GoalStatus.ABORTED
    undo()
    robot.serve_action("/breaks", m.GRIPPER, breaks)  # started anew: the goal is not known
    with pytest.raises(HardwareError, match="does not know this goal"):
        pursuit.result(10.0)
    robot.serve_action("/arm", m.FOLLOW_TRAJECTORY, follow)
    held = [policy.send_goal("/arm", m.FOLLOW_TRAJECTORY, path(0), timeout=10.0) for _ in range(8)]
    with pytest.raises(HardwareError, match="rejected"):
        policy.send_goal("/arm", m.FOLLOW_TRAJECTORY, path(0), timeout=10.0)
    for pursuit in held:
        pursuit.cancel()
    with pytest.raises(TimeoutError, match="no server"):
        policy.send_goal("/nobody", m.GRIPPER, goal, timeout=0.1)

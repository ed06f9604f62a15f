import subprocess
import sys

import numpy as np
import pytest

from hardware import load_limits
from hardware import messages as m
from hardware import pictures as p
from hardware.messages import MessageError
from hardware.types import Camera, RobotState

SPEC = load_limits("panda").spec("arm")
FINGERS = ("finger1", "finger2")


def state(**changes):
    fields = {
        "stamp": 5.0,
        "position": np.arange(7.0),
        "velocity": np.arange(7.0) / 10,
        "effort": -np.arange(7.0),
        "gripper": 0.06,
    }
    return RobotState(**fields | changes)


# --- without any library of a wire ----------------------------------------------------------------


def test_messages_need_no_wire_library():
    check = (
        "import sys; sys.modules.update(rosbags=None, zenoh=None, websockets=None, PIL=None);"
        "import hardware.messages, hardware.pictures, hardware.zenoh_names, hardware.rclpy_wire"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


@pytest.mark.parametrize("module", ["hardware.zenoh_ros", "hardware.cdr"])
def test_a_missing_library_names_the_extra(module):
    use = {"hardware.zenoh_ros": "ZenohWire()", "hardware.cdr": "type_hash('a/msg/B')"}[module]
    check = (
        "import sys; sys.modules.update(rosbags=None, zenoh=None)\n"
        f"import {module} as wire\n"
        f"try: wire.{use}\n"
        "except ImportError as error: assert 'embodied[hardware]' in str(error), error\n"
        "else: raise SystemExit('no error')"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "sec", "nanosec"),
    [(0.0, 0, 0), (1.5, 1, 500_000_000), (0.9999999999, 1, 0), (-0.25, -1, 750_000_000)],
)
def test_time(value, sec, nanosec):
    assert m.time_message(value) == {"sec": sec, "nanosec": nanosec}
    assert m.seconds(m.time_message(value)) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2.0**31])
def test_a_time_that_does_not_fit(value):
    with pytest.raises(MessageError, match="does not fit"):
        m.time_message(value)


def test_not_a_time():
    with pytest.raises(MessageError, match="not a time"):
        m.seconds({"secs": 1})


# --- joints ---------------------------------------------------------------------------------------


def test_a_state_there_and_back():
    message = m.state_message(state(), SPEC, stamp=1e9, fingers=FINGERS)
    assert message["name"] == [*SPEC.names, *FINGERS] and message["position"][-1] == 0.03
    back = m.robot_state(message, SPEC, arrived=5.0, fingers=FINGERS)
    for field in ("stamp", "position", "velocity", "effort", "gripper"):
        np.testing.assert_allclose(getattr(back, field), getattr(state(), field))


def test_joints_are_found_by_name():
    message = m.state_message(state(), SPEC, stamp=1.0)
    order = [3, 0, 6, 2, 5, 1, 4]
    for key in ("name", "position", "velocity", "effort"):
        message[key] = [message[key][i] for i in order]
    message["name"].insert(2, "a wheel")
    for key in ("position", "velocity", "effort"):
        message[key].insert(2, 1e9)
    back = m.robot_state(message, SPEC, arrived=5.0)
    np.testing.assert_array_equal(back.position, state().position)
    np.testing.assert_array_equal(back.effort, state().effort)


def test_a_missing_joint_is_named():
    message = m.state_message(state(), SPEC, stamp=1.0)
    message["name"][2] = "joint3"
    with pytest.raises(MessageError, match="no joint panda_joint3; there are panda_joint1"):
        m.robot_state(message, SPEC, arrived=5.0)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"position": []}, "0 of position for 7 joints"),
        ({"velocity": []}, "0 of velocity for 7 joints"),
        ({"velocity": [0.0] * 6}, "6 of velocity for 7 joints"),
        ({"position": ["a"] * 7}, "position are not numbers"),
        ({"name": ["panda_joint1"] * 7}, "no joint panda_joint2"),
        ({"name": [*SPEC.names, "panda_joint1"]}, "named twice"),
    ],
)
def test_a_joint_state_that_is_not_whole(change, error):
    message = m.state_message(state(), SPEC, stamp=1.0) | change
    with pytest.raises(MessageError, match=error):
        m.robot_state(message, SPEC, arrived=5.0)


def test_effort_may_be_left_out_and_nan_is_kept_for_the_envelope():
    message = m.joint_state(SPEC.names, [float("nan")] * 7, [0.0] * 7, stamp=1.0)
    back = m.robot_state(message, SPEC, arrived=5.0)
    assert np.isnan(back.position).all() and not back.effort.any()


def test_a_joint_state_of_unequal_lengths_is_not_made():
    with pytest.raises(MessageError, match="2 positions for 1 names"):
        m.joint_state(["a"], [1.0, 2.0], stamp=0.0)


def test_a_trajectory_there_and_back():
    times, positions = np.array([0.1, 0.25]), np.array([[1.0, 2.0], [3.0, 4.0]])
    message = m.trajectory(["a", "b"], times, positions, 2 * positions, stamp=3.0)
    read = m.read_trajectory(message, ["b", "a"])
    np.testing.assert_allclose(read[0], times)
    np.testing.assert_array_equal(read[1], positions[:, ::-1])
    np.testing.assert_array_equal(read[2], 2 * positions[:, ::-1])
    assert m.read_trajectory(m.trajectory(["a", "b"], times, positions), ["a", "b"])[2] is None


def test_trajectories_that_are_refused():
    with pytest.raises(MessageError, match="times must rise"):
        m.trajectory(["a"], [0.2, 0.2], np.zeros((2, 1)))
    with pytest.raises(MessageError, match=r"of shape \(1, 2\)"):
        m.trajectory(["a", "b"], [0.2], np.zeros((1, 1)))
    message = m.trajectory(["a"], [0.1, 0.2], np.zeros((2, 1)))
    message["points"].reverse()
    with pytest.raises(MessageError, match="times must rise"):
        m.read_trajectory(message, ["a"])
    with pytest.raises(MessageError, match="no joint b"):
        m.read_trajectory(message, ["a", "b"])


def test_poses_velocities_and_forces_there_and_back():
    message = m.pose([1, 2, 3], [0, 0, 0.6, 0.8], stamp=1.0, frame="base")
    position, quaternion = m.read_pose(message)
    assert position.tolist() == [1, 2, 3] and quaternion.tolist() == [0, 0, 0.6, 0.8]
    values = np.arange(6.0)
    assert m.read_twist(m.twist(values, stamp=1.0, frame="")).tolist() == values.tolist()
    assert m.read_wrench(m.wrench(values, stamp=1.0, frame="")).tolist() == values.tolist()
    message["pose"]["orientation"]["w"] = float("nan")
    with pytest.raises(MessageError, match="not of length 1"):
        m.read_pose(message)
    with pytest.raises(MessageError, match="no field 'wrench'"):
        m.read_wrench({})


# --- pictures -------------------------------------------------------------------------------------

PIXELS = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "8UC3"])
def test_a_picture_there_and_back(encoding):
    given = PIXELS[..., ::-1] if encoding == "bgr8" else PIXELS
    message = p.image(given, stamp=1.0, encoding=encoding)
    assert (message["height"], message["width"], message["step"]) == (4, 5, 15)
    np.testing.assert_array_equal(p.read_image(message), PIXELS)
    message["data"] = message["data"].tobytes()
    np.testing.assert_array_equal(p.read_image(message), PIXELS)


def test_pictures_with_alpha_grey_and_padded_rows():
    four = np.concatenate([PIXELS[..., ::-1], PIXELS[..., :1]], axis=2)
    np.testing.assert_array_equal(p.read_image(p.image(four, stamp=1.0, encoding="bgra8")), PIXELS)
    grey = p.read_image(p.image(PIXELS[..., 0], stamp=1.0, encoding="mono8"))
    np.testing.assert_array_equal(grey, np.repeat(PIXELS[..., :1], 3, axis=2))
    message = p.image(PIXELS, stamp=1.0)
    padded = np.zeros((4, 16), np.uint8)
    padded[:, :15] = PIXELS.reshape(4, 15)
    message |= {"step": 16, "data": padded.reshape(-1)}
    np.testing.assert_array_equal(p.read_image(message), PIXELS)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"encoding": "16UC1"}, "encoding '16UC1'; known are rgb8"),
        ({"height": 5}, "does not fit into 60 bytes"),
        ({"step": 14}, "rows of 14 bytes"),
        ({"width": 2**31}, "does not fit"),
        ({"data": "text"}, "image: "),
        ({"height": None}, "image: "),
    ],
)
def test_pictures_that_are_refused(change, error):
    with pytest.raises(MessageError, match=error):
        p.read_image(p.image(PIXELS, stamp=1.0) | change)


def test_a_picture_of_another_shape_than_its_encoding_is_not_made():
    with pytest.raises(MessageError, match="mono8 does not fit"):
        p.image(PIXELS, stamp=1.0, encoding="mono8")
    with pytest.raises(MessageError, match="rgb8 does not fit float64"):
        p.image(PIXELS / 2, stamp=1.0)


def test_compressed_pictures():
    pytest.importorskip("PIL")
    smooth = np.full((16, 24, 3), (10, 120, 240), np.uint8)
    read = p.read_compressed_image(p.compressed_image(smooth, stamp=1.0))
    assert read.shape == smooth.shape and np.abs(read.astype(int) - smooth).max() < 8
    for data in (b"", b"\xff\xd8garbage", b"GIF89a" + bytes(50)):
        with pytest.raises(MessageError, match="neither JPEG nor PNG"):
            p.read_compressed_image({"data": data})


def test_camera_info():
    info = p.camera_info(Camera("front", 480, 640, 30.0), 500.0, stamp=1.0)
    np.testing.assert_array_equal(
        info["k"].reshape(3, 3), [[500, 0, 320], [0, 500, 240], [0, 0, 1]]
    )

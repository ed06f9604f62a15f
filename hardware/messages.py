"""The ROS 2 messages a manipulation policy needs, made of our values and read back.

A message is a dict with its type's fields (`hardware.wire`), so both transports use these functions
and neither library is needed for them. Joints are matched by name, never by place. Times in headers
are seconds since 1970 on the sender's clock; readers never compare them with their own.
"""

import enum
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hardware.errors import HardwareError
from hardware.types import RobotState, Spec
from hardware.wire import Message

JOINT_STATE = "sensor_msgs/msg/JointState"
POSE = "geometry_msgs/msg/PoseStamped"
TWIST = "geometry_msgs/msg/TwistStamped"
WRENCH = "geometry_msgs/msg/WrenchStamped"
LIFECYCLE = "lifecycle"  # key of a robot's diagnosis
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
CLOCK = "rosgraph_msgs/msg/Clock"
TRIGGER = "std_srvs/srv/Trigger"
FOLLOW_TRAJECTORY = "control_msgs/action/FollowJointTrajectory"
GRIPPER = "control_msgs/action/GripperCommand"
PARALLEL_GRIPPER = "control_msgs/action/ParallelGripperCommand"


class MessageError(HardwareError, ValueError):
    """A message does not have what is needed of it; the error says what and where."""


class FollowError(enum.IntEnum):
    """`error_code` of FollowJointTrajectory's result."""

    SUCCESSFUL = 0
    INVALID_GOAL = -1
    INVALID_JOINTS = -2
    OLD_HEADER_TIMESTAMP = -3
    PATH_TOLERANCE_VIOLATED = -4
    GOAL_TOLERANCE_VIOLATED = -5


class Level(enum.IntEnum):
    """`level` of a DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


# --- time ---------------------------------------------------------------------------------------


def time_message(seconds: float) -> Message:
    """Returns builtin_interfaces Time (or Duration) of s; raises MessageError if it is too long."""
    if not (math.isfinite(seconds) and -(2**31) <= seconds < 2**31 - 1):
        raise MessageError(f"a time of {seconds} s does not fit into a ROS time")
    nanoseconds = round(seconds * 1e9)
    return {"sec": nanoseconds // 10**9, "nanosec": nanoseconds % 10**9}


def seconds(message: Mapping[str, Any]) -> float:
    """Returns s of a Time or Duration."""
    try:
        return float(message["sec"]) + float(message["nanosec"]) * 1e-9
    except (KeyError, TypeError, ValueError) as error:
        raise MessageError(f"not a time: {message!r}") from error


def header(stamp: float, frame: str = "") -> Message:
    """Returns a std_msgs Header of a stamp in s since 1970."""
    return {"stamp": time_message(stamp), "frame_id": frame}


def clock(now: float) -> Message:
    """Returns a rosgraph_msgs Clock."""
    return {"clock": time_message(now)}


# --- joints -------------------------------------------------------------------------------------


def joint_state(
    names: Sequence[str],
    position: Sequence[float] | np.ndarray,
    velocity: Sequence[float] | np.ndarray = (),
    effort: Sequence[float] | np.ndarray = (),
    *,
    stamp: float,
    frame: str = "",
) -> Message:
    """Returns a JointState; `velocity` and `effort` may be empty.

    Args:
        names: of the joints, [n].
        position: rad, [n].
        velocity: rad/s, [n] or [0].
        effort: N m, [n] or [0].
        stamp: s since 1970.
        frame: of the header.
    """
    message: Message = {"header": header(stamp, frame), "name": list(names)}
    for key, value in (("position", position), ("velocity", velocity), ("effort", effort)):
        message[key] = np.asarray(value, np.float64)
        if message[key].size not in (len(names), 0):
            raise MessageError(f"joint state: {message[key].size} {key}s for {len(names)} names")
    return message


def read_joints(
    message: Mapping[str, Any], names: Sequence[str], key: str = "position"
) -> np.ndarray:
    """Returns one of a JointState's arrays in the order of `names`.

    Args:
        message: a JointState; it may hold further joints.
        names: [n].
        key: "position", "velocity" or "effort".

    Returns:
        [n], float64.

    Raises:
        MessageError: a joint is missing or named twice, or the array is empty or of another length.
    """
    order = _order(field(message, "name", "joint state"), names, "joint state")
    return _numbers(message, key, "joint state", len(message["name"]))[order]


def state_message(
    state: RobotState, spec: Spec, *, stamp: float, fingers: Sequence[str] = ()
) -> Message:
    """Returns the JointState of a robot.

    Args:
        state: of the robot.
        spec: names its joints.
        stamp: s since 1970 when `state` was acquired (`state.stamp` is on another clock).
        fingers: the gripper's joints, which share its opening equally.
    """
    rest = np.zeros(len(fingers))
    return joint_state(
        [*spec.names, *fingers],
        np.append(state.position, rest + state.gripper / max(len(fingers), 1)),
        np.append(state.velocity, rest),
        np.append(state.effort, rest),
        stamp=stamp,
    )


def robot_state(
    message: Mapping[str, Any], spec: Spec, *, arrived: float, fingers: Sequence[str] = ()
) -> RobotState:
    """Returns the state that a JointState tells of.

    Velocity is needed, since the envelope asks whether the arm stands still; a robot that does not
    tell its effort has zeros.

    Args:
        message: a JointState; it may hold further joints, in any order.
        spec: names the joints.
        arrived: s on this machine's monotonic clock; the message's own stamp is on another one.
        fingers: the gripper's joints; its opening is their sum.

    Raises:
        MessageError: a joint, or the arrays of positions or velocities, are missing.
    """
    effort = np.zeros(len(spec.names))
    if len(message.get("effort", ())):
        effort = read_joints(message, spec.names, "effort")
    return RobotState(
        arrived,
        read_joints(message, spec.names),
        read_joints(message, spec.names, "velocity"),
        effort,
        float(read_joints(message, fingers).sum()) if fingers else 0.0,
    )


def trajectory(
    names: Sequence[str],
    times: Sequence[float] | np.ndarray,
    positions: np.ndarray,
    velocities: np.ndarray | None = None,
    *,
    stamp: float = 0.0,
    frame: str = "",
) -> Message:
    """Returns a JointTrajectory.

    Args:
        names: of the joints, [n].
        times: s from the start, [t], rising.
        positions: rad, [t, n].
        velocities: rad/s, [t, n], or None.
        stamp: s since 1970 when it starts; 0 means at once.
        frame: of the header.
    """
    shape = (len(times), len(names))
    if np.shape(positions) != shape or (velocities is not None and np.shape(velocities) != shape):
        raise MessageError(f"trajectory: positions and velocities must be of shape {shape}")
    if np.any(np.diff(times) <= 0):
        raise MessageError(f"trajectory: times must rise: {np.asarray(times).tolist()}")
    points = [
        {
            "positions": np.asarray(positions[i], np.float64),
            "velocities": np.asarray(() if velocities is None else velocities[i], np.float64),
            "time_from_start": time_message(times[i]),
        }
        for i in range(len(times))
    ]
    return {"header": header(stamp, frame), "joint_names": list(names), "points": points}


def read_trajectory(
    message: Mapping[str, Any], names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Returns times [t] in s, positions [t, n] and velocities [t, n] or None, in order of `names`.

    Raises:
        MessageError: a joint is missing, an array is of another length, or times do not rise.
    """
    what, given = "trajectory", list(field(message, "joint_names", "trajectory"))
    order = _order(given, names, what)
    points = field(message, "points", what)
    times = np.array([seconds(field(p, "time_from_start", what)) for p in points])
    if np.any(np.diff(times) <= 0):
        raise MessageError(f"trajectory: times must rise: {times.tolist()}")
    read = [_numbers(point, "positions", what, len(given))[order] for point in points]
    positions = np.array(read).reshape(-1, len(names))
    if not all(len(point.get("velocities", ())) for point in points):
        return times, positions, None
    read = [_numbers(point, "velocities", what, len(given))[order] for point in points]
    return times, positions, np.array(read).reshape(-1, len(names))


# --- actions and services -----------------------------------------------------------------------


def follow_goal(path: Message, goal_time: float = 0.0) -> Message:
    """Returns FollowJointTrajectory's goal; `goal_time` is the leeway at its end in s."""
    return {"trajectory": path, "goal_time_tolerance": time_message(goal_time)}


def gripper_goal(opening: float, effort: float) -> Message:
    """Returns GripperCommand's goal: m and at most N."""
    return {"command": {"position": float(opening), "max_effort": float(effort)}}


def parallel_gripper_goal(joint: str, position: float, effort: float | None = None) -> Message:
    """Returns ParallelGripperCommand's goal: m (or rad) and at most N."""
    force = () if effort is None else (effort,)
    return {"command": joint_state([joint], [position], effort=force, stamp=0.0)}


def trigger(success: bool, text: str = "") -> Message:
    """Returns Trigger's response."""
    return {"success": bool(success), "message": text}


def diagnostics(
    statuses: Sequence[tuple[str, Level, str, Mapping[str, Any]]],
    *,
    stamp: float,
    hardware: str = "",
) -> Message:
    """Returns a DiagnosticArray.

    Args:
        statuses: name, level, message and values of each.
        stamp: s since 1970.
        hardware: its id.
    """
    entries = [
        {
            "level": int(level),
            "name": name,
            "message": text,
            "hardware_id": hardware,
            "values": [{"key": key, "value": str(value)} for key, value in values.items()],
        }
        for name, level, text, values in statuses
    ]
    return {"header": header(stamp), "status": entries}


def read_lifecycle(message: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Returns what a DiagnosticArray says of a robot: its lifecycle, or "", and a text."""
    for status in field(message, "status", "diagnostics"):
        if status.get("name") == name:
            values = {entry.get("key"): entry.get("value") for entry in status.get("values", ())}
            return str(values.get(LIFECYCLE, "")), str(status.get("message", ""))
    return "", ""


# --- poses, velocities, forces ------------------------------------------------------------------


def pose(
    position: Sequence[float] | np.ndarray,
    quaternion: Sequence[float] | np.ndarray,
    *,
    stamp: float,
    frame: str,
) -> Message:
    """Returns a PoseStamped of m [3] and a quaternion x, y, z, w [4]."""
    turn = dict(zip("xyzw", map(float, quaternion), strict=True))
    return {
        "header": header(stamp, frame),
        "pose": {"position": _vector(position), "orientation": turn},
    }


def read_pose(message: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns m [3] and the quaternion x, y, z, w [4], normalised."""
    inner = field(message, "pose", "pose")
    quaternion = _axes(inner, "orientation", "xyzw")
    norm = np.linalg.norm(quaternion)
    if not 0.9 < norm < 1.1:  # also refuses NaN
        raise MessageError(f"pose: quaternion {quaternion.tolist()} is not of length 1")
    return _axes(inner, "position", "xyz"), quaternion / norm


def twist(velocity: Sequence[float] | np.ndarray, *, stamp: float, frame: str) -> Message:
    """Returns a TwistStamped of m/s and rad/s [6]."""
    inner = {"linear": _vector(velocity[:3]), "angular": _vector(velocity[3:])}
    return {"header": header(stamp, frame), "twist": inner}


def read_twist(message: Mapping[str, Any]) -> np.ndarray:
    """Returns m/s and rad/s, [6]."""
    inner = field(message, "twist", "twist")
    return np.append(_axes(inner, "linear", "xyz"), _axes(inner, "angular", "xyz"))


def wrench(values: Sequence[float] | np.ndarray, *, stamp: float, frame: str) -> Message:
    """Returns a WrenchStamped of N and N m [6]."""
    inner = {"force": _vector(values[:3]), "torque": _vector(values[3:])}
    return {"header": header(stamp, frame), "wrench": inner}


def read_wrench(message: Mapping[str, Any]) -> np.ndarray:
    """Returns N and N m, [6]."""
    inner = field(message, "wrench", "wrench")
    return np.append(_axes(inner, "force", "xyz"), _axes(inner, "torque", "xyz"))


# --- helpers ------------------------------------------------------------------------------------


def field(message: Mapping[str, Any], key: str, what: str) -> Any:
    """Returns a field; the error of its absence names `what` lacks it."""
    if not isinstance(message, Mapping) or key not in message:
        raise MessageError(f"{what}: no field {key!r}")
    return message[key]


def _numbers(message: Mapping[str, Any], key: str, what: str, length: int) -> np.ndarray:
    try:
        values = np.asarray(field(message, key, what), np.float64)
    except (TypeError, ValueError) as error:
        raise MessageError(f"{what}: {key} are not numbers: {error}") from error
    if values.shape != (length,):
        raise MessageError(f"{what}: {values.size} of {key} for {length} joints")
    return values


def _order(given: Sequence[str], names: Sequence[str], what: str) -> list[int]:
    places = {name: i for i, name in enumerate(given)}
    if missing := [name for name in names if name not in places]:
        raise MessageError(f"{what}: no joint {', '.join(missing)}; there are {', '.join(given)}")
    if len(places) != len(given):
        raise MessageError(f"{what}: a joint is named twice: {', '.join(given)}")
    return [places[name] for name in names]


def _vector(values: Sequence[float] | np.ndarray) -> Message:
    return dict(zip("xyz", map(float, values), strict=True))


def _axes(message: Mapping[str, Any], key: str, axes: str) -> np.ndarray:
    inner = field(message, key, key)
    return np.array([float(field(inner, axis, key)) for axis in axes])

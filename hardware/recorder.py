"""The flight recorder: everything that happened to a robot, in an MCAP file that survives.

Messages are ROS 2's, so that other tools open the file. Chunks hold about half a second; each is on
the disk before the next begins, so a killed process loses less than a second, and `read` needs no
index. Recording never blocks the control loop: when the disk is too slow, pictures are left out
first, then states, and what was left out is counted.

    /joint_states           sensor_msgs/JointState           as read
    /command                trajectory_msgs/JointTrajectory  as sent, one point
    /limits                 diagnostic_msgs/DiagnosticArray  what acted, and why
    /wrench                 geometry_msgs/WrenchStamped
    /<camera>/compressed    sensor_msgs/CompressedImage
    /action                 std_msgs/String                  JSON: what the policy wanted, and why
    /episode                std_msgs/String                  JSON: begins and ends
"""

import dataclasses
import json
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hardware import cdr, messages, pictures
from hardware.errors import HardwareError
from hardware.limits import Limits
from hardware.robot import Robot
from hardware.types import Cause, RobotState, Sent, Spec
from hardware.wire import Message

STRING = "std_msgs/msg/String"
IMAGE = "sensor_msgs/msg/CompressedImage"
_CHUNK_SECONDS = 0.5
_STATE_BYTES = 1500  # of one step: state, command, wrench
_WAITING = 4096  # messages that may wait for the disk
_SPARE = 1024  # of these, not for pictures


class RecordingError(HardwareError, RuntimeError):
    """The file cannot be written or read; the message says why."""


class Recorded(NamedTuple):
    """A message of a recording.

    Attributes:
        topic: where it was.
        kind: its type.
        stamp: s since 1970.
        message: its fields.
    """

    topic: str
    kind: str
    stamp: float
    message: Message


class FlightRecorder:
    """Writes one recording; call it with every step of a control loop.

    Attributes:
        path: the file.
        dropped: how many messages were left out because the disk was too slow.
    """

    def __init__(self, path: str | Path, spec: Spec, meta: Mapping[str, Any] | None = None) -> None:
        """Begins a file.

        Args:
            path: must not exist; its folder is made.
            spec: of the robot.
            meta: about the recording (policy, versions, limits): strings, numbers and lists.

        Raises:
            RecordingError: the file exists or cannot be made.
        """
        writer_type, compression = _mcap()
        self.path, self._spec, self.dropped = Path(path), spec, 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = self.path.open("xb")
        except OSError as error:
            raise RecordingError(f"cannot begin {self.path}: {error}") from error
        size = int(_CHUNK_SECONDS * spec.command_rate * _STATE_BYTES)
        self._writer = writer_type(self._file, chunk_size=size, compression=compression)
        self._writer.start(profile="ros2", library="embodied")
        about = {"robot": spec.name, "joints": spec.names, "rate": spec.command_rate}
        about = {**about, **(meta or {})}
        self._writer.add_metadata("embodied", {k: json.dumps(v) for k, v in about.items()})
        self._offset = time.time() - time.monotonic()  # stamps of states are monotonic
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        self._shown: dict[str, float] = {}
        self._queue: queue.Queue[Any] = queue.Queue(_WAITING)
        self._problem = ""
        self._thread = threading.Thread(target=self._run, daemon=True, name="flight recorder")
        self._thread.start()

    def __call__(self, state: RobotState, sent: Sent | None) -> None:
        """Records a step; returns at once."""
        self._put(("step", state, sent), _SPARE)
        fresh = {
            name: picture
            for name, picture in state.images.items()
            if picture[0] > self._shown.get(name, float("-inf"))
        }
        for name, (stamp, image) in fresh.items():
            self._shown[name] = stamp
            self._put(("picture", name, stamp, image), 2 * _SPARE)

    def limit(self, cause: Cause, detail: str) -> None:
        """Records that a limit acted: a `Robot`'s listener."""
        self._put(("limit", time.time(), cause, detail))

    def action(self, wanted: np.ndarray, **about: Any) -> None:
        """Records what a policy wanted, as numbers, and anything about it that is plain JSON."""
        self.note("/action", {"action": np.asarray(wanted, float).tolist(), **about})

    def note(self, topic: str, content: Mapping[str, Any]) -> None:
        """Records plain JSON on a topic, such as an episode's begin and end."""
        self._put(("note", time.time(), topic, json.dumps(content)))

    def close(self) -> None:
        """Finishes the file.

        Raises:
            RecordingError: the disk refused; what was recorded before is kept.
        """
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        if self._problem:
            raise RecordingError(f"{self.path}: {self._problem}")

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    # ---------------------------------------------------------------- in the thread

    def _put(self, item: Any, spare: int = 0) -> None:
        if self._problem or self._queue.qsize() > _WAITING - spare - 1:
            self.dropped += 1
            return
        self._queue.put_nowait(item)

    def _run(self) -> None:
        written = 0
        try:
            while (item := self._queue.get()) is not None:
                getattr(self, f"_write_{item[0]}")(*item[1:])
                if self._file.tell() != written:  # a chunk is complete
                    written = self._sync()
            self._writer.finish()
            self._sync()
        except OSError as error:
            self._problem = str(error)
        finally:
            self._file.close()

    def _sync(self) -> int:
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def _write_step(self, state: RobotState, sent: Sent | None) -> None:
        spec, stamp = self._spec, state.stamp + self._offset
        fingers = ("gripper",) if spec.gripper is not None else ()
        self._write(
            "/joint_states",
            messages.JOINT_STATE,
            messages.state_message(state, spec, stamp=stamp, fingers=fingers),
            stamp,
        )
        if state.wrench is not None:
            wrench = messages.wrench(state.wrench, stamp=stamp, frame="tool")
            self._write("/wrench", messages.WRENCH, wrench, stamp)
        if sent is not None:
            when = sent.stamp + self._offset
            path = messages.trajectory(
                spec.names,
                [1.0 / spec.command_rate],
                sent.position[None],
                sent.velocity[None],
                stamp=when,
                frame=str(sent.act),
            )
            self._write("/command", messages.TRAJECTORY, path, when)

    def _write_picture(self, name: str, taken: float, image: np.ndarray) -> None:
        stamp = taken + self._offset
        message = pictures.compressed_image(image, stamp=stamp, frame=name)
        self._write(f"/{name}/compressed", IMAGE, message, stamp)

    def _write_limit(self, stamp: float, cause: Cause, detail: str) -> None:
        entry = (str(cause), messages.Level.WARN, detail, {})
        message = messages.diagnostics([entry], stamp=stamp, hardware=self._spec.name)
        self._write("/limits", messages.DIAGNOSTICS, message, stamp)

    def _write_note(self, stamp: float, topic: str, text: str) -> None:
        self._write(topic, STRING, {"data": text}, stamp)

    def _write(self, topic: str, kind: str, message: Message, stamp: float) -> None:
        if topic not in self._channels:
            if kind not in self._schemas:
                self._schemas[kind] = self._writer.register_schema(
                    kind, "ros2msg", cdr.definition(kind).encode()
                )
            self._channels[topic] = self._writer.register_channel(topic, "cdr", self._schemas[kind])
        self._numbers[topic] = self._numbers.get(topic, -1) + 1
        nanoseconds = round(stamp * 1e9)
        self._writer.add_message(
            self._channels[topic],
            nanoseconds,
            cdr.encode(kind, message),
            nanoseconds,
            self._numbers[topic],
        )


def record(path: str | Path, meta: Mapping[str, Any], robot: Robot) -> FlightRecorder:
    """Begins a robot's recording, limits that act included; a `LoopProcess` calls it."""
    about = {"limits": _shares(robot.limits), **robot.describe(), **meta}
    recorder = FlightRecorder(path, robot.spec, about)
    robot.listener = recorder.limit
    return recorder


def _shares(limits: Limits) -> dict[str, float]:
    plain = {field.name: getattr(limits, field.name) for field in dataclasses.fields(limits)}
    return {name: value for name, value in plain.items() if isinstance(value, int | float)}


def read(path: str | Path) -> Iterator[Recorded]:
    """Returns the messages of a recording in the order they were written, also of a torn file.

    Raises:
        RecordingError: it is no MCAP file, or an unknown kind is in it.
    """
    from mcap.exceptions import McapError
    from mcap.records import Channel, Schema
    from mcap.records import Message as McapMessage
    from mcap.stream_reader import StreamReader

    path = Path(path)
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    try:
        with path.open("rb") as file:
            for record in StreamReader(file, record_size_limit=None).records:
                if isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    channels[record.id] = record
                elif isinstance(record, McapMessage):
                    channel = channels[record.channel_id]
                    kind = schemas[channel.schema_id].name
                    message = cdr.decode(kind, record.data)
                    yield Recorded(channel.topic, kind, record.log_time / 1e9, message)
    except OSError as error:
        raise RecordingError(f"cannot read {path}: {error}") from error
    except McapError as error:
        if not channels:
            raise RecordingError(f"{path} is no recording: {error}") from error
        # the torn end of a file whose writer was killed: all before it has been yielded


def metadata(path: str | Path) -> dict[str, Any]:
    """Returns what was said about a recording when it began."""
    from mcap.records import Metadata
    from mcap.stream_reader import StreamReader

    with Path(path).open("rb") as file:
        for record in StreamReader(file, record_size_limit=None).records:
            if isinstance(record, Metadata) and record.name == "embodied":
                return {key: json.loads(value) for key, value in record.metadata.items()}
    raise RecordingError(f"{path} says nothing about itself; it was not recorded here")


def _mcap() -> tuple[Any, Any]:
    try:
        from mcap.writer import CompressionType, Writer
    except ImportError as error:
        raise ImportError("recordings need mcap: pip install 'embodied[hardware]'") from error
    return Writer, CompressionType.ZSTD

"""The flight recorder, also killed (F5)."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hardware import load_limits
from hardware.types import Act, Cause, RobotState, Sent

pytest.importorskip("mcap")
pytest.importorskip("rosbags")

from hardware import messages
from hardware.recorder import FlightRecorder, RecordingError, metadata, read

SPEC = load_limits("panda").spec("recorded arm", command_rate=50.0, simulated=True)


def _step(i, images=()):
    now, q = time.monotonic(), np.full(7, 0.01 * i)
    pictures = {name: (now, np.full((24, 32, 3), i % 255, np.uint8)) for name in images}
    state = RobotState(now, q, q * 2, q * 3, 0.04, np.arange(6.0), pictures)
    return state, Sent(now, q + 0.001, q * 0, None, Act.LIMIT, (Cause.VELOCITY,))


def test_what_was_recorded_is_read(tmp_path):
    path = tmp_path / "run.mcap"
    with FlightRecorder(path, SPEC, {"policy": "wsrl-7", "limits": [0.9, 0.5]}) as recorder:
        recorder.note("/episode", {"event": "begin", "seed": 3})
        for i in range(40):
            recorder(*_step(i, images=["wrist"]))
        recorder.limit(Cause.VELOCITY, "joint 3")
        recorder.action(np.ones(7), latency=0.02)
        recorder.note("/episode", {"event": "end", "success": True})
    found = list(read(path))
    by_topic = {topic: [m for m in found if m.topic == topic] for topic in {m.topic for m in found}}
    states = by_topic["/joint_states"]
    assert len(states) == len(by_topic["/command"]) == len(by_topic["/wrist/compressed"]) == 40
    for i, recorded in enumerate(states):
        np.testing.assert_array_equal(
            messages.read_joints(recorded.message, SPEC.names, "effort"), np.full(7, 0.01 * i) * 3
        )
        assert abs(recorded.stamp - time.time()) < 60
    _, positions, _ = messages.read_trajectory(by_topic["/command"][5].message, SPEC.names)
    np.testing.assert_array_equal(positions[0], np.full(7, 0.05) + 0.001)
    assert by_topic["/command"][5].message["header"]["frame_id"] == "limit"
    assert by_topic["/limits"][0].message["status"][0]["name"] == "joint velocity"
    assert '"latency": 0.02' in by_topic["/action"][0].message["data"]
    assert len(by_topic["/episode"]) == 2
    assert metadata(path)["policy"] == "wsrl-7" and metadata(path)["joints"] == SPEC.names


def test_it_opens_with_an_index_in_other_readers(tmp_path):
    path = tmp_path / "run.mcap"
    with FlightRecorder(path, SPEC) as recorder:
        for i in range(200):
            recorder(*_step(i))
    from mcap.reader import make_reader

    with path.open("rb") as file:
        reader = make_reader(file)
        summary = reader.get_summary()
        assert summary.statistics.message_count == 600 and summary.statistics.chunk_count > 2
        schema = next(s for s in summary.schemas.values() if s.name == messages.JOINT_STATE)
        assert schema.encoding == "ros2msg" and b"string[] name" in schema.data
        assert sum(1 for _ in reader.iter_messages(topics=["/command"])) == 200


def test_an_existing_file_is_not_overwritten(tmp_path):
    path = tmp_path / "run.mcap"
    FlightRecorder(path, SPEC).close()
    with pytest.raises(RecordingError, match="File exists"):
        FlightRecorder(path, SPEC)
    (tmp_path / "no.mcap").write_bytes(b"nothing of the kind")
    with pytest.raises(RecordingError, match="no recording"):
        list(read(tmp_path / "no.mcap"))


def test_a_full_disk_stops_the_recording_not_the_robot(tmp_path, monkeypatch):
    recorder = FlightRecorder(tmp_path / "run.mcap", SPEC)

    def refuse(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    for i in range(400):
        recorder(*_step(i))
        if i == 200:
            time.sleep(0.3)
    with pytest.raises(RecordingError, match="No space"):
        recorder.close()
    assert recorder.dropped > 0


WRITER = """
import sys, time, numpy as np
sys.path[:0] = {paths!r}
from test_recorder import SPEC, _step
from hardware.recorder import FlightRecorder
recorder = FlightRecorder(sys.argv[1], SPEC)
print("ready", flush=True)
start, i = time.monotonic(), 0
while True:
    recorder(*_step(i, images=["wrist"] if i % 5 == 0 else []))
    i += 1
    print(i, flush=True)
    time.sleep(max(0.0, start + i / SPEC.command_rate - time.monotonic()))
"""


def test_killed_it_loses_at_most_the_last_second(tmp_path):
    """20 random instants: F5 for MCAP."""
    rng, here = random.Random(0), os.path.dirname(__file__)
    code = WRITER.format(paths=[here, os.getcwd()])
    processes = []
    for k in range(20):
        path = tmp_path / f"{k}.mcap"
        log = (tmp_path / f"{k}.log").open("w")
        command = [sys.executable, "-c", code, str(path)]
        processes.append((path, subprocess.Popen(command, stdout=log), rng.uniform(1.5, 3.0)))
        if len(processes) == 5:
            _kill_and_check(processes)
            processes.clear()


def _kill_and_check(processes):
    begun = {}
    while len(begun) < len(processes):
        for path, process, _ in processes:
            if path not in begun and path.with_suffix(".log").read_text():
                begun[path] = time.monotonic()
            assert process.poll() is None
        time.sleep(0.02)
    for path, process, seconds in processes:
        time.sleep(max(0.0, begun[path] + seconds - time.monotonic()))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        recorded = int(path.with_suffix(".log").read_text().split("\n")[-2])
        kept = [m for m in read(path) if m.topic == "/joint_states"]
        assert len(kept) >= recorded - SPEC.command_rate, (len(kept), recorded)
        values = [m.message["position"][0] for m in kept]
        np.testing.assert_allclose(values, 0.01 * np.arange(len(kept)))

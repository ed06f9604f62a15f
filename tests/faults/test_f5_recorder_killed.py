"""F5: a recorder killed at any instant leaves every saved episode readable; resume goes on there.

Episode 8 of 10 is being recorded; the kill comes at 20 random instants, and besides before every
single flush and rename of a save and of the merge at the end. MCAP is tested with its writer.
"""

import itertools
import os
import random
import shutil
import signal
import time

import numpy as np
import pytest

from embodied import data
from embodied.data.layout import transition_features

FORMATS = {"lerobot": "demos", "video": "demos", "robomimic": "demos.hdf5", "minari": "demos-v0"}
FRAMES, SAVED, TOTAL = 20, 7, 10
CAMERA = "observation.images.top"
STEPS = 40  # more flushes and renames than a save and a merge have


def episode(index, features=()):
    rng = np.random.default_rng(index)
    states = rng.normal(size=(FRAMES + 1, 5)).astype(np.float32)
    last = np.arange(FRAMES) == FRAMES - 1
    camera = {CAMERA: np.full((FRAMES, 16, 16, 3), 20 * index, np.uint8)}
    return (camera if CAMERA in features else {}) | {
        "observation.state": states[:-1],
        "action": rng.uniform(-1, 1, (FRAMES, 2)).astype(np.float32),
        "next.observation.state": states[1:],
        "next.reward": last.astype(np.float32),
        "next.terminated": last,
        "next.truncated": np.zeros(FRAMES, bool),
        "next.success": last,
        "next.done": last,
    }


@pytest.fixture(autouse=True)
def no_flush(monkeypatch):
    """A killed process loses nothing that the system has; only power cuts need the flush."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module", params=FORMATS)
def seven(request, tmp_path_factory):
    """A recording with seven saved episodes that is still going on: folder and name."""
    pytest.importorskip("pyarrow" if FORMATS[request.param] == "demos" else "h5py")
    folder = tmp_path_factory.mktemp("seven")
    name = FORMATS[request.param]
    features = transition_features((5,), (2,))
    if request.param == "video":
        pytest.importorskip("av")
        features[CAMERA] = data.Feature("uint8", (16, 16, 3), video=True)
    format = "lerobot" if request.param == "video" else request.param
    writer = data.create(folder / name, format, env_id="e", fps=20, features=features)
    for index in range(SAVED):
        writer.add_episode(episode(index, features), "task", {"seed": index})
    writer._lock.close()  # as the system does for a process that is killed
    return folder, name


def snapshot(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def record(path, pause=0.0):
    with data.resume(path) as writer:
        while writer.num_episodes < TOTAL:
            columns = episode(writer.num_episodes, writer.settings.features)
            for row in range(FRAMES):
                writer.add_frame({name: values[row] for name, values in columns.items()})
                time.sleep(pause)
            writer.save_episode("task", {"seed": writer.num_episodes})


def in_child(act):
    """A forked process that runs `act(ready)` and then leaves; returns it once it is ready."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            act(lambda: os.write(sending, b"x"))
        finally:
            os._exit(0)
    os.close(sending)
    assert os.read(receiving, 1) == b"x"
    os.close(receiving)
    return child


def check(path, folder):
    """What a kill left is whole, repairs once, and recording goes on behind it."""
    dataset = data.open_dataset(path)
    kept = dataset.num_episodes
    assert kept >= SAVED and dataset.episode_lengths.tolist() == [FRAMES] * kept
    for index in range(kept):
        assert same(dataset.episode(index), episode(index, dataset.features))
        assert dataset.episode_meta(index) == {"seed": index}
    assert not any(problem.fatal for problem in data.verify(path))
    copy = shutil.copytree(folder, folder.with_name("repaired"))
    report = data.repair(copy / path.name)
    assert report.num_episodes == kept and data.verify(copy / path.name) == []
    before = snapshot(copy)
    assert not data.repair(copy / path.name).changed and snapshot(copy) == before
    with data.resume(path) as writer:
        assert writer.num_episodes == kept
    record(path)
    assert data.verify(path) == []
    dataset = data.open_dataset(path)
    for index in range(TOTAL):
        assert same(dataset.episode(index), episode(index, dataset.features))
    return kept


def same(columns, expected):
    """Equal to the bit, pictures within codec error."""
    if CAMERA in expected:
        pictures, wanted = columns[CAMERA], expected.pop(CAMERA)
        assert pictures.shape == wanted.shape
        assert np.abs(pictures.astype(int) - wanted).max() < 4
    return all(
        columns[name].dtype == values.dtype and columns[name].tobytes() == values.tobytes()
        for name, values in expected.items()
    )


@pytest.mark.slow
def test_killed_while_recording_at_random_instants(seven, tmp_path):
    folder, name = seven
    found = []
    for trial in range(20):
        work = shutil.copytree(folder, tmp_path / str(trial) / "d")
        path = work / name

        def act(ready, path=path):
            with data.resume(path) as writer:
                ready()
                columns = episode(SAVED, writer.settings.features)
                for row in range(FRAMES):
                    writer.add_frame({key: values[row] for key, values in columns.items()})
                    time.sleep(0.002)
                writer.save_episode("task", {"seed": SAVED})
                time.sleep(60)

        child = in_child(act)
        time.sleep(random.Random(trial).uniform(0, 0.06))  # the episode takes 0.04 s
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        found.append(check(path, work))
    assert set(found) <= {SAVED, SAVED + 1}, found


def test_killed_before_every_flush_and_rename(seven, tmp_path):
    """Also inside the merge, which `close` does for formats that are one file."""
    folder, name = seven
    finished = []
    for step in range(STEPS):
        work = shutil.copytree(folder, tmp_path / str(step) / "d")
        path = work / name

        def act(ready, path=path, step=step):
            writer = data.resume(path)
            calls = itertools.count()

            def dying(real):
                def call(*arguments):
                    if next(calls) == step:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real(*arguments)

                return call

            os.fsync, os.replace = dying(os.fsync), dying(os.replace)
            ready()
            with writer:
                columns = episode(SAVED, writer.settings.features)
                writer.add_episode(columns, "task", {"seed": SAVED})

        child = in_child(act)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        finished.append(code == 0)
        check(path, work)
        if code == 0:
            break
    assert finished[-1] and sum(finished) == 1 and len(finished) > 12

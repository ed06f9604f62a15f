"""Killed recorders, flipped bytes, repair."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dataset_samples import LENGTHS, SETTINGS, assert_same, make_episode, record, snapshot

from embodied.data import (
    CorruptDataset,
    Dataset,
    DatasetNotFound,
    DatasetWriter,
    EmptyDataset,
    repair,
    verify,
)

RECORDER = """
import itertools, os, signal, sys, time
sys.path.insert(0, {tests!r})
from dataset_samples import add_frames, make_episode
from embodied.data import DatasetWriter

writer = DatasetWriter.resume({root!r})
if {kill_at} is not None:  # die just before the n-th flush or rename from here on
    calls = itertools.count()
    def dying(real):
        def call(*args):
            if next(calls) == {kill_at}:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)
        return call
    os.fsync, os.replace = dying(os.fsync), dying(os.replace)
print("recording", flush=True)
for episode in range(7, 10):
    for row in range(20):
        add_frames(writer, {{k: v[row:row+1] for k, v in make_episode(episode, 20).items()}})
        if {kill_at} is None:
            time.sleep(0.01)
    writer.save_episode("task 0")
    print("saved", flush=True)
"""


@pytest.fixture(scope="module")
def seven(tmp_path_factory):
    """A dataset of seven episodes, to be copied."""
    path = tmp_path_factory.mktemp("seven") / "d"
    with DatasetWriter.create(path, **SETTINGS) as writer:
        record(writer, 0, [20] * 7)
    return path


def killed_recorder(root: Path, kill_at: int | None, delay: float) -> int:
    """Record episodes 8 to 10 until killed; returns how many `save_episode` returned from."""
    code = RECORDER.format(tests=str(Path(__file__).parent), root=str(root), kill_at=kill_at)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout.readline() == "recording\n"
        if kill_at is None:
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        output = process.communicate(timeout=60)[0]
        assert process.returncode == -signal.SIGKILL
    return output.count("saved")


def check_after_kill(root: Path, saved: int) -> int:
    """Everything saved is there, exactly; recording goes on after it. Returns what was there."""
    dataset = Dataset.open(root)
    episodes = dataset.num_episodes
    assert episodes - 7 in (saved, saved + 1)  # one may be on disk without its call having returned
    assert dataset.episode_lengths.tolist() == [20] * episodes
    for index in range(episodes):
        assert_same(dataset.episode(index), make_episode(index, 20))
    assert not any(problem.fatal for problem in verify(root))
    with DatasetWriter.resume(root) as writer:
        assert writer.num_episodes == episodes
        assert verify(root) == []
        record(writer, episodes, [20] * (10 - episodes))
    assert verify(root) == []
    for index, columns in enumerate(map(Dataset.open(root).episode, range(10))):
        assert_same(columns, make_episode(index, 20))
    assert not repair(root).changed
    return episodes


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(6))
def test_recorder_killed_while_recording(tmp_path, seven, trial):
    root = shutil.copytree(seven, tmp_path / "d")
    delay = random.Random(trial).uniform(0, 0.18)  # 20 frames take 0.2 s
    saved = killed_recorder(root, None, delay)
    assert check_after_kill(root, saved) == 7 + saved


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", range(16))
def test_recorder_killed_at_each_step_of_a_save(tmp_path, seven, kill_at):
    """Saving is 5 writes (data, ledger, rows, statistics, info) of 3 steps: flush, rename, flush.

    The rename of the ledger, step 4, commits. Step 15 belongs to the next episode.
    """
    root = shutil.copytree(seven, tmp_path / "d")
    saved = killed_recorder(root, kill_at, 0)
    assert saved == kill_at // 15
    assert check_after_kill(root, saved) == (7 if kill_at <= 4 else 8)


class Crash(BaseException):
    """Ends a writer in this process as a signal would, at a chosen step."""


@pytest.mark.parametrize("step", range(19))
def test_crash_in_the_first_save_and_with_a_new_task(tmp_path, monkeypatch, step):
    """18 steps: all views but `info.json` are created by this save; the 19th never comes."""
    root, calls = tmp_path / "d", iter(range(100))
    writer = DatasetWriter.create(root, **SETTINGS)
    for name in ("data/chunk-000", "meta/episodes/chunk-000"):
        (root / name).mkdir(parents=True)

    def dying(real):
        def call(*args):
            if next(calls) == step:
                raise Crash
            return real(*args)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", dying(os.fsync))
        patch.setattr(os, "replace", dying(os.replace))
        if step < 18:
            with pytest.raises(Crash):
                record(writer, 0, [4])
        else:
            record(writer, 0, [4])
        writer.discard_episode()
        writer.close()
    if step > 4:
        assert_same(Dataset.open(root).episode(0), make_episode(0, 4))
    else:
        with pytest.raises(EmptyDataset):
            Dataset.open(root)
    with DatasetWriter.resume(root) as writer:
        assert writer.num_episodes == int(step > 4)
        record(writer, writer.num_episodes, [4, 5])
    assert verify(root) == [] and not repair(root).changed


ARTEFACTS = [
    "data/chunk-000/file-000.parquet",
    "data/chunk-000/file-001.parquet",
    "data/chunk-000/file-003.parquet",
    "meta/embodied.json",
    "meta/info.json",
    "meta/stats.json",
    "meta/tasks.parquet",
    "meta/episodes/chunk-000/file-000.parquet",
]


def flip(path: Path, rng: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)


@pytest.mark.parametrize("name", ARTEFACTS)
def test_a_flipped_byte_is_detected_and_named(root, name):
    rng, sound = random.Random(name), (root / name).read_bytes()
    for _ in range(25):
        flip(root / name, rng)
        with pytest.raises(CorruptDataset) as caught:
            Dataset.open(root)
        message = str(caught.value)
        assert name in message and f"embodied data repair {root}" in message
        if name.startswith("data/"):
            episode = int(name[-11:-8])
            assert f"(episode {episode})" in message
            lazy = Dataset.open(root, verify=False)
            with pytest.raises(CorruptDataset, match="checksum"):
                lazy.episode(episode)
            with pytest.raises(CorruptDataset, match="checksum"):
                lazy.arrays(["action"])
        assert [problem.path for problem in verify(root)] == [name]
        with pytest.raises(CorruptDataset):
            DatasetWriter.resume(root)
        (root / name).write_bytes(sound)
    Dataset.open(root)


@pytest.mark.parametrize("name", ARTEFACTS)
@pytest.mark.parametrize("damage", ["flip", "delete", "truncate"])
def test_repair_keeps_the_longest_prefix_and_is_idempotent(root, name, damage):
    before = snapshot(root)
    if damage == "flip":
        flip(root / name, random.Random(name))
    elif damage == "delete":
        (root / name).unlink()
    else:
        os.truncate(root / name, (root / name).stat().st_size // 2)
    (root / "data/chunk-000/file-004.parquet.tmp").write_bytes(b"torn")
    kept = int(name[-11:-8]) if name.startswith("data/") else 4

    report = repair(root)
    assert report.changed and report.num_episodes == kept
    assert any(problem.path == name for problem in report.problems)
    assert report.removed == ("data/chunk-000/file-004.parquet.tmp",)
    after = snapshot(root)
    assert not repair(root).changed and snapshot(root) == after
    assert verify(root) == []
    for index in range(kept):
        path = f"data/chunk-000/file-{index:03d}.parquet"
        assert after[path] == before[path]
    for index in range(kept, 4):  # set aside, not deleted
        path = f"data/chunk-000/file-{index:03d}.parquet"
        assert path not in after
        if path != name:
            assert after[f"quarantine/{path}"] == before[path]
    if not name.startswith("data/"):
        same = {path for path in before if path != "meta/embodied.json"}
        assert all(after[path] == before[path] for path in same)
    with DatasetWriter.resume(root) as writer:
        record(writer, kept, LENGTHS[kept:])
    dataset = Dataset.open(root)
    for index, length in enumerate(LENGTHS):
        assert_same(dataset.episode(index), make_episode(index, length))


def test_repair_twice_of_the_same_episode_keeps_both_files(root):
    damaged = []
    for _ in range(2):
        flip(root / "data/chunk-000/file-003.parquet", random.Random(0))
        damaged.append((root / "data/chunk-000/file-003.parquet").read_bytes())
        assert repair(root).quarantined == ("data/chunk-000/file-003.parquet",)
        with DatasetWriter.resume(root) as writer:
            record(writer, 3, [LENGTHS[3]])
    place = root / "quarantine/data/chunk-000"
    names = ["file-003.parquet", "file-003.parquet.1"]
    assert [(place / name).read_bytes() for name in names] == damaged


def test_a_lost_ledger_does_not_bless_damaged_data(root):
    (root / "meta/embodied.json").unlink()
    path = root / "data/chunk-000/file-003.parquet"
    raw = bytearray(path.read_bytes())
    values = make_episode(3, LENGTHS[3])["observation.state"].tobytes()
    raw[raw.index(values[20:40])] ^= 1  # a mantissa bit: only the page's checksum can tell
    path.write_bytes(raw)
    with pytest.raises(CorruptDataset, match="file is missing"):
        Dataset.open(root)
    assert repair(root).num_episodes == 3
    assert Dataset.open(root).tasks == ["task 0", "task 1"]


def test_repair_leaves_what_is_not_ours_alone(tmp_path, root):
    with pytest.raises(DatasetNotFound):
        repair(tmp_path / "nowhere")
    (root / "meta/embodied.json").unlink()
    (root / "data/chunk-000/file-000.parquet").write_bytes(b"another tool's file")
    before = snapshot(root)
    with pytest.raises(CorruptDataset, match="no data file holds what is needed"):
        repair(root)
    assert snapshot(root) == before
    (tmp_path / "other").mkdir()
    with pytest.raises(DatasetNotFound):
        repair(tmp_path / "other")
    assert snapshot(tmp_path / "other") == {}

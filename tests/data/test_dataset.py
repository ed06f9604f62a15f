import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from dataset_samples import (
    FEATURES,
    LENGTHS,
    SETTINGS,
    add_frames,
    assert_same,
    make_episode,
    record,
    snapshot,
)

from embodied.data import (
    Dataset,
    DatasetError,
    DatasetNotFound,
    DatasetWriter,
    EmptyDataset,
    Feature,
    IncompatibleDataset,
    verify,
)


@pytest.mark.parametrize("checked", [True, False])
def test_round_trip_is_exact_to_the_bit(root, checked):
    dataset = Dataset.open(root, verify=checked)
    assert dataset.num_episodes == 4 and dataset.num_frames == sum(LENGTHS)
    assert dataset.episode_lengths.tolist() == LENGTHS
    assert (dataset.env_id, dataset.fps, dataset.meta) == ("test/reach", 50, {"seed": 3})
    assert dataset.features == FEATURES and dataset.tasks == ["task 0", "task 1"]
    episodes = [make_episode(i, n) for i, n in enumerate(LENGTHS)]
    for index, expected in enumerate(episodes):
        columns = dataset.episode(index)
        assert_same(columns, expected)
        assert columns["frame_index"].tolist() == list(range(LENGTHS[index]))
        assert set(columns["task_index"]) == {index % 2}
        assert columns["timestamp"].tolist() == pytest.approx(columns["frame_index"] / 50)
    everything = {name: np.concatenate([e[name] for e in episodes]) for name in FEATURES}
    arrays = dataset.arrays()
    assert_same(arrays, everything)
    assert all(a.flags.c_contiguous and a.flags.writeable for a in arrays.values())
    assert arrays["index"].tolist() == list(range(sum(LENGTHS)))
    assert list(dataset.arrays(["action"])) == ["action"]
    with pytest.raises(KeyError, match="velocity"):
        dataset.arrays(["velocity"])
    with pytest.raises(IndexError, match="episode 4 of 4"):
        dataset.episode(4)


def test_every_dtype_and_shape(tmp_path):
    rng = np.random.default_rng(0)
    features = {
        "scalar": Feature("float64"),
        "one": Feature("float32", (1,)),
        "matrix": Feature("float32", (2, 3)),
        "image": Feature("uint8", (4, 5, 3)),
        "flags": Feature("bool", (3,)),
        "int8": Feature("int8", (2,)),
        "int16": Feature("int16"),
        "int32": Feature("int32", (1, 2)),
        "int64": Feature("int64", (2,), names=("a", "b")),
    }
    frames = [
        {n: (rng.normal(size=f.shape) * 50).astype(f.dtype) for n, f in features.items()}
        for _ in range(6)
    ]
    frames[0]["scalar"] = np.float64(-0.0)
    frames[1]["one"] = np.array([np.finfo(np.float32).smallest_subnormal], np.float32)
    with DatasetWriter.create(tmp_path / "d", env_id="e", fps=1, features=features) as writer:
        for frame in frames:
            writer.add_frame(frame)
        writer.save_episode("t")
    dataset = Dataset.open(tmp_path / "d")
    assert dataset.features == features
    assert_same(dataset.episode(0), {n: np.stack([f[n] for f in frames]) for n in features})


def test_resume_equals_one_session(tmp_path, root):
    with DatasetWriter.create(tmp_path / "two", **SETTINGS) as writer:
        record(writer, 0, LENGTHS[:2])
    with DatasetWriter.resume(tmp_path / "two") as writer:
        assert writer.num_episodes == 2 and writer.num_frames == sum(LENGTHS[:2])
        record(writer, 2, LENGTHS[2:])
    one, two = Dataset.open(root), Dataset.open(tmp_path / "two")
    assert one.fingerprint == two.fingerprint
    assert_same(two.arrays(), one.arrays())
    for view in ("meta/info.json", "meta/stats.json", "meta/tasks.parquet"):
        assert (root / view).read_bytes() == (tmp_path / "two" / view).read_bytes(), view


def test_resume_of_a_sound_dataset_writes_nothing(root):
    before = snapshot(root)
    DatasetWriter.resume(root).close()
    assert snapshot(root) == before


def test_views_describe_the_data_also_over_several_files_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("embodied.data.views.EPISODE_ROWS_PER_FILE", 2)
    root, lengths = tmp_path / "d", [2, 3, 1, 4, 2]
    with DatasetWriter.create(root, **SETTINGS) as writer:
        record(writer, 0, lengths)
    arrays = Dataset.open(root).arrays()
    files = sorted(root.glob("meta/episodes/chunk-000/*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert len(files) == 3 and [row["length"] for row in rows] == lengths
    for row in rows:
        part = arrays["action"][row["dataset_from_index"] : row["dataset_to_index"]]
        assert row["stats/action/mean"] == pytest.approx(part.mean(axis=0), abs=1e-6)
        data = root / f"data/chunk-000/file-{row['data/file_index']:03d}.parquet"
        assert pq.read_metadata(data).num_rows == row["length"]
    stats = json.loads((root / "meta/stats.json").read_text())
    for name in ("action", "next.reward", "index"):
        values = arrays[name].astype(np.float64).reshape(sum(lengths), -1)
        assert stats[name]["mean"] == pytest.approx(values.mean(axis=0))
        assert stats[name]["std"] == pytest.approx(values.std(axis=0))
        assert stats[name]["min"] == values.min(axis=0).tolist()
        assert stats[name]["max"] == values.max(axis=0).tolist()
        assert stats[name]["count"] == [sum(lengths)]
    DatasetWriter.resume(root).close()
    assert verify(root) == []


def bad_frames():
    good = {name: values[0] for name, values in make_episode(0, 1).items()}
    nan, inf = good["action"].copy(), good["observation.state"].copy()
    nan[1], inf[3] = np.nan, np.inf
    without = {name: value for name, value in good.items() if name != "action"}
    return [
        (without, r"missing features \['action'\]"),
        ({**good, "torque": 1.0}, r"unknown features \['torque'\]"),
        (
            {**good, "action": np.zeros(3, np.float32)},
            r"'action' has shape \(3,\), expected \(2,\)",
        ),
        ({**good, "action": np.zeros(2)}, "'action' has dtype float64, expected float32"),
        ({**good, "action": [0.0, 0.0]}, "'action' has dtype float64"),
        ({**good, "next.done": 1}, "'next.done' has dtype int64, expected bool"),
        ({**good, "next.reward": True}, "'next.reward' has dtype bool"),
        ({**good, "action": nan}, r"'action' is not finite at \[1\]: nan"),
        ({**good, "observation.state": inf}, r"'observation.state' is not finite at \[3\]: inf"),
        ({**good, "next.reward": float("nan")}, "'next.reward' is not finite"),
        ({**good, "next.reward": 1e300}, "'next.reward' is not finite"),
    ]


@pytest.mark.parametrize(("frame", "message"), bad_frames())
def test_bad_frame_is_refused_and_leaves_no_trace(root, frame, message):
    with DatasetWriter.resume(root) as writer:
        writer.add_frame({name: values[0] for name, values in make_episode(4, 2).items()})
        with pytest.raises(ValueError, match="frame 1 of episode 4.*" + message):
            writer.add_frame(frame)
        assert writer.discard_episode() == 1
        record(writer, 4, [2])
    assert Dataset.open(root).episode_lengths.tolist() == [*LENGTHS, 2]


def test_frames_are_copied_and_python_scalars_taken(tmp_path):
    features = {"x": Feature("float32", (2,)), "r": Feature("float32"), "n": Feature("uint8")}
    buffer = np.zeros(2, np.float32)
    with DatasetWriter.create(tmp_path / "d", env_id="e", fps=1, features=features) as writer:
        for step in range(3):
            buffer[:] = step
            writer.add_frame({"x": buffer, "r": step / 2, "n": step})
        writer.save_episode("t")
    columns = Dataset.open(tmp_path / "d").episode(0)
    assert columns["x"].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert columns["r"].tolist() == [0, 0.5, 1] and columns["n"].tolist() == [0, 1, 2]


def test_a_number_too_large_for_its_column_is_refused(tmp_path):
    features = {"n": Feature("uint8")}
    with DatasetWriter.create(tmp_path / "d", env_id="e", fps=1, features=features) as writer:
        for value in (256, -1):
            with pytest.raises(ValueError, match=f"'n': {value} does not fit in uint8"):
                writer.add_frame({"n": value})


def test_missing_pyarrow_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'pip install "embodied\[train\]"'):
        DatasetWriter.create(tmp_path / "d", **SETTINGS)
    assert not (tmp_path / "d").exists()


def test_import_is_light():
    code = "import embodied.data, sys; print([m for m in ('pyarrow', 'torch') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    run = [sys.executable, "-c", code]
    assert subprocess.check_output(run, text=True, env=environment) == "[]\n"


def test_empty_missing_and_foreign_paths(tmp_path):
    DatasetWriter.create(tmp_path / "empty", **SETTINGS).close()
    with pytest.raises(EmptyDataset, match="no saved episode"):
        Dataset.open(tmp_path / "empty")
    with pytest.raises(DatasetNotFound, match="no such directory"):
        Dataset.open(tmp_path / "nowhere")
    with pytest.raises(DatasetNotFound, match="no such directory"):
        DatasetWriter.resume(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(DatasetNotFound, match=r"has no meta/embodied\.json"):
        Dataset.open(tmp_path)
    with pytest.raises(DatasetError, match="not an empty directory"):
        DatasetWriter.create(tmp_path / "empty", **SETTINGS)


def test_another_environment_is_refused(root):
    dataset = Dataset.open(root)
    dataset.check_compatible(env_id="test/reach", observation_shape=(5,), action_shape=[2])
    with pytest.raises(IncompatibleDataset, match="'test/reach' in the dataset, 'test/push'"):
        dataset.check_compatible(env_id="test/push")
    with pytest.raises(IncompatibleDataset) as caught:
        dataset.check_compatible(observation_shape=(39,), action_shape=(4,))
    assert "observation.state shape is (5,)" in str(caught.value) and "(39,)" in str(caught.value)
    assert "action shape is (2,)" in str(caught.value) and "(4,)" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": 0}, "fps must be a positive integer"),
        ({"features": {}}, "at least one feature"),
        ({"features": {"a/b": Feature("bool")}}, "'a/b' is reserved"),
        ({"features": {"index": Feature("bool")}}, "'index' is reserved"),
        ({"meta": {"x": float("nan")}}, "plain JSON"),
        ({"meta": {"x": object()}}, "plain JSON"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        DatasetWriter.create(tmp_path / "d", **{**SETTINGS, **change})
    assert not (tmp_path / "d").exists()


def test_bad_features_are_refused():
    with pytest.raises(ValueError, match="unsupported dtype 'video'"):
        Feature("video", (4, 4, 3))
    with pytest.raises(ValueError, match="unsupported shape"):
        Feature("float32", (0,))


def test_one_writer_at_a_time(root):
    with DatasetWriter.resume(root), pytest.raises(RuntimeError, match="another process"):
        DatasetWriter.resume(root)
    DatasetWriter.resume(root).close()


def test_unsaved_frames_are_not_lost_silently(root):
    writer = DatasetWriter.resume(root)
    add_frames(writer, make_episode(4, 2))
    with pytest.raises(DatasetError, match="2 frames of episode 4 were not saved"):
        writer.close()
    with pytest.raises(ValueError, match="at least one frame"), DatasetWriter.resume(root) as w:
        w.save_episode("nothing")
    with pytest.raises(KeyboardInterrupt), DatasetWriter.resume(root) as writer:
        add_frames(writer, make_episode(4, 2))
        raise KeyboardInterrupt
    assert Dataset.open(root).num_episodes == 4


def test_save_may_be_repeated_after_the_disk_refused(root, monkeypatch):
    writer = DatasetWriter.resume(root)
    add_frames(writer, make_episode(4, 3))
    real = os.fsync
    for refused in range(9):  # at the n-th flush, whatever file that is
        calls = iter(range(100))

        def fsync(descriptor, calls=calls, refused=refused):
            if next(calls) == refused:
                raise OSError(28, "No space left on device")
            real(descriptor)

        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr("os.fsync", fsync)
            writer.save_episode("task 0")
    assert writer.save_episode("task 0") == 4
    writer.close()
    assert verify(root) == []
    assert_same(Dataset.open(root).episode(4), make_episode(4, 3))

"""The package that defines the layout must read what we write, value for value."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from dataset_samples import LENGTHS, SETTINGS, add_frames, make_episode

from embodied import data
from embodied.data import Dataset, DatasetWriter, Feature

PYTHON = os.environ.get("EMBODIED_LEROBOT_PYTHON")
needs_lerobot = pytest.mark.skipif(
    not PYTHON, reason="set EMBODIED_LEROBOT_PYTHON to an interpreter that has lerobot >= 0.4"
)


@needs_lerobot
@pytest.mark.slow
def test_lerobot_serves_the_same_rows(tmp_path):
    root, grid = tmp_path / "d", Feature("float32", (2, 3))
    settings = {**SETTINGS, "features": {**SETTINGS["features"], "observation.grid": grid}}
    for index, length in enumerate(LENGTHS):
        opened = DatasetWriter.resume(root) if index else DatasetWriter.create(root, **settings)
        with opened as writer:
            rows = np.arange(length * 6, dtype=np.float32).reshape(length, 2, 3)
            add_frames(writer, {**make_episode(index, length), "observation.grid": rows})
            writer.save_episode(f"task {index % 2}")

    script = Path(__file__).with_name("lerobot_oracle.py")
    out = tmp_path / "out.npz"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [PYTHON, script, root, out], env=environment, capture_output=True, text=True, timeout=280
    )
    assert result.returncode == 0, result.stderr
    theirs, ours = np.load(out), Dataset.open(root).arrays()  # opening changed no file

    assert theirs["counts"].tolist() == [4, sum(LENGTHS), 50]
    assert theirs["lengths"].tolist() == LENGTHS
    for name, values in ours.items():
        assert theirs[name].dtype == values.dtype, name
        np.testing.assert_array_equal(theirs[name], values, err_msg=name)
    tasks = [f"task {i % 2}" for i, length in enumerate(LENGTHS) for _ in range(length)]
    assert theirs["task"].tolist() == tasks
    np.testing.assert_allclose(
        theirs["stats.action.mean"], ours["action"].mean(axis=0, dtype=np.float64)
    )
    ends = np.cumsum(LENGTHS)[ours["episode_index"]]
    following = np.minimum(np.arange(sum(LENGTHS)) + 1, ends - 1)
    np.testing.assert_array_equal(theirs["windows"][:, 1], ours["action"][following])


@needs_lerobot
@pytest.mark.slow
def test_lerobots_own_recording(tmp_path):
    pytest.importorskip("av")
    root, out = tmp_path / "theirs", tmp_path / "out.npz"
    script = Path(__file__).with_name("lerobot_writer.py")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [PYTHON, script, root, out], env=environment, capture_output=True, text=True, timeout=280
    )
    assert result.returncode == 0, result.stderr
    theirs, dataset = np.load(out), data.open_dataset(root)
    assert data.detect(root).name == "lerobot" and data.verify(root) == []
    assert dataset.episode_lengths.tolist() == [4, 3] and dataset.fps == 10
    for index in range(2):
        assert dataset.task(index) == f"task {index}"
        for name, values in dataset.episode(index).items():
            expected = theirs[f"{index}/{name}"].reshape(values.shape)
            if name == "observation.images.video":
                assert np.abs(values.astype(int) - expected).mean() < 6
            else:
                np.testing.assert_array_equal(values, expected, err_msg=name)
    copy = data.convert(root, tmp_path / "copy", "lerobot", video=True)
    assert data.verify(tmp_path / "copy") == [] and copy.num_frames == 7
    assert not data.repair(root).changed
    with pytest.raises(data.IncompatibleDataset, match="embodied data convert"):
        data.resume(root)
    next(root.glob("videos/*/*/*.mp4")).unlink()
    with pytest.raises(data.CorruptDataset, match=r"observation\.images\.video"):
        data.open_dataset(root)

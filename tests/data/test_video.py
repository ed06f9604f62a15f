"""Video features of the LeRobot layout: pictures within codec error, everything else exact."""

import os
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest
from dataset_samples import FEATURES, LENGTHS, assert_same, make_episode, snapshot

from embodied import data
from embodied.data import Feature

pytest.importorskip("pyarrow")
pytest.importorskip("av")

CAMERA = "observation.images.top"
WITH_CAMERA = {**FEATURES, CAMERA: Feature("uint8", (32, 48, 3), video=True)}
LEROBOT = os.environ.get("EMBODIED_LEROBOT_PYTHON")
CODEC_ERROR = 3.0  # mean absolute, of 255


def pictures(index, length, height=32, width=48):
    """A moving gradient, which a codec can hold, with the picture's number in its brightness."""
    y, x = np.mgrid[:height, :width]
    rows = [[2 * x + 7 * t, 3 * y + 5 * index, 0 * x + 9 * t + 20] for t in range(length)]
    return np.clip(np.moveaxis(np.array(rows), 1, -1), 0, 255).astype(np.uint8)


def episode(index, length):
    return {**make_episode(index, length), CAMERA: pictures(index, length)}


def write(root, lengths=LENGTHS):
    settings = {"env_id": "test/reach", "fps": 25, "features": WITH_CAMERA}
    with data.create(root, "lerobot", **settings) as writer:
        for index, length in enumerate(lengths):
            writer.add_episode(episode(index, length), f"task {index % 2}", {"seed": index})
    return root


def close(actual, expected):
    assert actual.shape == expected.shape and actual.dtype == np.uint8
    assert np.abs(actual.astype(int) - expected).mean() < CODEC_ERROR


def check(dataset, lengths=LENGTHS):
    assert dataset.episode_lengths.tolist() == list(lengths)
    for index, length in enumerate(lengths):
        columns = dataset.episode(index, list(WITH_CAMERA))
        assert_same(columns, make_episode(index, length))
        close(columns[CAMERA], pictures(index, length))


def test_round_trip(tmp_path):
    root = write(tmp_path / "d")
    check(data.open_dataset(root))
    assert data.verify(root) == [] and not data.repair(root).changed
    before = snapshot(root)
    data.resume(root).close()
    assert snapshot(root) == before
    dataset = data.open_dataset(root)
    assert dataset.features == WITH_CAMERA and CAMERA not in dataset.arrays()
    assert dataset.info["features"][CAMERA]["dtype"] == "video"


def test_pictures_by_timestamp(tmp_path):
    dataset = data.open_dataset(write(tmp_path / "d"))
    wanted = [11, 0, 5, 5]
    frames = dataset.frames(3, CAMERA, [(i + 0.3) / 25 for i in wanted])
    close(frames, pictures(3, 12)[wanted])
    with pytest.raises(data.CorruptDataset, match=r"no picture within .* of 0\.6"):
        dataset.frames(3, CAMERA, [15 / 25])
    with pytest.raises(KeyError, match="no video 'action'"):
        dataset.frames(3, "action", [0.0])


def test_odd_sizes(tmp_path):
    features = {"observation.images.a": Feature("uint8", (33, 47, 3), video=True)}
    frames = pictures(0, 4, 33, 47)
    with data.create(tmp_path / "d", "lerobot", env_id="e", fps=10, features=features) as writer:
        writer.add_episode({"observation.images.a": frames}, "t")
    close(data.open_dataset(tmp_path / "d").episode(0)["observation.images.a"], frames)
    with pytest.raises(ValueError, match=r"pictures \[H, W, 3\] uint8"):
        Feature("float32", (8, 8, 3), video=True)


@pytest.mark.parametrize("damage", ["flip", "delete", "shorter"])
def test_a_damaged_video_is_named_and_repaired(tmp_path, damage):
    root = write(tmp_path / "d")
    name = f"videos/{CAMERA}/chunk-000/file-001.mp4"
    if damage == "flip":
        raw = bytearray((root / name).read_bytes())
        raw[random.Random(1).randrange(len(raw))] ^= 8
        (root / name).write_bytes(raw)
    elif damage == "delete":
        (root / name).unlink()
    else:
        (root / name).write_bytes((root / name.replace("001", "000")).read_bytes())
    with pytest.raises(data.CorruptDataset) as caught:
        data.open_dataset(root)
    assert f"{name} (episode 1)" in str(caught.value)
    report = data.repair(root)
    assert report.num_episodes == 1 and not data.repair(root).changed
    assert f"videos/{CAMERA}/chunk-000/file-002.mp4" in report.quarantined
    check(data.open_dataset(root), LENGTHS[:1])
    with data.resume(root) as writer:
        for index, length in enumerate(LENGTHS[1:], start=1):
            writer.add_episode(episode(index, length), "task")
    check(data.open_dataset(root))


def test_a_lost_ledger_is_rebuilt_with_its_videos(tmp_path):
    root = write(tmp_path / "d")
    (root / "meta/embodied.json").unlink()
    assert data.repair(root).num_episodes == 4
    check(data.open_dataset(root))


def test_pictures_become_video_and_back(tmp_path):
    pytest.importorskip("h5py")
    raw = {n: Feature(f.dtype, f.shape) for n, f in WITH_CAMERA.items()}
    with data.create(tmp_path / "a.hdf5", "robomimic", env_id="e", fps=25, features=raw) as writer:
        for index, length in enumerate(LENGTHS):
            writer.add_episode(episode(index, length), "t")
    check(data.convert(tmp_path / "a.hdf5", tmp_path / "b", "lerobot", video=True))
    assert list((tmp_path / "b").glob("videos/*/*/*.mp4"))
    check(data.convert(tmp_path / "b", tmp_path / "c.hdf5", "robomimic"))
    with pytest.raises(data.DatasetError, match="only the lerobot format"):
        data.convert(tmp_path / "b", tmp_path / "d.hdf5", "robomimic", video=True)


@pytest.mark.slow
@pytest.mark.skipif(
    not LEROBOT, reason="set EMBODIED_LEROBOT_PYTHON to an interpreter that has lerobot >= 0.4"
)
def test_lerobot_serves_the_same_pictures(tmp_path):
    root, out = write(tmp_path / "d"), tmp_path / "out.npz"
    script = Path(__file__).with_name("lerobot_oracle.py")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [LEROBOT, script, root, out], env=environment, capture_output=True, text=True, timeout=280
    )
    assert result.returncode == 0, result.stderr
    theirs, dataset = np.load(out), data.open_dataset(root)
    start = 0
    for index, length in enumerate(LENGTHS):
        ours = dataset.episode(index)
        frames = np.moveaxis(theirs[CAMERA][start : start + length], 1, -1) * 255
        close(np.round(frames).astype(np.uint8), pictures(index, length))
        assert np.abs(frames - ours[CAMERA]).mean() < 1.5  # the same file, another decoder
        for name in FEATURES:
            np.testing.assert_array_equal(theirs[name][start : start + length], ours[name])
        start += length

"""Datasets from the command line, and what is said of those that cannot be used."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_runs import TINY

from embodied.data import DatasetWriter, Feature, transition_features

MAZE = ("env=maze/point-v0", "collect.episodes=2")


@pytest.fixture
def copy(dataset, tmp_path):
    """A dataset of the maze that a test may damage."""
    return shutil.copytree(dataset, tmp_path / "copy")


def write(root, *, env_id="maze/point-v0", shape=(2,), episodes=1, features=None):
    """A dataset of zeros."""
    features = features or transition_features(shape, (2,))
    with DatasetWriter.create(root, env_id=env_id, fps=10, features=features) as writer:
        for _ in range(episodes):
            writer.add_frame({k: np.zeros(f.shape, f.dtype) for k, f in features.items()})
            writer.save_episode("task")
    return root


def test_collect_then_train_on_it(embodied):
    status, out, _ = embodied("collect", *MAZE, "out=data/maze")
    assert status == 0
    assert "2 episodes" in out and "train with data=data/maze" in out
    status, out, _ = embodied("data", "verify", "data/maze")
    assert (status, out) == (0, "embodied: no problems\n")
    words = ["method=bc", *TINY[1:3], "method.offline_updates=3", "method.batch_size=4"]
    words += ["evaluation.episodes=1", "trainer.tensorboard=false", "report=false"]
    assert embodied("train", *words, "data=data/maze")[0] == 0
    assert not Path("runs/data").exists()


def test_collecting_goes_on_but_mixes_nothing(copy, embodied, refused):
    words = ["collect", "env=maze/point-v0", f"out={copy}"]
    before = (copy / "meta/embodied.json").read_bytes()
    assert "collect.noise" in refused(*words, "collect.episodes=4", "collect.noise=0.1")
    assert "env.kwargs.wall_height" in refused(*words, "env_args.wall_height=1")
    assert (copy / "meta/embodied.json").read_bytes() == before
    status, out, _ = embodied(*words, "collect.episodes=4")
    assert status == 0
    assert "4 episodes" in out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["env=maze/point-v0"], ["out=PATH"]),
        (["env=maze/pint-v0", "out=x"], ["'maze/pint-v0'", "maze/point-v0"]),
        (["env=dm_control/lqr-lqr_2_1", "out=x"], ["no scripted expert"]),
        (["env=maze/point-v0", "out=x", "video=true"], ["env_args.obs=pixels"]),
        (["env=maze/point-v0", "out=x.hdf5", "format=libero", "video=true"], ["format=lerobot"]),
        (["env=maze/point-v0", "out=x", "format=robomimic"], [".hdf5"]),
        (["env=maze/point-v0", "out=x", "format=zarr"], ["'zarr'", "robomimic"]),
        (["env=maze/point-v0", "out=x", "workers=0"], ["workers must be at least 1"]),
        (["env=maze/point-v0", "out=x", "workers=many"], ["workers=many"]),
        (["env=maze/point-v0", "out=x", "policy=nowhere"], ["nowhere is not a run directory"]),
        (["suite=metaworld/mt11", "out=x"], ["metaworld/mt10"]),
        (["suite=metaworld/mt10", "out=x.h5", "format=libero"], ["one task"]),
        (["env=maze/point-v0", "out=x", "collect.episodes=0"], ["collect.episodes"]),
        (["env=maze/point-v0", "out=file/x"], ["file"]),
        (["env=maze/point-v0", "out=file"], ["file exists"]),
    ],
)
def test_wrong_collections(refused, tmp_path, words, parts):
    (tmp_path / "file").touch()
    message = refused("collect", *words)
    assert all(part in message for part in parts)


def test_info(dataset, embodied):
    status, out, _ = embodied("data", "info", str(dataset))
    assert status == 0
    for line in ("episodes: 3", "success: 1.0", "env: maze/point-v0", "action: float32 (2,)"):
        assert line in out.splitlines()


def test_info_of_data_recorded_elsewhere(tmp_path, embodied):
    root = write(tmp_path / "other", features={"action": Feature("float32", (2,))})
    status, out, _ = embodied("data", "info", str(root))
    assert status == 0
    assert "success: None" in out


def test_damaged_data_is_named_and_repaired(copy, embodied, refused):
    file = copy / "data/chunk-000/file-001.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    message = refused("train", *TINY, f"data={copy}")
    assert "file-001.parquet (episode 1)" in message
    assert f"embodied data repair {copy}" in message
    status, out, _ = embodied("data", "verify", str(copy))
    assert status == 1
    assert "file-001.parquet (episode 1)" in out and "1 problem(s)" in out
    status, out, _ = embodied("data", "repair", str(copy))
    assert status == 0
    assert "moved to quarantine: data/chunk-000/file-001.parquet" in out
    assert "1 episodes, " in out
    assert embodied("data", "verify", str(copy))[0] == 0


def test_data_that_does_not_fit(tmp_path, refused):
    env = "maze/point-v0"
    cases = {
        "shape": ({"shape": (3,)}, "observation.state shape is (3,) in the dataset, (2,) in this"),
        "env": ({"env_id": "maze/other"}, f"environment is 'maze/other' in the dataset, '{env}'"),
        "empty": ({"episodes": 0}, "no saved episode"),
        "columns": (
            {"features": {k: Feature("float32", (2,)) for k in ("observation.state", "action")}},
            "lacks the columns next.observation.state, next.reward, next.terminated",
        ),
    }
    for name, (arguments, expected) in cases.items():
        message = refused("train", *TINY, f"data={write(tmp_path / name, **arguments)}")
        assert str(tmp_path / name) in message
        assert expected in message


@pytest.mark.parametrize("action", ["info", "verify", "repair"])
def test_no_dataset(refused, action):
    assert "no dataset at nowhere" in refused("data", action, "nowhere")


def test_no_such_action(refused):
    assert "'mend'" in refused("data", "mend", "here")


def test_a_full_disk(refused, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "some/file")

    monkeypatch.setattr("embodied.collection.collect", full)
    assert "some/file: No space left on device" in refused("collect", *MAZE, "out=x")


FORMATS = {"robomimic": "copy.hdf5", "minari": "copy-v0", "lerobot": "copy"}


@pytest.mark.parametrize("format", FORMATS)
def test_convert_verify_and_view_every_format(dataset, embodied, format):
    if format != "lerobot":
        pytest.importorskip("h5py")
    out = FORMATS[format]
    status, text, _ = embodied("data", "convert", str(dataset), out, "--to", format)
    assert status == 0 and "3 episodes, " in text and f"frames in {out}" in text
    assert embodied("data", "verify", out)[:2] == (0, "embodied: no problems\n")
    status, text, _ = embodied("data", "info", out)
    assert status == 0
    for line in ("episodes: 3", "env: maze/point-v0", "action: float32 (2,)"):
        assert line in text.splitlines()
    status, text, _ = embodied("data", "view", out)
    assert status == 0 and text.count("reach the goal") == 3
    assert embodied("data", "view", out, "--html", "page.html")[0] == 0
    page = Path("page.html").read_text()
    assert page.count("<section>") == 3 + 3 and "<polyline" in page
    assert embodied("data", "repair", out)[0] == 0


def test_wrong_conversions(dataset, refused):
    assert "--to FORMAT" in refused("data", "convert", str(dataset), "out")
    assert "'zarr'; there are" in refused("data", "convert", str(dataset), "out", "--to", "zarr")
    assert "takes one path" in refused("data", "info", str(dataset), "out")
    words = ("data", "convert", str(dataset), "x.hdf5", "--to", "robomimic", "--video")
    assert "only the lerobot format" in refused(*words)

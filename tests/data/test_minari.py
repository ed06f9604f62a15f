"""Minari's own loader on our files, and its own files here."""

import json

import numpy as np
import pytest
from dataset_samples import FEATURES, LENGTHS, assert_same, make_episode

from embodied import data
from embodied.data import Feature

pytest.importorskip("h5py")


def write(root, features=FEATURES, make=make_episode, meta=None):
    settings = {"env_id": "test/reach", "fps": 50, "features": features, "meta": meta}
    with data.create(root, "minari", **settings) as writer:
        for index, length in enumerate(LENGTHS):
            writer.add_episode(make(index, length), "reach", {"seed": index})
    return root


def with_camera(index, length):
    rng = np.random.default_rng(index)
    frames = rng.integers(0, 256, (length, 40, 36, 3)).astype(np.uint8)
    return {**make_episode(index, length), "observation.camera": frames}


@pytest.fixture
def minari(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return pytest.importorskip("minari", reason="minari is not installed")


def test_minaris_loader_serves_the_same_rows(tmp_path, minari):
    features = {**FEATURES, "observation.camera": Feature("uint8", (40, 36, 3))}
    write(tmp_path / "reach-v0")
    write(tmp_path / "camera-v1", features, with_camera)
    flat, camera = minari.load_dataset("reach-v0"), minari.load_dataset("camera-v1")
    assert set(minari.list_local_datasets()) == {"reach-v0", "camera-v1"}
    assert flat.total_steps == camera.total_steps == sum(LENGTHS)
    for index, (one, two) in enumerate(
        zip(flat.iterate_episodes(), camera.iterate_episodes(), strict=True)
    ):
        ours = with_camera(index, LENGTHS[index])
        states = np.concatenate([ours["observation.state"], ours["next.observation.state"][-1:]])
        assert_same({"o": one.observations}, {"o": states})
        assert_same({"o": two.observations["state"]}, {"o": states})
        assert_same({"o": two.observations["camera"][:-1]}, {"o": ours["observation.camera"]})
        for episode in (one, two):
            assert_same(
                {"a": episode.actions, "r": episode.rewards, "t": episode.terminations},
                {"a": ours["action"], "r": ours["next.reward"], "t": ours["next.terminated"]},
            )
            assert_same({"t": episode.truncations}, {"t": ours["next.truncated"]})
            assert_same({"s": episode.infos["success"][1:]}, {"s": ours["next.success"]})
    seeds = [m["seed"] for m in flat.storage.get_episode_metadata(range(4))]
    assert seeds == [0, 1, 2, 3]


@pytest.mark.parametrize("jpeg", [True, False])
def test_minaris_own_dataset(tmp_path, minari, jpeg):
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer

    box = spaces.Box(-1, 1, (2,), np.float64)
    picture = spaces.Box(0, 255, (40, 36, 3), np.uint8)
    nested = spaces.Dict({"goal": box, "arm": spaces.Dict({"pos": box}), "camera": picture})
    rng = np.random.default_rng(0)
    buffers, lengths = [], (3, 5)
    y = np.mgrid[:40, :36][0]
    for length in lengths:
        smooth = np.stack([y * 3 + t * 5 for t in range(length + 1)])[..., None] + [0, 9, 18]
        buffers.append(
            EpisodeBuffer(
                seed=length,
                observations={
                    "goal": rng.uniform(-1, 1, (length + 1, 2)),
                    "arm": {"pos": rng.uniform(-1, 1, (length + 1, 2))},
                    "camera": smooth.astype(np.uint8),
                },
                actions=rng.integers(0, 3, length),
                rewards=rng.normal(size=length).tolist(),
                terminations=[False] * (length - 1) + [True],
                truncations=[False] * length,
                infos={"success": [False] * length + [True], "note": ["x"] * (length + 1)},
            )
        )
    minari.create_dataset_from_buffers(
        "theirs-v2",
        buffers,
        observation_space=nested,
        action_space=spaces.Discrete(3),
        jpeg_encoding=jpeg,
        requirements=["mujoco"],
    )
    dataset = data.open_dataset(tmp_path / "theirs-v2")
    assert data.detect(tmp_path / "theirs-v2").name == "minari"
    assert dataset.meta["left_out"] == ["infos/note"] and dataset.env_id == "theirs-v2"
    loaded = list(minari.load_dataset("theirs-v2").iterate_episodes())
    assert dataset.episode_lengths.tolist() == list(lengths)
    for index, theirs in enumerate(loaded):
        columns = dataset.episode(index)
        assert_same(
            columns,
            {
                "observation.goal": theirs.observations["goal"][:-1],
                "next.observation.arm.pos": theirs.observations["arm"]["pos"][1:],
                "observation.camera": theirs.observations["camera"][:-1],
                "action": theirs.actions,
                "next.reward": theirs.rewards,
                "next.terminated": theirs.terminations,
                "next.success": theirs.terminations,
            },
        )
        assert dataset.episode_meta(index)["seed"] == lengths[index]
    copy = data.convert(tmp_path / "theirs-v2", tmp_path / "copy.hdf5", "robomimic")
    assert_same(copy.episode(1), dataset.episode(1))
    metadata = tmp_path / "theirs-v2/data/metadata.json"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "total_episodes": 3}))
    with pytest.raises(data.CorruptDataset, match=r"it has 2 episodes, metadata.json says 3"):
        data.open_dataset(tmp_path / "theirs-v2")


def test_what_minari_cannot_hold_is_refused(tmp_path):
    broken = make_episode(0, 4)
    broken["next.observation.state"] = broken["next.observation.state"] + 1
    with data.create(tmp_path / "d", "minari", env_id="e", fps=20, features=FEATURES) as writer:
        with pytest.raises(ValueError, match=r"not observation.state of the following row"):
            writer.add_episode(broken, "reach")
        writer.add_episode(make_episode(0, 4), "reach")
    action = {"action": Feature("float32", (2,))}
    with pytest.raises(data.IncompatibleDataset, match="needs an observation"):
        data.create(tmp_path / "x", "minari", env_id="e", fps=20, features=action)


def test_lost_metadata_is_found_and_restored(tmp_path):
    root = write(tmp_path / "reach-v0")
    file = root / "data/metadata.json"
    content = file.read_bytes()
    for damage in (file.unlink, lambda: file.write_bytes(content[:-9] + content[-8:])):
        damage()
        with pytest.raises(data.CorruptDataset, match=r"metadata\.json"):
            data.open_dataset(root)
        assert data.repair(root).rewritten == ("metadata.json",)
        assert file.read_bytes() == content and data.verify(root) == []

"""What holds for every dataset format; HDF5's own layouts are in test_hdf5.py."""

import os
import random
import shutil

import numpy as np
import pytest
from dataset_samples import FEATURES, LENGTHS, assert_same, make_episode

from embodied import data
from embodied.data import Feature

H5 = ("robomimic", "libero", "minari")
NAMES = {
    "lerobot": "demos",
    "robomimic": "demos.hdf5",
    "libero": "demos.hdf5",
    "minari": "demos-v0",
}
META = {"seed": 3, "model_file": "<mujoco/>", "init_state": [1.0, 0.1], "odd": {"a": [None, "b"]}}


@pytest.fixture(params=NAMES)
def format(request):
    pytest.importorskip("pyarrow" if request.param == "lerobot" else "h5py")
    return request.param


@pytest.fixture(params=H5)
def h5_format(request):
    pytest.importorskip("h5py")
    return request.param


def write(path, format, lengths=LENGTHS):
    with data.create(
        path, format, env_id="test/reach", fps=50, features=FEATURES, meta={"seed": 3}
    ) as writer:
        for index, length in enumerate(lengths):
            writer.add_episode(make_episode(index, length), "reach it", {**META, "seed": index})
    return path


def check_contents(dataset, lengths=LENGTHS):
    assert dataset.episode_lengths.tolist() == list(lengths)
    assert dataset.num_frames == sum(lengths) and dataset.features == FEATURES
    for index, length in enumerate(lengths):
        columns = dataset.episode(index, list(FEATURES))
        assert list(columns) == list(FEATURES)
        assert_same(columns, make_episode(index, length))
        assert dataset.task(index) == "reach it"
        assert dataset.episode_meta(index) == {**META, "seed": index}


@pytest.mark.parametrize("checked", [True, False])
def test_round_trip_is_exact_to_the_bit(format, tmp_path, checked):
    path = write(tmp_path / NAMES[format], format)
    assert data.detect(path).name == format
    dataset = data.open_dataset(path, verify=checked)
    assert (dataset.env_id, dataset.fps, dataset.meta) == ("test/reach", 50, {"seed": 3})
    check_contents(dataset)
    assert data.verify(path) == [] and not data.repair(path).changed
    with pytest.raises(KeyError, match="velocity"):
        dataset.episode(0, ["velocity"])
    with pytest.raises(IndexError, match="episode 4 of 4"):
        dataset.episode(4)
    with pytest.raises(data.DatasetError, match="exists"):
        write(path, format)


def test_resume_equals_one_session(format, tmp_path):
    one = data.open_dataset(write(tmp_path / "one" / NAMES[format], format))
    path = write(tmp_path / "two" / NAMES[format], format, LENGTHS[:2])
    with data.resume(path) as writer:
        assert writer.num_episodes == 2
        for index, length in enumerate(LENGTHS[2:], start=2):
            for row in range(length):
                columns = make_episode(index, length)
                writer.add_frame({name: values[row] for name, values in columns.items()})
            writer.save_episode("reach it", {**META, "seed": index})
    two = data.open_dataset(path)
    check_contents(two)
    assert two.fingerprint == one.fingerprint
    with data.resume(path), pytest.raises(RuntimeError, match="another process"):
        data.resume(path)


@pytest.mark.parametrize("target", NAMES)
def test_conversion_keeps_every_bit_and_goes_on_where_it_stopped(format, target, tmp_path):
    pytest.importorskip("pyarrow" if target == "lerobot" else "h5py")
    source = write(tmp_path / "source" / NAMES[format], format)
    path = tmp_path / "target" / NAMES[target]
    seen = []

    def stop(done, total):
        seen.append((done, total))
        if seen == [(1, 4), (2, 4)]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.convert(source, path, target, stop)
    assert data.open_dataset(path).num_episodes == 2
    check_contents(data.convert(source, path, target, stop))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert data.detect(path).name == target and data.verify(path) == []
    assert data.open_dataset(path).meta["converted"]["format"] == format
    other = write(tmp_path / "other" / NAMES[format], format, [2])
    with pytest.raises(data.DatasetError, match="no unfinished copy"):
        data.convert(other, path, target)


def test_windows(format, tmp_path):
    dataset = data.open_dataset(write(tmp_path / NAMES[format], format))
    found = list(data.windows(dataset, 3, names=["action"], stride=2))
    episodes = [make_episode(i, n)["action"] for i, n in enumerate(LENGTHS)]
    expected = [e[s : s + 3] for e in episodes for s in range(0, len(e) - 2, 2)]
    assert len(found) == len(expected) == 1 + 3 + 0 + 5
    for window, values in zip(found, expected, strict=True):
        assert list(window) == ["action"]
        np.testing.assert_array_equal(window["action"], values)
    assert len(list(data.windows(dataset, 1, episodes=[3, 0]))) == 12 + 3
    with pytest.raises(ValueError, match="must be positive"):
        next(data.windows(dataset, 0))


def test_bad_episodes_are_refused_and_leave_no_trace(format, tmp_path):
    path = write(tmp_path / NAMES[format], format)
    good = make_episode(4, 3)
    bad = {
        "not finite at": {**good, "next.reward": np.array([0, np.inf, 0], np.float32)},
        "has shape": {**good, "action": good["action"][:2]},
        "has dtype": {**good, "action": good["action"].astype(np.float64)},
        "missing features": {"action": good["action"]},
    }
    with data.resume(path) as writer:
        for message, columns in bad.items():
            with pytest.raises(ValueError, match=f"episode 4.*{message}"):
                writer.add_episode(columns, "reach it")
        with pytest.raises(ValueError, match="plain JSON"):
            writer.add_episode(good, "reach it", {"x": object()})
    check_contents(data.open_dataset(path))


def flip(path, rng):
    raw = bytearray(path.read_bytes())
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)


def parts_of(path):
    return sorted(path.parent.glob("**/episode-*.hdf5"))


@pytest.fixture
def unmerged(h5_format, tmp_path):
    """Two episodes in the file and two beside it, as a killed writer leaves them."""
    path = write(tmp_path / "d" / NAMES[h5_format], h5_format, LENGTHS[:2])
    writer = data.resume(path)
    for index, length in enumerate(LENGTHS[2:], start=2):
        writer.add_episode(make_episode(index, length), "reach it", {**META, "seed": index})
    writer._lock.close()
    return path


def damaged_files(path):
    main = next(p for p in path.parent.rglob("*.hdf5") if ".embodied" not in str(p))
    return [main, main.with_name(main.name + ".embodied") / "ledger.json", *parts_of(path)]


@pytest.mark.parametrize("which", range(4))
def test_every_flipped_bit_is_detected_and_named(unmerged, which):
    file = damaged_files(unmerged)[which]
    sound, rng = file.read_bytes(), random.Random(which)
    for _ in range(25):
        flip(file, rng)
        with pytest.raises(data.CorruptDataset) as caught:
            data.open_dataset(unmerged)
        assert file.name in str(caught.value)
        assert "embodied data repair " in str(caught.value)
        assert data.detect(str(caught.value).rpartition(" ")[2]).name == data.detect(unmerged).name
        if which >= 2:
            assert f"(episode {which})" in str(caught.value)
        assert any(problem.fatal for problem in data.verify(unmerged))
        with pytest.raises(data.CorruptDataset):
            data.resume(unmerged)
        file.write_bytes(sound)
    check_contents(data.open_dataset(unmerged))


def test_a_flipped_value_names_its_episode(unmerged):
    file = damaged_files(unmerged)[0]
    raw = bytearray(file.read_bytes())
    values = make_episode(1, LENGTHS[1])["action"].tobytes()
    raw[raw.index(values) + 5] ^= 1
    file.write_bytes(raw)
    with pytest.raises(data.CorruptDataset, match=r"\(episode 1\)"):
        data.open_dataset(unmerged)
    lazy = data.open_dataset(unmerged, verify=False)
    assert_same(lazy.episode(0), make_episode(0, LENGTHS[0]))
    with pytest.raises(data.CorruptDataset, match=r"\(episode 1\).*checksum of 'action"):
        lazy.episode(1)
    report = data.repair(unmerged)
    assert report.num_episodes == 1 and report.changed
    check_contents(data.open_dataset(unmerged), LENGTHS[:1])


@pytest.mark.parametrize("damage", ["flip", "delete", "truncate"])
@pytest.mark.parametrize("which", range(4))
def test_repair_keeps_a_verified_prefix_and_is_idempotent(unmerged, which, damage):
    file = damaged_files(unmerged)[which]
    if damage == "flip":
        flip(file, random.Random(5))
    elif damage == "delete":
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size // 2)
    (file.parent / "episode-000009.hdf5.tmp").write_bytes(b"torn")
    report = data.repair(unmerged)
    kept = report.num_episodes
    assert kept in {0: (0, 1, 4), 1: (4,), 2: (2,), 3: (3,)}[which]
    if which == 0 and damage == "delete":
        assert kept == 0
    state = {p: p.read_bytes() for p in unmerged.parent.rglob("*") if p.is_file()}
    assert not data.repair(unmerged).changed
    assert state == {p: p.read_bytes() for p in unmerged.parent.rglob("*") if p.is_file()}
    assert data.verify(unmerged) == []
    assert not [part for part in parts_of(unmerged) if part.parent.name != "quarantine"]
    with data.resume(unmerged) as writer:
        for index, length in enumerate(LENGTHS[kept:], start=kept):
            writer.add_episode(make_episode(index, length), "reach it", {**META, "seed": index})
    check_contents(data.open_dataset(unmerged))


def test_a_file_moved_without_its_ledger_is_still_checked(h5_format, tmp_path):
    path = write(tmp_path / NAMES[h5_format], h5_format)
    if not path.is_file():
        pytest.skip("this format is a folder, which moves as a whole")
    moved = shutil.copy(path, tmp_path / "moved.hdf5")
    check_contents(data.open_dataset(moved))
    with data.resume(moved) as writer:
        assert writer.num_episodes == 4
    raw = bytearray(moved.read_bytes())
    raw[raw.index(make_episode(3, LENGTHS[3])["action"].tobytes()) + 9] ^= 4
    alone = tmp_path / "alone.hdf5"
    alone.write_bytes(raw)
    with pytest.raises(data.CorruptDataset, match=r"\(episode 3\)"):
        data.open_dataset(alone)


def test_empty_and_missing(format, tmp_path):
    path = tmp_path / NAMES[format]
    features = {"observation.state": Feature("float32", (2,)), "action": Feature("float32")}
    data.create(path, format, env_id="e", fps=1, features=features).close()
    with pytest.raises(data.EmptyDataset, match="no saved episode"):
        data.open_dataset(path)
    assert data.verify(path) == [] and data.repair(path).num_episodes == 0
    for use in (data.open_dataset, data.verify, data.repair, data.resume):
        with pytest.raises(data.DatasetNotFound, match="no dataset at"):
            use(tmp_path / "nowhere" / NAMES[format])
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(data.DatasetError, match="no dataset format 'zarr'; there are"):
        data.create(path, "zarr", env_id="e", fps=1, features={})

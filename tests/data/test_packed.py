"""Packed rows: the windows drawn are stretches of the dataset's episodes, and damage is found."""

import numpy as np
import pytest
from dataset_samples import FEATURES, LENGTHS, make_episode

from embodied import data

pytest.importorskip("pyarrow")
NAMES = list(FEATURES)


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / "demos"
    with data.create(root, "lerobot", env_id="test/reach", fps=50, features=FEATURES) as writer:
        for index, length in enumerate(LENGTHS):
            writer.add_episode(make_episode(index, length), "reach it")
    return data.open_dataset(root, verify=False)


@pytest.fixture
def packed(dataset, tmp_path):
    return data.pack(dataset, tmp_path / "packed", names=NAMES)


def stretches(dataset, length):
    """Every window there is, as bytes of each column."""
    found = set()
    for window in data.windows(dataset, length, names=NAMES):
        found.add(tuple(window[name].tobytes() for name in NAMES))
    return found


def test_windows_are_the_stretches_of_the_episodes(dataset, packed):
    length = 3  # one episode is shorter, one just as long
    expected = stretches(dataset, length)
    assert packed.num_windows(length) == 1 + 5 + 10 == len(expected)
    drawn = packed.windows(60 * len(expected), length, np.random.default_rng(0))
    for name, feature in FEATURES.items():
        assert drawn[name].dtype == feature.dtype
        assert drawn[name].shape == (60 * len(expected), length, *feature.shape)
    found = zip(*([part.tobytes() for part in drawn[name]] for name in NAMES), strict=True)
    assert set(found) == expected  # all of them, and none that spans two episodes


def test_the_generator_decides_and_memory_is_fresh(packed):
    first = packed.windows(4, 2, np.random.default_rng(1))
    again = packed.windows(4, 2, np.random.default_rng(1))
    for name in NAMES:
        assert np.array_equal(first[name], again[name])
        assert not np.shares_memory(first[name], again[name])
    first["action"][:] = 7  # not a view of the file
    assert np.array_equal(packed.windows(4, 2, np.random.default_rng(1))["action"], again["action"])


def test_it_opens_again_and_names_its_source(dataset, packed, tmp_path):
    opened = data.Packed.open(tmp_path / "packed")
    assert opened.fingerprint == dataset.fingerprint
    assert opened.episode_lengths.tolist() == list(LENGTHS)
    assert isinstance(opened.rows, np.memmap) and opened.rows.tobytes() == packed.rows.tobytes()
    data.pack(dataset, tmp_path / "packed", names=["action"])  # an older copy is replaced
    assert data.Packed.open(tmp_path / "packed").rows.dtype.names == ("action",)


def test_damage_is_found(packed, tmp_path):
    path = tmp_path / "packed" / "rows.npy"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(data.CorruptDataset, match="checksum"):
        data.Packed.open(tmp_path / "packed")
    path.write_bytes(raw[:-100])
    with pytest.raises(data.CorruptDataset):
        data.Packed.open(tmp_path / "packed", verify=False)


def test_an_interrupted_copy_is_not_taken_for_complete(dataset, packed, tmp_path, monkeypatch):
    def fail(self, index, names=None):
        raise OSError("no more")

    monkeypatch.setattr(type(dataset), "episode", fail)
    with pytest.raises(OSError, match="no more"):
        data.pack(dataset, tmp_path / "packed")
    with pytest.raises(data.DatasetNotFound):
        data.Packed.open(tmp_path / "packed")


def test_wrong_arguments(dataset, packed, tmp_path):
    with pytest.raises(data.DatasetError, match="no episode has 1000 rows"):
        packed.windows(1, 1000, np.random.default_rng(0))
    with pytest.raises(ValueError, match="positive"):
        packed.num_windows(0)
    with pytest.raises(data.DatasetError, match="other files"):
        data.pack(dataset, dataset.root)
    with pytest.raises(KeyError, match="nothing"):
        data.pack(dataset, tmp_path / "new", names=["nothing"])

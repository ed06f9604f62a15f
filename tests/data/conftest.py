import pytest
from dataset_samples import LENGTHS, SETTINGS, record

from embodied.data import DatasetWriter

pytest.importorskip("pyarrow")


@pytest.fixture
def root(tmp_path):
    """A dataset of four episodes."""
    path = tmp_path / "dataset"
    with DatasetWriter.create(path, **SETTINGS) as writer:
        record(writer, 0, LENGTHS)
    return path

"""The command line, called in this process: a new one would spend seconds on imports."""

import shutil
from pathlib import Path

import pytest
import torch
from cli_runs import RUN, TINY, call

from embodied import collection
from embodied.settings import CollectSettings

pytest.importorskip("pyarrow")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A working directory with one finished run, made by the command line."""
    place = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert call(["train", *TINY, "seed=1"]) == 0
    return place


@pytest.fixture
def place(finished, tmp_path, monkeypatch):
    """A copy of it, where the test then works."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    assert Path(RUN).is_dir()
    return tmp_path


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Three episodes of the maze."""
    root = tmp_path_factory.mktemp("dataset") / "maze"
    collection.collect(root, "maze/point-v0", {}, CollectSettings(episodes=3))
    return root


@pytest.fixture
def embodied(tmp_path, monkeypatch, capsys):
    """Runs a command in an empty directory (or in `place`); returns status, output, errors."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        capsys.readouterr()
        status = call(words)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return run


@pytest.fixture
def refused(embodied):
    """Runs a command that must fail as the user's error; returns the message."""

    def run(*words):
        status, _, err = embodied(*words)
        assert status == 2, err
        assert err.startswith(("embodied: ", "usage: "))
        return err

    return run

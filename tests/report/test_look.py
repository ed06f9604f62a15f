"""Results on pictures with different looks do not compare; on states the look does not matter."""

import json

import pytest

import envs
from embodied.cli import main
from embodied.report.ledger import SCHEMA

ID = "metaworld/reach-v3"


def ledger(path, renderer="egl", **options):
    """The ledger of one lost episode, as `embodied eval` heads it."""
    about = envs.describe(envs.make(ID, **options))
    task = {
        "env_args": options,
        "versions": about["versions"],
        "env_hash": about["hash"],
        "look": about["look"],
        "initial_states": "abc",
    }
    head = {
        "schema": SCHEMA,
        "tasks": {ID: task},
        "episodes": 1,
        "versions": {},
        "renderer": renderer,
    }
    row = {"task": ID, "index": 0, "success": False}
    path.write_text(f"{json.dumps(head)}\n{json.dumps(row)}\n")
    return str(path)


@pytest.fixture
def compared(tmp_path, capsys):
    pytest.importorskip("metaworld")

    def compared(a, b):
        status = main(["eval", "--compare", a, b])
        return status, capsys.readouterr().out

    return compared


@pytest.mark.parametrize("obs", ["pixels", "both"])
def test_looks_of_pictures(tmp_path, compared, monkeypatch, obs):
    fast = ledger(tmp_path / "fast", obs=obs, render="fast")
    assert compared(fast, fast)[0] == 0
    status, out = compared(fast, ledger(tmp_path / "package", obs=obs, render="package"))
    assert status == 1 and "the look of pictures" in out and "'render': 'package'" in out
    monkeypatch.setattr("envs.registry.gl", lambda: {"gl": "egl", "device": "another GPU"})
    status, out = compared(fast, ledger(tmp_path / "gpu", obs=obs, render="fast"))
    assert status == 1 and "another GPU" in out and "env_hash" not in out
    older = json.loads(open(fast).readline())
    del older["tasks"][ID]["look"]
    rows = open(fast).read().splitlines()[1:]
    (tmp_path / "older").write_text("\n".join([json.dumps(older), *rows]) + "\n")
    assert compared(fast, str(tmp_path / "older"))[0] == 1
    assert compared(fast, ledger(tmp_path / "osmesa", "osmesa", obs=obs, render="fast"))[0] == 1


def test_states_compare_whatever_draws_the_videos(tmp_path, compared):
    one = ledger(tmp_path / "one", "egl", horizon=9)
    assert compared(one, ledger(tmp_path / "other", "osmesa", horizon=9))[0] == 0

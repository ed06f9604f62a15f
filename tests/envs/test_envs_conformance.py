import json

import pytest

from envs import conformance


def test_a_task_is_checked_and_kept(tmp_path, capsys):
    kept, page = tmp_path / "kept.jsonl", tmp_path / "docs" / "page.md"
    words = ["--only", "maze", "--steps", "10", "--kept", str(kept), "--page", str(page)]
    assert conformance.main(words) == 0
    result = json.loads(kept.read_text())
    assert result["contract"] == "kept" and result["expert"] == "episode 1"
    assert "| maze/point-v0 | kept | episode 1 |" in page.read_text()
    capsys.readouterr()
    assert conformance.main(words) == 0  # nothing is left to do
    assert "maze/point-v0 " not in capsys.readouterr().out


@pytest.mark.parametrize("env_id", ["metaworld/door-close-v3", "dm_control/cartpole-balance"])
def test_experts_are_asked_where_there_is_one(env_id):
    family = env_id.split("/")[0]
    pytest.importorskip(family)
    found = conformance.conformance(env_id, steps=10, attempts=1)
    assert found["contract"] == "kept"
    assert found["expert"] == ("episode 1" if family == "metaworld" else "none")


def test_a_broken_promise_is_told(tmp_path, monkeypatch):
    def broken(env_id, **options):
        raise conformance.EnvCheckError(env_id, ["it leaks"])

    monkeypatch.setattr(conformance, "check_env", broken)
    words = ["--only", "maze", "--kept", str(tmp_path / "k"), "--page", str(tmp_path / "p.md")]
    assert conformance.main(words) == 1
    assert "it leaks" in (tmp_path / "p.md").read_text()


def test_a_prefix_that_fits_nothing(capsys):
    with pytest.raises(SystemExit):
        conformance.main(["--only", "atari"])
    assert "no task begins with atari" in capsys.readouterr().err

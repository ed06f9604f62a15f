"""Teleoperation, by keyboard."""

import pytest

from embodied import teleop
from embodied.core.types import UserError
from embodied.deploy import parse
from embodied.operators import Keyboard, Person

pytest.importorskip("mcap")
pytest.importorskip("mujoco")

WIDE = [f"limits.{name}=5.0" for name in ("observation_age", "command_age", "blind", "tracking")]


def test_what_a_person_drives_becomes_a_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("EMBODIED_LATCH", str(tmp_path / "latch"))
    calls = [0]

    def keys():
        calls[0] += 1
        return "\n" if calls[0] % 8 == 0 else "w"

    deployment = parse(["task=none", "episodes=2", "horizon=20", *WIDE], policy="keyboard")
    person = Person("keyboard", [Keyboard(keys)], drives=True)
    dataset = teleop.teleoperate(deployment, tmp_path / "demos", person)
    assert dataset.num_episodes == 2 and dataset.env_id == "real/panda_twin"
    assert dataset.meta["policy"]["name"] == "keyboard"
    columns = dataset.episode(0)
    assert columns["action"].shape[1] == 7 and (columns["action"][:, 0] > 0).any()
    assert columns["next.done"].tolist() == [False] * (len(columns["action"]) - 1) + [True]
    assert (tmp_path / "demos.flights" / "1" / "run.mcap").stat().st_size > 1000


def test_it_needs_a_terminal_and_a_place(monkeypatch):
    with pytest.raises(UserError, match="out=DATASET"):
        teleop.command(["robot=panda_twin"])
    with pytest.raises(UserError, match="terminal"):
        teleop.command(["robot=panda_twin", "out=demos"])

"""F12: an evaluation gives the same ledger whatever the number of workers, every time."""

import json

import pytest

import embodied as package
from embodied import evaluation
from embodied.cli import main
from embodied.core.types import UserError
from embodied.report.ledger import Ledger, compare

TRAINED = {
    "maze": ("env=maze/point-v0", "env_args.reward=sparse", "env_args.terminate_on_success=true"),
    "metaworld": ("env=metaworld/reach-v3", "env_args.horizon=12"),
    "dm_control": ("env=dm_control/cartpole-swingup", "env_args.horizon=12"),
}
TINY = (
    "method=sac",
    "method.hidden=[16,16]",
    "method.batch_size=8",
    "method.random_steps=16",
    "method.online_steps=40",
    "evaluation.episodes=1",
    "trainer.tensorboard=false",
    "report=false",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = {}
    for name, env in TRAINED.items():
        directory = tmp_path_factory.mktemp("f12") / name
        run = package.build(*TINY, *env, f"run={directory}")
        run.trainer.run()
        run.trainer.close()
        made[name] = directory
    return made


def ledger(run, suite=None, **options):
    _, path = evaluation.evaluate(run, 5, suite=suite, **options)
    return path.read_bytes()


@pytest.mark.parametrize(
    "name, workers",
    [("maze", 1), ("maze", 2), ("maze", 4), ("metaworld", 2), ("dm_control", 2)],
)
def test_the_ledger_is_the_same_for_any_number_of_workers(runs, name, workers):
    first = ledger(runs[name])
    assert ledger(runs[name], workers=workers) == first
    head, *rows = map(json.loads, first.splitlines())
    assert len(rows) == 5 and len({row["initial_state"] for row in rows}) > 1
    assert head["versions"]["torch"] and head["renderer"] and head["policy"]["env_steps"] == 40


def test_the_order_of_episodes_does_not_matter(runs):
    """Each begins from its own state: backwards, or one alone, it is the same."""
    runner = evaluation._Runner(runs["metaworld"], {"metaworld/reach-v3": {"horizon": 12}}, 3, 0)
    forwards = [runner("metaworld/reach-v3", i)[0] for i in range(3)]
    assert [runner("metaworld/reach-v3", i)[0] for i in (2, 1, 0)] == forwards[::-1]


def test_a_suite_is_evaluated_task_by_task(runs, monkeypatch, capsys):
    tasks = ["metaworld/reach-v3", "metaworld/push-v3"]
    monkeypatch.setattr("envs.suite", {"metaworld/two": tasks}.__getitem__, raising=False)
    words = ["eval", f"policy={runs['metaworld']}", "suite=metaworld/two", "episodes=2"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "metaworld/push-v3: success 0/2" in out and "success 0/4" in out
    read = Ledger.read(runs["metaworld"] / "ledger-metaworld-two-2-seed0.jsonl")
    assert list(read.head["tasks"]) == tasks
    assert "metaworld/push-v3" in read.path.with_suffix(".html").read_text()


def test_comparing(runs, capsys):
    ledger(runs["maze"])
    path = runs["maze"] / "ledger-5-seed0.jsonl"
    assert main(["eval", "--compare", str(path), str(path)]) == 0
    assert "exact McNemar p = 1" in capsys.readouterr().out
    ledger(runs["dm_control"])
    assert main(["eval", "--compare", str(path), str(runs["dm_control"] / path.name)]) == 1
    assert "only one of them has the task(s)" in capsys.readouterr().out


def test_another_simulator_version_does_not_compare(runs, monkeypatch):
    ledger(runs["metaworld"])
    path = runs["metaworld"] / "ledger-5-seed0.jsonl"
    first = Ledger.read(path)
    from importlib import metadata

    version = metadata.version
    fake = lambda name: "3.4.0" if name == "mujoco" else version(name)  # noqa: E731
    monkeypatch.setattr(metadata, "version", fake)
    ledger(runs["metaworld"])
    verdict = compare(first, Ledger.read(path))
    assert not verdict.comparable
    assert "env_hash" in verdict.text and "'mujoco': '3.4.0'" in verdict.text


def test_the_exact_test_counts_pairs(runs):
    ledger(runs["maze"])
    one = Ledger.read(runs["maze"] / "ledger-5-seed0.jsonl")
    won = {key: {**row, "success": True} for key, row in one.episodes.items()}
    lost = {key: {**row, "success": False} for key, row in one.episodes.items()}
    text = compare(Ledger(one.path, one.head, won), Ledger(one.path, one.head, lost)).text
    assert "won by A alone 5, by B alone 0; exact McNemar p = 0.0625" in text


def test_what_is_no_ledger(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_text("{}\n")
    with pytest.raises(UserError, match="no ledger"):
        Ledger.read(path)
    with pytest.raises(UserError, match="No such file"):
        Ledger.read(tmp_path / "missing.jsonl")

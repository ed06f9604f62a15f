"""F12: the same ledger for any number of workers and of episodes in flight, every time."""

import json
from collections import Counter

import pytest

import embodied as package
import envs
from embodied import evaluation
from embodied.cli import main
from embodied.core.checkpoint import Checkpoints
from embodied.core.types import UserError
from embodied.player import Player
from embodied.report.ledger import Ledger, compare
from embodied.report.ledger_page import write_page
from tests import stub_libero

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


def ledger(policy, suite=None, **options):
    _, path = evaluation.evaluate(policy, 5, suite=suite, **options)
    return path.read_bytes()


@pytest.fixture
def cases(runs, tmp_path):
    """Policy and options of each kind of evaluation; ledgers of those without a run go here."""
    horizon, out = {"env_args": {"horizon": 40}}, {"out": tmp_path}
    return {
        "scripted Meta-World": ("scripted", {"suite": "metaworld/reach-v3", **horizon, **out}),
        "scripted LIBERO stub": (
            "scripted",
            {
                "suite": stub_libero.TASK,
                "env_args": {"obs": "both"},
                "make": stub_libero.make,
                **out,
            },
        ),
        "random dm_control": ("random", {"suite": "dm_control/cartpole-swingup", **horizon, **out}),
        "trained maze": (runs["maze"], {}),
        "trained Meta-World": (runs["metaworld"], {}),
        "trained dm_control": (runs["dm_control"], {}),
    }


@pytest.mark.parametrize(
    "name, grid",
    [
        ("scripted Meta-World", [(1, 1), (1, 2), (1, 5), (2, 2)]),
        ("scripted LIBERO stub", [(1, 1), (1, 2), (1, 5), (4, 1)]),
        ("random dm_control", [(1, 1), (1, 3)]),
        ("trained maze", [(1, 1), (1, 2), (1, 5), (2, 2)]),
        ("trained Meta-World", [(1, 5), (2, 3)]),
        ("trained dm_control", [(1, 5)]),
    ],
)
def test_the_ledger_is_the_same_for_any_workers_and_batch(cases, name, grid):
    policy, options = cases[name]
    first = ledger(policy, **options)
    for workers, batch in grid:
        assert ledger(policy, workers=workers, batch=batch, **options) == first, (workers, batch)
    head, *rows = map(json.loads, first.splitlines())
    assert len(rows) == 5 and len({row["initial_state"] for row in rows}) > 1
    assert head["versions"]["torch"] and head["renderer"] and head["policy"]["name"]
    assert ("trained" in name) == (head["policy"].get("env_steps") == 40)


@pytest.mark.slow
def test_the_whole_grid_twice(cases):
    policy, options = cases["scripted LIBERO stub"]
    found = {
        ledger(policy, workers=workers, batch=batch, **options)
        for _ in range(2)
        for workers in (1, 2, 4)
        for batch in (1, 2, 5)
    }
    assert len(found) == 1


def test_the_order_of_episodes_does_not_matter(runs):
    """Each begins from its own state: backwards, or one alone, it is the same."""
    task = "metaworld/reach-v3"
    runner = Player(runs["metaworld"], {task: {"horizon": 12}}, 3)
    forwards = [runner((task, [i]))["results"][0][0] for i in range(3)]
    assert [runner((task, [i]))["results"][0][0] for i in (2, 1, 0)] == forwards[::-1]
    assert [episode for episode, _ in runner((task, [1, 2, 0]))["results"]] == [
        forwards[i] for i in (1, 2, 0)
    ]
    runner.close()


def test_stored_states_are_taken_by_index(tmp_path):
    """Episode i begins from stored state i, whichever list of seeds; the rest may differ."""
    options = {"suite": stub_libero.TASK, "make": stub_libero.make, "out": tmp_path}
    rows = {}
    for seed in (0, 1):
        result, _ = evaluation.evaluate("scripted", 6, seed, **options)
        rows[seed] = result.episodes
        assert [e.init_state for e in result.episodes] == [0, 1, 2, 3, 0, 1]
    assert [e.seed for e in rows[0]] == list(range(6))
    assert {e.seed for e in rows[0]}.isdisjoint(e.seed for e in rows[1])
    assert rows[0][0].initial_state != rows[1][0].initial_state


def test_an_environment_that_begins_elsewhere_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(stub_libero.StubLibero, "stored_states", 3)
    options = {"suite": stub_libero.TASK, "make": stub_libero.make, "out": tmp_path}
    with pytest.raises(ValueError, match="began from stored state 3, not 0"):
        evaluation.evaluate("scripted", 4, **options)


def test_libero_ends_with_success():
    suite, given = "libero_spatial", {"obs": "both"}
    tasks = evaluation._tasks("scripted", suite, given)
    assert list(tasks) == envs.suite(suite) == envs.suite("libero/libero_spatial")
    assert all(args == {"terminate_on_success": True, "obs": "both"} for args in tasks.values())
    tasks = evaluation._tasks("scripted", suite, {"terminate_on_success": False})
    assert not tasks["libero/libero_spatial/0"]["terminate_on_success"]


def test_a_suite_is_evaluated_task_by_task(runs, monkeypatch, capsys):
    tasks = ["metaworld/reach-v3", "metaworld/push-v3"]
    monkeypatch.setitem(envs.suites._SUITES, "metaworld/two", tuple(tasks))
    words = ["eval", f"policy={runs['metaworld']}", "suite=metaworld/two", "episodes=2"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "metaworld/push-v3: success 0/2" in out and "success 0/4" in out
    read = Ledger.read(runs["metaworld"] / "ledger-metaworld-two-2-seed0.jsonl")
    assert list(read.head["tasks"]) == tasks
    page = read.path.with_suffix(".html").read_text()
    assert "metaworld/push-v3" in page and "all of metaworld" in page


def test_checkpoint_and_environments_are_loaded_once(runs, monkeypatch):
    counts = Counter()

    def counted(module, name):
        original = getattr(module, name)

        def call(*arguments, **options):
            counts[name] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    counted(Checkpoints, "load")
    counted(envs, "make")
    ledger(runs["maze"])
    assert counts == {"load": 1, "make": 1}


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["policy=scripted"], ["suite=NAME_OR_TASK"]),
        (["policy=scripted", "suite=dm_control/walker-walk"], ["no scripted expert"]),
        (["policy=random", "suite=libero_spatal"], ["libero_spatial"]),
        (["policy=random", "suite=maze/point-v0", "batch=0"], ["batch must be at least 1"]),
        (["policy=random", "suite=maze/point-v0", "videos=many"], ["videos=many"]),
        (
            ["policy=random", "suite=maze/point-v0", "env_args.wall=2"],
            ["env_args of maze/point-v0"],
        ),
        (["policy=random", "suite=maze/point-v0", "env_args.a=1,2"], ["several values"]),
        (["policy={maze}", "suite=metaworld/reach-v3"], ["maps observations (2,)", "(39,)"]),
        (["policy=scripted", "suite=dm_control/walker-walk", "workers=2"], ["no scripted expert"]),
    ],
)
def test_wrong_evaluations(runs, capsys, words, parts):
    assert main(["eval", "episodes=2", *(word.format(**runs) for word in words)]) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in parts) and "Traceback" not in error


def test_videos_of_chosen_episodes(tmp_path):
    pytest.importorskip("av")
    options = {"suite": "maze/point-v0", "out": tmp_path}
    result, path = evaluation.evaluate("random", 4, videos=2, workers=2, **options)
    folder, page = path.with_suffix(".videos"), path.with_suffix(".html").read_text()
    names = ["maze-point-v0-0.mp4", "maze-point-v0-1.mp4"]
    assert sorted(p.name for p in folder.iterdir()) == names
    assert all(f'src="{folder.name}/{name}"' in page for name in names)
    lost = [e.index for e in result.episodes if not e.success]
    evaluation.evaluate("random", 4, videos="failures", **options)
    expected = [f"maze-point-v0-{i}.mp4" for i in lost[:3]]
    assert expected and sorted(p.name for p in folder.iterdir()) == expected
    evaluation.evaluate("random", 4, **options)
    assert not list(folder.iterdir()) and "<video" not in path.with_suffix(".html").read_text()


def test_the_page_of_130_tasks(tmp_path):
    """Every task has a tile, a row and a link from one to the other; nothing is fetched."""
    tasks = envs.suite("libero")
    about = {"env_args": {}, "versions": {}, "env_hash": "e", "initial_states": "s"}
    head = {
        "schema": 2,
        "suite": "libero",
        "tasks": {task: {**about, "instruction": f"do <{task}>"} for task in tasks},
        "episodes": 2,
        "seed": 0,
        "policy": {"name": "stub"},
        "versions": {},
        "renderer": "egl",
    }
    row = {"seed": 0, "initial_state": "a", "episode_return": 1.0, "length": 3}
    rows = [{**row, "task": t, "index": i, "success": i == 0} for t in tasks for i in (0, 1)]
    path = tmp_path / "ledger.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in (head, *rows)))
    page = write_page(Ledger.read(path)).read_text()
    assert all(f'href="#{task}"' in page and f'id="{task}"' in page for task in tasks)
    assert page.count("all of libero/") == 5 and "130 of 260 episodes" in page
    assert "do &lt;libero/libero_10/3&gt;" in page and "http" not in page


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

"""Collections: the same bytes for any number of workers, durable, resumable, in any format."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import envs
from embodied import collection, columns, data
from embodied.core.types import UserError
from embodied.jobs import WorkerDied, in_order
from embodied.settings import CollectSettings
from tests import stub_libero

pytest.importorskip("pyarrow")
MAZE = "maze/point-v0"
FORMATS = {
    "lerobot": "demos",
    "video": "demos",
    "robomimic": "demos.hdf5",
    "libero": "demos.hdf5",
    "minari": "demos-v0",
}
NOISY = CollectSettings(episodes=4, noise=0.2, seed=3)


@pytest.fixture(params=FORMATS)
def where(request):
    """A format: options of `collect`, and the dataset's name."""
    pytest.importorskip("pyarrow" if FORMATS[request.param] == "demos" else "h5py")
    if request.param == "video":
        pytest.importorskip("av")
        return {"format": "lerobot", "video": True}, "demos"
    return {"format": request.param}, FORMATS[request.param]


def collect(root, settings=NOISY, env_id=MAZE, args=None, **options):
    args = {"horizon": 12} if args is None else args
    return collection.collect(root, env_id, args, settings, **options)


def snapshot(folder):
    found = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {str(path): raw for path, raw in found.items() if path.name != ".lock"}


def differing(folder, other):
    """The files that are not the same, and the text in the heads of Parquet files."""
    one, two = snapshot(folder), snapshot(other)
    names = sorted(name for name in one | two if one.get(name) != two.get(name))
    heads = [
        data.parquet.decode_header(each[name])
        for name in names
        for each in (one, two)
        if name.endswith(".parquet") and name.startswith("demos/data") and name in each
    ]
    return names, heads


def same(dataset, other):
    """Equal to the bit, metadata too."""
    assert dataset.episode_lengths.tolist() == other.episode_lengths.tolist()
    for index in range(dataset.num_episodes):
        one, two = dataset.episode(index), other.episode(index)
        assert one.keys() == two.keys()
        assert all(one[name].tobytes() == two[name].tobytes() for name in one)
        assert dataset.episode_meta(index) == other.episode_meta(index)
        assert dataset.task(index) == other.task(index)
    return True


def test_the_same_bytes_for_any_number_of_workers(where, tmp_path):
    options, name = where
    args = {"horizon": 12, "obs": "pixels", "image_size": 16}
    for workers in (1, 2, 3):
        collect(tmp_path / str(workers) / name, args=args, workers=workers, **options)
    for workers in ("2", "3"):
        assert differing(tmp_path / "1", tmp_path / workers) == ([], [])
    assert data.verify(tmp_path / "1" / name) == []
    dataset = data.open_dataset(tmp_path / "1" / name)
    assert dataset.num_episodes == 4
    assert dataset.episode(0)["observation.images.top"].shape[1:] == (16, 16, 3)
    metas = [dataset.episode_meta(i) for i in range(4)]
    assert [meta["index"] for meta in metas] == [0, 1, 2, 3]
    assert len({meta["initial_state"] for meta in metas}) == 4
    assert {meta["env_hash"] for meta in metas} == {dataset.meta["env"]["hash"]}


def test_interrupted_and_gone_on_with(where, tmp_path):
    """Ctrl-C in the middle: what was counted is there and whole; the rest comes as if never cut."""
    options, name = where
    options.pop("video", None)
    whole = collect(tmp_path / "whole" / name, **options)

    def stop(index, total, success):
        if index == 1:
            raise KeyboardInterrupt

    cut = tmp_path / "cut" / name
    with pytest.raises(KeyboardInterrupt, match="2 of 4 episodes are saved"):
        collect(cut, on_episode=stop, **options)
    assert data.open_dataset(cut).num_episodes == 2 and data.verify(cut) == []
    assert same(collect(cut, workers=2, **options), whole)
    assert collect(cut, **options).num_episodes == 4  # nothing left to do
    more = dataclasses.replace(NOISY, episodes=5)
    assert same(collect(cut, more, **options), collect(tmp_path / "more" / name, more, **options))


@pytest.mark.parametrize("format, name", [("lerobot", "demos"), ("robomimic", "demos.hdf5")])
def test_killed_while_workers_play(format, name, tmp_path):
    """SIGKILL of the whole thing at any time: every counted episode is there."""
    pytest.importorskip("h5py" if format == "robomimic" else "pyarrow")
    path = tmp_path / "killed" / name
    code = (
        "from embodied import collection; from embodied.settings import CollectSettings\n"
        "if __name__ == '__main__':\n"
        f"    collection.collect({str(path)!r}, {MAZE!r}, {{'horizon': 12}}, "
        "CollectSettings(episodes=500, noise=0.2, seed=3), "
        f"lambda i, n, s: print(i, flush=True), format={format!r}, workers=2)"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    root = Path(__file__).parents[2]
    command = [sys.executable, script]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    ) as process:
        lines = [process.stdout.readline() for _ in range(5)]
        process.send_signal(signal.SIGKILL)
        counted = [*lines, *process.stdout.read().splitlines()]
    kept = data.open_dataset(path).num_episodes
    assert kept >= len(counted) >= 5
    settings = dataclasses.replace(NOISY, episodes=kept + 1)
    fresh = collect(tmp_path / "fresh" / name, settings, format=format)
    assert same(collect(path, settings, format=format), fresh)


def test_only_successes(tmp_path):
    settings = dataclasses.replace(NOISY, episodes=5, failure_prob=0.5)
    every = collect(tmp_path / "every", dataclasses.replace(settings, episodes=12), args={})
    won = [i for i in range(12) if every.episode(i)["next.success"].any()][:5]
    assert 5 == len(won) < won[-1] + 1
    for workers in (1, 3):
        root = tmp_path / f"some{workers}"
        some = collect(root, settings, args={}, successes_only=True, workers=workers)
        assert [some.episode_meta(i)["index"] for i in range(5)] == won
        assert collection.dropped(some) == won[-1] + 1 - 5
    assert differing(tmp_path / "some1", tmp_path / "some3") == ([], [])
    hopeless = dataclasses.replace(settings, episodes=2, failure_prob=1.0)
    with pytest.raises(UserError, match="0 of 20 episodes succeeded"):
        collect(tmp_path / "none", hopeless, successes_only=True)


def test_several_tasks_in_one_dataset(tmp_path, monkeypatch):
    pytest.importorskip("metaworld")
    tasks = ("metaworld/reach-v3", "metaworld/drawer-close-v3")
    monkeypatch.setitem(envs.suites._SUITES, "metaworld/two", tasks)
    settings = CollectSettings(episodes=2, noise=0)
    args = {"horizon": 8}
    collect(tmp_path / "one", settings, "metaworld/two", args)
    collect(tmp_path / "two", settings, "metaworld/two", args, workers=2)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")
    dataset = data.open_dataset(tmp_path / "one")
    words = ["reach the goal", "close the drawer"]
    assert [dataset.task(i) for i in range(4)] == [words[0], words[0], words[1], words[1]]
    alone = collect(tmp_path / "alone", settings, tasks[1], args)
    assert np.array_equal(alone.episode(1)["action"], dataset.episode(3)["action"])
    monkeypatch.setitem(envs.suites._SUITES, "mixed", (tasks[0], MAZE))
    with pytest.raises(UserError, match=r"shape \(2,\), that of earlier tasks \(39,\)"):
        collect(tmp_path / "mixed", settings, "mixed", args)


def test_simulator_states_and_initial_state(tmp_path):
    pytest.importorskip("h5py")
    pytest.importorskip("metaworld")
    path, task = tmp_path / "demos.hdf5", "metaworld/reach-v3"
    settings = CollectSettings(episodes=2, noise=0)
    dataset = collect(path, settings, task, {"horizon": 5}, format="robomimic")
    env = envs.make(task, horizon=5)
    for index in range(2):
        episode, meta = dataset.episode(index), dataset.episode_meta(index)
        env.reset(seed=meta["seed"])
        assert np.array_equal(meta["init_state"], episode["states"][0])
        for state, action in zip(episode["states"], episode["action"], strict=True):
            assert np.array_equal(state, env.simulator_state())
            env.step(action)
    assert episode["states"].shape == (5, 1 + env._model.nq + env._model.nv)


@pytest.mark.skipif(not os.environ.get("LIBERO_ASSETS"), reason="needs LIBERO's models")
def test_a_libero_file_is_laid_out_as_its_authors_do(tmp_path):
    h5py = pytest.importorskip("h5py")
    pytest.importorskip("libero")
    path, task = tmp_path / "demos.hdf5", "libero/libero_goal/0"
    settings = CollectSettings(episodes=1, noise=0)
    args = {"horizon": 4, "obs": "both", "image_size": 24}
    ours = collect(path, settings, task, args, format="libero")
    with h5py.File(path) as file:
        names = {"problem_info", "bddl_file_name", "bddl_file_content", "env_args", "env_name"}
        names |= {"num_demos", "total", "macros_image_convention"}
        assert names <= set(file["data"].attrs)
        demo = file["data/demo_0"]
        assert {"num_samples", "model_file", "init_state"} <= set(demo.attrs)
        for name in ("actions", "states", "robot_states", "rewards", "dones"):
            assert len(demo[name]) == 4
        wanted = {"agentview_rgb": (4, 24, 24, 3), "eye_in_hand_rgb": (4, 24, 24, 3)}
        wanted |= {"ee_pos": (4, 3), "ee_ori": (4, 3), "ee_states": (4, 6)}
        wanted |= {"gripper_states": (4, 2), "joint_states": (4, 7)}
        assert {name: demo["obs"][name].shape for name in wanted} == wanted
    copy = tmp_path / "copy.hdf5"
    data.convert(path, copy, "libero")
    theirs = data.open_dataset(copy)
    assert data.detect(copy).name == "libero" and theirs.meta["hdf5"] == ours.meta["hdf5"]
    one, two = ours.episode(0), theirs.episode(0)
    assert one.keys() == two.keys()
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)
    assert theirs.episode_meta(0) == ours.episode_meta(0)


def test_stored_states_in_turn_and_dict_observations(tmp_path):
    settings = CollectSettings(episodes=5, noise=0)
    args = {"obs": "both", "horizon": 20}
    dataset = collect(tmp_path / "d", settings, args=args, make=stub_libero.make)
    indices = [dataset.episode_meta(i)["init_state_index"] for i in range(5)]
    assert indices == [0, 1, 2, 3, 0]
    assert dataset.task(0) == stub_libero.StubLibero.instruction
    assert {"observation.images.agentview", "observation.images.wrist"} < set(dataset.features)
    assert "next.observation.images.wrist" not in dataset.features
    one, two = dataset.episode(0), dataset.episode(4)
    assert one["next.success"].any() and one["observation.state"].shape[1:] == (2,)
    assert not np.array_equal(one["observation.state"][0], two["observation.state"][0])


def test_names_of_columns():
    state, picture = np.zeros(3, np.float32), np.zeros((4, 4, 3), np.uint8)
    names = lambda observation: sorted(columns.observation_columns(observation, "front"))  # noqa: E731
    assert names(state) == ["observation.state"]
    assert names(picture) == ["observation.images.front"]
    assert names({"state": state, "pixels": picture}) == [
        "observation.images.front",
        "observation.state",
    ]
    assert names({"pixels.wrist": picture, "robot": state}) == [
        "observation.images.wrist",
        "observation.robot",
    ]


def test_nothing_is_mixed(tmp_path):
    root = tmp_path / "d"
    collect(root)
    before = snapshot(root)
    for change, message in (
        ({"policy": "random"}, "policy.name"),
        ({"successes_only": True}, "successes_only"),
        ({"args": {"horizon": 13}}, "env.kwargs.horizon"),
        ({"args": {"horizon": 12, "obs": "pixels"}}, "columns"),
        ({"settings": dataclasses.replace(NOISY, seed=4)}, "collect.seed"),
    ):
        with pytest.raises(UserError, match=message):
            collect(root, **change)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").touch()
    with pytest.raises(data.DatasetError, match="exists"):
        collect(tmp_path / "x")
    with data.resume(root), pytest.raises(UserError, match="another process is writing"):
        collect(root)
    assert snapshot(root) == before


# ---------------------------------------------------------------- worker processes


class Squares:
    """Work that squares; some numbers end badly."""

    def __call__(self, job):
        if job == "pid":
            return os.getpid()
        if job == 13:
            raise UserError("13 brings bad luck")
        if job == 14:
            raise ZeroDivisionError("who would expect that")
        if job == 15:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02 * (job % 3 == 0))
        return job * job

    def close(self):
        pass


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order(workers):
    assert list(in_order(Squares(), range(10), workers)) == [(i, i * i) for i in range(10)]


def test_endless_jobs_are_read_a_little_ahead():
    read = []

    def endless():
        for job in range(16, 10**9):
            read.append(job)
            yield job

    results = in_order(Squares(), endless(), 2)
    assert next(results) == (16, 256) and len(read) < 16
    results.close()


@pytest.mark.parametrize(
    ("job", "error", "message"),
    [
        (13, UserError, "^13 brings bad luck$"),
        (14, RuntimeError, "ZeroDivisionError: who would expect that"),
        (15, WorkerDied, "exit code -9.*while it did 15"),
    ],
)
def test_workers_that_fail_are_heard(job, error, message):
    with pytest.raises(error, match=message):
        list(in_order(Squares(), [1, 2, job, 3], 2))


def test_play_is_recorded_without_labels(tmp_path):
    pytest.importorskip("robosuite")
    settings = CollectSettings(episodes=1, noise=0.0, seed=3)
    args = {"horizon": 60}
    dataset = collect(tmp_path / "play", settings, "robosuite/Stack", args, policy="play")
    assert dataset.num_frames == 60
    actions = dataset.episode(0, ["action"])["action"]
    assert actions.std(0).min() > 0.02


def test_workers_do_not_hear_ctrl_c():
    """It goes to every process of a terminal; only the parent acts on it."""
    code = (
        "import os, signal\n"
        "from embodied.jobs import in_order\n"
        "from tests.data.test_collection import Squares\n"
        "if __name__ == '__main__':\n"
        "    found = in_order(Squares(), ['pid', 1, 'pid', 2, 'pid', 3], 2)\n"
        "    for job, value in found:\n"
        "        job == 'pid' and os.kill(value, signal.SIGINT)\n"
        "    print('whole')"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(  # a process that has begun no other yet
        [sys.executable, "-c", code],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout, done.stderr) == ("whole\n", "")

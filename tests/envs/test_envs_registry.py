"""Names, errors, identity and imports."""

import ctypes.util
import subprocess
import sys
from pathlib import Path

import pytest

import envs

ROOT = str(Path(envs.__file__).parent.parent)


def test_listed_tasks_are_those_of_the_packages():
    env_dict = pytest.importorskip("metaworld.env_dict")
    suite = pytest.importorskip("dm_control.suite")
    assert {f"metaworld/{name}" for name in env_dict.ALL_V3_ENVIRONMENTS} == set(
        envs.tasks("metaworld")
    )
    assert {f"dm_control/{'-'.join(task)}" for task in suite.ALL_TASKS} == set(
        envs.tasks("dm_control")
    )
    assert len(envs.tasks()) == len(set(envs.tasks())) == 102 + 17 + 130 + 2 + 11


def test_listed_robosuite_tasks_are_those_of_the_package():
    package = pytest.importorskip("robosuite")
    listed = {name.removeprefix("robosuite/") for name in envs.tasks("robosuite")}
    # Two base classes of 1.4 are in its list; newer versions add tasks.
    assert listed <= package.ALL_ENVIRONMENTS - {"ManipulationEnv", "EnvironmentBase"}


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("metaworld/door-opn-v3", "metaworld/door-open-v3"),
        ("metaworld/door-open", "metaworld/door-open-v3"),
        ("walker-walk", "dm_control/walker-walk"),
        ("maze/point", "maze/point-v0"),
        ("robosuite/lift", "robosuite/Lift"),
        ("libero/libero_10/10", "libero/libero_10/1"),
    ],
)
def test_unknown_task_names_the_nearest(wrong, nearest):
    with pytest.raises(envs.UnknownTask, match=nearest) as caught:
        envs.make(wrong)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, KeyError)


@pytest.mark.parametrize(
    ("env_id", "package", "extra"),
    [
        ("metaworld/door-open-v3", "metaworld.env_dict", r"embodied\[metaworld\]"),
        ("dm_control/walker-walk", "dm_control.suite", r"embodied\[dmcontrol\]"),
        ("robosuite/Lift", "robosuite", r"embodied\[robosuite\]"),
        ("libero/libero_goal/0", "libero", r"embodied\[libero\]"),
    ],
)
def test_missing_simulator_names_the_extra(env_id, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # importing it now fails
    with pytest.raises(envs.MissingExtra, match=f'pip install "{extra}"'):
        envs.make(env_id)


BROKEN_GL = """
import envs
for option in ({}, {"obs": "pixels"}):
    try:
        envs.make("dm_control/cartpole-swingup", **option).reset(seed=0)
    except envs.RenderError as error:
        print(error)
"""


@pytest.mark.parametrize("backend", ["osmesa", "glfw"])
def test_missing_opengl_names_the_packages(backend):
    pytest.importorskip("dm_control")
    if backend == "osmesa" and ctypes.util.find_library("OSMesa"):
        pytest.skip("OSMesa is installed, so it is not missing")
    run = subprocess.run(
        [sys.executable, "-c", BROKEN_GL],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ROOT, "MUJOCO_GL": backend},
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == (2 if backend == "osmesa" else 1)  # only osmesa fails on import
    assert all("libegl1 libgles2 libgl1-mesa-dri" in line for line in lines)


@pytest.mark.parametrize(
    "option",
    [{"obs": "rgb"}, {"reward": "shaped"}, {"horizon": 0}, {"action_repeat": 0}, {"render": "x"}],
)
def test_wrong_options_are_refused(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        envs.make("maze/point-v0", **option)


def test_import_is_light():
    code = (
        "import sys, envs; "
        "names = {'mujoco', 'metaworld', 'dm_control', 'robosuite', 'torch', 'embodied'}; "
        "print(sorted(names & {*sys.modules}))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": ROOT}
    )
    assert out.stdout.strip() == "[]", out.stderr


def test_describe_changes_with_what_matters(monkeypatch):
    def hash_of(**kwargs):
        return envs.describe(envs.make("maze/point-v0", **kwargs))["hash"]

    base = hash_of()
    assert base == hash_of(horizon=30, render_size=(10, 10), camera=1)
    others = [
        hash_of(wall_height=3.2),
        hash_of(reward="sparse"),
        hash_of(horizon=29),
        hash_of(obs="pixels"),
    ]
    assert len({base, *others}) == 5 and all(len(h) == 16 for h in others)
    pytest.importorskip("metaworld")
    env = envs.make("metaworld/reach-v3")
    before = envs.describe(env)
    assert set(before["versions"]) == {"metaworld", "mujoco", "gymnasium"}
    monkeypatch.setattr("envs.registry.metadata.version", lambda package: "0.0")
    assert envs.describe(env)["hash"] != before["hash"]

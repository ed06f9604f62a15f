"""The LIBERO expert: its geometry, a task of each suite solved, exact continuation."""

import importlib.util
import json
import math
import os

import numpy as np
import pytest

import envs
from envs import libero, libero_convert, libero_expert, skills

INSTALLED = importlib.util.find_spec("libero") and importlib.util.find_spec("robosuite")
needs_assets = pytest.mark.skipif(
    not (INSTALLED and os.environ.get("LIBERO_ASSETS")),
    reason="needs hf-libero, and LIBERO_ASSETS to name the folder of its models",
)


@pytest.fixture(scope="module", autouse=True)
def converted(tmp_path_factory):
    """All initial states, converted from the installed package."""
    if not INSTALLED:
        yield
        return
    out = tmp_path_factory.mktemp("libero") / "states.npz"
    libero_convert.convert(libero.package_folder("test") / "init_files", out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIBERO_INIT_STATES", str(out))
        yield


# ---------------------------------------------------------------- geometry


def wall(yaw=0.0):
    """A wall 2 m long, 20 cm thick and 60 cm high, around (1, 0, 0.3)."""
    turned = skills.about(np.array([0.0, 0.0, 1.0]), yaw)
    half = np.array([[1.0, 0.1, 0.3]])
    return libero_expert.Boxes(np.array([[1.0, 0.0, 0.3]]), turned[None], half)


def test_distance_to_a_turned_box():
    points = np.array([[1.0, 0.0, 0.3], [1.0, 0.5, 0.3], [1.0, 0.1, 1.0]])
    assert np.allclose(wall().distance(points), [0.0, 0.4, 0.4])
    assert np.allclose(wall(math.pi / 2).distance(points), [0.0, 0.0, 0.4])


def test_bounds_in_a_frame():
    low, high = wall(math.pi / 2).bounds(np.zeros(3), np.eye(3))
    assert np.allclose(low, [0.9, -1.0, 0.0]) and np.allclose(high, [1.1, 1.0, 0.6])
    turned = skills.about(np.array([0.0, 0.0, 1.0]), math.pi / 2)
    low, high = wall(math.pi / 2).bounds(np.array([1.0, 0.0, 0.0]), turned)
    assert np.allclose(low, [-1.0, -0.1, 0.0]) and np.allclose(high, [1.0, 0.1, 0.6])


def test_height_of_what_is_in_the_way():
    over, beside = np.array([1.0, -1.0, 0.1]), np.array([3.0, 0.0, 0.1])
    assert wall().top(over, -over, 0.05) == pytest.approx(0.6)
    assert wall().top(beside, beside + 1.0, 0.05) == -math.inf


def test_a_twist_turns_counterclockwise():
    start = skills.downward(0.3)
    plan = skills.twist([0.0, 0.0, 0.5], start, 0.8)
    assert np.allclose(np.reshape(plan[1].rotation, (3, 3)), start)
    end = np.reshape(plan[3].rotation, (3, 3))
    assert np.allclose(skills.turn(start, end), [0.0, 0.0, 0.8])


def test_a_pull_goes_back_along_the_gripper():
    rotation = skills.pointing(np.array([0.0, -1.0, 0.0]), np.array([0.0, 0.0, 1.0]))
    plan = skills.pull([0.0, 0.0, 1.0], rotation, [0.0, 0.2, 0.0], clearance=0.1, retreat=0.05)
    places = [waypoint.position for waypoint in plan]
    assert np.allclose(places[0], [0.0, 0.1, 1.0]) and np.allclose(places[-1], [0.0, 0.25, 1.0])
    assert [waypoint.grip for waypoint in plan] == [-1.0, -1.0, 1.0, 1.0, -1.0, -1.0]


# ---------------------------------------------------------------- the simulator


@needs_assets
@pytest.mark.parametrize(
    ("task", "seed"),
    [
        ("libero_spatial/2", 4),  # a bowl by its rim
        ("libero_object/3", 1),  # a bottle across
        ("libero_goal/0", 2),  # a drawer
        pytest.param("libero_goal/7", 0, marks=pytest.mark.slow),  # a knob
        pytest.param("libero_10/2", 0, marks=pytest.mark.slow),  # a knob, then a pot by its lid
    ],
)
def test_expert_solves(task, seed):
    env = envs.make(f"libero/{task}", reward="sparse")
    expert = envs.expert(env)
    env.reset(seed=seed)
    expert.reset()
    success = False
    for _ in range(env.horizon):
        action = expert.act(env.state_observation())
        assert action.dtype == np.float32 and np.abs(action).max() <= 1.0
        success = env.step(action)[4]["success"]
        if success:
            break
    assert success


@needs_assets
def test_expert_continues_exactly_in_the_middle_of_a_plan():
    env = envs.make("libero/libero_goal/6", reward="sparse")
    expert = envs.expert(env)
    env.reset(seed=3)
    expert.reset()

    def run(expert, count):
        actions = []
        for _ in range(count):
            actions.append(expert.act(env.state_observation()))
            env.step(actions[-1])
        return actions

    run(expert, 32)
    saved, state = json.loads(json.dumps(expert.get_state())), env.get_state()
    assert 0 < saved["index"] < len(saved["plan"])
    expected = run(expert, 20)  # goes on into the next plan
    assert expert.get_state()["attempt"] > saved["attempt"]
    env.set_state(state)
    other = envs.expert(env)
    other.set_state(saved)
    assert np.array_equal(run(other, 20), expected)


@needs_assets
def test_what_no_skill_reaches_is_refused():
    with pytest.raises(envs.UnknownTask, match="not doors"):
        envs.expert(envs.make("libero/libero_10/9"))

"""Every environment keeps the contract: seeding, saving, rewards, episode ends, images."""

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import envs

METAWORLD = ["door-open", "pick-place", "peg-insert-side", "hammer", "stick-pull", "box-close"]
DM_CONTROL = [
    "walker-walk",
    "cartpole-swingup",
    "reacher-easy",
    "finger-turn_hard",
    "manipulator-bring_ball",
    "fish-swim",
    "point_mass-hard",
    "lqr-lqr_2_1",
    "quadruped-walk",
]
SIMULATOR = {"metaworld": "metaworld", "dm_control": "dm_control", "maze": "numpy"}
SIMULATOR["puck"] = "numpy"


def having(env_id: str):
    """Marks a case as skipped where its simulator is missing."""
    module = SIMULATOR[env_id.split("/")[0]]
    missing = importlib.util.find_spec(module) is None
    return pytest.param(env_id, marks=pytest.mark.skipif(missing, reason=f"needs {module}"))


SAMPLE = [having(i) for i in ("maze/point-v0", "puck/push-v0", "puck/push-goal-v0")]
SAMPLE += [having(f"metaworld/{name}-v3") for name in METAWORLD]
SAMPLE += [having(f"dm_control/{name}") for name in DM_CONTROL]
ONE_EACH = [
    having(i) for i in ("maze/point-v0", "metaworld/door-open-v3", "dm_control/cartpole-swingup")
]


def actions(env, count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (count, *env.action_space.shape)).astype(np.float32)


@pytest.mark.parametrize("env_id", SAMPLE)
def test_contract(env_id):
    assert "save and restore: exact" in envs.check_env(env_id, steps=16, seed=3)


CONTINUE = """
import sys, numpy as np, envs
env_id, path = sys.argv[1:]
saved = np.load(path)
env = envs.make(env_id, horizon=25)
import json
state = json.loads(str(saved["json"]))
def arrays(node, name=""):
    for key, value in node.items():
        if isinstance(value, dict): arrays(value, name + "/" + key)
        elif value == "array": node[key] = saved[name + "/" + key]
arrays(state)
env.set_state(state)
records = []
for action in saved["actions"]:
    obs, reward, terminated, truncated, _ = env.step(action)
    records.append(np.append(obs.astype(np.float64), [reward, terminated, truncated]))
    if terminated or truncated:
        records.append(np.append(env.reset()[0].astype(np.float64), [0, 0, 0]))
sys.stdout.buffer.write(np.array(records).tobytes())
"""


def split_state(node, arrays, name=""):
    """Replaces arrays by a mark and collects them, as a checkpoint writer does."""
    out = {}
    for key, value in node.items():
        if isinstance(value, dict):
            out[key] = split_state(value, arrays, f"{name}/{key}")
        elif isinstance(value, np.ndarray):
            out[key], arrays[f"{name}/{key}"] = "array", value
        else:
            out[key] = value
    return out


@pytest.mark.parametrize("env_id", ONE_EACH)
def test_new_process_continues_from_a_file(env_id, tmp_path):
    env = envs.make(env_id, horizon=25)
    env.reset(seed=11)
    for action in actions(env, 12):
        env.step(action)
    arrays = {}
    text = json.dumps(split_state(env.get_state(), arrays))
    rest = actions(env, 20, seed=1)
    np.savez(tmp_path / "state.npz", json=text, actions=rest, **arrays)
    records = []
    for action in rest:  # crosses the horizon, so the next unseeded reset is compared too
        obs, reward, terminated, truncated, _ = env.step(action)
        records.append(np.append(obs.astype(np.float64), [reward, terminated, truncated]))
        if terminated or truncated:
            records.append(np.append(env.reset()[0].astype(np.float64), [0, 0, 0]))
    assert len(records) == 21
    script = tmp_path / "continue.py"
    script.write_text(CONTINUE)
    run = subprocess.run(
        [sys.executable, script, env_id, tmp_path / "state.npz"],
        capture_output=True,
        check=True,
        env={"PYTHONPATH": str(Path(envs.__file__).parent.parent), "OMP_NUM_THREADS": "1"},
    )
    assert run.stdout == np.array(records).tobytes()


@pytest.mark.parametrize("env_id", ONE_EACH)
def test_seeds_differ_and_unseeded_resets_follow_the_seed(env_id):
    env = envs.make(env_id)
    first = env.reset(seed=1)[0]
    following = [env.reset()[0] for _ in range(2)]
    assert not np.array_equal(first, env.reset(seed=2)[0])
    assert not np.array_equal(following[0], following[1])
    assert np.array_equal(first, env.reset(seed=1)[0])
    assert all(np.array_equal(a, env.reset()[0]) for a in following)


@pytest.mark.parametrize("env_id", ONE_EACH)
def test_horizon_action_repeat_and_reward_modes(env_id):
    one = envs.make(env_id, horizon=6)
    two = envs.make(env_id, horizon=3, action_repeat=2)
    sparse = envs.make(env_id, horizon=6, reward="sparse")
    for env in (one, two, sparse):
        env.reset(seed=0)
    for step, action in enumerate(actions(one, 3)):
        a, b = one.step(action), one.step(action)
        both = two.step(action)
        assert both[1] == a[1] + b[1] and np.array_equal(both[0], b[0])
        assert both[3] == b[3] == (step == 2) and not a[3]
        obs, reward, _, _, info = sparse.step(action)
        assert np.array_equal(obs, a[0]) and reward == float(info["success"])
        sparse.step(action)
    with pytest.raises(RuntimeError, match="call reset"):
        one.step(action)


def test_default_horizons():
    assert envs.make("maze/point-v0").horizon == 30
    assert envs.make("maze/point-v0", action_repeat=4).horizon == 8
    pytest.importorskip("metaworld")
    assert envs.make("metaworld/reach-v3").horizon == 500
    pytest.importorskip("dm_control")
    assert envs.make("dm_control/cartpole-balance", action_repeat=2).horizon == 500


def test_success_on_the_last_step_is_terminated_and_truncated():
    pytest.importorskip("dm_control")  # cartpole-balance succeeds (reward >= 0.9) at once
    for terminate in (False, True):
        env = envs.make(
            "dm_control/cartpole-balance",
            reward="sparse",
            horizon=1,
            terminate_on_success=terminate,
        )
        env.reset(seed=0)
        _, reward, terminated, truncated, info = env.step(np.zeros(1, np.float32))
        assert info["success"] is True and reward == 1.0
        assert terminated is terminate and truncated is True


def test_terminate_on_success_ends_inside_an_action_repeat():
    pytest.importorskip("dm_control")
    env = envs.make("dm_control/cartpole-balance", action_repeat=4, terminate_on_success=True)
    env.reset(seed=0)
    _, reward, terminated, _, _ = env.step(np.zeros(1, np.float32))
    assert terminated and 0.9 <= reward <= 1.0  # one control step's reward, not four


@pytest.mark.parametrize("env_id", ONE_EACH)
def test_bad_actions_are_refused_and_change_nothing(env_id):
    env = envs.make(env_id)
    env.reset(seed=0)
    before = env.state_observation()
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not finite"):
            env.step(np.full(env.action_space.shape, bad))
    with pytest.raises(ValueError, match="shape"):
        env.step(np.zeros(env.action_space.shape[0] + 1))
    assert np.array_equal(before, env.state_observation())


@pytest.mark.parametrize("env_id", ONE_EACH)
def test_global_generators_are_untouched(env_id):
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = random.random(), np.random.random()  # noqa: NPY002
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    env = envs.make(env_id)
    env.reset(seed=0)
    env.step(actions(env, 1)[0])
    env.reset()
    env.set_state(env.get_state())
    assert before == (random.random(), np.random.random())  # noqa: NPY002


def test_diverged_simulation_ends_the_episode_with_a_sound_observation(monkeypatch):
    pytest.importorskip("dm_control")
    env = envs.make("dm_control/cartpole-swingup")
    first, _ = env.reset(seed=0)
    env._sim.physics.data.qvel[:] = 1e12  # beyond what MuJoCo accepts
    obs, reward, terminated, _, info = env.step(np.ones(1, np.float32))
    assert info == {"success": False, "diverged": True} and terminated and reward == 0.0
    assert np.array_equal(obs, first)
    env.reset(seed=0)
    assert not env.step(np.ones(1, np.float32))[4]["diverged"]


def test_state_of_another_task_is_refused():
    state = envs.make("maze/point-v0").get_state()
    state["id"] = "metaworld/reach-v3"
    with pytest.raises(ValueError, match="reach-v3"):
        envs.make("maze/point-v0").set_state(state)


def test_maze_wall():
    env = envs.make("maze/point-v0", wall_height=3.0)
    env.reset(seed=0)
    right, up = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    for _ in range(6):
        obs = env.step(right)[0]
    assert obs[0] < 0  # blocked at x < 2
    for _ in range(6):
        env.step(up)
    for _ in range(2):
        obs = env.step(right)[0]
    assert obs[0] > 0  # over the wall
    with pytest.raises(ValueError, match="wall_height"):
        envs.make("maze/point-v0", wall_height=4.0)


@pytest.mark.parametrize("env_id", ONE_EACH)
def test_pixels_and_render(env_id):
    env = envs.make(env_id, obs="pixels", image_size=32, render="fast", render_size=(40, 60))
    try:
        obs, _ = env.reset(seed=0)
    except envs.RenderError as error:
        pytest.skip(f"no OpenGL here: {error}")
    assert obs.shape == (32, 32, 3) and obs.dtype == np.uint8 and obs.std() > 1
    kept = obs.copy()
    for action in actions(env, 3):
        new = env.step(action)[0]
    assert np.array_equal(obs, kept) and not np.array_equal(new, kept)
    frame = env.render()
    assert frame.shape == (40, 60, 3) and frame.dtype == np.uint8 and frame.std() > 1
    env.close()


def test_metaworld_image_is_upright():
    pytest.importorskip("metaworld")
    env = envs.make("metaworld/reach-v3", render="fast", render_size=(60, 60))
    env.reset(seed=0)
    try:
        frame = env.render().astype(int)
    except envs.RenderError as error:
        pytest.skip(f"no OpenGL here: {error}")
    red = (frame[..., 0] > 90) & (frame[..., 1] < 50)  # the arm
    floor = frame.min(axis=2) > 170  # white tiles
    assert red.any() and floor.any()
    assert np.argwhere(red)[:, 0].mean() < np.argwhere(floor)[:, 0].mean()
    env.close()


@pytest.mark.parametrize("env_id", ONE_EACH)
def test_gymnasium_make(env_id):
    name = f"envs:embodied/{env_id.replace('/', '-')}"
    env = gymnasium.make(name, reward="sparse", horizon=4)
    ours = envs.make(env_id, reward="sparse", horizon=4)
    assert isinstance(env.unwrapped, envs.SimEnv)
    assert np.array_equal(env.reset(seed=4)[0], ours.reset(seed=4)[0])
    assert envs.describe(env) == envs.describe(ours)

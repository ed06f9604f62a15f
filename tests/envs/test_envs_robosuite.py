"""robosuite: the contract, exact continuation under each controller, and the package's look."""

import numpy as np
import pytest

import envs

pytest.importorskip("robosuite", reason="needs the extra robosuite")


def run(env, count, seed=0):
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (count, *env.action_space.shape)).astype(np.float32)
    return [env.step(action)[:2] for action in actions]


def same(first, second):
    return all(np.array_equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(first, second, strict=1))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["Door", "PickPlaceCan"])
def test_contract(task):
    assert "save and restore: exact" in envs.check_env(f"robosuite/{task}", steps=8, seed=3)


INTERPOLATED = {  # a controller with more state of its own: integral, buffer, interpolator
    "type": "JOINT_VELOCITY",
    "input_max": 1,
    "input_min": -1,
    "output_max": 0.5,
    "output_min": -0.5,
    "kp": 3.0,
    "velocity_limits": [-1, 1],
    "interpolation": "linear",
    "ramp_ratio": 0.6,
}


@pytest.mark.parametrize(
    "controller", ["OSC_POSE", "JOINT_POSITION", INTERPOLATED], ids=lambda c: str(c)[:20]
)
def test_a_fresh_object_continues_in_mid_episode(controller):
    env = envs.make("robosuite/Lift", controller=controller)
    env.reset(seed=5)
    run(env, 6)
    state, expected = env.get_state(), run(env, 6, seed=1)
    other = envs.make("robosuite/Lift", controller=controller)
    other.reset(seed=6)
    run(other, 2, seed=7)
    other.set_state(state)
    assert same(run(other, 6, seed=1), expected)
    assert len({obs.tobytes() for obs, _ in expected}) == 6


def test_lift_succeeds_when_the_cube_is_up_and_seeds_differ():
    env = envs.make("robosuite/Lift", reward="sparse")
    first = env.reset(seed=0)[0]
    assert not np.array_equal(first, env.reset(seed=1)[0])
    assert np.array_equal(first, env.reset(seed=0)[0])
    env.step(np.zeros(7, np.float32))
    sim = env._sim.sim
    cube = sim.data.get_joint_qpos("cube_joint0").copy()
    sim.data.set_joint_qpos("cube_joint0", cube + np.array([0, 0, 0.3, 0, 0, 0, 0]))
    _, reward, terminated, _, info = env.step(np.zeros(7, np.float32))
    assert info["success"] is True and reward == 1.0 and not terminated


def test_wiped_markers_are_saved():
    env = envs.make("robosuite/Wipe")
    env.reset(seed=2)
    sim = env._sim
    marker = sim.model.mujoco_arena.markers[3]
    geom = sim.sim.model.geom_name2id(marker.visual_geoms[0])
    sim.wiped_markers.append(marker)
    sim.sim.model.geom_rgba[geom][3] = 0
    other = envs.make("robosuite/Wipe")
    other.set_state(env.get_state())
    assert other._sim.wiped_markers == [other._sim.model.mujoco_arena.markers[3]]
    assert other._sim.sim.model.geom_rgba[geom][3] == 0
    assert same(run(env, 3), run(other, 3))
    env.reset(seed=2)
    assert env._sim.wiped_markers == [] and env._sim.sim.model.geom_rgba[geom][3] == 1


@pytest.mark.parametrize("wiped", [0, 1, 60, 99, 100])
def test_the_dirt_that_is_left_is_what_the_package_finds(wiped):
    env = envs.make("robosuite/Wipe")
    env.reset(seed=4)
    if env.stepping != "lean":
        pytest.skip("this robosuite is stepped by its package")
    sim, rng = env._sim, np.random.default_rng(wiped)
    markers = sim.model.mujoco_arena.markers
    sim.wiped_markers = [markers[i] for i in rng.permutation(len(markers))[:wiped]]
    found = sim._get_wipe_information()
    expected = type(sim)._get_wipe_information(sim)
    assert all(np.array_equal(ours, package) for ours, package in zip(found, expected, strict=True))
    assert (np.linalg.norm(found[2]) > 0) == (wiped < 100)


def test_pictures_show_no_collision_shapes_and_survive_saving():
    env = envs.make("robosuite/Lift", obs="pixels", image_size=40)
    try:
        obs, _ = env.reset(seed=0)
    except envs.RenderError as error:
        pytest.skip(f"no OpenGL here: {error}")
    obs = env.step(np.full(7, 0.5, np.float32))[0]
    other = envs.make("robosuite/Lift", obs="pixels", image_size=40)
    other.set_state(env.get_state())
    assert np.array_equal(other.observation(), obs)  # though MuJoCo's poses lag its state
    assert obs[:8].mean() > obs[-8:].mean() or obs.std() > 10
    assert not np.array_equal(env.frame(40, 40, "robot0_eye_in_hand"), obs)
    env._scene_option = lambda: None  # MuJoCo's choice draws the collision shapes too
    assert not np.array_equal(env.observation(), obs)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"robots": "Pando"}, "no robot Pando; there are .*Panda"),
        ({"robots": ["Panda", "Panda"]}, "is refused"),
        ({"controller": "OSC"}, "allowed are .*OSC_POSE"),
        ({"control_freq": 0}, "control_freq"),
    ],
)
def test_wrong_options_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        envs.make("robosuite/Lift", **option)

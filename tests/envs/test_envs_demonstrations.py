"""What robomimic and LIBERO store beside observations: the simulator is rebuilt from it."""

import importlib.util
import json
import os

import numpy as np
import pytest

import envs
from envs import demonstrations

needs_libero = pytest.mark.skipif(
    not (importlib.util.find_spec("libero") and os.environ.get("LIBERO_ASSETS")),
    reason="needs hf-libero, and LIBERO_ASSETS to name the folder of its models",
)


def test_an_environment_without_simulator_has_nothing_to_add():
    env = envs.make("maze/point-v0")
    env.reset(seed=0)
    for layout in ("robomimic", "libero"):
        assert demonstrations.row(env, layout) == {} == demonstrations.file(env, layout)
    assert demonstrations.episode(env) == {}


def rebuilt(env, states, actions, args, model):
    """What robomimic's playback does: the package's environment, the model, a state, actions."""
    import robosuite

    kwargs = json.loads(json.dumps(args["env_kwargs"]))
    kwargs |= {"use_camera_obs": False, "has_offscreen_renderer": False}
    sim = robosuite.make(args["env_name"], **kwargs)
    sim.reset()
    sim.reset_from_xml_string(sim.edit_model_xml(model))
    sim.sim.reset()
    sim.sim.set_state_from_flattened(states[0])
    sim.sim.forward()
    played = [sim.sim.get_state().flatten()]
    for action in actions:
        sim.step(action)
        played.append(sim.sim.get_state().flatten())
    return sim, np.array(played)


@pytest.mark.parametrize("task", ["Lift", "Door"])
def test_robomimics_playback_repeats_an_episode(task):
    pytest.importorskip("robosuite", reason="needs the extra robosuite")
    env = envs.make(f"robosuite/{task}").unwrapped
    env.reset(seed=4)
    about = json.loads(json.dumps(demonstrations.file(env, "robomimic")))
    saved = demonstrations.episode(env)
    rng, states, actions = np.random.default_rng(0), [], []
    for _ in range(5):
        states.append(demonstrations.row(env, "robomimic")["states"])
        actions.append(rng.uniform(-1, 1, 7).astype(np.float32).astype(np.float64))
        env.step(actions[-1])
    states.append(env.simulator_state())
    assert saved["init_state"] == states[0].tolist()
    sim, played = rebuilt(env, states, actions, about["env_args"], saved["model_file"])
    # a fixture stands where the reset put it, not where the model's source has it
    assert np.abs(sim.sim.model._model.body_pos - env._model.body_pos).max() < 1e-12
    # its controller holds on to another elbow: a reset's noise is in no file
    width = 1 + env._model.nq
    assert np.abs(played[:1] - states[:1]).max() == 0.0
    assert np.abs(played - states)[:, :width].max() < 0.02


@needs_libero
def test_liberos_arrays_and_attributes():
    env = envs.make("libero/libero_goal/0", obs="pixels", image_size=32).unwrapped
    observation, _ = env.reset(seed=3)
    row = demonstrations.row(env, "libero")
    widths = {"joint_states": 7, "gripper_states": 2, "ee_pos": 3, "ee_ori": 3, "ee_states": 6}
    for name, width in widths.items():
        assert row[f"observation.{name}"].shape == (width,)
        assert row[f"observation.{name}"].dtype == np.float64
    pose = np.concatenate([row["observation.ee_states"], row["observation.gripper_states"]])
    np.testing.assert_allclose(pose, env.robot_state(), atol=1e-6)
    np.testing.assert_array_equal(row["robot_states"][2:5], row["observation.ee_pos"])
    np.testing.assert_array_equal(row["robot_states"][:2], row["observation.gripper_states"])
    # the observation is the picture of the original files, rotated by 180 degrees
    np.testing.assert_array_equal(row["observation.agentview_rgb"][::-1, ::-1], observation)
    assert row["observation.eye_in_hand_rgb"].shape == (32, 32, 3)
    assert "observation.ee_pos" not in demonstrations.row(env, "robomimic")
    about = demonstrations.file(env, "libero")
    assert about["problem_info"]["problem_name"] == "libero_tabletop_manipulation"
    assert "open the middle" in about["problem_info"]["language_instruction"].lower()
    assert about["bddl_file_name"].endswith(
        "libero_goal/open_the_middle_drawer_of_the_cabinet.bddl"
    )
    assert "(:goal" in about["bddl_file_content"] and about["macros_image_convention"] == "opengl"
    args = json.loads(json.dumps(about["env_args"]))
    assert args["type"] == 1 and args["env_kwargs"]["controller_configs"]["type"] == "OSC_POSE"
    # the model alone, without the package, shows the scene of this very reset
    import mujoco

    model = mujoco.MjModel.from_xml_string(demonstrations.model_file(env))
    data = mujoco.MjData(model)
    data.qpos[:] = row["states"][1 : 1 + model.nq]
    mujoco.mj_forward(model, data)
    assert np.abs(data.xpos - env._data.xpos).max() < 2e-5  # MuJoCo writes six digits
    other = mujoco.MjModel.from_xml_string(env.source)
    assert np.abs(other.body_pos - model.body_pos).max() > 0.01  # what the source alone lacks

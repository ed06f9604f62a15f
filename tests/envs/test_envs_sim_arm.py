"""The arm of a robosuite scene behind the hardware contract."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("robosuite", reason="needs the extra robosuite")

import envs
from envs.sim_arm import OscMotion, SimArm
from hardware import Camera, load_limits
from hardware.errors import Latched
from hardware.latch import Latch


@pytest.fixture
def lift(tmp_path):
    """Makes the task behind the adapter, with its latch in a folder of its own."""
    return lambda **options: SimArm(
        envs.make("robosuite/Lift"), latch=Latch("lift", tmp_path), **options
    )


class Controller:
    kp, kd, output_max = np.full(6, 150.0), np.full(6, 2 * np.sqrt(150.0)), [0.05] * 3 + [0.5] * 3


def test_the_motion_is_a_critically_damped_one():
    limits = load_limits("panda")
    start = np.array([0.0, -0.3, 0.0, -2.2, 0.0, 2.0, 0.785398])
    motion = OscMotion(Controller, limits.chain, np.eye(3), start)
    before = limits.chain.tool(start)[0]
    push = np.array([1.0, 0, 0, 0, 0, 0])
    at = motion.follow(push, start, 4, 0.01, limits)
    moved = limits.chain.tool(at)[0][:, 0] - before[0]
    time, rate = 0.01 * np.arange(1, 5), np.sqrt(150.0)
    expected = 0.05 * (1.0 - (1.0 + rate * time) * np.exp(-rate * time))
    np.testing.assert_allclose(moved[:-1], expected, atol=1e-3)
    assert np.array_equal(at[-1], at[-2])


def test_the_motion_waits_for_an_arm_that_is_held_up():
    limits = load_limits("panda")
    start = np.array([0.0, -0.3, 0.0, -2.2, 0.0, 2.0, 0.785398])
    motion = OscMotion(Controller, limits.chain, np.eye(3), start)
    before = limits.chain.tool(start)[0]
    for _ in range(50):
        joints = motion.follow(np.array([0, 0, -1.0, 0, 0, 0]), start, 5, 0.01, limits)
    ahead = before[2] - limits.chain.tool(joints[-1])[0][2]
    assert 0.03 < ahead < 0.05


def test_the_policy_sees_and_does_the_same(lift):
    plain, env = envs.make("robosuite/Lift"), lift()
    assert env.observation_space == plain.observation_space
    assert env.action_space == plain.action_space
    one, two = plain.reset(seed=3)[0], env.reset(seed=3)[0]
    np.testing.assert_array_equal(one, two)
    assert env.unwrapped.instruction == plain.unwrapped.instruction
    data, chain = env.unwrapped._data, env.limits.chain
    position = chain.tool(env.station.observe().state.position)[0]
    base = data.body("robot0_base").xpos
    np.testing.assert_allclose(base + position, data.site("gripper0_grip_site").xpos, atol=2e-3)
    action = np.array([0.3, -0.2, 0.1, 0, 0, 0, -1], np.float32)
    for _ in range(15):
        one, two = plain.step(action)[0], env.step(action)[0]
    moved = plain.unwrapped._data.site("gripper0_grip_site").xpos
    np.testing.assert_allclose(data.site("gripper0_grip_site").xpos, moved, atol=0.02)


def test_the_expert_lifts_the_cube_through_the_envelope(lift):
    env = lift(cameras=(Camera("agentview", 16, 16, 10.0),))
    env.reset(seed=0)
    expert, acted = envs.expert(env), set()
    fastest = np.zeros(7)
    for _ in range(100):
        *_, info = env.step(expert.act(None))
        acted |= set(info["limits"])
        state = env.station.observe().state
        fastest = np.maximum(fastest, np.abs(state.velocity))
        if info["success"]:
            break
    assert info["success"] and "broken" not in info
    assert "joint acceleration" in acted  # the limits are not idle
    assert (fastest < 1.3 * env.limits.velocity).all()
    assert state.images["agentview"][1].shape == (16, 16, 3)


def test_a_latched_stop_ends_the_episode(lift):
    env = lift(limits=dataclasses.replace(load_limits("panda"), force=0.001))
    env.reset(seed=0)
    down = np.array([0, 0, -1, 0, 0, 0, 1], np.float32)
    for _ in range(60):
        _, _, _, truncated, info = env.step(down)
        if truncated:
            break
    assert info["broken"] and env._latch.tripped["cause"] == "force", env._latch.tripped
    with pytest.raises(Latched):
        env.reset(seed=1)


def test_other_controllers_are_refused():
    with pytest.raises(envs.UnknownTask, match="one Panda under OSC_POSE"):
        SimArm(envs.make("robosuite/Lift", controller="JOINT_VELOCITY"))
    with pytest.raises(envs.UnknownTask, match="one Panda under OSC_POSE"):
        SimArm(envs.make("maze/point-v0"))

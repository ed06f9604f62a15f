"""The twin of an arm as an environment to train on."""

import numpy as np
import pytest

import envs
from hardware.types import Lifecycle

pytest.importorskip("mujoco")
pytest.importorskip("yaml")

ID = "real/panda_twin"


@pytest.fixture(scope="module")
def arm():
    env = envs.make(ID, terminate_on_success=True)
    yield env
    env.close()


def play(env, seed):
    """The expert's episode: its observations, rewards and last info."""
    policy, seen, rewards = envs.expert(env), [], []
    observation, info = env.reset(seed=seed)
    ended = False
    while not ended:
        seen.append(observation)
        observation, reward, terminated, truncated, info = env.step(policy.act(observation))
        rewards.append(reward)
        ended = terminated or truncated
    return np.array(seen), np.array(rewards), info


def test_the_expert_reaches_points_that_the_seed_draws(arm):
    goals = []
    for seed in (0, 1, 0):
        seen, rewards, info = play(arm, seed)
        goals.append(seen[0][-3:])
        assert info["success"] and len(seen) < 30
        assert rewards[-1] > rewards[0] and 0.0 < rewards.min() <= rewards.max() <= 1.0
    np.testing.assert_array_equal(goals[0], goals[2])
    assert np.abs(goals[0] - goals[1]).max() > 0.01
    assert arm.render().shape == (240, 320, 3)
    assert arm.instruction == "bring the gripper to the point"


def test_sparse_rewards_and_episodes_that_go_on_after_success():
    env = envs.make(ID, reward="sparse", horizon=25)
    _, rewards, info = play(env, 0)
    assert set(rewards) == {0.0, 1.0} and len(rewards) == 25 and info["success"]
    assert env.identity["kwargs"]["reward"] == "sparse"
    env.close()


def test_a_stop_that_latches_breaks_the_episode_and_the_twin_is_freed(arm):
    arm.reset(seed=0)
    arm.station.stop("a test")
    *_, truncated, info = arm.step(np.zeros(7, np.float32))
    assert truncated and info["broken"] and "latched" in arm.faults[-1]
    observation, _ = arm.reset(seed=1)
    assert arm.station.observe().lifecycle == Lifecycle.ACTIVE
    np.testing.assert_allclose(observation[:7], arm._home, atol=0.03)
    assert "nobody is near" in arm.station.loop.robot.latch.log.read_text()


def test_a_vector_of_twins_promises_no_state():
    vector = envs.make_vec(ID, 2, horizon=3)
    vector.reset(seed=0)
    for _ in range(3):
        observation, _, _, truncated, info = vector.step(np.zeros((2, 7), np.float32))
    assert observation.shape == (2, 27) and truncated.all() and info["action"].shape == (2, 7)
    assert not hasattr(vector, "get_state") and not info["broken"].any()
    vector.close()
    with pytest.raises(ValueError, match='mode="sync"'):
        envs.make_vec(ID, 2, mode="async")


def test_it_is_named_and_described_but_is_no_simulator_of_the_contract():
    assert ID not in envs.tasks() and envs.tasks("real") == [ID]
    env = envs.make(ID, mode="joint delta")
    described = envs.describe(env)
    assert described["kwargs"]["mode"] == "joint delta" and "mujoco" in described["versions"]
    with pytest.raises(envs.UnknownTask, match="tool deltas"):
        envs.expert(env)
    env.close()
    with pytest.raises(envs.UnknownTask, match="real/panda_twin"):
        envs.make("real/panda_twn")
    for wrong in ({"obs": "pixels"}, {"task": "fly"}):
        with pytest.raises(ValueError, match=r"obs is|tasks are reach"):
            envs.make(ID, **wrong)

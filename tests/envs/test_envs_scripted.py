"""Experts solve, noise is what it says, failures fail, and collection resumes exactly."""

import json

import numpy as np
import pytest

import envs


def success_rate(env, expert, episodes, first_seed=0):
    successes = 0
    for i in range(episodes):
        env.reset(seed=first_seed + i)
        expert.reset()
        done = success = False
        while not done:
            _, _, terminated, truncated, info = env.step(expert.act(env.state_observation()))
            success = success or info["success"]
            done = terminated or truncated
        successes += success
    return successes / episodes


@pytest.mark.parametrize("wall_height", [2.6, 3.2, 3.8])
def test_maze_expert_solves(wall_height):
    env = envs.make("maze/point-v0", wall_height=wall_height)
    assert success_rate(env, envs.expert(env), 20) == 1.0


def test_maze_mixture_follows_failure_probability():
    env = envs.make("maze/point-v0")
    noisy = {"noise": 0.3, "rng": 0}
    good = envs.NoisyExpert(envs.expert(env), **noisy)
    bad = envs.NoisyExpert(envs.expert(env), failure_prob=1.0, **noisy)
    mixed = envs.NoisyExpert(envs.expert(env), failure_prob=0.8, **noisy)
    assert success_rate(env, good, 50) > 0.9
    assert success_rate(env, bad, 50) < 0.1
    assert 0.1 <= success_rate(env, mixed, 100) <= 0.35


def test_metaworld_expert_solves_and_failing_expert_does_not():
    pytest.importorskip("metaworld")
    env = envs.make("metaworld/door-open-v3", horizon=130, terminate_on_success=True)
    expert = envs.expert(env)
    assert success_rate(env, envs.NoisyExpert(expert, noise=0.0, rng=0), 3) == 1.0
    assert success_rate(env, envs.NoisyExpert(expert, failure_prob=1.0, rng=0), 3) == 0.0


def test_every_metaworld_task_has_an_expert():
    policies = pytest.importorskip("metaworld.policies")
    assert {f"metaworld/{name}" for name in policies.ENV_POLICY_MAP} == set(envs.tasks("metaworld"))


def test_dm_control_has_no_expert():
    pytest.importorskip("dm_control")
    with pytest.raises(envs.UnknownTask, match="no scripted expert"):
        envs.expert(envs.make("dm_control/cartpole-swingup"))


def test_expert_acts_in_a_pixel_environment():
    env = envs.make("maze/point-v0", obs="pixels", image_size=16)
    assert success_rate(env, envs.expert(env), 2) == 1.0


def test_expert_of_a_vector_environment():
    vec = envs.make_vec("maze/point-v0", 2, wall_height=3.4)
    single = envs.make("maze/point-v0", wall_height=3.4)
    obs = np.array([0.1, 0.6], np.float32)
    assert np.array_equal(envs.expert(vec).act(obs), envs.expert(single).act(obs))


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_noise_has_the_stated_size_and_correlation(correlation):
    class Zero:
        action_dim = 4

        def reset(self, rng=None):
            pass

        def act(self, obs, info=None):
            return np.zeros(4, np.float32)

    noisy = envs.NoisyExpert(Zero(), noise=0.2, noise_correlation=correlation, rng=0)
    n = np.array([noisy.act(np.zeros(2)) for _ in range(5000)])
    assert abs(n.std() - 0.2) < 0.02
    assert abs(np.mean(n[1:] * n[:-1]) / n.var() - correlation) < 0.05


def test_random_actions_come_at_the_stated_rate():
    env = envs.make("maze/point-v0")
    noisy = envs.NoisyExpert(envs.expert(env), noise=0.0, random_prob=0.25, rng=1)
    obs, _ = env.reset(seed=0)
    expert = envs.expert(env).act(obs)
    other = [not np.array_equal(noisy.act(obs), expert) for _ in range(2000)]
    assert abs(np.mean(other) - 0.25) < 0.03


def test_resumes_exactly_through_json():
    env = envs.make("maze/point-v0")
    settings = {
        "noise": 0.3,
        "noise_correlation": 0.7,
        "random_prob": 0.2,
        "failure_prob": 0.6,
    }

    def collect(expert, env, obs, done, steps):
        actions = []
        for _ in range(steps):
            if done:
                obs = env.reset()[0]
                expert.reset()
            actions.append(expert.act(obs))
            obs, _, terminated, truncated, _ = env.step(actions[-1])
            done = terminated or truncated
        return actions, obs, done

    first = envs.NoisyExpert(envs.expert(env), rng=3, **settings)
    _, obs, done = collect(first, env, env.reset(seed=0)[0], False, 137)
    state, saved = json.loads(json.dumps(first.get_state())), env.get_state()
    expected, _, _ = collect(first, env, obs, done, 120)
    again = envs.make("maze/point-v0")
    again.set_state(saved)
    second = envs.NoisyExpert(envs.expert(again), rng=99, **settings)
    second.set_state(state)
    resumed, _, _ = collect(second, again, obs, done, 120)
    assert np.array_equal(expected, resumed)


@pytest.mark.parametrize(
    "wrong",
    [{"noise": -0.1}, {"noise_correlation": 1.0}, {"failure_prob": 1.1}, {"failure_onset": (5, 5)}],
)
def test_wrong_settings_are_refused(wrong):
    env = envs.make("maze/point-v0")
    with pytest.raises(ValueError, match=next(iter(wrong))):
        envs.NoisyExpert(envs.expert(env), rng=0, **wrong)


def test_an_offset_moves_every_action_of_the_expert_and_is_checked():
    env = envs.make("maze/point-v0")
    obs, _ = env.reset(seed=0)
    plain = envs.NoisyExpert(envs.expert(env), noise=0.0, rng=0)
    moved = envs.NoisyExpert(envs.expert(env), noise=0.0, offset=[0.25], rng=0)
    wanted = np.clip(plain.expert.act(obs) + np.array([0.25, 0.0]), -1.0, 1.0)
    np.testing.assert_allclose(moved.act(obs), wanted, rtol=1e-6)
    with pytest.raises(ValueError, match="offset has 3 numbers, actions have 2"):
        envs.NoisyExpert(envs.expert(env), offset=[0.0] * 3, rng=0)

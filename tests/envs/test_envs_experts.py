"""Scripted experts of robosuite reach their goals, and say where there is none."""

import itertools

import numpy as np
import pytest

import envs
from envs.robosuite_expert import HOME, UP, turning
from envs.skills import Arm, about, downward, pointing, turn


def test_rotations_turn_the_way_they_say():
    axis = np.array([1.0, -2.0, 2.0]) / 3
    np.testing.assert_allclose(turn(HOME, about(axis, 2.5) @ HOME), 2.5 * axis, atol=1e-12)
    held = pointing(np.array([1.0, 0.0, 0.0]), np.array([0.5, 3.0, 0.0]))
    np.testing.assert_allclose(held @ held.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(held[:, [0, 2]].T, [[0, 1, 0], [1, 0, 0]], atol=1e-12)
    line = downward(0.3, near=HOME)[:, 0]
    np.testing.assert_allclose(line, [np.cos(0.3), np.sin(0.3), 0.0], atol=1e-12)


def test_a_long_turn_goes_round_in_steps_below_the_half_turn():
    steps = [HOME, *turning(0.0, 4.5)]
    turns = [turn(first, second) for first, second in itertools.pairwise(steps)]
    np.testing.assert_allclose(np.sum(turns, axis=0), 4.5 * UP, atol=1e-12)
    assert max(np.linalg.norm(each) for each in turns) < 1.5


def succeeds(env, seed, expert=None):
    env.reset(seed=seed)
    expert = expert or envs.expert(env)
    expert.reset()
    return any(env.step(expert.act(None))[-1]["success"] for _ in range(env.horizon))


class TestRobosuite:
    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("robosuite", reason="needs the extra robosuite")

    def test_the_fingers_move_along_the_first_axis_of_the_gripper(self):
        env = envs.make("robosuite/Lift")
        env.reset(seed=0)
        pads = [env._data.geom(f"gripper0_finger{i}_pad_collision").xpos for i in (1, 2)]
        line = (pads[1] - pads[0]) / np.linalg.norm(pads[1] - pads[0])
        assert abs(line @ Arm(env).rotation[:, 0]) > 0.99

    @pytest.mark.parametrize("task", ["Stack", "Door", "PickPlaceCan", "NutAssemblySquare"])
    def test_expert_succeeds(self, task):
        assert succeeds(envs.make(f"robosuite/{task}", horizon=300), seed=3)

    def test_what_slips_is_grasped_again(self):
        env = envs.make("robosuite/Lift", horizon=150)
        expert = envs.expert(env)
        first = expert.act

        def clumsy(obs):
            action = first(obs)
            if expert.get_state()["attempt"] == 0:
                action[-1] = -1.0  # never closes
            return action

        expert.act = clumsy
        assert succeeds(env, 0, expert)
        assert expert.get_state()["attempt"] > 0

    @pytest.mark.parametrize(
        ("task", "options", "message"),
        [
            ("Wipe", {}, "Wipe has no scripted expert; there is one for Lift, Stack"),
            ("Lift", {"controller": "JOINT_POSITION"}, "Panda under JOINT_POSITION"),
        ],
    )
    def test_tasks_and_arms_without_an_expert_are_named(self, task, options, message):
        with pytest.raises(envs.UnknownTask, match=message):
            envs.expert(envs.make(f"robosuite/{task}", **options))

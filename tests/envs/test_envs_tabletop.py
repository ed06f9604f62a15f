"""The table-top and the corridors: tasks, goals, what play does there."""

import json

import numpy as np
import pytest

import envs
from envs import play
from envs.corridors import DIRECTIONS, STEP, Corridors

mujoco = pytest.importorskip("mujoco")

from envs import tabletop  # noqa: E402  (after the check)
from envs.play_tabletop import Variant, plan, task_expert  # noqa: E402
from envs.skills import SkillExpert  # noqa: E402


def run(env, expert, seed, steps=60):
    obs, _ = env.reset(seed=seed)
    expert.reset(np.random.default_rng(seed))
    for count in range(steps):
        obs, _, _, _, info = env.step(expert.act(obs))
        if info["success"]:
            return count + 1, obs
    return None, obs


def test_the_registry_lists_its_tasks():
    assert envs.suite("tabletop") == [f"tabletop/{task}" for task in tabletop.TASKS]
    assert set(envs.tasks("tabletop")) == {"tabletop/any", *envs.suite("tabletop")}


@pytest.mark.parametrize("task", tabletop.TASKS)
def test_experts_do_what_is_asked_and_goals_show_it(task):
    env = envs.make(f"tabletop/{task}")
    expert = envs.expert(env)
    for seed in range(3):
        obs, _ = env.reset(seed=seed)
        assert obs.shape == (28,) and env.asked == task
        before = env.look()
        state, goal = obs[:14], obs[14:]
        assert not tabletop.achieved(task, before, before)
        shown = dict(zip(before, [goal[3], goal[4], *goal[8:11], *goal[11:13]], strict=True))
        assert tabletop.achieved(task, before, shown)
        moved = np.abs(goal - state) > 0.03
        thing = {"drawer": [3], "door": [4], "block": [11]}.get(task.split("-")[0])
        thing = thing or [8 + tabletop.NAMES.index(task.split("-")[1])]
        assert moved[thing].all()
        steps, _ = run(env, expert, seed)
        assert steps is not None and steps < 45


def test_a_wall_is_passed_on_either_side():
    env = envs.make("tabletop/button-green").unwrapped
    sides = set()
    for right in (True, False):
        expert = SkillExpert(env, lambda arm, n, r=right: plan(env.asked, arm, Variant(right=r)))
        env.reset(seed=0)
        for _ in range(60):
            env.step(expert.act(None))
            if abs(env.finger[1] - 0.1) < 0.03:
                sides.add(bool(env.finger[0] > 0))
            if tabletop.achieved(env.asked, env._before, env.look()):
                break
        else:
            raise AssertionError("not done")
    assert sides == {True, False}


def test_the_finger_may_be_moved_aside():
    near, far = envs.make("tabletop/door-left"), envs.make("tabletop/door-left", displaced=0.15)
    for seed in range(5):
        a, b = near.reset(seed=seed)[0], far.reset(seed=seed)[0]
        np.testing.assert_array_equal(a[14:], b[14:])  # the same goal
        assert 0.01 < np.linalg.norm(a[:3] - b[:3]) <= 0.151
        assert far.step(np.zeros(3, np.float32))[0] is not None


def test_a_press_turns_a_lamp_over_once():
    env = envs.make("tabletop/button-red")
    _, obs = run(env, envs.expert(env), 0)
    lamp = obs[8]
    for _ in range(5):  # held down
        obs = env.step(np.array([0, 0, -1.0], np.float32))[0]
    assert obs[8] == lamp


def test_play_does_everything_and_resumes_exactly():
    env = envs.make("tabletop/any", horizon=100_000)
    env.reset(seed=0)
    player = play.expert(env, 0)
    for _ in range(1500):
        action = player.act(None)
        assert action.shape == (3,) and np.abs(action).max() <= 1.0
        assert not any(env.step(action)[2:4])
    tried = {name: counts for name, counts in player.tally.items() if counts[0]}
    assert len(tried) >= 8
    assert sum(done for _, done in tried.values()) > 0.4 * sum(n for n, _ in tried.values())
    saved, state = env.get_state(), json.loads(json.dumps(player.get_state()))
    expected = [env.step(player.act(None))[0] for _ in range(40)]
    other = envs.make("tabletop/any", horizon=100_000)
    other.set_state(saved)
    again = play.expert(other, 99)
    again.set_state(state)
    assert np.array_equal(expected, [other.step(again.act(None))[0] for _ in range(40)])


def test_an_expert_has_one_way_and_play_many():
    env = envs.make("tabletop/button-green").unwrapped

    def heights(rng):
        env.reset(seed=0)
        expert = task_expert(env, rng)
        expert.act(None)
        return expert._plan[-3].position, expert._plan[1].position

    assert heights(None) == heights(None)
    assert len({heights(np.random.default_rng(seed)) for seed in range(6)}) > 3


# ------------------------------------------------------------------ corridors


def walk(env, direction, steps):
    action = (0.8 * np.asarray(direction)).astype(np.float32)
    for _ in range(steps):
        result = env.step(action)
        if result[2]:
            break
    return result


@pytest.mark.parametrize("line", [0, 1])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_an_end_turns_its_lamp_over_and_leaving_ends_it(line, side):
    env = envs.make("corridors/point-v0")
    obs, _ = env.reset(seed=1)
    steps = int(np.ceil(0.95 / (0.8 * STEP)))
    seen, _, terminated, _, _ = walk(env, side * DIRECTIONS[line], steps)
    assert not terminated and np.abs(seen[:3]).max() < 0.2  # back in the middle
    assert seen[3 + line] == 1 - obs[3 + line] and seen[4 - line] == obs[4 - line]
    env.reset(seed=1)
    wrong = side * DIRECTIONS[line] * [1, 1, -1]
    expected_out = not any(abs(wrong @ d) == 3 for d in DIRECTIONS)
    assert expected_out and walk(env, wrong, 3)[2]


def test_expert_and_player_stay_inside():
    env = envs.make("corridors/point-v0", terminate_on_success=True)
    expert = envs.expert(env)
    for seed in range(5):
        assert run(env, expert, seed, 30)[0] is not None
    env = envs.make("corridors/point-v0", horizon=2000)
    obs, _ = env.reset(seed=0)
    player, ends = play.expert(env, 0), []
    for _ in range(1500):
        obs, _, terminated, _, _ = env.step(player.act(obs))
        assert not terminated
        if np.abs(obs[:3]).max() > 0.5:
            ends.append(tuple(np.sign(obs[:3])))
    assert len(set(ends)) == 4
    saved = json.loads(json.dumps(player.get_state()))
    again = env.unwrapped.player(5)
    again.set_state(saved)
    assert np.array_equal(player.act(obs), again.act(obs))


@pytest.mark.parametrize("env_id", ["corridors/point-v0", "tabletop/any", "tabletop/block-left"])
def test_the_contract(env_id):
    envs.check_env(env_id, steps=20)
    assert isinstance(envs.make("corridors/point-v0").unwrapped, Corridors)

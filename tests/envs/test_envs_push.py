"""The plain table, alone and many at once; skills shown and skills taken."""

import numpy as np
import pytest

import envs
from envs.push import CONTACT, STEP, PushVector, push
from envs.skill_prior import FrozenSkills, SkillSpace
from envs.vector import SavedVector

PUSH, GOAL = "puck/push-v0", "puck/push-goal-v0"


@pytest.fixture
def skills(tmp_path):
    """Frozen skills that move the gripper along z."""
    path = tmp_path / "skills.npz"
    hidden = np.vstack([np.zeros((4, 4)), np.c_[np.eye(2), -np.eye(2)]])
    arrays = {
        "shift": np.zeros(6, np.float32),
        "scale": np.ones(6, np.float32),
        "weight0": hidden.astype(np.float32),
        "bias0": np.zeros(4, np.float32),
        "weight1": 9 * np.vstack([np.eye(2), -np.eye(2)]).astype(np.float32),
        "bias1": np.zeros(2, np.float32),
    }
    np.savez(path, kind=np.array("sphere"), dim=np.array(2), **arrays)
    return path


def test_pushing():
    hand, puck = push(np.array([0.0, 0]), np.array([0.15, 0]), np.array([1.0, 0]))
    assert hand == pytest.approx([STEP, 0]) and puck == pytest.approx([STEP + CONTACT, 0])
    hand, puck = push(np.array([0.0, 0]), np.array([0.5, 0.3]), np.array([1.0, 0]))
    assert puck.tolist() == [0.5, 0.3]
    _, puck = push(np.zeros(2), np.zeros(2), np.zeros(2))  # right on top of it
    assert puck == pytest.approx([CONTACT, 0])


@pytest.mark.parametrize("make", [
    lambda skills: envs.make(PUSH, prior="sphere-3"),
    lambda skills: envs.make(GOAL, prior="one-hot-4"),
    lambda skills: envs.make(GOAL, skills=str(skills), skill_steps=7),
])  # fmt: skip
def test_contract(make, skills):
    assert "save and restore: exact" in envs.check_env(lambda: make(skills), steps=20, seed=3)


@pytest.mark.parametrize("options", [
    {"prior": "sphere-2"}, {"terminate_on_success": True, "reward": "sparse"}, {"horizon": 7},
])  # fmt: skip
@pytest.mark.parametrize("env_id", [PUSH, GOAL])
def test_many_at_once_are_as_one_after_another(env_id, options):
    together = envs.make_vec(env_id, 5, **options)
    apart = SavedVector(lambda: envs.make(env_id, **options), 5)
    assert type(together) is PushVector
    rng, needs = np.random.default_rng(0), np.ones(5, bool)
    for step in range(60):
        if needs.any():
            seeds = [int(rng.integers(999)) if need else None for need in needs]
            given = {"seed": seeds, "options": {"reset_mask": needs}}
            assert np.array_equal(together.reset(**given)[0], apart.reset(**given)[0])
        # towards the puck, so that it is pushed
        state = np.array(together._last)[:, :4]
        action = np.clip(9 * (state[:, 2:] - state[:, :2]), -1, 1) + rng.normal(0, 0.3, (5, 2))
        one, other = (v.step(action.astype(np.float32)) for v in (together, apart))
        for mine, theirs in zip(one[:4], other[:4], strict=True):
            assert np.array_equal(mine, theirs) and mine.dtype == theirs.dtype
        assert np.array_equal(one[4]["success"], other[4]["success"])
        needs = one[2] | one[3]
        if step == 31:
            fresh = envs.make_vec(env_id, 5, **options)
            fresh.set_state(together.get_state())
            together = fresh


def test_an_earlier_observation_stays_as_it_was():
    vec = envs.make_vec(PUSH, 3)
    first, _ = vec.reset(seed=0)
    seen = vec.step(np.ones((3, 2), np.float32))[0]
    copies = first.copy(), seen.copy()
    vec.step(np.ones((3, 2), np.float32))
    vec.reset(seed=5)
    assert np.array_equal(first, copies[0]) and np.array_equal(seen, copies[1])


def test_the_task():
    env = envs.make(GOAL, terminate_on_success=True)
    env.reset(seed=1)
    table, rewards, terminated = env.unwrapped, [], False
    ahead = table.goal / np.hypot(*table.goal)
    table.puck, table.hand = 0.2 * ahead, 0.07 * ahead  # 0.3 from the goal, and just behind it
    while not terminated:
        _, reward, terminated, truncated, info = env.step(ahead)
        rewards.append(reward)
        assert not truncated and info["success"] == terminated
    left = np.hypot(*(table.puck - table.goal))
    assert left < 0.15 and sum(rewards) == pytest.approx(0.3 - left + 1)
    assert rewards[-1] > 1 > max(rewards[:-1])
    assert env.render().shape == (240, 320, 3)


def test_a_skill_for_each_episode():
    env = envs.make(PUSH, prior="sphere-2")
    seen = np.stack([env.reset(seed=s)[0] for s in range(20)])
    assert seen.shape == (20, 6)
    assert np.linalg.norm(seen[:, 4:], axis=1) == pytest.approx(np.ones(20), abs=1e-6)
    assert len(np.unique(seen[:, 4])) == 20
    assert np.array_equal(env.reset(seed=3)[0], seen[3])
    assert np.array_equal(env.step(np.zeros(2))[0][4:], seen[3, 4:])
    assert envs.describe(env)["hash"] != envs.describe(envs.make(PUSH, prior="sphere-3"))["hash"]


def test_skills_as_actions(skills):
    env, plain = envs.make(GOAL, skills=str(skills), skill_steps=10), envs.make(GOAL)
    assert env.action_space.shape == (2,) and env.horizon == 5
    env.reset(seed=0)
    plain.reset(seed=0)
    seen, reward, *_ = env.step(np.array([0.0, 0.3]))  # as [0, 1]
    rewards = [plain.step(np.tanh([0.0, 9.0]))[1] for _ in range(10)]
    assert np.allclose(seen, plain.observation(), atol=1e-6)
    assert reward == pytest.approx(sum(rewards)) and len(env.trail) == 10


def test_spaces():
    discrete = SkillSpace.parse("one-hot-4")
    assert discrete.nearest(np.array([[0.1, 0.3, -1, 0.2]])).tolist() == [[0, 1, 0, 0]]
    sphere = SkillSpace.parse("sphere-2")
    assert sphere.nearest(np.array([[0.0, 0], [0, -2]])).tolist() == [[1, 0], [0, -1]]
    for wrong in ("sphere", "ball-2", "sphere-1", "one-hot-x"):
        with pytest.raises(ValueError, match="sphere-N or one-hot-N"):
            SkillSpace.parse(wrong)


def test_what_is_wrong_is_said(skills, tmp_path):
    with pytest.raises(ValueError, match="obs=state"):
        envs.make(PUSH, prior="sphere-2", obs="pixels")
    with pytest.raises(ValueError, match="python -m embodied"):
        FrozenSkills(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="made for at least 4"):
        envs.make("maze/point-v0", skills=str(skills))
    env = envs.make(PUSH, skills=str(skills))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="finite"):
        env.step(np.array([np.nan, 0]))
    vec = envs.make_vec(PUSH, 2, horizon=1)
    vec.reset(seed=0)
    vec.step(np.zeros((2, 2), np.float32))
    with pytest.raises(RuntimeError, match="call reset"):
        vec.step(np.zeros((2, 2), np.float32))

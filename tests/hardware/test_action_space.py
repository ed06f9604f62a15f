import numpy as np
import pytest

from hardware import load_limits
from hardware.action_space import ActionSpace
from hardware.kinematics import rotation_of, turn

HOME = np.array([0.0, -0.3, 0.0, -2.2, 0.0, 2.0, 0.785])


@pytest.mark.parametrize("arm", ["panda", "fr3", "ur5e"])
def test_the_inverse_finds_what_the_forward_makes(arm):
    limits, rng = load_limits(arm), np.random.default_rng(0)
    lower, upper = np.maximum(limits.lower, -2), np.minimum(limits.upper, 3.5)
    for _ in range(30):
        joints = rng.uniform(0.6 * lower + 0.4 * upper, 0.4 * lower + 0.6 * upper)
        pose = limits.chain.tool(joints)
        start = joints + rng.normal(size=joints.shape) * 0.1
        found, off = limits.chain.solve(*pose, start, limits.lower, limits.upper, iterations=60)
        position, rotation = limits.chain.tool(found)
        assert off < 1e-3
        np.testing.assert_allclose(position, pose[0], atol=1e-3)
        np.testing.assert_allclose(rotation, pose[1], atol=2e-3)


def test_jacobian_against_differences():
    chain, rng = load_limits("panda").chain, np.random.default_rng(1)
    joints, change = HOME + rng.normal(size=7) * 0.3, rng.normal(size=7) * 1e-4
    before, after = chain.tool(joints), chain.tool(joints + change)
    moved = chain.jacobian(joints) @ change
    np.testing.assert_allclose(moved[:3], after[0] - before[0], atol=2e-8)
    np.testing.assert_allclose(moved[3:], turn(before[1], after[1]), atol=2e-8)


def test_turns_and_rotations_are_inverse_also_at_half_a_turn():
    rng = np.random.default_rng(2)
    for angle in (0.0, 1e-7, 0.3, 2.0, 3.1, np.pi):
        axis = rng.normal(size=3)
        vector = axis / np.linalg.norm(axis) * angle
        start = rotation_of(rng.normal(size=3))
        found = turn(start, rotation_of(vector) @ start)
        np.testing.assert_allclose(rotation_of(found), rotation_of(vector), atol=1e-7)


def test_tool_deltas_move_the_tool_in_the_base_frame():
    limits, space = load_limits("panda"), ActionSpace("tool delta")
    actions = np.zeros((4, 7))
    actions[:, 0], actions[:, 5], actions[:, 6] = 0.5, 0.1, 1.0
    chunk = space.joints(actions, HOME, limits)
    start, facing = limits.chain.tool(HOME)
    for k, row in enumerate(chunk):
        position, rotation = limits.chain.tool(row[:7])
        np.testing.assert_allclose(position - start, [0.025 * (k + 1), 0, 0], atol=1e-4)
        np.testing.assert_allclose(turn(facing, rotation), [0, 0, 0.05 * (k + 1)], atol=1e-3)
    assert (chunk[:, 7] == 0.0).all()


def test_out_of_reach_stays_inside_the_limits():
    limits = load_limits("panda")
    actions = np.zeros((60, 7))
    actions[:, 0] = 1.0
    chunk = ActionSpace().joints(actions, HOME, limits)
    assert np.isfinite(chunk).all()
    assert (chunk[:, :7] <= limits.upper).all() and (chunk[:, :7] >= limits.lower).all()


def test_joint_actions():
    limits = load_limits("panda")
    ends = np.array([[-1.0] * 7 + [-1.0], [1.0] * 7 + [1.0]])
    chunk = ActionSpace("joint position").joints(ends, HOME, limits)
    np.testing.assert_allclose(chunk[:, :7], [limits.lower, limits.upper])
    assert chunk[:, 7].tolist() == [0.08, 0.0]
    steps = ActionSpace("joint delta").joints(np.full((3, 8), 0.5), HOME, limits)
    np.testing.assert_allclose(steps[:, :7], HOME + 0.025 * np.arange(1, 4)[:, None])


def test_wrong_actions_are_refused():
    limits = load_limits("ur5e")
    with pytest.raises(ValueError, match=r"\[H, 6\]"):
        ActionSpace().joints(np.zeros((1, 7)), np.zeros(6), limits)
    with pytest.raises(ValueError, match="finite"):
        ActionSpace().joints(np.full((1, 6), np.nan), np.zeros(6), limits)
    with pytest.raises(ValueError, match="allowed are"):
        ActionSpace("velocity")

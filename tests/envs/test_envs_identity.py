"""The lean environments compute what the released packages do; other users see nothing of them."""

import numpy as np
import pytest

import envs

SAMPLE = ["reach", "assembly", "pick-place", "dial-turn", "stick-pull", "sweep"]


@pytest.mark.parametrize("task", SAMPLE)
def test_metaworld_is_the_released_package(task):
    pytest.importorskip("metaworld")
    from envs.identity import compare

    found = compare(f"metaworld/{task}-v3", steps=40)
    assert found.observations == found.successes == found.states == 0
    assert found.reward <= 1e-12


@pytest.mark.parametrize("task", ["walker-walk", "cheetah-run", "quadruped-walk", "finger-spin"])
def test_dm_control_is_the_released_package(task):
    pytest.importorskip("dm_control")
    from envs.identity import compare

    assert compare(f"dm_control/{task}", steps=60) == (0, 0.0, 0.0, 0, 0)


def test_a_difference_is_found(monkeypatch):
    pytest.importorskip("metaworld")
    from envs import metaworld_lean
    from envs.identity import compare

    half = property(lambda self: sum(self._views.fingers) / 2.001)
    monkeypatch.setattr(metaworld_lean.LeanSawyer, "tcp_center", half)
    assert compare("metaworld/reach-v3", steps=5).reward > 1e-6


def test_the_packages_stay_as_they_were():
    pytest.importorskip("metaworld")
    from metaworld import sawyer_xyz_env
    from metaworld.envs import sawyer_reach_v3 as reach
    from metaworld.utils import reward_utils

    lean = type(envs.make("metaworld/reach-v3")._sim)
    assert lean is not reach.SawyerReachEnvV3
    assert reach.SawyerReachEnvV3.__bases__ == (sawyer_xyz_env.SawyerXYZEnv,)
    assert reach.np is np and reach.reward_utils is reward_utils
    assert reach.Rotation.__module__.startswith("scipy")
    assert reward_utils.tolerance.__module__ == "metaworld.utils.reward_utils"


def test_quaternion_is_scipys():
    transform = pytest.importorskip("scipy.spatial.transform")
    pytest.importorskip("metaworld")
    from envs.metaworld_lean import quaternion

    rng = np.random.default_rng(0)
    axes = [np.diag(d).astype(float) for d in ([1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1])]
    turned = list(transform.Rotation.random(200, random_state=rng).as_matrix())
    skewed = [matrix + 1e-9 * rng.normal(size=(3, 3)) for matrix in turned[:20]]
    for matrix in axes + turned + skewed:
        theirs = transform.Rotation.from_matrix(matrix).as_quat()
        assert quaternion(matrix).tobytes() == theirs.tobytes()


@pytest.mark.parametrize("sigmoid", ["long_tail", "gaussian", "linear", "cosine"])
def test_tolerance_is_the_packages(sigmoid):
    rewards = pytest.importorskip("dm_control.utils.rewards")
    from envs.lean import lean_tolerance

    lean, rng = lean_tolerance(rewards.tolerance), np.random.default_rng(1)
    for _ in range(300):
        x, low, width, margin = rng.normal(), *rng.uniform(0, 1, 3)
        bounds = (low, rng.choice([low + width, np.inf]))
        for number in (float(x), np.float64(x), np.array([x, low])):
            arguments = (number, bounds, rng.choice([0.0, margin]), sigmoid, 0.1)
            ours, theirs = lean(*arguments), rewards.tolerance(*arguments)
            assert type(ours) is type(theirs) and np.array_equal(ours, theirs)
    with pytest.raises(ValueError, match="margin"):
        lean(0.5, (0, 1), -1.0, sigmoid)
    with pytest.raises(ValueError, match="bound"):
        lean(0.5, (1, 0), 1.0, sigmoid)

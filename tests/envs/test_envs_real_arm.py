import gymnasium
import numpy as np
import pytest

from hardware import Camera, Robot, load_limits
from hardware.latch import Latch
from hardware.loop import LocalLoop, Timing

pytest.importorskip("mujoco")

from envs.real_arm import RealArm, ResetFailed, Scene
from hardware.twin import HOME, panda_twin


class Bench:
    """A Panda's twin on a clock that the environment advances."""

    def __init__(self, folder, cameras=(), **options):
        self.limits = load_limits("panda")

        def make(clock):
            self.twin = panda_twin(clock=clock, cameras=cameras, live=False)
            latch = Latch("bench", folder)
            self.robot = Robot(self.twin, self.limits, latch=latch, clock=clock)
            return self.robot

        self.station = LocalLoop(make, Timing(0.1))
        self.env = RealArm(self.station, self.limits, **options)


@pytest.fixture
def bench(tmp_path):
    return lambda **options: Bench(tmp_path / "latch", **options)


def test_tool_deltas_move_the_tool(bench):
    env = bench().env
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation) and info["success"] is False
    start = observation[14:17].copy()
    action = np.zeros(7, np.float32)
    action[0], action[6] = 0.4, 1.0
    for _ in range(10):
        observation, reward, terminated, truncated, info = env.step(action)
        assert not (terminated or truncated or reward or info["intervened"])
    np.testing.assert_allclose(
        observation[14:17] - start, [0.2, 0, 0], atol=0.04
    )  # it starts gently
    assert observation[23] < 0.01  # the gripper
    assert env.unwrapped.autonomy.steps == 10


def test_it_is_a_gymnasium_environment(bench):
    env = bench(horizon=5).env
    env.reset(seed=1)
    ends = [env.step(env.action_space.sample())[3] for _ in range(5)]
    assert ends == [False] * 4 + [True]
    with pytest.raises(RuntimeError, match="episode is over"):
        env.step(env.action_space.sample())
    assert isinstance(env, gymnasium.Env)


def test_a_reset_brings_it_home_and_lays_out_the_scene(bench):
    drawn = []
    scene = Scene(home=np.array(HOME), prepare=lambda rng: drawn.append(rng.integers(1000)))
    made = bench(scene=scene)
    for _ in range(2):
        made.env.reset(seed=3)
        for _ in range(8):
            made.env.step(np.array([1, -1, 1, 0, 0, 0.3, 1], np.float32))
    made.env.reset(seed=4)
    position = made.station.observe().state.position
    np.testing.assert_allclose(position, HOME, atol=0.03)
    assert drawn[0] == drawn[1] and len(drawn) == 3


def test_success_ends_the_episode_with_reward_one(bench):
    height = []

    def raised(status):
        height.append(load_limits("panda").chain.tool(status.state.position)[0][2])
        return height[-1] > 0.5

    env = bench(scene=Scene(success=raised)).env
    env.reset(seed=0)
    for _ in range(20):
        _, reward, terminated, _, info = env.step(np.array([0, 0, 1, 0, 0, 0, 0], np.float32))
        if terminated:
            break
    assert terminated and reward == 1.0 and info["success"]


def test_a_latched_stop_ends_the_episode_and_nothing_here_clears_it(bench):
    made = bench()
    made.env.reset(seed=0)
    made.env.step(np.zeros(7, np.float32))
    made.station.stop("somebody is near")
    at = made.station.observe().state.position
    _, _, terminated, truncated, info = made.env.step(np.ones(7, np.float32))
    assert truncated and not terminated and info["broken"]
    with pytest.raises(ResetFailed, match="giving a reason"):
        made.env.reset(seed=1)
    with pytest.raises(RuntimeError):
        made.env.step(np.ones(7, np.float32))
    made.station.wait(0.5)
    np.testing.assert_allclose(made.station.observe().state.position, at, atol=0.02)
    made.station.reset_stop("nobody is near")
    made.env.reset(seed=1)
    assert made.env.autonomy.stops == 1


class Hand:
    """An operator who takes over at every second step."""

    def __init__(self):
        self.asked = self.laid_out = 0

    def intervention(self):
        self.asked += 1
        return np.full(7, 0.2, np.float32) if self.asked % 2 else None

    def verdict(self):
        return None

    def lay_out(self):
        self.laid_out += 1


def test_interventions_are_executed_and_recorded(bench):
    hand = Hand()
    env = bench(operator=hand).env
    env.reset(seed=0)
    infos = [env.step(np.zeros(7, np.float32))[4] for _ in range(10)]
    assert [info["intervened"] for info in infos] == [True, False] * 5
    assert infos[0]["action"] == pytest.approx(0.2) and infos[1]["action"] == pytest.approx(0.0)
    assert env.autonomy.share == 0.5 and hand.laid_out == 1


def test_pictures_of_all_cameras(bench):
    cameras = (Camera("front", 48, 64, 10.0), Camera("wrist", 32, 32, 20.0))
    env = bench(cameras=cameras, obs="both").env
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    before = observation["pixels.wrist"]
    after = env.step(np.array([0.5, 0.5, 0, 0, 0, 1, 0], np.float32))[0]["pixels.wrist"]
    assert (before != after).mean() > 0.05
    assert env.render().shape == (48, 64, 3)


def test_the_same_seed_and_actions_give_the_same_episode(tmp_path):
    ends = []
    for name in ("a", "b"):
        env = Bench(tmp_path / name).env
        env.reset(seed=0)
        rng = np.random.default_rng(0)
        for _ in range(15):
            last = env.step(rng.uniform(-1, 1, 7).astype(np.float32))[0]
        ends.append(last)
    np.testing.assert_array_equal(*ends)


def test_a_bad_action_is_refused_before_it_reaches_the_robot(bench):
    env = bench().env
    env.reset(seed=0)
    for action in (np.full(7, np.nan), np.zeros(6)):
        with pytest.raises(ValueError, match="finite"):
            env.step(action)

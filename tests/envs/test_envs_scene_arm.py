"""The arm of a robosuite or LIBERO scene behind the hardware contract."""

import importlib.util
import os

import numpy as np
import pytest

import envs
from envs import scene_arm
from envs.scene_arm_driver import Bench, SceneDriver
from envs.scene_arm_motion import OscMotion
from hardware.errors import HardwareError
from hardware.latch import Latch
from hardware.loop import LocalLoop
from hardware.robot import Robot
from hardware.robots import NoSuchRobot, find

pytest.importorskip("yaml")


# ---------------------------------------------------------------- the path


class Controller:
    """Of an arm of six slides along and about the axes, of unit inertia, at rest."""

    kp, mass_matrix, J_full, uncoupling = np.full(6, 150.0), np.eye(6), np.eye(6), True
    J_pos, J_ori = J_full[:3], J_full[3:]
    ee_pos, ee_ori_mat, goal_ori = np.zeros(3), np.eye(3), np.eye(3)
    joint_pos = initial_joint = np.zeros(6)

    def update(self, force):
        pass

    def set_goal(self, action):
        self.goal_pos = action[:3]


def path(fastest=10.0, change=1000.0, period=0.01):
    limits = {"velocity": np.full(6, fastest), "acceleration": np.full(6, change)}
    return OscMotion(Controller(), np.zeros(6), **limits, period=period)


def test_the_path_is_that_of_a_critically_damped_arm():
    motion, rate, period = path(period=0.001), np.sqrt(150.0), 0.001
    found = motion.follow(np.array([0.1, -0.2, 0, 0, 0, 0]), 0, 301)
    time = period * np.arange(301)[:, None]
    expected = np.array([0.1, -0.2, 0]) * (1.0 - (1.0 + rate * time) * np.exp(-rate * time))
    np.testing.assert_allclose(found[:, :3], expected, atol=2e-3)
    again = motion.follow(np.array([0.1, -0.2, 0, 0, 0, 0]), 50, 251)
    np.testing.assert_allclose(again, found[50:], atol=1e-9)


def test_the_path_keeps_to_the_limits():
    found = path(fastest=1.0, change=5.0).follow(np.array([1.0, 0.01, 0, 0, 0, 0]), 0, 60)
    speed = np.diff(found, axis=0) / 0.01
    assert np.abs(speed).max() == pytest.approx(1.0)
    assert np.abs(np.diff(speed, axis=0)).max() <= 0.05 + 1e-9
    assert found[-1, 1] == pytest.approx(0.01, abs=2e-3)  # one joint's limit is not the other's


def test_what_was_not_followed_is_not_asked_for_again():
    motion, action = path(), np.array([0.3, 0, 0, 0, 0, 0])
    before = motion.follow(action, 0, 20).copy()
    motion.correct(7.4, 0.4 * before[6] + 0.6 * before[7], motion._speeds[7])  # only late
    np.testing.assert_allclose(motion._path[10], before[10], atol=1e-2)
    held = motion._path[5] - 0.1
    motion.correct(5.0, held, np.zeros(6))
    assert np.abs(motion._path - held).sum(1).min() < 1e-9
    assert motion.follow(action, 5, 2)[0, 0] < before[5, 0] - 0.05


def test_people_and_trackers_at_the_bench():
    mine = Bench(3, 2)
    theirs = Bench(*mine.memory)
    assert theirs.asked() == (0, 0) and mine.ask(7) == 1 and theirs.asked() == (1, 7)

    class Data:
        time, qpos, qvel = 0.5, np.arange(3.0), np.arange(2.0)

    theirs.tell(1, Data)
    told = mine.told()
    assert told["number"] == 1 and told["time"] == 0.5 and told["qpos"].tolist() == [0, 1, 2]


def test_names():
    scene_arm.offer()
    arm = find("robosuite/Lift", changes={"velocity_share": 0.3})
    assert arm.has_twin and arm.spec.simulated and arm.limits.velocity_share == 0.3
    assert arm.limits.force == 100.0 and find(arm) is arm
    with pytest.raises(NoSuchRobot, match="robosuite/Lift"):
        find("robosuite/Lifd")
    with pytest.raises(NoSuchRobot, match=r"robosuite/\.\.\."):
        find("robosuit/Lift")


# ---------------------------------------------------------------- robosuite

needs_robosuite = pytest.mark.skipif(
    not (importlib.util.find_spec("robosuite")), reason="needs the extra robosuite"
)


@pytest.fixture
def through(tmp_path):
    """Makes a task behind the adapter on a simulated clock, its latch in a folder of its own."""
    opened = []

    def make(name, changes=None, **options):
        env = envs.make(name, **options)
        arm = scene_arm.find_scene(name, changes=changes).with_options(options).beside(env)
        latch = Latch(name, tmp_path)
        station = LocalLoop(
            lambda clock: Robot(arm.twin(clock), arm.limits, latch=latch, clock=clock),
            scene_arm.TIMING,
        )
        scene = scene_arm.SceneArm(env, arm, station)
        opened.extend([station, scene])
        return scene

    yield make
    for one in reversed(opened):
        one.close()


@needs_robosuite
def test_an_arm_that_is_held_pushes_as_the_packages_controller_would():
    env = envs.make("robosuite/Lift")
    env.reset(seed=0)
    robot, data = env.unwrapped._sim.robots[0], env.unwrapped._data
    controller = robot.controller
    controller.uncoupling = False
    limits = {"velocity": np.full(7, 9.0), "acceleration": np.full(7, 99.0)}
    motion = OscMotion(controller, np.zeros(7), **limits, period=0.01)
    goal = motion._goal(np.array([0.1, 0.2, -0.4, 0.1, 0.0, -0.05]))
    wanted = controller.run_controller()
    spec = scene_arm.find_scene("robosuite/Lift").spec
    driver = SceneDriver(spec, env.unwrapped, clock=lambda: 0.0)
    driver._from = driver._to = goal
    driver._push(0.0)
    assert np.abs(wanted - controller.torque_compensation).max() > 5.0
    np.testing.assert_allclose(data.ctrl[robot._ref_joint_actuator_indexes], wanted, atol=0.05)


@needs_robosuite
def test_the_policy_sees_and_does_the_same(through):
    plain, scene = envs.make("robosuite/Lift"), through("robosuite/Lift")
    assert scene.observation_space == plain.observation_space
    assert scene.action_space == plain.action_space
    one, two = plain.reset(seed=3)[0], scene.reset(seed=3)[0]
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(two, scene.observation())
    action = np.array([0.3, -0.2, 0.1, 0, 0, 0.1, -1], np.float32)
    began = plain.unwrapped._data.site("gripper0_grip_site").xpos.copy()
    for _ in range(15):
        plain.step(action)
        *_, info = scene.step(action)
    assert not info["broken"] and info["action"].tolist() == action.tolist()
    hands = [env.unwrapped._data.site("gripper0_grip_site").xpos for env in (plain, scene)]
    assert np.linalg.norm(hands[0] - began) > 0.05
    np.testing.assert_allclose(hands[1], hands[0], atol=0.01)


@needs_robosuite
def test_the_expert_lifts_the_cube_and_holds_it_with_little_force(through):
    scene = through("robosuite/Lift")
    expert, fastest, pushes = envs.expert(scene), np.zeros(7), []
    scene.reset(seed=0)
    for _ in range(70):
        *_, info = scene.step(expert.act(None))
        state = scene.station.observe().state
        fastest = np.maximum(fastest, np.abs(state.velocity))
        pushes.append(np.linalg.norm(state.wrench[:3]))
        if info["success"]:
            break
    assert info["success"] and not info["broken"] and scene.faults == []
    assert (fastest <= 1.05 * scene._limits.velocity).all() and fastest.max() > 0.5
    assert max(pushes) < 30.0  # the fingers grip with up to 20 N each, which cancels
    assert state.wrench[2] < -0.1  # but not the cube's weight


@needs_robosuite
def test_a_latched_stop_ends_the_episode(through):
    scene = through("robosuite/Lift", {"force": 5.0})
    scene.reset(seed=0)
    for _ in range(100):  # onto the table
        *_, truncated, info = scene.step(np.array([0.5, 0, -1, 0, 0, 0, 1], np.float32))
        if truncated:
            break
    assert info["broken"] and not info["success"] and "force" in scene.faults[-1]
    with pytest.raises(HardwareError, match="reset_stop"):
        scene.reset(seed=1)


@needs_robosuite
def test_other_arms_are_refused():
    env = envs.make("robosuite/Lift", controller="JOINT_VELOCITY")
    arm = scene_arm.find_scene("robosuite/Lift").beside(env)
    with pytest.raises(envs.UnknownTask, match="one Panda with its gripper under OSC_POSE"):
        scene_arm.SceneArm(env, arm, None)


@pytest.mark.skipif(
    not (importlib.util.find_spec("libero") and os.environ.get("LIBERO_ASSETS")),
    reason="needs hf-libero, and LIBERO_ASSETS to name the folder of its models",
)
def test_the_expert_does_a_task_of_libero(through):
    scene = through("libero/libero_object/0")
    expert = envs.expert(scene)
    _, info = scene.reset(seed=0)
    assert info["instruction"] == "pick up the alphabet soup and place it in the basket"
    for _ in range(200):
        *_, info = scene.step(expert.act(None))
        if info["success"] or info["broken"]:
            break
    assert info["success"] and not info["broken"]

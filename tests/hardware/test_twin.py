import numpy as np
import pytest

from hardware import Camera, Command, HardwareError, Robot, load_limits
from hardware.latch import Latch
from hardware.twin import HOME, MujocoTwin, import_mujoco, panda_twin
from hardware.types import Act

try:
    mujoco = import_mujoco()
except HardwareError as error:
    pytest.skip(str(error), allow_module_level=True)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Arm:
    def __init__(self, folder, **options):
        self.clock = Clock()
        self.twin = panda_twin(clock=self.clock, live=False, **options)
        self.robot = Robot(
            self.twin,
            load_limits("panda"),
            latch=Latch("twin", folder),
            clock=self.clock,
        )
        self.robot.connect()
        self.lease = self.robot.activate("test")
        self.sequence = 0

    def go(self, position, steps, gripper=None):
        for _ in range(steps):
            self.clock.now += 0.01
            state = self.robot.read()
            self.sequence += 1
            command = Command(np.asarray(position), self.clock.now, self.sequence, gripper)
            sent = self.robot.command(command, self.lease)
        return state, sent


@pytest.fixture
def arm(tmp_path):
    return Arm(tmp_path)


def test_the_table_of_the_envelope_is_the_model_of_the_twin(arm):
    """One description of the arm checks the other, over the whole range of joints."""
    rng, twin = np.random.default_rng(0), arm.twin
    limits = load_limits("panda")
    for _ in range(50):
        joints = rng.uniform(limits.lower, limits.upper)
        twin.data.qpos[twin._q[twin._arm]] = joints
        mujoco.mj_kinematics(twin.model, twin.data)
        position, rotation = limits.chain.tool(joints)
        point, approach = limits.chain.point(joints.tolist())
        np.testing.assert_allclose(point, position, atol=1e-12)
        np.testing.assert_allclose(approach, rotation[:, 2], atol=1e-12)
        np.testing.assert_allclose(position, twin.data.site("tool").xpos, atol=1e-6)
        np.testing.assert_allclose(rotation.ravel(), twin.data.site("tool").xmat, atol=1e-6)


def test_its_joints_are_the_makers(arm):
    for joint in load_limits("panda").joints:
        assert arm.twin.model.joint(joint.name).range.tolist() == [joint.lower, joint.upper]


def test_no_joint_moves_the_tool_further_than_its_reach():
    chain, rng = load_limits("panda").chain, np.random.default_rng(1)
    joints = rng.uniform(-3, 3, (500, 7))
    for i in range(7):
        moved = joints.copy()
        moved[:, i] += 1e-6
        speed = np.linalg.norm(chain.tool(moved)[0] - chain.tool(joints)[0], axis=1) / 1e-6
        assert speed.max() <= chain.reach[i] * (1 + 1e-6)


def test_it_follows_and_arrives(arm):
    target = np.add(HOME, [0.4, 0.2, -0.2, 0.3, 0.1, -0.3, 0.5])
    state, sent = arm.go(target, 300)
    assert sent.act == Act.PASS and not arm.robot.latch.tripped
    np.testing.assert_allclose(state.position, target, atol=0.01)
    assert np.abs(state.velocity).max() < 0.01


def test_it_holds_against_gravity_without_commands(arm):
    arm.go(HOME, 5)
    arm.clock.now += 0.9
    state = arm.robot.read()
    np.testing.assert_allclose(state.position, HOME, atol=0.02)


@pytest.mark.parametrize("end", ["halt", "deactivate"])
def test_it_stops_out_of_a_motion_without_swinging_back(arm, end):
    """Half a radian per second in all joints, and nothing that brakes: F9 allows 0.02 rad."""
    speed, position = np.full(7, 0.5), np.array(HOME)
    for _ in range(30):
        arm.clock.now += 0.01
        arm.twin.read()
        position = position + 0.01 * speed
        arm.twin.write(position, speed, None)
    path = [arm.twin.read().position]
    getattr(arm.twin, end)()
    for _ in range(60):
        arm.clock.now += 0.01
        path.append(arm.twin.read().position)
    beyond = np.max(path, 0) - np.maximum(path[0], path[-1])
    assert beyond.max() < 0.005
    assert np.abs(np.diff(path[-10:], axis=0)).max() < 1e-4
    assert 0.005 < (path[-1] - path[0]).max() < 0.03


def test_it_grasps_and_lifts_the_cube(arm):
    """The cube is put between the open fingers; closed, they carry it up and feel its weight."""
    twin = arm.twin
    _, rotation = load_limits("panda").chain.tool(np.array(HOME))
    cube = twin.model.joint("cube").qposadr[0]
    yaw = np.zeros(4)
    mujoco.mju_mat2Quat(yaw, rotation.ravel())
    for _ in range(20):  # held there while the fingers close
        twin.data.qpos[cube : cube + 3] = twin.data.site("tool").xpos
        twin.data.qpos[cube + 3 : cube + 7] = yaw
        twin.data.qvel[twin.model.joint("cube").dofadr[0] :][:6] = 0.0
        arm.go(HOME, 1, gripper=0.0)
    up = np.add(HOME, [0, -0.2, 0, 0, 0, -0.2, 0])
    state, _ = arm.go(up, 150, gripper=0.0)
    assert state.gripper == pytest.approx(0.04, abs=0.004)
    held = np.linalg.norm(twin.data.body("cube").xpos - twin.data.site("tool").xpos)
    assert held < 0.02
    assert state.wrench[2] == pytest.approx(-0.06 * 9.81, rel=0.2)


def test_pictures_come_at_their_rate(tmp_path):
    cameras = [Camera("front", 48, 64, 10.0), Camera("wrist", 32, 32, 5.0)]
    arm = Arm(tmp_path, cameras=cameras)
    stamps = {"front": set(), "wrist": set()}
    for _ in range(100):
        state, _ = arm.go(HOME, 1)
        for name, (stamp, image) in state.images.items():
            stamps[name].add(stamp)
            assert image.dtype == np.uint8 and -1e-9 <= arm.clock.now - stamp < 0.21
    assert image.shape == (32, 32, 3) and image.std() > 5
    assert len(stamps["front"]) == pytest.approx(10, abs=2)
    assert len(stamps["wrist"]) == pytest.approx(5, abs=2)


def test_the_same_commands_give_the_same_states(tmp_path):
    ends = []
    for folder in ("a", "b"):
        arm = Arm(tmp_path / folder)
        ends.append(arm.go(np.array(HOME) + 0.1, 80, gripper=0.02)[0])
    assert ends[0].position.tobytes() == ends[1].position.tobytes()
    assert ends[0].effort.tobytes() == ends[1].effort.tobytes()


def test_a_model_without_the_joints_is_refused():
    model = mujoco.MjModel.from_xml_string("<mujoco><worldbody/></mujoco>")
    spec = load_limits("panda").spec("other", simulated=True)
    with pytest.raises(HardwareError, match="no joint 'panda_joint1'"):
        MujocoTwin(spec, model)

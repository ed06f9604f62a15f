"""Steps robosuite 1.4 and LIBERO without what the package computes twice, the same to the bit.

A control step of the package is 25 simulation steps of 2 ms. In each it evaluates the forward
dynamics three times, rebuilds its limits and name look-ups, and asks every sensor whether it is
due. Here a simulation step computes only what the physics depends on:

- `mj_forward`, called again in one state, changes nothing but the solver's warm start. So
  positions, velocities and contacts are computed once, and only the solver runs as often as in the
  package. (Without those runs the last bit of an acceleration differs; 200 steps with contacts
  later, that has grown to 1e-4 and more.)
- the torque is computed in compiled code (`envs.osc`).
- observables are asked only when their clock says that they are due.
- the dirt that Wipe looks for twice per control step, marker by marker, is found at once.

What a controller, robot or observable remembers is afterwards what the package would have left, so
both ways of stepping may take turns within an episode.
"""

from typing import Any

import mujoco
import numpy as np
from robosuite.controllers.osc import OperationalSpaceController
from robosuite.environments.base import MujocoEnv
from robosuite.environments.manipulation.wipe import Wipe
from robosuite.robots.single_arm import SingleArm
from robosuite.utils.observables import NO_DELAY
from robosuite.utils.transform_utils import mat2quat

from envs import osc

# Grippers that move with constant speed: how a positive command changes each of their numbers.
_DIRECTIONS = {
    "PandaGripper": (-1.0, 1.0),
    "RethinkGripper": (1.0, -1.0),
    "Robotiq140Gripper": (1.0, -1.0),
    "Robotiq85Gripper": (1.0,),
}


def obstacle(env: Any) -> str:
    """Says why an environment of the package cannot be stepped here, or returns an empty string."""
    for name in ("_update_observables", "_get_observations", "initialize_time", "check_contact"):
        if getattr(type(env), name) is not getattr(MujocoEnv, name):
            return f"its {name} is not the package's"
    if env.viewer_get_obs:
        return "its viewer makes its observations"
    if env.sim.model._model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4:
        return "Runge-Kutta integration evaluates the dynamics between simulation steps"
    if env.control_timestep < 2 * env.model_timestep:
        return "a control step is a single simulation step"
    for robot in env.robots:
        if type(robot) is not SingleArm:
            return f"{robot.name} is not a single arm"
        controller = robot.controller
        if type(controller) is not OperationalSpaceController:
            return f"its controller is {controller.name}"
        if controller.interpolator_pos is not None or controller.interpolator_ori is not None:
            return "its controller interpolates between goals"
        if not osc.same_products(env.sim.model._model.nv):
            return "numpy and numba multiply with libraries that round differently"
    enabled = [item for item in env._observables.values() if item.is_enabled()]
    clocks = {(i._time_since_last_sample, i._sampling_timestep, i._sampled) for i in enabled}
    if len(clocks) != 1 or any(item._delayer is not NO_DELAY for item in enabled):
        return "its sensors have different rates, or delays"
    return ""


class LeanStepping:
    """Steps one environment of the package, until its next reset builds new robots."""

    def __init__(self, env: Any) -> None:
        """Takes an environment for which `obstacle` found nothing."""
        self._env = env
        self._model, self._data = env.sim.model._model, env.sim.data._data
        self._arms = [_Arm(robot, env.sim) for robot in env.robots]
        self._steps = int(env.control_timestep / env.model_timestep)
        self._timed = [item for item in env._observables.values() if item.is_enabled()]
        seen = [item for item in self._timed if item.is_active()]
        kinds = ["object", *sorted({i.modality for i in seen if i.modality.endswith("_proprio")})]
        self._seen = [item for kind in kinds for item in seen if item.modality == kind]
        self._geoms: dict[Any, frozenset[int]] = {}
        env.check_contact = self._check_contact
        if getattr(type(env), "_get_wipe_information", None) is Wipe._get_wipe_information:
            bodies = env.sim.model._body_name2id
            self._dirt = {mark: bodies[mark.root_body] for mark in env.model.mujoco_arena.markers}
            env._get_wipe_information = self._wipe_information

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """Advances one control step, as the package's `MujocoEnv.step`.

        Args:
            action: `float64[action_dim]` in the package's units.

        Returns:
            The state (as `envs.robosuite.flatten`), the reward, and whether the package calls the
            episode over.
        """
        env, start = self._env, 0
        env.timestep += 1
        for arm in self._arms:
            arm.action = action[start : start + arm.action_dim]
            start += arm.action_dim
        self._simulate()
        env.cur_time += env.control_timestep
        reward, done, _ = env._post_action(action)
        state = np.concatenate([np.atleast_1d(item.obs) for item in self._seen])
        return state, reward, done

    def _simulate(self) -> None:
        model, data, arms, dt = self._model, self._data, self._arms, self._env.model_timestep
        clock = self._timed[0]
        since, period, sampled = (
            clock._time_since_last_sample,
            clock._sampling_timestep,
            clock._sampled,
        )
        option, flags = model.opt, model.opt.disableflags
        without_sensors = flags | mujoco.mjtDisableBit.mjDSBL_SENSOR
        try:
            for number in range(self._steps):
                since += dt
                due = not sampled and since <= period
                heard = due or number in (0, self._steps - 1)
                option.disableflags = flags if heard else without_sensors
                mujoco.mj_step1(model, data)
                # The package's mj_forward; the controls are still those of the step before.
                mujoco.mj_forwardSkip(model, data, _VELOCITIES_DONE, False)
                for arm in arms:
                    if arm is not arms[0] or not number:  # again, with the arm before in motion
                        if arm.reads():
                            mujoco.mj_forwardSkip(model, data, _VELOCITIES_DONE, False)
                    else:
                        mujoco.mj_fwdConstraint(model, data)
                    arm.control() if number else arm.start()
                mujoco.mj_step2(model, data)
                if due:
                    self._sample()
                    sampled = True
                if since >= period:
                    since, sampled = since % period, False
        finally:
            option.disableflags = flags
        for item in self._timed:
            item._time_since_last_sample, item._sampled = since, sampled
        for arm in arms:
            arm.finish()

    def _sample(self) -> None:
        cache = self._env._obs_cache
        for item in self._timed:
            value = np.array(item._filter(item._corrupter(item._sensor(cache))))
            item._current_observed_value = value = value[0] if value.shape == (1,) else value
            cache[item.name] = np.array(value)

    def _check_contact(self, geoms_1: Any, geoms_2: Any = None) -> bool:
        """The package's `check_contact`, with numbers for names."""
        first = self._numbers(geoms_1)
        if geoms_2 is None:
            return any(a in first or b in first for a, b in self._data.contact.geom.tolist())
        second = self._numbers(geoms_2)
        return any(
            (a in first and b in second) or (a in second and b in first)
            for a, b in self._data.contact.geom.tolist()
        )

    def _numbers(self, geoms: Any) -> frozenset[int]:
        key = tuple(geoms) if isinstance(geoms, list) else geoms
        if key not in self._geoms:
            names = [geoms] if isinstance(geoms, str) else getattr(geoms, "contact_geoms", geoms)
            numbers = self._env.sim.model._geom_name2id
            self._geoms[key] = frozenset(numbers[name] for name in names if name in numbers)
        return self._geoms[key]

    def _wipe_information(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Wipe's method: the radius and the centre of the dirt that is left, and the way there."""
        env = self._env
        wiped = {*env.wiped_markers}
        left = [body for mark, body in self._dirt.items() if mark not in wiped]
        if not left:
            return 0, np.zeros(3), np.zeros(3)
        positions = self._data.xpos[left]
        centre = positions.cumsum(axis=0)[-1] / len(left)  # added up in order, as the package does
        radius = np.max(np.linalg.norm(positions - centre, axis=1))
        return radius, centre, centre - env._eef_xpos


class _Arm:
    """One robot with an operational-space controller."""

    def __init__(self, robot: Any, sim: Any) -> None:
        self._robot, self._model, self._data = robot, sim.model._model, sim.data._data
        self._controller = controller = robot.controller
        self.action_dim, self.action = robot.action_dim, np.zeros(0)
        model, data = self._model, self._data
        self._site = sim.model.site_name2id(controller.eef_name)
        self._position = data.site_xpos[self._site]
        self._rotation = data.site_xmat[self._site].reshape(3, 3)
        self._jac = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        dofs, count = np.array(controller.qvel_index), len(controller.qvel_index)
        self._motors = np.array(robot._ref_joint_actuator_indexes)
        self._simulation = (
            *self._jac,
            *(data.qM, data.qpos, data.qvel, data.qfrc_bias),
            *(self._position, self._rotation, data.ctrl),
            *(np.array(controller.qpos_index), dofs, _inertia_places(model, dofs)),
            *(self._motors, np.array(robot.torque_limits)),
        )
        self._velocity, self._joints = np.zeros(6), np.zeros((2, count))
        self._jacobian = np.zeros((6, count), order="F")  # the package's arrays come to be so
        self._mass = np.zeros((count, count), order="F")
        self._torques = np.zeros(count)
        self._results = self._velocity, self._joints, self._jacobian, self._mass, self._torques
        self._gripper = _Gripper(robot, sim)
        sensors = (robot.gripper.important_sensors[name] for name in ("force_ee", "torque_ee"))
        starts = [model.sensor_adr[sim.model.sensor_name2id(name)] for name in sensors]
        self._forces = [data.sensordata[start : start + 3] for start in starts]

    def reads(self) -> bool:
        """Tells whether the controller looks at the simulation now: not right after a reset."""
        return self._controller.new_update

    def start(self) -> None:
        """The first simulation step of a control step: sets the goal, fills the buffers."""
        robot, controller = self._robot, self._controller
        arm_action = self.action[: controller.control_dim]
        if not self.reads():
            robot.control(self.action, policy_step=True)
            self._begin()
            return
        controller.ee_pos, controller.ee_ori_mat = self._position.copy(), self._rotation.copy()
        controller.new_update = False  # it has read what it needs for its goal
        controller.set_goal(arm_action)
        controller.new_update = True
        self._begin()
        self.control()
        robot.recent_qpos.push(self._joints[0])
        robot.recent_actions.push(self.action)
        robot.recent_torques.push(self._data.ctrl[self._motors])
        robot.recent_ee_forcetorques.push(np.concatenate(self._forces))
        quaternion = mat2quat(controller.ee_ori_mat)
        robot.recent_ee_pose.push(np.concatenate((controller.ee_pos, quaternion)))
        robot.recent_ee_vel.push(self._velocity)
        robot.recent_ee_vel_buffer.push(self._velocity)
        recent = robot.recent_ee_vel_buffer.buf
        changes = np.empty((10, 6))
        changes[0] = robot.recent_ee_acc.current
        np.multiply(robot.control_freq, recent[1:] - recent[:-1], out=changes[1:])
        columns = np.ascontiguousarray(changes.T)
        robot.recent_ee_acc.push([np.correlate(column, _TENTHS)[0] for column in columns])

    def _begin(self) -> None:
        """Takes over goal and gains; an episode's restored state may have replaced the arrays."""
        controller = self._controller
        self._gripper.begin(self.action[controller.control_dim :])
        self._arguments = (
            *self._simulation,
            np.array(controller.goal_pos, np.float64),
            np.array(controller.goal_ori, np.float64, order="C"),
            np.array((controller.kp, controller.kd), np.float64),
            controller.initial_joint,
            controller.uncoupling,
            *self._gripper.arguments,
            *self._results,
        )

    def control(self) -> None:
        """Reads the simulation and sets the controls of this simulation step."""
        mujoco.mj_jacSite(self._model, self._data, *self._jac, self._site)
        osc.control(*self._arguments)
        self._gripper.move()

    def finish(self) -> None:
        """Leaves the package's objects as its own code would have."""
        robot, controller = self._robot, self._controller
        controller.ee_pos, controller.ee_ori_mat = self._position.copy(), self._rotation.copy()
        controller.ee_pos_vel, controller.ee_ori_vel = self._velocity.copy().reshape(2, 3)
        controller.joint_pos, controller.joint_vel = self._joints.copy()
        controller.J_full, controller.mass_matrix = self._jacobian.copy("F"), self._mass.copy("F")
        controller.J_pos, controller.J_ori = (
            half.copy("F") for half in (self._jacobian[:3], self._jacobian[3:])
        )
        controller.torques = self._torques.copy()
        robot.torques = self._data.ctrl[self._motors]
        self._gripper.finish()


_VELOCITIES_DONE = mujoco.mjtStage.mjSTAGE_VEL
_TENTHS = np.full(10, 0.1)  # the package averages the last ten accelerations


def _inertia_places(model: Any, dofs: np.ndarray) -> np.ndarray:
    """Returns where MuJoCo's sparse inertia `qM` holds the entries of a block; -1 are zeros."""
    places = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, places, np.arange(1.0, model.nM + 1))
    return places[np.ix_(dofs, dofs)].astype(np.int64) - 1


class _Gripper:
    """A gripper's command, which changes in each simulation step.

    Attributes:
        arguments: what `osc.control` needs; empty arrays if the package's code moves the gripper.
    """

    def __init__(self, robot: Any, sim: Any) -> None:
        self._model, self._ctrl = robot.gripper, sim.data._data.ctrl
        self._motors = np.array(robot._ref_joint_gripper_actuator_indexes or [], np.int64)
        ranges = sim.model._model.actuator_ctrlrange[self._motors]
        halves = 0.5 * (ranges[:, 1] + ranges[:, 0]), 0.5 * (ranges[:, 1] - ranges[:, 0])
        self._range = np.array(halves)
        self._direction = _DIRECTIONS.get(type(self._model).__name__)

    def begin(self, action: np.ndarray) -> None:
        """Takes the action of a control step."""
        self._action = action
        if self._direction:
            self._command = np.array(self._model.current_action)
            change = np.array(self._direction) * self._model.speed * np.sign(action)
            self.arguments = self._command, change, self._motors, self._range
        else:
            self.arguments = np.zeros(0), np.zeros(0), np.zeros(0, np.int64), np.zeros((2, 0))

    def move(self) -> None:
        """Sets the motors, unless `osc.control` does."""
        if not self._direction and len(self._motors):
            command = self._model.format_action(self._action)
            self._ctrl[self._motors] = self._range[0] + self._range[1] * command

    def finish(self) -> None:
        """Leaves the command where the package keeps it."""
        if self._direction:
            self._model.current_action = self._command

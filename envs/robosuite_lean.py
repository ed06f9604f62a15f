"""Stepping of robosuite 1.4 and LIBERO without what the package computes twice, the same to the bit.

A control step of the package is 25 simulation steps of 2 ms. In each it evaluates the whole forward
dynamics three times, rebuilds its limits and name look-ups, and asks every sensor whether it is due.
Here the first of them is the package's own code, which reads the action, sets the controllers' goals
and fills the robots' buffers; in the others only what the physics depends on is computed:

- `mj_forward`, called again in one state, changes nothing but the solver's warm start. So positions,
  velocities and contacts are computed once, and only the solver runs as often as in the package.
- the torque is computed with the package's compiled functions, from the same numbers in the same
  memory layout.
- observables are asked only when their clock says that something happens.

What a controller, robot or observable remembers is afterwards what the package would have left, so
both ways of stepping may take turns within an episode.
"""

from typing import Any

import mujoco
import numpy as np
from robosuite.controllers.osc import OperationalSpaceController
from robosuite.environments.base import MujocoEnv
from robosuite.environments.robot_env import RobotEnv
from robosuite.robots.single_arm import SingleArm
from robosuite.utils.control_utils import (
    nullspace_torques,
    opspace_matrices,
    orientation_error,
)

# Grippers that move with constant speed: how a positive command changes each of their numbers.
_DIRECTIONS = {
    "PandaGripper": (-1.0, 1.0),
    "RethinkGripper": (1.0, -1.0),
    "Robotiq140Gripper": (1.0, -1.0),
    "Robotiq85Gripper": (1.0,),
}


def obstacle(env: Any) -> str:
    """Says why an environment cannot be stepped here, or returns an empty string."""
    if env.viewer_get_obs or type(env)._update_observables is not MujocoEnv._update_observables:
        return "its observables are not the package's"
    if type(env).initialize_time is not MujocoEnv.initialize_time:
        return "its clock is not the package's"
    if env.sim.model._model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4:
        return "Runge-Kutta integration evaluates the dynamics between simulation steps"
    for robot in env.robots:
        if type(robot) is not SingleArm:
            return f"{robot.name} is not a single arm"
        controller = robot.controller
        if type(controller) is not OperationalSpaceController:
            return f"its controller is {controller.name}"
        if controller.interpolator_pos is not None or controller.interpolator_ori is not None:
            return "its controller interpolates between goals"
    enabled = [item for item in env._observables.values() if item.is_enabled()]
    if len({_clock(item) for item in enabled}) > 1:
        return "its sensors have different rates or delays"
    return ""


def _clock(item: Any) -> tuple[float, float, float, bool]:
    since, period = item._time_since_last_sample, item._sampling_timestep
    return since, period, item._current_delay, item._sampled


class LeanStepping:
    """Steps one environment of the package, until its next reset builds new robots."""

    def __init__(self, env: Any) -> None:
        """Takes an environment for which `obstacle` found nothing."""
        self._env = env
        self._model, self._data = env.sim.model._model, env.sim.data._data
        self._arms = [_Arm(robot, self._model, self._data) for robot in env.robots]
        self._timed = [item for item in env._observables.values() if item.is_enabled()]

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool]:
        """Advances one control step, as the package's `MujocoEnv.step`.

        Args:
            action: `float64[action_dim]` in the package's units.

        Returns:
            The observations, the reward and whether the package calls the episode over.
        """
        env = self._env
        if env.done:
            raise ValueError("executing action in terminated episode")
        env.timestep += 1
        env.sim.forward()
        env._pre_action(action, True)
        env.sim.step()
        env._update_observables()
        self._rest(action, int(env.control_timestep / env.model_timestep) - 1)
        env.cur_time += env.control_timestep
        reward, done, _ = env._post_action(action)
        return env._get_observations(), reward, done

    def _rest(self, action: np.ndarray, count: int) -> None:
        """The simulation steps after the first."""
        if not count:
            return
        model, data, arms, dt = self._model, self._data, self._arms, self._env.model_timestep
        start = 0
        for arm in arms:
            size = arm.robot.action_dim
            arm.begin(action[start : start + size])
            start += size
        since, period, delay, sampled = _clock(self._timed[0])
        for _ in range(count):
            mujoco.mj_step1(model, data)
            mujoco.mj_fwdActuation(model, data)  # with the torques of the step before
            mujoco.mj_fwdAcceleration(model, data)
            mujoco.mj_fwdConstraint(model, data)
            for number, arm in enumerate(arms):
                if number:  # it sees the torques of the arm before
                    mujoco.mj_fwdActuation(model, data)
                    mujoco.mj_fwdAcceleration(model, data)
                mujoco.mj_fwdConstraint(model, data)
                arm.control()
            mujoco.mj_step2(model, data)
            after = since + dt
            if (not sampled and period - delay >= after) or after >= period:
                self._set_clock(since)
                self._env._update_observables()
                since, period, delay, sampled = _clock(self._timed[0])
            else:
                since = after
        self._set_clock(since)
        for arm in arms:
            arm.finish()

    def _set_clock(self, since: float) -> None:
        for item in self._timed:
            item._time_since_last_sample = since


class _Arm:
    """One robot with an operational-space controller: views, buffers and the torque."""

    def __init__(self, robot: Any, model: Any, data: Any) -> None:
        self.robot, self._model, self._data = robot, model, data
        self._controller = controller = robot.controller
        self._site = robot.sim.model.site_name2id(controller.eef_name)
        self._position = data.site_xpos[self._site]
        self._rotation = data.site_xmat[self._site].reshape(3, 3)
        self._qpos, self._qvel = np.array(controller.qpos_index), np.array(controller.qvel_index)
        self._actuators = np.array(robot._ref_joint_actuator_indexes)
        self._low, self._high = (limit.copy() for limit in robot.torque_limits)
        self._jac = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        count = len(self._qvel)
        # The memory layouts that the package arrives at: with others, compiled functions round
        # differently.
        self._full = np.zeros((6, count), order="F")
        self._linear = np.zeros((3, count), order="F")
        self._angular = np.zeros((3, count), order="F")
        self._inertia = np.zeros((model.nv, model.nv))
        self._block = np.ix_(self._qvel, self._qvel)
        self._mass = np.zeros((count, count), order="F")
        self._error, self._wrench, self._velocity = np.zeros(6), np.zeros(6), np.zeros(6)
        self._gripper = _Gripper(robot) if robot.has_gripper and robot.gripper.actuators else None

    def begin(self, action: np.ndarray) -> None:
        """Takes over goals and gains, which the package has set in the first simulation step."""
        controller = self._controller
        self._goal = np.array(controller.goal_pos), np.array(controller.goal_ori)
        self._kp, self._kd = np.array(controller.kp), np.array(controller.kd)
        self._rest_pose = controller.initial_joint
        if self._gripper:
            self._gripper.begin(action[controller.control_dim :])

    def control(self) -> None:
        """Sets the controls of this simulation step."""
        data, jac = self._data, self._jac
        mujoco.mj_jacSite(self._model, data, *jac, self._site)
        velocity, error, full = self._velocity, self._error, self._full
        np.dot(jac[0], data.qvel, out=velocity[:3])
        np.dot(jac[1], data.qvel, out=velocity[3:])
        self._linear[:] = full[:3] = jac[0].take(self._qvel, 1)
        self._angular[:] = full[3:] = jac[1].take(self._qvel, 1)
        mujoco.mj_fullM(self._model, self._inertia, data.qM)
        self._mass[:] = self._inertia[self._block]
        np.subtract(self._goal[0], self._position, out=error[:3])
        error[3:] = orientation_error(self._goal[1], self._rotation)
        force = error * self._kp - velocity * self._kd
        both, linear, angular, null = opspace_matrices(
            self._mass, full, self._linear, self._angular
        )
        if self._controller.uncoupling:
            np.dot(linear, force[:3], out=self._wrench[:3])
            np.dot(angular, force[3:], out=self._wrench[3:])
        else:
            np.dot(both, force, out=self._wrench)
        self._joints = data.qpos[self._qpos], data.qvel[self._qvel]
        torques = np.dot(full.T, self._wrench) + data.qfrc_bias[self._qvel]
        torques += nullspace_torques(self._mass, null, self._rest_pose, *self._joints)
        self._torques = torques
        if self._gripper:
            self._gripper.control()
        data.ctrl[self._actuators] = np.minimum(np.maximum(torques, self._low), self._high)

    def finish(self) -> None:
        """Leaves the package's objects as its own code would have."""
        controller, velocity = self._controller, self._velocity
        controller.ee_pos = np.array(self._position)
        controller.ee_ori_mat = np.array(self._rotation)
        controller.ee_pos_vel, controller.ee_ori_vel = velocity[:3].copy(), velocity[3:].copy()
        controller.joint_pos, controller.joint_vel = self._joints
        controller.J_pos, controller.J_ori = np.array(self._linear), np.array(self._angular)
        controller.J_full, controller.mass_matrix = np.array(self._full), np.array(self._mass)
        controller.torques = self._torques
        self.robot.torques = self._data.ctrl[self._actuators]
        if self._gripper:
            self._gripper.finish()


class _Gripper:
    """A gripper's command, which moves in each simulation step."""

    def __init__(self, robot: Any) -> None:
        self._model, self._ctrl = robot.gripper, robot.sim.data._data.ctrl
        self._actuators = np.array(robot._ref_joint_gripper_actuator_indexes)
        ranges = robot.sim.model.actuator_ctrlrange[self._actuators]
        self._bias = 0.5 * (ranges[:, 1] + ranges[:, 0])
        self._weight = 0.5 * (ranges[:, 1] - ranges[:, 0])
        self._direction = _DIRECTIONS.get(type(self._model).__name__)

    def begin(self, action: np.ndarray) -> None:
        self._action, self._command = action, self._model.current_action
        if self._direction:
            self._change = np.array(self._direction) * self._model.speed * np.sign(action)

    def control(self) -> None:
        if self._direction:
            moved = self._command + self._change
            command = self._command = np.minimum(np.maximum(moved, -1.0), 1.0)
        else:
            command = self._model.format_action(self._action)
        self._ctrl[self._actuators] = self._bias + self._weight * command

    def finish(self) -> None:
        if self._direction:
            self._model.current_action = self._command

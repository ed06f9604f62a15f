"""Stepping of robosuite 1.4 and LIBERO without what the package computes twice, the same to the bit.

A control step of the package is 25 simulation steps of 2 ms. In each it evaluates the whole forward
dynamics three times, rebuilds its limits and name look-ups, and asks every sensor whether it is due.
Here each simulation step computes only what the physics depends on:

- `mj_forward`, called again in one state, changes nothing but the solver's warm start. So positions,
  velocities and contacts are computed once, and only the solver runs as often as in the package.
- the torque is computed in compiled code, with the package's own functions for its matrices, from
  the same numbers in the same memory layout.
- observables are asked only when their clock says that something happens.

The first simulation step of a control step, in which the package reads the action, sets goals and
fills the robots' buffers, runs the package's own code for that. What a controller, robot or
observable remembers is afterwards what the package would have left, so both ways of stepping may
take turns within an episode.
"""

from typing import Any

import mujoco
import numpy as np
from robosuite.controllers.osc import OperationalSpaceController
from robosuite.environments.base import MujocoEnv
from robosuite.robots.single_arm import SingleArm

from envs import osc

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
        env, start = self._env, 0
        env.timestep += 1
        for arm in self._arms:
            arm.action = action[start : start + arm.action_dim]
            start += arm.action_dim
        self._simulate(int(env.control_timestep / env.model_timestep))
        env.cur_time += env.control_timestep
        reward, done, _ = env._post_action(action)
        return env._get_observations(), reward, done

    def _simulate(self, steps: int) -> None:
        model, data, arms, dt = self._model, self._data, self._arms, self._env.model_timestep
        since, period, delay, sampled = _clock(self._timed[0])
        for number in range(steps):
            mujoco.mj_step1(model, data)
            mujoco.mj_fwdActuation(model, data)  # with the controls of the step before
            mujoco.mj_fwdAcceleration(model, data)
            mujoco.mj_fwdConstraint(model, data)
            for arm in arms:
                if arm.reads():
                    if arm is not arms[0]:  # it sees the controls of the arm before
                        mujoco.mj_fwdActuation(model, data)
                        mujoco.mj_fwdAcceleration(model, data)
                    mujoco.mj_fwdConstraint(model, data)
                if number:
                    arm.control()
                else:
                    mujoco.mj_sensorAcc(model, data)  # forces, for the robot's buffers
                    arm.start()
            mujoco.mj_step2(model, data)
            after = since + dt
            if (not sampled and period - delay >= after) or after >= period:
                self._set_clock(since)
                self._env._update_observables()
                since, period, delay, sampled = _clock(self._timed[0])
            else:
                since = after
        self._set_clock(since)
        if steps > 1:
            for arm in arms:
                arm.finish()

    def _set_clock(self, since: float) -> None:
        for item in self._timed:
            item._time_since_last_sample = since


class _Arm:
    """One robot with an operational-space controller: views of the simulation and its torques."""

    def __init__(self, robot: Any, model: Any, data: Any) -> None:
        self._robot, self._model, self._data = robot, model, data
        self._controller = controller = robot.controller
        self.action_dim, self.action = robot.action_dim, np.zeros(0)
        self._site = robot.sim.model.site_name2id(controller.eef_name)
        dofs = np.array(controller.qvel_index)
        self._jac = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        self._qvel, self._velocity = data.qvel, np.zeros(6)
        self._halves = self._velocity[:3], self._velocity[3:]
        self._state = osc.State(
            *self._jac,
            data.qM,
            data.qpos,
            data.qvel,
            data.site_xpos[self._site],
            data.site_xmat[self._site].reshape(3, 3),
            self._velocity,
            dofs,
            np.array(controller.qpos_index),
            _inertia_places(model, dofs),
        )
        self._work = work = osc.Work.make(len(dofs))
        self._linear = work.linear_mass, work.force[:3], work.wrench[:3]
        self._angular = work.angular_mass, work.force[3:], work.wrench[3:]
        self._both = work.full_mass, work.force, work.wrench
        self._to_joints = work.jacobian.T, work.wrench, work.torques
        limits = (limit.copy() for limit in robot.torque_limits)
        actuators = np.array(robot._ref_joint_actuator_indexes)
        self._motors = osc.Motors(data.qfrc_bias, data.ctrl, dofs, actuators, *limits)
        self._gripper = _Gripper(robot) if robot.has_gripper and robot.gripper.actuators else None

    def reads(self) -> bool:
        """Tells whether the controller looks at the simulation now: not right after a reset."""
        return self._controller.new_update

    def start(self) -> None:
        """The first simulation step of a control step: the package's code, given its inputs."""
        controller = self._controller
        if self.reads():
            self._measure()
            osc.read(self._state, self._work)
            self._remember()
            controller.new_update = False  # what it would read now is there
        self._robot.control(self.action, policy_step=True)
        self._goal = osc.Goal(
            np.array(controller.goal_pos, np.float64),
            np.array(controller.goal_ori, np.float64, order="C"),
            np.array(controller.kp, np.float64),
            np.array(controller.kd, np.float64),
            controller.initial_joint,
        )
        if self._gripper:
            self._gripper.start(self.action[controller.control_dim :])

    def control(self) -> None:
        """Sets the controls in the later simulation steps."""
        self._measure()
        osc.plan(self._state, self._goal, self._work)
        if self._controller.uncoupling:
            _product(*self._linear)
            _product(*self._angular)
        else:
            _product(*self._both)
        _product(*self._to_joints)
        osc.drive(self._motors, self._work)
        if self._gripper:
            self._gripper.move()

    def _measure(self) -> None:
        mujoco.mj_jacSite(self._model, self._data, *self._jac, self._site)
        _product(self._jac[0], self._qvel, self._halves[0])
        _product(self._jac[1], self._qvel, self._halves[1])

    def finish(self) -> None:
        """Leaves the package's objects as its own code would have."""
        self._remember()
        self._controller.torques = self._work.torques.copy()
        self._robot.torques = self._work.clipped.copy()
        if self._gripper:
            self._gripper.finish()

    def _remember(self) -> None:
        controller, state, work = self._controller, self._state, self._work
        controller.ee_pos, controller.ee_ori_mat = state.position.copy(), state.rotation.copy()
        controller.ee_pos_vel, controller.ee_ori_vel = (half.copy() for half in self._halves)
        controller.joint_pos, controller.joint_vel = work.joint_pos.copy(), work.joint_vel.copy()
        controller.J_pos, controller.J_ori = work.linear.copy("F"), work.angular.copy("F")
        controller.J_full, controller.mass_matrix = work.jacobian.copy("F"), work.mass.copy("F")


# Not the compiled code's product: it calls another BLAS library, which may round differently.
_product = np.dot


def _inertia_places(model: Any, dofs: np.ndarray) -> np.ndarray:
    """Returns where MuJoCo's sparse inertia `qM` holds the entries of a block; -1 are zeros."""
    places = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, places, np.arange(1.0, model.nM + 1))
    return places[np.ix_(dofs, dofs)].astype(np.int64) - 1


class _Gripper:
    """A gripper's command, which changes in each simulation step."""

    def __init__(self, robot: Any) -> None:
        self._model, self._ctrl = robot.gripper, robot.sim.data._data.ctrl
        self._actuators = np.array(robot._ref_joint_gripper_actuator_indexes)
        ranges = robot.sim.model.actuator_ctrlrange[self._actuators]
        self._bias = 0.5 * (ranges[:, 1] + ranges[:, 0])
        self._weight = 0.5 * (ranges[:, 1] - ranges[:, 0])
        self._direction = _DIRECTIONS.get(type(self._model).__name__)

    def start(self, action: np.ndarray) -> None:
        self._action, self._command = action, self._model.current_action.copy()
        if self._direction:
            self._change = np.array(self._direction) * self._model.speed * np.sign(action)

    def move(self) -> None:
        if self._direction:
            osc.slide(
                self._command, self._change, self._bias, self._weight, self._actuators, self._ctrl
            )
        else:
            command = self._model.format_action(self._action)
            self._ctrl[self._actuators] = self._bias + self._weight * command

    def finish(self) -> None:
        if self._direction:
            self._model.current_action = self._command.copy()

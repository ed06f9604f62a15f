"""The operational-space controller (Khatib 1987) of robosuite 1.4, compiled.

Same numbers as `robosuite.controllers.osc`, to the bit: the matrices come from the package's own
compiled functions, called here with arrays of the same layout, and the rest repeats its arithmetic
in the same order. Products of a matrix and a vector are left to the caller, because the package
computes them with numpy's BLAS.

Compiling takes some seconds once; the result is cached where numba can write.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from robosuite.utils.control_utils import nullspace_torques, opspace_matrices, orientation_error


class State(NamedTuple):
    """What is read from the simulation; views of its memory."""

    jac_linear: np.ndarray  # [3, nv], of the gripper's site
    jac_angular: np.ndarray  # [3, nv]
    inertia: np.ndarray  # [nM], MuJoCo's sparse qM
    qpos: np.ndarray
    qvel: np.ndarray
    position: np.ndarray  # [3], m
    rotation: np.ndarray  # [3, 3]
    velocity: np.ndarray  # [6], m/s and rad/s
    dofs: np.ndarray  # [n], the arm's joints in qvel
    places: np.ndarray  # [n], the same in qpos
    inertia_places: np.ndarray  # [n, n], where qM has the arm's block; -1 for zero


class Goal(NamedTuple):
    """What the controller aims at, and its gains."""

    position: np.ndarray  # [3]
    rotation: np.ndarray  # [3, 3]
    kp: np.ndarray  # [6]
    kd: np.ndarray  # [6]
    joints: np.ndarray  # [n], the posture that the null space is pulled to


class Work(NamedTuple):
    """Results; matrices in Fortran order, as the package's come to be."""

    jacobian: np.ndarray  # [6, n]
    linear: np.ndarray  # [3, n]
    angular: np.ndarray  # [3, n]
    mass: np.ndarray  # [n, n]
    joint_pos: np.ndarray  # [n]
    joint_vel: np.ndarray  # [n]
    force: np.ndarray  # [6], desired acceleration of the gripper
    wrench: np.ndarray  # [6], made by the caller
    full_mass: np.ndarray  # [6, 6]
    linear_mass: np.ndarray  # [3, 3]
    angular_mass: np.ndarray  # [3, 3]
    null: np.ndarray  # [n], torques towards the posture
    torques: np.ndarray  # [n]
    clipped: np.ndarray  # [n]

    @classmethod
    def make(cls, count: int) -> "Work":
        """Returns zeros for an arm of `count` joints."""
        sides = {"n": count, "6": 6, "3": 3}
        shapes = "6n 3n 3n nn n n 6 6 66 33 33 n n n".split()
        return cls(*(np.zeros([sides[side] for side in shape], order="F") for shape in shapes))


class Motors(NamedTuple):
    """Where torques go; the first two are views of the simulation."""

    bias: np.ndarray  # [nv], gravity and Coriolis forces
    ctrl: np.ndarray
    dofs: np.ndarray
    actuators: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _compiled(function: Any) -> Any:
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # there is no place to write a cache
        return numba.njit(function)


@_compiled
def read(state: State, work: Work) -> None:
    """Gathers the arm's part of the simulation's state."""
    for i, dof in enumerate(state.dofs):
        for row in range(3):
            work.jacobian[row, i] = work.linear[row, i] = state.jac_linear[row, dof]
            work.jacobian[row + 3, i] = work.angular[row, i] = state.jac_angular[row, dof]
        work.joint_pos[i] = state.qpos[state.places[i]]
        work.joint_vel[i] = state.qvel[dof]
        for j in range(len(state.dofs)):
            place = state.inertia_places[i, j]
            work.mass[i, j] = state.inertia[place] if place >= 0 else 0.0


@_compiled
def plan(state: State, goal: Goal, work: Work) -> None:
    """Computes desired acceleration, operational-space masses and null-space torques."""
    read(state, work)
    turn = orientation_error(goal.rotation, state.rotation)
    for i in range(6):
        error = goal.position[i] - state.position[i] if i < 3 else turn[i - 3]
        work.force[i] = error * goal.kp[i] - state.velocity[i] * goal.kd[i]
    full, linear, angular, null = opspace_matrices(
        work.mass, work.jacobian, work.linear, work.angular
    )
    work.full_mass[:], work.linear_mass[:], work.angular_mass[:] = full, linear, angular
    work.null[:] = nullspace_torques(work.mass, null, goal.joints, work.joint_pos, work.joint_vel)


@_compiled
def drive(motors: Motors, work: Work) -> None:
    """Adds gravity compensation and null-space torques, and sets the arm's motors."""
    for i, dof in enumerate(motors.dofs):
        torque = work.torques[i] + motors.bias[dof]
        work.torques[i] = torque = torque + work.null[i]
        work.clipped[i] = min(max(torque, motors.low[i]), motors.high[i])
        motors.ctrl[motors.actuators[i]] = work.clipped[i]


@_compiled
def slide(
    command: np.ndarray,
    change: np.ndarray,
    bias: np.ndarray,
    weight: np.ndarray,
    actuators: np.ndarray,
    ctrl: np.ndarray,
) -> None:
    """Moves a gripper's command and sets its motors."""
    for i in range(len(command)):
        command[i] = min(max(command[i] + change[i], -1.0), 1.0)
    for i, actuator in enumerate(actuators):
        ctrl[actuator] = bias[i] + weight[i] * command[i if len(command) > 1 else 0]

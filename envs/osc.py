"""The operational-space controller (Khatib 1987) of robosuite 1.4, compiled.

The same numbers as `robosuite.controllers.osc`, to the bit: the matrices come from the package's
own compiled functions, called with arrays of the same layout, and the rest repeats its arithmetic
in its order. Products of a matrix and a vector are left to the caller, because the package has them
from numpy's BLAS, which may round otherwise than the one that compiled code calls.

`n` is the number of the arm's joints. Matrices that are not views of the simulation are in Fortran
order, as the package's come to be. Arguments are plain arrays, which are fastest to pass.
"""

from typing import Any

import numba
import numpy as np
from robosuite.utils.control_utils import nullspace_torques, opspace_matrices, orientation_error

Array = np.ndarray


def _compiled(function: Any) -> Any:
    """Compiles at the first call, which takes seconds, and keeps the result where numba can."""
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # no place to write a cache
        return numba.njit(function)


@_compiled
def plan(
    jac_linear: Array,
    jac_angular: Array,
    inertia: Array,
    inertia_places: Array,
    qpos: Array,
    qvel: Array,
    joint_places: Array,
    dofs: Array,
    position: Array,
    rotation: Array,
    velocity: Array,
    goal_position: Array,
    goal_rotation: Array,
    gains: Array,
    posture: Array,
    joints: Array,
    jacobian: Array,
    linear: Array,
    angular: Array,
    mass: Array,
    force: Array,
    full_mass: Array,
    linear_mass: Array,
    angular_mass: Array,
    null: Array,
) -> None:
    """Computes what the torques are made of.

    Args:
        jac_linear: `[3, nv]`, Jacobian of the gripper's position.
        jac_angular: `[3, nv]`, of its orientation.
        inertia: `[nM]`, MuJoCo's sparse inertia matrix.
        inertia_places: `int[n, n]`, where it holds the arm's block; -1 for zero.
        qpos: of the simulation.
        qvel: of the simulation.
        joint_places: `int[n]`, the arm's joints in `qpos`.
        dofs: `int[n]`, the same in `qvel`.
        position: `[3]` of the gripper, m.
        rotation: `[3, 3]` of the gripper.
        velocity: `[6]` of the gripper, m/s and rad/s.
        goal_position: `[3]`, m.
        goal_rotation: `[3, 3]`.
        gains: `[2, 6]`, stiffness and damping.
        posture: `[n]`, joint angles to which the null space is pulled.
        joints: `[2, n]`, filled with the joints' positions and velocities.
        jacobian: `[6, n]`, filled with the arm's columns.
        linear: `[3, n]`, its upper half.
        angular: `[3, n]`, its lower half.
        mass: `[n, n]`, filled with the arm's inertia.
        force: `[6]`, filled with the desired acceleration of the gripper.
        full_mass: `[6, 6]`, filled with its operational-space inertia.
        linear_mass: `[3, 3]`, filled with that of the position alone.
        angular_mass: `[3, 3]`, filled with that of the orientation alone.
        null: `[n]`, filled with the torques towards the posture.
    """
    for i, dof in enumerate(dofs):
        for row in range(3):
            jacobian[row, i] = linear[row, i] = jac_linear[row, dof]
            jacobian[row + 3, i] = angular[row, i] = jac_angular[row, dof]
        joints[0, i], joints[1, i] = qpos[joint_places[i]], qvel[dof]
        for j in range(len(dofs)):
            place = inertia_places[i, j]
            mass[i, j] = inertia[place] if place >= 0 else 0.0
    turn = orientation_error(goal_rotation, rotation)
    for i in range(6):
        error = goal_position[i] - position[i] if i < 3 else turn[i - 3]
        force[i] = error * gains[0, i] - velocity[i] * gains[1, i]
    full, upper, lower, projection = opspace_matrices(mass, jacobian, linear, angular)
    full_mass[:], linear_mass[:], angular_mass[:] = full, upper, lower
    null[:] = nullspace_torques(mass, projection, posture, joints[0], joints[1])


@_compiled
def drive(
    ctrl: Array,
    torques: Array,
    bias: Array,
    null: Array,
    dofs: Array,
    low: Array,
    high: Array,
    motors: Array,
    command: Array,
    change: Array,
    centre: Array,
    reach: Array,
    fingers: Array,
) -> None:
    """Sets the motors of an arm and its gripper.

    Args:
        ctrl: of the simulation.
        torques: `[n]`, to which gravity compensation and null-space torques are added.
        bias: `[nv]`, the simulation's gravity and Coriolis forces.
        null: `[n]`, from `plan`.
        dofs: `int[n]`, the arm's joints in `bias`.
        low: `[n]`, limits of the motors.
        high: `[n]`, limits of the motors.
        motors: `int[n]`, the arm's motors in `ctrl`.
        command: `[g]`, the gripper's command in [-1, 1], which moves by `change`.
        change: `[g]`.
        centre: `[f]`, of the fingers' control ranges.
        reach: `[f]`, half their length.
        fingers: `int[f]`, the fingers' motors in `ctrl`. One command may drive all.
    """
    for i, dof in enumerate(dofs):
        torques[i] += bias[dof]
        torques[i] += null[i]
        ctrl[motors[i]] = min(max(torques[i], low[i]), high[i])
    for i in range(len(command)):
        command[i] = min(max(command[i] + change[i], -1.0), 1.0)
    for i, finger in enumerate(fingers):
        ctrl[finger] = centre[i] + reach[i] * command[i if len(command) > 1 else 0]

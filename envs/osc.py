"""The operational-space controller (Khatib 1987) of robosuite 1.4 in one compiled function.

The same numbers as `robosuite.controllers.osc`, to the bit: the matrices come from the package's
own compiled functions, called with arrays of the same layout, and the rest repeats its arithmetic
in its order. One condition is not in our hands: the package multiplies with numpy's BLAS what is
multiplied here with the one that numba calls. `same_products` tests whether they round alike.
"""

import functools
from typing import Any

import numba
import numpy as np
from robosuite.utils.control_utils import nullspace_torques, opspace_matrices, orientation_error

Array = np.ndarray


@functools.cache
def same_products(nv: int) -> bool:
    """Tells whether numpy's and numba's BLAS give the same bits for the products made here."""
    rng = np.random.default_rng(0)
    for rows, columns, order in ((3, nv, "C"), (3, 3, "F"), (6, 6, "F"), (7, 6, "C"), (6, 6, "C")):
        for _ in range(50):
            matrix = np.array(rng.standard_normal((rows, columns)), order=order)
            vector, out = rng.standard_normal(columns), np.zeros(rows)
            _product(matrix, vector, out)
            if out.tobytes() != matrix.dot(vector).tobytes():
                return False
    return True


def _compiled(function: Any) -> Any:
    """Compiles at the first call, which takes seconds, and keeps the result where numba can."""
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # no place to write a cache
        return numba.njit(function)


@_compiled
def _product(matrix: Array, vector: Array, out: Array) -> None:
    np.dot(matrix, vector, out)


@_compiled
def control(
    jac_linear: Array,
    jac_angular: Array,
    inertia: Array,
    qpos: Array,
    qvel: Array,
    bias: Array,
    position: Array,
    rotation: Array,
    ctrl: Array,
    joint_places: Array,
    dofs: Array,
    inertia_places: Array,
    motors: Array,
    limits: Array,
    goal_position: Array,
    goal_rotation: Array,
    gains: Array,
    posture: Array,
    uncoupled: bool,
    command: Array,
    change: Array,
    fingers: Array,
    finger_range: Array,
    velocity: Array,
    joints: Array,
    jacobian: Array,
    mass: Array,
    torques: Array,
) -> None:
    """Sets the motors of an arm with `n` joints and of its gripper, for one simulation step.

    Args:
        jac_linear: `[3, nv]`, Jacobian of the gripper's position.
        jac_angular: `[3, nv]`, of its orientation.
        inertia: `[nM]`, MuJoCo's sparse inertia matrix `qM`.
        qpos: of the simulation.
        qvel: of the simulation.
        bias: `[nv]`, the simulation's gravity and Coriolis forces.
        position: `[3]` of the gripper, m.
        rotation: `[3, 3]` of the gripper.
        ctrl: of the simulation; this is written.
        joint_places: `int[n]`, the arm's joints in `qpos`.
        dofs: `int[n]`, the same in `qvel`.
        inertia_places: `int[n, n]`, where `inertia` has the arm's block; -1 for zero.
        motors: `int[n]`, the arm's motors in `ctrl`.
        limits: `[2, n]`, their lowest and highest torque.
        goal_position: `[3]`, m.
        goal_rotation: `[3, 3]`.
        gains: `[2, 6]`, stiffness and damping.
        posture: `[n]`, joint angles to which the null space is pulled.
        uncoupled: whether forces and torques are computed apart.
        command: `[g]`, the gripper's command in [-1, 1]; moved by `change`.
        change: `[g]`.
        fingers: `int[f]`, the gripper's motors in `ctrl`. One command may drive all.
        finger_range: `[2, f]`, centre and half length of their control ranges.
        velocity: `[6]`, filled with the gripper's, m/s and rad/s.
        joints: `[2, n]`, filled with the joints' positions and velocities.
        jacobian: `[6, n]` in Fortran order, filled with the arm's columns.
        mass: `[n, n]` in Fortran order, filled with the arm's inertia.
        torques: `[n]`, filled with the torques before the limits.
    """
    np.dot(jac_linear, qvel, velocity[:3])
    np.dot(jac_angular, qvel, velocity[3:])
    for i, dof in enumerate(dofs):
        joints[0, i], joints[1, i] = qpos[joint_places[i]], qvel[dof]
        jacobian[:3, i], jacobian[3:, i] = jac_linear[:, dof], jac_angular[:, dof]
        for j in range(len(dofs)):
            place = inertia_places[i, j]
            mass[i, j] = inertia[place] if place >= 0 else 0.0

    turn = orientation_error(goal_rotation, rotation)
    force, wrench = np.empty(6), np.empty(6)
    for i in range(6):
        error = goal_position[i] - position[i] if i < 3 else turn[i - 3]
        force[i] = error * gains[0, i] - velocity[i] * gains[1, i]
    linear, angular = jacobian[:3].T.copy().T, jacobian[3:].T.copy().T  # in Fortran order
    inertias = opspace_matrices(mass, jacobian, linear, angular)
    if uncoupled:
        np.dot(inertias[1], force[:3], wrench[:3])
        np.dot(inertias[2], force[3:], wrench[3:])
    else:
        np.dot(inertias[0], force, wrench)
    np.dot(jacobian.T, wrench, torques)
    null = nullspace_torques(mass, inertias[3], posture, joints[0], joints[1])

    for i, dof in enumerate(dofs):
        torques[i] += bias[dof]
        torques[i] += null[i]
        ctrl[motors[i]] = min(max(torques[i], limits[0, i]), limits[1, i])
    for i in range(len(command)):
        command[i] = min(max(command[i] + change[i], -1.0), 1.0)
    for i, finger in enumerate(fingers):
        moved = command[i if len(command) > 1 else 0]
        ctrl[finger] = finger_range[0, i] + finger_range[1, i] * moved

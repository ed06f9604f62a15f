"""What robosuite's controller makes of an action, as a path of joint positions.

An operational-space controller (Khatib 1987) turns a goal into torques, an arm behind the hardware
contract takes joint positions. The package's own controller says where the goal is: 0.05 m and
0.5 rad per unit of the action from the present pose, the rotation kept where none is asked for. To
it lead the joint positions

    g = q + Jbar e + k (1 - Jbar J) (q0 - q)        Jbar = M^-1 J^T (J M^-1 J^T)^-1

with q the arm's joints, e from its pose to the goal, J and M its Jacobian and inertia, and q0 the
joints it began with, to which the elbow is pulled. From where the set point is, it goes there as
the controller's critically damped arm does, x'' = w^2 (g - x) - 2 w x' with w^2 its stiffness. So
in free space the arm is about where it is in training; where something holds it up, the set point
comes to rest at g, no further ahead of the arm than the package's goal, and the arm, of the same
stiffness M w^2, pushes as in training.

(The package computes its torques for position and rotation apart, as if they were not coupled, and
corrects what comes of that every 2 ms. An arm whose joints are led has no need to.)

The simulation's arm may accelerate as no real one can. The path keeps to limits from the beginning,
for a set point that runs ahead of what the envelope sends would pull it the wrong way later.
"""

from typing import Any

import numpy as np

# The package pulls with 10 / s^2 and a damping of 2 sqrt(10) / s, so its elbow returns with a time
# constant of 0.63 s; with the damping 2 w and k w^2 as stiffness it does so for
_POSTURE = 0.26
_GIVE_OR_TAKE = np.linspace(-2.0, 2.0, 41)


class OscMotion:
    """The path of the set point, from one action to the next."""

    def __init__(
        self,
        controller: Any,
        joints: np.ndarray,
        *,
        velocity: np.ndarray,
        acceleration: np.ndarray,
        period: float,
    ) -> None:
        """Begins at rest.

        Args:
            controller: the package's, of one arm under OSC_POSE; it reads its own simulation.
            joints: rad, [n].
            velocity: rad/s, [n], largest of the path.
            acceleration: rad/s^2, [n].
            period: s between points of the path.
        """
        self._controller, self._period = controller, period
        self._most = np.asarray(velocity), np.asarray(acceleration)
        self._path = np.asarray(joints, float)[None]
        self._speeds = np.zeros_like(self._path)

    def correct(self, point: float, joints: np.ndarray, velocity: np.ndarray) -> None:
        """Takes note that the set point was not led along the path.

        Args:
            point: of the path for which this was sent, give or take two: two processes' beats are
                not the same. The nearest to what was sent is taken.
            joints: rad, [n], what was sent.
            velocity: rad/s, [n].
        """
        points = np.clip(point + _GIVE_OR_TAKE, 0.0, len(self._path) - 1.0)
        before = np.minimum(points.astype(int), max(len(self._path) - 2, 0))
        share = (points - before)[:, None]
        after = np.minimum(before + 1, len(self._path) - 1)
        on_path = (1.0 - share) * self._path[before] + share * self._path[after]
        best = int(np.abs(on_path - joints).sum(1).argmin())
        speed = (1.0 - share[best]) * self._speeds[before[best]]
        change = velocity - speed - share[best] * self._speeds[after[best]]
        since = self._period * (np.arange(len(self._path)) - points[best])[:, None]
        self._path = self._path + (joints - on_path[best]) + since * change
        self._speeds = self._speeds + change

    def follow(self, action: np.ndarray, begin: int, points: int) -> np.ndarray:
        """The path to where an action leads from the simulation's present pose.

        Args:
            action: [6], in [-1, 1]: 0.05 m and 0.5 rad each.
            begin: at which point of the path before it begins.
            points: of the path.

        Returns:
            Joint positions in rad, [points, n], a period apart; the first is that of the old path.
        """
        goal, w = self._goal(action), float(np.sqrt(self._controller.kp[0]))
        begin = min(begin, len(self._path) - 1)
        at, speed = self._path[begin], self._speeds[begin]
        path, speeds = [at], [speed]
        fastest, change = self._most[0], self._most[1] * self._period
        for _ in range(points - 1):
            # the mean acceleration of a period in which that of the formula decays
            push = (w * w * (goal - at) - 2.0 * w * speed) * self._period
            push = push / (1.0 + w * self._period) ** 2
            speed = speed + np.clip(push, -change, change)
            speed = np.clip(speed, -fastest, fastest)
            at = at + self._period * speed
            path.append(at)
            speeds.append(speed)
        self._path, self._speeds = np.stack(path), np.stack(speeds)
        return self._path

    def _goal(self, action: np.ndarray) -> np.ndarray:
        """The joint positions g of the formula."""
        controller = self._controller
        controller.update(force=True)
        controller.set_goal(action)
        turn = 0.5 * np.cross(controller.ee_ori_mat, controller.goal_ori, axis=0).sum(1)
        way = np.concatenate([controller.goal_pos - controller.ee_pos, turn])
        jacobian, inverse = controller.J_full, np.linalg.inv(controller.mass_matrix)
        back = inverse @ jacobian.T @ np.linalg.pinv(jacobian @ inverse @ jacobian.T)
        home = controller.initial_joint - controller.joint_pos
        return controller.joint_pos + back @ way + _POSTURE * (home - back @ (jacobian @ home))

"""What robosuite's controller makes of an action, as a path of joint positions.

An operational-space controller turns a goal into torques, an arm behind the hardware contract takes
joint positions. Let tau be the torques that the package's own controller gives in the present
state. An arm that follows set points with stiffness M w^2 and damping 2 M w gives the same torques
at the joint positions

    g = q + (M^-1 (tau - c) + 2 w v) / w^2

(inertia M, gravity and Coriolis forces c), so these are the goal in joint space: it has the
package's scales, its decoupling of position and rotation, its rule for a rotation that is not asked
for, and its pull of the elbow to where it began. From where the set point is, it goes there as the
arm itself would, x'' = w^2 (g - x) - 2 w x'. In free space the arm is then where it is in training;
where something holds it up, the set point comes to rest at g, no further ahead of the arm than the
package's goal, and the arm pushes as in training.

The simulation's arm may accelerate as no real one can. The path keeps to limits from the beginning,
for a set point that runs ahead of what the envelope sends would pull it the wrong way later.
"""

from typing import Any

import numpy as np

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
        controller, w = self._controller, float(np.sqrt(self._controller.kp[0]))
        controller.update(force=True)
        controller.set_goal(action)
        force = controller.run_controller() - controller.torque_compensation
        change = np.linalg.solve(controller.mass_matrix, force) + 2.0 * w * controller.joint_vel
        return controller.joint_pos + change / w**2

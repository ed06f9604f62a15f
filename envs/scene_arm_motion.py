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
"""

from typing import Any

import numpy as np


class OscMotion:
    """The path of the set point, from one action to the next."""

    def __init__(self, controller: Any, joints: np.ndarray, now: float) -> None:
        """Begins at rest.

        Args:
            controller: the package's, of one arm under OSC_POSE; it reads its own simulation.
            joints: rad, [n].
            now: s.
        """
        self._controller = controller
        self._w = float(np.sqrt(controller.kp[0]))
        controller.update(force=True)
        controller.reset_goal()
        self._goal = np.array(joints, float)
        self.go_on_from(joints, np.zeros(len(joints)), now)

    def go_on_from(self, joints: np.ndarray, velocity: np.ndarray, now: float) -> None:
        """Continues from joint positions, rad, and velocities, rad/s, both [n]."""
        self._since = now
        self._off = np.asarray(joints, float) - self._goal
        self._rise = np.asarray(velocity, float) + self._w * self._off

    def aim(self, action: np.ndarray, now: float) -> None:
        """Goes on to where an action leads.

        Args:
            action: [6], in [-1, 1]: 0.05 m and 0.5 rad each, from the simulation's present pose.
            now: s, when it begins.
        """
        joints, velocity = self.at(np.array([now]))[0], self._velocity(now)
        controller, w = self._controller, self._w
        controller.update(force=True)
        controller.set_goal(action)
        force = controller.run_controller() - controller.torque_compensation
        change = np.linalg.solve(controller.mass_matrix, force) + 2.0 * w * controller.joint_vel
        self._goal = controller.joint_pos + change / w**2
        self.go_on_from(joints, velocity, now)

    def at(self, moments: np.ndarray) -> np.ndarray:
        """Joint positions in rad, [t, n], at moments in s, [t]."""
        t = np.maximum(moments - self._since, 0.0)[:, None]
        return self._goal + (self._off + t * self._rise) * np.exp(-self._w * t)

    def _velocity(self, now: float) -> np.ndarray:
        t = max(now - self._since, 0.0)
        rise = self._rise - self._w * (self._off + t * self._rise)
        return rise * np.exp(-self._w * t)

"""Where the tool is, for many joint positions at once, from a Denavit-Hartenberg table.

The table (Craig's modified convention) lies in the limits file of an arm, so that a robot's own
computer needs no simulator. Tests hold it against the MuJoCo model of the twin.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class Chain:
    """An arm's joints from its base to its tool.

    Attributes:
        reach: [n], m, at most how far the tool moves per radian of each joint.
    """

    def __init__(
        self,
        a: Sequence[float],
        d: Sequence[float],
        alpha: Sequence[float],
        tool: Mapping[str, Any],
    ) -> None:
        """Takes the table.

        Args:
            a: m, [n], along the previous x axis.
            d: m, [n], along the joint's own axis.
            alpha: rad, [n], about the previous x axis.
            tool: `position` [3] in m and `yaw` in rad of the tool in the last joint's frame.
        """
        a, d = np.asarray(a, float), np.asarray(d, float)
        self._cos, self._sin = np.cos(alpha), np.sin(alpha)
        self._offsets = np.stack([a, -self._sin * d, self._cos * d], axis=1)
        self._tool = np.asarray(tool["position"], float)
        c, s = math.cos(tool["yaw"]), math.sin(tool["yaw"])
        self._turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        steps = np.append(np.hypot(a, d)[1:], np.linalg.norm(self._tool))
        self.reach = np.cumsum(steps[::-1])[::-1]

    def tool(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position and rotation of the tool.

        Args:
            joints: rad, [..., n].

        Returns:
            m, [..., 3], and rotation matrices [..., 3, 3], in the frame of the arm's base.
        """
        joints = np.asarray(joints, float)
        c, s = np.cos(joints), np.sin(joints)
        frames = np.zeros((*joints.shape, 3, 3))  # of each joint in the one before
        frames[..., 0, 0], frames[..., 0, 1] = c, -s
        frames[..., 1, 0], frames[..., 1, 1] = s * self._cos, c * self._cos
        frames[..., 2, 0], frames[..., 2, 1] = s * self._sin, c * self._sin
        frames[..., 1, 2], frames[..., 2, 2] = -self._sin, self._cos
        origin, rotation = self._offsets[0], frames[..., 0, :, :]
        for i in range(1, joints.shape[-1]):
            origin = origin + rotation @ self._offsets[i]
            rotation = rotation @ frames[..., i, :, :]
        return origin + rotation @ self._tool, rotation @ self._turn

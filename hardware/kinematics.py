"""Where the tool is, for many joint positions at once, from a Denavit-Hartenberg table.

The table (Craig's modified convention) lies in the limits file of an arm, so that a robot's own
computer needs no simulator. Tests hold it against the MuJoCo model of the twin.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Point = tuple[float, float, float]


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
        self._links = np.column_stack([self._offsets, self._cos, self._sin]).tolist()

    def point(self, joints: Sequence[float]) -> tuple[Point, Point]:
        """Position in m and direction of the tool, as `tool` has them.

        For one position at a time; for so few numbers Python is several times as fast as numpy.
        """
        px = py = pz = 0.0
        xx, xy, xz, yx, yy, yz, zx, zy, zz = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0  # axes
        for angle, (a, b, d, cos, sin) in zip(joints, self._links, strict=True):
            px, py, pz = (
                px + a * xx + b * yx + d * zx,
                py + a * xy + b * yy + d * zy,
                pz + a * xz + b * yz + d * zz,
            )
            c, s = math.cos(angle), math.sin(angle)
            ux, uy, uz = cos * yx + sin * zx, cos * yy + sin * zy, cos * yz + sin * zz
            zx, zy, zz = cos * zx - sin * yx, cos * zy - sin * yy, cos * zz - sin * yz
            yx, yy, yz = c * ux - s * xx, c * uy - s * xy, c * uz - s * xz
            xx, xy, xz = c * xx + s * ux, c * xy + s * uy, c * xz + s * uz
        a, b, d = self._tool.tolist()
        position = px + a * xx + b * yx + d * zx, py + a * xy + b * yy + d * zy
        return (*position, pz + a * xz + b * yz + d * zz), (zx, zy, zz)

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

    def jacobian(self, joints: np.ndarray) -> np.ndarray:
        """How the tool moves with each joint: [6, n], m/rad above rad/rad, in the base's axes."""
        step = 1e-6
        positions, rotations = self.tool(
            joints + step * np.vstack([0 * joints, np.eye(len(joints))])
        )
        moved = (positions[1:] - positions[0]) / step
        turned = np.stack([turn(rotations[0], end) for end in rotations[1:]]) / step
        return np.concatenate([moved, turned], axis=1).T

    def solve(
        self,
        position: np.ndarray,
        rotation: np.ndarray,
        start: np.ndarray,
        lower: np.ndarray,
        upper: np.ndarray,
        *,
        iterations: int = 20,
        damping: float = 0.02,
    ) -> tuple[np.ndarray, float]:
        """Joint positions whose tool is nearest to a pose, by damped least squares.

        Args:
            position: m, [3].
            rotation: [3, 3].
            start: rad, [n], where the search begins; the nearest solution to it is found.
            lower: rad, [n].
            upper: rad, [n].
            iterations: at most.
            damping: larger is steadier near singular positions, and slower.

        Returns:
            The joints, inside the limits, and how far the tool is off: m plus rad.
        """
        joints = np.clip(start, lower, upper)
        off = np.inf
        for _ in range(iterations):
            at, facing = self.tool(joints)
            error = np.concatenate([position - at, turn(facing, rotation)])
            off = float(np.linalg.norm(error[:3]) + np.linalg.norm(error[3:]))
            if off < 1e-6:
                break
            jacobian = self.jacobian(joints)
            square = jacobian @ jacobian.T + damping**2 * min(off, 1.0) * np.eye(6)
            joints = np.clip(joints + jacobian.T @ np.linalg.solve(square, error), lower, upper)
        return joints, off


def turn(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Axis times angle, rad in the outer axes, that turns one rotation into another, [3]."""
    relative = end @ start.T
    axis = 0.5 * np.array(
        [
            relative[2, 1] - relative[1, 2],
            relative[0, 2] - relative[2, 0],
            relative[1, 0] - relative[0, 1],
        ]
    )
    sine = float(np.linalg.norm(axis))
    angle = math.atan2(sine, (float(np.trace(relative)) - 1.0) / 2.0)
    if sine > 1e-9:
        return axis * (angle / sine)
    if angle < 1.0:
        return axis
    # half a turn: relative = 2 axis axis^T - 1; the largest column has the signs
    column = (
        relative[:, int(np.argmax(np.diag(relative)))]
        + np.eye(3)[int(np.argmax(np.diag(relative)))]
    )
    return column / np.linalg.norm(column) * angle


def rotation_of(vector: np.ndarray) -> np.ndarray:
    """The rotation [3, 3] about axis times angle, rad, [3]."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = np.asarray(vector, float) / angle
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + math.sin(angle) * cross + (1.0 - math.cos(angle)) * (cross @ cross)

"""What a policy's actions mean to an arm: from actions in [-1, 1] to joint positions in rad.

    joint position    a in [-1, 1] over each joint's allowed range
    joint delta       a times `joint_step`, added to where the joints were to be
    tool delta        3 numbers times `move` and 3 times `turn`, as robosuite's OSC_POSE has them:
                      a change of the tool's pose in the base's axes

A gripper takes the last number: as robosuite's, -1 opens and 1 closes.
"""

from dataclasses import dataclass

import numpy as np

from hardware.kinematics import rotation_of
from hardware.limits import Limits

MODES = ("joint position", "joint delta", "tool delta")


@dataclass(frozen=True)
class ActionSpace:
    """How to read a policy's actions.

    Attributes:
        mode: one of `MODES`.
        joint_step: rad of a joint delta of 1.
        move: m of a tool delta of 1.
        turn: rad of a tool delta of 1.
    """

    mode: str = "tool delta"
    joint_step: float = 0.05
    move: float = 0.05
    turn: float = 0.5

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode={self.mode!r}; allowed are {MODES}")

    def width(self, limits: Limits) -> int:
        """How many numbers an action has."""
        arm = 6 if self.mode == "tool delta" else len(limits.joints)
        return arm + (limits.gripper is not None)

    def joints(self, actions: np.ndarray, start: np.ndarray, limits: Limits) -> np.ndarray:
        """Turns a chunk of actions into one of joint positions.

        Args:
            actions: [H, width], clipped to [-1, 1].
            start: rad, [n], where the arm is to be when the first action begins.
            limits: of the arm.

        Returns:
            [H, n], and one more column, the gripper's opening in m, if there is a gripper.

        Raises:
            ValueError: the actions have another width or are not finite.
        """
        actions = np.asarray(actions, float)
        if actions.ndim != 2 or actions.shape[1] != self.width(limits):
            raise ValueError(
                f"{self.mode} actions for this arm are [H, {self.width(limits)}], "
                f"got {actions.shape}"
            )
        if not np.isfinite(actions).all():
            raise ValueError("actions are not finite")
        actions = np.clip(actions, -1.0, 1.0)
        arm = actions[:, :-1] if limits.gripper is not None else actions
        found = self._arm(arm, np.asarray(start, float), limits)
        if limits.gripper is None:
            return found
        opening = limits.gripper.opening * (1.0 - actions[:, -1:]) / 2.0
        return np.concatenate([found, opening], axis=1)

    def _arm(self, arm: np.ndarray, start: np.ndarray, limits: Limits) -> np.ndarray:
        lower, upper = limits.lower, limits.upper
        if self.mode == "joint position":
            return lower + (arm + 1.0) / 2.0 * (upper - lower)
        if self.mode == "joint delta":
            found, at = [], start
            for delta in arm:
                at = np.clip(at + self.joint_step * delta, lower, upper)
                found.append(at)
            return np.stack(found)
        found, at = [], start
        position, rotation = limits.chain.tool(start)
        for delta in arm:
            position = position + self.move * delta[:3]
            rotation = rotation_of(self.turn * delta[3:6]) @ rotation
            at, off = limits.chain.solve(position, rotation, at, lower, upper)
            if off > 0.05:  # out of reach: go on from where the arm can be
                position, rotation = limits.chain.tool(at)
            found.append(at)
        return np.stack(found)

"""A robot that is where it was sent: for trying out everything else (ros2_control mocks so)."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from hardware.errors import LinkLost
from hardware.types import RobotState, Spec


class MirrorDriver:
    """Positions sent are the positions read; nothing has weight.

    Attributes:
        state: what `read` returns, apart from its stamp; tests change it.
        written: every step that was sent: stamp and position.
    """

    def __init__(
        self,
        spec: Spec,
        position: np.ndarray | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins at rest.

        Args:
            spec: which robot to be.
            position: rad, [n]; by default the middle of each joint's range.
            clock: s, of the stamps.
        """
        self.spec, self._clock = spec, clock
        middle = [(joint.lower + joint.upper) / 2 for joint in spec.joints]
        start = np.array(middle if position is None else position, float)
        self.state = RobotState(clock(), start, np.zeros_like(start), np.zeros_like(start))
        self.written: list[tuple[float, np.ndarray]] = []
        self._linked = False

    def connect(self) -> None:
        """Links up."""
        self._linked = True

    def activate(self) -> None:
        """Does nothing: it has no brakes."""

    def deactivate(self) -> None:
        """Comes to rest."""
        self._rest()

    def read(self) -> RobotState:
        """Returns where it was sent."""
        self._check()
        fields = {**vars(self.state), "stamp": self._clock()}
        self.state = RobotState(**fields)
        return self.state

    def write(self, position: np.ndarray, velocity: np.ndarray, gripper: float | None) -> None:
        """Goes there at once."""
        self._check()
        self.written.append((self._clock(), np.array(position)))
        opening = self.state.gripper if gripper is None else gripper
        self.state = RobotState(
            self._clock(),
            np.array(position),
            np.array(velocity),
            self.state.effort,
            opening,
            self.state.wrench,
        )

    def halt(self) -> None:
        """Comes to rest."""
        self._rest()

    def close(self) -> None:
        """Ends the link."""
        self._linked = False

    def describe(self) -> dict[str, Any]:
        """Returns its kind."""
        return {"driver": "mirror"}

    def _rest(self) -> None:
        fields = {**vars(self.state), "velocity": np.zeros_like(self.state.position)}
        self.state = RobotState(**fields)

    def _check(self) -> None:
        if not self._linked:
            raise LinkLost(f"{self.spec.name}: not connected")

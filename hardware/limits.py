"""Limits of an arm: what its maker allows, and how much of that is used."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hardware.errors import LimitsError
from hardware.kinematics import Chain
from hardware.types import Camera, Gripper, Joint, Spec

_FOLDER = Path(__file__).parent / "limits"


@dataclass(frozen=True)
class Workspace:
    """Where the tool may be, in the frame of the arm's base.

    Attributes:
        lower: m, [3].
        upper: m, [3].
        axis: the direction the tool points in, [3], unit length.
        angle: rad, at most this far from `axis`; pi allows all.
    """

    lower: tuple[float, float, float] = (-10.0, -10.0, -10.0)
    upper: tuple[float, float, float] = (10.0, 10.0, 10.0)
    axis: tuple[float, float, float] = (0.0, 0.0, -1.0)
    angle: float = math.pi


@dataclass(frozen=True)
class Limits:
    """What the envelope enforces.

    Attributes:
        joints: what the maker allows.
        gripper: None if there is none.
        chain: the arm's kinematics.
        range_share: of each joint's range, about its middle.
        velocity_share: of each joint's velocity.
        acceleration_share: of each joint's acceleration.
        workspace: for the tool.
        force: N at the tool.
        torque: N m at the tool.
        tracking: rad, how far the measured position may lag behind the one sent.
        observation_age: s.
        command_age: s.
        misses: stale commands in a row before the stop latches.
        deadman_age: s since the enabling switch was last seen held.
        blind: s of motion decided on without a newer look.
    """

    joints: tuple[Joint, ...]
    chain: Chain
    gripper: Gripper | None = None
    range_share: float = 0.9
    velocity_share: float = 0.5
    acceleration_share: float = 0.25
    workspace: Workspace = Workspace()
    force: float = 40.0
    torque: float = 10.0
    tracking: float = 0.2
    observation_age: float = 0.150
    command_age: float = 0.100
    misses: int = 3
    deadman_age: float = 0.200
    blind: float = 0.3

    def __post_init__(self) -> None:
        for name in ("range_share", "velocity_share", "acceleration_share"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise LimitsError(f"{name}={getattr(self, name)}; it must be in (0, 1]")
        for name in ("force", "torque", "tracking", "observation_age", "command_age", "blind"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise LimitsError(f"{name}={getattr(self, name)}; it must be positive and finite")
        if not all(a < b for a, b in zip(self.workspace.lower, self.workspace.upper, strict=True)):
            raise LimitsError("workspace: each `lower` must be below its `upper`")

    @property
    def lower(self) -> np.ndarray:
        """Least joint positions, rad, [n]."""
        return self._middle() - self._half()

    @property
    def upper(self) -> np.ndarray:
        """Largest joint positions, rad, [n]."""
        return self._middle() + self._half()

    @property
    def velocity(self) -> np.ndarray:
        """Largest joint velocities, rad/s, [n]."""
        return self.velocity_share * np.array([joint.velocity for joint in self.joints])

    @property
    def acceleration(self) -> np.ndarray:
        """Largest joint accelerations, rad/s^2, [n]."""
        return self.acceleration_share * np.array([joint.acceleration for joint in self.joints])

    def _middle(self) -> np.ndarray:
        return np.array([(joint.lower + joint.upper) / 2 for joint in self.joints])

    def _half(self) -> np.ndarray:
        return self.range_share * np.array([(j.upper - j.lower) / 2 for j in self.joints])

    def spec(
        self,
        name: str,
        *,
        cameras: tuple[Camera, ...] = (),
        command_rate: float = 100.0,
        simulated: bool = False,
    ) -> Spec:
        """Returns the specification of a robot with this arm."""
        return Spec(name, self.joints, self.gripper, cameras, command_rate, simulated)


def load_limits(arm: str | Path, **changes: Any) -> Limits:
    """Reads the limits of an arm.

    Args:
        arm: one that this package knows ("panda", "fr3", "ur5e"), or the path of a YAML file like
            those under `hardware/limits`.
        **changes: fields of `Limits` with other values than the default or the file's; a
            `workspace` may be a mapping.

    Raises:
        LimitsError: there is no such file, or it is wrong; the message says where.
    """
    path = Path(arm)
    if path.suffix not in (".yaml", ".yml"):
        path = _FOLDER / f"{arm}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in _FOLDER.glob("*.yaml")))
        raise LimitsError(f"no limits for {str(arm)!r}; known are {known}, or give a YAML file")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise LimitsError(f"{path.name} is not YAML: {error}") from error
    return _limits(content, path.name, changes)


def _limits(content: Any, where: str, changes: Mapping[str, Any]) -> Limits:
    known = {f.name for f in dataclasses.fields(Limits)}
    if not isinstance(content, dict) or not {"joints", "chain"} <= content.keys():
        raise LimitsError(f"{where}: needs the keys `joints` and `chain`")
    values = {**content, **changes}
    if unknown := sorted(values.keys() - known):
        raise LimitsError(f"{where}: unknown keys {unknown}; allowed are {sorted(known)}")
    table = content["joints"]
    names = table.get("names") or []
    columns = {}
    for key in ("lower", "upper", "velocity", "acceleration", "effort"):
        column = np.asarray(table.get(key, []), float)
        if column.shape != (len(names),) or not len(names) or not np.isfinite(column).all():
            raise LimitsError(
                f"{where}: joints.{key} needs one finite number for each of {len(names)} names"
            )
        columns[key] = column.tolist()
    if any(low >= high for low, high in zip(columns["lower"], columns["upper"], strict=True)):
        raise LimitsError(f"{where}: a joint's lower limit is not below its upper limit")
    values["joints"] = tuple(
        Joint(name, *(columns[key][i] for key in columns)) for i, name in enumerate(names)
    )
    try:
        values["chain"] = Chain(**content["chain"])
        if content.get("gripper"):
            values["gripper"] = Gripper(**content["gripper"])
        if isinstance(values.get("workspace"), Mapping):
            values["workspace"] = Workspace(
                **{
                    name: tuple(v) if isinstance(v, list) else v
                    for name, v in values["workspace"].items()
                }
            )
    except (TypeError, KeyError) as error:
        raise LimitsError(f"{where}: {error}") from error
    return Limits(**values)

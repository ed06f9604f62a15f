"""What a control loop tells about each of its steps, through shared memory."""

import collections
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware.shared import Block, Fields
from hardware.types import Act, Cause, Lifecycle, RobotState, Spec

_STATES = list(Lifecycle)
_ACTS = list(Act)
_CAUSES = list(Cause)


@dataclass(frozen=True)
class Status:
    """What the control process said last.

    Attributes:
        state: of the robot, with the newest pictures.
        sent: rad, [n], the position sent last.
        sent_velocity: rad/s, [n], with which it was sent.
        act: what the envelope did to the last command, or None.
        lifecycle: of the robot.
        latched: whether the stop is latched.
        steps: periods done.
        overruns: periods that ended too late.
        ahead: s of motion handed over.
        dropped: actions that came too late to be executed.
        counts: how often each limit acted.
    """

    state: RobotState
    sent: np.ndarray
    sent_velocity: np.ndarray
    act: Act | None
    lifecycle: Lifecycle
    latched: bool
    steps: int
    overruns: int
    ahead: float
    dropped: int
    counts: dict[Cause, int]


def _status_fields(spec: Spec) -> Fields:
    """What the control process tells about each of its steps."""
    n = len(spec.joints)
    return {
        "stamp": ("f8", ()),
        "position": ("f8", (n,)),
        "velocity": ("f8", (n,)),
        "effort": ("f8", (n,)),
        "gripper": ("f8", ()),
        "wrench": ("f8", (6,)),
        "has_wrench": ("?", ()),
        "sent": ("f8", (n,)),
        "sent_velocity": ("f8", (n,)),
        "act": ("i8", ()),
        "lifecycle": ("i8", ()),
        "latched": ("?", ()),
        "steps": ("i8", ()),
        "overruns": ("i8", ()),
        "ahead": ("f8", ()),
        "dropped": ("i8", ()),
        "counts": ("i8", (len(_CAUSES),)),
    }


def _picture_fields(spec: Spec) -> Fields:
    """The newest picture of each camera and its stamp."""
    fields: dict[str, tuple[str, tuple[int, ...]]] = {}
    for camera in spec.cameras:
        fields[f"{camera.name}.stamp"] = ("f8", ())
        fields[camera.name] = ("u1", (camera.height, camera.width, 3))
    return fields


class Board:
    """Where a loop writes and others read.

    Hand `memory` to another process and make the board there from it.
    """

    def __init__(self, spec: Spec, memory: tuple[Any, Any] | None = None) -> None:
        """Makes a board for a robot, or opens one."""
        numbers, pictures = memory or (None, None)
        self._spec = spec
        self._numbers = Block(_status_fields(spec), numbers)
        self._pictures = Block(_picture_fields(spec), pictures)
        self._shown: collections.defaultdict[str, float] = collections.defaultdict(float)

    @property
    def memory(self) -> tuple[Any, Any]:
        """What is shared."""
        return self._numbers.memory, self._pictures.memory

    def write(self, loop: Any) -> None:
        """Tells about a `ControlLoop` after a step."""
        state, robot, sent = loop.state, loop.robot, loop.sent
        self._numbers.write(
            stamp=state.stamp,
            position=state.position,
            velocity=state.velocity,
            effort=state.effort,
            gripper=state.gripper,
            wrench=np.zeros(6) if state.wrench is None else state.wrench,
            has_wrench=state.wrench is not None,
            sent=state.position if sent is None else sent.position,
            sent_velocity=0.0 if sent is None else sent.velocity,
            act=-1 if sent is None else _ACTS.index(sent.act),
            lifecycle=_STATES.index(robot.lifecycle),
            latched=robot.latch.path.exists(),
            steps=loop.steps,
            overruns=loop.overruns,
            ahead=loop.timeline.ahead(state.stamp),
            dropped=loop.timeline.dropped,
            counts=[robot.counts[cause] for cause in _CAUSES],
        )
        new = {
            name: picture
            for name, picture in state.images.items()
            if picture[0] > self._shown[name]
        }
        if new:
            values = {name: image for name, (_, image) in new.items()}
            values |= {f"{name}.stamp": stamp for name, (stamp, _) in new.items()}
            self._pictures.write(**values)
            self._shown.update({name: stamp for name, (stamp, _) in new.items()})

    def read(self) -> Status:
        """Returns what was written last."""
        values, pictures = self._numbers.read(), self._pictures.read()
        images = {
            camera.name: (float(pictures[f"{camera.name}.stamp"]), pictures[camera.name])
            for camera in self._spec.cameras
            if self._pictures.version
        }
        state = RobotState(
            float(values["stamp"]),
            values["position"],
            values["velocity"],
            values["effort"],
            float(values["gripper"]),
            values["wrench"] if values["has_wrench"] else None,
            images,
        )
        act = int(values["act"])
        return Status(
            state,
            values["sent"],
            values["sent_velocity"],
            None if act < 0 else _ACTS[act],
            _STATES[int(values["lifecycle"])],
            bool(values["latched"]),
            int(values["steps"]),
            int(values["overruns"]),
            float(values["ahead"]),
            int(values["dropped"]),
            {c: int(k) for c, k in zip(_CAUSES, values["counts"], strict=True) if k},
        )

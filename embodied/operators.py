"""A person at the arm: keyboard, gamepad or SpaceMouse.

They ask for tool deltas, forward, left and up from where the person faces along the arm's x axis:

    keyboard     w s forward, back   a d left, right   r f up, down   q e turn
                 space gripper       enter done        x not done
    gamepad      left stick forward, left   right stick up, turn   cross of keys tilt
                 A gripper                  start done             back not done
    SpaceMouse   as its cap is moved; left button gripper, right button done

The keyboard works beside the other two where there is a terminal.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from embodied.core.types import UserError

NAMES = ("keyboard", "gamepad", "spacemouse")
SPEED = 0.4  # share of the largest action
DEAD = 0.1  # share of an axis' range that counts as rest
MISSING = '{} needs {}, which is missing: pip install "embodied[devices]"'


class Wish(NamedTuple):
    """What a person asks for now.

    Attributes:
        motion: [6] in [-1, 1]; None while nothing is pressed.
        gripper: how often it was to open or close since the last look.
        verdict: what was said of the episode since then: True done, False not done, None nothing.
    """

    motion: np.ndarray | None = None
    gripper: int = 0
    verdict: bool | None = None


class Device(Protocol):
    """What a person holds."""

    def read(self) -> Wish:
        """What is asked for now, without waiting."""


class Keyboard:
    """Keys of a terminal."""

    MOVES = {  # noqa: RUF012 (never changed)
        **{"w": (0, 1.0), "s": (0, -1.0), "a": (1, 1.0), "d": (1, -1.0)},
        **{"r": (2, 1.0), "f": (2, -1.0), "q": (5, 1.0), "e": (5, -1.0)},
    }
    """Key -> which number of a tool delta, and its sign."""

    HELD = 0.15  # s that a key counts as pressed: terminals repeat keys, and tell of no release

    def __init__(self, keys: Callable[[], str], now: Callable[[], float] = time.monotonic) -> None:
        """Takes a source of keys.

        Args:
            keys: returns what was typed since the last call, without waiting.
            now: s.
        """
        self._keys, self._now = keys, now
        self._pressed: dict[str, float] = {}

    def read(self) -> Wish:
        """See `Device`."""
        now, typed = self._now(), self._keys()
        self._pressed |= {key: now for key in typed if key in self.MOVES}
        held = [self.MOVES[key] for key, at in self._pressed.items() if now - at <= self.HELD]
        motion = np.zeros(6)
        for axis, sign in held:
            motion[axis] += sign
        verdict = False if "x" in typed else True if set(typed) & set("\r\n") else None
        return Wish(motion if held else None, typed.count(" "), verdict)


class Gamepad:
    """A gamepad whose buttons SDL knows, through pygame."""

    def __init__(self, pad: Any, pump: Callable[[], object] = lambda: None) -> None:
        """Takes a `pygame._sdl2.controller.Controller`.

        Args:
            pad: the controller.
            pump: brings its state up to date.
        """
        self._pad, self._pump = pad, pump
        self._before = (False, False, False)

    @classmethod
    def found(cls) -> Gamepad:
        """The first one that is plugged in.

        Raises:
            UserError: there is none, or no pygame.
        """
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # events without a window
        os.environ.setdefault("SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS", "1")
        try:
            import pygame
            from pygame._sdl2 import controller
        except ImportError as error:
            raise UserError(MISSING.format("a gamepad", "pygame-ce")) from error
        pygame.display.init()
        controller.init()
        for index in range(controller.get_count()):
            if controller.is_controller(index):
                return cls(controller.Controller(index), pygame.event.pump)
        raise UserError("there is no gamepad; plug one in, or use operator=keyboard")

    def read(self) -> Wish:
        """See `Device`."""
        self._pump()
        # SDL's numbers of axes and buttons
        across, along, turning, rising = (self._pad.get_axis(axis) / 32767.0 for axis in range(4))
        gripper, back, start, up, down, left, right = (
            bool(self._pad.get_button(button)) for button in (0, 4, 6, 11, 12, 13, 14)
        )
        motion = np.array([-along, -across, -rising, left - right, up - down, -turning])
        before, self._before = self._before, (gripper, back, start)
        fresh = [now and not then for now, then in zip(self._before, before, strict=True)]
        verdict = True if fresh[2] else False if fresh[1] else None
        return Wish(_moved(motion), int(fresh[0]), verdict)


class SpaceMouse:
    """A 3Dconnexion mouse with six axes, through pyspacemouse."""

    def __init__(self, mouse: Any) -> None:
        """Takes a `pyspacemouse.SpaceMouseDevice` in ROS's axes."""
        self._mouse = mouse
        self._before = (0, 0)

    @classmethod
    def found(cls) -> SpaceMouse:
        """The first one that is plugged in.

        Raises:
            UserError: there is none, no right to read it, or no pyspacemouse.
        """
        try:
            import pyspacemouse
        except (ImportError, OSError) as error:  # OSError: libhidapi is missing
            raise UserError(MISSING.format("a SpaceMouse", "pyspacemouse, or libhidapi")) from error
        try:
            with contextlib.redirect_stdout(None):
                return cls(pyspacemouse.open(axis_convention=pyspacemouse.AxisConvention.ROS))
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"no SpaceMouse: {error} Plug one in (on Linux, with the right to read its "
                "/dev/hidraw), or use operator=keyboard"
            ) from error

    def read(self) -> Wish:
        """See `Device`."""
        seen = None
        while (state := self._mouse.read()).t != seen:  # a report at a time, until the newest
            seen = state.t
        axes = (state.x, state.y, state.z, state.roll, state.pitch, state.yaw)
        before, self._before = self._before, (*state.buttons, 0, 0)[:2]
        gripper, done = (now > then for now, then in zip(self._before, before, strict=True))
        return Wish(_moved(np.array(axes)), int(gripper), True if done else None)


def _moved(motion: np.ndarray) -> np.ndarray | None:
    """The axes beyond their rest, or None if all are at rest."""
    motion = np.where(np.abs(motion) < DEAD, 0.0, motion)
    return np.clip(motion, -1.0, 1.0) if motion.any() else None


class Person:
    """Who holds devices: drives, or takes over where it is needed, and judges episodes.

    As an operator (`envs.real_arm.Operator`) a person intervenes while something is pressed; as an
    actor (`embodied.actors.Actor`) every action is theirs.
    """

    def __init__(
        self,
        name: str,
        devices: Sequence[Device],
        *,
        drives: bool = False,
        speed: float = SPEED,
        lays_out: bool = False,
    ) -> None:
        """Takes what the person holds.

        Args:
            name: of the first device.
            devices: all of them.
            drives: every action is the person's, so none is an intervention.
            speed: share of the largest action that a device asks for at most.
            lays_out: wait before each episode until the person says that the scene is ready.
        """
        self.description = {"name": name}
        self._devices, self._drives, self._speed = devices, drives, speed
        self._lays_out = lays_out
        self._closed: bool | None = None
        self._verdict: bool | None = None

    def _read(self) -> Wish:
        """All devices together."""
        wishes = [device.read() for device in self._devices]
        motions = [wish.motion for wish in wishes if wish.motion is not None]
        verdicts = [wish.verdict for wish in wishes if wish.verdict is not None]
        if verdicts:
            self._verdict = all(verdicts)
        motion = np.clip(np.sum(motions, 0), -1.0, 1.0) if motions else None
        return Wish(motion, sum(wish.gripper for wish in wishes) % 2)

    # ---------------------------------------------------------------- as an operator

    def intervention(self) -> np.ndarray | None:
        """See `envs.real_arm.Operator`; the gripper is the policy's until it is touched."""
        if self._drives:
            return None
        wish = self._read()
        if wish.gripper:
            self._closed = not self._closed
        elif wish.motion is None:
            self._closed = None  # given back
            return None
        motion = np.zeros(6) if wish.motion is None else wish.motion
        gripper = np.nan if self._closed is None else (1.0 if self._closed else -1.0)
        return np.append(self._speed * motion, gripper).astype(np.float32)

    def verdict(self) -> bool | None:
        """See `envs.real_arm.Operator`."""
        return self._verdict

    def lay_out(self) -> None:
        """Waits for a key, if the person lays out scenes; forgets what was pressed before."""
        if self._lays_out:
            print("\nLay out the scene; press enter (start, right button) when it is ready.")
            self._verdict = None
            while self._verdict is not True:
                self._read()
                time.sleep(0.02)
        self._read()
        self._closed = self._verdict = None

    # ---------------------------------------------------------------- as an actor

    def begin(self, slot: int, env: Any, rng: np.random.Generator) -> None:
        """The gripper is open."""
        self._closed = False

    def act(self, slots: Sequence[int], observations: Sequence[Any]) -> list[np.ndarray]:
        """What the person asks for now; rest, where it is nothing."""
        wish = self._read()
        self._closed ^= bool(wish.gripper)
        motion = np.zeros(6) if wish.motion is None else self._speed * wish.motion
        action = np.append(motion, 1.0 if self._closed else -1.0).astype(np.float32)
        return [action for _ in slots]

    def close(self) -> None:
        """Does nothing."""


@contextlib.contextmanager
def attended(name: str, **options: Any) -> Iterator[Person]:
    """A person with a device, and the terminal's keyboard where there is one.

    Args:
        name: one of `NAMES`.
        options: of `Person`.

    Raises:
        UserError: no such device.
    """
    if name not in NAMES:
        raise UserError(f"operator={name}: say one of {', '.join(NAMES)}")
    devices: list[Device] = []
    if name != "keyboard":
        devices.append(Gamepad.found() if name == "gamepad" else SpaceMouse.found())
    with contextlib.ExitStack() as stack:
        if name == "keyboard" or sys.stdin.isatty():
            devices.append(Keyboard(stack.enter_context(typed())))
        yield Person(name, devices, **options)


@contextlib.contextmanager
def typed() -> Iterator[Callable[[], str]]:
    """The terminal's keys as they are typed.

    Yields:
        What returns those since the last call, without waiting.

    Raises:
        UserError: there is no terminal.
    """
    try:
        import termios
        import tty
    except ImportError as error:
        raise UserError("an operator's keyboard needs a POSIX terminal") from error
    if not sys.stdin.isatty():
        raise UserError("an operator's keyboard is read from a terminal; run it in one")
    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)

    def read() -> str:
        waiting = select.select([handle], [], [], 0)[0]
        return os.read(handle, 1024).decode(errors="ignore") if waiting else ""

    try:
        tty.setcbreak(handle)
        yield read
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)

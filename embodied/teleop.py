"""`embodied hardware teleop`: drive an arm or its twin from the keyboard, recorded as a dataset.

The episodes go through the writer of `embodied collect`: the same columns, each on the disk when it
ends, the same command goes on where it stopped.

    w s   forward, back        r f   up, down        space   close or open the gripper
    a d   left, right          q e   turn            enter   end the episode: done
    (nothing pressed: the arm holds)                 x       end the episode: not done
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from embodied.core.types import UserError
from embodied.deploy import Deployment, parse
from embodied.settings import CollectSettings, take
from embodied.stations import SCENES, env_id, opened

MOVES = {
    "w": (0, 1.0),
    "s": (0, -1.0),
    "a": (1, 1.0),
    "d": (1, -1.0),
    "r": (2, 1.0),
    "f": (2, -1.0),
    "q": (5, 1.0),
    "e": (5, -1.0),
}
"""Key -> which number of a tool delta, and its sign."""

HELD = 0.15  # s that a key counts as pressed: terminals repeat keys, and tell of no release
SPEED = 0.4  # share of the largest action


class Keyboard:
    """Turns keys into tool deltas.

    Attributes:
        ended: what the person said of the episode: True done, False not done, None nothing yet.
    """

    def __init__(
        self,
        keys: Callable[[], str],
        now: Callable[[], float] = time.monotonic,
        speed: float = SPEED,
    ) -> None:
        """Takes a source of keys.

        Args:
            keys: returns what was typed since the last call, without waiting.
            now: s.
            speed: share of the largest action that a key asks for.
        """
        self._keys, self._now, self._speed = keys, now, speed
        self._pressed: dict[str, float] = {}
        self._closed = False
        self.ended: bool | None = None

    def begin(self) -> None:
        """An episode begins: keys from before are forgotten, the gripper is open."""
        self._keys()
        self._pressed.clear()
        self._closed, self.ended = False, None

    def action(self) -> np.ndarray:
        """What the keys ask for now: float32 [7]."""
        now = self._now()
        for key in self._keys():
            if key in MOVES:
                self._pressed[key] = now
            elif key == " ":
                self._closed = not self._closed
            elif key in "\r\n":
                self.ended = True
            elif key == "x":
                self.ended = False
        action = np.zeros(7, np.float32)
        for key, since in self._pressed.items():
            if now - since <= HELD:
                axis, sign = MOVES[key]
                action[axis] += sign * self._speed
        action[6] = 1.0 if self._closed else -1.0
        return action


class Person:
    """A `Keyboard` as who acts in an episode, see `embodied.actors`."""

    def __init__(self, keyboard: Keyboard) -> None:
        self.description = {"name": "keyboard"}
        self._keyboard = keyboard

    def begin(self, slot: int, env: Any, rng: np.random.Generator) -> None:
        """Forgets keys from before."""
        self._keyboard.begin()

    def act(self, slots: Sequence[int], observations: Sequence[Any]) -> list[np.ndarray]:
        """What the keys ask for now."""
        return [self._keyboard.action() for _ in slots]

    def close(self) -> None:
        """Does nothing."""


class Judged(gymnasium.Wrapper):
    """A robot whose episodes end when the person says so, with success or without."""

    def __init__(self, env: Any, keyboard: Keyboard) -> None:
        super().__init__(env)
        self._keyboard = keyboard

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See `RealArm.step`; a person's "done" is a success with reward 1."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._keyboard.ended and not info["broken"]:
            return observation, 1.0, True, False, {**info, "success": True}
        given_up = self._keyboard.ended is False and not terminated
        return observation, reward, terminated, truncated or given_up, info


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
        raise UserError("teleoperation by keyboard needs a POSIX terminal") from error
    if not sys.stdin.isatty():
        raise UserError("teleoperation reads the keyboard; run it in a terminal")
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


def teleoperate(
    deployment: Deployment,
    out: str | Path,
    keyboard: Keyboard,
    *,
    format: str = "lerobot",
    video: bool = False,
    on_episode: Callable[[int, int, bool], None] = lambda index, total, success: None,
) -> Any:
    """Record episodes that a person drives.

    Args:
        deployment: which robot, how reached, how many episodes.
        out: of the dataset; its flight recordings lie beside it, in `OUT.flights`.
        keyboard: what the person asks for.
        format: a name of `embodied.data.FORMATS`.
        video: keep pictures as mp4 (LeRobot only).
        on_episode: told about each episode.

    Returns:
        The dataset.

    Raises:
        UserError: the robot is not there, or the data cannot be written.
    """
    from embodied.collection import collect
    from hardware.errors import HardwareError

    def make(name: str, env_args: Mapping[str, Any], **options: Any) -> Any:
        flights = Path(f"{out}.flights")
        directory = flights / str(1 + len(list(flights.glob("*"))))
        env = stack.enter_context(opened(deployment, directory, {"name": "keyboard"}))
        return Judged(env, keyboard)

    settings = CollectSettings(deployment.episodes, noise=0.0, seed=deployment.seed)
    try:
        with contextlib.ExitStack() as stack:
            return collect(
                out,
                env_id(deployment.robot),
                {},
                settings,
                on_episode,
                format=format,
                policy="keyboard",
                video=video,
                make=make,
                actor=Person(keyboard),
            )
    except HardwareError as error:
        raise UserError(str(error)) from error


def command(overrides: Sequence[str]) -> int:
    """Teleoperate as the command line asks."""
    from embodied.progress import CollectionBar

    out, rest = take(overrides, "out")
    if out is None:
        raise UserError("say where to write: embodied hardware teleop robot=panda_twin out=DATASET")
    format, rest = take(rest, "format")
    arm = not any(word.startswith(tuple(f"robot={scene}" for scene in SCENES)) for word in rest)
    free = ["task=none", "horizon=600"] if arm else []
    deployment = parse([*free, *rest], policy="keyboard")
    print(__doc__.split("\n\n", 2)[2])
    with typed() as keys, CollectionBar() as bar:
        dataset = teleoperate(
            deployment, out, Keyboard(keys), format=format or "lerobot", on_episode=bar.advance
        )
    print(f"embodied: {dataset.num_episodes} episodes, {dataset.num_frames} frames in {out}")
    return 0

"""People at the arm: what their devices say becomes tool deltas."""

import sys

import numpy as np
import pytest

from embodied import operators
from embodied.core.types import UserError
from embodied.deploy import deploy, parse
from embodied.operators import Gamepad, Keyboard, Person, SpaceMouse, Wish

WIDE = [f"limits.{name}=5.0" for name in ("observation_age", "command_age", "blind", "tracking")]


def test_keys_count_while_they_are_held():
    typed, now = [""], [0.0]
    keyboard = Keyboard(lambda: typed.pop() if typed else "", lambda: now[0])
    assert keyboard.read().motion is None
    typed.append("wwr")
    np.testing.assert_array_equal(keyboard.read().motion, [1, 0, 1, 0, 0, 0])
    now[0] = 1.0
    typed.append("d ")
    wish = keyboard.read()
    np.testing.assert_array_equal(wish.motion, [0, -1, 0, 0, 0, 0])
    assert wish.gripper == 1 and wish.verdict is None
    now[0] = 2.0
    typed.append("x")
    assert keyboard.read() == Wish(None, 0, False)
    typed.append("\n")
    assert keyboard.read().verdict is True


class Pad:
    """A controller as pygame has it."""

    def __init__(self):
        self.axes, self.buttons = {}, set()

    def get_axis(self, axis):
        return self.axes.get(axis, 0)

    def get_button(self, button):
        return button in self.buttons


def test_a_gamepad_in_sdls_numbering():
    pygame = pytest.importorskip("pygame")
    pad = Pad()
    gamepad = Gamepad(pad)
    pad.axes = {pygame.CONTROLLER_AXIS_LEFTX: 1000}
    assert gamepad.read() == Wish()  # a stick never rests exactly at 0
    pad.axes = {
        pygame.CONTROLLER_AXIS_LEFTY: -32768,  # SDL's y axis points down
        pygame.CONTROLLER_AXIS_LEFTX: 16384,
        pygame.CONTROLLER_AXIS_RIGHTY: -32767,
        pygame.CONTROLLER_AXIS_RIGHTX: -32767,
    }
    pad.buttons = {pygame.CONTROLLER_BUTTON_DPAD_UP, pygame.CONTROLLER_BUTTON_A}
    wish = gamepad.read()
    np.testing.assert_allclose(wish.motion, [1, -0.5, 1, 0, 1, 1], atol=1e-4)
    assert wish.gripper == 1 and gamepad.read().gripper == 0  # held: once
    pad.buttons = {pygame.CONTROLLER_BUTTON_START}
    assert gamepad.read().verdict is True
    pad.buttons = {pygame.CONTROLLER_BUTTON_BACK}
    assert gamepad.read().verdict is False


class Reports:
    """What hidapi reads from a SpaceMouse, report by report."""

    def __init__(self):
        self.waiting = []

    def read(self, size):
        return self.waiting.pop(0) if self.waiting else b""


def report(number, *values):
    return bytes([number]) + b"".join(value.to_bytes(2, "little", signed=True) for value in values)


def test_a_spacemouse_by_its_reports():
    """Through pyspacemouse's own decoding, of the reports that 3Dconnexion's mice send."""
    try:
        import pyspacemouse
        from pyspacemouse.config_helpers import apply_axis_convention
        from pyspacemouse.device import SpaceMouseDevice
    except (ImportError, OSError) as error:  # OSError: libhidapi is missing
        pytest.skip(str(error))
    info = pyspacemouse.get_device_specs()["SpaceMouseCompact"]
    hid = Reports()
    spec = apply_axis_convention(info, pyspacemouse.AxisConvention.ROS)
    mouse = SpaceMouse(SpaceMouseDevice(spec, hid))
    assert mouse.read() == Wish()
    # away from the person, right, and pressed down a little: HID is x right, y near, z down
    hid.waiting = [report(1, 0, 0, 0), report(1, 175, -350, 70), report(2, 0, 0, -350)]
    wish = mouse.read()
    np.testing.assert_allclose(wish.motion, [1, -0.5, -0.2, 0, 0, 1], atol=1e-6)
    hid.waiting = [report(1, 0, 0, 0), report(2, 0, 0, 0), bytes([3, 1, 0])]
    assert mouse.read() == Wish(None, 1, None)
    hid.waiting = [bytes([3, 2, 0])]
    assert mouse.read() == Wish(None, 0, True)


class Script:
    """A device that says one thing after another."""

    def __init__(self, *wishes):
        self.wishes = list(wishes)

    def read(self):
        return self.wishes.pop(0) if self.wishes else Wish()


FORWARD = np.array([1.0, 0, 0, 0, 0, 0])


def test_who_takes_over_leaves_the_gripper_to_the_policy_until_it_is_touched():
    wishes = Wish(FORWARD), Wish(FORWARD, 1), Wish(FORWARD), Wish(), Wish(FORWARD)
    person = Person("script", [Script(*wishes)], speed=0.5)
    first, touched, held, after, again = (person.intervention() for _ in wishes)
    np.testing.assert_array_equal(first, [0.5, 0, 0, 0, 0, 0, np.nan])
    np.testing.assert_array_equal(touched, [0.5, 0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(held, touched)
    assert after is None
    np.testing.assert_array_equal(again, first)


def test_devices_add_up():
    both = Person("script", [Script(Wish(FORWARD)), Script(Wish(FORWARD, 1, False))], speed=1.0)
    np.testing.assert_array_equal(both.intervention(), [1, 0, 0, 0, 0, 0, 1])
    assert both.verdict() is False
    both.lay_out()
    assert both.verdict() is None and both.intervention() is None


def test_a_person_takes_over_and_judges_a_deployment(tmp_path, monkeypatch):
    pytest.importorskip("mcap")
    pytest.importorskip("mujoco")
    from contextlib import nullcontext

    from embodied.flights import read_flight

    monkeypatch.setenv("EMBODIED_LATCH", str(tmp_path / "latch"))
    rest = [Wish()] * 3
    # a look when the scene is laid out, then one before each step
    wishes = [Wish(), *rest, Wish(FORWARD), Wish(), Wish(None, 0, True), Wish(), *rest]
    person = Person("script", [Script(*wishes, Wish(None, 0, False))])
    monkeypatch.setattr(operators, "attended", lambda name, **options: nullcontext(person))
    deployment = parse(
        ["policy=random", "operator=gamepad", "episodes=2", "horizon=20", "seed=1", "task=none",
         "mode=tool delta", f"record={tmp_path / 'run'}", "report=false", *WIDE]
    )  # fmt: skip
    outcome = deploy(deployment)
    assert not outcome.problem, outcome
    first, second = outcome.episodes
    assert first["success"] and first["end"] == "success" and first["length"] == 6
    assert not second["success"] and second["end"] == "time" and second["length"] == 4
    flight = read_flight(tmp_path / "run" / "run.mcap")
    assert [step["intervened"] for step in flight.steps] == [False] * 3 + [True] + [False] * 6


def test_what_is_not_there_is_said(monkeypatch):
    with (
        pytest.raises(UserError, match="keyboard, gamepad, spacemouse"),
        operators.attended("nose"),
    ):
        pass
    with pytest.raises(UserError, match="terminal"), operators.attended("keyboard"):
        pass
    pytest.importorskip("pygame")
    with pytest.raises(UserError, match="no gamepad"), operators.attended("gamepad"):
        pass
    with pytest.raises(UserError, match="tool delta"):
        deploy(parse(["policy=random", "operator=gamepad", "mode=joint delta"]))


def test_spacemouse_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyspacemouse", None)
    with pytest.raises(UserError, match=r"embodied\[devices\]"):
        SpaceMouse.found()

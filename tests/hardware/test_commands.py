"""`python -m hardware`: check, serve, reset; robots by name or file."""

import dataclasses
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("yaml")

from hardware import Robot, messages
from hardware.commands import main
from hardware.conformance import FAIL, OK, Check
from hardware.errors import HardwareError, LinkLost
from hardware.latch import Latch
from hardware.local_wire import Bus, LocalWire
from hardware.mirror import MirrorDriver
from hardware.robots import connected, find
from hardware.ros import RosDriver
from hardware.types import Cause

WIDE = {"observation_age": 5.0, "command_age": 5.0, "tracking": 5.0}


@pytest.fixture(autouse=True)
def own_latch(tmp_path, monkeypatch):
    monkeypatch.setenv("EMBODIED_LATCH", str(tmp_path / "latch"))


def arm(**changes):
    return find("panda_twin", changes={**WIDE, **changes})


def mirrored(made, position=None):
    driver = MirrorDriver(made.spec, made.home if position is None else np.array(position))
    return Robot(driver, made.limits)


def verdicts(rows):
    return {row.what: row.verdict for row in rows}


def test_a_good_robot_passes_and_is_left_as_it_was():
    rows = Check(arm(), mirrored(arm()), None, seconds=0.2).run(motion=True)
    assert all(row.verdict != FAIL for row in rows), rows
    assert {"hold", "motion", "tracking", "stop", "the latch"} <= verdicts(rows).keys()
    assert Latch("panda_twin").tripped is None


def test_without_motion_nothing_is_sent():
    made = arm()
    robot = mirrored(made)
    rows = Check(made, robot, None, seconds=0.1).run()
    assert not robot._driver.written and verdicts(rows)["a latched stop"] == OK
    assert "motion" not in verdicts(rows)


def test_what_is_wrong_is_found():
    made = arm()
    outside = made.home.copy()
    outside[0] = 2.95
    found = verdicts(Check(made, mirrored(made, outside), None, seconds=0.1).run())
    assert found["maker's range"] == FAIL and found["our range"] == "note"
    Latch("panda_twin").trip(Cause.FORCE, "a test")
    rows = Check(made, mirrored(made), None, seconds=0.1).run(motion=True)
    assert verdicts(rows)["stop"] == FAIL and "hold" not in verdicts(rows)
    assert Latch("panda_twin").tripped["cause"] == "force"  # an operator's to clear


@pytest.mark.parametrize(
    ("change", "row"),
    [
        ({}, None),
        ({"name": ["joint1"]}, "connection"),
        ({"velocity": ()}, "connection"),
        ({"skew": 3600.0}, "clock skew"),
        ({"still": True}, "stamps"),
    ],
)
def test_messages_are_looked_at(change, row):
    made, bus = dataclasses.replace(arm(), fingers=()), Bus()
    wire, stop = LocalWire(bus), threading.Event()
    publish = LocalWire(bus).publisher("/joint_states", messages.JOINT_STATE)

    def talk():
        stamp = time.time() - change.get("skew", 0.0)
        while not stop.wait(0.005):
            if not change.get("still"):
                stamp = time.time() - change.get("skew", 0.0)
            names, n = change.get("name", made.spec.names), len(change.get("name", made.home))
            velocity = np.zeros(n) if "velocity" not in change else ()
            publish(messages.joint_state(names, made.home[:n], velocity, (), stamp=stamp))

    thread = threading.Thread(target=talk)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hardware.ros._FIRST", 0.3 if row == "connection" else 20.0)
        robot = Robot(RosDriver(made.spec, wire), made.limits)
        rows = Check(made, robot, wire, seconds=0.2).run()
    stop.set()
    thread.join()
    bad = {row.what for row in rows if row.verdict != OK}
    assert row in bad if row else not bad - {"arrival", "rate of states"}, rows


def test_a_service_that_does_not_answer_is_a_lost_link():
    made, wire = arm(), LocalWire(Bus())
    driver = RosDriver(made.spec, wire)
    with pytest.raises(LinkLost, match="nobody serves /arm"):
        driver.activate()
    driver.halt()  # whatever happens


def test_commands_say_what_they_need(capsys):
    assert main([]) == 0 and "check robot=panda_twin" in capsys.readouterr().out
    for words, said in (
        (["fly"], "usage"),
        (["check"], "say which robot"),
        (["check", "robot=nobody"], "no robot 'nobody'"),
        (["check", "robot=panda_twin", "transport=pigeon"], "pigeon"),
        (["check", "robot=panda_twin", "seconds=long"], "a number"),
        (["serve", "robot=panda_twin"], "zenoh or rosbridge"),
        (["reset", "robot=panda_twin"], "needs reason"),
        (["reset", "robot=panda_twin", "when=now"], "it takes robot"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err


def test_a_reset_keeps_the_reason(capsys):
    pytest.importorskip("mujoco")
    assert main(["reset", "robot=panda_twin", "reason=nothing"]) == 0
    assert "not latched" in capsys.readouterr().out
    latch = Latch("panda_twin")
    latch.trip(Cause.TRACKING, "a cable")
    assert main(["reset", "robot=panda_twin", "reason=the cable is free", "by=A"]) == 0
    assert latch.tripped is None
    assert '"reason": "the cable is free", "by": "A"' in latch.log.read_text()


ALONE = """
import sys
for name in ("torch", "gymnasium", "envs", "embodied", "mujoco", "hydra"):
    sys.modules[name] = None  # importing it fails now
from hardware.commands import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_robots_computer_runs_them_without_the_rest():
    root = Path(__file__).parents[2]

    def call(*words):
        words = [sys.executable, "-c", ALONE, *words]
        return subprocess.run(words, cwd=root, capture_output=True, text=True)

    done = call("reset", "robot=panda_twin", "reason=a test")
    assert done.returncode == 0, done.stderr
    done = call("check", "robot=panda_twin")
    assert done.returncode == 2 and "embodied[twin]" in done.stderr


FILE = """
name: left panda
limits: panda
changes: {velocity_share: 0.3}
home: [0, -0.3, 0, -2.2, 0, 2.0, 0.785]
cameras: [{name: wrist, height: 24, width: 32, rate: 15}]
enabling_switch: /enable
topics: {trajectory: /controller/joint_trajectory, arm: "", disarm: ""}
"""


def test_a_robot_of_a_lab_comes_from_a_file(tmp_path):
    path = tmp_path / "left.yaml"
    path.write_text(FILE)
    made = find(path)
    assert (made.name, made.switch, made.limits.velocity_share) == ("left panda", "/enable", 0.3)
    assert made.topics.trajectory == "/controller/joint_trajectory" and not made.spec.simulated
    assert find(path, changes={"velocity_share": 0.1}).limits.velocity_share == 0.1
    with pytest.raises(HardwareError, match="no twin"):
        made.twin()
    for old, new, said in (
        ("limits: panda", "", "needs the key `limits`"),
        ("enabling_switch: /enable", "", "enabling_switch"),
        ("home: [0,", "home: [", "home needs 7"),
        ("trajectory:", "trajectories:", "topics are"),
        ("name: left panda", "nam: left", "unknown keys"),
    ):
        path.write_text(FILE.replace(old, new))
        with pytest.raises(HardwareError, match=said):
            find(path)


def test_the_enabling_switch_is_heard_on_its_topic(tmp_path):
    path = tmp_path / "left.yaml"
    path.write_text(FILE)
    bus, made = Bus(), find(path)
    robot = connected(made, LocalWire(bus))
    press = LocalWire(bus).publisher("/enable", "std_msgs/msg/Bool")
    now = time.monotonic()
    assert not robot._deadman.held(now, 5.0)
    press({"data": False})
    assert not robot._deadman.held(time.monotonic(), 5.0)
    press({"data": True})
    assert robot._deadman.held(time.monotonic(), 5.0)

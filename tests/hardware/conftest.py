import dataclasses
import socket

import numpy as np
import pytest

from hardware import Command, Robot, load_limits
from hardware.latch import Deadman, Latch
from hardware.mirror import MirrorDriver

HOME = {
    "panda": [0.0, -0.3, 0.0, -2.2, 0.0, 2.0, 0.785],
    "fr3": [0.0, -0.3, 0.0, -2.2, 0.0, 2.0, 0.785],
    "ur5e": [0.0, -1.57, 1.57, -1.57, -1.57, 0.0],
}


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Rig:
    """A robot on a clock that tests turn by hand."""

    def __init__(self, folder, arm="panda", rate=100.0, simulated=True, **limits):
        self.clock, self.deadman = Clock(), None if simulated else Deadman()
        self.limits = load_limits(arm, **limits)
        spec = self.limits.spec("test arm", command_rate=rate, simulated=simulated)
        self.driver = MirrorDriver(spec, np.array(HOME[arm]), self.clock)
        self.robot = Robot(
            self.driver,
            self.limits,
            latch=Latch(spec.name, folder),
            deadman=self.deadman,
            clock=self.clock,
        )
        self.period, self.sequence, self.lease = 1.0 / rate, 0, None

    def arm(self):
        self.robot.connect()
        self.lease = self.robot.activate("test")
        return self

    def go(self, position, lease=None, **changes):
        """One period: read, command."""
        self.clock.now += self.period
        if self.deadman:
            self.deadman.beat(self.clock.now)
        self.robot.read()
        self.sequence += 1
        command = Command(np.asarray(position, float), self.clock.now, self.sequence)
        return self.robot.command(dataclasses.replace(command, **changes), lease or self.lease)

    @property
    def position(self):
        return self.driver.state.position


@pytest.fixture
def rig(tmp_path):
    def make(**options):
        return Rig(options.pop("folder", tmp_path / "latch"), **options)

    return make


@pytest.fixture(scope="session")
def free_port():
    """A function that returns a TCP port of loopback which nobody listens at."""

    def find():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


@pytest.fixture
def endpoint(free_port):
    return f"tcp/127.0.0.1:{free_port()}"


@pytest.fixture
def open_wire():
    """A function that opens a Zenoh wire, which is closed at the end."""
    from hardware.zenoh_ros import ZenohWire

    wires = []

    def make(*given, **options):
        wires.append(ZenohWire(*given, **options))
        return wires[-1]

    yield make
    for wire in reversed(wires):
        wire.close()


@pytest.fixture
def pair(open_wire, endpoint):
    """A robot's wire and a policy's."""
    robot = open_wire((), listen=[endpoint], node="robot")
    return robot, open_wire([endpoint], node="policy")

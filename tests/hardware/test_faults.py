"""The wire with faults: what passes it follows from the seed and the clock."""

import itertools
import threading

import numpy as np
import pytest

from hardware import LinkLost
from hardware import messages as m
from hardware.faults import Faults, FaultyWire, parse_faults
from hardware.local_wire import Bus, LocalWire
from tests.hardware.wires import state, until


class Line:
    """A publisher behind faults and what a plain subscriber hears, on a clock turned by hand."""

    def __init__(self, text):
        self.now, self.heard = 100.0, []
        clock = lambda: self.now  # noqa: E731
        bus = Bus()
        self.near = FaultyWire(
            LocalWire(bus, clock), parse_faults(text), clock=clock, sleep=self.wait, live=False
        )
        self.far = LocalWire(bus, clock)
        self.far.subscribe("/a", m.JOINT_STATE, self._hear)
        self.publish = self.near.publisher("/a", m.JOINT_STATE)

    def _hear(self, message, arrived):
        self.heard.append((round(arrived - 100.0, 4), int(message["position"][0])))

    def wait(self, seconds):
        self.now += seconds

    def send(self, count, every=0.01, then=1.0):
        end = 100.0 + count * every + then
        for i in range(round((end - 100.0) / every)):
            if i < count:
                self.publish(state(i))
            self.near.deliver()
            self.now += every
        return [number for _, number in self.heard]


def test_without_faults_all_arrives_at_once_and_in_order():
    line = Line("")
    assert line.send(50) == list(range(50))
    assert [at for at, _ in line.heard] == [round(0.01 * i, 4) for i in range(50)]


def test_latency_and_jitter_never_overtake():
    line = Line("latency:5ms,jitter:195ms,seed:2")
    assert line.send(200, then=0.3) == list(range(200))
    late = np.array([at - 0.01 * number for at, number in line.heard])
    assert late.min() >= 0.005 and 0.1 < late.max() <= 0.21  # delivered every 10 ms


def test_shares_are_what_they_say_and_are_counted():
    line = Line("loss:0.05,duplicate:0.1,reorder:0.2,jitter:5ms,seed:1")
    heard = line.send(4000, every=0.001)
    counts = line.near.counts
    assert counts["lost"] == pytest.approx(200, abs=45)
    assert counts["doubled"] == pytest.approx(300, abs=80)
    assert len(heard) == 4000 - counts["lost"] + counts["doubled"]
    inversions = sum(b < a for a, b in itertools.pairwise(heard))
    assert inversions >= counts["swapped"] > 400
    assert set(range(4000)) - set(heard) and len(set(heard)) == 4000 - counts["lost"]


def test_the_same_seed_does_the_same_and_another_seed_does_not():
    text = "latency:20ms,jitter:30ms,loss:0.1,duplicate:0.1,reorder:0.1,seed:"
    lines = [Line(text + seed) for seed in ("4", "4", "5")]
    for line in lines:
        line.send(300)
    assert lines[0].heard == lines[1].heard != lines[2].heard


def test_topics_do_not_disturb_each_other():
    alone, beside = Line("loss:0.3,seed:1"), Line("loss:0.3,seed:1")
    other = beside.near.publisher("/b", m.JOINT_STATE)
    for i in range(100):
        alone.publish(state(i))
        beside.publish(state(i))
        other(state(i))
    alone.near.deliver(), beside.near.deliver()
    assert alone.heard == beside.heard


def test_a_pulled_cable_loses_and_a_held_link_bursts():
    line = Line("drop:100ms+100ms,hold:300ms+100ms")
    heard = line.send(50)
    assert heard == [*range(10), *range(20, 50)]
    assert line.near.counts == {"silent": 10, "held": 10}
    at = dict((number, when) for when, number in line.heard)
    assert [at[i] for i in range(30, 40)] == [0.4] * 10 and at[29] == 0.29 and at[40] == 0.4


def test_a_silence_takes_what_is_under_way_too():
    line = Line("latency:50ms")
    line.publish(state(1))
    line.near.silence(0.1)
    line.wait(0.2)
    line.near.deliver()
    assert not line.heard
    line.near.silence(0.1, burst=True)
    line.publish(state(2))
    line.wait(0.06)
    assert not line.near.deliver()
    line.wait(0.05)
    assert line.near.deliver() and line.heard == [(0.31, 2)]


def test_states_are_stamped_when_they_arrive():
    line, heard = Line("latency:80ms"), []
    line.near.subscribe("/b", m.JOINT_STATE, lambda message, arrived: heard.append(arrived))
    line.far.publisher("/b", m.JOINT_STATE)(state())
    assert not heard
    line.wait(0.09)
    line.near.deliver()
    assert heard == [pytest.approx(100.09)]


def test_calls_travel_as_long_and_time_out_in_a_silence():
    line = Line("latency:50ms,drop:1s+2s")
    line.far.serve("/stop", m.TRIGGER, lambda _: m.trigger(True))
    assert line.near.call("/stop", m.TRIGGER, {}, 1.0)["success"]
    assert line.now == pytest.approx(100.1)
    with pytest.raises(TimeoutError, match=r"/stop: no answer within 0.08 s"):
        line.near.call("/stop", m.TRIGGER, {}, 0.08)
    line.now = 101.5
    with pytest.raises(TimeoutError):
        line.near.call("/stop", m.TRIGGER, {}, 1.0)
    line.now = 103.1
    assert line.near.call("/stop", m.TRIGGER, {}, 1.0)["success"]


def test_by_its_own_thread_on_the_real_clock():
    bus, heard = Bus(), []
    wire = FaultyWire(LocalWire(bus), Faults(latency=0.02, reorder=0.2, seed=1))
    far = LocalWire(bus)
    far.subscribe("/a", m.JOINT_STATE, lambda x, _: heard.append(int(x["position"][0])))
    publish = wire.publisher("/a", m.JOINT_STATE)
    for i in range(100):
        publish(state(i))
    until(lambda: len(heard) >= 99)
    assert sorted(heard)[:99] == list(range(99)) and heard != sorted(heard)
    wire.close()
    assert not wire.connected
    assert not [t for t in threading.enumerate() if t.name == "faults"]


def test_a_link_that_is_down_takes_nothing():
    line = Line("latency:10ms")
    line.publish(state())
    line.near._wire.close()
    line.wait(0.1)
    assert line.near.deliver() == 1 and line.near.counts["link"] == 1
    with pytest.raises(LinkLost):
        line.near.call("/stop", m.TRIGGER, {}, 1.0)


def test_options_by_name():
    text = "latency:50ms, jitter:10ms,loss:0.05,duplicate:.01,reorder:0.02,drop:5s+2s,drop:9s+1s"
    assert parse_faults(text + ",hold:20s+500ms,seed:3") == Faults(
        0.05, 0.01, 0.05, 0.01, 0.02, ((5.0, 7.0), (9.0, 10.0)), ((20.0, 20.5),), 3
    )
    assert parse_faults("") == Faults()


@pytest.mark.parametrize(
    "text, message",
    [
        ("delay:5ms", "no 'delay'; allowed are latency, jitter, loss, duplicate, reorder, drop"),
        ("latency:50", "latency:'50' is no duration; write it like latency:50ms"),
        ("latency:-5ms", "is no duration"),
        ("latency", "is no duration"),
        ("drop:5s", "write it like drop:5s\\+2s"),
        ("loss:lots", "loss:'lots' is no number"),
        ("loss:5", "loss=5.0; it is a share from 0 to 1"),
        ("hold:5s+0s", "must begin before its end"),
        ("seed:1,seed:2", "seed is given twice"),
        ("latency:1.2.3s", "is no number"),
    ],
)
def test_wrong_options_say_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=message):
        parse_faults(text)

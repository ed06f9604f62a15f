"""F9, a sample: `python -m benchmarks.silence` makes fifty of each. No times are asserted here."""

import random

import pytest

pytest.importorskip("mujoco")
pytest.importorskip("websockets")
pytest.importorskip("zenoh")
pytest.importorskip("rosbags")

from benchmarks import silence


@pytest.fixture(scope="module", params=silence.WIRES)
def bench(request, tmp_path_factory):
    made = silence.Bench(request.param, tmp_path_factory.mktemp("latch"))
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", silence.KINDS)
def test_nothing_old_moves_the_arm_and_nothing_at_all_until_it_is_armed(bench, kind):
    for _ in range(silence.TRIES):
        try:
            seen = bench.trial(kind, 1, random.Random(kind))
            break
        except silence.Unfit:  # the machine was too slow for a steady motion
            continue
    else:
        pytest.skip("this machine is too busy to drive an arm")
    assert (seen.stale, seen.reordered, seen.unarmed) == (0, 0, 0)
    assert seen.overshoot < 0.02 and seen.drift < 0.005 and seen.resumed

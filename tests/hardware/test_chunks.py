import math

import numpy as np
import pytest

from hardware.chunks import (
    Latency,
    Timeline,
    ensemble,
    guidance_weight,
    guided_velocity,
    prefix_weights,
)


def test_ensemble_is_acts():
    predictions = np.array([[1.0, 0.0], [2.0, 0.0], [4.0, 3.0]])
    w = [1.0, math.exp(-0.01), math.exp(-0.02)]
    expected = (1 * w[0] + 2 * w[1] + 4 * w[2]) / sum(w)
    np.testing.assert_allclose(ensemble(predictions), [expected, 3 * w[2] / sum(w)])
    np.testing.assert_allclose(ensemble(predictions, m=0.0), predictions.mean(0))


def test_prefix_weights_published_example():
    found = prefix_weights(2, 6, 10, "linear")
    np.testing.assert_allclose(found, [1, 1, 0.8, 0.6, 0.4, 0.2, 0, 0, 0, 0])
    c = np.array([1, 1, 0.8, 0.6, 0.4, 0.2])
    expected = c * (np.exp(c) - 1) / (math.e - 1)
    np.testing.assert_allclose(prefix_weights(2, 6, 10)[:6], expected)
    assert prefix_weights(2, 6, 10)[2] == pytest.approx(0.570589, abs=1e-6)


def test_prefix_weights_at_the_edges():
    assert prefix_weights(0, 0, 4).tolist() == [0, 0, 0, 0]
    assert prefix_weights(9, 2, 4, "linear").tolist() == [1, 1, 0, 0]
    assert prefix_weights(1, 3, 4, "ones").tolist() == [1, 1, 1, 0]
    assert prefix_weights(1, 3, 4, "zeros").tolist() == [1, 0, 0, 0]
    with pytest.raises(ValueError, match="horizon"):
        prefix_weights(0, 5, 4)


@pytest.mark.parametrize("t, value", [(0.5, 2.0), (0.8, 4.25), (0.9, 5.0), (0.05, 5.0), (0.0, 5.0)])
def test_guidance_weight(t, value):
    """By hand: t = 0.5: 1 * 0.5 / 0.25 = 2; t = 0.8: 0.25 * 0.68 / 0.04 = 4.25."""
    assert guidance_weight(t) == pytest.approx(value)


def test_guidance_makes_a_flow_continue_the_old_chunk():
    """The exact flow to N(free, 1): its denoised chunk is free + k_t (x - t free)."""
    rng = np.random.default_rng(0)
    old, free, x = rng.normal(size=(3, 8, 2)) * [[[3.0]], [[3.0]], [[1.0]]]
    weights, plain, steps = prefix_weights(3, 5, 8), x.copy(), 400
    for i in range(steps):
        t = i / steps
        k = t / (t * t + (1 - t) * (1 - t))
        for chunk, weight in ((x, weights), (plain, 0 * weights)):
            velocity = (free + k * (chunk - t * free) - chunk) / (1.0 - t)
            moved = guided_velocity(velocity, chunk, old, weight, t, lambda e, k=k: k * e)
            chunk += moved / steps
    off, unguided = np.abs(x - old).mean(1), np.abs(plain - old).mean(1)
    assert (off[:3] < 0.35 * unguided[:3]).all()
    assert off[3] < unguided[3]
    np.testing.assert_array_equal(x[5:], plain[5:])


def test_latency_in_steps():
    latency = Latency(window=100, first=0.08)
    assert latency.steps(0.05) == 2
    for _ in range(98):
        latency.add(0.04)
    latency.add(3.0)  # one hiccup
    assert latency.p95 == pytest.approx(0.04) and latency.steps(0.05) == 1
    with pytest.raises(ValueError, match="finite"):
        latency.add(math.nan)


def _ramp(first, count=10, slope=1.0, offset=0.0):
    return offset + slope * (first + 0.1 * np.arange(count))[:, None]


def test_it_is_read_between_steps_and_ends():
    line = Timeline(0.1, fade=0.0)
    assert line.at(5.0) is None
    assert line.add(_ramp(5.0), 5.0, observed=4.9, now=5.0) == 10
    for now in (5.0, 5.03, 5.1, 5.55, 5.9):
        action, observed = line.at(now)
        assert action[0] == pytest.approx(now) and observed == 4.9
    assert line.ahead(5.55) == pytest.approx(0.35)
    assert line.at(5.95) is None and line.ahead(6.2) == 0.0


def test_actions_whose_time_is_past_are_dropped():
    line = Timeline(0.1, fade=0.0)
    assert line.add(_ramp(5.0), 5.0, observed=4.9, now=5.42) == 5
    assert line.dropped == 5
    assert line.at(5.5)[0][0] == pytest.approx(5.5)
    assert line.add(_ramp(5.0), 5.0, observed=5.0, now=6.3) == 0
    assert line.dropped == 15


@pytest.mark.parametrize("merge, value", [("new", 2.0), ("old", 1.0), ("mean", 1.7)])
def test_merging(merge, value):
    line = Timeline(0.1, merge=merge, fade=0.0)
    line.add(np.full((10, 1), 1.0), 0.0, observed=0.0, now=0.0)
    line.add(np.full((10, 1), 2.0), 0.2, observed=0.2, now=0.2)
    assert line.at(0.5)[0][0] == pytest.approx(value)
    assert line.at(1.0)[0][0] == pytest.approx(2.0)


def test_ensembling_over_every_prediction():
    line = Timeline(0.1, merge="ensemble", fade=0.0)
    for k in range(4):
        line.add(np.full((10, 1), float(k)), 0.1 * k, observed=0.1 * k, now=0.1 * k)
    weights = np.exp(-0.01 * np.arange(4))
    assert line.at(0.4)[0][0] == pytest.approx(weights @ np.arange(4) / weights.sum())


def test_a_chunk_that_was_overtaken_changes_nothing():
    line = Timeline(0.1, fade=0.0)
    line.add(np.full((10, 1), 2.0), 0.0, observed=0.3, now=0.0)
    line.add(np.full((10, 1), 1.0), 0.0, observed=0.1, now=0.0)
    assert line.at(0.5)[0][0] == 2.0


def test_replanning_the_same_path_is_on_time():
    """However often, and wherever chunks begin: nothing is shifted and no distance piles up."""
    line, late = Timeline(0.1, fade=0.25), []
    for i in range(300):
        now = 0.01 * i
        if i % 7 == 0:
            line.add(_ramp(now - 0.03, 20), now - 0.03, observed=now - 0.03, now=now)
        late.append(line.at(now)[0][0] - now)
    np.testing.assert_allclose(late[7:], 0.0, atol=1e-9)  # its first action was past


def test_a_new_chunk_is_joined_without_a_jump():
    line = Timeline(0.1, fade=0.3)
    line.add(_ramp(0.0, 20), 0.0, observed=0.0, now=0.0)
    for now in np.arange(0.0, 0.5, 0.01):
        last = line.at(now)[0]
    line.add(_ramp(0.5, 20, offset=0.07), 0.5, observed=0.5, now=0.5)
    path = [last[0]] + [line.at(now)[0][0] for now in np.arange(0.5, 1.2, 0.01)]
    steps = np.abs(np.diff(path))
    assert steps.max() < 0.0128  # 0.01 of the slope and 0.08 spread over 30 readings
    assert path[-1] == pytest.approx(1.19 + 0.07)


def test_what_is_not_a_chunk_is_refused():
    line = Timeline(0.1)
    with pytest.raises(ValueError, match="finite"):
        line.add(np.array([[math.nan]]), 0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="allowed are"):
        Timeline(0.1, merge="median")

"""Scaled observations: exact in the record, honest about what is not finite."""

import json

import numpy as np

import envs
from embodied.core.collector import EnvCollector
from embodied.core.evaluate import Evaluator
from embodied.core.scaling import SMALLEST_STD, ObservationScaling, ScaledPolicy

DATA = np.random.default_rng(0).normal([3.0, -1.0, 7.0], [2.0, 0.1, 0.0], (500, 3))


class Recorder:
    """Remembers what it was shown; acts with zeros."""

    def __init__(self, action_dim=2):
        self.action_dim, self.seen = action_dim, []

    def act(self, observation):
        self.seen.append(observation)
        return np.zeros((len(observation), self.action_dim), np.float32)


def test_data_gets_zero_mean_and_unit_deviation():
    scaled = ObservationScaling.of(DATA)(DATA)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(scaled[:, :2].std(axis=0), 1.0, rtol=1e-4)


def test_constant_columns_are_centred_and_not_blown_up():
    scaling = ObservationScaling.of(DATA)
    assert scaling.scale[2] == np.float32(1.0 / SMALLEST_STD)


def test_the_record_is_exact():
    scaling = ObservationScaling.of(DATA)
    again = ObservationScaling.read(json.loads(json.dumps(scaling.describe())))
    assert again.shift.tobytes() == scaling.shift.tobytes()
    assert again.scale.tobytes() == scaling.scale.tobytes()


def test_non_finite_stays_visible():
    scaled = ObservationScaling.of(DATA)(np.array([np.nan, np.inf, 0.0]))
    assert np.isnan(scaled[0])
    assert np.isinf(scaled[1])


def test_collector_evaluator_and_policy_scale_alike():
    scaling = ObservationScaling(np.array([0.5, -0.5], np.float32), np.array([2, 4], np.float32))
    plain, scaled = (
        EnvCollector(envs.make_vec("maze/point-v0", 2), np.random.default_rng(0), s)
        for s in (None, scaling)
    )
    for _ in range(3):
        a, b = plain.collect(Recorder()), scaled.collect(Recorder())
        np.testing.assert_array_equal(b.observation, scaling(a.observation))
        np.testing.assert_array_equal(b.next_observation, scaling(a.next_observation))
    env = envs.make("maze/point-v0")
    raw, seen, inner = Recorder(), Recorder(), Recorder()
    first, second = Evaluator(env, 1)(raw), Evaluator(env, 1, scaling=scaling)(seen)
    np.testing.assert_array_equal(seen.seen[0], scaling(raw.seen[0]))
    assert first.episodes[0].initial_state == second.episodes[0].initial_state
    ScaledPolicy(inner, scaling).act(raw.seen[0])
    np.testing.assert_array_equal(inner.seen[0], seen.seen[0])

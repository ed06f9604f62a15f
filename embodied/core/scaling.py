"""Observations in units a network can tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from embodied.core.types import Policy

SMALLEST_STD = 0.05  # in the observation's units: constant columns are centred, not blown up


@dataclass(frozen=True)
class ObservationScaling:
    """x -> (x - shift) * scale, fixed for a run and part of its record.

    Non-finite numbers stay non-finite, so that the guards still see them.

    Attributes:
        shift: [O].
        scale: [O].
    """

    shift: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, observations: np.ndarray) -> ObservationScaling:
        """Zero mean and unit deviation over data [n, O]."""
        data = np.asarray(observations, np.float64)
        scale = 1.0 / np.maximum(data.std(axis=0), SMALLEST_STD)
        return cls(data.mean(axis=0).astype(np.float32), scale.astype(np.float32))

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """[..., O] to [..., O], float32."""
        return (np.asarray(observation, np.float32) - self.shift) * self.scale

    def describe(self) -> dict[str, Any]:
        """As JSON values."""
        return {"shift": self.shift.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def read(cls, values: dict[str, Any]) -> ObservationScaling:
        """The inverse of `describe`, exact."""
        return cls(*(np.array(values[name], np.float32) for name in ("shift", "scale")))


@dataclass(frozen=True)
class ScaledPolicy:
    """A policy for raw observations around one trained on scaled ones."""

    policy: Policy
    scaling: ObservationScaling

    def act(self, observation: np.ndarray) -> np.ndarray:
        """[N, O] raw observations to [N, A] actions."""
        return self.policy.act(self.scaling(observation))

    def begin(self, rng: np.random.Generator) -> ScaledPolicy:
        """The policy for one episode, see `evaluate.begun`."""
        own = self.policy.begin(rng) if hasattr(self.policy, "begin") else self.policy
        return ScaledPolicy(own, self.scaling)

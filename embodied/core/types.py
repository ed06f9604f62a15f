"""The records everything exchanges. Imports no torch, so a robot's PC can use them too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

Array: TypeAlias = Any  # numpy array or torch tensor
Batch: TypeAlias = Mapping[str, Array]
Metrics: TypeAlias = dict[str, Any]
State: TypeAlias = dict[str, Any]


class UserError(Exception):
    """Something the user can mend. The command line prints its message without a stack trace."""

    exit_code = 2


@dataclass(slots=True)
class Rollout:
    """B stretches of experience, T steps each: robot steps and generated answers alike.

    A single step of N environments is B = N, T = 1; a whole episode is B = 1; k answers to one
    prompt are B = k, T = longest answer, with ``mask`` 0 on padding.

    Attributes:
        observation: [B, T, ...] observations, or [B, P] prompt tokens.
        action: [B, T, ...] actions, or [B, T] response tokens.
        reward: [B, T] rewards as the environment or verifier gave them.
        next_observation: [B, T, ...] what followed each action; None for text.
        terminated: [B, T] bool, the task ended here (do not bootstrap).
        truncated: [B, T] bool, the stretch was cut here (do bootstrap).
        mask: [B, T] bool, 1 where the step is real; None means all of them.
        log_prob: [B, T] behaviour log-probabilities, where the collector knows them.
        meta: what else is known: success, policy version, seeds, reward-model hash.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_observation: np.ndarray | None = None
    terminated: np.ndarray | None = None
    truncated: np.ndarray | None = None
    mask: np.ndarray | None = None
    log_prob: np.ndarray | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Number of real steps."""
        return int(self.reward.size if self.mask is None else self.mask.sum())


@runtime_checkable
class Stateful(Protocol):
    """Anything whose exact state a checkpoint holds."""

    def state_dict(self) -> State:
        """A nested dict of tensors, arrays and JSON values.

        They may be the live ones: save them or copy them before going on.
        """

    def load_state_dict(self, state: State) -> None:
        """Take over a state; raise if it does not fit."""


class Source(Stateful, Protocol):
    """Where a learner's batches come from."""

    def next(self, n: int) -> Batch:
        """n rows. The arrays are valid until the next call: copy what must live longer."""


class Policy(Protocol):
    """Maps observations to actions."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        """[N, ...] observations to [N, A] actions."""


class Learner(Stateful, Protocol):
    """Turns batches into a better policy. Never sees environments, files or loggers."""

    def update(self, source: Source) -> Metrics:
        """Pull as many batches as the update-to-data ratio asks and take the optimizer steps."""

    def policy(self, deterministic: bool = False) -> Policy:
        """The current policy; it follows later updates."""


class Collector(Stateful, Protocol):
    """Makes experience: steps environments (simulated or real) or generates text."""

    def collect(self, policy: Policy) -> Rollout:
        """One stretch: a step of every environment, or a group of answers."""

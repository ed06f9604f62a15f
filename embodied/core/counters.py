"""What has been done so far. Schedules read these, never loop indices."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields


@dataclass
class Counters:
    """Running totals of one run.

    Attributes:
        env_steps: control steps taken in environments, warm-up included.
        episodes: finished episodes.
        updates: calls of ``Learner.update``.
        samples: rows (transitions, answers) handed to learners.
        tokens: tokens generated.
        wall_time: seconds spent training; the only counter that is not reproducible.
    """

    env_steps: int = 0
    episodes: int = 0
    updates: int = 0
    samples: int = 0
    tokens: int = 0
    wall_time: float = 0.0

    def copy(self) -> Counters:
        """A snapshot."""
        return Counters(**asdict(self))

    def state_dict(self) -> dict[str, float]:
        """All counters by name."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take over all counters."""
        for f in fields(self):
            setattr(self, f.name, state[f.name])


COUNTER_NAMES = tuple(f.name for f in fields(Counters))

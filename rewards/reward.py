"""What every reward is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol


class WrongFacts(ValueError):
    """What is known of a prompt is not what a reward needs; the message says what it is."""


class Reward(Protocol):
    """Rewards answers; a dataclass, whose fields are its settings."""

    FACTS: ClassVar[str]
    """What a prompt's row must say besides, for people."""

    def check(self, facts: Mapping[str, Any]) -> None:
        """Look at what is known of a prompt before anything is asked.

        Raises:
            WrongFacts: it is not what is needed.
        """

    def __call__(self, prompt: str, response: str, facts: Mapping[str, Any]) -> float:
        """The reward of a response, without its end token; 1 and above is a success."""

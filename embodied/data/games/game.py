"""What the games share: a match as a dialogue, players, and positions to imitate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from embodied.data.tiny import END

THINK = "#"
Player = Callable[[str, np.random.Generator], str]
"""(prompt, generator) -> answer."""


@dataclass(frozen=True)
class Game(ABC):
    """Rules of a game between players 0 and 1, as functions of a state that can be hashed.

    A prompt holds all that the player to move knows, so whoever plays needs nothing else.

    Attributes:
        thinking: free tokens before a move at most; with any, an answer ends with an end symbol.
    """

    thinking: int = 0

    @abstractmethod
    def openings(self, count: int, rng: np.random.Generator) -> list[str]:
        """Texts that matches begin from: the deals, or one empty text where there is no chance."""

    @abstractmethod
    def all_openings(self) -> list[str]:
        """Every opening once, all equally likely."""

    @abstractmethod
    def start(self, opening: str) -> Hashable:
        """The state an opening stands for."""

    @abstractmethod
    def player(self, state: Any) -> int:
        """Who moves, 0 or 1."""

    @abstractmethod
    def outcome(self, state: Any) -> tuple[float, float] | None:
        """Rewards of both players at the end, None before it."""

    @abstractmethod
    def play(self, state: Any, move: str) -> Any:
        """The state after a legal move."""

    @abstractmethod
    def prompt(self, state: Any) -> str:
        """What the player to move sees."""

    @abstractmethod
    def legal(self, prompt: str) -> list[str]:
        """Moves."""

    @abstractmethod
    def exact(self, prompt: str) -> dict[str, float]:
        """Probabilities of the moves of a player that no opponent can gain from."""

    def random(self, prompt: str) -> dict[str, float]:
        """Probabilities of the moves of a player that knows the rules and nothing else."""
        moves = self.legal(prompt)
        return dict.fromkeys(moves, 1 / len(moves))

    @property
    def stake(self) -> float:
        """The most that a match can cost a player."""
        return 1.0

    @property
    def move_length(self) -> int:
        """Tokens of the longest move."""
        return 1

    @property
    def response_length(self) -> int:
        """Tokens of the longest answer."""
        ended = self.thinking > 0 or self.move_length > 1
        return self.thinking + self.move_length + ended

    def answer(self, move: str, thoughts: int = 0) -> str:
        """A move as an answer, after some thinking."""
        ended = self.thinking > 0 or self.move_length > 1
        return THINK * thoughts + move + END * ended

    def move(self, answer: str) -> str:
        """The move that an answer makes; the answer itself if it has no such form."""
        thoughts = len(answer) - len(answer.lstrip(THINK))
        return answer.removesuffix(END)[thoughts if thoughts <= self.thinking else 0 :]

    def players(self) -> dict[str, Player]:
        """Opponents that need no model."""

        def player(policy: Callable[[str], dict[str, float]]) -> Player:
            return lambda prompt, rng: self.answer(_drawn(policy(prompt), rng))

        return {"random": player(self.random), "exact": player(self.exact)}

    def begin(self, opening: str) -> Match:
        """A match."""
        return Match(self, opening)

    def problems(self, count: int, rng: np.random.Generator) -> list[str]:
        """Prompts that random play comes by."""
        found: list[str] = []
        while len(found) < count:
            state = self.start(self.openings(1, rng)[0])
            while self.outcome(state) is None and len(found) < count:
                prompt = self.prompt(state)
                found.append(prompt)
                state = self.play(state, _drawn(self.random(prompt), rng))
        return found

    def demonstration(self, prompt: str, rng: np.random.Generator) -> str:
        """A random legal move, after thoughts as many as half of those allowed, on average."""
        thoughts = int(rng.binomial(self.thinking, 0.5))
        return self.answer(_drawn(self.random(prompt), rng), thoughts)


class Match:
    """A game being played.

    Whoever makes an illegal move loses at once, at a price of its own; a match that takes too long
    is a draw.

    Args:
        game: its rules.
        opening: what it begins from.
        penalty: rewards of who made an illegal move, and of the other, in stakes: what is illegal
            must not be cheaper than a loss.
        longest: moves at most.
    """

    def __init__(
        self,
        game: Game,
        opening: str,
        penalty: tuple[float, float] = (-1.5, 0.5),
        longest: int = 50,
    ) -> None:
        self.game, self.penalty, self.longest = game, penalty, longest
        self.state = game.start(opening)
        self.movers: list[int] = []
        self.illegal = False
        self.outcome: tuple[float, float] | None = None

    def ask(self) -> tuple[int, str] | None:
        """Who moves next and what that player sees; None at the end."""
        if self.outcome is not None:
            return None
        return self.game.player(self.state), self.game.prompt(self.state)

    def take(self, answer: str) -> None:
        """Make the move of an answer."""
        player, prompt = self.ask() or _refuse()
        move = self.game.move(answer)
        self.movers.append(player)
        if move not in self.game.legal(prompt):
            self.illegal = True
            mine, other = (share * self.game.stake for share in self.penalty)
            self.outcome = (mine, other) if player == 0 else (other, mine)
            return
        self.state = self.game.play(self.state, move)
        self.outcome = self.game.outcome(self.state)
        if self.outcome is None and len(self.movers) >= self.longest:
            self.outcome = (0.0, 0.0)

    def rewards(self) -> list[float]:
        """Of each turn so far: what its player got in the end, 0 before the end."""
        return [(self.outcome or (0.0, 0.0))[player] for player in self.movers]


def _refuse() -> tuple[int, str]:
    raise RuntimeError("the match is over: nobody is asked for a move")


def _drawn(policy: dict[str, float], rng: np.random.Generator) -> str:
    """A move, by its probability."""
    point = rng.random()
    for move, probability in policy.items():
        point -= probability
        if point < 0:
            return move
    return max(policy, key=policy.__getitem__)  # where rounding left a little

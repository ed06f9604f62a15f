"""Kuhn poker (Kuhn 1950): three cards, one of them each, an ante and a bet of one chip.

Cards are 1 < 2 < 3 (jack, queen, king). The first mover checks or bets; a bet is called or folded.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product
from typing import NamedTuple

import numpy as np

from embodied.data.games.game import Game
from embodied.data.tiny import BEGIN, PAD

CHECK, BET, CALL, FOLD = "cblf"
MOVES = {"": CHECK + BET, CHECK: CHECK + BET, BET: CALL + FOLD, CHECK + BET: CALL + FOLD}
"""By what happened in the hand so far."""
DEALS = ["".join(two) for two in permutations("123", 2)]


class Hand(NamedTuple):
    """A state.

    Attributes:
        deals: the cards of player 0 and player 1, hand after hand.
        number: of the hand, from 0; as many as there are deals at the end.
        history: moves of the hand.
        lead: chips that player 0 has won so far.
        last: what player 0 won in the hand before.
    """

    deals: str
    number: int = 0
    history: str = ""
    lead: int = 0
    last: int = 0


@dataclass(frozen=True)
class Kuhn(Game):
    """Kuhn poker over one hand or several; player 1 moves first in the first, then they alternate.

    Attributes:
        hands: of a match.
        chips: rewards are the chips won; otherwise 1 for who has more, -1 for the other.
        last_hand_wins: the winner of the last hand has won the match, whatever the chips say: a
            bug of the published SPIRAL environment.
        bluff: a in [0, 1/3], which of the equilibria the exact player plays.
    """

    hands: int = 1
    chips: bool = True
    last_hand_wins: bool = False
    bluff: float = 1 / 6

    def __post_init__(self) -> None:
        if not 1 <= self.hands <= 9:
            raise ValueError(f"hands must lie in 1 to 9, got {self.hands}")
        if not 0 <= self.bluff <= 1 / 3:
            raise ValueError(f"bluff must lie in 0 to 1/3, got {self.bluff}")

    @property
    def stake(self) -> float:
        """Ante and bet of every hand, in chips."""
        return 2.0 * self.hands if self.chips else 1.0

    def openings(self, count: int, rng: np.random.Generator) -> list[str]:
        """Deals, all equally likely."""
        drawn = rng.integers(0, len(DEALS), (count, self.hands))
        return ["".join(DEALS[i] for i in row) for row in drawn]

    def all_openings(self) -> list[str]:
        """Every deal."""
        return ["".join(deals) for deals in product(DEALS, repeat=self.hands)]

    def start(self, opening: str) -> Hand:
        """The first hand of the deals."""
        return Hand(opening)

    def player(self, state: Hand) -> int:
        """Who moves."""
        return (1 + state.number + len(state.history)) % 2

    def outcome(self, state: Hand) -> tuple[float, float] | None:
        """At the end of the last hand."""
        if state.number < self.hands:
            return None
        won = float(state.last if self.last_hand_wins else state.lead)
        if not self.chips:
            won = float(np.sign(won))
        return won, -won

    def play(self, state: Hand, move: str) -> Hand:
        """Go on, to the next hand if this one is over."""
        mover, history = self.player(state), state.history + move
        if history in MOVES:
            return state._replace(history=history)
        if move == FOLD:
            won = 1 if mover == 1 else -1
        else:
            mine, other = state.deals[2 * state.number : 2 * state.number + 2]
            won = (2 if move == CALL else 1) * (1 if mine > other else -1)
        return Hand(state.deals, state.number + 1, "", state.lead + won, won)

    def prompt(self, state: Hand) -> str:
        """Player, card, moves of the hand, its number, and own lead in chips plus 20."""
        player = self.player(state)
        card = state.deals[2 * state.number + player]
        lead = 20 + (state.lead if player == 0 else -state.lead)
        return f"{BEGIN}k{player}{card}{state.history.ljust(2, PAD)}{state.number + 1}{lead:02d}:"

    def prompts(self) -> list[str]:
        """Every prompt of a match of one hand."""
        return [
            self.prompt(Hand(deal, history=history))
            for history in MOVES
            for deal in ("12", "23", "31")  # each card once, for either player
        ]

    def legal(self, prompt: str) -> list[str]:
        """Check or bet; call or fold."""
        return list(MOVES[prompt[4:6].rstrip(PAD)])

    def exact(self, prompt: str) -> dict[str, float]:
        """An equilibrium of a single hand; of several ones only where chips are what counts."""
        card, history, a = prompt[3], prompt[4:6].rstrip(PAD), self.bluff
        active = {
            "": {"1": a, "2": 0.0, "3": 3 * a},
            CHECK: {"1": 1 / 3, "2": 0.0, "3": 1.0},
            BET: {"1": 0.0, "2": 1 / 3, "3": 1.0},
            CHECK + BET: {"1": 0.0, "2": a + 1 / 3, "3": 1.0},
        }[history][card]
        if BET in history:
            return {CALL: active, FOLD: 1 - active}
        return {CHECK: 1 - active, BET: active}

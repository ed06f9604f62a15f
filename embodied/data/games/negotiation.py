"""Simple Negotiation: two players trade wood and gold, and who gains more of own value has won.

Wood is worth 5 and gold 15 to player 0, the other way round to player 1, so a trade may help both;
yet only the difference decides. Each accepted trade moves it by the difference of the numbers
traded, so whoever gives less than he gets comes out ahead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from embodied.data.games.game import Game
from embodied.data.tiny import BEGIN, PAD

ACCEPT, DENY = "A", "D"
WOOD, GOLD = "wg"
VALUES = ({WOOD: 5, GOLD: 15}, {WOOD: 15, GOLD: 5})
MOST = 9  # of a resource in one offer: a digit
LONGEST = 4  # symbols of an offer


class Talk(NamedTuple):
    """A state.

    Attributes:
        turn: from 0; player 0 speaks on even ones.
        wood: of player 0.
        gold: of player 0.
        offer: what the other player put forward in the turn before, or nothing.
    """

    turn: int
    wood: int
    gold: int
    offer: str = ""


@dataclass(frozen=True)
class Negotiation(Game):
    """Offers such as w3g2, 3 wood given for 2 gold; A accepts the last one, D denies it.

    An offer in reply denies the one before.

    Attributes:
        stock: of each resource, for each player.
        turns: of both together.
    """

    stock: int = 10
    turns: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.stock <= 49 or not 1 <= self.turns <= 10:
            raise ValueError(f"stock must lie in 1 to 49 and turns in 1 to 10, got {self}")

    @property
    def move_length(self) -> int:
        """An offer."""
        return LONGEST

    def openings(self, count: int, rng: np.random.Generator) -> list[str]:
        """No chance: the same empty opening."""
        return [""] * count

    def all_openings(self) -> list[str]:
        """The one there is."""
        return [""]

    def start(self, opening: str) -> Talk:
        """Equal stocks."""
        return Talk(0, self.stock, self.stock)

    def player(self, state: Talk) -> int:
        """Who speaks."""
        return state.turn % 2

    def worth(self, state: Talk, player: int) -> int:
        """What a player's stock is worth to that player."""
        wood, gold = self._stock(state, player)
        return wood * VALUES[player][WOOD] + gold * VALUES[player][GOLD]

    def outcome(self, state: Talk) -> tuple[float, float] | None:
        """After the last turn: 1 for the larger gain."""
        if state.turn < self.turns:
            return None
        start = self.start("")
        gains = [self.worth(state, player) - self.worth(start, player) for player in (0, 1)]
        won = float(np.sign(gains[0] - gains[1]))
        return won, -won

    def play(self, state: Talk, move: str) -> Talk:
        """Trade, or put an offer forward."""
        turn, wood, gold = state.turn + 1, state.wood, state.gold
        if move == ACCEPT:
            sign = 1 if self.player(state) == 0 else -1  # what the other gives, player 0 gets
            given, much, taken, many = _parts(state.offer)
            change = {given: sign * much, taken: -sign * many}
            return Talk(turn, wood + change[WOOD], gold + change[GOLD])
        return Talk(turn, wood, gold, "" if move == DENY else move)

    def prompt(self, state: Talk) -> str:
        """Player, turn, own wood and gold, their values, and the offer to answer."""
        player = self.player(state)
        wood, gold = self._stock(state, player)
        values = f"{VALUES[player][WOOD]:02d}{VALUES[player][GOLD]:02d}"
        offer = state.offer.ljust(LONGEST, PAD)
        return f"{BEGIN}n{player}{state.turn}{wood:02d}{gold:02d}{values}{offer}:"

    def legal(self, prompt: str) -> list[str]:
        """Offers that both could keep, and an answer where one is awaited."""
        stock, offer = _read(prompt)
        moves = []
        if offer:
            _, _, taken, many = _parts(offer)
            moves = [ACCEPT, DENY] if stock[taken] >= many else [DENY]
        for given, taken in ((WOOD, GOLD), (GOLD, WOOD)):
            most, wanted = min(MOST, stock[given]), min(MOST, 2 * self.stock - stock[taken])
            moves += [
                f"{given}{a}{taken}{b}" for a in range(1, most + 1) for b in range(1, wanted + 1)
            ]
        return moves or [DENY]

    def random(self, prompt: str) -> dict[str, float]:
        """Accept, deny or offer, equally likely; then any offer."""
        moves = self.legal(prompt)
        short = [move for move in moves if move in (ACCEPT, DENY)]
        offers = [move for move in moves if move not in short]
        kinds = len(short) + bool(offers)
        return dict.fromkeys(short, 1 / kinds) | {m: 1 / kinds / len(offers) for m in offers}

    def exact(self, prompt: str) -> dict[str, float]:
        """Accept what gets ahead, and offer nothing that falls behind: no opponent can win."""
        moves, (_, offer) = self.legal(prompt), _read(prompt)
        if ACCEPT in moves:
            _, much, _, many = _parts(offer)
            if much > many:
                return {ACCEPT: 1.0}
        greedy = [m for m in moves if m not in (ACCEPT, DENY) and _parts(m)[1] < _parts(m)[3]]
        return dict.fromkeys(greedy, 1 / len(greedy)) if greedy else {DENY: 1.0}

    def _stock(self, state: Talk, player: int) -> tuple[int, int]:
        both = 2 * self.stock
        if player == 0:
            return state.wood, state.gold
        return both - state.wood, both - state.gold


def _parts(offer: str) -> tuple[str, int, str, int]:
    """What is given, how much, what is taken, how much: from the side of who offers."""
    return offer[0], int(offer[1]), offer[2], int(offer[3])


def _read(prompt: str) -> tuple[dict[str, int], str]:
    """Own stock, and the offer to answer."""
    wood, gold, offer = re.fullmatch(r".{4}(\d\d)(\d\d)\d{4}(.{4}):", prompt).groups()
    return {WOOD: int(wood), GOLD: int(gold)}, offer.rstrip(PAD)

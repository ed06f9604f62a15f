"""Two-player zero-sum games of one line, with what is exactly true of them."""

from embodied.data.games.game import Game, Match, Player
from embodied.data.games.kuhn import Kuhn
from embodied.data.games.negotiation import Negotiation
from embodied.data.games.tictactoe import TicTacToe

__all__ = ["GAMES", "Game", "Kuhn", "Match", "Negotiation", "Player", "TicTacToe"]

GAMES: dict[str, type[Game]] = {
    "tictactoe": TicTacToe,
    "kuhn": Kuhn,
    "negotiation": Negotiation,
}

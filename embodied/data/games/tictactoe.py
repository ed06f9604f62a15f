"""TicTacToe: cells 0 to 8 row by row; player 0 plays `o` and moves first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from embodied.data.games.game import Game
from embodied.data.tiny import BEGIN, PAD

MARKS, EMPTY = "ox", PAD
ROWS = ((0, 1, 2), (3, 4, 5), (6, 7, 8))
COLUMNS = ((0, 3, 6), (1, 4, 7), (2, 5, 8))
LINES = (*ROWS, *COLUMNS, (0, 4, 8), (2, 4, 6))


@dataclass(frozen=True)
class TicTacToe(Game):
    """A state is the board, a text of nine cells."""

    def openings(self, count: int, rng: np.random.Generator) -> list[str]:
        """No chance: the same empty opening."""
        return [""] * count

    def all_openings(self) -> list[str]:
        """The empty board."""
        return [""]

    def start(self, opening: str) -> str:
        """The empty board."""
        return EMPTY * 9

    def player(self, state: str) -> int:
        """Who moves."""
        return (9 - state.count(EMPTY)) % 2

    def outcome(self, state: str) -> tuple[float, float] | None:
        """1 for the winner, -1 for the loser, 0 for both in a draw."""
        return _outcome(state)

    def play(self, state: str, move: str) -> str:
        """Mark a cell."""
        cell = int(move)
        return state[:cell] + MARKS[self.player(state)] + state[cell + 1 :]

    def prompt(self, state: str) -> str:
        """Whose mark the player has, and the board."""
        return f"{BEGIN}t{MARKS[self.player(state)]}{state}:"

    def legal(self, prompt: str) -> list[str]:
        """Empty cells."""
        return [str(i) for i, cell in enumerate(prompt[3:-1]) if cell == EMPTY]

    def exact(self, prompt: str) -> dict[str, float]:
        """All moves that keep the value of the position, equally likely."""
        board = prompt[3:-1]
        sign = 1 - 2 * self.player(board)
        values = {move: sign * value(self.play(board, move)) for move in self.legal(prompt)}
        best = [move for move, worth in values.items() if worth == max(values.values())]
        return dict.fromkeys(best, 1 / len(best))


@cache
def _outcome(board: str) -> tuple[float, float] | None:
    for mark, result in zip(MARKS, ((1.0, -1.0), (-1.0, 1.0)), strict=True):
        if any(all(board[i] == mark for i in line) for line in LINES):
            return result
    return None if EMPTY in board else (0.0, 0.0)


@cache
def value(board: str) -> float:
    """What player 0 gets if both play without a mistake."""
    game = TicTacToe()
    outcome = game.outcome(board)
    if outcome is not None:
        return outcome[0]
    best = max if game.player(board) == 0 else min
    return best(value(game.play(board, move)) for move in game.legal(game.prompt(board)))

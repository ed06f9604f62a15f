"""TicTacToe: cells 0 to 8 row by row; player 0 plays `o` and moves first.

A prompt has a symbol of its own for each cell and what is in it: an empty cell is the digit that
takes it, the player's own marks are `a` to `i`, the other's `A` to `I`. Of a board written as nine
equal marks a small model sees how many there are long before it sees where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from embodied.data.games.game import Game
from embodied.data.tiny import BEGIN, PAD

MARKS, EMPTY = "ox", PAD
FREE, OWN, OTHERS = "012345678", "abcdefghi", "ABCDEFGHI"
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
        """Whose mark the player has, and the cells as this player sees them."""
        player = self.player(state)
        symbols = {EMPTY: FREE, MARKS[player]: OWN, MARKS[1 - player]: OTHERS}
        cells = "".join(symbols[mark][cell] for cell, mark in enumerate(state))
        return f"{BEGIN}t{MARKS[player]}{cells}:"

    def legal(self, prompt: str) -> list[str]:
        """Empty cells."""
        return [cell for cell in prompt[3:-1] if cell in FREE]

    def exact(self, prompt: str) -> dict[str, float]:
        """All moves that keep the value of the position, equally likely."""
        board = self.board(prompt)
        sign = 1 - 2 * self.player(board)
        values = {move: sign * value(self.play(board, move)) for move in self.legal(prompt)}
        best = [move for move, worth in values.items() if worth == max(values.values())]
        return dict.fromkeys(best, 1 / len(best))

    def board(self, prompt: str) -> str:
        """The state that a prompt shows."""
        own = prompt[2]
        marks = dict.fromkeys(FREE, EMPTY) | dict.fromkeys(OWN, own)
        marks |= dict.fromkeys(OTHERS, MARKS[1 - MARKS.index(own)])
        return "".join(marks[cell] for cell in prompt[3:-1])


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

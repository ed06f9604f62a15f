"""What is exactly true of a game: values of policies and best responses, by enumeration.

A policy maps a prompt to the probabilities of its moves. The prompt is the player's information, so
a best response chooses one move for all states that share it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from embodied.data.games.game import Game

Policy = Callable[[str], dict[str, float]]


def outcomes(game: Game, first: Policy, second: Policy) -> dict[float, float]:
    """Probability of each reward of player 0, where player 0 plays `first` and 1 `second`."""
    policies, found = (first, second), defaultdict(float)
    layer = _merged((game.start(o), 1.0) for o in game.all_openings())
    scale = len(game.all_openings())
    while layer:
        following = []
        for state, weight in layer.items():
            ended = game.outcome(state)
            if ended is not None:
                found[ended[0]] += weight / scale
                continue
            policy = policies[game.player(state)](game.prompt(state))
            following += [(game.play(state, move), weight * p) for move, p in policy.items() if p]
        layer = _merged(following)
    return dict(found)


def value(game: Game, first: Policy, second: Policy) -> float:
    """Mean reward of player 0."""
    return sum(reward * p for reward, p in outcomes(game, first, second).items())


def best_response(game: Game, player: int, opponent: Policy) -> float:
    """The most `player` can get, on average, from an opponent that does not change."""
    known: dict[Any, float] = {}

    def worth(states: dict[Any, float]) -> float:
        """Weighted reward from states that the player cannot tell apart by what came before."""
        total, mine = 0.0, defaultdict(list)
        while states:
            following = []
            for state, weight in states.items():
                ended = game.outcome(state)
                if ended is not None:
                    total += weight * ended[player]
                elif game.player(state) == player:
                    mine[game.prompt(state)].append((state, weight))
                else:
                    policy = opponent(game.prompt(state))
                    following += [(game.play(state, m), weight * p) for m, p in policy.items() if p]
            states = _merged(following)
        return total + sum(chosen(prompt, group) for prompt, group in mine.items())

    def chosen(prompt: str, group: list[tuple[Any, float]]) -> float:
        """Weighted reward of the best move at one prompt."""
        if len(group) == 1 and group[0][0] in known:
            return group[0][1] * known[group[0][0]]
        best = max(
            worth(_merged((game.play(state, move), weight) for state, weight in group))
            for move in game.legal(prompt)
        )
        if len(group) == 1:
            known[group[0][0]] = best / group[0][1]
        return best

    openings = game.all_openings()
    return worth(_merged((game.start(o), 1 / len(openings)) for o in openings))


def exploitability(game: Game, policy: Policy) -> float:
    """Mean over both roles of what a best response gets from a policy; 0 in equilibrium."""
    return (best_response(game, 0, policy) + best_response(game, 1, policy)) / 2


def minimax(game: Game, state: Any) -> float:
    """What player 0 gets under perfect play, in a game without chance or hidden information."""
    known: dict[Any, float] = {}

    def search(state: Any) -> float:
        ended = game.outcome(state)
        if ended is not None:
            return ended[0]
        if state not in known:
            best = max if game.player(state) == 0 else min
            moves = game.legal(game.prompt(state))
            known[state] = best(search(game.play(state, move)) for move in moves)
        return known[state]

    return search(state)


def _merged(weighted: Iterable[tuple[Any, float]]) -> dict[Any, float]:
    """States with their weights, each once."""
    found: dict[Any, float] = defaultdict(float)
    for state, weight in weighted:
        found[state] += weight
    return found

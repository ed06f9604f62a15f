"""Games: what is exactly true of them, their rules, and players that keep to them."""

import dataclasses
from itertools import product

import numpy as np
import pytest

from embodied.data.games import GAMES, Kuhn, Negotiation, TicTacToe
from embodied.data.games.negotiation import Talk
from embodied.data.games.solve import best_response, exploitability, minimax, outcomes, value
from embodied.data.tiny import SYMBOLS

every_game = pytest.mark.parametrize("game", [*(g() for g in GAMES.values()), Kuhn(hands=5)])


def test_tictactoe_between_random_players():
    game = TicTacToe()
    found = outcomes(game, game.random, game.random)
    assert found[1.0] == pytest.approx(0.584921, abs=1e-6)
    assert found[-1.0] == pytest.approx(0.288095, abs=1e-6)
    assert found[0.0] == pytest.approx(0.126984, abs=1e-6)
    mean = value(game, game.random, game.random)
    assert mean == pytest.approx(0.296825, abs=1e-6)
    assert sum(r * r * p for r, p in found.items()) - mean**2 == pytest.approx(0.784911, abs=1e-5)


def test_tictactoe_with_perfect_players():
    game = TicTacToe()
    assert minimax(game, game.start("")) == 0
    assert outcomes(game, game.exact, game.exact) == pytest.approx({0.0: 1.0})
    assert best_response(game, 0, game.random) == pytest.approx(0.994792, abs=1e-6)
    assert best_response(game, 1, game.random) == pytest.approx(0.924868, abs=1e-6)
    assert best_response(game, 0, game.exact) == best_response(game, 1, game.exact) == 0


def test_each_player_sees_every_mark_of_every_cell_apart():
    game = TicTacToe()
    assert game.prompt("_________") == "^to012345678:"
    assert game.prompt("o___x____") == "^toa123E5678:"
    assert game.prompt("o___x___o") == "^txA123e567I:"
    for board in ("o___x____", "o___x___o"):
        prompt = game.prompt(board)
        assert game.board(prompt) == board
        assert game.legal(prompt) == [str(i) for i in range(9) if board[i] == "_"]
    rng = np.random.default_rng(0)
    prompts = game.problems(500, rng)
    symbols = {(i, cell) for prompt in prompts for i, cell in enumerate(prompt[3:-1])}
    assert len(symbols) == len({cell for _, cell in symbols}) == 27


@pytest.mark.parametrize("board, best", [("oo_xx____", "2"), ("o___x___o", "1357")])
def test_the_exact_player_reads_the_prompt(board, best):
    """To win at once, and the corner trap: the second player must take an edge."""
    game = TicTacToe()
    assert "".join(game.exact(game.prompt(board))) == best


@pytest.mark.parametrize("bluff", [0, 1 / 6, 1 / 3])
def test_kuhn_in_equilibrium(bluff):
    game = Kuhn(bluff=bluff)
    assert -value(game, game.exact, game.exact) == pytest.approx(-1 / 18)  # player 1 moves first
    assert exploitability(game, game.exact) == pytest.approx(0, abs=1e-12)


def test_kuhn_of_uniform_players():
    game = Kuhn()
    assert -value(game, game.random, game.random) == pytest.approx(1 / 8)
    assert best_response(game, 1, game.random) == pytest.approx(1 / 2)
    assert best_response(game, 0, game.random) == pytest.approx(5 / 12)
    assert exploitability(game, game.random) == pytest.approx(0.4583, abs=1e-4)


def play(game, opening, moves):
    match = game.begin(opening)
    for move in moves:
        match.take(game.answer(move))
    return match


def test_five_hands_and_the_published_bug():
    deals, moves = "13" * 4 + "31", "bf" * 4 + "bl"
    # player 1 opens hands 1, 3, 5 and player 0 hands 2 and 4; the last one costs player 1 two chips
    match = play(Kuhn(hands=5, chips=False), deals, "bfbf" * 2 + "bl")
    assert match.movers == [1, 0, 0, 1, 1, 0, 0, 1, 1, 0]
    assert match.state.lead == -1 + 1 - 1 + 1 + 2 and match.outcome == (1, -1)
    behind = play(Kuhn(hands=5, chips=False), deals, "bf" + "cc" + "bf" + "cc" + "cc")
    assert behind.state.lead == -3 and behind.outcome == (-1, 1)
    bug = play(Kuhn(hands=5, chips=False, last_hand_wins=True), deals, "bf" + "cc" + "bf" + "cccc")
    assert bug.state.lead == -3 and bug.outcome == (1, -1)
    assert play(Kuhn(hands=5), deals, moves).outcome == (2, -2)


def test_negotiation_by_the_book():
    game = Negotiation()
    start = game.start("")
    assert game.worth(start, 0) == game.worth(start, 1) == 200
    match = play(game, "", ["w3g2", "A"])
    assert game.worth(match.state, 0) - 200 == 15 and game.worth(match.state, 1) - 200 == 35
    moves = [m for _ in range(4) for m in ("w1g1", "D")]
    match = play(game, "", ["w3g2", "A", *moves])
    assert match.outcome == (-1, 1) and match.ask() is None
    poor = game.prompt(Talk(1, 10, 18, "w1g3"))  # player 1 has two gold left
    assert "A" not in game.legal(poor) and "D" in game.legal(poor)


def test_negotiation_cannot_be_won_against_the_exact_player():
    game = Negotiation(stock=2, turns=4)
    assert minimax(game, game.start("")) == 0
    assert best_response(game, 0, game.exact) == best_response(game, 1, game.exact) == 0
    assert best_response(game, 0, game.random) > 0


@every_game
def test_players_keep_to_the_rules(game):
    rng = np.random.default_rng(0)
    players = game.players()
    for opening, (first, second) in product(
        game.openings(20, rng), product(players.values(), repeat=2)
    ):
        match = game.begin(opening)
        while (asked := match.ask()) is not None:
            player, prompt = asked
            assert set(prompt) <= set(SYMBOLS)
            answer = (first, second)[player](prompt, rng)
            assert len(answer) <= game.response_length and set(answer) <= set(SYMBOLS)
            match.take(answer)
        assert not match.illegal and sum(match.outcome) == 0
        assert match.rewards() == [match.outcome[player] for player in match.movers]


@every_game
def test_an_illegal_move_ends_a_match(game):
    match = game.begin(game.openings(1, np.random.default_rng(0))[0])
    player, _ = match.ask()
    match.take("?")
    offender, other = -1.5 * game.stake, 0.5 * game.stake
    assert match.illegal
    assert match.outcome == ((offender, other) if player == 0 else (other, offender))
    with pytest.raises(RuntimeError, match="over"):
        match.take("?")


@pytest.mark.parametrize("hands, chips", [(1, True), (2, True), (2, False)])
def test_an_illegal_move_costs_more_than_any_loss(hands, chips):
    game = Kuhn(hands=hands, chips=chips)
    lost = [-reward for reward in outcomes(game, game.random, game.random)]
    assert max(lost) == game.stake
    match = game.begin(game.all_openings()[0])
    match.take("?")
    assert min(match.outcome) < -max(lost)


@every_game
def test_positions_to_imitate(game):
    rng = np.random.default_rng(0)
    thoughtful = dataclasses.replace(game, thinking=8)
    for prompt in game.problems(50, rng):
        assert game.move(game.demonstration(prompt, rng)) in game.legal(prompt)
        answer = thoughtful.demonstration(prompt, rng)
        assert thoughtful.move(answer) in game.legal(prompt)
        assert len(answer) <= thoughtful.response_length
        assert sum(game.exact(prompt).values()) == pytest.approx(1)
    assert len({len(prompt) for prompt in game.problems(50, rng)}) == 1


def test_a_match_that_takes_too_long():
    match = Negotiation().begin("")
    match.longest = 2
    for _ in range(2):
        match.take("w1g1.")
    assert match.outcome == (0, 0)


def test_matches_of_impossible_kinds():
    with pytest.raises(ValueError, match="hands"):
        Kuhn(hands=0)
    with pytest.raises(ValueError, match="bluff"):
        Kuhn(bluff=0.5)
    with pytest.raises(ValueError, match="stock"):
        Negotiation(stock=50)

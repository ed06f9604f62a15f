"""From settings to a game: the model that learns it, and matches against players known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embodied import text
from embodied.core.seeding import Streams
from embodied.core.types import UserError
from embodied.data.games import GAMES, Game, Kuhn
from embodied.data.games.kuhn import BET, CALL
from embodied.data.games.solve import exploitability
from embodied.data.text import Example
from embodied.llm.collector import LanguagePolicy
from embodied.llm.dialogue import Speaker, play
from embodied.llm.task import Player, TextTask, padded_ids
from embodied.questions import QuestionEvaluator, Reply
from embodied.settings import Settings, TrainSettings
from policies.sampling import Sampling

SIDES = [(name, role) for name in ("random", "exact") for role in (0, 1)]


class GameEvaluator(QuestionEvaluator):
    """Plays the same matches every time: a quarter each against a random and an exact player, as
    player 0 and as player 1.

    A success is a match won. The metrics add, by opponent and role, the score (a draw counts half)
    and the share of draws, and the share of matches lost by an illegal move of the model.

    Args:
        game: what is played.
        matches: how many.
        sampling: see `QuestionEvaluator`, as what follows.
        seed: the same; also draws openings and the opponents' moves.
    """

    def __init__(self, game: Game, matches: int, sampling: Sampling, seed: int = 0) -> None:
        super().__init__(game.openings(matches, Streams(seed).numpy("questions")), sampling, seed)
        self.game = game

    def ask(self, policy: LanguagePolicy, some: Sequence[int]) -> list[Reply]:
        """One match from each opening."""
        rng = Streams(self.seed).numpy(f"opponents/{some[0]}")
        players = {name: _speaker(p, rng) for name, p in self.game.players().items()}
        matches = [self.game.begin(self.prompts[i]) for i in some]
        sides = [SIDES[i % len(SIDES)] for i in some]
        taken = play(matches, policy, [(players[name], role) for name, role in sides])
        moves: list[list[np.ndarray]] = [[] for _ in some]
        for turn in taken:
            moves[turn.episode].append(turn.answer)
        replies = []
        for match, (opponent, role), mine in zip(matches, sides, moves, strict=True):
            won = match.outcome[role]
            tokens = np.concatenate(mine) if mine else np.zeros(0, np.int64)
            details = f"{opponent}/{role}", won, match.illegal
            replies.append(Reply(won, won > 0, tokens, len(mine), details))
        return replies

    def metrics(self, policy: LanguagePolicy, details: list[Any]) -> dict[str, float]:
        """See above; of one hand of Kuhn poker also what is known exactly."""
        metrics = _scores(details)
        if isinstance(self.game, Kuhn) and self.game.hands == 1:
            metrics |= at_kuhn(self.game, policy)
        return metrics


def _speaker(player: Player, rng: np.random.Generator) -> Speaker:
    return lambda prompts: [player(prompt, rng) for prompt in prompts]


def _scores(results: Sequence[tuple[str, float, bool]]) -> dict[str, float]:
    """Score, draws and illegal moves from (side, reward, illegal) of each match."""
    metrics = {}
    for side in sorted({side for side, _, _ in results}):
        won = np.array([reward for name, reward, _ in results if name == side])
        metrics[f"score/{side}"] = float(np.mean((np.sign(won) + 1) / 2))
        metrics[f"draws/{side}"] = float(np.mean(won == 0))
    return metrics | {"illegal": float(np.mean([illegal for _, _, illegal in results]))}


def at_kuhn(game: Kuhn, policy: LanguagePolicy) -> dict[str, float]:
    """Probability of betting or calling at each prompt of a hand, and the exploitability."""
    prompts = game.prompts()
    table = dict(zip(prompts, move_chances(game, policy, prompts), strict=True))
    metrics = {
        f"kuhn/{prompt}": table[prompt].get(BET, table[prompt].get(CALL)) for prompt in prompts
    }
    return metrics | {"exploitability": exploitability(game, table.__getitem__)}


def move_chances(
    game: Game, policy: LanguagePolicy, prompts: Sequence[str]
) -> list[dict[str, float]]:
    """Probabilities of the legal moves at each prompt, where a move is one token.

    Illegal ones are left out of the sum; moves are made without thinking first.
    """
    model = policy.model
    ids, mask = padded_ids(model, prompts, left=True)
    nothing = torch.full((len(prompts), 1), model.pad, device=model.device)
    with torch.no_grad():
        chances = model.logits(ids, mask, nothing, torch.ones_like(nothing))[:, 0].softmax(-1)
    number = model.tokenizer.convert_tokens_to_ids
    found = []
    for prompt, row in zip(prompts, chances.double().tolist(), strict=True):
        legal = {move: row[number(move)] for move in game.legal(prompt)}
        total = sum(legal.values())
        found.append({move: chance / total for move, chance in legal.items()})
    return found


def build(settings: Settings, device: str) -> tuple[TextTask, GameEvaluator, dict[str, Any]]:
    """Model and game of a run, its evaluator, and what run.json says of them.

    Raises:
        UserError: an option of the game is wrong, or data was given.
    """
    train = settings.train
    game = _game(train)
    if train.data:
        raise UserError(f"task={train.task} makes its own positions; leave data out")
    model = text.load_model(train, game, device)
    streams = Streams(train.seed)
    rng = streams.numpy("task")
    positions = game.problems(text.PROMPTS, rng)
    about = {
        "env": f"{text.TINY}/{train.task}",
        "env_args": asdict(game),
        "env_hash": text.fingerprint([train.task, asdict(game)]),
        "model": train.model,
        "dataset": None,
        "observation_scaling": None,
    }
    task = TextTask(
        model,
        streams,
        prompts=game.openings(text.PROMPTS, rng),
        longest=train.longest or game.response_length,
        examples=[Example(prompt, game.demonstration(prompt, rng)) for prompt in positions],
        begin=game.begin,
        players=game.players(),
        about=about,
    )
    sampling = Sampling(task.longest)
    evaluator = GameEvaluator(game, train.evaluation.episodes, sampling, train.evaluation.seed)
    return task, evaluator, about


def _game(train: TrainSettings) -> Game:
    """The game with its options."""
    try:
        return GAMES[train.task](**train.task_args)
    except (TypeError, ValueError) as error:
        raise UserError(f"task={train.task}: {error}") from error


def command(run: str | Path, overrides: Sequence[str]) -> int:
    """Play matches with what a run has learnt and print the scores.

    Args:
        run: run directory.
        overrides: episodes=N, a quarter of them per opponent and role, and seed=N.
    """
    from embodied.loading import load

    options = {"episodes": 400, "seed": 0}
    for override in overrides:
        key, _, value = override.partition("=")
        if key not in options or not value.isdecimal():
            raise UserError(
                f"embodied eval of a game takes episodes=N and seed=N, not {override!r}"
            )
        options[key] = int(value)
    if options["episodes"] < len(SIDES):
        raise UserError(f"episodes must be at least {len(SIDES)}, one per opponent and role")
    learnt = load(run)
    policy = learnt.policy(deterministic=False)
    evaluator = GameEvaluator(
        _game(learnt.settings.train), options["episodes"], policy.sampling, options["seed"]
    )
    result = evaluator(policy)
    for opponent, role in SIDES:
        side = f"{opponent}/{role}"
        score, draws = (result.metrics[f"{kind}/{side}"] for kind in ("score", "draws"))
        print(f"against {opponent}, as player {role}: score {score:.3f}, draws {draws:.3f}")
    print(f"{len(result.episodes)} matches, {result.metrics['illegal']:.1%} with an illegal move")
    return 0

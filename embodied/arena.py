"""From settings to a game: the model that learns it, and matches against players known exactly."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embodied import text
from embodied.core.checkpoint import digest
from embodied.core.evaluate import Episode, Evaluation
from embodied.core.seeding import Streams
from embodied.core.types import UserError
from embodied.data.games import GAMES, Game, Kuhn
from embodied.data.games.kuhn import BET, CALL
from embodied.data.games.solve import exploitability
from embodied.data.text import Example
from embodied.llm.collector import LanguagePolicy
from embodied.llm.dialogue import Speaker, Turn, play
from embodied.llm.task import Player, TextTask, padded_ids
from embodied.settings import Settings, TrainSettings
from policies.sampling import Sampling

SIDES = [(name, role) for name in ("random", "exact") for role in (0, 1)]


class GameEvaluator:
    """Plays the same matches every time: a quarter each against a random and an exact player, as
    player 0 and as player 1.

    A success is a match won. The metrics add, by opponent and role, the score (a draw counts half)
    and the share of draws, and the share of matches lost by an illegal move of the model.

    Args:
        game: what is played.
        matches: how many.
        sampling: how the model moves.
        seed: draws openings and moves, whatever was drawn before.
        batch: matches played together.
    """

    def __init__(
        self, game: Game, matches: int, sampling: Sampling, seed: int = 0, batch: int = 256
    ) -> None:
        self.game, self.sampling, self.seed, self.batch = game, sampling, seed, batch
        self.openings = game.openings(matches, Streams(seed).numpy("questions"))

    def __call__(
        self,
        policy: LanguagePolicy,
        indices: Sequence[int] | None = None,
        on_step: Callable[[int, Any], None] | None = None,
    ) -> Evaluation:
        """Evaluate.

        Args:
            policy: its model plays.
            indices: which matches; all of them if None.
            on_step: called with (index, None) before each batch.
        """
        chosen = list(range(len(self.openings)) if indices is None else indices)
        episodes, actions, results = [], [], []
        for start in range(0, len(chosen), self.batch):
            some = chosen[start : start + self.batch]
            if on_step:
                on_step(some[0], None)
            for i, outcome, illegal, moves in self._play(policy, some):
                opponent, role = SIDES[i % len(SIDES)]
                won = outcome[role]
                digest = hashlib.sha256(self.openings[i].encode()).hexdigest()[:16]
                episodes.append(Episode(i, self.seed, digest, won, won > 0, len(moves)))
                actions.append(np.concatenate(moves) if moves else np.zeros(0, np.int64))
                results.append((f"{opponent}/{role}", won, illegal))
        metrics = _scores(results)
        if isinstance(self.game, Kuhn) and self.game.hands == 1:
            metrics |= at_kuhn(self.game, policy)
        return Evaluation(episodes, actions, metrics=metrics)

    def _play(
        self, policy: LanguagePolicy, some: Sequence[int]
    ) -> list[tuple[int, tuple[float, float], bool, list[np.ndarray]]]:
        """Index, outcome, whether the model's move was illegal, and its answers, of each match."""
        streams = Streams(self.seed)
        generator = streams.torch(f"evaluation/{some[0]}", policy.model.device)
        rng = streams.numpy(f"opponents/{some[0]}")
        model = LanguagePolicy(policy.model, self.sampling, generator)
        players = {name: _speaker(p, rng) for name, p in self.game.players().items()}
        matches = [self.game.begin(self.openings[i]) for i in some]
        sides = [SIDES[i % len(SIDES)] for i in some]
        taken = play(matches, model, [(players[name], role) for name, role in sides])
        answers: list[list[Turn]] = [[] for _ in some]
        for turn in taken:
            answers[turn.episode].append(turn)
        return [
            (i, match.outcome, match.illegal, [turn.answer for turn in turns])
            for i, match, turns in zip(some, matches, answers, strict=True)
        ]


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
        "env_hash": digest({train.task: asdict(game)})[:16],
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

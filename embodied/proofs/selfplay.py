"""The proof of SPIRAL: TicTacToe against players known exactly, Kuhn poker, and what RAE is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embodied.data.games import Kuhn, TicTacToe
from embodied.data.games.kuhn import BET, CALL, CHECK, FOLD
from embodied.data.games.solve import exploitability, value
from embodied.proofs import RUNS
from embodied.proofs.runs import Experiment, Job, evaluations, run_all
from embodied.report.page import Gate, Section

ROOT = RUNS / "selfplay"
SEEDS, MATCHES = 5, 4000
SELF = ("method=spiral", "method.steps=150", "method.games=64")
PLAY = (*SELF, "method.lr=1e-3", "method.batch_size=0", "method.beta=0.1")
HANDS = (*SELF, "method.lr=1e-3", "method.batch_size=40", "method.eval_every=3")
RANDOM = ("method.against_self=0", "method.against_random=1")
UNTRAINED = ("method=spiral", "method.steps=1", "method.lr=0", "method.games=2")
ARMS = {
    "untrained": UNTRAINED,
    "RAE self-play": PLAY,
    "no baseline": (*PLAY, "method.baseline=none"),
    "against a random player": (*PLAY, *RANDOM),
}
THOUGHTS = {
    "RAE": (*PLAY,),
    "one mean for both roles": (*PLAY, "method.baseline=global"),
    "no baseline": (*PLAY, "method.baseline=none"),
}
ROLES = ("first", "second")
ONCE = ("untrained", "RAE self-play without divergence")  # arms of one seed: no gate is on them


def experiments(method: str) -> dict[str, tuple[Experiment, int]]:
    """Experiments and their seeds."""
    return {
        "variance": (variance, 1),
        "tictactoe": (tictactoe, SEEDS),
        "kuhn": (kuhn, SEEDS),
        "thinking": (thinking, 1),
    }


def _runs(
    task: Sequence[str], arms: dict[str, tuple[str, ...]], seeds: int, jobs: int, title: str
) -> dict[str, list[Job]]:
    """Runs of every arm, by seed, once they are done."""
    made = {
        arm: [
            Job(
                ROOT / f"{title}-{arm.lower().replace(' ', '-')}-{seed}",
                (*task, *settings, f"seed={seed}", "trainer.log_every=10"),
            )
            for seed in range(1 if arm in ONCE else seeds)
        ]
        for arm, settings in arms.items()
    }
    run_all([job for runs in made.values() for job in runs], jobs, title)
    return made


def _last(runs: Sequence[Job], metric: str) -> np.ndarray:
    """A metric of the last evaluation, by seed."""
    return np.array([evaluations(run.directory)[-1]["metrics"][f"eval/{metric}"] for run in runs])


def tictactoe(seeds: int, jobs: int) -> list[Section]:
    """Self-play with and without RAE, and training against a random player."""
    task = ("task=tictactoe", f"evaluation.episodes={MATCHES}")
    runs = _runs(task, ARMS, seeds, jobs, "tictactoe")
    scores = {
        arm: [_last(some, f"score/random/{role}") for role in (0, 1)] for arm, some in runs.items()
    }
    draws = {
        arm: (_last(some, "draws/exact/0") + _last(some, "draws/exact/1")) / 2
        for arm, some in runs.items()
    }
    rows = [
        [arm, *(f"{score.mean():.3f}" for score in scores[arm]), f"{draws[arm].mean():.3f}",
         f"{_last(some, 'illegal').mean():.3f}"]
        for arm, some in runs.items()
    ]  # fmt: skip
    ours, before = scores["RAE self-play"], scores["untrained"]
    gates = [
        Gate(f"RAE self-play: score of at least {least} against a random player, moving {name}",
             f"{mine.mean():.3f}", bool(mine.mean() >= least))
        for mine, least, name in zip(ours, (0.88, 0.75), ROLES, strict=True)
    ]  # fmt: skip
    gates += [
        Gate(f"RAE self-play: at least 0.2 above the untrained model, moving {name}",
             f"{mine.mean() - base.mean():+.3f}", bool(mine.mean() >= base.mean() + 0.2))
        for mine, base, name in zip(ours, before, ROLES, strict=True)
    ]  # fmt: skip
    gain = draws["RAE self-play"].mean() - draws["against a random player"].mean()
    gates.append(
        Gate("RAE self-play draws with a perfect player oftener than what was trained against a "
             "random one, by at least 0.1", f"{gain:+.3f}", bool(gain >= 0.1))
    )  # fmt: skip
    text = (
        "150 batches of 64 games, learning rate 1e-3, two steps on each batch, and 0.1 times the "
        "divergence from the first model in the loss, which the paper does not have; a base model "
        "of one layer that knows the legal moves and nothing else. "
        "Score: wins and half the draws, at temperature 1, "
        f"{MATCHES // 4} games per opponent and role (binomial standard deviation at most 0.016); "
        f"seeds 0 to {seeds - 1}. Exactly: random players score 0.648 moving first and 0.352 "
        "moving second; nobody beats a perfect player."
    )
    columns = ["arm", "random, first", "random, second", "draws with perfect", "illegal"]
    return [Section("TicTacToe", text, columns, rows, None, gates)]


def kuhn(seeds: int, jobs: int) -> list[Section]:
    """Exploitability of the policy averaged over the second half of the training."""
    arms = {
        "RAE self-play": (*HANDS, "method.beta=0.2"),
        "RAE self-play without divergence": HANDS,
        "untrained": UNTRAINED,
    }
    runs = _runs(("task=kuhn", "evaluation.episodes=40"), arms, seeds, jobs, "kuhn")
    game = Kuhn()
    rows, averages = [], []
    for arm, some in runs.items():
        for run in some:
            logged = [e["metrics"] for e in evaluations(run.directory)]
            policies = [policy_of(game, metrics) for metrics in logged]
            mean = average_policy(policies[len(policies) // 2 :])
            found = exploitability(game, mean.__getitem__)
            won = -value(game, mean.__getitem__, mean.__getitem__)
            last = logged[-1]["eval/exploitability"]
            rows.append([arm, f"{found:.3f}", f"{last:.3f}", f"{won:+.3f}"])
            averages += [found] if arm == "RAE self-play" else []
    gates = [
        Gate("exploitability of the average policy at most 0.2, mean over seeds",
             f"{np.mean(averages):.3f}", bool(np.mean(averages) <= 0.2))
    ]  # fmt: skip
    text = (
        "150 batches of 64 hands, rewards in chips; learning rate 1e-3, about 40 turns a step, and "
        "0.2 times the divergence from the first model in the loss. Without that divergence, which "
        "the paper does not have (one seed), the base, which has only seen random moves and does "
        "not look at its card, may come to play alike whatever it holds. "
        f"Seeds 0 to {seeds - 1}, a row each. Exploitability: what best responses to both roles "
        "gain on "
        "average, exactly; 0 in equilibrium, 0.458 for uniform moves. Policy gradients circle "
        "around a mixed equilibrium, so the average over the second half of the training counts, "
        "each policy by how often it comes by a decision. Value: to the first mover when the "
        "average plays itself; -1/18 in equilibrium."
    )
    columns = ["arm", "exploitability, average", "last", "value"]
    return [Section("Kuhn poker", text, columns, rows, None, gates)]


Moves = dict[str, dict[str, float]]


def policy_of(game: Kuhn, metrics: dict[str, Any]) -> Moves:
    """Probabilities of moves by prompt, as an evaluation logged them."""
    policy = {}
    for prompt in game.prompts():
        bold = metrics[f"eval/kuhn/{prompt}"]
        names = (CALL, FOLD) if CALL in game.legal(prompt) else (BET, CHECK)
        policy[prompt] = dict(zip(names, (bold, 1 - bold), strict=True))
    return policy


def average_policy(policies: Sequence[Moves]) -> Moves:
    """The policy that plays one of these for a whole hand, as probabilities at each prompt."""
    average: Moves = {}
    for prompt in policies[0]:
        earlier = prompt.replace(CHECK + BET, "__")  # the player checked there before
        came = earlier != prompt
        weights = [policy[earlier][CHECK] if came else 1.0 for policy in policies]
        total = sum(weights)
        average[prompt] = {
            move: sum(w * p[prompt][move] for w, p in zip(weights, policies, strict=True)) / total
            for move in policies[0][prompt]
        }
    return average


def thinking(seeds: int, jobs: int) -> list[Section]:
    """Free tokens before a move, with the habit of using half of them."""
    task = ("task=tictactoe", "task_args.thinking=8", f"evaluation.episodes={MATCHES // 4}")
    runs = _runs(task, THOUGHTS, seeds, jobs, "thinking")
    rows = []
    for arm, some in runs.items():
        logged = [_trained(run) for run in some]
        lengths = [[line[at]["length"] for line in logged] for at in (0, -1)]
        norms = [np.var([metrics["grad_norm"] for metrics in line]) for line in logged]
        score = (_last(some, "score/random/0") + _last(some, "score/random/1")) / 2
        rows.append(
            [arm, *(f"{np.mean(some):.2f}" for some in lengths), f"{np.mean(norms):.4f}",
             f"{score.mean():.3f}"]
        )  # fmt: skip
    text = (
        "Up to 8 tokens that mean nothing before each move; the base model uses 4 on average, so "
        "that an answer has 6. The paper saw them collapse without RAE; reported here, not gated."
    )
    columns = ["baseline", "length, first", "length, last", "variance of gradient norm", "score"]
    return [Section("Free thinking", text, columns, rows)]


def _trained(run: Job) -> list[dict[str, float]]:
    from embodied.core.log import read_log

    return [event["metrics"] for event in read_log(run.directory, "train")]


def variance(seeds: int, jobs: int) -> list[Section]:
    """How much of the gradient's variance RAE takes away, exactly."""
    plain, role = gradient_variance((0.0, 0.0)), gradient_variance(mean_returns())
    rows = [["none", f"{plain:.3f}"], ["mean of the role's returns", f"{role:.3f}"]]
    gates = [
        Gate("total variance with RAE at most 0.94 of that without a baseline",
             f"{role / plain:.3f}", role <= 0.94 * plain)
    ]  # fmt: skip
    text = (
        "TicTacToe between uniform players with one logit per board and move: variance of the "
        "gradient of one game, summed over all logits, by enumeration."
    )
    return [Section("Variance", text, ["baseline", "variance"], rows, None, gates)]


def mean_returns() -> tuple[float, float]:
    """Of both roles between uniform players."""
    game = TicTacToe()
    mean = value(game, game.random, game.random)
    return mean, -mean


@dataclass(frozen=True)
class Moments:
    """Mean and mean square of player 0's reward from a board on."""

    mean: float
    square: float


def gradient_variance(baselines: tuple[float, float]) -> float:
    """Total variance of one game's policy gradient in a tabular softmax at uniform moves.

    A turn at a board with n moves contributes A (e_move - 1/n): a square of A^2 (1 - 1/n), and
    boards of one game differ.

    Args:
        baselines: of both roles.
    """
    game = TicTacToe()
    known: dict[str, Moments] = {}

    def moments(board: str) -> Moments:
        if board not in known:
            ended = game.outcome(board)
            if ended is not None:
                known[board] = Moments(ended[0], ended[0] ** 2)
            else:
                after = [moments(b) for b in _next(game, board)]
                known[board] = Moments(
                    float(np.mean([m.mean for m in after])),
                    float(np.mean([m.square for m in after])),
                )
        return known[board]

    square, mean, layer = 0.0, 0.0, {game.start(""): 1.0}
    while layer:
        following: dict[str, float] = {}
        for board, reach in layer.items():
            if game.outcome(board) is not None:
                continue
            boards, here = _next(game, board), moments(board)
            n, role = len(boards), game.player(board)
            own, b = here.mean * (1 - 2 * role), baselines[role]
            square += reach * (1 - 1 / n) * (here.square - 2 * b * own + b * b)
            for after in boards:
                mean += (reach / n * (moments(after).mean - here.mean)) ** 2
                following[after] = following.get(after, 0.0) + reach / n
        layer = following
    return square - mean


def _next(game: TicTacToe, board: str) -> list[str]:
    return [game.play(board, move) for move in game.legal(game.prompt(board))]

"""The point maze of the family's proofs: its settings, its runs, and walls of a chosen difficulty.

Offline data comes from under a low wall, fine-tuning happens under a higher one. How high it must
be for the pre-trained policy to succeed sometimes differs by seed, so `calibrated_walls` measures.
"""

from __future__ import annotations

import functools

import envs
from embodied.core.evaluate import Evaluator
from embodied.loading import load_policy
from embodied.proofs import RUNS
from embodied.proofs.runs import Job, run_all

ROOT = RUNS / "wsrl"
MAZE = (
    "experiment=maze",
    "method.hidden=[32,32]",
    "method.batch_size=64",
    "method.actor_lr=1e-3",
)
CRITICS = (
    "method.critic_lr=1e-3",
    "method.tau=0.01",
    "method.discount=0.95",
    "method.members=4",
    "method.actor_layer_norm=true",
    "method.critic_layer_norm=true",
)
ENTROPY = ("method.temperature_lr=1e-3", "method.init_temperature=0.1", "method.subset=2")
PESSIMISM = ("method.conservative.weight=0.5", "method.conservative.actions=3")
SQUASH = ("method.squash=true", "method.state_dependent_std=true")
PRETRAINERS = {
    "calql": (*CRITICS, *ENTROPY, *PESSIMISM),
    "cql": (*CRITICS, *ENTROPY, *PESSIMISM),
    "iql": (*CRITICS, *SQUASH),
}
OFFLINE_UPDATES, ONLINE_STEPS, UTD = 4000, 2000, 4
LOW_WALL = 2.6
WALLS = tuple(round(2.8 + 0.05 * i, 2) for i in range(13))  # success falls within 0.2
ADMISSIBLE, AIM = (0.1, 0.5), 0.25  # success of the frozen policy while it warms up


def maze_job(arm: str, seed: int, *overrides: str) -> Job:
    """A run on the maze."""
    return Job(ROOT / f"{arm}-{seed}", (*MAZE, f"seed={seed}", *overrides))


def pretraining(method: str, seed: int) -> Job:
    """The offline phase of a pre-trainer."""
    updates = f"method.offline_updates={OFFLINE_UPDATES}"
    return maze_job(f"pre-{method}", seed, f"method={method}", *PRETRAINERS[method], updates)


def fine_tuning(method: str, seed: int, wall: float) -> Job:
    """A baseline that goes on with its own loss, keeping no offline data."""
    # four critic steps per environment step for each; IQL's update is one step of everything
    utd = "method.online_utd=4" if method == "iql" else "method.utd=4"
    return maze_job(
        f"{method}-no-retention",
        seed,
        f"method={method}",
        *PRETRAINERS[method],
        utd,
        f"method.pretrained={pretraining(method, seed).directory}",
        f"method.online_steps={ONLINE_STEPS}",
        "method.offline_ratio=0",
        "method.wait_steps=256",
        "method.eval_every=100",
        f"env_args.wall_height={wall}",
    )


def wsrl(arm: str, seed: int, warmup: int, wall: float, *overrides: str) -> Job:
    """WSRL from the Cal-QL pre-training of the same seed."""
    return maze_job(
        arm,
        seed,
        "method=wsrl",
        *CRITICS,
        *ENTROPY,
        f"method.utd={UTD}",
        f"method.pretrained={pretraining('calql', seed).directory}",
        f"method.warmup_steps={warmup}",
        f"method.online_steps={ONLINE_STEPS}",
        "method.require_warmup_success=false",
        "method.eval_every=100",
        f"env_args.wall_height={wall}",
        *overrides,
    )


@functools.cache
def success(job: Job, wall: float, episodes: int, *, sampled: bool = False, seed: int = 1) -> float:
    """Share of episodes in which a run's policy succeeds under a wall of this height."""
    policy, settings = load_policy(job.directory, deterministic=not sampled)
    env = envs.make("maze/point-v0", **(settings.train.env_args | {"wall_height": wall}))
    return Evaluator(env, episodes, seed=seed)(policy).success


def calibrated_walls(count: int, jobs: int) -> tuple[dict[int, float], list[int]]:
    """Walls under which the sampled Cal-QL policy succeeds in about a quarter of the episodes.

    They are chosen before any fine-tuning, on episodes that are used for nothing else.

    Args:
        count: seeds wanted.
        jobs: training processes at a time.

    Returns:
        (height by seed, seeds passed over because no wall brings them into `ADMISSIBLE`).
    """
    walls: dict[int, float] = {}
    passed: list[int] = []
    while len(walls) < count:
        first = len(walls) + len(passed)
        batch = range(first, first + count - len(walls))
        run_all([pretraining("calql", s) for s in batch], jobs, "maze: pre-training")
        for seed in batch:
            wall, rate = _calibrate(seed)
            if ADMISSIBLE[0] <= rate <= ADMISSIBLE[1]:
                walls[seed] = wall
            else:
                passed.append(seed)
    return walls, passed


def _calibrate(seed: int) -> tuple[float, float]:
    """The wall that brings success nearest to `AIM`, by bisection, and that success."""
    job, low, high = pretraining("calql", seed), 0, len(WALLS) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if success(job, WALLS[middle], 60, sampled=True) > AIM:
            low = middle
        else:
            high = middle
    rates = {w: success(job, w, 60, sampled=True) for w in (WALLS[low], WALLS[high])}
    return min(rates.items(), key=lambda item: abs(item[1] - AIM))

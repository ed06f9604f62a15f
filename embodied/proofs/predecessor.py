"""The proof of SPIN on running sums."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from embodied.proofs import chain
from embodied.proofs.runs import Experiment
from embodied.report.page import Gate, Section

SEEDS = 5
LENGTH = 6
PLAY = (
    *("method=spin", "method.lr=1e-4", "method.lr_factors=[1]", "method.beta_factors=[1]"),
    "task_args.reward=final",
)
ROUNDS = ("method.iterations=3", "method.updates=20")
PLAYERS = {
    "SPIN, 3 iterations of 20 updates": (*PLAY, *ROUNDS),
    "answers never renewed, 60 updates": (*PLAY, "method.iterations=1", "method.updates=60"),
    "beta 5": (*PLAY, *ROUNDS, "method.beta=5"),
    "SFT, 60 updates": (
        *("method=sft", "method.updates=60", "method.lr=5e-4", "task_args.reward=final"),
    ),
}


def experiments(method: str) -> dict[str, tuple[Experiment, int]]:
    """Experiments of a method and their seeds."""
    shown: dict[str, Callable] = {"spin": play}
    return {"chain": (shown[method], SEEDS)}


def play(seeds: int, processes: int) -> list[Section]:
    """Self-play on clean demonstrations, its ablations, and plain fine-tuning beside it."""
    base = chain.base(LENGTH, processes, "task_args.reward=final")
    found = chain.successes(PLAYERS, seeds, LENGTH, processes, title="spin", right=256)
    gain = next(iter(found.values())) - base
    ahead, enough = int((gain >= 0.12).sum()), int(np.ceil(0.8 * seeds))
    gates = [
        Gate(f"SPIN at least 0.12 above the base in {enough} of {seeds} seeds",
             f"{ahead} of {seeds}", ahead >= enough),
        Gate("SPIN: mean gain at least 0.15", f"{gain.mean():.3f}", bool(gain.mean() >= 0.15)),
    ]  # fmt: skip
    text = (
        "Six digits, their running sums modulo 5; a success has the last one right and ends. "
        f"{chain.QUESTIONS} problems at temperature 1, the same for every arm (binomial standard "
        f"deviation at most {chain.DEVIATION}); seeds 0 to {seeds - 1}, each with its own 256 "
        "right answers to learn from. The opponent's answers are of the base model at first, whose "
        "steps are wrong with probability 0.15. Fine-tuning on the same answers is better here, "
        "and no gate says otherwise: the paper's claim is about demonstrations that fine-tuning "
        "has learnt all it can from, and a deterministic task has no such plateau."
    )
    rows = chain.table(base, found)
    return [Section("Running sums", text, ["arm", "success", "by seed"], rows, None, gates)]

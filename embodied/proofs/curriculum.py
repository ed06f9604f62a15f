"""The proof of SEC: a chain of skills, and running sums of all lengths."""

from __future__ import annotations

import json

import numpy as np
import torch

from embodied.core.seeding import Streams
from embodied.data import tiny
from embodied.llm.sec import arm_probabilities, arm_values
from embodied.objectives.advantages import group_advantages
from embodied.proofs import chain
from embodied.proofs.runs import Experiment
from embodied.report.files import write_text
from embodied.report.page import Gate, Section

START = (0.5, -0.5, -1.0, -1.5, -1.5)
LEVELS, PROBLEMS, GROUP, STEPS, LR = 5, 16, 8, 150, 0.6
INF = float("inf")
ARMS = {
    "all levels alike": (INF, "advantage"),
    "SEC, tau 0.2": (0.2, "advantage"),
    "SEC, tau 0.5": (0.5, "advantage"),
    "SEC, tau 1": (1.0, "advantage"),
    "easy to hard": ("ascending", "advantage"),
    "hard to easy": ("descending", "advantage"),
    "hardest alone": ("hardest", "advantage"),
    "paid by reward, tau 0.2": (0.2, "reward"),
}
SEEDS, RUNS_SEEDS, LENGTH = 20, 5, 8
COMMON = (
    *("method=sec", "method.steps=30", "method.prompts=32", "method.minibatch=32"),
    "method.lr=5e-4",
)


def experiments(method: str) -> dict[str, tuple[Experiment, int]]:
    """Experiments of the method and their seeds."""
    return {"skills": (skills, SEEDS), "chain": (lengths, RUNS_SEEDS)}


def skills(seeds: int, processes: int) -> list[Section]:
    """Policy gradients on five skills, of which level d needs the first d."""
    found = {
        arm: [_train(seed, *settings) for seed in range(seeds)] for arm, settings in ARMS.items()
    }
    last = {arm: np.array([curve[-1] for curve, _ in runs]) for arm, runs in found.items()}
    over = {arm: np.mean([curve.mean() for curve, _ in runs]) for arm, runs in found.items()}
    sec, alike, paid = (last[arm] for arm in ("SEC, tau 0.2", "all levels alike",
                                              "paid by reward, tau 0.2"))  # fmt: skip
    centre = np.mean([levels for _, levels in found["SEC, tau 0.2"]], 0)
    smooth = np.convolve(centre, np.ones(20) / 20, "valid")[::20]
    gain, ahead = (sec - alike).mean(), int((sec > alike).sum())
    best = max(over["all levels alike"], over["easy to hard"])
    rising = bool((np.diff(smooth) > 0).all())
    gates = [
        Gate("SEC (tau 0.2) at least 0.08 above all levels alike", f"{gain:.3f}", gain >= 0.08),
        Gate("ahead in every seed", f"{ahead} of {seeds}", ahead == seeds),
        Gate("mean over training: SEC above all levels alike and easy to hard",
             f"{over['SEC, tau 0.2']:.3f} against {best:.3f}", over["SEC, tau 0.2"] > best),
        Gate("arms paid by reward: at least 0.3 below SEC",
             f"{(sec - paid).mean():.3f}", bool((sec - paid).mean() >= 0.3)),
        Gate("mean level of the problems rises, smoothed over 20 steps",
             ", ".join(f"{x:.2f}" for x in smooth), rising),
    ]  # fmt: skip
    rows = [
        [arm, f"{last[arm].mean():.3f}", f"{last[arm].std() / seeds**0.5:.3f}", f"{over[arm]:.3f}"]
        for arm in ARMS
    ]
    text = (
        "Level d of 5 needs the first d skills, each of which succeeds with probability "
        f"sigmoid(theta_i), theta at first {list(START)}. {STEPS} steps of {PROBLEMS} problems "
        f"with {GROUP} answers each, plain policy gradients with the advantages of GRPO; arms are "
        "paid and drawn by the method's own functions. Success on level 5; seeds 0 to "
        f"{seeds - 1}. Once every level is mastered no arm pays and all are drawn alike, so that "
        "their mean falls back towards 3."
    )
    columns = ["order", "success at the end", "standard error", "mean over training"]
    return [Section("A chain of skills", text, columns, rows, None, gates)]


def _train(seed: int, order: float | str, signal: str) -> tuple[np.ndarray, np.ndarray]:
    """Success on the hardest level after every step, and the mean level of its problems."""
    generator = Streams(seed).torch("skills")
    theta, values = torch.tensor(START), torch.zeros(LEVELS)
    curve, centre = [], []
    for step in range(STEPS):
        if isinstance(order, str):
            place = min(step * LEVELS // STEPS, LEVELS - 1)
            only = {"ascending": place, "descending": LEVELS - 1 - place, "hardest": LEVELS - 1}
            levels = torch.full((PROBLEMS,), only[order])
        else:
            p = arm_probabilities(values, order)
            levels = torch.multinomial(p, PROBLEMS, replacement=True, generator=generator)
        level = levels.repeat_interleave(GROUP)
        needed = torch.arange(LEVELS) <= level[:, None]
        worked = torch.rand(len(level), LEVELS, generator=generator) < theta.sigmoid()
        reward = (worked | ~needed).all(1).float()
        advantage = group_advantages(reward, GROUP)
        score = (worked.float() - theta.sigmoid()) * needed
        theta = theta + LR * (advantage[:, None] * score).mean(0)
        pay = advantage.abs() if signal == "advantage" else reward
        values = arm_values(values, level, pay, 0.5, True)
        curve.append(float(theta.sigmoid().prod()))
        centre.append(float(levels.float().mean()) + 1)
    return np.array(curve), np.array(centre)


def lengths(seeds: int, processes: int) -> list[Section]:
    """Problems of one to eight digits to train on, eight digits in the test."""
    path = chain.ROOT / "data" / "prompts-all-lengths.jsonl"
    if not path.exists():
        prompts = tiny.Chain().problems(4096, np.random.default_rng(0))
        write_text(path, "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    base = chain.base(LENGTH, processes)
    arms = {
        arm: (*COMMON, f"method.sharpness={tau}", f"data={path}")
        for arm, tau in (("SEC, tau 0.2", "0.2"), ("all lengths alike", "inf"))
    }
    found = chain.successes(arms, seeds, LENGTH, processes, title="sec")
    gain = (found["SEC, tau 0.2"] - found["all lengths alike"]).mean()
    gates = [
        Gate("SEC at least 0.05 above all lengths alike on eight digits", f"{gain:+.3f}",
             bool(gain >= 0.05)),
    ]  # fmt: skip
    text = (
        "Running sums modulo 5 of one to eight digits to train on, a kind per length; the test is "
        f"{chain.QUESTIONS} problems of eight digits, every step right (binomial standard "
        f"deviation at most {chain.DEVIATION}). 30 batches of 32 problems with 8 answers each, "
        f"learning rate 5e-4, from the base of the tiny suite; seeds 0 to {seeds - 1}. The base "
        "slips at every step alike and knows all lengths already, so no length is beyond it at "
        "first; of the spec's Countdown or addition this is the nearest that the suite has."
    )
    rows = chain.table(base, found)
    return [Section("Running sums", text, ["order", "success", "by seed"], rows, None, gates)]

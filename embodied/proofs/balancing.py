"""The proof of B-STaR: questions with a few right paths, lucky ones, and a noisy rating."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from embodied.core.seeding import Streams
from embodied.llm.b_star import BStarConfig, answer_score, growth, sweep
from embodied.proofs.runs import Experiment
from embodied.report.page import Gate, Section

PATHS, WIDTH, TRAIN, TEST, SAMPLES = 24, 96, 120, 400, 32
ITERATIONS, UPDATES, LR = 9, 30, 0.02
SHIFT, FIRST = 3.0, 0.7
RATING, NOISE = 0.5, 0.5
CONFIG = BStarConfig(
    samples=SAMPLES,
    aside=40,
    enough=6,
    aside_target=40 * SAMPLES,
    target=TRAIN * 2 * SAMPLES,
    temperatures=(0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2),
    thresholds=(-1.0, 1.2, 0.1),
)
GREEDY, SAMPLED, PASS = range(3)
ARMS: dict[str, tuple[tuple[float, ...], bool, str]] = {
    "T 0.5": ((0.5,), False, "balance"),
    "T 0.8": ((0.8,), False, "balance"),
    "T 1.2": ((1.2,), False, "balance"),
    "T chosen": (CONFIG.temperatures, False, "balance"),
    "threshold chosen, T 0.8": ((0.8,), True, "balance"),
    "B-STaR": (CONFIG.temperatures, True, "balance"),
    "chosen by precision alone": (CONFIG.temperatures, True, "precision"),
    "chosen by count alone": (CONFIG.temperatures, True, "count"),
}
SEEDS = 8


def experiments(method: str) -> dict[str, tuple[Experiment, int]]:
    """Experiments of the method and their seeds."""
    return {"paths": (paths, SEEDS)}


def paths(seeds: int, processes: int) -> list[Section]:
    """A linear policy over candidate paths, trained on its own samples."""
    found = {
        arm: np.array([_train(seed, *settings) for seed in range(seeds)])
        for arm, settings in ARMS.items()
    }
    ours = found["B-STaR"]
    static, chosen = found["T 0.8"][:, GREEDY], found["T chosen"][:, GREEDY]
    gain, more = ours[:, GREEDY] - static, ours[:, GREEDY] - chosen
    wins, best = (more > 0).mean(), max(a[:, PASS].mean() for a in found.values())
    ablations = [ours[:, GREEDY].mean() - found[f"chosen by {name} alone"][:, GREEDY].mean()
                 for name in ("precision", "count")]  # fmt: skip
    gates = [
        Gate("B-STaR at least 0.06 above T 0.8, greedy", f"{gain.mean():.3f}", gain.mean() >= 0.06),
        Gate("at least 0.015 above T chosen alone", f"{more.mean():.3f}", more.mean() >= 0.015),
        Gate("and ahead of it in at least 80 % of the seeds", f"{wins:.0%}", bool(wins >= 0.8)),
        Gate("pass@8 at least the best of all less 0.005",
             f"{ours[:, PASS].mean():.3f} against {best:.3f}",
             bool(ours[:, PASS].mean() >= best - 0.005)),
        Gate("precision alone and count alone at least 0.03 below, greedy",
             ", ".join(f"{x:.3f}" for x in ablations), min(ablations) >= 0.03),
    ]  # fmt: skip
    rows = [
        [arm, f"{a[:, 0].mean():.3f} ({a[:, 0].std():.3f})", *(f"{x:.3f}" for x in a.mean(0)[1:])]
        for arm, a in found.items()
    ]
    extra = len(CONFIG.temperatures) * CONFIG.aside / TRAIN
    text = (
        f"{TRAIN} questions to train on and {TEST} to test, {PATHS} paths each, of which 20 % are "
        "right; 12 % of the wrong ones reach the right answer by luck, and a noisy rating of the "
        "weakest step is all that tells them apart. A linear policy, "
        f"{ITERATIONS} iterations of {SAMPLES} samples per question ({round(SAMPLES * (1 + extra))}"
        f" for arms that choose nothing, the cost of choosing) and {UPDATES} updates of Adam; "
        "score, sweep and growth of K are the method's own functions. A lucky path is an error "
        "here. Everything above the threshold is kept, and 0 is the threshold where it is not "
        f"chosen. Means and, in brackets, deviations over seeds 0 to {seeds - 1}; sampled at T 0.6."
    )
    columns = ["arm", "greedy", "sampled", "pass@8"]
    return [Section("Paths", text, columns, rows, None, gates)]


class _World:
    """Questions: features of their paths, which are right, which reach the right answer."""

    def __init__(self, questions: int, generator: torch.Generator, direction: Tensor) -> None:
        shape = (questions, PATHS)
        self.true = torch.rand(shape, generator=generator) < 0.2
        lucky = ~self.true & (torch.rand(shape, generator=generator) < 0.12)
        self.answered = self.true | lucky
        noise = torch.randn(*shape, WIDTH, generator=generator)
        self.features = noise + SHIFT * self.true[..., None] * direction
        rating = torch.where(self.true, RATING, -RATING)
        self.rating = rating + NOISE * torch.randn(shape, generator=generator)
        self.rating = self.rating.clamp(-1, 1)


def _train(seed: int, temperatures: tuple[float, ...], choose: bool, kind: str) -> list[float]:
    """Greedy accuracy, sampled accuracy and pass@8 on the test questions."""
    generator = Streams(seed).torch("paths")
    direction = torch.randn(WIDTH, generator=generator)
    direction /= direction.norm()
    train, test = (_World(n, generator, direction) for n in (TRAIN, TEST))
    weight = (FIRST * torch.randn(WIDTH, generator=generator)).requires_grad_(True)
    optimizer = torch.optim.Adam([weight], LR)
    config = replace(CONFIG, score=kind)
    sweeps = len(temperatures) > 1
    samples = SAMPLES if sweeps else round(
        SAMPLES * (1 + len(CONFIG.temperatures) * CONFIG.aside / TRAIN)
    )  # fmt: skip
    for _ in range(ITERATIONS):
        best = temperatures[0]
        if sweeps:
            grid = config.grid if choose else np.zeros(1)
            scores = [
                sweep(_scores(train, _drawn(train, weight, t, SAMPLES, generator)[: config.aside]),
                      grid, config.aside_target, config.enough, kind)[1].max()
                for t in temperatures
            ]  # fmt: skip
            best = temperatures[int(np.argmax(scores))]
        seen = _drawn(train, weight, best, samples, generator)
        scores = _scores(train, seen)
        threshold = 0.0
        if choose:
            place, _ = sweep(scores, config.grid, config.target, config.enough, kind)
            threshold = float(config.grid[place])
        _fit(train, weight, optimizer, _kept(train, seen, threshold, config.target))
    return _tested(test, weight.detach(), generator)


def _drawn(
    world: _World, weight: Tensor, temperature: float, samples: int, generator: torch.Generator
) -> Tensor:
    """Which paths of each question were drawn at least once: [Q, P]."""
    with torch.no_grad():
        p = (world.features @ weight / temperature).softmax(-1)
    paths = torch.multinomial(p, samples, replacement=True, generator=generator)
    return torch.zeros_like(world.true).scatter(1, paths, True)


def _scores(world: _World, seen: Tensor) -> list[list[float]]:
    """s of the different paths of each question."""
    return [
        [answer_score(bool(a), float(r)) for a, r in zip(answered[s], rating[s], strict=True)]
        for s, answered, rating in zip(seen, world.answered, world.rating, strict=False)
    ]


def _kept(world: _World, seen: Tensor, threshold: float, target: int) -> Tensor:
    """The best K paths of each question above the threshold: [Q, P]."""
    score = world.answered.float() + world.rating / 5
    above = seen & (score > threshold)
    k = growth(above.sum(1).numpy(), target)
    rank = torch.where(above, score, -torch.inf).argsort(1, descending=True).argsort(1)
    return above & (rank < k)


def _fit(world: _World, weight: Tensor, optimizer: torch.optim.Adam, kept: Tensor) -> None:
    for _ in range(UPDATES):
        log_p = (world.features @ weight).log_softmax(-1)
        loss = -log_p[kept].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _tested(world: _World, weight: Tensor, generator: torch.Generator) -> list[float]:
    logits = world.features @ weight
    rows = torch.arange(len(logits))
    greedy = world.true[rows, logits.argmax(-1)].float().mean()
    p = (logits / 0.6).softmax(-1)
    sampled = (p * world.true).sum(-1).mean()
    eight = torch.multinomial(p, 8, replacement=True, generator=generator)
    any_right = world.true.gather(1, eight).any(1).float().mean()
    return [float(greedy), float(sampled), float(any_right)]

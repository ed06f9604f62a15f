"""The proof of masked thought: a shortcut that training offers and the test withdraws.

A label follows from twenty features of a question. In training the token before it is, nine times
out of ten, the label itself; in the test it is random. Whoever reads that token while learning
leans on it, whoever has it hidden now and then learns the question.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from embodied.core.seeding import Streams
from embodied.llm.masked_thought import hidden, mask_rate
from embodied.proofs import chain
from embodied.proofs.runs import Experiment
from embodied.report.page import Gate, Section

FEATURES, CLASSES, ITEMS, TESTS = 20, 6, 150, 4000
UPDATES, LR = 200, 0.1
ARMS = {
    "SFT": (0.0, 0.0, "token"),
    "p = 0.2, <mask>": (0.2, 0.0, "token"),
    "p = 0.4, <mask>": (0.4, 0.0, "token"),
    "p = 0.2, random tokens": (0.2, 1.0, "token"),
    "p = 0.4, the question hidden instead": (0.4, 0.0, "question"),
}
SEEDS, RUNS_SEEDS = 20, 5


def experiments(method: str) -> dict[str, tuple[Experiment, int]]:
    """Experiments of the method and their seeds."""
    return {"shortcut": (shortcut, SEEDS), "chain": (fine_tuning, RUNS_SEEDS)}


def shortcut(seeds: int, processes: int) -> list[Section]:
    """Softmax regression with and without the shortcut hidden."""
    found = {
        arm: np.array([_accuracies(seed, *settings) for seed in range(seeds)])
        for arm, settings in ARMS.items()
    }
    plain, masked = found["SFT"], found["p = 0.4, <mask>"]
    question = found["p = 0.4, the question hidden instead"]
    gain = masked - plain
    ahead = int((gain[:, 1] > 0).sum())
    worse = question[:, 1].mean() - plain[:, 1].mean()
    gates = [
        Gate("p = 0.4: gain over SFT at least 0.15 where the shortcut is broken",
             f"{gain[:, 1].mean():.3f}", bool(gain[:, 1].mean() >= 0.15)),
        Gate("ahead in every seed there", f"{ahead} of {seeds}", ahead == seeds),
        Gate("hiding the question instead: at most 0.03 above SFT there",
             f"{worse:+.3f}", bool(worse <= 0.03)),
    ]  # fmt: skip
    rows = [
        [arm, f"{a[:, 0].mean():.3f}", f"{a[:, 1].mean():.3f}", f"{a[:, 1].std():.3f}"]
        for arm, a in found.items()
    ]
    text = (
        f"{ITEMS} items of {CLASSES} classes, {FEATURES} features of the question, of length about "
        "1 together, and one token "
        "that in training equals the label with probability 0.9 and is random otherwise. Softmax "
        f"regression, {UPDATES} updates of Adam, the masks drawn anew at each by the method's own "
        f"function and schedule; {TESTS} test items, with the shortcut and with a random token in "
        f"its place; seeds 0 to {seeds - 1}."
    )
    columns = ["training", "with the shortcut", "shortcut broken", "deviation between seeds"]
    return [Section("A shortcut", text, columns, rows, None, gates)]


def _accuracies(seed: int, rate: float, replace_rate: float, part: str) -> tuple[float, float]:
    """Accuracy with the shortcut and with it broken."""
    generator = Streams(seed).torch("shortcut")
    rule = torch.randn(FEATURES, CLASSES, generator=generator)

    def items(count: int, share: float) -> tuple[Tensor, Tensor, Tensor]:
        question = torch.randn(count, FEATURES, generator=generator)
        label = (question @ rule).argmax(-1)
        same = torch.rand(count, generator=generator) < share
        token = torch.randint(CLASSES, (count,), generator=generator)
        return question, torch.where(same, label, token), label

    train, inside, broken = items(ITEMS, 0.9), items(TESTS, 0.9), items(TESTS, 0.0)
    weight = torch.zeros(FEATURES + CLASSES + 1, CLASSES, requires_grad=True)
    optimizer = torch.optim.Adam([weight], LR)
    question, token, label = train
    noise = Streams(seed).torch("shortcut/masks")
    for update in range(UPDATES):
        now = mask_rate(update, UPDATES, rate, 0.66)
        read, masked, seen = token[:, None], torch.zeros(ITEMS, 1, dtype=torch.bool), question
        everywhere = torch.ones_like(read, dtype=torch.bool)
        if part == "token":
            read, masked, _ = hidden(read, everywhere, now, replace_rate, CLASSES, noise)
        else:
            features = everywhere.expand(-1, FEATURES)
            drop = hidden(features.long(), features, now, 0.0, 1, noise)[1]
            seen = question.where(~drop, 0)
        logits = _inputs(seen, torch.where(masked, CLASSES, read)[:, 0]) @ weight
        loss = F.cross_entropy(logits, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def accuracy(test: tuple[Tensor, Tensor, Tensor]) -> float:
        with torch.no_grad():
            logits = _inputs(test[0], test[1]) @ weight
        return float((logits.argmax(-1) == test[2]).float().mean())

    return accuracy(inside), accuracy(broken)


def _inputs(question: Tensor, token: Tensor) -> Tensor:
    """Features of length about 1 and a token out of CLASSES + 1, the last of which is <mask>."""
    return torch.cat([question / FEATURES**0.5, F.one_hot(token, CLASSES + 1).float()], 1)


def fine_tuning(seeds: int, processes: int) -> list[Section]:
    """Fine-tuning the base of the tiny suite on few right answers; nothing is decided here."""
    length = 8
    base = chain.base(length, processes)
    common = ("method.updates=300", "method.lr=1e-3", "method.batch_size=64")
    arms = {
        "SFT": ("method=sft", "method.final_lr=0", *common),
        "p = 0.2, <mask>": ("method=masked_thought", *common),
        "p = 0.2, random tokens": ("method=masked_thought", "method.replace_rate=1", *common),
        "p = 0.2, the question hidden instead": (
            "method=masked_thought",
            "method.part=question",
            *common,
        ),
    }
    found = chain.successes(arms, seeds, length, processes, title="masked", right=64)
    text = (
        "Eight digits, their running sums modulo 5, every step right; 64 right answers, 300 "
        f"updates of 64 from the base of the tiny suite; {chain.QUESTIONS} new problems, seeds 0 "
        f"to {seeds - 1}. Every step needs the exact digit written before it, so what is hidden is "
        "lost: this task is not one on which the paper's gain is to be expected, and no gate says "
        "so. The paper's gain is not reproduced with a transformer here; the experiment above "
        "decides."
    )
    rows = chain.table(base, found)
    return [Section("Running sums", text, ["training", "success", "by seed"], rows)]

"""The proof of S3FT: answers that are right in words of one's own, and what foreign words cost."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from embodied.core.seeding import Streams
from embodied.llm.s3ft import SOURCES, select
from embodied.proofs import chain
from embodied.proofs.runs import Experiment
from embodied.report.page import Gate, Section

CONTENTS, STYLES, WIDTH, ITEMS, TEST = 6, 2, 24, 60, 4000
LR, UPDATES, WORKS = 0.02, 100, 0.6
SHARED, KNOWN, STYLE = 14, 0.2, 2.0
ARMS = {
    "SFT": ((), True),
    "SDFT": (("paraphrase",), True),
    "right own answers alone": (("own",), None),
    "own answers, unjudged": (("own",), False),
    "own, else given": (("own",), True),
    "S3FT": (("own", "paraphrase"), True),
}
SEEDS, RUNS_SEEDS, LENGTH = 10, 5, 8


def experiments(method: str) -> dict[str, tuple[Experiment, int]]:
    """Experiments of the method and their seeds."""
    return {"wording": (wording, SEEDS), "chain": (sums, RUNS_SEEDS)}


def wording(seeds: int, processes: int) -> list[Section]:
    """A linear softmax on two tasks that share features and style."""
    found = {
        arm: np.array([_train(seed, *settings) for seed in range(seeds)])
        for arm, settings in ARMS.items()
    }
    base = np.array([_train(seed, None, True) for seed in range(seeds)])
    ours, sft, sdft = found["S3FT"], found["SFT"], found["SDFT"]
    rft = found["right own answers alone"]
    even, kept = (ours - sft)[:, 0].mean(), (ours - sft)[:, 1].mean()
    more, wins = (ours - sdft)[:, 1].mean(), ((ours - sdft)[:, 1] > 0).mean()
    learnt, half = (ours - rft)[:, 0].mean(), found["own, else given"][:, 1].mean()
    gates = [
        Gate("trained task: S3FT at least SFT less 0.02", f"{even:+.3f}", bool(even >= -0.02)),
        Gate("other task: at least 0.3 above SFT", f"{kept:+.3f}", bool(kept >= 0.3)),
        Gate("other task: at least SDFT in the mean", f"{more:+.3f}", bool(more >= 0)),
        Gate("and ahead of it in at least 70 % of the seeds", f"{wins:.0%}", bool(wins >= 0.7)),
        Gate("trained task: at least 0.08 above right own answers alone", f"{learnt:+.3f}",
             bool(learnt >= 0.08)),
        Gate("without paraphrases the other task falls between SFT and S3FT", f"{half:.3f}",
             bool(sft[:, 1].mean() < half < ours[:, 1].mean())),
    ]  # fmt: skip
    rows = [
        [arm, f"{a[:, 0].mean():.3f}", f"{a[:, 1].mean():.3f} ({a[:, 1].std():.3f})",
         " / ".join(f"{x:.0%}" for x in a[:, 2:].mean(0))]
        for arm, a in {"base": base, **found}.items()
    ]  # fmt: skip
    text = (
        f"An answer is one of {CONTENTS} contents in one of {STYLES} styles, drawn apart; {ITEMS} "
        "items to train on, given in the style that is rare under the base. The judge of the "
        "trained task reads the content alone, the other task asks for the common style; a "
        f"paraphrase comes out right {WORKS:.0%} of the time. Targets are chosen by the method's "
        f"own function; {TEST} "
        f"test items each, seeds 0 to {seeds - 1}, deviations in brackets."
    )
    columns = ["arm", "trained task", "other task", "own / paraphrase / given"]
    return [Section("Foreign wording", text, columns, rows, None, gates)]


def _train(
    seed: int, sources: tuple[str, ...] | None, judged: bool | None
) -> tuple[float, float, float, float, float]:
    """Accuracy on both tasks, and the shares of the targets; `sources` None trains nothing.

    `judged` None keeps only the right ones among the model's own.
    """
    generator = Streams(seed).torch("wording")

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    rule = normal(WIDTH, CONTENTS)
    third = WIDTH // 3
    known = rule.clone()
    known[:third] = KNOWN * rule[:third] + 0.9 * normal(third, CONTENTS)
    weight = torch.zeros(WIDTH + 1, CONTENTS + STYLES)
    weight[:-1, :CONTENTS], weight[-1, CONTENTS] = known, STYLE

    def items(count: int, columns: slice) -> tuple[Tensor, Tensor]:
        inputs = torch.zeros(count, WIDTH)
        inputs[:, columns] = normal(count, len(range(WIDTH)[columns]))
        return torch.cat([inputs, torch.ones(count, 1)], 1), (inputs @ rule).argmax(-1)

    trained, other = slice(0, 2 * third), slice(SHARED, WIDTH)
    inputs, right = items(ITEMS, trained)
    tests = items(TEST, trained), items(TEST, other)
    works = torch.rand(ITEMS, generator=generator) < WORKS
    own = _answer(inputs, weight)
    again = torch.where(works, STYLES * right, STYLES * ((right + 1) % CONTENTS))
    drafts = {
        "own": lambda places: own[places].tolist(),
        "paraphrase": lambda places: again[places].tolist(),
    }
    targets = select(
        (STYLES * right + 1).tolist(),
        {name: drafts[name] for name in sources or ()},
        lambda i, answer: judged is False or answer // STYLES == int(right[i]),
    )
    if judged is None:
        places = [i for i, target in enumerate(targets) if target.source == "own"]
    else:
        places = list(range(ITEMS))
    if sources is not None:
        label = torch.tensor([targets[i].answer for i in places])
        weight = _fitted(weight, inputs[places], label)
    found = [_answer(each, weight) for each, _ in tests]
    first = float((found[0] // STYLES == tests[0][1]).float().mean())
    second = float((found[1] == STYLES * tests[1][1]).float().mean())
    shares = (sum(targets[i].source == name for i in places) / ITEMS for name in SOURCES)
    return first, second, *shares


def _answer(inputs: Tensor, weight: Tensor) -> Tensor:
    """The likeliest content and style as one number."""
    content, style = (inputs @ weight).split([CONTENTS, STYLES], -1)
    return STYLES * content.argmax(-1) + style.argmax(-1)


def _fitted(weight: Tensor, inputs: Tensor, label: Tensor) -> Tensor:
    weight = weight.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([weight], LR)
    for _ in range(UPDATES):
        content, style = (inputs @ weight).split([CONTENTS, STYLES], -1)
        loss = F.cross_entropy(content, label // STYLES) + F.cross_entropy(style, label % STYLES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weight.detach()


def sums(seeds: int, processes: int) -> list[Section]:
    """The whole method on running sums, where its targets cannot be better than those given."""
    base = chain.base(LENGTH, processes)
    common = (
        *("method.updates=60", "method.lr=5e-4", "method.batch_size=64"),
        "method.final_lr=1",
    )
    again = 'method.paraphrase="{prompt}{response:_<9}?"'
    arms = {
        "SFT": ("method=sft", *common),
        "S3FT": ("method=s3ft", *common, again),
        "SDFT": ("method=s3ft", *common, again, "method.sources=[paraphrase]"),
    }
    found = chain.successes(arms, seeds, LENGTH, processes, title="s3ft", right=256)
    text = (
        "Eight digits, their running sums modulo 5, every step right; 256 right answers, 60 "
        "updates of 64 from the base of the tiny suite, which is asked for a paraphrase as it was "
        f"taught to answer a second time; {chain.QUESTIONS} problems, seeds 0 to {seeds - 1}. "
        "There is one right answer to each, so own and given words are the same where both are "
        "right: this shows the method at work, and no gate is set on it."
    )
    rows = chain.table(base, found)
    return [Section("Running sums", text, ["arm", "success", "by seed"], rows)]

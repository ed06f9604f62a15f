"""The proof of NFT: a task with many right answers.

The answer to a digit is any letter whose place in the alphabet has it as remainder modulo 5. The
base writes letters at random, so a fifth of its answers is right. On a question with one answer
alone, fitting wrong answers can only teach what fitting right ones does.
"""

from __future__ import annotations

import string
from typing import Any

import numpy as np

from embodied.core.phase import Recipe
from embodied.core.seeding import Streams
from embodied.data import tiny
from embodied.data.text import Example
from embodied.llm import nft, sft
from embodied.llm.task import TextTask
from embodied.proofs import RUNS
from embodied.proofs.direct import trained
from embodied.proofs.runs import Experiment
from embodied.report.page import Gate, Section
from embodied.text import TextEvaluator
from policies import lm
from policies.sampling import Sampling

ROOT = RUNS / "negatives"
LETTERS, MODULUS, LENGTH = string.ascii_lowercase + "ABCDEFGHIJKLM", 5, 1
PROMPTS = [f"{tiny.BEGIN}m{a}:" for a in range(MODULUS)]
QUESTIONS = 200 * PROMPTS
BASE = {"updates": 100, "batch_size": 64, "lr": 3e-3, "warm_up": 20, "final_lr": 0.1}
ABOUT = {**BASE, "letters": LETTERS, "modulus": MODULUS, "prompts": PROMPTS}
COMMON = {
    **{"steps": 30, "prompts": 16, "group": 16, "oversample": 1, "rounds": 4, "minibatch": 4},
    **{"lr": 1e-3, "warm_up": 0, "eval_every": 5},
}
NEVER = {"neg_weight": 0.0, "weighting": "uniform"}
ARMS: dict[str, dict[str, Any]] = {
    "NFT": {},
    "RFT": NEVER,
    "RFT, questions weighted": {"neg_weight": 0.0},
    "NFT, questions unweighted": {"weighting": "uniform"},
    "NFT, e = 0.05": {"epsilon": 0.05},
    "clipped policy gradient": {"neg_weight": -1.0},
    "NFT, one update per batch": {"minibatch": 16},
    "policy gradient, one update per batch": {"minibatch": 16, "neg_weight": -1.0},
}
SEEDS = 5


def experiments(method: str) -> dict[str, tuple[Experiment, int]]:
    """Experiments of the method and their seeds."""
    return {"letters": (letters, SEEDS)}


def score(prompt: str, response: str) -> float:
    """1 for a letter whose place is what is asked."""
    places = [LETTERS.find(letter) for letter in response]
    known = len(places) == LENGTH and min(places) >= 0
    return float(known and sum(places) % MODULUS == int(prompt[2]))


def letters(seeds: int, processes: int) -> list[Section]:
    """Right answers alone, wrong ones too, and policy gradients."""
    logs = {
        arm: [_log(arm, settings, seed, processes) for seed in range(seeds)]
        for arm, settings in ARMS.items()
    }
    curves = {arm: np.array([_curve(log) for log in some]) for arm, some in logs.items()}
    last = {arm: curve[:, -1] for arm, curve in curves.items()}
    entropy = {arm: np.array([_last(log, "entropy") for log in some])
               for arm, some in logs.items()}  # fmt: skip
    norm = {arm: max(_most(log, "grad_norm/max") for log in some) for arm, some in logs.items()}
    wider = entropy["NFT"] - entropy["RFT"]
    often, enough = int((wider >= 0.1).sum()), int(np.ceil(0.8 * seeds))
    gain = (last["NFT"] - last["RFT"]).mean()
    apart = np.abs(curves["NFT, one update per batch"]
                   - curves["policy gradient, one update per batch"]).max()  # fmt: skip
    sharp = (last["NFT, e = 0.05"] - last["NFT"]).mean()
    gates = [
        Gate(f"entropy per token of NFT at least 0.1 above RFT in {enough} of {seeds} seeds",
             f"{often} of {seeds}, mean {wider.mean():+.3f}", often >= enough),
        Gate("success of NFT at least that of RFT less 0.02", f"{gain:+.3f}", bool(gain >= -0.02)),
        Gate("strictly on-policy, NFT and the policy gradient of Dr. GRPO learn alike: at most "
             "0.02 apart at every evaluation", f"{apart:.3f}", bool(apart <= 0.02)),
        Gate("e = 0.05: larger greatest gradient norm than e = 1",
             f"{norm['NFT, e = 0.05']:.2f} against {norm['NFT']:.2f}",
             norm["NFT, e = 0.05"] > norm["NFT"]),
        Gate("e = 0.05: success not above that of e = 1 by more than 0.02", f"{sharp:+.3f}",
             bool(sharp <= 0.02)),
    ]  # fmt: skip
    rows = [
        [arm, f"{last[arm].mean():.3f}", ", ".join(f"{x:.3f}" for x in last[arm]),
         f"{entropy[arm].mean():.3f}", f"{norm[arm]:.2f}"]
        for arm in ARMS
    ]  # fmt: skip
    text = (
        f"{len(QUESTIONS)} questions at temperature 1, binomial standard deviation at most 0.016; "
        f"{COMMON['steps']} batches of {COMMON['prompts']} questions that are answered both "
        f"rightly and wrongly, {COMMON['group']} answers each, four updates per batch unless said, "
        f"learning rate {COMMON['lr']}; seeds 0 to {seeds - 1} of base and training. Entropy is of "
        "a token in the answers that were learnt from, over the last five batches."
    )
    columns = ["arm", "success", "by seed", "entropy", "greatest gradient norm"]
    return [Section("Letters of a remainder", text, columns, rows, None, gates)]


def _log(arm: str, settings: dict[str, Any], seed: int, processes: int) -> list[dict[str, Any]]:
    """The log of one run."""
    config = {**COMMON, **settings}
    name = "".join(c if c.isalnum() else "-" for c in arm.lower())

    def make() -> tuple[Recipe, TextEvaluator]:
        streams = Streams(seed)
        folder = _base(seed, processes)
        task = TextTask(lm.load(folder), streams, prompts=PROMPTS, score=score, longest=LENGTH)
        evaluator = TextEvaluator(QUESTIONS, score, Sampling(LENGTH))
        return nft.recipe(nft.NFTConfig(**config), task), evaluator

    return trained(ROOT / f"{name}-{seed}", {"base": ABOUT, **config}, make, processes)


def _base(seed: int, processes: int) -> str:
    """Folder of a model that writes random letters."""
    folder = ROOT / f"base-{seed}" / "model"

    def make() -> tuple[Recipe, None]:
        streams = Streams(seed)
        model = lm.small(
            lm.symbol_tokenizer(list(tiny.SYMBOLS), tiny.PAD, tiny.BEGIN, tiny.END),
            streams.torch("letters/init"),
        )
        rng = streams.numpy("letters/data")
        drawn = rng.choice(list(LETTERS), (BASE["updates"] * BASE["batch_size"], LENGTH))
        examples = [
            Example(PROMPTS[int(i)], "".join(pair))
            for i, pair in zip(rng.integers(len(PROMPTS), size=len(drawn)), drawn, strict=True)
        ]
        task = TextTask(model, streams, examples=examples, longest=LENGTH)
        made.append(model)
        return sft.recipe(sft.SFTConfig(**BASE), task), None

    made: list[lm.LanguageModel] = []
    trained(folder.parent / "run", ABOUT, make, processes)
    if made:
        made[0].save(folder)
    return str(folder)


def _curve(log: list[dict[str, Any]]) -> list[float]:
    return [e["metrics"]["eval/success"] for e in log if e["kind"] == "evaluation"]


def _values(log: list[dict[str, Any]], name: str) -> list[float]:
    trains = [e["metrics"] for e in log if e["kind"] == "train"]
    return [metrics[name] for metrics in trains if name in metrics]


def _last(log: list[dict[str, Any]], name: str) -> float:
    return float(np.mean(_values(log, name)[-5:]))


def _most(log: list[dict[str, Any]], name: str) -> float:
    return max(_values(log, name))

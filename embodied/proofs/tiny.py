"""The proofs of SFT, DPO, PPO and GRPO on the tiny suite: running sums modulo 5, eight digits.

The base model slips at each step with a known probability, so that it solves about a quarter of
the problems and could solve all. Every arm starts from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from embodied.proofs import chain
from embodied.proofs.runs import Experiment
from embodied.report.page import Gate, Section

LENGTH = 8
GROUPS = ("method=grpo", "method.steps=60", "method.prompts=32", "method.lr=5e-4")
CONTROL = "shuffled advantages"
ARMS = {
    "GRPO": (*GROUPS,),
    "Dr. GRPO": (*GROUPS, "method.scale=none", "method.aggregation=dr_grpo"),
    "RLOO": (*GROUPS, "method.advantage=leave_one_out", "method.aggregation=grpo"),
    CONTROL: (*GROUPS, "method.advantage=shuffled"),
}
PPO = (
    *("method=ppo", "method.steps=60", "method.prompts=256", "method.temperature=1"),
    *("method.lr=5e-4", "method.critic_lr=5e-4", "method.epochs=2"),
)
FIT = ("method=sft", "method.updates=100", "method.lr=1e-3", "method.final_lr=0.1")
PAIRS = ("method=dpo", "method.updates=100", "method.lr=2e-4", "method.final_lr=0.1")
SEEDS = 5


def experiments(method: str) -> dict[str, tuple[Experiment, int]]:
    """Experiments of a method and their seeds."""
    shown = {"sft": imitation, "dpo": preferences, "ppo": critic, "grpo": groups}
    return {"chain": (shown[method], SEEDS)}


def _measured(
    arms: Mapping[str, Sequence[str]], seeds: int, jobs: int
) -> tuple[float, dict[str, np.ndarray]]:
    """Success of the base, and of each arm by seed."""
    return chain.base(LENGTH, jobs), chain.successes(arms, seeds, LENGTH, jobs, title="tiny")


def _section(
    seeds: int, base: float, found: Mapping[str, np.ndarray], gates: list[Gate], more: str = ""
) -> list[Section]:
    rows, heads = chain.table(base, found), ["arm", "success", "by seed"]
    return [Section("Running sums", f"{_text(seeds)}{more}", heads, rows, None, gates)]


def imitation(seeds: int, jobs: int) -> list[Section]:
    """Fine-tuning on correct answers."""
    arm = "SFT, 100 updates of 64 answers"
    base, found = _measured({arm: FIT}, seeds, jobs)
    gain = found[arm].min() - base
    gates = [
        Gate("success of SFT at least 0.25 above the base, in every seed",
             f"{gain:.3f}", bool(gain >= 0.25)),
    ]  # fmt: skip
    return _section(seeds, base, found, gates)


def preferences(seeds: int, jobs: int) -> list[Section]:
    """Pairs of a correct answer and one with a slip."""
    arm = "DPO, 100 updates of 64 pairs"
    base, found = _measured({arm: PAIRS}, seeds, jobs)
    gain = found[arm].min() - base
    gates = [
        Gate("success of DPO at least 0.1 above the base, in every seed",
             f"{gain:.3f}", bool(gain >= 0.1)),
    ]  # fmt: skip
    return _section(seeds, base, found, gates)


def critic(seeds: int, jobs: int) -> list[Section]:
    """Policy gradients with a critic and a KL penalty."""
    arm = "PPO, 60 batches of 256 answers"
    base, found = _measured({arm: PPO}, seeds, jobs)
    mean = found[arm].mean()
    gates = [
        Gate("success of the base at most 0.3", f"{base:.3f}", base <= 0.3),
        Gate("PPO: mean success at least 0.9", f"{mean:.3f}", bool(mean >= 0.9)),
    ]
    return _section(seeds, base, found, gates)


def groups(seeds: int, jobs: int) -> list[Section]:
    """Policy gradients with different baselines, and a control."""
    base, found = _measured(ARMS, seeds, jobs)
    control = found[CONTROL]
    gates = [Gate("success of the base at most 0.3", f"{base:.3f}", base <= 0.3)]
    gates += [
        Gate(f"{arm}: mean success at least 0.9", f"{rates.mean():.3f}", bool(rates.mean() >= 0.9))
        for arm, rates in found.items()
        if rates is not control
    ]
    change = control.mean() - base
    gates += [
        Gate(f"{CONTROL}: mean at most 0.05 above the base", f"{change:+.3f}",
             bool(change <= 0.05)),
        Gate(f"{CONTROL}: mean within 0.05 of the base", f"{change:+.3f}",
             bool(abs(change) <= 0.05)),
    ]  # fmt: skip
    text = (
        " Advantages handed to random answers teach nothing, and Adam turns their "
        "noise into steps as long as any other: the control may fall, but not rise."
    )
    return _section(seeds, base, found, gates, text)


def _text(seeds: int) -> str:
    return (
        "Eight digits, their running sums modulo 5; a success has every step right and ends. "
        "1024 problems at temperature 1, the same for every arm (binomial standard deviation at "
        f"most 0.016); seeds 0 to {seeds - 1}. Policy gradients: 60 batches of 32 prompts with 8 "
        "answers each, learning rate 5e-4, reward 1 for a success. All arms start from one base "
        "model, whose demonstrations had each step wrong with probability 0.15."
    )

"""The proofs of SFT, DPO, PPO and GRPO on the tiny suite: running sums modulo 5, eight digits.

The base model slips at each step with a known probability, so that it solves about a quarter of
the problems and could solve all. Every arm starts from it.
"""

from __future__ import annotations

import numpy as np

from embodied.proofs import RUNS
from embodied.proofs.runs import Experiment, Job, evaluations, run_all
from embodied.report.page import Gate, Section

ROOT = RUNS / "tiny"
CHAIN = ("task=chain", "task_args.length=8", "evaluation.episodes=1024", "trainer.log_every=10")
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


def _job(arm: str, seed: int, *overrides: str) -> Job:
    name = arm.lower().replace(" ", "-").replace(".", "")
    return Job(ROOT / f"{name}-{seed}", (*CHAIN, *overrides, f"seed={seed}"))


def _success(arm: str, seeds: int, overrides: tuple[str, ...], jobs: int) -> np.ndarray:
    """Success at the end, by seed."""
    runs = [_job(arm, seed, *overrides) for seed in range(seeds)]
    run_all(runs, jobs, arm)
    return np.array([evaluations(run.directory)[-1]["metrics"]["eval/success"] for run in runs])


def _base(jobs: int) -> float:
    """Success of the base model: a run that changes nothing."""
    return float(_success("base", 1, ("method=sft", "method.updates=1", "method.lr=0"), jobs)[0])


def imitation(seeds: int, jobs: int) -> list[Section]:
    """Fine-tuning on correct answers."""
    base, found = _base(jobs), _success("SFT", seeds, FIT, jobs)
    rows = [["base", f"{base:.3f}", ""], _row("SFT, 100 updates of 64 answers", found)]
    gates = [
        Gate("success of SFT at least 0.25 above the base, in every seed",
             f"{found.min() - base:.3f}", bool(found.min() >= base + 0.25)),
    ]  # fmt: skip
    return [Section("Running sums", _text(seeds), ["arm", "success", "by seed"], rows, None, gates)]


def preferences(seeds: int, jobs: int) -> list[Section]:
    """Pairs of a correct answer and one with a slip."""
    base, found = _base(jobs), _success("DPO", seeds, PAIRS, jobs)
    rows = [["base", f"{base:.3f}", ""], _row("DPO, 100 updates of 64 pairs", found)]
    gates = [
        Gate("success of DPO at least 0.1 above the base, in every seed",
             f"{found.min() - base:.3f}", bool(found.min() >= base + 0.1)),
    ]  # fmt: skip
    return [Section("Running sums", _text(seeds), ["arm", "success", "by seed"], rows, None, gates)]


def critic(seeds: int, jobs: int) -> list[Section]:
    """Policy gradients with a critic and a KL penalty."""
    base, found = _base(jobs), _success("PPO", seeds, PPO, jobs)
    rows = [["base", f"{base:.3f}", ""], _row("PPO, 60 batches of 256 answers", found)]
    gates = [
        Gate("success of the base at most 0.3", f"{base:.3f}", base <= 0.3),
        Gate("PPO: mean success at least 0.9", f"{found.mean():.3f}", bool(found.mean() >= 0.9)),
    ]
    return [Section("Running sums", _text(seeds), ["arm", "success", "by seed"], rows, None, gates)]


def groups(seeds: int, jobs: int) -> list[Section]:
    """Policy gradients with different baselines, and a control."""
    base = _base(jobs)
    found = {arm: _success(arm, seeds, settings, jobs) for arm, settings in ARMS.items()}
    rows = [["base", f"{base:.3f}", ""], *(_row(arm, rates) for arm, rates in found.items())]
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
        f"{_text(seeds)} Advantages handed to random answers teach nothing, and Adam turns their "
        "noise into steps as long as any other: the control may fall, but not rise."
    )
    return [Section("Running sums", text, ["arm", "success", "by seed"], rows, None, gates)]


def _row(arm: str, rates: np.ndarray) -> list[str]:
    return [arm, f"{rates.mean():.3f}", ", ".join(f"{rate:.3f}" for rate in rates)]


def _text(seeds: int) -> str:
    return (
        "Eight digits, their running sums modulo 5; a success has every step right and ends. "
        "1024 problems at temperature 1, the same for every arm (binomial standard deviation at "
        f"most 0.016); seeds 0 to {seeds - 1}. Policy gradients: 60 batches of 32 prompts with 8 "
        "answers each, learning rate 5e-4, reward 1 for a success. All arms start from one base "
        "model, whose demonstrations had each step wrong with probability 0.15."
    )

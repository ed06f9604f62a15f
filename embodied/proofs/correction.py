"""The proofs of SCoRe and RISE on EDIT: element-wise sums, then one edit per turn or none.

Correction is a skill of its own there: an edit neither solves the problem again nor copies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embodied.data.tiny import Edit
from embodied.proofs import RUNS
from embodied.proofs.bandit import ascend
from embodied.proofs.runs import Experiment, Job, evaluations, run_all
from embodied.report.page import Gate, Section

ROOT = RUNS / "correction"
SEEDS, PAIRS = 5, 5
EDIT = ("task=edit", f"task_args.length={PAIRS}", "trainer.log_every=10")
TWO = ("task_args.turns=2", "evaluation.episodes=2048")
FIVE = ("task_args.turns=5", "evaluation.episodes=1024")
BASE = ("method=score", "method.first_steps=0", "method.steps=1", "method.lr=0")

SCORE = ("method=score", "method.prompts=32", "method.group=4", "method.lr=1.5e-4")
HALF = ("method.first_steps=20", "method.steps=20", "method.beta_first=0.3")
WHOLE = ("method.first_steps=0", "method.steps=40")
FULL, PLAIN = "SCoRe", "plain two-turn"
CORRECTORS = {FULL: (*SCORE, *HALF), PLAIN: (*SCORE, *WHOLE, "method.alpha=0")}
WEAKER_CORRECTORS = {
    **{f"{arm} at 5e-4": (*how[:3], "method.lr=5e-4", *how[4:]) for arm, how in CORRECTORS.items()},
    "no stage I": (*SCORE, *WHOLE),
    "no bonus": (*SCORE, *HALF, "method.alpha=0"),
    "one turn only": (
        *("method=grpo", "method.steps=40", "method.prompts=32", "method.group=8"),
        *("method.lr=1.5e-4", "method.advantage=leave_one_out", "method.aggregation=seq_sum"),
    ),
}

RISE = ("method=rise", "method.lr=5e-4")
INTROSPECTIVE = {"RISE": RISE}
LESS_INTROSPECTIVE = {
    "one iteration": (*RISE, "method.iterations=1", "method.updates=200"),
    "successes only": (*RISE, "method.criterion=success"),
    "best of 1": (*RISE, "method.tries=[1,1]"),
    "no stop": (*RISE, "method.stop=false"),
}


CORRECTION = {
    "first": "accuracy/1",
    "second": "accuracy/2",
    "gain": "delta",
    "mend rate": "mend_rate",
    "spoil rate": "spoil_rate",
}
TURNS = {
    "first": "accuracy/1",
    "second": "accuracy/2",
    "fifth": "accuracy/5",
    "vote of turns": "vote_turns",
    "vote of fresh": "vote_fresh",
    "any turn": "any_turn",
}


def experiments(method: str) -> dict[str, tuple[Experiment, int]]:
    """Experiments of a method and their seeds."""
    if method == "score":
        parts = {"edit": (two_stages, SEEDS), "ablations": (without_stages, SEEDS)}
        return {"bandit": (bandit, 1), **parts}
    return {"edit": (introspection, SEEDS), "ablations": (less_introspection, SEEDS)}


def _runs(
    arms: dict[str, tuple[str, ...]], how: Sequence[str], seeds: int, jobs: int, title: str
) -> dict[str, list[dict[str, float]]]:
    """Metrics of the last evaluation of every run, by arm and seed."""
    made = {
        arm: [
            Job(
                ROOT / f"{title}-{arm.lower().replace(' ', '-')}-{seed}",
                (*EDIT, *how, *settings, f"seed={seed}"),
            )
            for seed in range(seeds if settings is not BASE else 1)
        ]
        for arm, settings in arms.items()
    }
    run_all([job for runs in made.values() for job in runs], jobs, title)
    return {
        arm: [evaluations(run.directory)[-1]["metrics"] for run in runs]
        for arm, runs in made.items()
    }


def _of(runs: Sequence[dict[str, float]], metric: str) -> np.ndarray:
    return np.array([metrics[f"eval/{metric}"] for metrics in runs])


def _table(found: dict[str, list[dict[str, float]]], columns: dict[str, str]) -> list[list[str]]:
    return [
        [arm, *(f"{_of(runs, metric).mean():.3f}" for metric in columns.values())]
        for arm, runs in found.items()
    ]


def bandit(seeds: int, jobs: int) -> list[Section]:
    """The exact bandit: all of the ablations' signs, in milliseconds."""
    both = [(1, 20), (2, 20)]
    arms = {
        "plain two-turn": ascend([(2, 40)], alpha=0.0),
        "SCoRe, 20 + 20": ascend(both),
        "no bonus": ascend(both, alpha=0.0),
        "no stage I": ascend([(2, 40)]),
        "wrong credit (discount 1)": ascend([(2, 40)], discount=1.0),
    }
    rows = [[arm, *(f"{v:.3f}" for v in end), f"{end.delta:+.3f}"] for arm, end in arms.items()]
    gain = {arm: end.delta for arm, end in arms.items()}
    order = ("SCoRe, 20 + 20", "no stage I", "no bonus", "plain two-turn")
    gains = [gain[arm] for arm in order]
    wrong = arms["wrong credit (discount 1)"].first
    gates = [
        Gate("gain of the second turn: SCoRe, then no stage I, no bonus, plain",
             ", ".join(f"{value:+.3f}" for value in gains), gains == sorted(gains)[::-1]),
        Gate("SCoRe: gain of at least 0.08", f"{gain['SCoRe, 20 + 20']:+.3f}",
             gain["SCoRe, 20 + 20"] >= 0.08),
        Gate("with the bonus credited to the first turn, first answers get wrong",
             f"{wrong:.3f}", wrong < 0.05),
    ]  # fmt: skip
    text = (
        "A first answer is right with probability sigma(u); a wrong one is edited with sigma(w) "
        "and then right with 0.8, a right one broken with sigma(c). Exact gradients, 40 steps of "
        "0.5, from 0.5, 0.2 and 0.3; alpha 10, beta_2 2."
    )
    columns = ["arm", "first", "second", "mend rate", "spoil rate", "gain"]
    return [Section("Exact bandit", text, columns, rows, None, gates)]


def two_stages(seeds: int, jobs: int) -> list[Section]:
    """SCoRe against plain reinforcement learning over two turns."""
    found = _runs({"base": BASE, **CORRECTORS}, TWO, seeds, jobs, "score")
    rows = _table(found, CORRECTION)
    ours, plain = found[FULL], found[PLAIN]
    mend = _of(ours, "mend_rate") - _of(plain, "mend_rate")
    delta, other = _of(ours, "delta").mean(), _of(plain, "delta").mean()
    first = _of(ours, "accuracy/1").mean() - _of(plain, "accuracy/1").mean()
    highest = max(_of(runs, "accuracy/1").max() for runs in (ours, plain))
    odds = Edit().odds(PAIRS)
    shares = [_of(found["base"], m)[0] for m in ("accuracy/1", "accuracy/2", "mended", "spoilt")]
    off = np.abs(np.array(shares) - odds).max()
    gates = [
        Gate("base: all four shares within 0.03 of its demonstrations'", f"{off:.3f}",
             bool(off <= 0.03)),
        Gate("mend rate of SCoRe at least 0.15 above plain, on average", f"{mend.mean():+.3f}",
             bool(mend.mean() >= 0.15)),
        Gate("and above it in every seed", f"{mend.min():+.3f}", bool(mend.min() > 0)),
        Gate("gain of SCoRe's second turn at least 0.03", f"{delta:+.3f}", bool(delta >= 0.03)),
        Gate("and at least 0.05 above plain's", f"{delta - other:+.3f}",
             bool(delta >= other + 0.05)),
        Gate("first answers of SCoRe at most 0.05 worse than plain's", f"{first:+.3f}",
             bool(first >= -0.05)),
        Gate("there was something left to correct: accuracy of first answers below 0.95",
             f"{highest:.3f}", bool(highest < 0.95)),
    ]  # fmt: skip
    text = (
        f"{PAIRS} sums modulo 5, then an edit: `=` for a sum that stays, a digit for one. 40 "
        "batches of 32 prompts with 4 dialogues each, learning rate 1.5e-4 (at 5e-4 plain "
        "reinforcement learning leaves nothing to correct), alpha 10, beta_2 0.3. 2048 problems "
        "at temperature 1 (binomial standard deviation at "
        f"most 0.011); seeds 0 to {seeds - 1}. Mend and spoil rates: of answers that were wrong, "
        "or right; of all problems, the base model's second turn turned "
        f"{shares[2]:.3f} right and {shares[3]:.3f} wrong. Its demonstrations, by arithmetic: "
        f"first {odds.first:.3f}, second {odds.second:.3f}, mended {odds.mended:.3f}, spoilt "
        f"{odds.spoilt:.3f}."
    )
    return [Section("EDIT, two turns", text, ["arm", *CORRECTION], rows, None, gates)]


def without_stages(seeds: int, jobs: int) -> list[Section]:
    """SCoRe without one of its parts."""
    found = _runs({**CORRECTORS, **WEAKER_CORRECTORS}, TWO, seeds, jobs, "score")
    text = (
        "As above. At 5e-4: with that learning rate. Without stage I and plain: 40 batches of "
        "stage II; without bonus: alpha 0; one turn only: 40 batches of 32 prompts with 8 answers "
        f"each. Seeds 0 to {seeds - 1}."
    )
    rows = _table(found, CORRECTION)
    return [Section("EDIT, two turns: ablations", text, ["arm", *CORRECTION], rows)]


def introspection(seeds: int, jobs: int) -> list[Section]:
    """RISE over five turns, against as many fresh answers."""
    found = _runs({"base": BASE, **INTROSPECTIVE}, FIVE, seeds, jobs, "rise")
    rows = _table(found, TURNS)
    ours, base = found["RISE"], found["base"]
    first, turns = _of(ours, "accuracy/1").mean(), _of(ours, "vote_turns").mean()
    fresh, before = _of(ours, "vote_fresh").mean(), _of(base, "accuracy/1").mean()
    untaught = _of(base, "vote_turns").mean() - before
    gates = [
        Gate("vote over five turns at least 0.15 above the first answer", f"{turns - first:+.3f}",
             bool(turns - first >= 0.15)),
        Gate("and at least 0.05 above the vote over five fresh answers", f"{turns - fresh:+.3f}",
             bool(turns - fresh >= 0.05)),
        Gate("base: vote over five turns at most 0.02 above its first answer",
             f"{untaught:+.3f}", bool(untaught <= 0.02)),
        Gate("first answers at most 0.03 worse than the base's", f"{first - before:+.3f}",
             bool(first >= before - 0.03)),
    ]  # fmt: skip
    text = (
        f"{PAIRS} sums modulo 5, then one edit per turn. Two iterations of 512 problems, best of "
        "16 at later turns, fits of 100 batches of 64 examples, learning rate 5e-4. 1024 problems "
        "at temperature 1 (binomial standard deviation at most 0.016), five turns whether right "
        f"or not; seeds 0 to {seeds - 1}. First answers are examples too, right ones with 12 times "
        "the weight of wrong ones, which may leave little to revise. Perfect edits would reach "
        f"{Edit().ceiling(PAIRS, 4):.4f}."
    )
    return [Section("EDIT, five turns", text, ["arm", *TURNS], rows, None, gates)]


def less_introspection(seeds: int, jobs: int) -> list[Section]:
    """RISE without one of its parts."""
    found = _runs({**INTROSPECTIVE, **LESS_INTROSPECTIVE}, FIVE, seeds, jobs, "rise")
    text = (
        "As above. One iteration has 200 batches; no stop goes on after a success, so that there "
        f"are examples of keeping what is right. Seeds 0 to {seeds - 1}."
    )
    rows = _table(found, TURNS)
    return [Section("EDIT, five turns: ablations", text, ["arm", *TURNS], rows)]

"""The proofs of the offline-to-online family on the point maze: BC, SAC, CQL, Cal-QL, IQL, RLPD.

- `offline`: what each learns from the same data under the wall it was collected with (bc, iql,
  calql).
- `calibration`: how far the policy's Q lies below the data's returns (cql, calql).
- `retention`: fine-tuning under a higher wall with half of each batch offline (cql, calql).
- `prior-data`: how soon success comes from scratch, with and without prior data (rlpd, sac).
"""

from __future__ import annotations

import numpy as np
import torch

from embodied.core.stats import bootstrap_mean
from embodied.loading import load
from embodied.proofs.maze import (
    CRITICS,
    ENTROPY,
    LOW_WALL,
    OFFLINE_UPDATES,
    ONLINE_STEPS,
    PESSIMISM,
    maze_job,
    pretraining,
    success,
)
from embodied.proofs.runs import Experiment, Job, curve, final, run_all, steps_to
from embodied.report.figures import compare, strip
from embodied.report.page import Gate, Section

NEVER = 2 * ONLINE_STEPS  # steps counted for a seed that does not get there
FLOOR = 20.0  # |failure return|: 1 / (1 - 0.95)
SEEDS = 5
EVAL = "method.eval_every=100"
EASY = f"env_args.wall_height={LOW_WALL}"


def behaviour_cloning(seed: int) -> Job:
    """BC on the same data for as many updates."""
    settings = (
        "method=bc",
        "method.actor_layer_norm=true",
        f"method.offline_updates={OFFLINE_UPDATES}",
    )
    return maze_job("pre-bc", seed, *settings)


def conservative(method: str, seed: int, *, demonstrations: bool) -> Job:
    """CQL or Cal-QL with the weight CQL's authors use; all of the demonstrations succeed."""
    arm = f"demo-{method}5" if demonstrations else f"pre-{method}5"
    data = ("collect.failure_prob=0",) if demonstrations else ()
    strong = ("method.conservative.weight=5", "method.conservative.actions=3")
    offline = f"method.offline_updates={OFFLINE_UPDATES}"
    return maze_job(arm, seed, f"method={method}", *CRITICS, *ENTROPY, *strong, offline, *data)


def retained(method: str, seed: int) -> Job:
    """Fine-tuning with half of each batch offline."""
    return maze_job(
        f"{method}-retention",
        seed,
        f"method={method}",
        *CRITICS,
        *ENTROPY,
        *PESSIMISM,
        "method.utd=4",
        f"method.pretrained={pretraining(method, seed).directory}",
        f"method.online_steps={ONLINE_STEPS}",
        "method.offline_ratio=0.5",
        EVAL,
    )


def scratch(method: str, seed: int) -> Job:
    """SAC or RLPD from scratch, four critic steps per environment step."""
    settings = [*CRITICS, *ENTROPY, "method.utd=4", "method.entropy_backup=false", EASY]
    if method == "rlpd":
        settings[settings.index("method.actor_layer_norm=true")] = "method.actor_layer_norm=false"
    steps = (f"method.online_steps={ONLINE_STEPS}", "method.random_steps=256")
    return maze_job(f"scratch-{method}", seed, f"method={method}", *settings, *steps, EVAL)


def offline(count: int, jobs: int) -> list[Section]:
    """Success under the wall of the data after 4000 updates."""
    seeds = range(count)
    arms: dict[str, list[Job]] = {
        "Cal-QL": [pretraining("calql", s) for s in seeds],
        "CQL": [pretraining("cql", s) for s in seeds],
        "IQL": [pretraining("iql", s) for s in seeds],
        "BC": [behaviour_cloning(s) for s in seeds],
    }
    run_all([j for js in arms.values() for j in js], jobs, "offline")
    rates = {a: np.array([success(j, LOW_WALL, 100, seed=2) for j in js]) for a, js in arms.items()}
    median = {arm: float(np.median(v)) for arm, v in rates.items()}
    rows = [[a, f"{median[a]:.2f}", ", ".join(f"{x:.2f}" for x in rates[a])] for a in arms]
    gates = [
        Gate("median success of Cal-QL at least 0.9", f"{median['Cal-QL']:.2f}",
             median["Cal-QL"] >= 0.9),
        Gate("BC at least 0.3 lower", f"{median['BC']:.2f}",
             median["BC"] <= median["Cal-QL"] - 0.3),
    ]  # fmt: skip
    text = (
        "4000 updates on 200 scripted episodes of which about a fifth reach the goal; 100 "
        f"episodes of the deterministic policy under the same wall ({LOW_WALL}) per seed, "
        f"seeds 0 to {count - 1}."
    )
    figure = strip({a: v.tolist() for a, v in rates.items()}, ylabel="success", rate=True)
    columns = ["method", "median success", "by seed"]
    return [
        Section("Learning from the data alone", text, columns, rows, (figure, "offline"), gates)
    ]


def calibration(count: int, jobs: int) -> list[Section]:
    """Mean over data states of E Q(s, a ~ pi) minus the data's return."""
    seeds = range(count)
    arms = {
        ("CQL, alpha 5", "demonstrations"): [
            conservative("cql", s, demonstrations=True) for s in seeds
        ],
        ("Cal-QL, alpha 5", "demonstrations"): [
            conservative("calql", s, demonstrations=True) for s in seeds
        ],
        ("CQL, alpha 5", "mixed"): [conservative("cql", s, demonstrations=False) for s in seeds],
        ("Cal-QL, alpha 0.5", "mixed"): [pretraining("calql", s) for s in seeds],
    }
    run_all([j for js in arms.values() for j in js], jobs, "calibration")
    gap = {arm: np.array([_calibration(j) for j in js]) for arm, js in arms.items()}
    low, cal = list(gap.values())[:2]
    bottom, top = bootstrap_mean(low)
    gates = [
        Gate("demonstrations, CQL: mean over seeds below 0, with its 95 % bootstrap interval",
             f"{low.mean():.2f}, [{bottom:.2f}, {top:.2f}]", bool(top < 0)),
        Gate(f"demonstrations, Cal-QL: mean at least {-0.1 * FLOOR:.1f}", f"{cal.mean():.2f}",
             bool(cal.mean() >= -0.1 * FLOOR)),
    ]  # fmt: skip
    rows = [
        [method, data, f"{v.mean():.2f}", ", ".join(f"{x:.2f}" for x in v)]
        for (method, data), v in gap.items()
    ]
    text = (
        "Mean over the states of the data of E Q(s, a), a drawn from the policy, averaged over "
        "critics, minus the Monte-Carlo return from there. Below zero the critic calls its own "
        "policy worse than the data, and fine-tuning begins by unlearning. The gates are on "
        "demonstrations, all of which succeed, so that the data's return is a bar that a policy "
        "can fall below. In the mixed data of the other experiments about four of five episodes "
        "end at the floor of -20 and both policies are far better than their data: neither "
        f"critic lies below its returns. Seeds 0 to {count - 1}."
    )
    strips = {f"{m}, {d}": v.tolist() for (m, d), v in gap.items()}
    figure = strip(strips, ylabel="Q of the policy - return")
    columns = ["method", "data", "mean gap", "by seed"]
    return [Section("Calibration", text, columns, rows, (figure, "calibration"), gates)]


def retention(count: int, jobs: int) -> list[Section]:
    """Area under success while fine-tuning with half of each batch offline."""
    seeds = range(count)
    run_all([pretraining(m, s) for m in ("calql", "cql") for s in seeds], jobs, "pre-training")
    arms = {"Cal-QL": [retained("calql", s) for s in seeds],
            "CQL": [retained("cql", s) for s in seeds]}  # fmt: skip
    run_all([j for js in arms.values() for j in js], jobs, "retention")
    area = {a: np.array([curve(j.directory)[:, 1].mean() for j in js]) for a, js in arms.items()}
    low, high = bootstrap_mean(area["Cal-QL"] - area["CQL"])
    gates = [
        Gate("area under success, Cal-QL minus CQL: 95 % bootstrap interval above 0",
             f"[{low:.2f}, {high:.2f}]", bool(low > 0)),
    ]  # fmt: skip
    rows = [[a, f"{v.mean():.2f}", ", ".join(f"{x:.2f}" for x in v)] for a, v in area.items()]
    q = {m: np.median([final(pretraining(m, s).directory, "probe/offline_q") for s in seeds])
         for m in ("calql", "cql")}  # fmt: skip
    text = (
        "Pre-trained under a wall of 2.6, fine-tuned under 3.2 with half of each batch from the "
        f"offline data, {ONLINE_STEPS} steps, four critic steps each. Seeds 0 to {count - 1}. Both "
        "have the weight of 0.5 that Cal-QL needs on this maze. Fine-tuning can only differ by "
        "what the bound changed in pre-training: the median Q of the policies on the offline "
        f"probe is {q['calql']:.1f} for Cal-QL and {q['cql']:.1f} for CQL."
    )
    figure = compare({a: [curve(j.directory) for j in js] for a, js in arms.items()}, rate=True)
    columns = ["method", "area under success", "by seed"]
    return [Section("Fine-tuning with the data", text, columns, rows, (figure, "retention"), gates)]


def prior_data(count: int, jobs: int) -> list[Section]:
    """Steps to 0.9 success from scratch."""
    seeds = range(count)
    arms = {"RLPD": [scratch("rlpd", s) for s in seeds],
            "SAC": [scratch("sac", s) for s in seeds]}  # fmt: skip
    run_all([j for js in arms.values() for j in js], jobs, "prior data")
    steps = {a: np.array([min(steps_to(j, 0.9), NEVER) for j in js]) for a, js in arms.items()}
    median = {a: float(np.median(v)) for a, v in steps.items()}
    gates = [
        Gate("median steps to 0.9 success: RLPD at most half of SAC",
             f"{median['RLPD']:.0f} against {median['SAC']:.0f}",
             median["RLPD"] <= median["SAC"] / 2),
    ]  # fmt: skip
    rows = [[a, f"{median[a]:.0f}", ", ".join(f"{x:.0f}" for x in v)] for a, v in steps.items()]
    text = (
        f"From scratch under the wall of the data ({LOW_WALL}), four critic steps per environment "
        f"step, the first 256 steps random. Seeds that never get there count {NEVER}; "
        f"seeds 0 to {count - 1}."
    )
    figure = compare({a: [curve(j.directory) for j in js] for a, js in arms.items()}, rate=True)
    columns = ["method", "median steps to 0.9", "by seed"]
    return [Section("Prior data", text, columns, rows, (figure, "prior-data"), gates)]


def _calibration(job: Job, samples: int = 8) -> float:
    learnt = load(job.directory, read_data=True)
    learner, discount = learnt.learner, learnt.settings.method.discount
    rows = learnt.task.offline(discount).rows()
    with torch.no_grad():
        obs, generator = rows["observation"], torch.Generator().manual_seed(0)
        noise = torch.randn(len(obs), samples, learner.act_dim, generator=generator)
        q = learner.critic.values(obs, learner.actor.sample(obs, noise)[0]).mean(dim=(0, 2))
    return float((q - rows["mc_return"]).mean())


EXPERIMENTS: dict[str, Experiment] = {
    "offline": offline,
    "calibration": calibration,
    "retention": retention,
    "prior-data": prior_data,
}
PAGES = {
    "bc": ("offline",),
    "iql": ("offline",),
    "cql": ("calibration", "retention"),
    "calql": ("offline", "calibration", "retention"),
    "rlpd": ("prior-data",),
    "sac": ("prior-data",),
}


def experiments(method: str) -> dict[str, tuple[Experiment, int]]:
    """The experiments of a method's page, with their number of seeds."""
    return {name: (EXPERIMENTS[name], SEEDS) for name in PAGES[method]}

"""The proof of WSRL: maze experiments (b) and (c) of its paper's claims, and Meta-World.

- `maze`: does the critic survive hand-over without offline data? WSRL against Cal-QL, CQL and IQL
  fine-tuned without retention, each from its own pre-training, equal steps and critic updates.
- `warmup`: is it the warm-up? The same agent with K = 1000 and with none to speak of.
- `metaworld`: success on the demo task, against Cal-QL with and without retention, RLPD and SAC.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embodied.core.log import read_log
from embodied.core.stats import bootstrap_mean, wilson
from embodied.proofs.maze import (
    ADMISSIBLE,
    LOW_WALL,
    OFFLINE_UPDATES,
    ONLINE_STEPS,
    ROOT,
    UTD,
    calibrated_walls,
    fine_tuning,
    pretraining,
    success,
    wsrl,
)
from embodied.proofs.runs import Experiment, Job, curve, evaluations, final, run_all, steps_to
from embodied.report.figures import compare, strip
from embodied.report.page import Gate, Section

SPIRAL = 5.0  # a fall of Q on the offline probe that mere relearning does not explain
Q_OFF, TD_OFF = "probe/offline_q", "probe/offline_td"
CAL = "Cal-QL, no retention"


def maze(seeds: int, jobs: int) -> list[Section]:
    """Experiment (b): hand-over without offline data."""
    walls, passed = calibrated_walls(seeds, jobs)
    names = {"WSRL": "calql", CAL: "calql", "CQL, no retention": "cql", "IQL, no retention": "iql"}
    run_all([pretraining(m, s) for m in names.values() for s in walls], jobs, "maze: pre-training")
    arms = {
        arm: [
            wsrl("wsrl", s, 1000, wall) if arm == "WSRL" else fine_tuning(method, s, wall)
            for s, wall in walls.items()
        ]
        for arm, method in names.items()
    }
    run_all([job for arm in arms.values() for job in arm], jobs, "maze: fine-tuning")
    before = {
        arm: {
            "q": _each([pretraining(m, s) for s in walls], Q_OFF),
            "success": np.array([success(pretraining(m, s), w, 40) for s, w in walls.items()]),
        }
        for arm, m in names.items()
    }
    after = {
        arm: {"q": _each(js, Q_OFF), "td": _each(js, TD_OFF), "success": _each(js, "eval/success")}
        for arm, js in arms.items()
    }
    rows = [
        [
            arm,
            f"{before[arm]['success'].mean():.2f}",
            f"{after[arm]['success'].mean():.2f}",
            _list(before[arm]["q"]),
            _list(after[arm]["q"]),
            _list(after[arm]["td"], 2),
        ]
        for arm in arms
    ]
    columns = ["arm", "success before", "after", "Q_off before", "Q_off after", "TD_off after"]
    text = (
        f"Point maze; offline data under a wall of {LOW_WALL} ({OFFLINE_UPDATES} updates), "
        f"{ONLINE_STEPS} steps of fine-tuning under a higher one with {UTD} critic updates per "
        f"step; WSRL warms up for 1000 of them. {_about(walls, passed)} 40 evaluation episodes "
        "each. Q_off and TD_off are measured on 256 fixed offline transitions. Episodes of WSRL's "
        "warm-up that succeeded, by seed: "
        f"{', '.join(f'{_warmup_success(j):.0%}' for j in arms['WSRL'])}."
    )
    curves = {a: [curve(j.directory, Q_OFF) for j in js] for a, js in arms.items()}
    figure = compare(curves, ylabel="mean Q on fixed offline batch")
    learning = {a: [curve(j.directory) for j in js] for a, js in arms.items()}
    return [
        Section(
            "Maze: does the critic survive?",
            text,
            columns,
            rows,
            (figure, "maze-q"),
            _maze_gates(before, after),
        ),
        Section("Maze: success", figure=(compare(learning, rate=True), "maze-success")),
    ]


def _maze_gates(before: dict[str, dict], after: dict[str, dict]) -> list[Gate]:
    """What section 7 (b) of the specification asks for."""
    td = {arm: values["td"] for arm, values in after.items()}
    drop = {arm: before[arm]["q"] - after[arm]["q"] for arm in after}
    mean = {arm: values["success"].mean() for arm, values in after.items()}
    ratio = np.median(td[CAL]) / np.median(td["WSRL"])
    best = max(rate for arm, rate in mean.items() if arm != "WSRL")
    start = before["WSRL"]["success"].mean()
    return [
        Gate(
            "median TD error on offline data: Cal-QL without retention at least 10 x WSRL's",
            f"{np.median(td[CAL]):.2f} / {np.median(td['WSRL']):.2f} = {ratio:.1f}",
            bool(ratio >= 10),
        ),
        Gate(
            "larger in every seed",
            f"{int((td[CAL] > td['WSRL']).sum())} of {len(td[CAL])}",
            bool((td[CAL] > td["WSRL"]).all()),
        ),
        Gate(
            "Q on offline data falls by at least 5 without retention",
            f"{np.median(drop[CAL]):.1f} (median)",
            bool(np.median(drop[CAL]) >= 5),
        ),
        Gate(
            "and by at most 2 with WSRL",
            f"{np.median(drop['WSRL']):.1f} (median)",
            bool(np.median(drop["WSRL"]) <= 2),
        ),
        Gate(
            "success of WSRL at least that of every baseline without retention",
            f"{mean['WSRL']:.2f} against {best:.2f}",
            bool(mean["WSRL"] >= best),
        ),
        Gate(
            "and at least 0.3 above where it started",
            f"{start:.2f} -> {mean['WSRL']:.2f}",
            bool(mean["WSRL"] >= start + 0.3),
        ),
    ]


def warmup(seeds: int, jobs: int) -> list[Section]:
    """Experiment (c): the warm-up, where the frozen policy succeeds in 10 to 50 % of episodes."""
    walls, passed = calibrated_walls(seeds, jobs)
    short = "method.start_rows=64"
    arms = {
        "K = 1000": [wsrl("wsrl", s, 1000, wall) for s, wall in walls.items()],
        "K = 64": [wsrl("no-warmup", s, 64, wall, short) for s, wall in walls.items()],
    }
    run_all([j for js in arms.values() for j in js], jobs, "warm-up: fine-tuning")
    start = _each([pretraining("calql", s) for s in walls], Q_OFF)
    dip = {
        arm: np.maximum(0, start - [curve(j.directory, Q_OFF)[:, 1].min() for j in js])
        for arm, js in arms.items()
    }
    met = [_warmup_success(j) for j in arms["K = 1000"]]
    spirals = [int((dip[arm] > SPIRAL).sum()) for arm in arms]
    back = [np.median([steps_to(j, 0.9) for j in js]) for js in arms.values()]
    done = {arm: _each(js, "eval/success") for arm, js in arms.items()}
    text = (
        "The same pre-trained agent, fine-tuned with a warm-up of 1000 steps and of 64 (updates "
        f"then begin, on batches drawn from what is there). {_about(walls, passed)} The dip is how "
        "far Q on the offline probe falls below its start at its deepest. A spiral, a dip of more "
        f"than {SPIRAL:g}, happens in {spirals[0]} seeds with and in {spirals[1]} without warm-up; "
        f"success is back at 0.9 after {back[0]:.0f} and {back[1]:.0f} steps (median). Where "
        "nothing spirals a warm-up has nothing to prevent: the critic then dips because the old "
        "policy is worth less under the higher wall, in both arms, until the new one climbs it."
    )
    rows = [
        [
            seed,
            wall,
            f"{met[i]:.0%}",
            *(f"{values[i]:.2f}" for values in dip.values()),
            *(f"{values[i]:.2f}" for values in done.values()),
        ]
        for i, (seed, wall) in enumerate(walls.items())
    ]
    columns = ["seed", "wall", "success in warm-up"]
    columns += [f"{what}, {arm}" for what in ("dip", "success") for arm in arms]
    figure = strip({a: v.tolist() for a, v in dip.items()}, ylabel="dip of Q_off")
    gates = _warmup_gates(met, dip["K = 1000"], dip["K = 64"])
    return [Section("Warm-up ablation", text, columns, rows, (figure, "warmup"), gates)]


def _warmup_gates(met: list[float], with_: np.ndarray, without: np.ndarray) -> list[Gate]:
    """What section 7 (c) of the specification asks for."""
    low, high = bootstrap_mean(without - with_)
    return [
        Gate(
            "warm-up episodes succeed in 10 to 50 % of cases, on average over seeds",
            f"{np.mean(met):.0%} (seeds {min(met):.0%} to {max(met):.0%})",
            bool(ADMISSIBLE[0] <= np.mean(met) <= ADMISSIBLE[1]),
        ),
        Gate(
            "mean dip of Q on offline data with warm-up at most 1.5",
            f"{with_.mean():.2f}",
            bool(with_.mean() <= 1.5),
        ),
        Gate(
            "and less than half of the mean dip without",
            f"{with_.mean():.2f} against {without.mean():.2f}",
            bool(with_.mean() < without.mean() / 2),
        ),
        Gate(
            "95 % bootstrap interval of the difference above 0",
            f"[{low:.2f}, {high:.2f}]",
            bool(low > 0),
        ),
    ]


def _about(walls: dict[int, float], passed: list[int]) -> str:
    """Which seeds, under which walls."""
    skipped = f"; passed over: {', '.join(map(str, passed))}" if passed else ""
    return (
        "The wall of each seed was set before any fine-tuning so that the sampled Cal-QL policy "
        "succeeds in about a quarter of the episodes (seed: wall "
        f"{', '.join(f'{s}: {w:g}' for s, w in walls.items())}{skipped})."
    )


def _each(jobs: Sequence[Job], metric: str) -> np.ndarray:
    """The last value of a metric in each run."""
    return np.array([final(j.directory, metric) for j in jobs])


def _warmup_success(job: Job) -> float:
    """Share of warm-up episodes that succeeded."""
    lines = [e for e in read_log(job.directory, "train") if e["phase"] == "warmup"]
    done = np.diff([0, *(e["counters"]["episodes"] for e in lines)])
    rates = [e["metrics"].get("episode/success", 0.0) for e in lines]
    return float(np.average(rates, weights=done)) if done.sum() else 0.0


DRAWER = (
    "experiment=drawer",
    "method.hidden=[64,64]",
    "method.batch_size=64",
    "method.discount=0.97",
    "method.tau=0.01",
    "method.actor_lr=3e-4",
    "method.critic_lr=3e-4",
    "method.temperature_lr=3e-4",
    "method.init_temperature=0.02",
    "method.members=5",
    "method.subset=2",
)
NORMS = ("method.actor_layer_norm=true", "method.critic_layer_norm=true")
CALQL = (
    "method=calql",
    *NORMS,
    "method.subset_replacement=true",
    "method.conservative.weight=1.0",
    "method.conservative.actions=4",
    "method.conservative.subset=2",
)
DRAWER_STEPS = "method.online_steps=5000"


def drawer_job(arm: str, seed: int, *overrides: str) -> Job:
    """A run on the demo task with the demo's networks."""
    return Job(ROOT / f"drawer-{arm}-{seed}", (*DRAWER, f"seed={seed}", *overrides))


def drawer_pretraining(seed: int) -> Job:
    """The demo's offline phase."""
    return drawer_job("pre", seed, *CALQL, "method.offline_updates=1500")


def drawer_arms(seed: int) -> dict[str, Job]:
    """Every arm of the comparison for one seed: equal steps, four critic updates per step."""
    pre = f"method.pretrained={drawer_pretraining(seed).directory}"
    online = ("method.utd=4", DRAWER_STEPS, "method.eval_every=750")
    random = "method.random_steps=1000"
    warmup = ("method.warmup_steps=1000", "method.require_warmup_success=false")
    return {
        "WSRL": drawer_job("wsrl", seed, "method=wsrl", *warmup, pre, *online),
        "Cal-QL, no retention": drawer_job(
            "calql-none", seed, *CALQL, "method.offline_ratio=0", pre, *online
        ),
        "Cal-QL, 50 % retained": drawer_job(
            "calql-half", seed, *CALQL, "method.offline_ratio=0.5", pre, *online
        ),
        "RLPD": drawer_job("rlpd", seed, "method=rlpd", random, *online),
        "SAC from scratch": drawer_job("sac", seed, "method=sac", *NORMS, random, *online),
    }


def metaworld(seeds: int, jobs: int) -> list[Section]:
    """The demo task, equal environment steps."""
    chosen = range(seeds)
    first = [drawer_pretraining(s) for s in chosen]
    run_all(first, jobs, "Meta-World: pre-training")
    by_seed = [drawer_arms(s) for s in chosen]
    run_all([j for arms in by_seed for j in arms.values()], jobs, "Meta-World: fine-tuning")
    arms = {name: [jobs_[name] for jobs_ in by_seed] for name in by_seed[0]}
    rows = [_success_row("before (Cal-QL, offline)", first)]
    rows += [_success_row(name, js) for name, js in arms.items()]
    text = (
        "The task, data and networks of `make demo` (`metaworld/drawer-open-v3`, success reward, "
        "scripted data off by a constant), "
        f"seeds 0 to {seeds - 1}, 50 evaluation episodes each. Pre-trained arms start from the "
        "same Cal-QL runs. Every arm takes 5000 environment steps, warm-up or random steps "
        "included, with four critic updates per step after that. The intervals are over episodes; "
        "what seeds differ by stands beside them."
    )
    figure = compare({n: [curve(j.directory) for j in js] for n, js in arms.items()}, rate=True)
    columns = ["arm", "success at the end", "Wilson 95 %", "by seed"]
    return [Section("Meta-World", text, columns, rows, (figure, "metaworld"))]


def _success_row(name: str, jobs: Sequence[Job]) -> list[str]:
    """Final success over all seeds, with its interval."""
    last = [evaluations(j.directory)[-1] for j in jobs]
    wins = sum(episode["success"] for line in last for episode in line["ledger"])
    n = sum(len(line["ledger"]) for line in last)
    low, high = wilson(wins, n)
    by_seed = ", ".join(f"{line['metrics']['eval/success']:.2f}" for line in last)
    return [name, f"{wins}/{n} = {wins / n:.1%}", f"{low:.1%} to {high:.1%}", by_seed]


def _list(values: np.ndarray, digits: int = 1) -> str:
    return ", ".join(f"{v:.{digits}f}" for v in values)


def experiments(method: str) -> dict[str, tuple[Experiment, int]]:
    """The experiments of the page, with their number of seeds."""
    return {"maze": (maze, 5), "warmup": (warmup, 10), "metaworld": (metaworld, 5)}

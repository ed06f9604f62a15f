"""The proof of Play-LMP.

- `corridors`: is it the plan? Where the numbers of an action must fit together, against Play-GCBC.
- `ablations`: in the same corridors: no proposer, no or too much KL, the plain KL, no replanning.
- `tabletop`: nine tasks from unlabelled play, against Play-GCBC and one cloned expert per task,
  also with the finger moved aside; second attempts; what the plans look like; an update's time.
"""

from __future__ import annotations

import numpy as np

from embodied.core.stats import wilson
from embodied.proofs import RUNS
from embodied.proofs.play_tasks import (
    Played,
    corridor_rate,
    neighbour_accuracy,
    parameters,
    plans,
    play_tasks,
    principal,
    rate,
    retried,
    update_time,
)
from embodied.proofs.runs import Experiment, Job, final, run_all
from embodied.report.figures import scatter, strip
from embodied.report.page import Gate, Section
from envs.tabletop import TASKS, TWO_WAYS

ROOT = RUNS / "play_lmp"
SEEDS = 3
IN_CORRIDORS, PER_TASK = 500, 30  # evaluation episodes
DISPLACED = 0.15  # m
EXPERIMENT = {"corridors": "corridors", "tabletop": "play"}  # their settings
LOSSES = ("loss, posterior", "loss, prior", "KL")
GCBC = "method.planning=none"
GCBC_WIDTH = 212  # for as many parameters as with plans, in both worlds
ABLATIONS = {
    "fixed N(0, 1) prior": ("method.planning=standard",),
    "beta = 0": ("method.beta=0",),
    "beta = 1": ("method.beta=1",),
    "plain KL": ("method.alpha=-1",),
}
DEMONSTRATIONS = (
    "method=bc",
    "method.hidden=[128,128]",
    "method.actor_layer_norm=true",
    "method.offline_updates=2000",
    "env_args.terminate_on_success=true",
    "data=scripted",
    "collect.episodes=80",
    "collect.noise=0.05",
    "scale_observations=true",
    "evaluation.episodes=1",
)


def job(world: str, arm: str, seed: int, *overrides: str) -> Job:
    """A run on the play of a world."""
    return Job(
        ROOT / f"{world}-{arm}-{seed}",
        (f"experiment={EXPERIMENT[world]}", "evaluation.episodes=1", f"seed={seed}", *overrides),
    )


def pair(world: str, seeds: int) -> dict[str, list[Job]]:
    """Play-LMP and Play-GCBC."""
    width = f"method.width={GCBC_WIDTH}"
    return {
        "Play-LMP": [job(world, "lmp", s) for s in range(seeds)],
        "Play-GCBC": [job(world, "gcbc", s, GCBC, width) for s in range(seeds)],
    }


def corridors(seeds: int, jobs: int) -> list[Section]:
    """Experiment E1."""
    arms = pair("corridors", seeds)
    run_all([j for js in arms.values() for j in js], jobs, "corridors")
    rates = {a: np.array([corridor_rate(j, IN_CORRIDORS) for j in js]) for a, js in arms.items()}
    gap = rates["Play-LMP"].mean() - rates["Play-GCBC"].mean()
    rows = [
        [a, parameters(js[0]), f"{rates[a].mean():.2f}", _list(rates[a]), *_losses(js)]
        for a, js in arms.items()
    ]
    text = (
        "A point between two straight corridors in space; turning over the lamp at either end of "
        "the right one is asked for, leaving the corridors ends the episode. The "
        "decoder has no memory and its mixtures are independent in each of three dimensions, so "
        "only a plan can make them agree in the middle. 20,000 steps of play, 2500 updates, "
        f"{IN_CORRIDORS} episodes per seed, seeds 0 to {seeds - 1}. The losses are action losses "
        "on 256 windows of the play, with plans of the recogniser and of the proposer."
    )
    gates = [
        Gate(
            "success of Play-LMP at least 0.3 above Play-GCBC",
            f"{rates['Play-LMP'].mean():.2f} - {rates['Play-GCBC'].mean():.2f} = {gap:.2f}",
            bool(gap >= 0.3),
        )
    ]
    columns = ["arm", "parameters", "success", "by seed", *LOSSES]
    figure = strip({a: v.tolist() for a, v in rates.items()}, ylabel="success", rate=True)
    heading = "Corridors: is it the plan?"
    return [Section(heading, text, columns, rows, (figure, "corridors"), gates)]


def ablations(seeds: int, jobs: int) -> list[Section]:
    """Section 7 (c) of the specification, in the corridors."""
    whole = pair("corridors", seeds)["Play-LMP"]
    arms = {"Play-LMP": whole}
    for name, changes in ABLATIONS.items():
        slug = name.replace(" ", "").replace(",", "-").replace("(", "-").replace(")", "")
        arms[name] = [job("corridors", slug, s, *changes) for s in range(seeds)]
    run_all([j for js in arms.values() for j in js], jobs, "ablations")
    rates = {a: np.array([corridor_rate(j, IN_CORRIDORS) for j in js]) for a, js in arms.items()}
    rates["no replanning"] = np.array([corridor_rate(j, IN_CORRIDORS, replan=1000) for j in whole])
    rates["a plan for every step"] = np.array(
        [corridor_rate(j, IN_CORRIDORS, replan=1) for j in whole]
    )
    rows = [
        [a, f"{v.mean():.2f}", _list(v), *_losses(arms.get(a, whole))] for a, v in rates.items()
    ]
    mean = {a: float(v.mean()) for a, v in rates.items()}
    collapsed = float(np.mean([final(j.directory, "probe/play_kl") for j in arms["beta = 1"]]))
    prior = {a: _mean(js, "probe/play_nll_prior") for a, js in arms.items()}
    gates = [
        Gate(
            "with plans from N(0, 1) success falls",
            f"{mean['fixed N(0, 1) prior']:.2f} against {mean['Play-LMP']:.2f}",
            mean["fixed N(0, 1) prior"] < mean["Play-LMP"],
        ),
        Gate(
            "without KL the proposer's plans are of no use: action loss above Play-LMP's",
            f"{prior['beta = 0']:.2f} against {prior['Play-LMP']:.2f}",
            prior["beta = 0"] > prior["Play-LMP"],
        ),
        Gate("with beta = 1 plans say nothing: KL below 0.05", f"{collapsed:.3f}",
             collapsed < 0.05),
    ]  # fmt: skip
    text = (
        "Each arm changes one thing of the Play-LMP above. The last two are that policy itself, "
        "which acts with one plan for the whole episode or with a new one for every step (instead "
        "of every 4 steps)."
    )
    columns = ["arm", "success", "by seed", *LOSSES]
    return [Section("Ablations", text, columns, rows, gates=gates)]


def cloned(seed: int) -> dict[str, Job]:
    """Behaviour cloning of one expert per task."""
    return {
        task: Job(
            ROOT / f"bc-{task}-{seed}", (*DEMONSTRATIONS, f"env=tabletop/{task}", f"seed={seed}")
        )
        for task in TASKS
    }


def tabletop(seeds: int, jobs: int) -> list[Section]:
    """Experiment E2, second attempts, and the plans."""
    arms = pair("tabletop", seeds)
    experts = [cloned(s) for s in range(seeds)]
    run_all([j for js in arms.values() for j in js], jobs, "table-top")
    run_all([j for js in experts for j in js.values()], jobs, "table-top: cloned experts")
    by_arm = {arm: [dict.fromkeys(TASKS, j) for j in js] for arm, js in arms.items()}
    by_arm["BC, one expert per task"] = experts
    played = {
        where: {
            arm: [play_tasks(each, PER_TASK, far, arm.split(",")[0]) for each in seeds_]
            for arm, seeds_ in by_arm.items()
        }
        for where, far in (("plain", 0.0), ("displaced", DISPLACED))
    }
    return [
        _tasks(played, arms, seeds),
        _attempts(played["displaced"]),
        _plans(arms["Play-LMP"]),
        _update(arms),
    ]


def _tasks(
    played: dict[str, dict[str, list[Played]]], arms: dict[str, list[Job]], seeds: int
) -> Section:
    """Success by task."""
    plain, displaced = played["plain"], played["displaced"]
    mean = {where: {a: _over(found, TASKS) for a, found in found_.items()}
            for where, found_ in played.items()}  # fmt: skip
    rows = [
        [task, *(f"{_over(found, (task,)):.2f}" for each in (plain, displaced)
                 for found in each.values())]
        for task in TASKS
    ]  # fmt: skip
    rows.append(["**all**", *(f"**{v:.2f}**" for each in mean.values() for v in each.values())])
    lmp, gcbc, bc = plain
    two = {arm: _over(plain[arm], TWO_WAYS) for arm in (lmp, gcbc)}
    gates = [
        Gate(
            "success over all tasks: Play-LMP at least that of Play-GCBC - 0.02",
            f"{mean['plain'][lmp]:.3f} against {mean['plain'][gcbc]:.3f}",
            mean["plain"][lmp] >= mean["plain"][gcbc] - 0.02,
        ),
        Gate(
            "on the tasks behind the wall, with two ways: at least that of Play-GCBC + 0.05",
            f"{two[lmp]:.3f} against {two[gcbc]:.3f}",
            two[lmp] >= two[gcbc] + 0.05,
        ),
        Gate(
            "displaced: Play-LMP and Play-GCBC above the cloned experts",
            ", ".join(f"{v:.3f}" for v in mean["displaced"].values()),
            min(mean["displaced"][lmp], mean["displaced"][gcbc]) > mean["displaced"][bc],
        ),
        Gate(
            "displaced: the cloned experts lose most",
            ", ".join(f"{mean['plain'][a] - mean['displaced'][a]:+.3f}" for a in plain),
            max(plain, key=lambda a: mean["plain"][a] - mean["displaced"][a]) == bc,
        ),
    ]
    count = {arm: parameters(js[0]) for arm, js in arms.items()}
    text = (
        "`tabletop/any`: a finger, a drawer, a sliding door, three buttons with lamps behind a "
        "wall that is passed on either side, and a block; MuJoCo at 10 control steps a second, "
        "actions are moves of the finger. 20,000 steps (33 minutes) of scripted play without "
        "labels or resets, 3000 updates of 64 windows of 8 to 20 steps; "
        f"{count[lmp]:,} parameters with plans, {count[gcbc]:,} without. A goal is a state in "
        "which the expert leaves the table; episodes have 60 steps. The experts' demonstrations "
        "(80 per task, one way of doing it, cut at success) are cloned by one network per task. "
        f"Displaced: the finger is moved {DISPLACED} m aside before the episode. {PER_TASK} "
        "episodes per task and seed, seeds 0 "
        f"to {seeds - 1}. The paper has 18 tasks, pictures, 3 hours of people's play and networks "
        "of 2048 units."
    )
    columns = ["task", *(f"{arm.split(',')[0]}{where}" for where in ("", ", displaced")
                         for arm in plain)]  # fmt: skip
    strips = {a.split(",")[0]: [rate(p) for p in found] for a, found in plain.items()}
    strips |= {f"{a.split(',')[0]}\ndisplaced": [rate(p) for p in f] for a, f in displaced.items()}
    figure = strip(strips, ylabel="success, mean of nine tasks", rate=True)
    return Section("Table-top: nine tasks", text, columns, rows, (figure, "tabletop"), gates)


def _attempts(displaced: dict[str, list[Played]]) -> Section:
    """What follows a first attempt that missed."""
    rows, shares = [], {}
    for arm, found in displaced.items():
        won, of = np.sum([retried(each) for each in found], axis=0).tolist()
        low, high = wilson(won, of)
        shares[arm] = won / max(1, of)
        rows.append([arm, of, won, f"{shares[arm]:.2f}", f"{low:.2f} to {high:.2f}"])
    lmp, _, bc = shares
    gates = [
        Gate("Play-LMP finishes at least half of them", f"{shares[lmp]:.2f}", shares[lmp] >= 0.5),
        Gate("and the cloned experts fewer", f"{shares[bc]:.2f}", shares[bc] < shares[lmp]),
    ]
    text = (
        "Displaced episodes in which the finger came within 8 cm of the thing and went 5 cm away "
        "again with nothing done: how many succeed before the time is up."
    )
    columns = ["arm", "first attempt missed", "succeeded later", "share", "Wilson 95 %"]
    return Section("Second attempts", text, columns, rows, gates=gates)


def _plans(jobs: list[Job]) -> Section:
    """Whether plans of the same task lie together."""
    rows, own, shuffled, chance = [], [], [], 0.0
    for seed, one in enumerate(jobs):
        points, labels = plans(one)
        mixed = np.random.default_rng(0).permutation(labels).tolist()
        own.append(neighbour_accuracy(points, labels))
        shuffled.append(neighbour_accuracy(points, mixed))
        chance = 1.0 / len(set(labels))
        rows.append([seed, len(labels), f"{own[-1]:.2f}", f"{shuffled[-1]:.2f}"])
    points, labels = plans(jobs[0])
    flat = principal(points)
    names = [task for task in TASKS if task in labels]
    figure = scatter(
        {name: flat[[label == name for label in labels]] for name in names},
        xlabel="first principal component of the plans",
        ylabel="second",
    )
    gates = [
        Gate("accuracy of 5 neighbours at least 3 x chance",
             f"{np.mean(own):.2f} / {chance:.2f} = {np.mean(own) / chance:.1f}",
             bool(np.mean(own) >= 3 * chance)),
        Gate("and at least 2 x that of shuffled labels",
             f"{np.mean(own):.2f} against {np.mean(shuffled):.2f}",
             bool(np.mean(own) >= 2 * np.mean(shuffled))),
    ]  # fmt: skip
    text = (
        "Posterior means of windows of the play that do not overlap and in which exactly one of "
        "the nine tasks was done; the task is that of the majority of the 5 nearest others. No "
        "label was ever trained on. Chance is one ninth. The picture is of seed 0."
    )
    columns = ["seed", "windows", "accuracy", "with shuffled labels"]
    return Section("What the plans are", text, columns, rows, (figure, "plans"), gates)


def _update(arms: dict[str, list[Job]]) -> Section:
    """How an update spends its time."""
    rows = []
    for arm, js in arms.items():
        found = update_time(js[0])
        rows.append([arm, f"{found['ms']:.1f}", f"{found['share']:.0%}", *_losses(js)])
    text = (
        "Profiled on one core with torch's profiler, 20 updates of the table-top's runs; the "
        "windows come from the memory-mapped file. Products are the matrix products themselves "
        "(forward and backward), the rest is element-wise work and the optimizer. Beside it what "
        "the updates came to: action losses on 256 windows of the play, with plans of the "
        "recogniser and of the proposer, over all seeds."
    )
    columns = ["arm", "ms per update", "in matrix products", *LOSSES]
    return Section("An update", text, columns, rows)


def _losses(jobs: list[Job]) -> list[str]:
    names = ("probe/play_nll_posterior", "probe/play_nll_prior", "probe/play_kl")
    return [f"{_mean(jobs, name):.2f}" for name in names]


def _mean(jobs: list[Job], metric: str) -> float:
    return float(np.mean([final(j.directory, metric) for j in jobs]))


def _over(found: list[Played], tasks: tuple[str, ...]) -> float:
    return float(np.mean([rate(each, tasks) for each in found]))


def _list(values: np.ndarray) -> str:
    return ", ".join(f"{v:.2f}" for v in values)


def experiments(method: str) -> dict[str, tuple[Experiment, int]]:
    """The experiments of the page, with their number of seeds."""
    return {
        "corridors": (corridors, SEEDS),
        "ablations": (ablations, SEEDS),
        "tabletop": (tabletop, SEEDS),
    }

"""The proof of SLIM on the plain table, what the skills are good for, and a run with an arm.

- `units`: rewards in other units, SLIM against the sum of the rewards with one critic.
- `ablations`: what each part does, and the baselines of the paper's kind.
- `downstream`: eight goals, by a high level over the frozen skills, by planning, and flat.
- `tabletop`: Meta-World's arm and puck.
- `profile`: where the time of an update goes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import envs
from embodied.core.evaluate import initial_seeds
from embodied.loading import load
from embodied.proofs import RUNS
from embodied.proofs.runs import Experiment, Job, run_all
from embodied.report.figures import COLOURS, as_image, new_figure
from embodied.report.files import write_text
from embodied.report.page import Gate, Section
from embodied.skills import Measured, SkillPlanner, export, measure, unsafe

ROOT = RUNS / "slim"
SEEDS = 3
GOAL, SKILL_STEPS, CHAIN = "puck/push-goal-v0", 10, 3
UNITS = ((1, 1, 1), (30, 1, 1), (1, 100, 1), (1, 1, 30), (0.1, 1, 1), (10, 10, 0.1))
SUM = ("method.critics=sum",)
USE = """```
embodied train experiment=push seed=0              # skills on the plain table; experiment=push_arm
python -m embodied.skills runs/slim-puck-push-v0-0    # coverage and safety; writes skills.npz
embodied eval policy=runs/slim-puck-push-v0-0 videos=4
embodied train method=slim env=puck/push-goal-v0 method.horizon=5 num_envs=64 \\
    env_args.skills=runs/slim-puck-push-v0-0/skills.npz    # PPO that chooses skills
```

`env_args.prior` draws a skill for each episode and shows it behind the observation;
`env_args.skills` makes frozen skills the actions of any task, for any method of this package."""
ARM_EPISODES = 64
METRICS = ("displacement", "interaction", "controllability", "safety", "cells", "directions")


def experiments(method: str) -> dict[str, tuple[Experiment, int]]:
    """Experiments and their seeds."""
    return {
        "units": (units, SEEDS),
        "ablations": (ablations, 1),
        "downstream": (downstream, 2),
        "tabletop": (tabletop, 1),
        "profile": (profile, 1),
    }


def _text(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:g}" for v in values) + ")"


def _which(seeds: int) -> str:
    return "seed 0" if seeds == 1 else f"seeds 0 to {seeds - 1}"


def push_job(arm: str, seed: int, *overrides: str) -> Job:
    """A run of skill discovery on the plain table."""
    common = ("experiment=push", "evaluation.episodes=8", "trainer.log_every=500")
    return Job(ROOT / f"{arm}-{seed}", (*common, f"seed={seed}", *overrides))


def scaled_job(arm: str, unit: Sequence[float], seed: int) -> Job:
    """A run whose rewards come in other units; `arm` is slim or sum."""
    name = "x".join(f"{u:g}" for u in unit).replace(".", "_")
    overrides = () if tuple(unit) == UNITS[0] else (f"method.units=[{','.join(map(str, unit))}]",)
    return push_job(f"{arm}-{name}", seed, *overrides, *(SUM if arm == "sum" else ()))


@functools.cache
def measured(job: Job) -> Measured:
    """What the skills of a run do, on 256 episodes that are used for nothing else."""
    return measure(job.directory)


def _row(jobs: Sequence[Job]) -> list[str]:
    """Means of the metrics over seeds, and the score of each seed."""
    all_ = [measured(job).metrics() for job in jobs]
    means = [f"{np.mean([each[name] for each in all_]):.2f}" for name in METRICS]
    return [*means, ", ".join(f"{each['score']:.2f}" for each in all_)]


def units(seeds: int, jobs: int) -> list[Section]:
    """Experiment (b) of the specification: what a change of units does to each."""
    runs = {
        arm: {unit: [scaled_job(arm, unit, s) for s in _seeds(arm, unit, seeds)] for unit in UNITS}
        for arm in ("slim", "sum")
    }
    every = [job for arm in runs.values() for group in arm.values() for job in group]
    run_all(every, jobs, "units")
    score = {
        arm: [np.array([measured(job).score for job in group]) for group in found.values()]
        for arm, found in runs.items()
    }  # by units, [seeds]
    names = {"slim": "SLIM", "sum": "one critic for the sum"}
    rows = [
        [names[arm], _text(unit), *_row(group)]
        for arm, found in runs.items()
        for unit, group in found.items()
    ]
    tuned = max(values.mean() for values in score["sum"])
    text = (
        "Skill, reaching and safety are multiplied by the three numbers before anything else. "
        "Weights 1, 0.5 and 1.5 in both arms, everything else equal, 640,000 steps in 256 "
        f"environments, seeds 0 to {seeds - 1}. Score: share of episodes that move the puck by 0.1 "
        "of the half table, times R^2 of the regression of its displacement on the skill, times "
        "share of episodes without a violation; 256 episodes per run without exploration noise. "
        "A linear regression, because phi is known up to a rotation only. "
        "Cells are of 0.2 in which pucks ended, directions are of twelve. In other units SLIM "
        "comes to the same parameters, to the bit, which a test asserts; here it ran on seed 0. "
        f"The sum in the units that suit it best scores {tuned:.2f} and SLIM in any "
        f"{score['slim'][0].mean():.2f}: its critics save the search for such units, no more."
    )
    columns = ["arm", "units", *METRICS, "score by seed"]
    figure = _units_figure({names[arm]: values for arm, values in score.items()})
    skills = _skills_figure(
        {names[arm]: measured(found[UNITS[0]][0]) for arm, found in runs.items()}
    )
    return [
        Section("Use", USE),
        Section("Other units", text, columns, rows, (figure, "units"), _units_gates(score)),
        Section(
            "Where the puck goes",
            "Displacement of the puck in 256 episodes of seed 0, coloured by the direction of the "
            "skill; the rewards in their own units.",
            figure=(skills, "skills"),
        ),
    ]


def _seeds(arm: str, unit: Sequence[float], seeds: int) -> range:
    """SLIM in other units is repeated on one seed."""
    return range(1 if arm == "slim" and tuple(unit) != UNITS[0] else seeds)


def _units_gates(score: Mapping[str, Sequence[np.ndarray]]) -> list[Gate]:
    """What the specification asks for."""
    ours, other = score["slim"][0], np.array([values.mean() for values in score["sum"]])
    scaled = np.array([values[0] for values in score["slim"]])
    change = float(np.max(np.abs(scaled - scaled[0])) / max(scaled[0], 1e-9))
    return [
        Gate(
            "score of SLIM changes by less than 10 % with the units",
            f"{change:.1%}",
            change < 0.1,
        ),
        Gate(
            "worst units of the sum at most a third of its best, mean over seeds",
            f"{other.min():.2f} against {other.max():.2f}",
            bool(other.min() <= other.max() / 3),
        ),
        Gate(
            "score of SLIM at least twice the median of the sum over the units",
            f"{ours.mean():.2f} against {np.median(other):.2f}",
            bool(ours.mean() >= 2 * np.median(other)),
        ),
    ]


def _units_figure(score: Mapping[str, Sequence[np.ndarray]]) -> bytes:
    with new_figure(7.2, 3.2) as figure:
        axes = figure.subplots()
        for i, (name, values) in enumerate(score.items()):
            x = np.arange(len(values)) + 0.16 * (2 * i - 1)
            means = [each.mean() for each in values]
            axes.bar(x, means, 0.3, color=COLOURS[i], alpha=0.35, label=name)
            for at, each in zip(x, values, strict=True):
                axes.plot([at] * len(each), each, "o", ms=4, mfc="white", mec=COLOURS[i])
        axes.set_xticks(range(len(UNITS)), [_text(unit) for unit in UNITS])
        axes.set_xlabel("units of skill, reaching, safety")
        axes.set_ylabel("score")
        axes.legend()
        return as_image(figure, "svg")


def _skills_figure(found: Mapping[str, Measured]) -> bytes:
    with new_figure(7.2, 3.5) as figure:
        for axes, (name, one) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
            angle = np.arctan2(one.skill[:, 1], one.skill[:, 0])
            axes.scatter(*one.displacement.T, c=angle, cmap="hsv", s=9)
            axes.set_title(name)
            axes.set_aspect("equal")
            axes.set_xlim(-2, 2)
            axes.set_ylim(-2, 2)
        return as_image(figure, "svg")


ABLATIONS = {
    "SLIM": (),
    "advantages not standardised": ("method.standardise=false",),
    "one network, three outputs": ("method.critics=shared",),
    "without reaching": ("method.rewards=[skill,safe]", "method.weights=[1,1.5]"),
    "without safety": ("method.rewards=[skill,reach]",),
    "mutual information for LSD": ("method.skill_reward=diayn",),
    "mutual information alone": ("method.rewards=[skill]", "method.skill_reward=diayn"),
}


def _ablation_jobs(seeds: int) -> dict[str, list[Job]]:
    found = {"SLIM": [scaled_job("slim", UNITS[0], s) for s in range(seeds)]}
    for arm, overrides in ABLATIONS.items():
        if overrides:
            name = "".join(c if c.isalnum() else "-" for c in arm.lower())
            found[arm] = [push_job(name, s, *overrides) for s in range(seeds)]
    return found


def ablations(seeds: int, jobs: int) -> list[Section]:
    """Experiment (c) of the specification."""
    runs = _ablation_jobs(seeds)
    run_all([job for group in runs.values() for job in group], jobs, "ablations")

    def mean(arm: str, name: str) -> float:
        return float(np.mean([measured(job).metrics()[name] for job in runs[arm]]))

    ours = {name: mean("SLIM", name) for name in METRICS}
    unreached = mean("without reaching", "interaction")
    unsafe_share = mean("without safety", "safety")
    informed = mean("mutual information for LSD", "displacement")
    gates = [
        Gate("without reaching fewer episodes move the puck",
             f"{unreached:.2f} against {ours['interaction']:.2f}",
             unreached < ours["interaction"]),
        Gate("without safety at most half as many episodes are safe",
             f"{unsafe_share:.2f} against {ours['safety']:.2f}",
             unsafe_share <= ours["safety"] / 2),
        Gate("mutual information in place of LSD moves the puck less far",
             f"{informed:.2f} against {ours['displacement']:.2f}",
             informed < ours["displacement"]),
    ]  # fmt: skip
    text = f"As above, in the rewards' own units; {_which(seeds)}."
    rows = [[arm, *_row(group)] for arm, group in runs.items()]
    return [Section("Parts and baselines", text, ["arm", *METRICS, "score by seed"], rows, None,
                    gates)]  # fmt: skip


def goal_jobs(seed: int, skills: Path) -> dict[str, Job]:
    """The high level and the flat baseline of a seed, with equal steps of the gripper."""
    common = (f"env={GOAL}", "method=slim", "method.rewards=[task]", "num_envs=256", f"seed={seed}",
              "env_args.terminate_on_success=true", "evaluation.episodes=8")  # fmt: skip
    over = (f"env_args.skills={skills}", f"env_args.skill_steps={SKILL_STEPS}",
            f"method.horizon={50 // SKILL_STEPS}", f"method.online_steps={640_000 // SKILL_STEPS}",
            "method.discount=[0.9]")  # fmt: skip
    return {
        "high level over skills": Job(ROOT / f"high-{seed}", (*common, *over)),
        "flat PPO": Job(ROOT / f"flat-{seed}", (*common, "method.online_steps=640000")),
    }


def downstream(seeds: int, jobs: int) -> list[Section]:
    """Eight goals for the puck."""
    first = [scaled_job("slim", UNITS[0], s) for s in range(seeds)]
    run_all(first, jobs, "downstream: skills")
    files = [export(job.directory) for job in first]
    by_seed = [goal_jobs(s, files[s]) for s in range(seeds)]
    run_all([job for each in by_seed for job in each.values()], jobs, "downstream")
    bounds = load(first[0].directory).settings.method
    found = {arm: np.array([reached(each[arm], bounds) for each in by_seed]) for arm in by_seed[0]}
    found["planning, three skills"] = np.array([planned(path, bounds) for path in files])
    rows = [
        [arm, f"{values[:, 0].mean():.2f}", f"{values[:, 1].mean():.2f}",
         f"{values[:, 2].mean():.1f}", ", ".join(f"{v:.2f}" for v in values[:, 0])]
        for arm, values in found.items()
    ]  # fmt: skip
    high, flat = found["high level over skills"], found["flat PPO"]
    plans = found["planning, three skills"][:, 0].mean()
    gates = [
        Gate("high level over skills: success of at least 0.7", f"{high[:, 0].mean():.2f}",
             bool(high[:, 0].mean() >= 0.7)),
        Gate("and violations in fewer episodes than of flat PPO",
             f"{high[:, 1].mean():.2f} against {flat[:, 1].mean():.2f}",
             bool(high[:, 1].mean() < flat[:, 1].mean())),
        Gate("planning with three skills, without training: success of at least 0.6",
             f"{plans:.2f}", bool(plans >= 0.6)),
    ]  # fmt: skip
    text = (
        f"`{GOAL}`: the puck is to come within 0.15 of one of eight places on a circle of 0.5, in "
        f"50 steps. The high level chooses one skill of its seed's SLIM run for {SKILL_STEPS} "
        "steps at a time, by PPO on the task's reward; flat PPO chooses the gripper's motion, for "
        "as many steps of the gripper (640,000; those that taught the skills are not counted). "
        f"Planning tries chains of {CHAIN} skills of 16 steps in the simulator (cross-entropy "
        "method, 4 rounds of 64) and plans again after each. 100 episodes each, "
        f"{_which(seeds)}."
    )
    columns = ["arm", "success", "episodes with a violation", "steps", "success by seed"]
    return [Section("Eight goals", text, columns, rows, None, gates)]


def reached(job: Job, bounds: object, episodes: int = 100) -> tuple[float, float, float]:
    """Success, share of episodes with a violation, and mean number of steps."""
    learnt = load(job.directory)
    train, policy = learnt.settings.train, learnt.policy()
    env = envs.make(train.env, **train.env_args)
    found = []
    for seed in initial_seeds(env, episodes, 3):
        seen, _ = env.reset(seed=seed)
        over, violated, success, steps = False, False, False, 0
        while not over:
            seen, _, terminated, truncated, info = env.step(policy.act(seen[None])[0])
            passed = getattr(env, "trail", None) or [seen]
            violated |= bool(unsafe(np.stack(passed), bounds).any())
            steps, success = steps + len(passed), success or info["success"]
            over = terminated or truncated
        found.append((success, violated, steps))
    success, violated, steps = np.mean(found, axis=0)
    return float(success), float(violated), float(steps)


def planned(skills: Path, bounds: object, episodes: int = 100) -> tuple[float, float, float]:
    """The same for chains of skills planned in the simulator; kept beside the skills."""
    kept = skills.with_name("planned.json")
    if kept.exists():
        return tuple(json.loads(kept.read_text(encoding="utf-8")))
    planner = SkillPlanner(
        skills,
        GOAL,
        lambda seen: np.linalg.norm(seen[:, 2:4] - seen[:, 4:6], axis=1),
        lambda seen: unsafe(seen, bounds),
    )
    env = envs.make(GOAL, terminate_on_success=True)
    found = []
    for seed in initial_seeds(env, episodes, 3):
        seen, _ = env.reset(seed=seed)
        over, violated, success, steps = False, False, False, 0
        for left in range(CHAIN, 0, -1):
            if over:
                break
            skill = planner.plan(env.get_state(), left)[0]
            for _ in range(planner.steps):
                if not over:
                    action = planner.policy.act(seen, skill)
                    seen, _, terminated, truncated, info = env.step(action)
                    violated |= bool(unsafe(seen, bounds))
                    steps, success = steps + 1, success or info["success"]
                    over = terminated or truncated
        found.append((success, violated, steps))
    result = tuple(np.mean(found, axis=0).tolist())
    write_text(kept, json.dumps(result))
    return result


def tabletop(seeds: int, jobs: int) -> list[Section]:
    """Meta-World's arm, as large as two shared cores allow."""
    common = ("experiment=push_arm", "evaluation.episodes=8")
    runs = [Job(ROOT / f"arm-slim-{s}", (*common, f"seed={s}")) for s in range(seeds)]
    run_all(runs, jobs, "tabletop")
    found = [measure(job.directory, ARM_EPISODES).metrics() for job in runs]
    rows = [
        [seed, *(f"{one[name]:.2f}" for name in (*METRICS, "score"))]
        for seed, one in enumerate(found)
    ]
    text = (
        "`metaworld/push-v3`, three control steps per action and 50 actions per episode, 64,000 "
        "actions in 32 environments: a tenth of the experience on the plain table, with the "
        f"settings of `experiment=push_arm`; {ARM_EPISODES} episodes each. Two skill dimensions; "
        "displacements in the plane, in units of half the table. The paper trains a Franka arm; "
        "with how much experience could not be verified. Reported here, not gated."
    )
    return [Section("An arm on a table", text, ["seed", *METRICS, "score"], rows)]


PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::addmm_")


def profile(seeds: int, jobs: int) -> list[Section]:
    """Where the processor time of an update goes; kept with the runs."""
    kept = ROOT / "profile.json"
    if not kept.exists():
        job = scaled_job("slim", UNITS[0], 0)
        run_all([job], jobs, "profile")
        write_text(kept, json.dumps(_profile(job)))
    shares = json.loads(kept.read_text(encoding="utf-8"))
    products = sum(share for name, share in shares.items() if name in PRODUCTS)
    rows = [[name, f"{share:.1%}"] for name, share in list(shares.items())[:10]]
    text = (
        "One update of the settings above (12,800 steps, 4 passes of 4 minibatches, three critics "
        "in one batched product per layer), on one core, by operation. Tensor products take "
        f"{products:.0%} of it."
    )
    return [Section("Time of an update", text, ["operation", "share"], rows)]


def _profile(job: Job) -> dict[str, float]:
    """Share of each operation in an update's own processor time, largest first."""
    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    learner = load(job.directory).learner
    generator, n = torch.Generator().manual_seed(0), (256, 50)

    class Drawn:
        """A batch of the same shape."""

        def next(self, rows: int) -> dict[str, torch.Tensor]:
            def draw(*shape: int) -> torch.Tensor:
                return torch.rand(*n, *shape, generator=generator) - 0.5

            names = {"observation": 6, "next_observation": 6, "action": 2}
            batch = {name: draw(size) for name, size in names.items()}
            return {**batch, "reward": draw(), "mask": torch.ones(n)}

    learner.update(Drawn())
    with profiled(activities=[ProfilerActivity.CPU]) as result:
        learner.update(Drawn())
    times = {e.key: float(e.self_cpu_time_total) for e in result.key_averages()}
    total = sum(times.values())
    ordered = sorted(times.items(), key=lambda item: -item[1])
    return {name: time / total for name, time in ordered}

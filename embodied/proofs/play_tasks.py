"""Measurements of what was learnt from play: tasks, second attempts, plans, an update's time."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import envs
from embodied.core.evaluate import Evaluator
from embodied.core.types import Policy
from embodied.loading import load
from embodied.proofs.runs import Job
from embodied.report.files import write_text
from envs.tabletop import NAMES, TASKS, achieved
from envs.tabletop_model import BAR, BUTTONS_X, BUTTONS_Y, DOOR_X, DOOR_Y, DRAWER_X, DRAWER_Y

NEAR, AWAY = 0.08, 0.05  # m; an attempt is as near the thing as this, and ends this much farther
DOWN = 0.07  # m; height below which things are touched
NEIGHBOURS = 5
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::addbmm")

Played = dict[str, list[list[bool]]]
"""By task, of each episode whether it succeeded, and whether its first attempt had missed."""


def kept(path: Path, measure: Callable[[], Any]) -> Any:
    """What was measured once, as JSON beside the run it was measured on."""
    if not path.is_file():
        write_text(path, json.dumps(measure()))
    return json.loads(path.read_text(encoding="utf-8"))


def policy_of(job: Job, **changes: Any) -> Policy:
    """A run's policy, with other settings for acting, such as `replan`."""
    learnt = load(job.directory)
    if changes:
        learnt.learner.config = dataclasses.replace(learnt.learner.config, **changes)
    return learnt.policy()


def corridor_rate(job: Job, episodes: int, **changes: Any) -> float:
    """Share of episodes in the corridors that succeed."""
    name = "-".join(["rate", str(episodes), *(f"{k}-{v}" for k, v in changes.items())])

    def measure() -> float:
        env = envs.make("corridors/point-v0", terminate_on_success=True)
        return Evaluator(env, episodes, seed=1)(policy_of(job, **changes)).success

    return kept(job.directory / f"{name}.json", measure)


# ------------------------------------------------------------------ the table-top


def play_tasks(jobs: Mapping[str, Job], episodes: int, displaced: float, name: str) -> Played:
    """Every task of the table-top, by the run that is to do it.

    Args:
        jobs: run by task.
        episodes: of each task.
        displaced: m; how far the finger is moved aside before an episode.
        name: of the file with the results.
    """

    def measure() -> Played:
        policies = {job: policy_of(job) for job in dict.fromkeys(jobs.values())}
        return {task: _play(task, policies[jobs[task]], episodes, displaced) for task in jobs}

    return kept(jobs["drawer-open"].directory / f"{name}-{episodes}-{displaced}.json", measure)


def _play(task: str, policy: Policy, episodes: int, displaced: float) -> list[list[bool]]:
    env = envs.make(f"tabletop/{task}", displaced=displaced, terminate_on_success=True)
    attempts = Attempts(task)
    played = Evaluator(env, episodes, seed=1)(policy, on_step=attempts.watch)
    env.close()
    return [[e.success, attempts.missed.get(e.index, False)] for e in played.episodes]


class Attempts:
    """Whether the first attempt missed: the finger was near the thing and left with nothing done.

    Attributes:
        missed: by episode.
    """

    def __init__(self, task: str) -> None:
        self.task = task
        self.missed: dict[int, bool] = {}
        self._nearest: dict[int, float] = {}

    def watch(self, index: int, env: Any) -> None:
        """Look at an episode after its reset and after each step."""
        env = env.unwrapped
        distance = float(np.linalg.norm(env.finger - self._thing(env.look())))
        nearest = self._nearest.get(index, np.inf)
        if env.finger[2] < DOWN:
            nearest = self._nearest[index] = min(distance, nearest)
        if nearest < NEAR and distance > nearest + AWAY:
            self.missed[index] = True

    def _thing(self, look: Mapping[str, float]) -> np.ndarray:
        """Where the thing is touched, m, [3]."""
        thing, _, what = self.task.partition("-")
        places = {
            "drawer": (DRAWER_X, DRAWER_Y - look["drawer"] + BAR, 0.036),
            "door": (DOOR_X + look["door"], DOOR_Y, 0.036),
            "block": (look["block"], look["block y"], 0.025),
        }
        if thing == "button":
            return np.array([BUTTONS_X[NAMES.index(what)], BUTTONS_Y, 0.04])
        return np.array(places[thing])


def rate(played: Played, tasks: tuple[str, ...] = TASKS) -> float:
    """Mean success over tasks."""
    return float(np.mean([np.mean([won for won, _ in played[task]]) for task in tasks]))


def retried(played: Played) -> tuple[int, int]:
    """(episodes that succeeded after a first attempt that missed, episodes of the latter kind)."""
    after = [won for episodes in played.values() for won, missed in episodes if missed]
    return sum(after), len(after)


# ------------------------------------------------------------------ plans


def look_of(state: np.ndarray) -> dict[str, float]:
    """What `TableTop.look` says, from the 14 numbers of a state."""
    lamps = dict(zip(NAMES, map(float, state[8:11]), strict=True))
    place = {"block": float(state[11]), "block y": float(state[12])}
    return {"drawer": float(state[3]), "door": float(state[4]), **lamps, **place}


def label(window: np.ndarray) -> str:
    """The one task that was done in a window of states [T, 14]; "" for none or several."""
    before, now = look_of(window[0]), look_of(window[-1])
    done = [t for t in TASKS if achieved(t, before, now) and not achieved(t, before, before)]
    return done[0] if len(done) == 1 else ""


def plans(job: Job) -> tuple[np.ndarray, list[str]]:
    """Posterior means [n, Z] of windows of play that do not overlap, and what was done in each."""
    learnt = load(job.directory, read_data=True)
    states = learnt.task.packed().rows["observation.state"][:, : learnt.learner.states]
    length = learnt.learner.config.longest
    count = len(states) // length
    windows = np.array(states[: count * length]).reshape(count, length, -1)
    labels = [label(window) for window in windows]
    chosen = np.flatnonzero(labels)
    return learnt.learner.recognise(windows[chosen]), [labels[i] for i in chosen]


def neighbour_accuracy(points: np.ndarray, labels: list[str]) -> float:
    """How often the majority of the 5 nearest other points has a point's own label."""
    names, numbers = np.unique(labels, return_inverse=True)
    scaled = (points - points.mean(0)) / (points.std(0) + 1e-9)
    distance = np.square(scaled[:, None] - scaled[None]).sum(-1)
    np.fill_diagonal(distance, np.inf)
    nearest = numbers[np.argsort(distance, axis=1)[:, :NEIGHBOURS]]
    votes = np.stack([(nearest == i).sum(1) for i in range(len(names))], 1)
    return float((votes.argmax(1) == numbers).mean())


def principal(points: np.ndarray) -> np.ndarray:
    """The first two principal components, [n, 2]."""
    centred = points - points.mean(0)
    return centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T


# ------------------------------------------------------------------ an update


def update_time(job: Job, updates: int = 20) -> dict[str, float]:
    """Share of an update's time in matrix products and its length in ms of one core."""

    def measure() -> dict[str, float]:
        learnt = load(job.directory, read_data=True)
        learner, source = learnt.learner, learnt.task.windows()
        for _ in range(10):
            learner.update(source)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
            for _ in range(updates):
                learner.update(source)
        times = {event.key: event.self_cpu_time_total for event in found.key_averages()}
        products = sum(times.get(name, 0.0) for name in PRODUCTS)
        total = sum(times.values())
        return {"share": products / total, "ms": total / updates / 1000.0}

    return kept(job.directory / "update.json", measure)


@functools.cache
def parameters(job: Job) -> int:
    """How many numbers a run has learnt."""
    return sum(p.numel() for p in load(job.directory).learner.networks.parameters())

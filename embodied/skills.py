"""What a run of skill discovery has learnt: measured, frozen for later use, and planned with.

    python -m embodied.skills RUN     # prints the metrics and writes RUN/skills.npz

`env_args.skills=RUN/skills.npz` then makes the skills the actions of another task.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import envs
from embodied import loading
from embodied.core.seeding import Streams
from embodied.core.types import Policy, UserError
from envs.skill_prior import FrozenSkills

DIRECTIONS = 12
MOVED = 0.1  # of the half table: the object has been moved
CELL = 0.2


@dataclasses.dataclass(frozen=True)
class Measured:
    """Episodes of a skill-conditioned policy.

    Attributes:
        skill: [E, dim], z.
        displacement: [E, 2] of the object over the episode, in units of the half table.
        place: [E, 2] of the object at the end, from the middle of the table, in the same unit.
        safe: [E], whether nothing was ever out of bounds.
    """

    skill: np.ndarray
    displacement: np.ndarray
    place: np.ndarray
    safe: np.ndarray

    @property
    def interaction(self) -> float:
        """Share of episodes whose object has moved."""
        return float(np.mean(np.linalg.norm(self.displacement, axis=1) > MOVED))

    @property
    def controllability(self) -> float:
        """R^2 of the linear regression of the displacement on [z, 1], over both coordinates."""
        inputs = np.c_[self.skill, np.ones(len(self.skill))]
        fit = inputs @ np.linalg.lstsq(inputs, self.displacement, rcond=None)[0]
        total = np.square(self.displacement - self.displacement.mean(0)).sum()
        rest = np.square(self.displacement - fit).sum()
        return float(max(0.0, 1 - rest / total)) if total > 1e-12 else 0.0

    @property
    def safety(self) -> float:
        """Share of episodes without a violation."""
        return float(np.mean(self.safe))

    @property
    def cells(self) -> int:
        """Cells of the table, 0.2 of its half wide, in which objects of episodes came to rest."""
        on_table = self.place[np.abs(self.place).max(1) <= 1]
        return len(np.unique(np.floor(on_table / CELL), axis=0))

    @property
    def directions(self) -> int:
        """Of twelve directions those in which an object was moved."""
        moved = self.displacement[np.linalg.norm(self.displacement, axis=1) > MOVED]
        angle = np.arctan2(moved[:, 1], moved[:, 0]) % (2 * np.pi)
        return len(np.unique((angle / (2 * np.pi / DIRECTIONS)).astype(int) % DIRECTIONS))

    @property
    def score(self) -> float:
        """Interaction x controllability x safety."""
        return self.interaction * self.controllability * self.safety

    def metrics(self) -> dict[str, float]:
        """All of it, by name."""
        moved = float(np.linalg.norm(self.displacement, axis=1).mean())
        names = ("interaction", "controllability", "safety", "cells", "directions", "score")
        return {"displacement": moved, **{name: float(getattr(self, name)) for name in names}}


def unsafe(observation: np.ndarray, method: object) -> np.ndarray:
    """Whether a column of observations [..., O] is out of the bounds of a run's settings, [...]."""
    seen = observation[..., list(method.safe)]
    return ((seen < method.safe_low) | (seen > method.safe_high)).any(-1)


def measure(run: str | Path, episodes: int = 256, seed: int = 0) -> Measured:
    """Plays one episode of each of many skills, without exploration noise.

    Args:
        run: a run of `method=slim` on an environment with a prior.
        episodes: how many, as many side by side as the run had.
        seed: of the initial states and skills.

    Raises:
        UserError: the run has no skills, or its episodes end one by one.
    """
    learnt = _discovered(run)
    train, method = learnt.settings.train, learnt.settings.method
    together = min(episodes, train.num_envs)
    vector = envs.make_vec(train.env, together, **train.env_args)
    policy, seeds = learnt.policy(), Streams(seed).integers("skills", episodes)
    played = [
        _play(vector, policy, seeds[i : i + together], lambda seen: unsafe(seen, method))
        for i in range(0, episodes, together)
    ]
    vector.close()
    first, last, safe = (np.concatenate(parts)[:episodes] for parts in zip(*played, strict=True))
    thing = list(method.thing)[:2]
    at = [list(method.safe).index(column) for column in thing]
    low, high = (np.array(bound)[at] for bound in (method.safe_low, method.safe_high))
    middle, half = (low + high) / 2, (high - low) / 2
    begin, end = ((seen[:, thing] - middle) / half for seen in (first, last))
    return Measured(first[:, -learnt.learner.skill_dim :], end - begin, end, safe)


def _play(
    vector: Any, policy: Policy, seeds: Sequence[int], violated: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An episode in every environment: first and last observations, and who was always safe."""
    seeds = [*seeds, *[0] * (vector.num_envs - len(seeds))]
    first, _ = vector.reset(seed=seeds)
    safe, last, over = ~violated(first), first, np.zeros(len(first), bool)
    while not over.any():
        last, _, terminated, truncated, _ = vector.step(policy.act(last))
        safe &= ~violated(last)
        over = terminated | truncated
    if not over.all():
        raise UserError("episodes of skills are to be equally long: leave terminate_on_success out")
    return first, last, safe


def _discovered(run: str | Path) -> loading.Learnt:
    learnt = loading.load(run)
    if learnt.settings.method_id != "slim" or not learnt.learner.skill_dim:
        raise UserError(f"{run} has no skills: train method=slim with env_args.prior=sphere-2")
    method = learnt.settings.method
    if not set(method.thing[:2]) <= set(method.safe) or len(method.thing) < 2:
        raise UserError(f"{run}: where the table ends is told by bounds of the object's columns")
    return learnt


def export(run: str | Path, path: str | Path | None = None) -> Path:
    """Writes the policy of a run as numbers that `envs.skill_prior.RunSkill` reads.

    Args:
        run: see `measure`.
        path: where to; RUN/skills.npz by default.
    """
    learner = _discovered(run).learner
    scale, linears = learner.actor.scale, learner.actor.actor.net.linears
    arrays = {"shift": scale.shift.cpu().numpy(), "scale": scale.scale.cpu().numpy()}
    for i, linear in enumerate(linears):
        arrays[f"weight{i}"] = linear.weight.detach().cpu().numpy().T
        arrays[f"bias{i}"] = linear.bias.detach().cpu().numpy()
    kind = "one-hot" if learner.discrete else "sphere"
    path = Path(path or Path(run) / "skills.npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        np.savez(stream, kind=np.array(kind), dim=np.array(learner.skill_dim), **arrays)
    return path


def cross_entropy(
    cost: Callable[[np.ndarray], np.ndarray],
    shape: Sequence[int],
    rng: np.random.Generator,
    *,
    rounds: int = 4,
    population: int = 64,
    elite: int = 8,
) -> np.ndarray:
    """The cheapest array that a few rounds of the cross-entropy method meet (Rubinstein 1999).

    Args:
        cost: of arrays [population, *shape] -> [population].
        shape: of one array.
        rng: draws them, at first from a standard normal.
        rounds: of drawing and fitting.
        population: arrays per round.
        elite: of which so many are fitted.
    """
    mean, deviation = np.zeros(shape), np.ones(shape)
    best, least = mean, np.inf
    for _ in range(rounds):
        drawn = mean + deviation * rng.standard_normal((population, *shape))
        costs = cost(drawn)
        order = np.argsort(costs, kind="stable")
        if costs[order[0]] < least:
            best, least = drawn[order[0]], float(costs[order[0]])
        chosen = drawn[order[:elite]]
        mean, deviation = chosen.mean(0), chosen.std(0) + 0.05
    return best


class SkillPlanner:
    """Chains of skills, tried out in copies of the simulator before the first of them is run.

    Args:
        skills: what `export` wrote.
        env_id: the task, made without `skills`.
        distance: of observations [P, O] to the goal, [P].
        violated: whether observations [P, O] are out of bounds, [P].
        steps: that each skill runs.
        seed: of the search.
        population: chains per round.
    """

    def __init__(
        self,
        skills: str | Path,
        env_id: str,
        distance: Callable[[np.ndarray], np.ndarray],
        violated: Callable[[np.ndarray], np.ndarray],
        *,
        steps: int = 16,
        seed: int = 0,
        population: int = 64,
    ) -> None:
        self.policy: FrozenSkills = FrozenSkills(skills)
        self.distance, self.violated = distance, violated
        self.steps, self.population = steps, population
        self.copies = envs.make_vec(env_id, population)
        self.rng = Streams(seed).numpy("planner")

    def plan(self, state: dict, skills: int) -> np.ndarray:
        """The next skills from a state of the environment on, [skills, dim]."""
        space = self.policy.space

        def cost(chains: np.ndarray) -> np.ndarray:
            return self._try(state, space.nearest(chains))

        shape = (skills, space.dim)
        found = cross_entropy(cost, shape, self.rng, population=self.population)
        return space.nearest(found)

    def _try(self, state: dict, chains: np.ndarray) -> np.ndarray:
        """Least distance to the goal at the end of a skill, and violations on the way."""
        self.copies.set_state([state] * len(chains))
        seen = np.stack([env.observation() for env in self.copies.envs])
        violations, nearest = np.zeros(len(chains)), np.full(len(chains), np.inf)
        for n in range(chains.shape[1]):
            for _ in range(self.steps):
                seen, *_ = self.copies.step(self.policy.act(seen, chains[:, n]))
                violations += self.violated(seen)
                nearest = np.minimum(nearest, self.distance(seen))
        return nearest + 0.1 * violations


def main(argv: Sequence[str] | None = None) -> int:
    """Measures the skills of a run and writes them down."""
    parser = argparse.ArgumentParser(prog="python -m embodied.skills", description=__doc__)
    parser.add_argument("run", help="run directory")
    parser.add_argument("--episodes", type=int, default=256)
    given = parser.parse_args(argv)
    for name, value in measure(given.run, given.episodes).metrics().items():
        print(f"{name}: {value:.3f}")
    print(f"skills: {export(given.run)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""This project's learners, replay and policy, as `embodied train` uses them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

import embodied.agents  # noqa: F401  (registers the methods)
from benchmarks.serve import serve
from embodied.agents.task import RobotTask
from embodied.core import registry
from embodied.core.replay import ReplaySource, transition_columns
from embodied.core.seeding import Streams

OBS, ACT, BATCH, EPISODES, LENGTH, WINDOW = 39, 4, 256, 500, 200, 64


def episode(rng: np.random.Generator, length: int = LENGTH) -> dict[str, np.ndarray]:
    """Random rows that look like an episode."""
    return {
        "observation": rng.standard_normal((length, OBS), np.float32),
        "next_observation": rng.standard_normal((length, OBS), np.float32),
        "action": rng.uniform(-0.9, 0.9, (length, ACT)).astype(np.float32),
        "reward": rng.random(length, np.float32),
        "mask": np.ones(length, np.float32),
        "mc_return": rng.random(length, np.float32),
    }


def replay(*, returns: bool = False, only: tuple[str, ...] = ()) -> ReplaySource:
    """A full replay buffer of all columns of a transition, or of some."""
    rng = np.random.default_rng(0)
    columns = transition_columns((OBS,), (ACT,), returns=returns)
    columns = {name: column for name, column in columns.items() if not only or name in only}
    generator = torch.Generator().manual_seed(0)
    source = ReplaySource(columns, EPISODES * LENGTH, generator, whole_episodes=True)
    for _ in range(EPISODES):
        source.add_episode(episode(rng))
    return source


def learner(method: str, conservative: dict[str, Any] | None = None, **settings: Any) -> Any:
    """A method's own learner with some settings changed."""
    torch.set_num_threads(1)
    entry = registry.get(method)
    config = entry.config(**settings)
    if conservative:
        changed = dataclasses.replace(config.conservative, **conservative)
        config = dataclasses.replace(config, conservative=changed)
    return entry.learner(config, RobotTask((OBS,), ACT, Streams(0)))


def update(units: int, method: str, **settings: Any):
    """Its `update`, drawing from a replay buffer."""
    agent, source = learner(method, **settings), replay(returns=method == "calql")
    return lambda: agent.update(source), units


def calql_10(pair: bool):
    """10 critics with the max backup; the pair is drawn as the official code draws it."""
    subset = 2 if pair else 0
    return update(
        1,
        "calql",
        conservative={"subset": subset},
        members=10,
        subset=subset,
        subset_replacement=True,
        max_target_actions=10,
    )


def batch():
    source = replay()
    return lambda: source.next(BATCH), 1


def windows(*only: str):
    source = replay(only=only)
    return lambda: source.windows(BATCH, WINDOW), 1


def act():
    policy = learner("sac").policy()
    observation = np.zeros((1, OBS), np.float32)
    return lambda: policy.act(observation), 1


VARIANTS = {
    "wsrl": lambda: update(4, "wsrl"),
    "wsrl-plain": lambda: update(4, "wsrl", critic_layer_norm=False, actor_layer_norm=False),
    "sac-4": lambda: update(4, "sac", utd=4),
    "sac-1": lambda: update(1, "sac"),
    "calql-2": lambda: update(1, "calql", hidden=(256, 256, 256), critic_hidden=(256, 256)),
    "calql-10": lambda: calql_10(pair=True),
    "calql-10-all": lambda: calql_10(pair=False),
    "batch": batch,
    "windows-two": lambda: windows("observation", "action"),
    "windows-all": windows,
    "act": act,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(VARIANTS, ["torch", "numpy"])

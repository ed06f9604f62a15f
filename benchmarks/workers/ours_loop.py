"""This project's training loop, its collector, and the environment below them."""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

import envs
from benchmarks.serve import serve
from benchmarks.workers.ours import episode, learner
from embodied.core.collector import EnvCollector
from embodied.core.phase import Phase, Recipe, Until
from embodied.core.replay import ReplaySource, transition_columns
from embodied.core.seeding import Streams
from embodied.core.trainer import Trainer

ENV, BATCH, UTD = "metaworld/door-open-v3", 256, 4


class Still:
    """Always the same action, so that only the collector's own work is measured."""

    def __init__(self, action: np.ndarray) -> None:
        self.action = action

    def act(self, observation: np.ndarray) -> np.ndarray:
        return self.action


def collector() -> EnvCollector:
    return EnvCollector(envs.make_vec(ENV, 1), Streams(0).numpy("environment"))


def train():
    """`Trainer.step`: one environment step and the update it owes, with the default options."""
    agent, columns = learner("wsrl"), transition_columns((39,), (4,))
    source = ReplaySource(columns, 100_000, Streams(0).torch("replay"))
    source.add_episode(episode(np.random.default_rng(0), BATCH * UTD))
    phase = Phase(
        "online",
        agent,
        source,
        Until("env_steps", 10**9),
        collector=collector(),
        updates_per_step=Fraction(1),
    )
    folder = tempfile.TemporaryDirectory(prefix="embodied-bench-")
    trainer = Trainer(Recipe([phase]), Path(folder.name))

    def step(_keep=folder) -> None:
        trainer.step()

    return step, 1


def collect():
    vector = collector()
    policy = Still(np.zeros((1, 4), np.float32))
    return lambda: vector.collect(policy), 1


def raw():
    env = envs.make(ENV)
    env.reset(seed=0)
    action = np.zeros(4, np.float32)

    def step() -> None:
        *_, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset(seed=0)

    return step, 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve({"train": train, "collect": collect, "raw": raw}, ["metaworld", "mujoco", "torch"])

"""The proof of WSRL: maze experiments (b) and (c) of its paper's claims, and Meta-World.

- `maze`: does the critic survive hand-over without offline data? WSRL against Cal-QL, CQL and IQL
  fine-tuned without retention, from their own pre-training, equal steps and updates per step.
- `warmup`: is it the warm-up? The same agent with K = 1000 and with none to speak of.
- `metaworld`: success on the demo task, against Cal-QL with and without retention, RLPD and SAC.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from embodied.core.evaluate import Evaluator
from embodied.core.stats import bootstrap_mean
from embodied.proofs import DOCS, RUNS
from embodied.proofs.runs import Job, curve, evaluations, final, run_all
from embodied.report.figures import compare, strip
from embodied.report.page import Gate, Section, write_page

ROOT = RUNS / "wsrl"
MAZE = (
    "experiment=maze",
    "method.hidden=[32,32]",
    "method.batch_size=64",
    "method.actor_lr=1e-3",
    "method.critic_lr=1e-3",
    "method.tau=0.01",
    "method.discount=0.95",
    "method.members=4",
    "method.actor_layer_norm=true",
    "method.critic_layer_norm=true",
)
ACTOR_CRITIC = (
    "method.temperature_lr=1e-3",
    "method.init_temperature=0.1",
    "method.subset=2",
)
OFFLINE_UPDATES, ONLINE_STEPS, WARMUP, UTD = 4000, 2000, 1000, 4
EVAL = "method.eval_every=100"
NO_RETENTION = ("method.offline_ratio=0", "method.wait_steps=64", EVAL)
WALLS = (2.6, 2.8, 3.0, 3.2, 3.4, 3.6)


def job(arm: str, seed: int, *overrides: str) -> Job:
    """A run of one arm."""
    return Job(ROOT / f"{arm}-{seed}", (*MAZE, f"seed={seed}", *overrides))


def pretraining(method: str, seed: int) -> Job:
    """4000 offline updates of a pre-trainer."""
    settings = {
        "calql": (*ACTOR_CRITIC, "method.conservative.weight=0.5", "method.conservative.actions=3"),
        "cql": (*ACTOR_CRITIC, "method.conservative.weight=0.5", "method.conservative.actions=3"),
        "iql": ("method.squash=true", "method.state_dependent_std=true"),
        "bc": (),
    }[method]
    updates = f"method.offline_updates={OFFLINE_UPDATES}"
    return job(f"pre-{method}", seed, f"method={method}", *settings, updates)

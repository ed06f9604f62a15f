"""The official WSRL agents, unmodified, on a current jax.

The only shims put back two names that jax has removed: jax.tree_map and jax.random.KeyArray.
"""

from __future__ import annotations

import itertools
import os
import sys

import jax
import numpy as np

from benchmarks.serve import serve

if not hasattr(jax, "tree_map"):
    jax.tree_map = jax.tree.map
if not hasattr(jax.random, "KeyArray"):
    jax.random.KeyArray = jax.Array
sys.path.insert(0, os.environ["CHECKOUT"])

from wsrl.agents.calql import CalQLAgent
from wsrl.agents.sac import SACAgent

OBS, ACT, BATCH, UTD = 39, 4, 256, 4
COMMON = {
    "encoder_def": None,
    "discount": 0.99,
    "backup_entropy": False,
    "target_entropy": 0.0,
    "soft_target_update_rate": 5e-3,
    "autotune_entropy": True,
    "temperature_init": 1.0,
    "policy_kwargs": {"tanh_squash_distribution": True, "std_parameterization": "exp"},
    "actor_optimizer_kwargs": {"learning_rate": 1e-4},
    "critic_optimizer_kwargs": {"learning_rate": 3e-4},
    "temperature_optimizer_kwargs": {"learning_rate": 1e-4},
    "critic_ensemble_size": 10,
    "critic_subsample_size": 2,
}
CALQL = {
    "cql_n_actions": 10,
    "cql_action_sample_method": "uniform",
    "cql_max_target_backup": True,
    "cql_importance_sample": True,
    "cql_autotune_alpha": False,
    "cql_alpha": 5.0,
    "cql_target_action_gap": 1.0,
    "cql_temp": 1.0,
    "cql_clip_diff_min": -np.inf,
    "cql_clip_diff_max": np.inf,
    "use_td_loss": True,
    "use_cql_loss": True,
    "calql_bound_random_actions": False,
}


def batches(rows: int):
    """Eight batches in turn."""
    rng = np.random.default_rng(0)
    return itertools.cycle(
        [
            {
                "observations": rng.standard_normal((rows, OBS), np.float32),
                "next_observations": rng.standard_normal((rows, OBS), np.float32),
                "actions": rng.uniform(-0.9, 0.9, (rows, ACT)).astype(np.float32),
                "rewards": rng.random(rows, np.float32),
                "masks": np.ones(rows, np.float32),
                "mc_returns": rng.random(rows, np.float32),
            }
            for _ in range(8)
        ]
    )


def _create(agent_class, layer_norm: bool, **settings):
    example = next(batches(2))
    network = {
        "hidden_dims": [256, 256],
        "activate_final": True,
        "use_layer_norm": layer_norm,
        "activations": "relu",
        "kernel_scale_final": 1e-2,
    }
    return agent_class.create(
        jax.random.PRNGKey(0),
        example["observations"],
        example["actions"],
        critic_network_kwargs=network,
        policy_network_kwargs=network,
        **COMMON,
        **settings,
    )


def sac(layer_norm: bool):
    agent, source = _create(SACAgent, layer_norm), batches(BATCH * UTD)

    def step() -> None:
        nonlocal agent
        agent, _ = agent.update_high_utd(next(source), utd_ratio=UTD)
        jax.block_until_ready(agent.state.params)

    return step, UTD


def calql():
    agent, source = _create(CalQLAgent, False, **CALQL), batches(BATCH)

    def step() -> None:
        nonlocal agent
        agent, _ = agent.update(next(source), networks_to_update={"actor", "critic"})
        jax.block_until_ready(agent.state.params)

    return step, 1


if __name__ == "__main__":
    serve(
        {"sac-ln": lambda: sac(True), "sac-plain": lambda: sac(False), "calql-10": calql},
        ["jax", "jaxlib", "flax", "optax", "distrax"],
        warm_up=4,  # the first three calls of the Cal-QL update compile
    )

"""CORL's Cal-QL (algorithms/finetune/cal_ql.py), unmodified.

Packages it imports for data and logging are replaced by empty modules.
"""

from __future__ import annotations

import importlib
import os
import sys
import types

import torch

from benchmarks.serve import serve

OBS, ACT, BATCH = 39, 4, 256


def _module():
    for name in ("d4rl", "gym", "wandb", "pyrallis"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["gym"].Env = object
    sys.modules["pyrallis"].wrap = lambda *_, **__: lambda function: function
    sys.path.insert(0, os.environ["CHECKOUT"])
    return importlib.import_module("algorithms.finetune.cal_ql")


def calql():
    """Its trainer on one batch; its defaults (2 critics, 10 actions, weight 5, no max backup)."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = _module()
    critics = [module.FullyConnectedQFunction(OBS, ACT, orthogonal_init=True) for _ in range(2)]
    optimizers = [torch.optim.Adam(critic.parameters(), 3e-4) for critic in critics]
    actor = module.TanhGaussianPolicy(OBS, ACT, 1.0, orthogonal_init=True)
    trainer = module.CalQL(
        critics[0],
        optimizers[0],
        critics[1],
        optimizers[1],
        actor,
        torch.optim.Adam(actor.parameters(), 1e-4),
        target_entropy=-float(ACT),
        cql_n_actions=10,
        cql_alpha=5.0,
        bc_steps=0,
        device="cpu",
    )
    batch = [
        torch.randn(BATCH, OBS),
        torch.rand(BATCH, ACT) * 1.8 - 0.9,
        torch.rand(BATCH, 1),
        torch.randn(BATCH, OBS),
        torch.zeros(BATCH, 1),
        torch.rand(BATCH, 1),
    ]
    return lambda: trainer.train(batch), 1


if __name__ == "__main__":
    serve({"calql": calql}, ["torch"])

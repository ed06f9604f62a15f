"""Small data, tasks and sources for the tests of methods."""

import copy

import numpy as np
import torch

import envs
from embodied.agents.task import RobotTask
from embodied.core.collector import EnvCollector
from embodied.core.seeding import Streams
from embodied.core.trainer import Trainer, TrainerOptions

torch.set_num_threads(1)  # networks this small only lose by sharing

NETWORK = {"hidden": (8,), "critic_hidden": (8, 8)}


def episodes(n=6, length=8, *, seed=0, obs=2, act=2):
    """Random episodes with raw 0/1 rewards; every second one ends in success."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        states = rng.uniform(-1, 1, (length + 1, obs)).astype(np.float32)
        success = i % 2
        out.append(
            {
                "observation": states[:-1],
                "next_observation": states[1:],
                "action": rng.uniform(-1, 1, (length, act)).astype(np.float32),
                "reward": np.array([0.0] * (length - 1) + [success], np.float32),
                "mask": np.array([1.0] * (length - 1) + [1.0 - success], np.float32),
            }
        )
    return out


def collector(seed=0, **options):
    """One point maze."""
    options = {"reward": "sparse", "terminate_on_success": True, "horizon": 10} | options
    vector = envs.make_vec("maze/point-v0", 1, **options)
    return EnvCollector(vector, Streams(seed).numpy("episodes"))


def task(seed=0, *, data=None, **fields):
    data = episodes() if data is None else data
    return RobotTask((2,), 2, Streams(seed), episodes=lambda: data, fingerprint="tiny", **fields)


def batch(rows=16, *, seed=0, obs=2, act=2, returns=False, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    out = {
        "observation": torch.randn(rows, obs, generator=g),
        "next_observation": torch.randn(rows, obs, generator=g),
        "action": torch.rand(rows, act, generator=g) * 1.8 - 0.9,
        "reward": torch.randn(rows, generator=g),
        "mask": (torch.rand(rows, generator=g) > 0.3).float(),
    }
    if returns:
        out["mc_return"] = torch.randn(rows, generator=g)
    return {k: v.to(dtype) for k, v in out.items()}


class Fixed:
    """Gives one batch, whole, every time."""

    def __init__(self, rows):
        self.rows = rows

    def next(self, n):
        assert n == len(self.rows["reward"])
        return self.rows


def frozen(learner):
    """A copy of a learner's state that later updates do not reach."""
    return copy.deepcopy(learner.state_dict())


def equal(a, b):
    """Bit-identical nested states."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return a == b


def train(recipe, directory, **options):
    """A trainer that writes as little as it can."""
    return Trainer(recipe, directory, options=TrainerOptions(tensorboard=False, **options))


def run_phase(trainer, name):
    """Step until a phase of that name has ended."""
    while trainer.phase is not None and trainer.phase.name == name:
        trainer.step()

"""Stable-Baselines3: SAC.train with its replay buffer, its buffer alone, SAC.predict."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import configure

from benchmarks.serve import serve

OBSERVATION = gymnasium.spaces.Box(-10, 10, (39,), np.float32)
ACTION = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
ROWS, BATCH, STEPS = 100_000, 256, 4


class Spaces(gymnasium.Env):
    """Only its spaces matter."""

    observation_space, action_space = OBSERVATION, ACTION

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(39, np.float32), {}

    def step(self, action):
        return np.zeros(39, np.float32), 0.0, False, False, {}


def fill(buffer: ReplayBuffer) -> ReplayBuffer:
    """Random rows."""
    rng = np.random.default_rng(0)
    buffer.observations[:, 0] = rng.standard_normal((ROWS, 39), np.float32)
    buffer.next_observations[:, 0] = rng.standard_normal((ROWS, 39), np.float32)
    buffer.actions[:, 0] = rng.uniform(-0.9, 0.9, (ROWS, 4))
    buffer.rewards[:, 0] = rng.random(ROWS, np.float32)
    buffer.full = True
    return buffer


def agent(critics: int) -> SAC:
    """SAC on the CPU with a filled buffer."""
    torch.set_num_threads(1)
    model = SAC(
        "MlpPolicy",
        Spaces(),
        batch_size=BATCH,
        buffer_size=ROWS,
        policy_kwargs={"net_arch": [256, 256], "n_critics": critics},
        device="cpu",
        seed=0,
    )
    model.set_logger(configure(None, []))
    fill(model.replay_buffer)
    return model


def train(critics: int):
    model = agent(critics)
    return lambda: model.train(gradient_steps=STEPS, batch_size=BATCH), STEPS


def batch():
    torch.set_num_threads(1)
    buffer = fill(ReplayBuffer(ROWS, OBSERVATION, ACTION, device="cpu"))
    return lambda: buffer.sample(BATCH), 1


def act():
    model, observation = agent(2), np.zeros(39, np.float32)
    return lambda: model.predict(observation), 1


if __name__ == "__main__":
    serve(
        {
            "sac-2": lambda: train(2),
            "sac-10": lambda: train(10),
            "batch": batch,
            "act": act,
        },
        ["stable_baselines3", "torch", "numpy"],
    )

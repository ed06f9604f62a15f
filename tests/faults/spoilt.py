"""A maze that fails on demand, importable by a worker without torch."""

import os
import time
from pathlib import Path

import numpy as np

import envs

MAZE = "maze/point-v0"


def spoilt(flag: Path):
    """A maze that does what the flag file says, if the file names this process."""
    env = envs.make(MAZE, horizon=40)
    step = env.step

    def step_(action):
        if flag.exists() and flag.read_text().startswith(f"{os.getpid()} "):
            fault = flag.read_text().split()[1]
            if fault == "hang":
                time.sleep(3600)
            if fault == "raise":
                raise OSError("the simulator gave up")
            observation, *rest = step(action)
            flag.unlink()
            return np.full_like(observation, np.nan), *rest
        return step(action)

    env.step = step_
    return env

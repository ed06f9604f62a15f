"""This project's environments, stepped with random actions and reset at the horizon."""

from __future__ import annotations

from functools import partial

import numpy as np

import envs
from benchmarks.serve import serve

CALLS = 50
VARIANTS = {
    "reach": "metaworld/reach-v3",
    "assembly": "metaworld/assembly-v3",
    "walker": "dm_control/walker-walk",
    "cheetah": "dm_control/cheetah-run",
}


def build(env_id: str):
    env = envs.make(env_id)
    env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (CALLS, *env.action_space.shape))
    actions = list(actions.astype(np.float32))

    def step() -> None:
        for action in actions:
            *_, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    return step, CALLS


if __name__ == "__main__":
    builders = {name: partial(build, env_id) for name, env_id in VARIANTS.items()}
    serve(builders, ["metaworld", "dm_control", "mujoco", "gymnasium", "numpy", "scipy"])

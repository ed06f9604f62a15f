"""The environments as their packages make them, with random actions, reset at the horizon."""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.serve import serve

CALLS = 50


def metaworld(task: str):
    import gymnasium
    import metaworld  # noqa: F401  (registers Meta-World)

    env = gymnasium.make("Meta-World/MT1", env_name=task, seed=0)
    env.reset()
    actions = list(np.random.default_rng(0).uniform(-1, 1, (CALLS, 4)).astype(np.float32))

    def step() -> None:
        for action in actions:
            *_, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    return step, CALLS


def dm_control(domain: str, task: str):
    from dm_control import suite

    env = suite.load(domain, task, task_kwargs={"random": 0})
    env.reset()
    actions = list(np.random.default_rng(0).uniform(-1, 1, (CALLS, *env.action_spec().shape)))

    def step() -> None:
        for action in actions:
            env.step(action)  # resets itself after the last step

    return step, CALLS


if __name__ == "__main__":
    builders = {
        "reach": partial(metaworld, "reach-v3"),
        "assembly": partial(metaworld, "assembly-v3"),
        "walker": partial(dm_control, "walker", "walk"),
        "cheetah": partial(dm_control, "cheetah", "run"),
    }
    serve(builders, ["metaworld", "dm_control", "mujoco", "gymnasium", "numpy", "scipy"])

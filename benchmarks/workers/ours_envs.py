"""This project's environments, stepped with random actions.

Meta-World and dm_control are reset at the horizon. A reset of robosuite and LIBERO builds a scene,
which is another matter: these go back to one state instead.
"""

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


FROM_A_STATE = {
    "lift": "robosuite/Lift",
    "wipe": "robosuite/Wipe",
    "two-arms": "robosuite/TwoArmLift",
    "goal": "libero/libero_goal/7",
    "object": "libero/libero_object/0",
}
VECTOR = ("metaworld/reach-v3", 2)


def random_actions(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (CALLS, *shape)).astype(np.float32)


def build(env_id: str, seed: int = 0, actions: np.ndarray | None = None):
    env = envs.make(env_id)
    env.reset(seed=seed)
    actions = list(random_actions(*env.action_space.shape) if actions is None else actions)

    def step() -> None:
        for action in actions:
            *_, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    return step, CALLS


def from_a_state(env_id: str):
    env = envs.make(env_id, horizon=10**9)
    env.reset(seed=0)
    start, physics = env.get_state(), env._get_physics()
    actions = list(random_actions(*env.action_space.shape))

    def step() -> None:
        env._set_physics(physics)  # as the package's own `sim.set_state`
        for action in actions:
            *_, terminated, _, _ = env.step(action)
            if terminated:  # the package is told to ignore this
                env.set_state(start)

    return step, CALLS


def vector():
    env_id, num = VECTOR
    env = envs.make_vec(env_id, num)
    env.reset(seed=0)
    actions = list(random_actions(*env.action_space.shape))

    def step() -> None:
        for action in actions:
            *_, terminated, truncated, _ = env.step(action)
            if any(terminated.tolist()) or any(truncated.tolist()):
                env.reset(options={"reset_mask": terminated | truncated})

    return step, CALLS * num


def side_by_side():
    """The same episodes as in `vector`: what a step costs depends on what the arm touches."""
    env_id, num = VECTOR
    actions = random_actions(num, *envs.make(env_id).action_space.shape)
    steps = [build(env_id, i, actions[:, i])[0] for i in range(num)]
    return lambda: [step() for step in steps], CALLS * num


if __name__ == "__main__":
    builders = {name: partial(build, env_id) for name, env_id in VARIANTS.items()}
    builders |= {name: partial(from_a_state, env_id) for name, env_id in FROM_A_STATE.items()}
    builders |= {"vector": vector, "side-by-side": side_by_side}
    packages = ["metaworld", "dm_control", "robosuite", "hf-libero", "mujoco", "gymnasium"]
    serve(builders, [*packages, "numpy", "scipy", "numba"])

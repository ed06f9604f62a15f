"""The environments as their packages make them, with random actions; see `ours_envs`."""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.serve import serve
from benchmarks.workers.ours_envs import CALLS, FROM_A_STATE


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


def from_a_state(env):
    env.reset()
    start = env.sim.get_state()
    actions = list(np.random.default_rng(0).uniform(-1, 1, (CALLS, env.action_dim)))

    def step() -> None:
        env.sim.set_state(start)
        env.sim.forward()
        for action in actions:
            env.step(action)

    return step, CALLS


def robosuite(task: str, robots: int = 1):
    import robosuite

    env = robosuite.make(
        task,
        robots=["Panda"] * robots,
        controller_configs=robosuite.load_controller_config(default_controller="OSC_POSE"),
        control_freq=20,
        reward_shaping=True,
        ignore_done=True,
        use_camera_obs=False,
        has_renderer=False,
        has_offscreen_renderer=False,
    )
    return from_a_state(env)


def libero(env_id: str):
    import envs
    from envs.libero import package_folder, task_names

    envs.make(env_id).close()  # finds the models, and answers the package's question on its import
    from libero.libero.envs.env_wrapper import ControlEnv

    _, suite, index = env_id.split("/")
    name = task_names(env_id)[suite][int(index)]
    bddl = package_folder(env_id) / "bddl_files" / suite / f"{name}.bddl"
    env = ControlEnv(
        bddl_file_name=str(bddl),
        use_camera_obs=False,
        has_offscreen_renderer=False,
        ignore_done=True,
    )
    return from_a_state(env.env)


if __name__ == "__main__":
    builders = {
        "reach": partial(metaworld, "reach-v3"),
        "assembly": partial(metaworld, "assembly-v3"),
        "walker": partial(dm_control, "walker", "walk"),
        "cheetah": partial(dm_control, "cheetah", "run"),
        "lift": partial(robosuite, "Lift"),
        "wipe": partial(robosuite, "Wipe"),
        "two-arms": partial(robosuite, "TwoArmLift", 2),
        **{name: partial(libero, FROM_A_STATE[name]) for name in ("goal", "object")},
    }
    packages = ["metaworld", "dm_control", "robosuite", "hf-libero", "mujoco", "gymnasium"]
    serve(builders, [*packages, "numpy", "scipy", "numba"])

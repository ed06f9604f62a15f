"""Simulated environments, and arms, behind one small contract.

    import envs
    env = envs.make("metaworld/door-open-v3", reward="sparse", horizon=200)
    obs, info = env.reset(seed=0)
    obs, reward, terminated, truncated, info = env.step(env.action_space.sample())

Every environment promises: `reset(seed=s)` alone determines the episode; `get_state` and
`set_state` continue an episode bit for bit in a fresh object or process; actions lie in [-1, 1];
`info["success"]` is a bool. `envs.check_env` tests these promises on any gymnasium environment.
An arm (`real/...`, see `envs.twin_arm`) cannot promise the first two: it is led home, not put back.

Importing this package imports no simulator. It also registers each id with gymnasium under the
namespace `embodied`, with `/` written as `-`:
`gymnasium.make("envs:embodied/metaworld-door-open-v3")`; the prefix `envs:` is not needed once
`envs` has been imported.
"""

from typing import Any

from envs.base import EnvsError, MissingExtra, RenderError, SimEnv, UnknownTask
from envs.registry import describe, make, register_gymnasium, tasks
from envs.scripted import Expert, NoisyExpert, expert
from envs.suites import protocol, register_suite, suite, suite_names
from envs.vector import make_vec
from envs.workers import WorkerError
from envs.wrappers import ActionChunk, ClassifierReward, FrameStack

register_gymnasium()


def __getattr__(name: str) -> Any:
    # The checker is also run as `python -m envs.checker`, so it must not be imported before that.
    if name in ("check_env", "EnvCheckError"):
        from envs import checker

        return getattr(checker, name)
    raise AttributeError(f"module 'envs' has no attribute {name!r}")


__all__ = [
    "ActionChunk",
    "ClassifierReward",
    "EnvCheckError",
    "EnvsError",
    "Expert",
    "FrameStack",
    "MissingExtra",
    "NoisyExpert",
    "RenderError",
    "SimEnv",
    "UnknownTask",
    "WorkerError",
    "check_env",
    "describe",
    "expert",
    "make",
    "make_vec",
    "protocol",
    "register_suite",
    "suite",
    "suite_names",
    "tasks",
]

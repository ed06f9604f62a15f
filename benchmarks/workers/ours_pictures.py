"""This project's pictures, 84x84, of scenes that stand still after their first reset."""

from __future__ import annotations

from functools import partial

import envs
from benchmarks.serve import serve

SIZE = 84
SCENES = {
    "metaworld": "metaworld/assembly-v3",
    "robosuite": "robosuite/Lift",
    "libero": "libero/libero_object/4",
}


def build(env_id: str, look: str):
    env = envs.make(env_id, render=look, render_size=(SIZE, SIZE))
    env.reset(seed=0)
    return env.render, 1


if __name__ == "__main__":
    builders = {
        f"{name}-{look}": partial(build, env_id, look)
        for name, env_id in SCENES.items()
        for look in ("fast", "package")
    }
    serve(builders, ["metaworld", "robosuite", "hf-libero", "mujoco"])

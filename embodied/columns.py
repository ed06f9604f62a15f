"""What an environment shows, by the names that datasets and policy servers know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from hardware.policy_wire import ACTION, Column


def observation_columns(observation: Any, camera: str) -> dict[str, np.ndarray]:
    """An observation by the names that datasets and policy servers know.

    Args:
        observation: a state [D], a picture uint8 [H, W, 3], or a dict of such.
        camera: the name of the camera where the observation gives none.

    Returns:
        `observation.images.CAMERA` for pictures, `observation.KEY` for the rest.
    """
    if not isinstance(observation, Mapping):
        observation = {"pixels" if is_picture(observation) else "state": observation}
    columns = {}
    for key, value in observation.items():
        if is_picture(value):
            name = camera if key == "pixels" else key.removeprefix("pixels.")
            columns[f"observation.images.{name}"] = value
        else:
            columns[f"observation.{key}"] = np.asarray(value)
    return columns


def space_columns(env: Any) -> dict[str, Column]:
    """What an environment observes by those names, and one action of it as "action"."""

    def zeros(space: Any) -> Any:
        if isinstance(space, gymnasium.spaces.Dict):
            return {key: zeros(part) for key, part in space.items()}
        return np.zeros(space.shape, space.dtype)

    observed = observation_columns(zeros(env.observation_space), camera_name(env))
    columns = {name: Column.of(value) for name, value in observed.items()}
    return {**columns, ACTION: Column("float32", env.action_space.shape)}


def following(observation: Any, camera: str) -> dict[str, np.ndarray]:
    """What is kept of the observation after a step: all but pictures, which the next row has."""
    columns = observation_columns(observation, camera)
    return {f"next.{name}": value for name, value in columns.items() if not is_picture(value)}


def is_picture(value: Any) -> bool:
    """Whether an array is one picture, uint8 [H, W, 3]."""
    shape, dtype = np.shape(value), getattr(value, "dtype", None)
    return dtype == np.uint8 and len(shape) == 3 and shape[2] == 3


def camera_name(env: Any) -> str:
    """The camera whose pictures an environment observes."""
    env = env.unwrapped
    given = getattr(getattr(env, "options", None), "camera", None)
    camera = getattr(env, "default_camera", "top") if given is None else given
    return f"camera{camera}" if isinstance(camera, int) else str(camera)


def task_text(env: Any) -> str:
    """What an environment's episodes are meant to do: its instruction, else its id."""
    env = env.unwrapped
    return getattr(env, "instruction", None) or env.identity["id"]

"""`embodied hardware teleop`: drive an arm or its twin by hand, recorded as a dataset.

The episodes go through the writer of `embodied collect`: the same columns, each on the disk when it
ends, the same command goes on where it stopped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from embodied import operators
from embodied.core.types import UserError
from embodied.deploy import Deployment, parse
from embodied.operators import Person
from embodied.settings import CollectSettings, take
from embodied.stations import SCENES, env_id, opened


def teleoperate(
    deployment: Deployment,
    out: str | Path,
    person: Person,
    *,
    format: str = "lerobot",
    video: bool = False,
    on_episode: Callable[[int, int, bool], None] = lambda index, total, success: None,
) -> Any:
    """Record episodes that a person drives.

    Args:
        deployment: which robot, how reached, how many episodes.
        out: of the dataset; its flight recordings lie beside it, in `OUT.flights`.
        person: who drives.
        format: a name of `embodied.data.FORMATS`.
        video: keep pictures as mp4 (LeRobot only).
        on_episode: told about each episode.

    Returns:
        The dataset.

    Raises:
        UserError: the robot is not there, or the data cannot be written.
    """
    from embodied.collection import collect
    from hardware.errors import HardwareError

    def make(name: str, env_args: Mapping[str, Any], **options: Any) -> Any:
        flights = Path(f"{out}.flights")
        directory = flights / str(1 + len(list(flights.glob("*"))))
        about = person.description
        return stack.enter_context(opened(deployment, directory, about, person))

    settings = CollectSettings(deployment.episodes, noise=0.0, seed=deployment.seed)
    try:
        with contextlib.ExitStack() as stack:
            return collect(
                out,
                env_id(deployment.robot),
                {},
                settings,
                on_episode,
                format=format,
                policy=person.description["name"],
                video=video,
                make=make,
                actor=person,
            )
    except HardwareError as error:
        raise UserError(str(error)) from error


def command(overrides: Sequence[str]) -> int:
    """Teleoperate as the command line asks."""
    from embodied.progress import CollectionBar

    out, rest = take(overrides, "out")
    if out is None:
        raise UserError("say where to write: embodied hardware teleop robot=panda_twin out=DATASET")
    format, rest = take(rest, "format")
    arm = not any(word.startswith(tuple(f"robot={scene}" for scene in SCENES)) for word in rest)
    free = ["task=none", "horizon=600"] if arm else []
    deployment = parse([*free, "operator=keyboard", *rest], policy="a person")
    print(operators.__doc__.split("\n\n", 2)[2])
    with operators.attended(deployment.operator, drives=True) as person, CollectionBar() as bar:
        dataset = teleoperate(
            deployment, out, person, format=format or "lerobot", on_episode=bar.advance
        )
    print(f"embodied: {dataset.num_episodes} episodes, {dataset.num_frames} frames in {out}")
    return 0

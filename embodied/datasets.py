"""Environments and datasets as runs use them: made from settings, checked, described."""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import envs
from embodied.core.scaling import ObservationScaling
from embodied.core.types import UserError
from embodied.data import CorruptDataset, Dataset, DatasetNotFound, Packed, Reader, pack

Shape: TypeAlias = tuple[int, ...]
COLUMNS = (
    "observation.state",
    "action",
    "next.observation.state",
    "next.reward",
    "next.terminated",
)


def make_env(env_id: str, env_args: Mapping[str, Any], **options: Any) -> Any:
    """An environment.

    Raises:
        UserError: it does not take these arguments.
    """
    return with_arguments(lambda: envs.make(env_id, **{**env_args, **options}), env_id)


def with_arguments(make: Callable[[], Any], env_id: str) -> Any:
    """Make environments; what is wrong with their arguments is the user's to mend."""
    try:
        return make()
    except envs.EnvsError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"env_args of {env_id}: {error}") from error


def task_ids(name: str) -> list[str]:
    """The tasks of a suite, each once, or the one task of an environment id.

    Raises:
        UnknownTask: there is neither a suite nor an environment of this name.
    """
    single = [*envs.tasks(), *envs.tasks("real")]
    if name in single or name.startswith("real/"):  # an arm of a lab's own is in no list
        return [name]
    if name in envs.suite_names():
        return list(dict.fromkeys(envs.suite(name)))
    known = [*envs.suite_names(), *single]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
    raise envs.UnknownTask(f"no suite or environment {name!r}; nearest are {', '.join(near)}")


def open_dataset(path: str | Path, env_id: str, observation: Shape, action: Shape) -> Dataset:
    """A verified dataset that fits an environment.

    Raises:
        DatasetError: it is damaged, empty or of another environment.
        UserError: it lacks columns that training needs.
    """
    dataset = Dataset.open(path)
    dataset.check_compatible(env_id=env_id, observation_shape=observation, action_shape=action)
    missing = [name for name in COLUMNS if name not in dataset.features]
    if missing:
        raise UserError(f"dataset {path} lacks the columns {', '.join(missing)}")
    return dataset


def load_episodes(
    dataset: Dataset, scaling: ObservationScaling | None = None
) -> list[dict[str, np.ndarray]]:
    """A dataset as the transitions learners train on, rewards as recorded."""
    scaled = scaling or np.asarray
    columns = dataset.arrays(COLUMNS)
    bounds = np.cumsum(dataset.episode_lengths)[:-1]
    split = {name: np.split(column, bounds) for name, column in columns.items()}
    return [
        {
            "observation": scaled(split["observation.state"][i]),
            "action": np.clip(split["action"][i], -1.0, 1.0),
            "next_observation": scaled(split["next.observation.state"][i]),
            "reward": split["next.reward"][i].reshape(-1),
            "mask": 1.0 - split["next.terminated"][i].reshape(-1).astype(np.float32),
        }
        for i in range(dataset.num_episodes)
    ]


def packed_rows(dataset: Reader, home: Path = Path("runs") / "packed") -> Packed:
    """States and actions of a dataset in one memory-mapped file, made when first asked for.

    Args:
        dataset: of any format.
        home: where such files lie, each named by the fingerprint of its dataset.
    """
    root = home / dataset.fingerprint[:16]
    packed = _opened(root, dataset.fingerprint)
    if packed is not None:
        return packed
    shutil.rmtree(root, ignore_errors=True)  # damaged, if anything
    own = root.with_name(f"{root.name}.{os.getpid()}")
    pack(dataset, own, names=COLUMNS[:2])
    try:
        os.rename(own, root)
    except OSError:  # another run has made it in the meantime
        shutil.rmtree(own)
    return Packed.open(root, verify=False)


def _opened(root: Path, fingerprint: str) -> Packed | None:
    """The rows packed there, if they are sound and of this dataset."""
    try:
        packed = Packed.open(root)
    except (DatasetNotFound, CorruptDataset):
        return None
    return packed if packed.fingerprint == fingerprint else None


def describe_dataset(dataset: Reader, path: str | Path) -> dict[str, Any]:
    """What a report says about the data."""
    share = None
    if "next.success" in dataset.features:
        episodes = (dataset.episode(i, ["next.success"]) for i in range(dataset.num_episodes))
        share = float(np.mean([columns["next.success"].any() for columns in episodes]))
    return {
        "path": str(path),
        "fingerprint": dataset.fingerprint,
        "episodes": dataset.num_episodes,
        "frames": dataset.num_frames,
        "success": share,
    }

"""Environments and datasets as runs use them: made from settings, recorded, checked, described."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import envs
from embodied.core.scaling import ObservationScaling
from embodied.core.seeding import Streams
from embodied.core.types import UserError
from embodied.data import (
    Dataset,
    DatasetNotFound,
    DatasetWriter,
    EmptyDataset,
    Reader,
    transition_features,
)
from embodied.settings import CollectSettings, Settings, changes

SCRIPTED = "scripted"
Shape: TypeAlias = tuple[int, ...]
COLUMNS = (
    "observation.state",
    "action",
    "next.observation.state",
    "next.reward",
    "next.terminated",
)


EpisodeHook: TypeAlias = Callable[[int, int, bool], None]


def quiet(index: int, total: int, success: bool) -> None:
    """An `EpisodeHook` that does nothing."""


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


def collect(
    root: Path,
    env_id: str,
    env_args: Mapping[str, Any],
    settings: CollectSettings,
    on_episode: EpisodeHook = quiet,
) -> Dataset:
    """Record episodes of the task's scripted policy, made worse on purpose as asked.

    Each episode is on the disk when the next begins. Called again on an unfinished dataset it goes
    on where it stopped: episode i depends on the seed and i alone.

    Args:
        root: dataset directory.
        env_id: environment.
        env_args: its arguments.
        settings: how many episodes and how noisy.
        on_episode: told the index of each new episode, how many there will be, its success.

    Raises:
        UserError: the directory holds data made otherwise, or the task cannot be recorded.
    """
    env = make_env(env_id, env_args)
    if len(env.observation_space.shape) != 1:
        raise UserError("only flat state observations are recorded; use env_args.obs=state")
    expert = envs.expert(env)
    description = envs.describe(env)
    meta = json.loads(
        json.dumps({"env": description, "collect": dataclasses.asdict(settings)}, default=str)
    )
    try:
        writer = _writer(root, env, meta)
    except RuntimeError as error:  # somebody else holds the dataset's lock
        raise UserError(str(error)) from error
    streams = Streams(settings.seed)
    with writer:
        for index in range(writer.num_episodes, settings.episodes):
            rng = streams.numpy(f"episode/{index}")
            policy = envs.NoisyExpert(
                expert,
                offset=settings.offset,
                noise=settings.noise,
                noise_correlation=settings.noise_correlation,
                random_prob=settings.random_prob,
                failure_prob=settings.failure_prob,
                rng=rng,
            )
            success = _record(env, policy, writer, int(rng.integers(2**31)))
            writer.save_episode(task=env_id)
            on_episode(index, settings.episodes, success)
    env.close()
    return Dataset.open(root, verify=False)


def _writer(root: Path, env: Any, meta: dict[str, Any]) -> DatasetWriter:
    """A new dataset, or the one that is there if it was made in the same way."""
    if not (root / "meta").exists():
        return DatasetWriter.create(
            root,
            env_id=meta["env"]["id"],
            fps=round(env.metadata.get("render_fps") or 20),
            features=transition_features(env.observation_space.shape, env.action_space.shape),
            meta=meta,
        )
    writer = DatasetWriter.resume(root)
    different = changes(writer.settings.meta, meta)
    different.pop("collect.episodes", None)  # more of the same may follow
    if different:
        writer.close()
        raise UserError(
            f"{root} holds data made otherwise (different: {', '.join(different)}); write to "
            "another directory"
        )
    return writer


def _record(env: Any, policy: Any, writer: DatasetWriter, seed: int) -> bool:
    """One episode into the writer; returns whether it succeeded."""
    observation, _ = env.reset(seed=seed)
    ended = succeeded = False
    while not ended:
        action = policy.act(observation)
        following, reward, terminated, truncated, info = env.step(action)
        ended = bool(terminated or truncated)
        succeeded = succeeded or bool(info["success"])
        writer.add_frame(
            {
                "observation.state": observation,
                "action": np.asarray(action, np.float32),
                "next.observation.state": following,
                "next.reward": np.float32(reward),
                "next.terminated": np.bool_(terminated),
                "next.truncated": np.bool_(truncated),
                "next.success": np.bool_(info["success"]),
                "next.done": np.bool_(ended),
            }
        )
        observation = following
    return succeeded


def scripted_dataset(settings: Settings, on_episode: EpisodeHook = quiet) -> Path:
    """Where `data=scripted` lives, collected if it is not there yet."""
    train = settings.train
    args = {**train.env_args, **train.data_env_args}
    made_from = [train.env, args, dataclasses.asdict(train.collect)]
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:10]
    root = Path("runs") / "data" / f"{train.env.replace('/', '-')}-{key}"
    try:
        have = Dataset.open(root, verify=False).num_episodes
    except (DatasetNotFound, EmptyDataset):
        have = 0
    if have < train.collect.episodes:
        collect(root, train.env, args, train.collect, on_episode)
    return root


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

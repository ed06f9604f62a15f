"""From settings to a trainer that is ready to run: environments, data, task, recipe, evaluator."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import envs
from embodied.core import registry
from embodied.core.collector import EnvCollector
from embodied.core.evaluate import Evaluator
from embodied.core.replay import RewardTransform
from embodied.core.scaling import ObservationScaling
from embodied.core.seeding import Streams
from embodied.core.sources import Episodes
from embodied.core.task import RobotTask
from embodied.core.trainer import Trainer, TrainerOptions
from embodied.core.types import UserError
from embodied.data import Dataset, DatasetWriter, transition_features
from embodied.settings import (
    CollectSettings,
    Settings,
    changes,
    compose,
    refuse_incompatible,
)

PACKAGES = ("embodied", "torch", "numpy", "gymnasium", "mujoco", "metaworld", "dm_control")
SCRIPTED = "scripted"


@dataclass
class Run:
    """A trainer with what it was made from.

    Attributes:
        settings: composed settings.
        trainer: ready to `run()` or `step()`.
        directory: the run directory.
        about: what `run.json` says: command, seed, threads, versions, data.
    """

    settings: Settings
    trainer: Trainer
    directory: Path
    about: dict[str, Any]


def threads_for(requested: int, device: str) -> tuple[int, str]:
    """CPU threads for the learner, and why."""
    if requested:
        return requested, "as asked"
    if device != "cpu":
        return 1, "the learner is on the GPU"
    return 1, (
        "networks this small fit one core's cache, and on a shared machine two threads were two "
        "to three times slower than one; set threads=N to override"
    )


def device_for(requested: str) -> str:
    """The device a run uses."""
    if requested != "auto":
        return requested
    return "cuda" if torch.cuda.is_available() else "cpu"


def collect(
    root: Path,
    env_id: str,
    env_args: Mapping[str, Any],
    settings: CollectSettings,
    on_episode: Callable[[int, bool], None] = lambda index, success: None,
) -> Dataset:
    """Record episodes of the task's scripted policy, made worse on purpose as asked.

    Each episode is on the disk when the next begins. Called again on an unfinished dataset it goes
    on where it stopped: episode i depends on the seed and i alone.

    Args:
        root: dataset directory.
        env_id: environment.
        env_args: its arguments.
        settings: how many episodes and how noisy.
        on_episode: told the index and success of each new episode.
    """
    env = envs.make(env_id, **env_args)
    expert = envs.expert(env)
    description = envs.describe(env)
    meta = {"env": description, "collect": dataclasses.asdict(settings)}
    if (root / "meta").exists():
        writer = DatasetWriter.resume(root)
    else:
        writer = DatasetWriter.create(
            root,
            env_id=env_id,
            fps=round(env.metadata.get("render_fps") or 20),
            features=transition_features(env.observation_space.shape, env.action_space.shape),
            meta=json.loads(json.dumps(meta)),
        )
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
            on_episode(index, success)
    env.close()
    return Dataset.open(root, verify=False)


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


def scripted_dataset(settings: Settings, on_episode: Callable[[int, bool], None]) -> Path:
    """Where `data=scripted` lives, collected if it is not there yet."""
    train = settings.train
    args = {**train.env_args, **train.data_env_args}
    made_from = [train.env, args, dataclasses.asdict(train.collect)]
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:10]
    root = Path("runs") / "data" / f"{train.env.replace('/', '-')}-{key}"
    collect(root, train.env, args, train.collect, on_episode)
    return root


def load_episodes(dataset: Dataset, scaling: ObservationScaling | None) -> Episodes:
    """A dataset as the transitions learners train on, rewards as recorded."""
    scale = scaling or np.asarray
    columns = dataset.arrays(
        ["observation.state", "action", "next.observation.state", "next.reward", "next.terminated"]
    )
    bounds = np.cumsum(dataset.episode_lengths)[:-1]
    split = {name: np.split(column, bounds) for name, column in columns.items()}
    return [
        {
            "observation": scale(split["observation.state"][i]),
            "action": np.clip(split["action"][i], -1.0, 1.0),
            "next_observation": scale(split["next.observation.state"][i]),
            "reward": split["next.reward"][i].reshape(-1),
            "mask": 1.0 - split["next.terminated"][i].reshape(-1).astype(np.float32),
        }
        for i in range(dataset.num_episodes)
    ]


def build_task(
    settings: Settings,
    on_episode: Callable[[int, bool], None] = lambda index, success: None,
) -> tuple[RobotTask, Dataset | None]:
    """Training environments and offline data as a method is handed them.

    The scaling of observations, if any, is the collector's.

    Args:
        settings: see `embodied.settings.compose`.
        on_episode: told about each episode collected for `data=scripted`.
    """
    train = settings.train
    device = device_for(train.device)
    streams = Streams(train.seed)
    vector = envs.make_vec(train.env, train.num_envs, mode=train.vector, **train.env_args)
    space = vector.single_observation_space
    dataset = None
    if train.data:
        path = train.data if train.data != SCRIPTED else scripted_dataset(settings, on_episode)
        dataset = Dataset.open(path)
        dataset.check_compatible(
            env_id=train.env,
            observation_shape=space.shape,
            action_shape=vector.single_action_space.shape,
        )
    scaling = None
    if train.scale_observations:
        if dataset is None:
            raise UserError("scale_observations=true takes its statistics from data; give data=")
        scaling = ObservationScaling.of(dataset.arrays(["observation.state"])["observation.state"])
    task = RobotTask(
        observation_shape=space.shape,
        action_dim=vector.single_action_space.shape[0],
        streams=streams,
        collector=EnvCollector(vector, streams.numpy("environment"), scaling),
        episodes=None if dataset is None else lambda: load_episodes(dataset, scaling),
        fingerprint="" if dataset is None else dataset.fingerprint,
        reward=RewardTransform(train.reward.scale, train.reward.bias),
        sparse=train.env_args.get("reward", "dense") == "sparse",
        device=device,
    )
    return task, dataset


def build(
    settings: Settings,
    *,
    command: Sequence[str] | None = None,
    on_episode: Callable[[int, bool], None] = lambda index, success: None,
) -> Run:
    """Everything a run needs, wired together.

    Args:
        settings: see `embodied.settings.compose`.
        command: how it was asked for; written to run.json.
        on_episode: told about each episode collected for `data=scripted`.

    Raises:
        UserError: for anything the user can mend.
    """
    train = settings.train
    threads, reason = threads_for(train.threads, device_for(train.device))
    torch.set_num_threads(threads)
    task, dataset = build_task(settings, on_episode)
    scaling = task.collector.scaling
    recipe = registry.get(settings.method_id).recipe(settings.method, task)
    directory = Path(train.run or default_directory(settings))
    evaluation_env = envs.make(train.env, **train.env_args)
    about = {
        "command": shlex.join(command or ["embodied", "train", *settings.overrides]),
        "overrides": list(settings.overrides),
        "method": settings.method_id,
        "env": train.env,
        "env_args": train.env_args,
        "env_hash": envs.describe(evaluation_env)["hash"],
        "seed": train.seed,
        "device": str(task.device),
        "threads": threads,
        "thread_reason": reason,
        "versions": versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "dataset": None if dataset is None else describe_dataset(dataset, train.data),
        "observation_scaling": scaling.describe() if scaling else None,
    }
    trainer = Trainer(
        recipe,
        directory,
        evaluator=Evaluator(
            evaluation_env, train.evaluation.episodes, train.evaluation.seed, scaling
        ),
        options=TrainerOptions(**dataclasses.asdict(train.trainer)),
        config=settings.plain,
    )
    return Run(settings, trainer, directory, about)


def describe_dataset(dataset: Dataset, path: str | Path) -> dict[str, Any]:
    """What a report says about the data."""
    success = dataset.arrays(["next.success"])["next.success"].reshape(-1)
    bounds = np.cumsum(dataset.episode_lengths)[:-1]
    successes = sum(bool(part.any()) for part in np.split(success, bounds))
    return {
        "path": str(path),
        "fingerprint": dataset.fingerprint,
        "episodes": dataset.num_episodes,
        "frames": dataset.num_frames,
        "success": successes / dataset.num_episodes,
    }


def default_directory(settings: Settings) -> Path:
    """runs/METHOD-TASK-SEED."""
    name = f"{settings.method_id}-{settings.train.env.replace('/', '-')}-{settings.train.seed}"
    return Path("runs") / name


def begin(run: Run) -> None:
    """Write run.json and config.json, or continue if the settings say `resume`.

    Raises:
        UserError: a fresh run would overwrite another one.
    """
    if run.settings.train.resume:
        run.trainer.resume(fallback=run.settings.train.fallback)
        return
    if run.trainer.checkpoints.steps():
        raise UserError(
            f"{run.directory} holds another run; continue it with resume={run.directory}, or give "
            "another directory with run=PATH"
        )
    for name, content in (("run.json", run.about), ("config.json", run.settings.plain)):
        temporary = run.directory / f"{name}.tmp"
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(temporary, run.directory / name)


def resumed(overrides: Sequence[str], directory: str | Path) -> tuple[Settings, dict[str, Any]]:
    """Settings of an interrupted run with new overrides on top, and what they change.

    Raises:
        UserError: the directory is no run, or the changes are incompatible.
    """
    about, old = read_run(directory)
    new = compose([*about["overrides"], *overrides, f"run={directory}", f"resume={directory}"])
    ignored = ("run", "resume", "fallback")
    changed = {k: v for k, v in changes(old, new.plain).items() if k not in ignored}
    refuse_incompatible(changed)
    return new, changed


def read_run(directory: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """run.json and config.json of a run directory."""
    directory = Path(directory)
    try:
        about = json.loads((directory / "run.json").read_text(encoding="utf-8"))
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{directory} is not a run directory: no {error.filename}") from error
    except ValueError as error:
        raise UserError(f"{directory}/run.json or config.json is damaged: {error}") from error
    return about, config


def versions() -> dict[str, str]:
    """Versions of the packages results depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    found["python"] = sys.version.split()[0]
    return found

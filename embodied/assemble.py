"""From settings to a trainer that is ready to run: environments, data, task, recipe, evaluator."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import envs
from embodied.agents.task import RobotTask
from embodied.collection import MADE, EpisodeHook, made_dataset, quiet
from embodied.core import ranks, registry
from embodied.core.collector import EnvCollector
from embodied.core.evaluate import Evaluator
from embodied.core.replay import RewardTransform
from embodied.core.scaling import ObservationScaling
from embodied.core.seeding import Streams
from embodied.core.trainer import Trainer, TrainerOptions
from embodied.core.types import UserError
from embodied.data import Dataset
from embodied.datasets import (
    describe_dataset,
    load_episodes,
    make_env,
    open_dataset,
    packed_rows,
    with_arguments,
)
from embodied.settings import (
    PLACE,
    Settings,
    changes,
    compose,
    default_directory,
    merged,
    quoted,
    refuse_incompatible,
    take,
)

PACKAGES = (
    *("embodied", "torch", "numpy", "gymnasium"),
    *("mujoco", "metaworld", "dm_control", "robosuite", "hf-libero", "transformers"),
)


@dataclass
class Run:
    """A trainer with what it was made from.

    Attributes:
        settings: composed settings.
        trainer: ready to `run()` or `step()`.
        directory: the run directory.
        about: what `run.json` says: command, seed, threads, versions, data.
        changed: what a resumed run changes: setting -> (old, new).
    """

    settings: Settings
    trainer: Trainer
    directory: Path
    about: dict[str, Any]
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)


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
    """The device a run uses.

    Raises:
        UserError: this machine does not have it.
    """
    if requested == "auto":
        requested = "cuda" if torch.cuda.is_available() else "cpu"
    if requested == "cuda" and ranks.count > 1:
        requested = f"cuda:{ranks.local}"
    if requested != "cpu":
        devices = torch.cuda.device_count()
        if (torch.device(requested).index or 0) >= devices:
            raise UserError(f"device={requested} is not here: torch sees {devices} GPU(s)")
    return requested


def build_task(
    settings: Settings,
    on_episode: EpisodeHook = quiet,
    *,
    read_data: bool = True,
) -> tuple[RobotTask, Dataset | None]:
    """Training environments and offline data as a method is handed them.

    The scaling of observations, if any, is the collector's.

    Args:
        settings: see `embodied.settings.compose`.
        on_episode: told about each episode collected for `data=scripted` or play.
        read_data: False where nothing will be trained, so the data need not be there.
    """
    train = settings.train
    device = device_for(train.device)
    streams = Streams(train.seed)
    vector = with_arguments(
        lambda: envs.make_vec(train.env, train.num_envs, mode=train.vector, **train.env_args),
        train.env,
    )
    observation, action = vector.single_observation_space.shape, vector.single_action_space.shape
    if observation is None or len(action) != 1:
        vector.close()
        raise UserError(
            f"training takes one array as observation and one action at a time; {train.env} with "
            f"{train.env_args} has observations {vector.single_observation_space} and actions "
            f"{vector.single_action_space}. Use env_args.obs=state and no env_args.action_chunk"
        )
    dataset = None
    if train.data and read_data:
        path = made_dataset(settings, on_episode) if train.data in MADE else train.data
        dataset = open_dataset(path, train.env, observation, action)
    scaling = None
    if train.scale_observations and not train.data:
        raise UserError("scale_observations=true takes its statistics from data; give data=PATH")
    if train.scale_observations and dataset is not None:
        scaling = ObservationScaling.of(dataset.arrays(["observation.state"])["observation.state"])
    task = RobotTask(
        observation_shape=observation,
        action_dim=action[0],
        streams=streams,
        collector=EnvCollector(vector, streams.numpy("environment"), scaling),
        episodes=(lambda: load_episodes(dataset, scaling)) if train.data else None,
        packed=(lambda: packed_rows(dataset)) if train.data else None,
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
    on_episode: EpisodeHook = quiet,
) -> Run:
    """Everything a run needs, wired together.

    Args:
        settings: see `embodied.settings.compose`.
        command: how it was asked for; written to run.json.
        on_episode: told about each episode collected for `data=scripted` or play.

    Raises:
        UserError: for anything the user can mend.
    """
    train = settings.train
    ranks.join(device_for(train.device))
    threads, reason = threads_for(train.threads, device_for(train.device))
    torch.set_num_threads(threads)
    method = registry.get(settings.method_id)
    if method.kind == "text":
        from embodied import text

        task, evaluator, facts = text.build(settings, device_for(train.device))
        device = task.model.device
    else:
        task, evaluator, facts = _robot(settings, on_episode)
        device = task.device
    recipe = method.recipe(settings.method, task)
    directory = Path(train.run or default_directory(settings))
    options = TrainerOptions(**dataclasses.asdict(train.trainer))
    if ranks.count > 1 and method.kind != "text":
        raise UserError("several ranks train language models only; start robot runs one by one")
    if ranks.index:  # it logs and saves its own streams, and leaves the rest to rank 0
        directory, evaluator = directory / f"rank-{ranks.index}", None
        options = dataclasses.replace(options, tensorboard=False, wandb=None)
    about = {
        "command": shlex.join(command or ["embodied", "train", *settings.overrides]),
        "overrides": list(settings.overrides),
        "method": settings.method_id,
        "seed": train.seed,
        "device": str(device),
        "threads": threads,
        "thread_reason": reason,
        "versions": versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **facts,
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the run directory {directory}: {error.strerror}") from error
    trainer = Trainer(
        recipe,
        directory,
        evaluator=evaluator,
        options=options,
        config={k: v for k, v in settings.plain.items() if k not in PLACE},
    )
    return Run(settings, trainer, directory, about)


def _robot(
    settings: Settings, on_episode: EpisodeHook
) -> tuple[RobotTask, Evaluator, dict[str, Any]]:
    """Task and evaluator of a robot run, and what run.json says of them."""
    train = settings.train
    task, dataset = build_task(settings, on_episode)
    scaling = task.collector.scaling
    env = make_env(train.env, train.env_args)
    evaluator = Evaluator(env, train.evaluation.episodes, train.evaluation.seed, scaling)
    return (
        task,
        evaluator,
        {
            "env": train.env,
            "env_args": train.env_args,
            "env_hash": envs.describe(env)["hash"],
            "dataset": None if dataset is None else describe_dataset(dataset, train.data),
            "observation_scaling": scaling.describe() if scaling else None,
        },
    )


def start(
    overrides: Sequence[str],
    *,
    command: Sequence[str] | None = None,
    on_episode: EpisodeHook = quiet,
) -> Run:
    """A run from its overrides, composed, built and begun; with `resume=RUN` one that goes on.

    Args:
        overrides: settings as on the command line.
        command: how it was asked for; written to run.json.
        on_episode: told about each episode collected for `data=scripted` or play.

    Raises:
        UserError: for anything the user can mend.
    """
    resume, rest = take(overrides, "resume")
    if resume:
        settings, changed = resumed(rest, resume)
    else:
        settings, changed = compose(rest), {}
    run = build(settings, command=command, on_episode=on_episode)
    run.changed = changed
    begin(run)
    return run


def begin(run: Run) -> None:
    """Write run.json and config.json, or continue if the settings say `resume`.

    Raises:
        UserError: a fresh run would overwrite another one.
    """
    about = run.about
    if run.settings.train.resume:
        run.trainer.resume(fallback=run.settings.train.fallback)
        old, _ = read_run(run.directory)
        again = [*old.get("resumed", []), about["command"]]
        about = {**old, "overrides": merged(about["overrides"], []), "resumed": again}
    elif run.trainer.checkpoints.steps():
        raise UserError(
            f"{run.directory} holds another run; continue it with resume={run.directory}, or give "
            "another directory with run=PATH"
        )
    else:
        run.trainer.log.cut(0)  # of a run that ended before its first checkpoint
    for name, content in (("run.json", about), ("config.json", run.trainer.config)):
        temporary = run.directory / f"{name}.tmp"
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(temporary, run.directory / name)


def resumed(overrides: Sequence[str], directory: str | Path) -> tuple[Settings, dict[str, Any]]:
    """Settings of an interrupted run with new overrides on top, and what they change.

    Raises:
        UserError: the directory is no run, or the changes are incompatible.
    """
    if take(overrides, "run")[0]:
        raise UserError(f"a resumed run stays in its directory {directory}; leave out run=")
    about, old = read_run(directory)
    method = take(overrides, "method")[0] or old["method_id"]
    if method != old["method_id"]:  # before its settings are said to be unknown
        refuse_incompatible({"method": (old["method_id"], method)})
    new = compose(
        [
            *merged(about["overrides"], overrides),
            f"run={quoted(directory)}",
            f"resume={quoted(directory)}",
            *(o for o in overrides if o.startswith("fallback=")),
        ]
    )
    changed = {k: v for k, v in changes(old, new.plain).items() if k not in PLACE}
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

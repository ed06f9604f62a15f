"""`embodied collect`: episodes of any policy on one task or several, in any dataset format.

Worker processes play whole episodes; one writer commits them in order of task and index. Episode i
of a task depends on the seed and i alone, so the dataset is the same, byte for byte, for any number
of workers. Called again on an unfinished dataset, it goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import envs
from embodied import data
from embodied.actors import PLAY, SCRIPTED, Actor, is_run
from embodied.core.types import UserError
from embodied.data import EmptyDataset, EpisodeWriter
from embodied.datasets import describe_dataset, make_env, task_ids
from embodied.jobs import in_order
from embodied.progress import CollectionBar
from embodied.recorder import Job, MakeEnv, Played, Recorder
from embodied.settings import CollectSettings, Settings, changes, compose, take
from envs import demonstrations

WITH_STATES = ("robomimic", "libero")  # formats whose authors keep the simulator's state
GIVE_UP = 10  # attempts per wanted success
EpisodeHook: TypeAlias = Callable[[int, int, bool], None]


def quiet(index: int, total: int, success: bool) -> None:
    """An `EpisodeHook` that does nothing."""


@dataclass
class _Plan:
    """Which episodes are still to be played, in order, one task after the other.

    Attributes:
        wanted: episodes of each task.
        only_successes: whether failed ones are replaced by later ones.
        kept: task -> episodes in the dataset.
        index: task -> index of the next one.
        waiting: how many have been handed out and not come back.
    """

    tasks: list[str]
    wanted: int
    only_successes: bool
    kept: dict[str, int]
    index: dict[str, int]
    waiting: int = 0

    def jobs(self) -> Iterator[Job | None]:
        """Episodes to play; None while those under way may suffice."""
        for task in self.tasks:
            while self.kept[task] < self.wanted:
                if self.kept[task] + self.waiting >= self.wanted:
                    yield None
                    continue
                self.waiting += 1
                self.index[task] += 1
                yield Job(task, self.index[task] - 1)

    def judge(self, job: Job, success: bool) -> bool:
        """Whether an episode that came back is kept.

        Raises:
            UserError: so few succeed that it would go on for ever.
        """
        self.waiting -= 1
        if success or not self.only_successes:
            self.kept[job.task] += 1
            return True
        if job.index + 1 >= GIVE_UP * self.wanted:
            raise UserError(
                f"{job.task}: {self.kept[job.task]} of {job.index + 1} episodes succeeded; this "
                "policy is not good enough for successes_only=true"
            )
        return False


def collect(
    root: str | Path,
    env_id: str,
    env_args: Mapping[str, Any],
    settings: CollectSettings,
    on_episode: EpisodeHook = quiet,
    *,
    format: str = "lerobot",
    policy: str = SCRIPTED,
    workers: int = 1,
    video: bool = False,
    successes_only: bool = False,
    timeout: float = 60.0,
    make: MakeEnv = make_env,
    actor: Actor | None = None,
) -> data.Reader:
    """Record episodes, made worse on purpose as the settings ask. Each is on the disk when counted.

    Args:
        root: a directory, or a file for the HDF5 formats.
        env_id: an environment or a suite, whose tasks must have observations of one shape.
        env_args: options, over those of the suite's protocol.
        settings: how many episodes of each task, which seed, how noisy.
        on_episode: told the number of each new episode, how many there will be, its success.
        format: a name of `embodied.data.FORMATS`.
        policy: "scripted", "play", "random", a run directory or a websocket address.
        workers: processes; the dataset does not depend on it.
        video: keep pictures as mp4, which only LeRobot's format can.
        successes_only: leave failed episodes out and go on with the next index.
        timeout: seconds a policy server may take to answer.
        make: makes an environment from id and options.
        actor: who acts, under the name `policy`, in this process: a person at the keyboard.

    Returns:
        The dataset; `dropped` says how many failed episodes it left out.

    Raises:
        UserError: the path holds data made otherwise, or the task cannot be recorded.
        KeyboardInterrupt: Ctrl-C; whole episodes are saved.
    """
    root = Path(root)
    if workers < 1:
        raise UserError(f"workers must be at least 1, got {workers}")
    if format in WITH_STATES and root.suffix not in data.formats.H5_SUFFIXES:
        raise UserError(f"format={format} writes one file; out={root} must end in .hdf5")
    if video and format != "lerobot":
        raise UserError(f"only format=lerobot keeps video, not {format}")
    tasks = {task: {**envs.protocol(task), **env_args} for task in task_ids(env_id)}
    if len(tasks) > 1 and format == "libero":
        raise UserError("a LIBERO file holds one task; collect each task into a file of its own")
    layout = format if format in WITH_STATES else ""
    recorder = Recorder(policy, tasks, settings, layout, make, timeout, actor)
    with closing(recorder):
        writer = _writer(root, env_id, recorder, format, video, successes_only)
        if workers > 1:
            recorder.close()  # it is copied into the processes
        plan = _progress(root, format, list(tasks), settings.episodes, successes_only)
        total = settings.episodes * len(tasks)
        stopped = False
        with writer:
            try:
                for job, played in in_order(recorder, plan.jobs(), workers):
                    if plan.judge(job, played.success):
                        _commit(writer, played)
                        on_episode(writer.num_episodes - 1, total, played.success)
            except KeyboardInterrupt:
                stopped = True  # closing finishes the file, which takes a moment
    if stopped:
        raise KeyboardInterrupt(
            f"{writer.num_episodes} of {total} episodes are saved in {root}; the same command "
            "goes on"
        )
    return data.formats.named(format).open(root, verify=False)


def _commit(writer: EpisodeWriter, played: Played) -> None:
    features = writer.settings.features
    for name, values in played.columns.items():
        if name in features and values.shape[1:] != features[name].shape:
            raise UserError(
                f"{played.meta['env']}: {name} has shape {values.shape[1:]}, that of earlier tasks "
                f"{features[name].shape}; one dataset holds tasks of one shape, so collect the "
                "tasks one by one, or with env_args.obs=pixels"
            )
    writer.add_episode(played.columns, task=played.text, meta=played.meta)


def _writer(
    root: Path, env_id: str, recorder: Recorder, format: str, video: bool, successes_only: bool
) -> EpisodeWriter:
    """A new dataset, or the one that is there if it was made in the same way."""
    tasks = list(recorder.tasks)
    env = recorder.enter(tasks[0])
    if recorder.policy == SCRIPTED:
        envs.expert(env)  # says so now if there is none
    description = envs.describe(env)
    meta: dict[str, Any] = {"env": description, "collect": dataclasses.asdict(recorder.settings)}
    if len(tasks) > 1:
        meta["suite"], meta["tasks"] = env_id, tasks
    if recorder.policy != SCRIPTED:
        meta["policy"] = recorder.description
    if successes_only:
        meta["successes_only"] = True
    if recorder.layout and (attributes := demonstrations.file(env, recorder.layout)):
        meta["hdf5"] = attributes
    meta = json.loads(json.dumps(meta, default=str))
    features = recorder.features(env, video)
    fps = round(env.metadata.get("render_fps") or 20)
    kind = data.formats.named(format)
    try:
        try:
            return kind.create(root, env_id=env_id, fps=fps, features=features, meta=meta)
        except data.IncompatibleDataset:
            raise
        except data.DatasetError:
            if not _is_there(root, format):
                raise
        writer = kind.resume(root)
    except RuntimeError as error:  # somebody else holds the dataset's lock
        raise UserError(str(error)) from error
    different = changes(writer.settings.meta, meta)
    different.pop("collect.episodes", None)  # more of the same may follow
    if writer.settings.features != features:
        different["columns"] = writer.settings.features, features
    if different:
        writer.close()
        raise UserError(
            f"{root} holds data made otherwise (different: {', '.join(different)}); write to "
            "another directory"
        )
    return writer


def _is_there(root: Path, format: str) -> bool:
    """Whether a dataset of this format lies here, finished or not."""
    if format == "lerobot":  # which a path that is nothing counts as
        return (root / "meta").exists()
    return data.detect(root).name == format


def _progress(
    root: Path, format: str, tasks: list[str], wanted: int, only_successes: bool
) -> _Plan:
    """How far a dataset is."""
    plan = _Plan(tasks, wanted, only_successes, dict.fromkeys(tasks, 0), dict.fromkeys(tasks, 0))
    try:
        dataset = data.formats.named(format).open(root, verify=False)
    except EmptyDataset:
        return plan
    for number in range(dataset.num_episodes):
        meta = {"env": tasks[0], "index": number, **dataset.episode_meta(number)}
        plan.kept[meta["env"]] += 1
        plan.index[meta["env"]] = meta["index"] + 1
    return plan


def dropped(dataset: data.Reader) -> int:
    """How many failed episodes a collection left out, up to the last one that it kept."""
    last = {}
    for number in range(dataset.num_episodes):
        meta = dataset.episode_meta(number)
        last[meta["env"]] = meta["index"]
    return sum(index + 1 for index in last.values()) - dataset.num_episodes


MADE = (SCRIPTED, PLAY)  # what data= may name beside a directory


def made_dataset(settings: Settings, on_episode: EpisodeHook = quiet) -> Path:
    """Where `data=scripted` or `data=play` lives, collected if it is not there yet."""
    train = settings.train
    args = {**train.env_args, **train.data_env_args}
    made_from = [train.env, args, dataclasses.asdict(train.collect)]
    if train.data != SCRIPTED:
        made_from.append(train.data)
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:10]
    root = Path("runs") / "data" / f"{train.env.replace('/', '-')}-{key}"
    try:
        have = data.Dataset.open(root, verify=False).num_episodes
    except (data.DatasetNotFound, EmptyDataset):
        have = 0
    if have < train.collect.episodes:
        collect(root, train.env, args, train.collect, on_episode, policy=train.data)
    return root


def command(overrides: Sequence[str]) -> int:
    """Collect as the command line asks, with a progress bar, and say what came of it."""
    out, rest = take(overrides, "out")
    if out is None:
        raise UserError("say where to write: embodied collect env=ID out=PATH")
    if "suite=tiny" in rest:
        from embodied import problems

        return problems.command(out, [word for word in rest if word != "suite=tiny"])
    values = {}
    for key in ("suite", "format", "policy", "workers", "video", "successes_only", "timeout"):
        values[key], rest = take(rest, key)
    policy = values["policy"] or SCRIPTED
    fields = {f.name for f in dataclasses.fields(CollectSettings)}
    rest = [f"collect.{word}" if word.partition("=")[0] in fields else word for word in rest]
    own: dict[str, Any] = {}
    if is_run(policy):
        from embodied.assemble import read_run

        about, _ = read_run(policy)
        own = about["env_args"]
        if take(rest, "env")[0] is None:
            rest.append(f"env={about['env']}")
    if policy != SCRIPTED and not any(word.startswith("collect.noise=") for word in rest):
        rest.append("collect.noise=0")
    train = compose(rest).train
    with CollectionBar() as bar:
        dataset = collect(
            out,
            values["suite"] or train.env,
            {**own, **train.env_args, **train.data_env_args},
            train.collect,
            bar.advance,
            format=values["format"] or "lerobot",
            policy=policy,
            workers=_number("workers", values["workers"] or "1"),
            video=_flag("video", values["video"] or "false"),
            successes_only=_flag("successes_only", values["successes_only"] or "false"),
            timeout=_number("timeout", values["timeout"] or "60"),
        )
    about = describe_dataset(dataset, out)
    left = f", {dropped(dataset)} failed ones dropped" if values["successes_only"] else ""
    print(
        f"embodied: {about['episodes']} episodes, {about['frames']} frames, "
        f"{about['success']:.0%} successful{left}, in {out}; train with data={out}"
    )
    return 0


def _number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"{name}={text}: a number is needed")
    return int(text)


def _flag(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise UserError(f"{name}={text}: say true or false")
    return text == "true"

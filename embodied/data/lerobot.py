"""Record and read datasets in the LeRobotDataset v3 layout; see `layout` for the files."""

import io
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from embodied.data import video
from embodied.data.io import exclusive, sha256_bytes, write_atomic
from embodied.data.layout import (
    LOCK,
    CorruptDataset,
    DatasetError,
    Described,
    EmptyDataset,
    Episode,
    Feature,
    IncompatibleDataset,
    Ledger,
    Settings,
    check_names,
    data_path,
    index_columns,
    video_path,
)
from embodied.data.parquet import Header, encode_episode, pyarrow
from embodied.data.recording import EpisodeWriter
from embodied.data.views import (
    Summary,
    checked_episodes,
    info_json,
    publish,
    read_data,
    read_ledger,
    read_meta,
    sweep,
    view_state,
)


class DatasetWriter(EpisodeWriter):
    """Appends episodes; each is durable when `save_episode` returns.

    One writer per dataset at a time. A writer killed at any instant leaves every saved episode
    readable, and `resume` continues after them.
    """

    def __init__(self, root: str | Path, ledger: Ledger, summary: Summary, lock: ExitStack):
        """Used by `create` and `resume`."""
        super().__init__(root, ledger.settings, lock)
        self._ledger, self._summary = ledger, summary

    @classmethod
    def create(
        cls,
        root: str | Path,
        *,
        env_id: str,
        fps: int,
        features: Mapping[str, Feature],
        robot_type: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> "DatasetWriter":
        """Start a dataset in a directory that is new or empty.

        Args:
            root: where; its parents are created.
            env_id: the environment the episodes come from.
            fps: frames per second.
            features: name -> column; `transition_features` gives the usual ones.
            robot_type: LeRobot's field of this name.
            meta: plain JSON kept with the data: versions, seeds, reward mode, acting policy.

        Raises:
            DatasetError: the directory holds files already.
            ValueError: a setting is not valid.
        """
        root = Path(root)
        settings = Settings(env_id, fps, dict(features), robot_type, dict(meta or {}))
        pyarrow()
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise DatasetError(
                f"{root} exists and is not an empty directory; "
                "DatasetWriter.resume(root) appends to a dataset"
            )
        with ExitStack() as stack:
            stack.enter_context(exclusive(root / LOCK))
            ledger, summary = Ledger(settings), Summary()
            ledger, _ = publish(root, ledger, summary.render(ledger))
            return cls(root, ledger, summary, stack.pop_all())

    @classmethod
    def resume(cls, root: str | Path) -> "DatasetWriter":
        """Continue a dataset after its last saved episode; every episode is verified first.

        What an interrupted `save_episode` left behind is brought up to date or moved away.

        Raises:
            DatasetNotFound: there is no dataset here.
            CorruptDataset: repair it first.
        """
        root = Path(root)
        read_ledger(root)  # before the lock, which would create a directory
        with ExitStack() as stack:
            stack.enter_context(exclusive(root / LOCK))
            ledger, summary = read_ledger(root), Summary()
            _check_views(root, ledger)
            for columns, entry in zip(checked_episodes(root, ledger), ledger.episodes, strict=True):
                task = ledger.tasks[entry.task]
                summary = summary.extended(ledger.settings, task, columns)
            sweep(root, ledger, ledger.views)
            ledger, _ = publish(root, ledger, summary.render(ledger))
            return cls(root, ledger, summary, stack.pop_all())

    @property
    def num_episodes(self) -> int:
        """Saved episodes; also the index of the next one."""
        return len(self._ledger.episodes)

    @property
    def num_frames(self) -> int:
        """Rows in the saved episodes."""
        return self._ledger.num_frames

    def _commit(self, columns: dict[str, np.ndarray], task: str, meta: dict[str, Any]) -> None:
        ledger, settings, index = self._ledger, self.settings, self.num_episodes
        tasks = ledger.tasks if task in ledger.tasks else (*ledger.tasks, task)
        length, task_index = len(next(iter(columns.values()))), tasks.index(task)
        columns |= index_columns(settings, index, ledger.num_frames, task_index, length)

        videos = {name: self._write_video(index, name, columns) for name in settings.videos}
        raw = encode_episode(Header(settings, task, meta, videos), columns)
        write_atomic(self.root / data_path(index), raw)
        entry = Episode(length, task_index, sha256_bytes(raw))
        ledger = replace(ledger, tasks=tasks, episodes=(*ledger.episodes, entry))
        summary = self._summary.extended(settings, task, columns)
        self._ledger, _ = publish(self.root, ledger, summary.render(ledger, latest_only=True))
        self._summary = summary

    def _write_video(self, index: int, name: str, columns: dict[str, Any]) -> dict[str, Any]:
        """Encode a column and put its statistics in its place; returns what the header says."""
        frames = columns[name]
        raw = video.encode(frames, self.settings.fps)
        count = video.count_frames(io.BytesIO(raw))
        if count != len(frames):
            raise DatasetError(f"{name}: {count} of {len(frames)} pictures were encoded")
        write_atomic(self.root / video_path(name, index), raw)
        columns[name] = video.picture_stats(frames)
        stats = {key: value.tolist() for key, value in columns[name].items()}
        return {"sha256": sha256_bytes(raw), "stats": stats}


def _check_views(root: Path, ledger: Ledger) -> None:
    for path in ledger.views:
        state = view_state(root, ledger, path)
        if state not in ("fresh", "stale"):
            raise CorruptDataset(root, path, state)


class Dataset(Described):
    """Reads a dataset. No array is returned from a file whose checksum is not right."""

    def __init__(self, root: str | Path, ledger: Ledger):
        """Used by `open`."""
        self.root, self._ledger, self._settings = Path(root), ledger, ledger.settings

    @classmethod
    def open(cls, root: str | Path, *, verify: bool = True) -> "Dataset":
        """Open a dataset.

        Args:
            root: its directory.
            verify: check every file now: checksums, `info.json` and the episode rows against
                the ledger, row counts and index columns of the data files. Otherwise only the
                ledger is checked now, and each data file's checksum whenever it is read.

        Raises:
            DatasetNotFound: there is no dataset at this path.
            EmptyDataset: it has no saved episode.
            CorruptDataset: the message names the file, the episode and the repair command.
        """
        root = Path(root)
        pyarrow()
        ledger = read_ledger(root)
        if verify:
            _check_views(root, ledger)
            for _ in checked_episodes(root, ledger):
                pass
        if not ledger.episodes:
            raise EmptyDataset(f"the dataset at {root} has no saved episode; record one first")
        return cls(root, ledger)

    @property
    def info(self) -> dict[str, Any]:
        """LeRobot's `info.json`."""
        return info_json(self._ledger)

    @property
    def tasks(self) -> list[str]:
        """Task texts, by `task_index`."""
        return list(self._ledger.tasks)

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return len(self._ledger.episodes)

    @property
    def episode_lengths(self) -> np.ndarray:
        """Rows of each episode: [num_episodes], int64."""
        return np.array([e.length for e in self._ledger.episodes], np.int64)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the checksums of the data files: what exactly was trained on."""
        return self._ledger.fingerprint

    def task(self, index: int) -> str:
        """What an episode was meant to do.

        Raises:
            IndexError: there is no such episode.
        """
        self._check(index)
        return self._ledger.tasks[self._ledger.episodes[index].task]

    def episode(self, index: int, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Columns of one episode, each [length, *shape].

        Args:
            index: which episode.
            names: which columns; all of them by default, index columns included.

        Raises:
            IndexError: there is no such episode.
            KeyError: no such column.
            CorruptDataset: its file has changed.
        """
        self._check(index)
        settings = self._ledger.settings
        check_names(self.root, names, settings.columns)
        names = list(settings.columns if names is None else names)
        in_table = [name for name in names if name in settings.table]
        columns = read_data(self.root, self._ledger, index, in_table) if in_table else {}
        length = self._ledger.episodes[index].length
        for name in settings.videos:
            if name in names:
                times = np.arange(length) / self.fps
                columns[name] = self.frames(index, name, times)
        return {name: columns[name] for name in names}

    def frames(self, index: int, name: str, timestamps: Sequence[float]) -> np.ndarray:
        """Pictures of a video column: [N, H, W, 3] uint8.

        Args:
            index: which episode.
            name: which column.
            timestamps: [N] seconds from the start of the episode; each takes the picture whose
                own time is at most half a frame away.

        Raises:
            IndexError: there is no such episode.
            KeyError: no such video.
            CorruptDataset: the video is damaged, or has no picture at that time.
        """
        self._check(index)
        if name not in self._ledger.settings.videos:
            raise KeyError(f"no video {name!r} in {self.root}; {self._ledger.settings.videos}")
        path = video_path(name, index)
        try:
            return video.decode_at(self.root / path, timestamps, 0.5 / self.fps)
        except ValueError as error:
            raise CorruptDataset(self.root, path, str(error), index) from error

    def episode_meta(self, index: int) -> dict[str, Any]:
        """The JSON object saved with an episode.

        Raises:
            IndexError: there is no such episode.
            CorruptDataset: its file has changed.
        """
        self._check(index)
        return read_meta(self.root, self._ledger, index)

    def arrays(self, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Columns of all episodes, one after the other: [num_frames, *shape], contiguous.

        Args:
            names: which columns; all of them but videos by default.

        Raises:
            KeyError: no such column.
            CorruptDataset: a file has changed.
        """
        columns = self._ledger.settings.columns
        names = list(self._ledger.settings.table if names is None else names)
        check_names(self.root, names, columns)
        out = {
            name: np.empty((self.num_frames, *columns[name].shape), columns[name].dtype)
            for name in names
        }
        start = 0
        for index, entry in enumerate(self._ledger.episodes):
            for name, values in self.episode(index, names).items():
                out[name][start : start + entry.length] = values
            start += entry.length
        return out

    def check_compatible(
        self,
        *,
        env_id: str | None = None,
        observation_shape: Sequence[int] | None = None,
        action_shape: Sequence[int] | None = None,
    ) -> None:
        """Compare with what a run expects; None leaves a property unchecked.

        Raises:
            IncompatibleDataset: naming what the dataset has and what was expected.
        """
        features = self._ledger.settings.features

        def shape(name: str) -> tuple[int, ...] | None:
            return features[name].shape if name in features else None

        pairs = {
            "environment": (self.env_id, env_id),
            "observation.state shape": (shape("observation.state"), observation_shape),
            "action shape": (shape("action"), action_shape),
        }
        wrong = []
        for what, (have, want) in pairs.items():
            want = tuple(want) if want is not None and not isinstance(want, str) else want
            if want is not None and have != want:
                wrong.append(f"{what} is {have!r} in the dataset, {want!r} in this run")
        if wrong:
            raise IncompatibleDataset(f"{self.root} does not fit: " + "; ".join(wrong))

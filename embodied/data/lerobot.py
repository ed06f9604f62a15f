"""Record and read datasets in the LeRobotDataset v3 layout; see `layout` for the files."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from embodied.data.io import exclusive, sha256_bytes, write_atomic
from embodied.data.layout import (
    LOCK,
    CorruptDataset,
    DatasetError,
    EmptyDataset,
    Episode,
    Feature,
    IncompatibleDataset,
    Ledger,
    Settings,
    data_path,
    index_columns,
)
from embodied.data.parquet import encode_episode, pyarrow
from embodied.data.views import (
    Summary,
    checked_episodes,
    info_json,
    publish,
    read_data,
    read_ledger,
    sweep,
    view_state,
)


class DatasetWriter:
    """Appends episodes; each is durable when `save_episode` returns.

    One writer per dataset at a time. A writer killed at any instant leaves every saved episode
    readable, and `resume` continues after them.

    Attributes:
        root: the dataset's directory.
        settings: what was fixed when it was created.
    """

    def __init__(self, root: str | Path, ledger: Ledger, summary: Summary, lock: ExitStack):
        """Used by `create` and `resume`."""
        self.root, self.settings = Path(root), ledger.settings
        self._ledger, self._summary, self._lock = ledger, summary, lock
        self._frames: list[dict[str, np.ndarray]] = []

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

    def add_frame(self, frame: Mapping[str, Any]) -> None:
        """Append one row to the episode being recorded; it is in memory until `save_episode`.

        Args:
            frame: a value for each feature, of its exact shape and dtype. Python bools, ints
                and floats are taken for scalars of the same kind. Values are copied.

        Raises:
            ValueError: a name, shape or dtype is wrong, or a number is not finite.
        """
        where = f"frame {len(self._frames)} of episode {self.num_episodes}"
        features = self.settings.features
        missing, unknown = sorted(features.keys() - frame), sorted(frame.keys() - features)
        if missing or unknown:
            raise ValueError(f"{where}: missing features {missing}, unknown features {unknown}")
        self._frames.append(
            {name: _checked(frame[name], f, f"{where}: {name!r}") for name, f in features.items()}
        )

    def save_episode(self, task: str) -> int:
        """Write the recorded frames as one episode; it is on disk when this returns.

        If it raises (a full disk, say), the frames are kept and the call may be repeated.

        Args:
            task: what the episode is meant to do, in words.

        Returns:
            The episode's index.

        Raises:
            ValueError: there is no frame, or no task.
            OSError: the disk refused.
        """
        if not self._frames or not task:
            raise ValueError("an episode needs at least one frame and a task description")
        ledger, settings, index = self._ledger, self.settings, self.num_episodes
        tasks = ledger.tasks if task in ledger.tasks else (*ledger.tasks, task)
        length, task_index = len(self._frames), tasks.index(task)
        columns = {name: np.stack([f[name] for f in self._frames]) for name in settings.features}
        columns |= index_columns(settings, index, ledger.num_frames, task_index, length)

        raw = encode_episode(settings, task, columns)
        write_atomic(self.root / data_path(index), raw)
        entry = Episode(length, task_index, sha256_bytes(raw))
        ledger = replace(ledger, tasks=tasks, episodes=(*ledger.episodes, entry))
        summary = self._summary.extended(settings, task, columns)
        self._ledger, _ = publish(self.root, ledger, summary.render(ledger, latest_only=True))
        self._summary = summary
        self._frames.clear()
        return index

    def discard_episode(self) -> int:
        """Forget the frames since the last saved episode; returns how many."""
        count = len(self._frames)
        self._frames.clear()
        return count

    def close(self) -> None:
        """Release the dataset.

        Raises:
            DatasetError: frames were added that are neither saved nor discarded.
        """
        self._lock.close()
        if self._frames:
            raise DatasetError(
                f"{len(self._frames)} frames of episode {self.num_episodes} were not saved; "
                "call save_episode or discard_episode before closing"
            )

    def __enter__(self) -> "DatasetWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None:  # the error that ended the episode matters, not its frames
            self.discard_episode()
        self.close()


def _checked(value: Any, feature: Feature, where: str) -> np.ndarray:
    """A copy of a frame's value, or a ValueError that begins with `where`."""
    array = np.array(value)
    dtype = np.dtype(feature.dtype)
    kinds = {bool: "b", int: "iu", float: "f"}
    if feature.shape == () and dtype.kind in kinds.get(type(value), ""):
        try:
            with np.errstate(over="ignore"):  # becomes an infinity, refused below
                array = np.array(value, dtype)
        except OverflowError as error:
            raise ValueError(f"{where}: {value} does not fit in {dtype}") from error
    if array.shape != feature.shape:
        raise ValueError(f"{where} has shape {array.shape}, expected {feature.shape}")
    if array.dtype != dtype:
        raise ValueError(f"{where} has dtype {array.dtype}, expected {dtype}")
    if dtype.kind == "f" and not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0].tolist()
        raise ValueError(f"{where} is not finite at {bad}: {array[tuple(bad)]}")
    return array


def _check_views(root: Path, ledger: Ledger) -> None:
    for path in ledger.views:
        state = view_state(root, ledger, path)
        if state not in ("fresh", "stale"):
            raise CorruptDataset(root, path, state)


class Dataset:
    """Reads a dataset. No array is returned from a file whose checksum is not right."""

    def __init__(self, root: str | Path, ledger: Ledger):
        """Used by `open`."""
        self.root, self._ledger = Path(root), ledger

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
    def meta(self) -> dict[str, Any]:
        """The JSON object given when the dataset was created."""
        return self._ledger.settings.meta

    @property
    def features(self) -> dict[str, Feature]:
        """Name -> column, without the index columns."""
        return dict(self._ledger.settings.features)

    @property
    def env_id(self) -> str:
        """The environment the episodes come from."""
        return self._ledger.settings.env_id

    @property
    def fps(self) -> int:
        """Frames per second."""
        return self._ledger.settings.fps

    @property
    def tasks(self) -> list[str]:
        """Task texts, by `task_index`."""
        return list(self._ledger.tasks)

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return len(self._ledger.episodes)

    @property
    def num_frames(self) -> int:
        """Number of rows in all episodes."""
        return self._ledger.num_frames

    @property
    def episode_lengths(self) -> np.ndarray:
        """Rows of each episode: [num_episodes], int64."""
        return np.array([e.length for e in self._ledger.episodes], np.int64)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the checksums of the data files: what exactly was trained on."""
        return self._ledger.fingerprint

    def episode(self, index: int) -> dict[str, np.ndarray]:
        """All columns of one episode, each [length, *shape], index columns included.

        Raises:
            IndexError: there is no such episode.
            CorruptDataset: its file has changed.
        """
        if not 0 <= index < self.num_episodes:
            raise IndexError(f"episode {index} of {self.num_episodes} in {self.root}")
        return read_data(self.root, self._ledger, index)

    def arrays(self, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Columns of all episodes, one after the other: [num_frames, *shape], contiguous.

        Args:
            names: which columns; all of them by default.

        Raises:
            KeyError: no such column.
            CorruptDataset: a file has changed.
        """
        columns = self._ledger.settings.columns
        names = list(columns if names is None else names)
        if unknown := [name for name in names if name not in columns]:
            raise KeyError(f"no columns {unknown} in {self.root}; it has {list(columns)}")
        out = {
            name: np.empty((self.num_frames, *columns[name].shape), columns[name].dtype)
            for name in names
        }
        start = 0
        for index, entry in enumerate(self._ledger.episodes):
            for name, values in read_data(self.root, self._ledger, index, names).items():
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

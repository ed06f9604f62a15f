"""What every writer does alike: check frames, collect them, hand over whole episodes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from embodied.data.layout import DatasetError, Settings, plain_json


class EpisodeWriter(ABC):
    """Collects frames; an episode is durable when `save_episode` or `add_episode` returns.

    One writer per dataset at a time. A writer killed at any instant leaves every saved episode
    readable, and the format's `resume` continues after them.

    Attributes:
        root: where the dataset is.
        settings: what was fixed when it was created.
    """

    def __init__(self, root: str | Path, settings: Settings, lock: ExitStack):
        """Used by the formats' `create` and `resume`."""
        self.root, self.settings = Path(root), settings
        self._lock = lock
        self._frames: list[dict[str, np.ndarray]] = []

    @property
    @abstractmethod
    def num_episodes(self) -> int:
        """Saved episodes; also the index of the next one."""

    @property
    @abstractmethod
    def num_frames(self) -> int:
        """Rows in the saved episodes."""

    @abstractmethod
    def _commit(self, columns: dict[str, np.ndarray], task: str, meta: dict[str, Any]) -> None:
        """Make an episode durable: columns of the settings' features, each [length, *shape]."""

    def _finish(self) -> None:
        """Called once by `close` when all went well, still under the lock."""
        return

    def add_frame(self, frame: Mapping[str, Any]) -> None:
        """Append one row to the episode being recorded; it is in memory until `save_episode`.

        Args:
            frame: a value for each feature, of its exact shape and dtype. Python bools, ints
                and floats are taken for scalars of the same kind. Values are copied.

        Raises:
            ValueError: a name, shape or dtype is wrong, or a number is not finite.
        """
        where = f"frame {len(self._frames)} of episode {self.num_episodes}"
        self._check_names(frame, where)
        self._frames.append(
            {
                name: checked(frame[name], feature.dtype, feature.shape, f"{where}: {name!r}")
                for name, feature in self.settings.features.items()
            }
        )

    def save_episode(self, task: str, meta: Mapping[str, Any] | None = None) -> int:
        """Write the recorded frames as one episode; it is on disk when this returns.

        If it raises (a full disk, say), the frames are kept and the call may be repeated.

        Args:
            task: what the episode is meant to do, in words.
            meta: plain JSON about this episode: its seed, the scene's model, the initial state.

        Returns:
            The episode's index.

        Raises:
            ValueError: there is no frame, or no task, or `meta` is not plain JSON.
            OSError: the disk refused.
        """
        if not self._frames or not task:
            raise ValueError("an episode needs at least one frame and a task description")
        index, features = self.num_episodes, self.settings.features
        columns = {name: np.stack([f[name] for f in self._frames]) for name in features}
        self._commit(columns, task, plain_json(meta or {}))
        self._frames.clear()
        return index

    def add_episode(
        self, columns: Mapping[str, np.ndarray], task: str, meta: Mapping[str, Any] | None = None
    ) -> int:
        """Write a whole episode at once; it is on disk when this returns.

        Args:
            columns: an array for each feature, [length, *shape], of its exact dtype.
            task: what the episode is meant to do, in words.
            meta: plain JSON about this episode.

        Returns:
            The episode's index.

        Raises:
            DatasetError: frames of another episode are waiting for `save_episode`.
            ValueError: as of `add_frame` and `save_episode`.
        """
        index, features = self.num_episodes, self.settings.features
        if self._frames:
            raise DatasetError(f"{len(self._frames)} frames of episode {index} are not saved yet")
        where = f"episode {index}"
        self._check_names(columns, where)
        length = len(next(iter(columns.values())))
        if not length or not task:
            raise ValueError("an episode needs at least one frame and a task description")
        whole = {
            name: checked(columns[name], f.dtype, (length, *f.shape), f"{where}: {name!r}")
            for name, f in features.items()
        }
        self._commit(whole, task, plain_json(meta or {}))
        return index

    def discard_episode(self) -> int:
        """Forget the frames since the last saved episode; returns how many."""
        count = len(self._frames)
        self._frames.clear()
        return count

    def close(self) -> None:
        """Finish and release the dataset.

        Raises:
            DatasetError: frames were added that are neither saved nor discarded.
        """
        with self._lock:
            if not self._frames:
                self._finish()
                return
        raise DatasetError(
            f"{len(self._frames)} frames of episode {self.num_episodes} were not saved; "
            "call save_episode or discard_episode before closing"
        )

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self.close()
        else:  # the error that ended the episode matters, not its frames
            self.discard_episode()
            self._lock.close()

    def _check_names(self, given: Mapping[str, Any], where: str) -> None:
        features = self.settings.features
        missing, unknown = sorted(features.keys() - given), sorted(given.keys() - features)
        if missing or unknown:
            raise ValueError(f"{where}: missing features {missing}, unknown features {unknown}")


def checked(value: Any, dtype: str, shape: tuple[int, ...], where: str) -> np.ndarray:
    """A copy of a value, of this very dtype and shape and finite.

    Raises:
        ValueError: it is not; the message begins with `where`.
    """
    array, wanted = np.array(value), np.dtype(dtype)
    kinds = {bool: "b", int: "iu", float: "f"}
    if shape == () and wanted.kind in kinds.get(type(value), ""):
        try:
            with np.errstate(over="ignore"):  # becomes an infinity, refused below
                array = np.array(value, wanted)
        except OverflowError as error:
            raise ValueError(f"{where}: {value} does not fit in {wanted}") from error
    if array.shape != shape:
        raise ValueError(f"{where} has shape {array.shape}, expected {shape}")
    if array.dtype != wanted:
        raise ValueError(f"{where} has dtype {array.dtype}, expected {wanted}")
    if wanted.kind == "f" and not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0].tolist()
        raise ValueError(f"{where} is not finite at {bad}: {array[tuple(bad)]}")
    return array

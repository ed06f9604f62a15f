"""Record and read datasets that are one HDF5 file; see `h5ledger` for how a kill loses nothing."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from embodied.data import h5ledger
from embodied.data.h5layout import (
    CHECKSUM,
    H5_ERRORS,
    MARK,
    TASK,
    Column,
    Contents,
    Layout,
    arrays_of,
    attributes_meta,
    checksum,
    h5py,
    meta_attributes,
    new_file_bytes,
    read_columns,
)
from embodied.data.h5ledger import (
    Ledger,
    Record,
    digest,
    ledger_path,
    merge,
    open_h5,
    part_path,
    read_ledger,
    relative,
    settled,
    side,
    strays,
    write_ledger,
)
from embodied.data.io import (
    TEMP_SUFFIX,
    exclusive,
    fsync_dir,
    make_dirs,
    sha256_bytes,
    sha256_file,
    write_atomic,
)
from embodied.data.layout import (
    CorruptDataset,
    DatasetError,
    Described,
    EmptyDataset,
    Feature,
    IncompatibleDataset,
    Settings,
    check_names,
)
from embodied.data.recording import EpisodeWriter

LOCK = ".lock"
COUNTERS = (CHECKSUM, TASK, MARK, "num_samples", "total_steps", "id")


class H5Writer(EpisodeWriter):
    """Appends episodes; each is durable in a file of its own when `save_episode` returns.

    `close` merges them into the one file. After a crash `resume` goes on behind the last saved
    episode, and `repair` merges what there is.
    """

    def __init__(self, layout: Layout, root: Path, ledger: Ledger, lock: ExitStack):
        """Used by `create` and `resume`."""
        super().__init__(root, ledger.settings, lock)
        self.layout, self._ledger = layout, ledger

    @classmethod
    def create(
        cls,
        layout: Layout,
        path: Path,
        *,
        env_id: str,
        fps: int,
        features: Mapping[str, Feature],
        robot_type: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> "H5Writer":
        """Start a file; arguments as of `DatasetWriter.create`.

        Raises:
            DatasetError: the file exists.
            IncompatibleDataset: the layout cannot hold these features.
            ValueError: a setting is not valid.
        """
        settings = Settings(env_id, fps, dict(features), robot_type, dict(meta or {}))
        h5py()
        layout.check(settings, ())
        if path.exists() or ledger_path(path).exists():
            raise DatasetError(f"{path} exists; resume appends to a dataset")
        make_dirs(side(path))
        with ExitStack() as stack:
            stack.enter_context(exclusive(side(path) / LOCK))
            ledger = write_ledger(path, Ledger(layout.name, settings))
            return cls(layout, path, ledger, stack.pop_all())

    @classmethod
    def resume(cls, layout: Layout, path: Path) -> "H5Writer":
        """Continue a dataset after its last saved episode; every episode is verified first.

        Raises:
            DatasetNotFound: there is no dataset here.
            IncompatibleDataset: another tool wrote it; its episodes lack what ours have.
            CorruptDataset: repair it first.
        """
        if read_ledger(path) is None:
            _own(layout, path)
        with ExitStack() as stack:
            stack.enter_context(exclusive(side(path) / LOCK))
            found = read_ledger(path)
            ledger = settled(path, found) if found else adopted(layout, path)
            check_all(layout, path, ledger, companions=found is None or found.pending is None)
            clear(path, ledger)
            if ledger.files is not None:
                h5ledger.restore_companions(path, layout, ledger)
            write_ledger(path, ledger)
            return cls(layout, path, ledger, stack.pop_all())

    @property
    def num_episodes(self) -> int:
        """Saved episodes; also the index of the next one."""
        return len(self._ledger.episodes)

    @property
    def num_frames(self) -> int:
        """Rows in the saved episodes."""
        return self._ledger.num_frames

    def _commit(self, columns: dict[str, np.ndarray], task: str, meta: dict[str, Any]) -> None:
        ledger, index = self._ledger, self.num_episodes
        self.layout.check(self.settings, [*(e.task for e in ledger.episodes), task])
        length = len(next(iter(columns.values())))
        attributes = {**meta_attributes(meta), **self.layout.attributes(index, length), TASK: task}
        arrays = self.layout.arrays(columns)
        raw, checksums = new_file_bytes(self.layout, self.settings, index, arrays, attributes, task)
        write_atomic(part_path(self.root, index), raw)
        record = Record(length, task, digest(checksums), sha256_bytes(raw))
        self._ledger = write_ledger(self.root, replace(ledger, episodes=(*ledger.episodes, record)))

    def _finish(self) -> None:
        groups = [self.layout.group(i) for i in range(self._ledger.merged)]
        self._ledger = merge(self.root, self.layout, self._ledger, groups)


class H5Dataset(Described):
    """Reads a dataset. No array with a checksum of its own is returned if that is not right."""

    def __init__(self, layout: Layout, root: Path, ledger: Ledger | None, contents: Contents):
        """Used by `open`."""
        self.layout, self.root = layout, root
        self._ledger, self._contents, self._settings = ledger, contents, contents.settings
        self._tasks: list[str] = []
        self._lengths: list[int] = []

    @classmethod
    def open(cls, layout: Layout, path: Path, *, verify: bool = True) -> "H5Dataset":
        """Open a file, merged or not, this package's or another tool's.

        Args:
            layout: its layout.
            path: the file.
            verify: check everything now. With a ledger beside the file that is the checksum of
                each file; else the row counts of every array, and the checksums of those that
                have one. Otherwise arrays are checked when they are read.

        Raises:
            DatasetNotFound: there is no dataset at this path.
            EmptyDataset: it has no saved episode.
            CorruptDataset: the message names the file, the episode and the repair command.
        """
        found = read_ledger(path)
        ledger = settled(path, found) if found else None
        if ledger is not None and not ledger.episodes:
            raise EmptyDataset(f"the dataset at {path} has no saved episode; record one first")
        if ledger is None:
            return cls.unlisted(layout, path, verify=verify)
        if verify:
            check_all(layout, path, ledger, companions=found.pending is None)
        dataset = cls(layout, path, ledger, describe(layout, path, ledger))
        dataset._tasks = [episode.task for episode in ledger.episodes]
        dataset._lengths = [episode.length for episode in ledger.episodes]
        return dataset

    @classmethod
    def unlisted(cls, layout: Layout, path: Path, *, verify: bool = True) -> "H5Dataset":
        """Open a file by what it says itself, whether there is a ledger beside it or not."""
        dataset = cls(layout, path, None, describe(layout, path, None))
        dataset._count()
        for index in range(dataset.num_episodes) if verify else ():
            dataset.episode(index)
        return dataset

    def _count(self) -> None:
        with open_h5(self.root, self.root) as file:
            for index, name in enumerate(self._contents.groups):
                try:
                    self._lengths.append(self.layout.length(file[name]))
                    self._tasks.append(self.layout.task(file, file[name], self.root))
                except H5_ERRORS as error:
                    reason = f"group {name}: {error}"
                    raise CorruptDataset(self.root, self.root.name, reason, index) from error

    @property
    def info(self) -> dict[str, Any]:
        """What `embodied data info` prints of this format."""
        return {
            "format": self.layout.name,
            "unmerged": 0 if self._ledger is None else self.num_episodes - self._ledger.merged,
        }

    @property
    def tasks(self) -> list[str]:
        """The different tasks, in order of appearance."""
        return list(dict.fromkeys(self._tasks))

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return len(self._lengths)

    @property
    def episode_lengths(self) -> np.ndarray:
        """Rows of each episode: [num_episodes], int64."""
        return np.array(self._lengths, np.int64)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the episodes' checksums, or of another tool's file."""
        if self._ledger is None:
            return sha256_file(self.root)
        return sha256_bytes("\n".join(e.digest for e in self._ledger.episodes).encode())

    def task(self, index: int) -> str:
        """What an episode was meant to do.

        Raises:
            IndexError: there is no such episode.
        """
        self._check(index)
        return self._tasks[index]

    def episode(self, index: int, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Columns of one episode, each [length, *shape].

        Raises:
            IndexError: there is no such episode.
            KeyError: no such column.
            CorruptDataset: an array is damaged.
        """
        self._check(index)
        check_names(self.root, names, self.features)
        columns = self._contents.columns
        wanted: dict[str, Column] = {name: columns[name] for name in names or columns}
        length = self._lengths[index]
        return self._read(index, lambda group: read_columns(group, wanted, length))

    def episode_meta(self, index: int) -> dict[str, Any]:
        """The JSON object saved with an episode; of another tool's, its attributes.

        Raises:
            IndexError: there is no such episode.
            CorruptDataset: the file is damaged.
        """
        self._check(index)
        leave = [name for name in COUNTERS if name != MARK]
        return self._read(index, lambda group: attributes_meta(group.attrs, leave))

    def _read(self, index: int, read: Any) -> Any:
        merged = self._ledger is None or index < self._ledger.merged
        path = self.root if merged else part_path(self.root, index)
        name = self._contents.groups[index] if merged else self.layout.group(index)
        with open_h5(path, self.root, index) as file:
            try:
                return read(file[name])
            except H5_ERRORS as error:
                reason = f"group {name}: {error}"
                raise CorruptDataset(self.root, relative(self.root, path), reason, index) from error


def describe(layout: Layout, path: Path, ledger: Ledger | None) -> Contents:
    """The contents of the merged file; before the first merge those of the first part."""
    file = path if ledger is None or ledger.merged else part_path(path, 0)
    with open_h5(file, path) as opened:
        try:
            contents = layout.contents(opened, path)
        except H5_ERRORS as error:
            raise CorruptDataset(path, relative(path, file), str(error)) from error
    if ledger is None:
        return contents
    groups = tuple(layout.group(index) for index in range(ledger.merged))
    return Contents(ledger.settings, contents.columns, groups)


def check_all(layout: Layout, path: Path, ledger: Ledger, companions: bool = True) -> None:
    """Every file against the ledger's checksums.

    Args:
        layout: the dataset's layout.
        path: the file.
        ledger: a settled one.
        companions: whether those must be right too; a merge cut short leaves old ones.

    Raises:
        CorruptDataset: naming the file, and the episode where that can be told.
    """
    for name, wanted in (ledger.files or {}).items():
        file = path.with_name(name)
        if not file.is_file():
            if file == path or companions:
                raise CorruptDataset(path, name, "the file is missing")
        elif sha256_file(file) != wanted and (file == path or companions):
            episode = first_damaged(layout, path, ledger) if file == path else None
            reason = "its checksum differs from the ledger's"
            raise CorruptDataset(path, name, reason, episode)
    for index, record in enumerate(ledger.episodes):
        part = part_path(path, index)
        if record.part is None:
            continue
        if not part.is_file():
            raise CorruptDataset(path, relative(path, part), "the file is missing", index)
        if sha256_file(part) != record.part:
            reason = "its checksum differs from the ledger's"
            raise CorruptDataset(path, relative(path, part), reason, index)


def first_damaged(layout: Layout, path: Path, ledger: Ledger) -> int | None:
    """The first merged episode that is not what the ledger says; None if all are."""
    for index in range(ledger.merged):
        try:
            with open_h5(path, path, index) as file:
                if group_digest(file[layout.group(index)]) != ledger.episodes[index].digest:
                    return index
        except (CorruptDataset, *H5_ERRORS):
            return index
    return None


def group_digest(group: Any) -> str:
    """The digest of an episode's group from its arrays as they are."""
    return digest(
        {p: checksum(np.asarray(d[()])) for p, d in arrays_of(group) if CHECKSUM in d.attrs}
    )


def adopted(layout: Layout, path: Path) -> Ledger:
    """A ledger for a file of this package that came without one."""
    _own(layout, path)
    dataset = H5Dataset.unlisted(layout, path)
    with open_h5(path, path) as file:
        records = tuple(
            Record(length, task, group_digest(file[layout.group(index)]))
            for index, (length, task) in enumerate(
                zip(dataset._lengths, dataset._tasks, strict=True)
            )
        )
    settings = dataset._contents.settings
    names = layout.companions(path, settings, dataset._lengths)
    files = {name: sha256_file(path.with_name(name)) for name in (path.name, *names)}
    return Ledger(layout.name, settings, records, files)


def _own(layout: Layout, path: Path) -> None:
    """Refuse a file that another tool wrote."""
    with open_h5(path, path) as file:
        try:
            own = layout.is_own(file)
        except H5_ERRORS as error:
            raise CorruptDataset(path, path.name, str(error)) from error
    if not own:
        raise IncompatibleDataset(
            f"{path} was written by another tool and may lack columns of new episodes; copy it "
            f"first: embodied data convert {path} NEW"
        )


def clear(path: Path, ledger: Ledger) -> tuple[list[str], list[str]]:
    """Clear away what an interrupted write left.

    Returns:
        Parts that were never committed, moved to quarantine, and temporary files and parts that
        have been merged, removed.
    """
    moved, removed = [], []
    for file in strays(path, ledger):
        number = file.stem.rpartition("-")[2]
        committed = number.isdecimal() and int(number) < len(ledger.episodes)
        if file.suffix == TEMP_SUFFIX or committed:
            file.unlink()
            fsync_dir(file.parent)
            removed.append(relative(path, file))
        else:
            moved.append(h5ledger.quarantine(path, file))
    return moved, removed

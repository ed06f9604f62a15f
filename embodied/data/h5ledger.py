"""The ledger beside an HDF5 file, and the merge of single episodes into that file.

::

    demos.hdf5                                    the episodes, as any tool reads them
    demos.hdf5.embodied/ledger.json               settings, episodes, checksums
    demos.hdf5.embodied/episode-000007.hdf5       saved since the last merge, one file each
    demos.hdf5.embodied/quarantine/               what `repair` set aside

Why: HDF5 keeps its tables of contents in memory and in place, so a writer killed at the wrong
moment leaves a file that cannot be opened at all, with every episode in it. Hence a file that
holds saved episodes is never written to. `save_episode` writes a small HDF5 file of its own
(write, flush, rename, flush the directory) and then replaces the ledger, which commits it.
`close` copies everything into a new file beside the old one, notes in the ledger what the new
file's checksum will be, and renames: killed at any instant, either the old file and the parts
hold the episodes or the new file does, and the checksum tells which.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from embodied.data.h5layout import H5_ERRORS, TASK, Layout, h5py
from embodied.data.io import (
    TEMP_SUFFIX,
    fsync_dir,
    make_dirs,
    sha256_bytes,
    sha256_file,
    write_atomic,
)
from embodied.data.layout import CorruptDataset, DatasetNotFound, Settings, seal, unseal

FORMAT = "embodied-hdf5-1"
SIDE = ".embodied"


@dataclass(frozen=True)
class Record:
    """A committed episode.

    Attributes:
        length: its rows.
        task: what it was meant to do.
        digest: SHA-256 over the checksums of its arrays.
        part: SHA-256 of its own file; None once it is in the merged file.
    """

    length: int
    task: str
    digest: str
    part: str | None = None


@dataclass(frozen=True)
class Ledger:
    """The contents of `ledger.json`.

    Attributes:
        layout: the name of the layout.
        settings: what is fixed.
        episodes: the committed episodes.
        files: name -> SHA-256 of the merged file and its companions; empty before a merge.
        pending: the same for a merge under way, whose last step is to become `files`.
    """

    layout: str
    settings: Settings
    episodes: tuple[Record, ...] = ()
    files: dict[str, str] | None = None
    pending: dict[str, str] | None = None

    @property
    def merged(self) -> int:
        """How many episodes are in the merged file."""
        return sum(episode.part is None for episode in self.episodes)

    @property
    def num_frames(self) -> int:
        """Rows in all episodes."""
        return sum(episode.length for episode in self.episodes)

    def render(self) -> bytes:
        """The bytes of the file, sealed with their own SHA-256."""
        return seal(
            {
                "format": FORMAT,
                "layout": self.layout,
                "settings": self.settings.to_json(),
                "files": self.files,
                "pending": self.pending,
                "episodes": [asdict(episode) for episode in self.episodes],
            }
        )

    @classmethod
    def parse(cls, raw: bytes) -> "Ledger":
        """Inverse of `render`.

        Raises:
            ValueError: any byte differs from what `render` wrote.
        """
        body = unseal(raw, FORMAT)
        return cls(
            body["layout"],
            Settings.from_json(body["settings"]),
            tuple(Record(**episode) for episode in body["episodes"]),
            body["files"],
            body["pending"],
        )


def side(path: Path) -> Path:
    """The directory beside an HDF5 file."""
    return path.with_name(path.name + SIDE)


def ledger_path(path: Path) -> Path:
    """The ledger of an HDF5 file."""
    return side(path) / "ledger.json"


def part_path(path: Path, index: int) -> Path:
    """The file of an episode that is not merged yet."""
    return side(path) / f"episode-{index:06d}.hdf5"


def relative(path: Path, file: Path) -> str:
    """How messages name a file of a dataset."""
    return file.relative_to(path.parent).as_posix()


def write_ledger(path: Path, ledger: Ledger) -> Ledger:
    """Replace the ledger, durably, unless it is the same."""
    raw, file = ledger.render(), ledger_path(path)
    if not file.is_file() or file.read_bytes() != raw:
        write_atomic(file, raw)
    return ledger


def read_ledger(path: Path) -> Ledger | None:
    """The ledger of an HDF5 file as it is on disk, or None for another tool's file.

    Raises:
        DatasetNotFound: there is neither a file nor a ledger.
        CorruptDataset: the ledger is damaged, or lost while parts are there.
    """
    file = ledger_path(path)
    if not file.is_file():
        if any(side(path).glob("episode-*.hdf5")):
            raise CorruptDataset(path, relative(path, file), "the file is missing")
        if not path.is_file():
            raise DatasetNotFound(f"no dataset at {path}: no such file")
        return None
    try:
        return Ledger.parse(file.read_bytes())
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptDataset(path, relative(path, file), str(error)) from error


def settled(path: Path, ledger: Ledger) -> Ledger:
    """The ledger with a merge that a crash cut short counted as done or as never begun."""
    if ledger.pending is None:
        return ledger
    if path.is_file() and sha256_file(path) == ledger.pending[path.name]:
        return completed(ledger, ledger.pending)
    return replace(ledger, pending=None)


def completed(ledger: Ledger, files: Mapping[str, str]) -> Ledger:
    """The ledger after a merge."""
    episodes = tuple(replace(episode, part=None) for episode in ledger.episodes)
    return replace(ledger, episodes=episodes, files=dict(files), pending=None)


def merge(path: Path, layout: Layout, ledger: Ledger, groups: Sequence[str]) -> Ledger:
    """Bring all episodes into one file; does nothing if they are there.

    Args:
        path: the file.
        layout: its layout.
        ledger: a settled one; the merged episodes and the parts that it names are sound.
        groups: the names of the merged episodes' groups in the file as it is.

    Returns:
        The ledger as written.
    """
    if ledger.files is not None and ledger.merged == len(ledger.episodes):
        restore_companions(path, layout, ledger)
        write_ledger(path, ledger)
        remove_parts(path)
        return ledger
    if not ledger.episodes:
        return write_ledger(path, ledger)
    return rewrite(path, layout, ledger, groups)


def rewrite(path: Path, layout: Layout, ledger: Ledger, groups: Sequence[str]) -> Ledger:
    """Write the file anew from the merged episodes and the parts; see `merge`."""
    temporary = path.with_name(path.name + TEMP_SUFFIX)
    merged = ledger.merged
    lengths = [episode.length for episode in ledger.episodes]
    tasks = [episode.task for episode in ledger.episodes]
    with h5py().File(temporary, "w") as file:
        for index in range(len(lengths)):
            source = path if index < merged else part_path(path, index)
            name = groups[index] if index < merged else layout.group(index)
            with h5py().File(source, "r") as old:
                target = file.require_group(str(Path("/" + layout.group(index)).parent))
                old.copy(name, target, name=Path(layout.group(index)).name)
            file[layout.group(index)].attrs[TASK] = tasks[index]
        layout.finish(file, ledger.settings, lengths, tasks)
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    companions = layout.companions(path, ledger.settings, lengths)
    files = {path.name: sha256_file(temporary)}
    files |= {name: sha256_bytes(raw) for name, raw in companions.items()}
    write_ledger(path, replace(ledger, pending=files))
    os.replace(temporary, path)
    fsync_dir(path.parent)
    for name, raw in companions.items():
        write_atomic(path.with_name(name), raw)
    ledger = write_ledger(path, completed(ledger, files))
    remove_parts(path)
    return ledger


def restore_companions(path: Path, layout: Layout, ledger: Ledger) -> list[str]:
    """Write companions that a crash or damage left different from the ledger's; names them."""
    lengths = [episode.length for episode in ledger.episodes]
    written = []
    for name, raw in layout.companions(path, ledger.settings, lengths).items():
        file = path.with_name(name)
        if not file.is_file() or sha256_file(file) != ledger.files[name]:
            write_atomic(file, raw)
            written.append(name)
    return written


def remove_parts(path: Path) -> list[str]:
    """Delete the parts, which a merge has made superfluous; names them."""
    found = sorted(side(path).glob("episode-*.hdf5"))
    for part in found:
        part.unlink()
    if found:
        fsync_dir(side(path))
    return [relative(path, part) for part in found]


def strays(path: Path, ledger: Ledger) -> list[Path]:
    """Files of an interrupted write: parts the ledger does not name, temporary files."""
    known = {part_path(path, i) for i, e in enumerate(ledger.episodes) if e.part is not None}
    found = [part for part in side(path).glob("episode-*.hdf5") if part not in known]
    found += side(path).glob(f"*{TEMP_SUFFIX}")
    found += [f for f in [path.with_name(path.name + TEMP_SUFFIX)] if f.exists()]
    return sorted(found)


def quarantine(path: Path, file: Path) -> str:
    """Move a file of the dataset to the side's `quarantine/`; returns its old name."""
    folder = side(path) / "quarantine"
    make_dirs(folder)
    target, copy = folder / file.name, 0
    while target.exists():
        copy += 1
        target = folder / f"{file.name}.{copy}"
    os.replace(file, target)
    fsync_dir(folder)
    fsync_dir(file.parent)
    return relative(path, file)


def open_h5(path: Path, root: Path, episode: int | None = None) -> Any:
    """An HDF5 file for reading.

    Raises:
        CorruptDataset: it is missing or cannot be opened.
    """
    h5 = h5py()
    try:
        return h5.File(path, "r")
    except FileNotFoundError as error:
        raise CorruptDataset(root, relative(root, path), "the file is missing", episode) from error
    except H5_ERRORS as error:
        raise CorruptDataset(root, relative(root, path), str(error), episode) from error


def digest(checksums: Mapping[str, str]) -> str:
    """One SHA-256 for an episode from those of its arrays."""
    return sha256_bytes(json.dumps(sorted(checksums.items())).encode())

"""Random windows from disk: the rows of a dataset packed side by side in one memory-mapped file.

The formats are made for recording and exchange; a window read from them is a small slice of many
files or chunks. `pack` copies a dataset once, so that all columns of a row lie together and a
window is one stretch of bytes. Nothing is loaded: the system keeps in memory what is in use.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embodied.data.formats import Reader
from embodied.data.io import TEMP_SUFFIX, fsync_dir, make_dirs, sha256_file, write_atomic
from embodied.data.layout import CorruptDataset, DatasetError, DatasetNotFound, dump_json

FORMAT = "embodied-packed-1"
ROWS, HEADER = "rows.npy", "packed.json"


class Packed:
    """Rows of all episodes, one after another, in one file that is mapped into memory.

    Args:
        rows: one record per row, with a field per column.
        lengths: rows of each episode.
        fingerprint: that of the dataset the rows were copied from.
    """

    def __init__(self, rows: np.ndarray, lengths: Sequence[int], fingerprint: str) -> None:
        self.rows, self.fingerprint = rows, fingerprint
        self.episode_lengths = np.array(lengths, np.int64)
        self._starts: dict[int, np.ndarray] = {}

    @classmethod
    def open(cls, root: str | Path, *, verify: bool = True) -> "Packed":
        """Open what `pack` has written.

        Args:
            root: its directory.
            verify: compare the rows with their checksum, which reads all of them once.

        Raises:
            DatasetNotFound: there is nothing packed here.
            CorruptDataset: the rows are not those that were written.
        """
        root = Path(root)
        if not (root / HEADER).is_file():
            raise DatasetNotFound(f"no packed rows at {root}: it has no {HEADER}; use data.pack")
        try:
            header = json.loads((root / HEADER).read_bytes())
            if header["format"] != FORMAT:
                raise ValueError(f"the format is {header['format']!r}, not {FORMAT!r}")
            rows = np.load(root / ROWS, mmap_mode="r", allow_pickle=False)
            if len(rows) != sum(header["lengths"]):
                raise ValueError(f"it has {len(rows)} rows, not {sum(header['lengths'])}")
            if verify and sha256_file(root / ROWS) != header["sha256"]:
                raise ValueError("its checksum differs from the header's")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptDataset(root, ROWS, f"{error}; pack the dataset again") from error
        return cls(rows, header["lengths"], header["fingerprint"])

    def num_windows(self, length: int) -> int:
        """How many windows of `length` rows lie within one episode."""
        return len(self._window_starts(length))

    def windows(self, n: int, length: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draws windows of consecutive rows of one episode, uniformly, with replacement.

        Args:
            n: how many.
            length: rows of each.
            rng: draws them.

        Returns:
            The columns, [n, length, *shape] each. They share one piece of memory, which is fresh.

        Raises:
            DatasetError: no episode has as many rows.
        """
        starts = self._window_starts(length)
        if not len(starts):
            raise DatasetError(
                f"no episode has {length} rows, the longest has {max(self.episode_lengths)}"
            )
        record = self.rows.dtype
        # Every stretch of `length` rows as one item. They overlap, so this takes no memory, and
        # taking some of the items is one copy of bytes each.
        stretches = np.ndarray(
            (len(self.rows) - length + 1,),
            np.dtype((np.void, length * record.itemsize)),
            self.rows,
            strides=(record.itemsize,),
        )
        taken = stretches[starts[rng.integers(0, len(starts), n)]].view(record).reshape(n, length)
        return {name: taken[name] for name in record.names}

    def _window_starts(self, length: int) -> np.ndarray:
        if length < 1:
            raise ValueError(f"length must be positive, got {length}")
        if length not in self._starts:
            ends = np.cumsum(self.episode_lengths)
            first = ends - self.episode_lengths
            each = [np.arange(a, b - length + 1) for a, b in zip(first, ends, strict=True)]
            self._starts[length] = np.concatenate(each)
        return self._starts[length]


def pack(dataset: Reader, root: str | Path, *, names: Sequence[str] | None = None) -> Packed:
    """Copy the rows of a dataset into one file for reading windows at random.

    What an interrupted call has left is written anew; it is not taken for complete.

    Args:
        dataset: a dataset of any format.
        root: a directory that is new, or holds an older copy, which is replaced.
        names: which columns; all of them by default. Pictures of a video are stored decoded.

    Raises:
        DatasetError: the directory holds something else.
        KeyError: no such column.
    """
    root = Path(root)
    if root.exists() and not set(os.listdir(root)) <= {ROWS, HEADER, ROWS + TEMP_SUFFIX}:
        raise DatasetError(f"{root} holds other files; choose another directory")
    make_dirs(root)
    (root / HEADER).unlink(missing_ok=True)
    fsync_dir(root)
    temporary = root / (ROWS + TEMP_SUFFIX)
    lengths, rows, at = dataset.episode_lengths.tolist(), None, 0
    for index, length in enumerate(lengths):
        columns = dataset.episode(index, names)
        if rows is None:
            fields = [(name, v.dtype, v.shape[1:]) for name, v in columns.items()]
            record = np.dtype(fields)
            rows = np.lib.format.open_memmap(temporary, "w+", record, (sum(lengths),))
        for name, values in columns.items():
            rows[name][at : at + length] = values
        at += length
    rows.flush()
    del rows
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, root / ROWS)
    header = {
        "format": FORMAT,
        "fingerprint": dataset.fingerprint,
        "sha256": sha256_file(root / ROWS),
        "lengths": lengths,
    }
    write_atomic(root / HEADER, dump_json(header))  # flushes the directory too: the last step
    return Packed.open(root, verify=False)

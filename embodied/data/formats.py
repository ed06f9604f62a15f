"""Every dataset format behind one interface.

    dataset = open_dataset("demos.hdf5")
    columns = dataset.episode(3)  # {"observation.joint_pos": [T, 7], "action": [T, 7], ...}
    with create("copy", "lerobot", env_id=..., fps=20, features=dataset.features) as writer:
        writer.add_episode(columns, task=dataset.task(3))

An episode is a dict of arrays with the same column names whatever the file: `observation.KEY`,
`action`, `next.reward`, `next.terminated`, `next.truncated`, `next.success`, `next.done`,
`next.observation.KEY`, and any other columns under their own names (`states`, the simulator's).
Row t holds o_t, a_t and what that action caused.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from embodied.data import h5repair, hdf5, lerobot, minari, repair
from embodied.data.h5layout import H5_ERRORS, Layout, h5py
from embodied.data.h5ledger import read_ledger, side
from embodied.data.h5store import H5Dataset, H5Writer
from embodied.data.layout import CorruptDataset, DatasetError, Feature, IncompatibleDataset
from embodied.data.lerobot_foreign import ForeignDataset, is_foreign
from embodied.data.problems import Problem, RepairReport
from embodied.data.recording import EpisodeWriter

H5_SUFFIXES = (".hdf5", ".h5")


class Reader(Protocol):
    """A dataset that can be read, whatever its format."""

    root: Path

    @property
    def env_id(self) -> str:
        """The environment the episodes come from."""

    @property
    def fps(self) -> int:
        """Frames per second."""

    @property
    def features(self) -> dict[str, Feature]:
        """Name -> column."""

    @property
    def meta(self) -> dict[str, Any]:
        """A JSON object about the whole dataset."""

    @property
    def info(self) -> dict[str, Any]:
        """What the format itself has to say."""

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""

    @property
    def num_frames(self) -> int:
        """Number of rows in all episodes."""

    @property
    def episode_lengths(self) -> np.ndarray:
        """Rows of each episode: [num_episodes], int64."""

    @property
    def fingerprint(self) -> str:
        """A checksum of all the data."""

    def task(self, index: int) -> str:
        """What an episode was meant to do."""

    def episode(self, index: int, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Columns of one episode, each [length, *shape]."""

    def episode_meta(self, index: int) -> dict[str, Any]:
        """The JSON object saved with an episode."""


@dataclass(frozen=True)
class Format:
    """One format: how to recognise, read, write, check and mend it.

    Attributes:
        name: its name on the command line.
        title: one line about it.
        holds: whether a path is a dataset of this format.
        open: path, verify=True -> Reader.
        create: path, env_id=, fps=, features=, meta= -> EpisodeWriter.
        resume: path -> EpisodeWriter after the last saved episode.
        verify: path -> what is wrong, changing nothing.
        repair: path -> what was done to keep what can be verified.
    """

    name: str
    title: str
    holds: Callable[[Path], bool]
    open: Callable[..., Reader]
    create: Callable[..., EpisodeWriter]
    resume: Callable[[Path], EpisodeWriter]
    verify: Callable[[Path], list[Problem]]
    repair: Callable[[Path], RepairReport]


def _h5_format(
    layout: Layout,
    title: str,
    holds: Callable[[Path], bool],
    file: Callable[[Path], Path] = lambda path: path,
) -> Format:
    """A format whose episodes are in one HDF5 file, which `file` finds from the dataset's path."""

    def at_file(act: Callable[..., Any]) -> Callable[..., Any]:
        return lambda path, **options: act(layout, file(Path(path)), **options)

    return Format(
        layout.name,
        title,
        holds,
        at_file(H5Dataset.open),
        at_file(H5Writer.create),
        at_file(H5Writer.resume),
        at_file(h5repair.verify),
        at_file(h5repair.repair),
    )


def _is_h5(path: Path) -> bool:
    return path.suffix in H5_SUFFIXES and (path.is_file() or side(path).is_dir())


def _is_libero(path: Path) -> bool:
    """Whether an HDF5 file is LIBERO's: its ledger or its attributes say so, or the cameras."""
    if not _is_h5(path):
        return False
    try:
        ledger = read_ledger(path)
        if ledger is not None:
            return ledger.layout == "libero"
        with h5py().File(path, "r") as file:
            data = file["data"]
            if "problem_info" in data.attrs or "bddl_file_name" in data.attrs:
                return True
            demo = data[next(iter(data))]
            return "env_args" not in data.attrs and "obs/agentview_rgb" in demo
    except (DatasetError, *H5_ERRORS, StopIteration):
        return False  # damaged: robomimic's reader says how


def _open_lerobot(path: Path, *, verify: bool = True) -> Reader:
    reader = ForeignDataset if is_foreign(path) else lerobot.Dataset
    return reader.open(path, verify=verify)


def _resume_lerobot(path: Path) -> EpisodeWriter:
    _refuse_foreign(path, "cannot be appended to; copy it first")
    return lerobot.DatasetWriter.resume(path)


def _verify_lerobot(path: Path) -> list[Problem]:
    if not is_foreign(path):
        return repair.verify(path)
    try:
        ForeignDataset.open(path)
    except CorruptDataset as error:
        return [Problem(error.path, error.reason, error.episode)]
    return []


def _repair_lerobot(path: Path) -> RepairReport:
    if _verify_lerobot(path):
        _refuse_foreign(path, "is left as it is; copy the episodes before the damage")
    if not is_foreign(path):
        return repair.repair(path)
    dataset = ForeignDataset.open(path, verify=False)
    return RepairReport(dataset.num_episodes, dataset.num_frames, (), (), (), ())


def _refuse_foreign(path: Path, what: str) -> None:
    if is_foreign(path):
        raise IncompatibleDataset(
            f"{path} was written by another tool, without checksums, and {what} with: "
            f"embodied data convert {path} NEW --to lerobot"
        )


FORMATS = {
    format.name: format
    for format in (
        _h5_format(
            minari.MINARI, "Minari: a folder with one HDF5 file", minari.is_minari, minari.main_file
        ),
        _h5_format(hdf5.LIBERO, "LIBERO HDF5: one task per file", _is_libero),
        _h5_format(hdf5.ROBOMIMIC, "robomimic HDF5", _is_h5),
        Format(
            "lerobot",
            "LeRobotDataset v3: a folder of Parquet files",
            lambda path: True,  # last: a path that is nothing gets LeRobot's error
            _open_lerobot,
            lerobot.DatasetWriter.create,
            _resume_lerobot,
            _verify_lerobot,
            _repair_lerobot,
        ),
    )
}
"""Name -> format, in the order in which they are tried on a path."""


def detect(path: str | Path) -> Format:
    """The format of a dataset."""
    return next(format for format in FORMATS.values() if format.holds(Path(path)))


def named(name: str) -> Format:
    """The format of a name.

    Raises:
        DatasetError: there is none.
    """
    if name not in FORMATS:
        raise DatasetError(f"no dataset format {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]


def open_dataset(path: str | Path, *, verify: bool = True) -> Reader:
    """Open a dataset of any format; see `Dataset.open` for the arguments and errors."""
    return detect(path).open(Path(path), verify=verify)


def create(
    path: str | Path,
    format: str,
    *,
    env_id: str,
    fps: int,
    features: Mapping[str, Feature],
    meta: Mapping[str, Any] | None = None,
) -> EpisodeWriter:
    """Start a dataset; see `DatasetWriter.create` for the arguments and errors."""
    start = named(format).create
    return start(Path(path), env_id=env_id, fps=fps, features=features, meta=meta)


def resume(path: str | Path) -> EpisodeWriter:
    """Continue a dataset after its last saved episode; see `DatasetWriter.resume`."""
    return detect(path).resume(Path(path))


def verify(path: str | Path) -> list[Problem]:
    """Everything wrong with a dataset, without changing it; an empty list is a sound one.

    Raises:
        DatasetNotFound: there is no dataset here.
    """
    return detect(path).verify(Path(path))


def mend(path: str | Path) -> RepairReport:
    """Keep the longest verified prefix of a dataset's episodes; see the format's `repair`."""
    return detect(path).repair(Path(path))

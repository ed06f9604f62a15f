"""The metadata files LeRobot reads, as a fold over the episodes, and how a commit replaces them."""

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from embodied.data.io import (
    TEMP_SUFFIX,
    fsync_dir,
    make_dirs,
    sha256_bytes,
    sha256_file,
    write_atomic,
)
from embodied.data.layout import (
    CODEBASE_VERSION,
    EPISODE_ROWS_PER_FILE,
    FILES_PER_CHUNK,
    INFO,
    LEDGER,
    QUARANTINE,
    STATS,
    TASKS,
    CorruptDataset,
    DatasetNotFound,
    Feature,
    Ledger,
    Settings,
    data_path,
    dump_json,
    episodes_path,
    index_columns,
    video_path,
)
from embodied.data.parquet import (
    Header,
    decode_episode,
    decode_header,
    encode_rows,
    encode_tasks,
    read_table,
)
from embodied.data.video import count_frames, describe

VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
ABSENT = "absent"  # stands for the checksum of a file that does not exist

Stats = dict[str, dict[str, np.ndarray]]


def episode_stats(settings: Settings, columns: Mapping[str, np.ndarray]) -> Stats:
    """Minimum, maximum, mean, standard deviation and count of each column over its rows.

    For a video, `columns` holds its statistics already.
    """
    stats = {name: columns[name] for name in settings.videos}
    for name, feature in settings.table.items():
        values = columns[name].astype(np.float64).reshape(-1, *feature.lerobot_shape)
        stats[name] = {
            "min": values.min(axis=0),
            "max": values.max(axis=0),
            "mean": values.mean(axis=0),
            "std": values.std(axis=0),
            "count": np.array([len(values)]),
        }
    return stats


def merge_stats(a: Stats, b: Stats) -> Stats:
    """Statistics of two sets of rows together (Chan's parallel update for the variance)."""
    if not a:
        return b
    merged = {}
    for name, left in a.items():
        right = b[name]
        count = left["count"] + right["count"]
        weight = float(right["count"][0] / count[0])
        delta = right["mean"] - left["mean"]
        variance = (1 - weight) * left["std"] ** 2 + weight * right["std"] ** 2
        merged[name] = {
            "min": np.minimum(left["min"], right["min"]),
            "max": np.maximum(left["max"], right["max"]),
            "mean": left["mean"] + weight * delta,
            "std": np.sqrt(variance + weight * (1 - weight) * delta**2),
            "count": count,
        }
    return merged


@dataclass(frozen=True)
class Summary:
    """What the views say about the episodes so far.

    Attributes:
        rows: one row per episode, in LeRobot's columns.
        stats: statistics of all rows of all episodes.
    """

    rows: tuple[dict[str, Any], ...] = ()
    stats: Stats | None = None

    def extended(
        self, settings: Settings, task: str, columns: Mapping[str, np.ndarray]
    ) -> "Summary":
        """The summary with one more episode."""
        index, length = len(self.rows), len(columns["index"])
        start = self.rows[-1]["dataset_to_index"] if self.rows else 0
        chunk, file = divmod(index, FILES_PER_CHUNK)
        meta_chunk, meta_file = divmod(index // EPISODE_ROWS_PER_FILE, FILES_PER_CHUNK)
        stats = episode_stats(settings, columns)
        row = {
            "episode_index": index,
            "tasks": [task],
            "length": length,
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": start,
            "dataset_to_index": start + length,
            "meta/episodes/chunk_index": meta_chunk,
            "meta/episodes/file_index": meta_file,
        }
        for name in settings.videos:
            row[f"videos/{name}/chunk_index"], row[f"videos/{name}/file_index"] = chunk, file
            row[f"videos/{name}/from_timestamp"] = 0.0
            row[f"videos/{name}/to_timestamp"] = length / settings.fps
        for name, values in stats.items():
            row.update({f"stats/{name}/{key}": value.tolist() for key, value in values.items()})
        return Summary((*self.rows, row), merge_stats(self.stats or {}, stats))

    def render(self, ledger: Ledger, latest_only: bool = False) -> dict[str, bytes]:
        """Path -> bytes of the views, LeRobot's `info.json` last.

        Args:
            ledger: the episodes that this summary describes.
            latest_only: of the files of episode rows, only the one that the last episode is in.
        """
        views = {}
        if self.rows:
            last = (len(self.rows) - 1) // EPISODE_ROWS_PER_FILE
            for file in range(last if latest_only else 0, last + 1):
                start = file * EPISODE_ROWS_PER_FILE
                rows = self.rows[start : start + EPISODE_ROWS_PER_FILE]
                views[episodes_path(file)] = encode_rows(rows)
            views[TASKS] = encode_tasks(ledger.tasks)
            stats = {
                name: {key: value.tolist() for key, value in values.items()}
                for name, values in self.stats.items()
            }
            views[STATS] = dump_json(stats)
        views[INFO] = dump_json(info_json(ledger))
        return views


def info_json(ledger: Ledger) -> dict[str, Any]:
    """LeRobot's `info.json`, a function of the ledger."""
    settings = ledger.settings
    return {
        "codebase_version": CODEBASE_VERSION,
        "robot_type": settings.robot_type,
        "total_episodes": len(ledger.episodes),
        "total_frames": ledger.num_frames,
        "total_tasks": len(ledger.tasks),
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": settings.fps,
        "splits": {"train": f"0:{len(ledger.episodes)}"} if ledger.episodes else {},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": VIDEO_PATH if settings.videos else None,
        "features": {name: _feature_json(f, settings) for name, f in settings.columns.items()},
    }


def _feature_json(feature: Feature, settings: Settings) -> dict[str, Any]:
    names = feature.names or (("height", "width", "channels") if feature.video else None)
    out = {
        "dtype": "video" if feature.video else feature.dtype,
        "shape": list(feature.lerobot_shape),
        "names": None if names is None else list(names),
    }
    return out | ({"info": describe(feature.shape, settings.fps)} if feature.video else {})


def read_ledger(root: Path) -> Ledger:
    """The ledger of a dataset.

    Raises:
        DatasetNotFound: there is no dataset here.
        CorruptDataset: there is one, without a sound ledger.
    """
    path = root / LEDGER
    if not path.is_file():
        if any(root.glob("data/*/*.parquet")) or (root / INFO).exists():
            raise CorruptDataset(
                root, LEDGER, "the file is missing (lost, or the dataset is another tool's)"
            )
        raise DatasetNotFound(
            f"no dataset at {root}: "
            + ("the directory has no " + LEDGER if root.is_dir() else "no such directory")
        )
    try:
        return Ledger.parse(path.read_bytes())
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptDataset(root, LEDGER, str(error)) from error


def read_data(root: Path, ledger: Ledger, episode: int, names=None) -> dict[str, np.ndarray]:
    """Columns of one episode, after its file's checksum was found right.

    Raises:
        CorruptDataset: naming the file and the episode.
    """
    raw = _sound_bytes(root, ledger, episode)
    try:
        return decode_episode(ledger.settings, raw, names)
    except ValueError as error:
        raise CorruptDataset(root, data_path(episode), str(error), episode) from error


def read_meta(root: Path, ledger: Ledger, episode: int) -> dict[str, Any]:
    """The JSON object saved with an episode; raises as `read_data` does."""
    return read_header(root, ledger, episode).meta


def read_header(root: Path, ledger: Ledger, episode: int) -> Header:
    """The header of an episode's data file; raises as `read_data` does."""
    raw = _sound_bytes(root, ledger, episode)
    try:
        return decode_header(raw)
    except ValueError as error:
        raise CorruptDataset(root, data_path(episode), str(error), episode) from error


def _sound_bytes(root: Path, ledger: Ledger, episode: int) -> bytes:
    path = data_path(episode)
    try:
        raw = (root / path).read_bytes()
    except FileNotFoundError as error:
        raise CorruptDataset(root, path, "the file is missing", episode) from error
    if sha256_bytes(raw) != ledger.episodes[episode].sha256:
        raise CorruptDataset(root, path, "its checksum differs from the ledger's", episode)
    return raw


def check_episode(root: Path, ledger: Ledger, index: int, start: int) -> dict[str, np.ndarray]:
    """All columns of one episode, its row count and index columns checked as well.

    Args:
        root: the dataset.
        ledger: its ledger.
        index: which episode.
        start: the index of its first row in the whole dataset.

    Raises:
        CorruptDataset: naming the file and the episode.
    """
    entry, columns = ledger.episodes[index], read_data(root, ledger, index)
    expected = index_columns(ledger.settings, index, start, entry.task, entry.length)
    for name, values in expected.items():
        if not np.array_equal(columns[name], values):
            reason = f"column {name!r} is not that of {entry.length} rows from row {start} on"
            raise CorruptDataset(root, data_path(index), reason, index)
    return columns | _checked_videos(root, ledger, index)


def _checked_videos(root: Path, ledger: Ledger, index: int) -> dict[str, Stats]:
    """The statistics of an episode's videos, their checksums and picture counts being right."""
    names, found = ledger.settings.videos, {}
    videos = read_header(root, ledger, index).videos if names else {}
    for name in names:
        path = video_path(name, index)
        if not (root / path).is_file():
            raise CorruptDataset(root, path, "the file is missing", index)
        if sha256_file(root / path) != videos[name]["sha256"]:
            reason = "its checksum differs from that in the episode's data file"
            raise CorruptDataset(root, path, reason, index)
        count, length = count_frames(root / path), ledger.episodes[index].length
        if count != length:
            raise CorruptDataset(root, path, f"it has {count} pictures, not {length}", index)
        found[name] = {key: np.array(value) for key, value in videos[name]["stats"].items()}
    return found


def checked_episodes(root: Path, ledger: Ledger) -> Iterator[dict[str, np.ndarray]]:
    """`check_episode` of each episode in turn."""
    start = 0
    for index, entry in enumerate(ledger.episodes):
        yield check_episode(root, ledger, index, start)
        start += entry.length


def view_state(root: Path, ledger: Ledger, path: str) -> str:
    """`fresh`, `stale` (one commit behind: a crash came between) or what is wrong with a view."""
    entry = ledger.views[path]
    disk = _checksum(root / path)
    if disk == entry["sha256"]:
        return _contradiction(root, ledger, path) or "fresh"
    if disk == entry["previous"]:
        return "stale"
    return "the file is missing" if disk == ABSENT else "its checksum differs from the ledger's"


def _contradiction(root: Path, ledger: Ledger, path: str) -> str | None:
    """Where the contents of a view disagree with the ledger, although its checksum is right."""
    raw = (root / path).read_bytes()
    if path == INFO and json.loads(raw) != info_json(ledger):
        return "it does not describe the episodes of the ledger"
    if path.startswith("meta/episodes/"):
        keys = ["episode_index", "length", "dataset_from_index", "dataset_to_index"]
        rows = read_table(raw, keys).to_pydict()
        lengths = np.array([episode.length for episode in ledger.episodes])
        index = np.array(rows["episode_index"])
        ends = np.cumsum(lengths)
        if (
            index[-1] >= len(lengths)
            or not np.array_equal(rows["length"], lengths[index])
            or not np.array_equal(rows["dataset_to_index"], ends[index])
            or not np.array_equal(rows["dataset_from_index"], (ends - lengths)[index])
        ):
            return "its rows do not describe the episodes of the ledger"
    return None


def _checksum(path: Path) -> str:
    return sha256_file(path) if path.is_file() else ABSENT


def publish(root: Path, ledger: Ledger, views: Mapping[str, bytes]) -> tuple[Ledger, list[str]]:
    """Commit a ledger, then bring the views up to it; writes only what differs on disk.

    A view that holds neither its recorded nor its previous contents gets no `previous`: it is
    damaged, and stays an error until it is rewritten.

    Args:
        root: the dataset.
        ledger: what to commit; its `views` are those recorded on disk now.
        views: path -> new bytes; other views keep their entry.

    Returns:
        The ledger as written, and the paths that changed.
    """
    disk = {path: _checksum(root / path) for path in views}
    wanted = {path: sha256_bytes(raw) for path, raw in views.items()}
    entries = dict(ledger.views)
    behind = []
    for path, checksum in wanted.items():
        old = entries.get(path, {"sha256": ABSENT, "previous": None})
        if disk[path] == checksum == old["sha256"]:
            continue
        behind.append(path)
        known = disk[path] in old.values()
        entries[path] = {"sha256": checksum, "previous": disk[path] if known else None}
    if not behind and _checksum(root / LEDGER) == sha256_bytes(ledger.render()):
        return ledger, []
    for path in wanted.keys() - behind:
        entries[path] = {"sha256": wanted[path], "previous": None}
    ledger = replace(ledger, views=entries)
    write_atomic(root / LEDGER, ledger.render())
    for path in behind:
        write_atomic(root / path, views[path])
    return ledger, [LEDGER, *behind]


def sweep(root: Path, ledger: Ledger, views: Iterable[str]) -> tuple[list[str], list[str]]:
    """Clear away what the ledger does not know.

    Data files and views that would mislead LeRobot's loader are moved to `quarantine/`;
    temporary files of interrupted writes are removed.

    Returns:
        The paths moved and the paths removed.
    """
    moved, removed = [], []
    for path in strays(root, ledger, views):
        if path.endswith(TEMP_SUFFIX):
            (root / path).unlink()
            fsync_dir((root / path).parent)
            removed.append(path)
            continue
        target = root / QUARANTINE / path
        copies = (target.with_name(f"{target.name}.{n}") for n in itertools.count(1))
        while target.exists():
            target = next(copies)
        make_dirs(target.parent)
        os.replace(root / path, target)
        fsync_dir(target.parent)
        fsync_dir((root / path).parent)
        moved.append(path)
    return moved, removed


def strays(root: Path, ledger: Ledger, views: Iterable[str]) -> list[str]:
    """Temporary files, and files in the places of data and views that are neither."""
    episodes = range(len(ledger.episodes))
    known = {data_path(index) for index in episodes} | set(views)
    known |= {video_path(name, index) for name in ledger.settings.videos for index in episodes}
    places = ("data/*/*.parquet", "videos/*/*/*.mp4", "meta/episodes/*/*.parquet", TASKS, STATS)
    found = [path for place in places for path in root.glob(place)]
    found += [
        path for top in ("data", "meta", "videos") for path in root.glob(f"{top}/**/*{TEMP_SUFFIX}")
    ]
    names = sorted(path.relative_to(root).as_posix() for path in found)
    return [name for name in names if name not in known]

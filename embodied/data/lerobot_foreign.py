"""LeRobotDataset v3 folders that other tools wrote: many episodes per file, no checksums."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embodied.data import video
from embodied.data.io import sha256_bytes, sha256_file
from embodied.data.layout import (
    CODEBASE_VERSION,
    DTYPES,
    INDEX_FEATURES,
    INFO,
    LEDGER,
    TASKS,
    CorruptDataset,
    Described,
    EmptyDataset,
    Feature,
    IncompatibleDataset,
    Settings,
    check_names,
)
from embodied.data.parquet import HEADER, column_values, pyarrow

PICTURE_AXES = ((0, 1, 2), (1, 2, 0))  # rows first, or channels first


def is_foreign(root: Path) -> bool:
    """Whether a folder is a LeRobot dataset without a ledger and not one that lost it."""
    if not (root / INFO).is_file() or (root / LEDGER).exists():
        return False
    pa, pq = pyarrow()
    for file in sorted(root.glob("data/*/*.parquet")):
        try:
            return HEADER not in (pq.read_schema(file).metadata or {})
        except (pa.ArrowException, OSError):
            continue  # the next one tells
    return False


class ForeignDataset(Described):
    """Reads what LeRobot itself recorded; row and picture counts are all there is to verify."""

    def __init__(self, root: Path, info: dict[str, Any], episodes: list[dict], tasks: list[str]):
        """Used by `open`."""
        self.root, self.info, self._episodes, self.tasks = root, info, episodes, tasks
        features, self._pictures, left_out = _features(info)
        meta: dict[str, Any] = {"lerobot": {"robot_type": info.get("robot_type")}}
        if left_out:
            meta["left_out"] = left_out
        # LeRobot knows no environment
        env_id = str(info.get("robot_type") or root.name)
        self._settings = Settings(env_id, round(info["fps"]), features, None, meta)

    @classmethod
    def open(cls, root: Path, *, verify: bool = True) -> "ForeignDataset":
        """Open a dataset.

        Args:
            root: its folder.
            verify: read all rows and count the pictures now.

        Raises:
            IncompatibleDataset: it has another version of the layout.
            EmptyDataset: it has no episode.
            CorruptDataset: a file is missing, unreadable or has other rows than the metadata says.
        """
        info = _json(root)
        if info.get("codebase_version") != CODEBASE_VERSION:
            raise IncompatibleDataset(
                f"{root} has LeRobot's layout {info.get('codebase_version')}, expected "
                f"{CODEBASE_VERSION}; LeRobot has a script that converts"
            )
        rows = []
        for file in sorted(root.glob("meta/episodes/*/*.parquet")):
            rows += _read(root, file.relative_to(root).as_posix()).to_pylist()
        rows.sort(key=lambda row: row["episode_index"])
        if not rows:
            raise EmptyDataset(f"the dataset at {root} has no episode")
        if len(rows) != info.get("total_episodes"):
            reason = f"it says {info.get('total_episodes')} episodes, there are {len(rows)}"
            raise CorruptDataset(root, INFO, reason)
        table = _read(root, TASKS).to_pydict()
        names = next(v for k, v in table.items() if k != "task_index")
        order = np.argsort(table["task_index"])
        dataset = cls(root, info, rows, [names[i] for i in order])
        if verify:
            dataset._verify()
        return dataset

    def _verify(self) -> None:
        for index in range(self.num_episodes):
            self.episode(index, [n for n in self.features if n not in self._settings.videos])
        for name in self._settings.videos:
            wanted: dict[str, int] = {}
            for index, row in enumerate(self._episodes):
                path = self._video(index, name)
                wanted[path] = wanted.get(path, 0) + row["length"]
            for path, frames in wanted.items():
                try:
                    count = video.count_frames(self.root / path)
                except (ValueError, FileNotFoundError) as error:
                    raise CorruptDataset(self.root, path, str(error)) from error
                if count != frames:
                    reason = f"it has {count} pictures, not {frames}"
                    raise CorruptDataset(self.root, path, reason)

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return len(self._episodes)

    @property
    def episode_lengths(self) -> np.ndarray:
        """Rows of each episode: [num_episodes], int64."""
        return np.array([row["length"] for row in self._episodes], np.int64)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the checksums of the data and video files."""
        files = sorted([*self.root.glob("data/*/*.parquet"), *self.root.glob("videos/*/*/*.mp4")])
        return sha256_bytes("\n".join(sha256_file(file) for file in files).encode())

    def task(self, index: int) -> str:
        """What an episode was meant to do."""
        return str(self._row(index)["tasks"][0])

    def episode_meta(self, index: int) -> dict[str, Any]:
        """Nothing: LeRobot keeps none."""
        self._row(index)
        return {}

    def episode(self, index: int, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Columns of one episode, each [length, *shape].

        Raises:
            IndexError: there is no such episode.
            KeyError: no such column.
            CorruptDataset: a file is damaged or has other rows than the metadata says.
        """
        row, features = self._row(index), self.features
        check_names(self.root, names, features)
        names = list(features if names is None else names)
        place = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
        path = self.info["data_path"].format(**place)
        videos = self._settings.videos
        in_table = [name for name in names if name not in videos]
        table = _read(self.root, path, [*in_table, "episode_index"], index)
        if len(table) != row["length"]:
            reason = f"it has {len(table)} rows of the episode, not {row['length']}"
            raise CorruptDataset(self.root, path, reason, index)
        try:
            columns = {name: self._column(table[name], name) for name in in_table}
        except (ValueError, TypeError, OSError) as error:
            raise CorruptDataset(self.root, path, str(error), index) from error
        return {n: self._frames(index, n) if n in videos else columns[n] for n in names}

    def _column(self, column: Any, name: str) -> np.ndarray:
        if name in self._pictures:
            return _decode_pictures(column.to_pylist())
        feature = self.features[name]
        return column_values(column, name, feature)

    def _frames(self, index: int, name: str) -> np.ndarray:
        row, path = self._row(index), self._video(index, name)
        start = row[f"videos/{name}/from_timestamp"]
        try:
            return video.decode(self.root / path, start, row["length"], self.fps)
        except (ValueError, FileNotFoundError) as error:
            raise CorruptDataset(self.root, path, str(error), index) from error

    def _video(self, index: int, name: str) -> str:
        row = self._row(index)
        chunk, file = row[f"videos/{name}/chunk_index"], row[f"videos/{name}/file_index"]
        return self.info["video_path"].format(video_key=name, chunk_index=chunk, file_index=file)

    def _row(self, index: int) -> Mapping[str, Any]:
        self._check(index)
        return self._episodes[index]


def _json(root: Path) -> dict[str, Any]:
    try:
        return json.loads((root / INFO).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptDataset(root, INFO, str(error)) from error


def _features(info: Mapping[str, Any]) -> tuple[dict[str, Feature], set[str], list[str]]:
    """Columns, which of them are stored pictures, and what is left out (text)."""
    features, pictures, left_out = {}, set(), []
    for name, about in info["features"].items():
        dtype, shape = about["dtype"], tuple(about["shape"])
        if name in INDEX_FEATURES:
            continue
        if dtype in ("image", "video"):
            axes = PICTURE_AXES[shape[0] in (1, 3) and shape[2] not in (1, 3)]
            shape = tuple(shape[axis] for axis in axes)
            features[name] = Feature("uint8", shape, video=dtype == "video")
            pictures |= {name} if dtype == "image" else set()
        elif dtype in DTYPES and "/" not in name:
            scalar = shape == (1,) and name.startswith("next.")
            features[name] = Feature(dtype, () if scalar else shape)
        else:
            left_out.append(name)
    return features, pictures, left_out


def _read(root: Path, path: str, columns: Sequence[str] | None = None, episode=None) -> Any:
    """A Parquet file's table, of one episode if asked.

    Raises:
        CorruptDataset: it is missing or unreadable.
    """
    pa, pq = pyarrow()
    rows = None if episode is None else [("episode_index", "=", episode)]
    try:
        return pq.read_table(root / path, columns=columns, filters=rows, partitioning=None)
    except FileNotFoundError as error:
        raise CorruptDataset(root, path, "the file is missing", episode) from error
    except (pa.ArrowException, OSError) as error:
        raise CorruptDataset(root, path, str(error), episode) from error


def _decode_pictures(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Pictures [T, H, W, 3] from LeRobot's image column: encoded bytes in each row."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            'pictures in LeRobot datasets need pillow: pip install "embodied[report]"', name="PIL"
        ) from error
    return np.stack([np.array(Image.open(io.BytesIO(row["bytes"])), np.uint8) for row in rows])

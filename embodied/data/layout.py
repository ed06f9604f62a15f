"""What lies on disk: the LeRobotDataset v3 layout plus one ledger.

::

    data/chunk-000/file-007.parquet           the rows of episode 7 (one file per episode)
    videos/NAME/chunk-000/file-007.mp4        the pictures of episode 7, for video features
    meta/embodied.json                        the ledger: settings, episodes, checksums
    meta/info.json, stats.json, tasks.parquet,
    meta/episodes/chunk-000/file-000.parquet  what LeRobot reads, derived from the two above

An episode exists once the ledger names it, so replacing that one file commits it. The other
files of `meta/` are views: they follow the ledger, can be rebuilt from it and the data, and
after a crash may be one commit behind, which the ledger allows by keeping their previous
checksum. Every data file repeats the settings in its Parquet header, so that even a lost ledger
can be rebuilt; it also holds the checksums of the episode's videos. The layout is that of
LeRobot 0.4.4, codebase version v3.0.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from embodied.data.io import sha256_bytes

LEDGER = "meta/embodied.json"
LOCK = "meta/.lock"
INFO = "meta/info.json"
STATS = "meta/stats.json"
TASKS = "meta/tasks.parquet"
QUARANTINE = "quarantine"

FORMAT = "embodied-dataset-1"
CODEBASE_VERSION = "v3.0"
FILES_PER_CHUNK = 1000
EPISODE_ROWS_PER_FILE = 50  # bounds what one more episode rewrites

DTYPES = (
    *("float16", "float32", "float64", "int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64", "bool"),
)


class DatasetError(ValueError):
    """A dataset cannot be used as asked."""


class DatasetNotFound(DatasetError):
    """There is no dataset at this path."""


class EmptyDataset(DatasetError):
    """The dataset holds no complete episode."""


class IncompatibleDataset(DatasetError):
    """The dataset was recorded for something else."""


class CorruptDataset(DatasetError):
    """A file is not what the ledger says.

    Attributes:
        path: the file, relative to the dataset.
        episode: the episode it holds, or None for metadata.
        reason: what is wrong with it.
    """

    def __init__(self, root: str | Path, path: str, reason: str, episode: int | None = None):
        self.root, self.path, self.reason, self.episode = Path(root), path, reason, episode
        where = path if episode is None else f"{path} (episode {episode})"
        super().__init__(
            f"corrupt dataset {root}: {where}: {reason}. "
            f"Keep what can be verified with: embodied data repair {root}"
        )


@dataclass(frozen=True)
class Feature:
    """One column of a dataset.

    Attributes:
        dtype: a name of `DTYPES`.
        shape: the shape of one frame's value; () for a scalar.
        names: optional names of the components, for people and for LeRobot's tools.
        video: pictures [H, W, 3] uint8 that LeRobot's layout stores as mp4, within codec error.
    """

    dtype: str
    shape: tuple[int, ...] = ()
    names: tuple[str, ...] | None = None
    video: bool = False

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if self.names is not None:
            object.__setattr__(self, "names", tuple(self.names))
        if self.dtype not in DTYPES:
            raise ValueError(f"unsupported dtype {self.dtype!r}; supported: {', '.join(DTYPES)}")
        if any(n < 1 for n in self.shape) or len(self.shape) > 4:
            raise ValueError(f"unsupported shape {self.shape}: 0 to 4 axes, each at least 1 long")
        picture = self.dtype == "uint8" and len(self.shape) == 3 and self.shape[2] == 3
        if self.video and not picture:
            raise ValueError(f"a video has pictures [H, W, 3] uint8, not {self.dtype} {self.shape}")

    @property
    def lerobot_shape(self) -> tuple[int, ...]:
        """The shape as LeRobot writes it, which spells a scalar (1,)."""
        return self.shape or (1,)


INDEX_FEATURES = {
    "timestamp": Feature("float32"),
    "frame_index": Feature("int64"),
    "episode_index": Feature("int64"),
    "index": Feature("int64"),
    "task_index": Feature("int64"),
}


def transition_features(
    observation_shape: tuple[int, ...], action_shape: tuple[int, ...]
) -> dict[str, Feature]:
    """The columns of one environment transition; an episode of T steps has T rows.

    Row t holds o_t, a_t, the reward and flags of the step it caused, and o_{t+1}. Storing
    o_{t+1} in its own column costs the observation twice and keeps the last observation of an
    episode exact, also where it is truncated. `next.done` is terminated or truncated.
    """
    return {
        "observation.state": Feature("float32", observation_shape),
        "action": Feature("float32", action_shape),
        "next.observation.state": Feature("float32", observation_shape),
        "next.reward": Feature("float32"),
        "next.terminated": Feature("bool"),
        "next.truncated": Feature("bool"),
        "next.success": Feature("bool"),
        "next.done": Feature("bool"),
    }


@dataclass(frozen=True)
class Settings:
    """What is fixed when a dataset is created.

    Attributes:
        env_id: the environment the episodes come from.
        fps: frames per second.
        features: name -> column, without the index columns.
        robot_type: LeRobot's field of this name.
        meta: any JSON object: versions, seeds, reward mode, the policy that acted, its noise.
    """

    env_id: str
    fps: int
    features: dict[str, Feature]
    robot_type: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if not isinstance(self.fps, int) or self.fps < 1:
            raise ValueError(f"fps must be a positive integer, got {self.fps!r}")
        if not self.features:
            raise ValueError("a dataset needs at least one feature")
        for name in self.features:
            if not name or "/" in name or name in INDEX_FEATURES or name == "task":
                raise ValueError(
                    f"feature name {name!r} is reserved or contains '/'; "
                    f"reserved: task, {', '.join(INDEX_FEATURES)}"
                )
        object.__setattr__(self, "meta", plain_json(self.meta))

    @property
    def columns(self) -> dict[str, Feature]:
        """All columns of a data file, index columns last."""
        return {**self.features, **INDEX_FEATURES}

    @property
    def table(self) -> dict[str, Feature]:
        """The columns that are in a data file: all but the videos."""
        return {name: f for name, f in self.columns.items() if not f.video}

    @property
    def videos(self) -> list[str]:
        """The names of the video columns."""
        return [name for name, feature in self.features.items() if feature.video]

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `from_json` inverts it."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Settings":
        """Inverse of `to_json`."""
        features = {name: Feature(**feature) for name, feature in data["features"].items()}
        return cls(**{**data, "features": features})


@dataclass(frozen=True)
class Episode:
    """A committed episode: its number of rows, its task's index, the SHA-256 of its file."""

    length: int
    task: int
    sha256: str


@dataclass(frozen=True)
class Ledger:
    """The contents of `meta/embodied.json`.

    Attributes:
        settings: what is fixed.
        tasks: task texts by index.
        episodes: the committed episodes.
        views: path -> {"sha256", "previous"}: the checksum of each derived file, and the one
            it may still have when a crash came between the ledger and the view.
    """

    settings: Settings
    tasks: tuple[str, ...] = ()
    episodes: tuple[Episode, ...] = ()
    views: dict[str, dict[str, str | None]] = field(default_factory=dict)

    @property
    def num_frames(self) -> int:
        """Rows in all committed episodes."""
        return sum(episode.length for episode in self.episodes)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the checksums of the data files, in order."""
        return sha256_bytes("\n".join(e.sha256 for e in self.episodes).encode())

    def truncated(self, length: int) -> "Ledger":
        """The ledger of the first `length` episodes, with the tasks that those use."""
        episodes = self.episodes[:length]
        used = 1 + max((episode.task for episode in episodes), default=-1)
        return replace(self, episodes=episodes, tasks=self.tasks[:used])

    def render(self) -> bytes:
        """The bytes of the file; its last field is the SHA-256 of all the others."""
        body = {
            "format": FORMAT,
            "settings": self.settings.to_json(),
            "tasks": list(self.tasks),
            "views": self.views,
            "fingerprint": self.fingerprint,
            "episodes": [asdict(episode) for episode in self.episodes],
        }
        return seal(body)

    @classmethod
    def parse(cls, raw: bytes) -> "Ledger":
        """Inverse of `render`.

        Raises:
            ValueError: any byte differs from what `render` wrote.
        """
        body = unseal(raw, FORMAT)
        return cls(
            Settings.from_json(body["settings"]),
            tuple(body["tasks"]),
            tuple(Episode(**episode) for episode in body["episodes"]),
            body["views"],
        )


class Described:
    """What the readers of all formats say of a dataset from its settings and episode lengths."""

    root: Path
    _settings: Settings

    @property
    def meta(self) -> dict[str, Any]:
        """The JSON object given when the dataset was created, or what its own metadata says."""
        return self._settings.meta

    @property
    def features(self) -> dict[str, Feature]:
        """Name -> column, without index columns."""
        return dict(self._settings.features)

    @property
    def env_id(self) -> str:
        """The environment the episodes come from."""
        return self._settings.env_id

    @property
    def fps(self) -> int:
        """Frames per second."""
        return self._settings.fps

    @property
    def num_frames(self) -> int:
        """Number of rows in all episodes."""
        return int(self.episode_lengths.sum())

    def _check(self, index: int) -> None:
        if not 0 <= index < self.num_episodes:
            raise IndexError(f"episode {index} of {self.num_episodes} in {self.root}")


def seal(body: Mapping[str, Any]) -> bytes:
    """JSON bytes of an object with its own SHA-256 as the last field."""
    text = json.dumps(body, ensure_ascii=False, allow_nan=False)  # no indent: 10 times faster
    return f'{text[:-1]}, "sha256": "{sha256_bytes(text.encode())}"}}\n'.encode()


def unseal(raw: bytes, kind: str) -> dict[str, Any]:
    """Inverse of `seal` for an object whose `format` is `kind`.

    Raises:
        ValueError: any byte differs from what `seal` wrote.
    """
    body = json.loads(raw)
    if not isinstance(body, dict) or body.get("format") != kind:
        raise ValueError(f"not a ledger of format {kind}")
    digest = body.pop("sha256", None)
    if digest is None or seal(body) != raw:
        raise ValueError("the ledger's own checksum does not match")
    return body


def plain_json(data: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of an object as JSON would give it back.

    Raises:
        ValueError: it holds something else than plain JSON, or a number that is not finite.
    """
    try:
        return json.loads(json.dumps(dict(data), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"meta must be plain JSON (finite numbers): {error}") from error


def check_names(root: Path, names: Sequence[str] | None, columns: Mapping[str, Feature]) -> None:
    """Refuse names that are no columns of the dataset.

    Raises:
        KeyError: naming them and what there is.
    """
    if unknown := [name for name in names or () if name not in columns]:
        raise KeyError(f"no columns {unknown} in {root}; it has {list(columns)}")


def dump_json(data: Any) -> bytes:
    """JSON bytes, the same for the same data."""
    return (json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def data_path(episode: int) -> str:
    """The data file of an episode, relative to the dataset."""
    chunk, file = divmod(episode, FILES_PER_CHUNK)
    return f"data/chunk-{chunk:03d}/file-{file:03d}.parquet"


def video_path(name: str, episode: int) -> str:
    """The video file of an episode's column, relative to the dataset."""
    chunk, file = divmod(episode, FILES_PER_CHUNK)
    return f"videos/{name}/chunk-{chunk:03d}/file-{file:03d}.mp4"


def episodes_path(file: int) -> str:
    """A file of LeRobot's episode rows, relative to the dataset."""
    chunk, file = divmod(file, FILES_PER_CHUNK)
    return f"meta/episodes/chunk-{chunk:03d}/file-{file:03d}.parquet"


def index_columns(settings: Settings, episode: int, start: int, task: int, length: int) -> dict:
    """The index columns of an episode, each of shape [length]."""
    frame = np.arange(length, dtype=np.int64)
    return {
        "timestamp": (frame / settings.fps).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.full(length, episode, np.int64),
        "index": start + frame,
        "task_index": np.full(length, task, np.int64),
    }

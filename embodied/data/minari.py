"""Minari datasets: a folder with `data/main_data.hdf5` and `data/metadata.json`.

::

    episode_7                        attributes: id, total_steps, seed
    episode_7/observations           [T+1, ...], or a group of one array per key of a Dict space
    episode_7/actions                [T, ...], likewise
    episode_7/rewards, terminations, truncations        [T]
    episode_7/infos/KEY              [T+1, ...]: the first row is of the reset

Columns: an array `observations` is `observation.state` and `next.observation.state`, its first
and its last T rows; a key is `observation.KEY` and `next.observation.KEY`. `infos/success` is
`next.success`, and any other column goes to `infos` under its own name. Spaces come from
`metadata.json`; a file written here says `jpeg_encoding: false`, so pictures stay exact. In another
tool's dataset an info is the column `next.info.KEY`, and columns of text are left out.
"""

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embodied.data.h5layout import (
    MARK,
    TASK,
    Column,
    Contents,
    arrays_of,
    feature_of,
    settings_text,
)
from embodied.data.layout import Feature, IncompatibleDataset, Settings, dump_json

FILE = "main_data.hdf5"
METADATA = "metadata.json"
VERSION = "0.5.3"  # of the format, as Minari's own loader checks it
ASSUMED_FPS = 20  # Minari does not say
FLAGS = {"next.terminated": "terminations", "next.truncated": "truncations"}
SUCCESS = ("success", "is_success")
JPEG_SIDE = 32  # Minari encodes pictures from this height and width on


def main_file(path: Path) -> Path:
    """The HDF5 file of a dataset, given its folder, that folder's `data` or the file."""
    if path.name == FILE:
        return path
    return path / FILE if (path / METADATA).is_file() else path / "data" / FILE


def is_minari(path: Path) -> bool:
    """Whether a path is a Minari dataset, finished or being recorded."""
    file = main_file(path)
    return file.is_file() or file.with_name(FILE + ".embodied").is_dir()


class MinariLayout:
    """Episodes as groups `episode_i`."""

    name = "minari"

    def group(self, index: int) -> str:
        """The group of an episode."""
        return f"episode_{index}"

    def arrays(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Path in the episode's group -> what is stored there.

        Raises:
            ValueError: `next.observation.KEY` is not `observation.KEY` one row later.
        """
        out, places = {}, _places(columns)
        length = len(next(iter(columns.values())))
        for name, path in places.items():
            values = columns[name]
            if name.startswith("observation."):
                following = columns.get(f"next.{name}", values)
                if f"next.{name}" in columns and not np.array_equal(following[:-1], values[1:]):
                    raise ValueError(
                        f"next.{name} is not {name} of the following row, and a Minari episode "
                        "has one row of observations more than actions; use another format"
                    )
                values = np.concatenate([values, following[-1:]])
            elif path.startswith("infos/") and name.startswith("next."):
                values = np.concatenate([np.zeros_like(values[:1]), values])
            elif path.startswith("infos/"):
                values = np.concatenate([values, values[-1:]])
            out.setdefault(path, values)
        out.setdefault("rewards", np.zeros(length))
        out.setdefault("terminations", np.zeros(length, bool))
        out.setdefault("truncations", np.arange(length) == length - 1)
        return out

    def attributes(self, index: int, length: int) -> dict[str, Any]:
        """Attributes of an episode's group, beside its task and meta."""
        return {"id": index, "total_steps": length}

    def check(self, settings: Settings, tasks: Sequence[str]) -> None:
        """Refuse what has no observation or no action.

        Raises:
            IncompatibleDataset: saying what is missing.
        """
        names = list(settings.features)
        for kind in ("observation", "action"):
            if not any(n == kind or n.startswith(f"{kind}.") for n in names):
                raise IncompatibleDataset(f"a Minari dataset needs an {kind}, there is {names}")
        if "action" in names and any(n.startswith("action.") for n in names):
            raise IncompatibleDataset("a Minari dataset has `action` or `action.KEY`, not both")

    def finish(
        self, file: Any, settings: Settings, lengths: Sequence[int], tasks: Sequence[str]
    ) -> None:
        """Write the attributes of the whole file."""
        self.check(settings, tasks)
        file.attrs[MARK] = settings_text(settings)

    def is_own(self, file: Any) -> bool:
        """Whether this package wrote an open file."""
        return MARK in file.attrs

    def contents(self, file: Any, path: Path) -> Contents:
        """Describe an open file.

        Raises:
            ValueError: it has no episodes, or `metadata.json` is missing or contradicts it.
        """
        numbers = sorted(int(n[8:]) for n in file if re.fullmatch(r"episode_\d+", n))
        if not numbers:
            raise ValueError("it has no groups episode_N")
        groups = tuple(self.group(n) for n in numbers)
        if self.is_own(file):
            settings = Settings.from_json(json.loads(file.attrs[MARK]))
            places = _places(settings.features)
            columns = {
                name: Column(feature, places[name], _rows(name, places[name]))
                for name, feature in settings.features.items()
            }
            return Contents(settings, columns, groups)
        metadata = read_metadata(path)
        if metadata["total_episodes"] != len(groups):
            raise ValueError(
                f"it has {len(groups)} episodes, {METADATA} says {metadata['total_episodes']}"
            )
        columns, left_out = foreign_columns(file[groups[0]], metadata)
        features = {name: column.feature for name, column in columns.items()}
        kept = {k: v for k, v in metadata.items() if not k.startswith(("total_", "dataset_size"))}
        meta: dict[str, Any] = {"minari": kept, "fps_assumed": True}
        if left_out:
            meta["left_out"] = left_out
        settings = Settings(_env_id(metadata), ASSUMED_FPS, features, None, meta)
        return Contents(settings, columns, groups)

    def task(self, file: Any, group: Any, path: Path) -> str:
        """What an episode was meant to do: Minari has no words for it, so the environment."""
        return str(group.attrs[TASK]) if TASK in group.attrs else _env_id(read_metadata(path))

    def length(self, group: Any) -> int:
        """Rows of an episode: what its attribute says, which its arrays must match."""
        rows = group.attrs.get("total_steps")
        return int(rows) if rows is not None else len(group["rewards"])

    def companions(
        self, path: Path, settings: Settings, lengths: Sequence[int]
    ) -> dict[str, bytes]:
        """`metadata.json`, as Minari's loader wants it."""
        kept = settings.meta.get("minari", {})
        name = re.sub(r"[^\w-]", "_", path.parent.parent.name) or "dataset"
        metadata = {
            "algorithm_name": "",
            "author": [],
            "author_email": [],
            "code_permalink": "",
            "minari_version": VERSION,
            "observation_space": json.dumps(_space(settings, "observation")),
            "action_space": json.dumps(_space(settings, "action")),
            **kept,
            "dataset_id": name if re.search(r"-v\d+$", name) else f"{name}-v0",
            "total_episodes": len(lengths),
            "total_steps": sum(lengths),
            "data_format": "hdf5",
            "jpeg_encoding": False,
        }
        return {METADATA: dump_json(metadata)}


MINARI = MinariLayout()


def read_metadata(path: Path) -> dict[str, Any]:
    """`metadata.json` beside an HDF5 file.

    Raises:
        ValueError: it is missing or no JSON object.
    """
    file = path.with_name(METADATA)
    if not file.is_file():
        raise ValueError(f"{METADATA} is missing beside it")
    metadata = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(metadata, dict) or metadata.get("data_format", "hdf5") != "hdf5":
        raise ValueError(f"{METADATA} does not describe an HDF5 dataset")
    return metadata


def _env_id(metadata: Mapping[str, Any]) -> str:
    spec = metadata.get("env_spec")
    return str(json.loads(spec)["id"] if spec else metadata.get("dataset_id", "minari"))


def _places(names: Mapping[str, Any]) -> dict[str, str]:
    """Column -> path in the episode's group, for files written here."""
    keys = [name for name in names if name.startswith("observation.")]
    flat = keys == ["observation.state"]
    places = {}
    for name in names:
        observation = name.removeprefix("next.")
        if observation in keys:
            key = observation.removeprefix("observation.")
            places[name] = "observations" if flat else f"observations/{key}"
        elif name == "action" or name.startswith("action."):
            places[name] = "actions" + name.removeprefix("action").replace(".", "/", 1)
        elif name == "next.reward":
            places[name] = "rewards"
        elif name in FLAGS:
            places[name] = FLAGS[name]
        else:
            places[name] = "infos/" + ("success" if name == "next.success" else name)
    return places


def _rows(name: str, path: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """Which rows of a stored array are the column."""
    if path.startswith(("observations", "infos/")):
        return _later if name.startswith("next.") else _earlier
    return None


def _later(values: np.ndarray) -> np.ndarray:
    return values[1:]


def _earlier(values: np.ndarray) -> np.ndarray:
    return values[:-1]


def foreign_columns(group: Any, metadata: Mapping[str, Any]) -> tuple[dict[str, Column], list[str]]:
    """The columns of another tool's episode, and the arrays that are none (text)."""
    columns: dict[str, Column] = {}
    left_out: list[str] = []
    jpeg = bool(metadata.get("jpeg_encoding", True))
    for kind, path, flat in (
        ("observation", "observations", "observation.state"),
        ("action", "actions", "action"),
    ):
        text = metadata.get(f"{kind}_space")
        space = json.loads(text) if text else None
        for name, at, leaf in _leaves(space, group[path], kind, path):
            name = flat if at == path else name
            found = _stored(group[at], at, leaf, jpeg)
            if found is None:
                left_out.append(at)
                continue
            feature, decode = found
            if kind == "action":
                columns[name] = Column(feature, at, decode)
            else:
                columns[name] = Column(feature, at, _then(decode, _earlier))
                columns[f"next.{name}"] = Column(feature, at, _then(decode, _later))
    for name, path in {"next.reward": "rewards", **FLAGS}.items():
        columns[name] = Column(feature_of(group[path], path), path)
    length = len(group["rewards"])
    for path, dataset in arrays_of(group["infos"], "infos/") if "infos" in group else ():
        feature = feature_of(dataset, path)
        key = path.removeprefix("infos/").replace("/", ".")
        if feature is None or dataset.shape[0] not in (length, length + 1):
            left_out.append(path)
            continue
        rows = _later if dataset.shape[0] == length + 1 else None
        if key in SUCCESS and feature.shape == ():
            columns["next.success"] = Column(Feature("bool"), path, _then(rows, _flags))
        else:
            columns[f"next.info.{key}"] = Column(feature, path, rows)
    return columns, left_out


def _leaves(space: Any, item: Any, name: str, path: str) -> Iterator[tuple[str, str, Any]]:
    """(column name, path, space) of each array under an item of an episode's group."""
    if hasattr(item, "shape"):
        yield name, path, space
        return
    inner = (space or {}).get("subspaces", {})
    for key in item:
        child = inner[int(key.removeprefix("_index_"))] if isinstance(inner, list) else None
        child = inner.get(key) if isinstance(inner, dict) else child
        yield from _leaves(child, item[key], f"{name}.{key}", f"{path}/{key}")


def _stored(
    dataset: Any, path: str, space: Any, jpeg: bool
) -> tuple[Feature, Callable[[np.ndarray], np.ndarray] | None] | None:
    """The feature of an array and how to decode it; None if it is text."""
    if space is not None and jpeg and _is_picture(space):
        return Feature("uint8", tuple(space["shape"])), _decode_jpeg
    feature = feature_of(dataset, path)
    return None if feature is None else (feature, None)


def _is_picture(space: Mapping[str, Any]) -> bool:
    """Whether Minari stores values of this space as JPEG, if told to."""
    shape = space.get("shape", ())
    return (
        space["type"] == "Box"
        and space["dtype"] == "uint8"
        and len(shape) in (2, 3)
        and min(shape[:2]) >= JPEG_SIDE
        and not np.any(space["low"])
        and bool(np.all(np.array(space["high"]) == 255))
    )


def _decode_jpeg(stored: np.ndarray) -> np.ndarray:
    """Pictures [T, H, W, 3] from T byte strings."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            'pictures in Minari datasets need pillow: pip install "embodied[report]"', name="PIL"
        ) from error
    return np.stack([np.array(Image.open(io.BytesIO(bytes(row))), np.uint8) for row in stored])


def _then(
    first: Callable[[np.ndarray], np.ndarray] | None, second: Callable[[np.ndarray], np.ndarray]
) -> Callable[[np.ndarray], np.ndarray]:
    return second if first is None else lambda values: second(first(values))


def _flags(values: np.ndarray) -> np.ndarray:
    return values.astype(bool)


def _space(settings: Settings, kind: str) -> dict[str, Any]:
    """The space of observations or actions, in Minari's JSON."""
    features = settings.features
    keys = {n: f for n, f in features.items() if n.startswith(f"{kind}.")}
    if kind in features or list(keys) == ["observation.state"]:
        return _box(features.get(kind) or features["observation.state"])
    inner = {name.removeprefix(f"{kind}."): _box(f) for name, f in keys.items()}
    return {"type": "Dict", "subspaces": inner}


def _box(feature: Feature) -> dict[str, Any]:
    """A Box as wide as the type; flags are a Box of 0 and 1."""
    if feature.dtype == "bool":
        low, high, dtype = 0, 1, "uint8"
    elif feature.dtype.startswith("float"):
        low, high, dtype = -np.inf, np.inf, feature.dtype
    else:
        limits = np.iinfo(feature.dtype)
        low, high, dtype = int(limits.min), int(limits.max), feature.dtype
    return {
        "type": "Box",
        "dtype": dtype,
        "shape": list(feature.shape),
        "low": np.full(feature.shape, low, object).tolist(),
        "high": np.full(feature.shape, high, object).tolist(),
    }

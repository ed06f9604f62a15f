"""How episodes lie in an HDF5 file: what the layouts (robomimic, LIBERO, Minari) have in common.

An episode is one group of the file. A `Column` says where in that group a column lies. Each
array written here carries its own SHA-256 as an attribute, which other readers do not notice.
"""

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from embodied.data.io import sha256_bytes
from embodied.data.layout import DTYPES, Feature, IncompatibleDataset, Settings

MARK = "embodied"  # attribute: the settings, or what of an episode's meta other attributes cannot
CHECKSUM = "sha256"  # attribute of each array
TASK = "task"  # attribute of each episode
H5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)
"""What h5py raises on a damaged file, depending on where the damage is."""


def h5py():
    """The h5py package, imported on first use.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            'HDF5 datasets need h5py, which is missing: pip install "embodied[hdf5]"', name="h5py"
        ) from error
    return h5py


@dataclass(frozen=True)
class Column:
    """Where a column lies in an episode's group.

    Attributes:
        feature: dtype and shape of a row, as readers get it.
        path: the array in the episode's group.
        convert: makes the column from what is stored, where that is not it.
    """

    feature: Feature
    path: str
    convert: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True)
class Contents:
    """What a file says about itself.

    Attributes:
        settings: what the episodes have in common; rebuilt as far as possible if another tool
            wrote the file.
        columns: where each feature lies.
        groups: the names of the episodes' groups, in order.
    """

    settings: Settings
    columns: dict[str, Column]
    groups: tuple[str, ...]


class Layout(Protocol):
    """One way to lay out episodes in an HDF5 file."""

    name: str

    def group(self, index: int) -> str:
        """The group of an episode, for files written here."""

    def arrays(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Path in the episode's group -> what is stored there."""

    def attributes(self, index: int, length: int) -> dict[str, Any]:
        """Attributes of an episode's group, beside its task and meta."""

    def check(self, settings: Settings, tasks: Sequence[str]) -> None:
        """Raise IncompatibleDataset if episodes like these do not fit the layout."""

    def finish(
        self, file: Any, settings: Settings, lengths: Sequence[int], tasks: Sequence[str]
    ) -> None:
        """Write the attributes of the whole file, its episodes being there."""

    def is_own(self, file: Any) -> bool:
        """Whether this package wrote an open file."""

    def contents(self, file: Any, path: Path) -> Contents:
        """Describe an open file, this package's or another tool's."""

    def length(self, group: Any) -> int:
        """Rows of an episode."""

    def task(self, file: Any, group: Any, path: Path) -> str:
        """What an episode was meant to do, in words."""

    def companions(
        self, path: Path, settings: Settings, lengths: Sequence[int]
    ) -> dict[str, bytes]:
        """Name -> bytes of the files that belong beside the HDF5 file."""


def feature_of(dataset: Any, path: str) -> Feature | None:
    """The feature of an array [rows, *shape], or None if it holds no numbers."""
    name = dataset.dtype.name
    if name not in DTYPES or dataset.ndim == 0:
        return None
    if 0 in dataset.shape[1:] or dataset.ndim > 5:
        raise IncompatibleDataset(
            f"array {path!r} has shape {dataset.shape}, which is not supported"
        )
    return Feature(name, dataset.shape[1:])


def arrays_of(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The arrays of a group and its groups: (path in the group, dataset)."""
    for name, item in group.items():
        if hasattr(item, "shape"):
            yield prefix + name, item
        else:
            yield from arrays_of(item, f"{prefix}{name}/")


def write_group(
    group: Any, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]
) -> dict[str, str]:
    """Fill an episode's group; returns path -> checksum."""
    checksums = {}
    for path, values in arrays.items():
        values = np.ascontiguousarray(values)
        checksums[path] = checksum(values)
        group.create_dataset(path, data=values).attrs[CHECKSUM] = checksums[path]
    for name, value in attributes.items():
        group.attrs[name] = value
    return checksums


def checksum(values: np.ndarray) -> str:
    """SHA-256 of an array's dtype, shape and bytes."""
    header = f"{values.dtype.str} {values.shape} ".encode()
    return sha256_bytes(header + values.tobytes())


def read_array(group: Any, path: str) -> np.ndarray:
    """A stored array, its own checksum verified if it has one.

    Raises:
        ValueError: the checksum differs.
    """
    dataset = group[path]
    values = dataset[()]
    wanted = dataset.attrs.get(CHECKSUM)
    if wanted is not None and checksum(np.asarray(values)) != wanted:
        raise ValueError(f"the checksum of {path!r} differs from the one stored with it")
    return values


def read_columns(group: Any, columns: Mapping[str, Column], length: int) -> dict[str, np.ndarray]:
    """Columns of an episode, each [length, *shape] of its feature's dtype.

    Raises:
        ValueError: an array is damaged or has another shape.
    """
    stored, out = {}, {}
    for name, column in columns.items():
        if column.path not in stored:
            stored[column.path] = read_array(group, column.path)
        values = stored[column.path]
        values = column.convert(values) if column.convert else values
        if values.shape != (length, *column.feature.shape):
            expected = (length, *column.feature.shape)
            raise ValueError(f"{column.path!r} has shape {values.shape}, expected {expected}")
        out[name] = np.array(values, column.feature.dtype, order="C")
    return out


def meta_attributes(meta: Mapping[str, Any]) -> dict[str, Any]:
    """An episode's JSON object as HDF5 attributes that other tools can read.

    Strings, numbers and flat lists of floats get an attribute each (`model_file`, `init_state`);
    the rest goes as JSON into one.
    """
    plain, rest = {}, {}
    for name, value in meta.items():
        floats = isinstance(value, list) and value and all(type(v) is float for v in value)
        taken = name in (MARK, TASK, "num_samples", "total_steps", "id")
        if not taken and (floats or isinstance(value, str | bool | int | float)):
            plain[name] = np.array(value) if floats else value
        else:
            rest[name] = value
    return plain | ({MARK: json.dumps(rest)} if rest else {})


def attributes_meta(attributes: Mapping[str, Any], leave: Sequence[str] = ()) -> dict[str, Any]:
    """Inverse of `meta_attributes`; other tools' attributes become what JSON can hold."""
    meta = {}
    for name, value in attributes.items():
        if name == MARK:
            meta |= json.loads(value)
        elif name not in leave:
            meta[name] = json_value(value)
    return meta


def json_value(value: Any) -> Any:
    """An HDF5 attribute as a JSON value."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return [json_value(v) for v in value.tolist()]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value if isinstance(value, str | bool | int | float) or value is None else str(value)


def settings_text(settings: Settings) -> str:
    """The settings as the attribute `MARK` of a file holds them."""
    return json.dumps(settings.to_json())


def new_file_bytes(layout: Layout, settings: Settings, index: int, arrays, attributes, task: str):
    """A complete file with a single episode: its bytes and the checksums of its arrays."""
    buffer = io.BytesIO()
    with h5py().File(buffer, "w") as file:
        group = file.create_group(layout.group(index))
        checksums = write_group(group, arrays, attributes)
        length = layout.length(group)
        layout.finish(file, settings, [length], [task])
    return buffer.getvalue(), checksums

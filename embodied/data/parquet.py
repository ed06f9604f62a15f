"""Arrays to Parquet bytes and back, in the column types that LeRobot's loader expects."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embodied.data.layout import Feature, Settings

HEADER = b"embodied"


def pyarrow():
    """`(pyarrow, pyarrow.parquet)`, imported on first use.

    Raises:
        ImportError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            'datasets on disk need pyarrow, which is missing: pip install "embodied[train]"'
        ) from error
    return pyarrow, pyarrow.parquet


def table_bytes(table: Any) -> bytes:
    """A complete Parquet file, with a checksum per page."""
    pa, pq = pyarrow()
    sink = pa.BufferOutputStream()
    # Floating-point columns gain nothing from a dictionary; it only costs time.
    pq.write_table(table, sink, use_dictionary=False, write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def read_table(raw: bytes, columns: Sequence[str] | None = None) -> Any:
    """The table in the bytes of a Parquet file.

    Raises:
        ValueError: the bytes are not a readable Parquet file.
    """
    pa, pq = pyarrow()
    try:
        # The bytes are in memory and an episode is small: threads and pre-fetching only cost.
        file = pq.ParquetFile(
            pa.BufferReader(raw), pre_buffer=False, page_checksum_verification=True
        )
        return file.read(columns=None if columns is None else list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not a readable Parquet file: {error}") from error


def _column(values: np.ndarray, feature: Feature) -> Any:
    """An Arrow array of shape [rows, *feature.shape]: a list per axis beyond the first."""
    pa, _ = pyarrow()
    array = pa.array(values.reshape(-1), type=_arrow_type(feature))
    shape = feature.lerobot_shape
    if shape == (1,):
        return array
    if len(shape) == 1:
        return pa.FixedSizeListArray.from_arrays(array, shape[0])
    for size in reversed(shape):
        offsets = np.arange(0, len(array) + 1, size, dtype=np.int32)
        array = pa.ListArray.from_arrays(offsets, array)
    return array


def _arrow_type(feature: Feature) -> Any:
    pa, _ = pyarrow()
    return pa.bool_() if feature.dtype == "bool" else getattr(pa, feature.dtype)()


def column_values(column: Any, name: str, feature: Feature) -> np.ndarray:
    """Inverse of `_column`: a writable, contiguous array of shape [rows, *feature.shape]."""
    pa, _ = pyarrow()
    rows, array = len(column), column.combine_chunks()
    while pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    if array.type != _arrow_type(feature) or array.null_count:
        raise ValueError(f"column {name!r} is {array.type}, expected {feature.dtype} and no nulls")
    if len(array) != rows * int(np.prod(feature.shape)):
        raise ValueError(f"column {name!r} does not have shape {feature.shape} in every row")
    values = array.to_numpy(zero_copy_only=False)
    return np.array(values, dtype=feature.dtype).reshape(rows, *feature.shape)


@dataclass(frozen=True)
class Header:
    """What a data file says of its episode beside the rows.

    Attributes:
        settings: those of the dataset.
        task: what the episode was meant to do.
        meta: the JSON object saved with it.
        videos: name -> {"sha256", "stats"} of its video files.
    """

    settings: Settings
    task: str
    meta: dict[str, Any]
    videos: dict[str, dict[str, Any]]


def encode_episode(header: Header, columns: Mapping[str, np.ndarray]) -> bytes:
    """The data file of one episode."""
    pa, _ = pyarrow()
    table = pa.table({name: _column(columns[name], f) for name, f in header.settings.table.items()})
    text = json.dumps({**vars(header), "settings": header.settings.to_json()})
    return table_bytes(table.replace_schema_metadata({HEADER: text.encode()}))


def decode_header(raw: bytes) -> Header:
    """The header of a data file.

    Raises:
        ValueError: the file is unreadable or was not written by `encode_episode`.
    """
    metadata = read_table(raw, columns=["index"]).schema.metadata or {}
    if HEADER not in metadata:
        raise ValueError("the file has no embodied header")
    try:
        header = json.loads(metadata[HEADER])
        settings = Settings.from_json(header["settings"])
        meta, videos = dict(header.get("meta", {})), dict(header.get("videos", {}))
        return Header(settings, str(header["task"]), meta, videos)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the file's embodied header is damaged: {error!r}") from error


def decode_episode(
    settings: Settings, raw: bytes, names: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """The columns of a data file, each [rows, *shape]; `names` picks some of them.

    Raises:
        ValueError: unreadable, or its columns are not those of `settings`.
    """
    table = read_table(raw, names)
    expected = list(settings.table) if names is None else list(names)
    if sorted(table.column_names) != sorted(expected):
        raise ValueError(f"columns are {table.column_names}, expected {expected}")
    return {name: column_values(table[name], name, settings.table[name]) for name in expected}


def encode_tasks(tasks: Sequence[str]) -> bytes:
    """LeRobot's `tasks.parquet`: a pandas frame with the task text as its index."""
    pa, _ = pyarrow()
    columns = [("task_index", "int64", "int64"), ("__index_level_0__", "unicode", "object")]
    pandas = {
        "index_columns": ["__index_level_0__"],
        "column_indexes": [],
        "columns": [
            {
                "name": None if name.startswith("__") else name,
                "field_name": name,
                "pandas_type": pandas_type,
                "numpy_type": numpy_type,
                "metadata": None,
            }
            for name, pandas_type, numpy_type in columns
        ],
        "pandas_version": "2.0.0",
    }
    table = pa.table(
        {
            "task_index": pa.array(range(len(tasks)), pa.int64()),
            "__index_level_0__": pa.array(tasks, pa.string()),
        }
    )
    return table_bytes(table.replace_schema_metadata({b"pandas": json.dumps(pandas).encode()}))


def encode_rows(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A Parquet file of plain Python rows that all have the keys of the first."""
    pa, _ = pyarrow()
    return table_bytes(pa.table({key: pa.array([row[key] for row in rows]) for key in rows[0]}))

"""From one format to another, and windows of any of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from embodied.data.formats import Reader, create, detect, named, open_dataset
from embodied.data.layout import DatasetError, Feature, IncompatibleDataset


def convert(
    source: str | Path,
    target: str | Path,
    format: str,
    on_episode: Callable[[int, int], None] = lambda done, total: None,
    *,
    video: bool = False,
) -> Reader:
    """Copy a dataset into another format, one durable episode at a time.

    Values, dtypes and shapes stay as they are, but for videos, which a codec changes. Called
    again after an interruption it goes on behind the last episode that arrived.

    Args:
        source: a dataset of any format.
        target: where to write.
        format: the target's format, a name of `FORMATS`.
        on_episode: told how many episodes have arrived, and of how many.
        video: store pictures [H, W, 3] uint8 as mp4, which only LeRobot's format can.

    Returns:
        The new dataset.

    Raises:
        DatasetError: the target exists and is no unfinished copy of the source.
        IncompatibleDataset: the format cannot hold these columns.
        CorruptDataset: an episode of the source is damaged; those before it have arrived.
    """
    source, target = Path(source), Path(target)
    reader = open_dataset(source, verify=False)
    features = {name: _feature(feature, video) for name, feature in reader.features.items()}
    if video and format != "lerobot":
        raise DatasetError(f"only the lerobot format stores video, not {format}")
    settings = {"env_id": reader.env_id, "fps": reader.fps, "features": features}
    origin = {"format": detect(source).name, "fingerprint": reader.fingerprint}
    meta = {**reader.meta, "converted": origin}
    try:
        writer = create(target, format, meta=meta, **settings)
    except DatasetError as error:
        if isinstance(error, IncompatibleDataset) or detect(target).name != format:
            raise
        writer = named(format).resume(target)
        if writer.settings.meta != meta or writer.settings.features != features:
            writer.close()
            raise DatasetError(
                f"{target} exists and is no unfinished copy of {source}; choose another path"
            ) from error
    with writer:
        for index in range(writer.num_episodes, reader.num_episodes):
            columns = reader.episode(index, list(features))
            writer.add_episode(columns, reader.task(index), reader.episode_meta(index))
            on_episode(index + 1, reader.num_episodes)
    return named(format).open(target, verify=False)


def _feature(feature: Feature, video: bool) -> Feature:
    picture = feature.dtype == "uint8" and len(feature.shape) == 3 and feature.shape[2] == 3
    return replace(feature, video=video and picture)


def windows(
    dataset: Reader,
    length: int,
    *,
    names: Sequence[str] | None = None,
    stride: int = 1,
    episodes: Iterable[int] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Stretches of consecutive rows of an episode, one episode in memory at a time.

    Args:
        dataset: a dataset of any format.
        length: rows of a window; an episode that is shorter has none.
        names: which columns; all of them by default.
        stride: rows from the start of one window to that of the next.
        episodes: which episodes, in which order; all of them by default.

    Yields:
        The columns of a window, each [length, *shape]. They share memory with other windows.
    """
    if length < 1 or stride < 1:
        raise ValueError(f"length and stride must be positive, got {length} and {stride}")
    for index in range(dataset.num_episodes) if episodes is None else episodes:
        columns = dataset.episode(index, names)
        rows = len(next(iter(columns.values())))
        for start in range(0, rows - length + 1, stride):
            yield {name: values[start : start + length] for name, values in columns.items()}

"""Datasets on disk: durable recording, verified reading, repair, conversion; see `formats`."""

from embodied.data.convert import convert, windows
from embodied.data.formats import (
    FORMATS,
    Format,
    Reader,
    create,
    detect,
    open_dataset,
    resume,
    verify,
)
from embodied.data.formats import mend as repair
from embodied.data.layout import (
    CorruptDataset,
    DatasetError,
    DatasetNotFound,
    EmptyDataset,
    Feature,
    IncompatibleDataset,
    transition_features,
)
from embodied.data.lerobot import Dataset, DatasetWriter
from embodied.data.packed import Packed, pack
from embodied.data.problems import Problem, RepairReport
from embodied.data.recording import EpisodeWriter

__all__ = [
    "FORMATS",
    "CorruptDataset",
    "Dataset",
    "DatasetError",
    "DatasetNotFound",
    "DatasetWriter",
    "EmptyDataset",
    "EpisodeWriter",
    "Feature",
    "Format",
    "IncompatibleDataset",
    "Packed",
    "Problem",
    "Reader",
    "RepairReport",
    "convert",
    "create",
    "detect",
    "open_dataset",
    "pack",
    "repair",
    "resume",
    "transition_features",
    "verify",
    "windows",
]

"""Datasets on disk: durable recording, verified reading, repair."""

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
from embodied.data.repair import Problem, RepairReport, repair, verify

__all__ = [
    "CorruptDataset",
    "Dataset",
    "DatasetError",
    "DatasetNotFound",
    "DatasetWriter",
    "EmptyDataset",
    "Feature",
    "IncompatibleDataset",
    "Problem",
    "RepairReport",
    "repair",
    "transition_features",
    "verify",
]

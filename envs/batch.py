"""Observations of several environments in one piece of memory, single arrays and dicts alike."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Dict, Space

ALIGNED = 64  # each part of a dict begins at a multiple of this many bytes


class Parts:
    """A dict of arrays that is indexed, assigned to and copied like one array."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays

    def __getitem__(self, index: Any) -> dict[str, np.ndarray]:
        return {name: array[index] for name, array in self.arrays.items()}

    def __setitem__(self, index: Any, values: dict[str, np.ndarray]) -> None:
        for name, array in self.arrays.items():
            array[index] = values[name]

    def copy(self) -> dict[str, np.ndarray]:
        """A dict with a fresh copy of each array."""
        return {name: array.copy() for name, array in self.arrays.items()}


def observations(space: Space, memory: Any = None, row: int | None = None) -> np.ndarray | Parts:
    """Returns room for batched observations.

    Args:
        space: batched, a Box of [N, ...] or a Dict of such.
        memory: a buffer of `nbytes(space)` that others share; by default new memory, zeroed.
        row: only this environment's part, as a view.
    """
    if memory is None:
        memory = bytearray(nbytes(space))
    arrays = {}
    for name, (begin, box) in _layout(space).items():
        flat = np.frombuffer(memory, box.dtype, int(np.prod(box.shape)), begin)
        array = flat.reshape(box.shape)
        arrays[name] = array if row is None else array[row]
    return Parts(arrays) if isinstance(space, Dict) else arrays[""]


def stack(each: Sequence[Any]) -> np.ndarray | dict[str, np.ndarray]:
    """Returns the observations of all environments in fresh memory."""
    if isinstance(each[0], dict):
        return {name: np.array([one[name] for one in each]) for name in each[0]}
    return np.array(each)


def count(space: Space) -> int:
    """Returns N."""
    return next(iter(_layout(space).values()))[1].shape[0]


def nbytes(space: Space) -> int:
    """Returns the size of the memory that batched observations need."""
    begin, box = list(_layout(space).values())[-1]
    return begin + int(np.prod(box.shape)) * box.dtype.itemsize


def _layout(space: Space) -> dict[str, tuple[int, Space]]:
    """Where each part begins; an array is the one part named ""."""
    found, begin = {}, 0
    for name, box in space.items() if isinstance(space, Dict) else [("", space)]:
        found[name] = (begin, box)
        size = int(np.prod(box.shape)) * box.dtype.itemsize
        begin += -(-size // ALIGNED) * ALIGNED
    return found

"""Numbers that one process writes and another reads, without locks."""

import ctypes
import multiprocessing
from collections.abc import Mapping
from typing import Any

import numpy as np

Fields = Mapping[str, tuple[str, tuple[int, ...]]]  # dtype and shape by name
_TRIES = 10_000


class Block:
    """Named arrays in shared memory, replaced together.

    One process writes. A counter is odd while it does; a reader that sees it change reads again.
    Hand `fields` and `memory` to another process and make the block there from the same two.

    Attributes:
        memory: what is shared.
    """

    def __init__(self, fields: Fields, memory: Any = None) -> None:
        """Makes a block, or opens one.

        Args:
            fields: dtype and shape of each array; the same on both sides.
            memory: of an existing block.
        """
        layout, end = {}, 64
        for key, (dtype, shape) in fields.items():
            layout[key] = (dtype, shape, end)
            end += -(-int(np.prod(shape)) * np.dtype(dtype).itemsize // 64) * 64
        if memory is None:
            memory = multiprocessing.get_context("spawn").RawArray(ctypes.c_uint8, end)
        self.memory = memory
        view = memoryview(memory).cast("B")
        self._count = np.ndarray((), np.int64, view)
        self._arrays = {
            key: np.ndarray(shape, dtype, view, start)
            for key, (dtype, shape, start) in layout.items()
        }

    def write(self, **values: Any) -> None:
        """Replaces some or all arrays; readers see either all of it or nothing."""
        self._count += 1
        for key, value in values.items():
            self._arrays[key][...] = value
        self._count += 1

    @property
    def version(self) -> int:
        """How often it has been written."""
        return int(self._count) // 2

    def read(self) -> dict[str, np.ndarray]:
        """Returns copies of all arrays, of one moment.

        Raises:
            RuntimeError: the writer died while writing.
        """
        for _ in range(_TRIES):
            before = int(self._count)
            if before % 2 == 0:
                found = {key: array.copy() for key, array in self._arrays.items()}
                if int(self._count) == before:
                    return found
        raise RuntimeError("the shared block is never whole; its writer seems to have died")

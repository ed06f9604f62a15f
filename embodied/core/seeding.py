"""One run seed, many named random streams; nothing else draws random numbers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


class Streams:
    """Independent generators by name.

    A stream depends on the run seed and its own name only, so adding a stream, or asking for them
    in another order, changes no other stream.
    """

    def __init__(self, seed: int) -> None:
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.seed = int(seed)

    def sequence(self, name: str) -> np.random.SeedSequence:
        """The seed sequence of a named stream."""
        digest = hashlib.sha256(name.encode()).digest()[:16]
        return np.random.SeedSequence([self.seed, *np.frombuffer(digest, np.uint32).tolist()])

    def numpy(self, name: str) -> np.random.Generator:
        """A numpy generator for a named stream."""
        return np.random.Generator(np.random.PCG64(self.sequence(name)))

    def torch(self, name: str, device: str | torch.device = "cpu") -> torch.Generator:
        """A torch generator on `device` for a named stream."""
        import torch

        generator = torch.Generator(device=device)
        generator.manual_seed(int(self.sequence(name).generate_state(1, np.uint64)[0] >> 1))
        return generator

    def integers(self, name: str, n: int) -> list[int]:
        """n reproducible seeds below 2**31 from a named stream."""
        return [int(s) for s in self.sequence(name).generate_state(n, np.uint32) >> 1]

"""The plain ways of serving batches: five numpy arrays, and a torch Dataset with a DataLoader."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.serve import serve

OBS, ACT, BATCH, EPISODES, LENGTH, WINDOW = 39, 4, 256, 500, 200, 64
ROWS = EPISODES * LENGTH


def batch():
    rng = np.random.default_rng(0)
    arrays = (
        rng.standard_normal((ROWS, OBS), np.float32),
        rng.standard_normal((ROWS, OBS), np.float32),
        rng.uniform(-0.9, 0.9, (ROWS, ACT)).astype(np.float32),
        rng.random(ROWS, np.float32),
        np.ones(ROWS, np.float32),
    )

    def step() -> list[torch.Tensor]:
        index = rng.integers(0, ROWS, BATCH)
        return [torch.from_numpy(array[index]) for array in arrays]

    return step, 1


class Windows(Dataset):
    """Windows of transitions within episodes."""

    def __init__(self, *only: str) -> None:
        columns = {
            "observation": torch.randn(ROWS, OBS),
            "next_observation": torch.randn(ROWS, OBS),
            "action": torch.randn(ROWS, ACT),
            "reward": torch.randn(ROWS),
            "mask": torch.ones(ROWS),
        }
        self.columns = {k: v for k, v in columns.items() if not only or k in only}
        last = LENGTH - WINDOW + 1
        self.starts = [e * LENGTH + t for e in range(EPISODES) for t in range(last)]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rows = slice(self.starts[index], self.starts[index] + WINDOW)
        return {name: column[rows] for name, column in self.columns.items()}


def windows(*only: str):
    torch.set_num_threads(1)
    loader = DataLoader(Windows(*only), batch_size=BATCH, shuffle=True, drop_last=True)

    def forever():
        while True:
            yield from loader

    stream = forever()
    return lambda: next(stream), 1


if __name__ == "__main__":
    serve(
        {
            "batch": batch,
            "windows-two": lambda: windows("observation", "action"),
            "windows-all": windows,
        },
        ["torch", "numpy"],
    )

"""Windows of this project's packed rows, read from a file."""

from __future__ import annotations

import tempfile

import numpy as np

from benchmarks.serve import serve
from benchmarks.workers.disk_data import BATCH, WINDOW, episodes
from embodied import data

FOLDER = tempfile.TemporaryDirectory(prefix="packed-")


def windows():
    columns = next(episodes())
    features = {name: data.Feature(str(v.dtype), v.shape[1:]) for name, v in columns.items()}
    path = f"{FOLDER.name}/dataset"
    settings = {"env_id": "benchmark", "fps": 20, "features": features}
    with data.create(path, "lerobot", **settings) as writer:
        for columns in episodes():
            writer.add_episode(columns, task="none")
    packed = data.pack(data.open_dataset(path), f"{FOLDER.name}/packed", names=list(features))
    rng = np.random.default_rng(0)
    return lambda: packed.windows(BATCH, WINDOW, rng), 1


if __name__ == "__main__":
    serve({"windows": windows}, ["numpy"])

"""Run by the interpreter that has lerobot: record a dataset with it, as others do.

usage: python lerobot_writer.py ROOT OUT.npz
"""

import sys

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (3,), "names": None},
    "observation.grid": {"dtype": "float32", "shape": (2, 2), "names": None},
    "action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
    "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    "observation.images.video": {
        "dtype": "video",
        "shape": (32, 48, 3),
        "names": ["height", "width", "channels"],
    },
    "observation.images.still": {
        "dtype": "image",
        "shape": (16, 24, 3),
        "names": ["height", "width", "channels"],
    },
}


def main(root: str, out: str) -> None:
    dataset = LeRobotDataset.create("local/theirs", 10, FEATURES, root=root, use_videos=True)
    rng, saved = np.random.default_rng(0), {}
    y, x = np.mgrid[:32, :48]
    for episode, length in enumerate((4, 3)):
        columns = {
            "observation.state": rng.normal(size=(length, 3)).astype(np.float32),
            "observation.grid": rng.normal(size=(length, 2, 2)).astype(np.float32),
            "action": rng.normal(size=(length, 2)).astype(np.float32),
            "next.reward": rng.normal(size=(length, 1)).astype(np.float32),
            "observation.images.video": np.stack(
                [np.stack([2 * x, 3 * y, 0 * x + 60 * episode + 9 * t], -1) for t in range(length)]
            ).astype(np.uint8),
            "observation.images.still": rng.integers(0, 256, (length, 16, 24, 3)).astype(np.uint8),
        }
        for row in range(length):
            frame = {name: values[row] for name, values in columns.items()}
            dataset.add_frame({**frame, "task": f"task {episode}"})
        dataset.save_episode()
        saved |= {f"{episode}/{name}": values for name, values in columns.items()}
    dataset.finalize()
    np.savez(out, **saved)


if __name__ == "__main__":
    main(*sys.argv[1:])

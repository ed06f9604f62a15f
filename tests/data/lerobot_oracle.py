"""Run by the interpreter that has lerobot: open ROOT with the real loader, save what it serves.

usage: python lerobot_oracle.py ROOT OUT.npz
"""

import sys

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def main(root: str, out: str) -> None:
    dataset = LeRobotDataset("local/oracle", root=root, video_backend="pyav")
    items = [dataset[index] for index in range(len(dataset))]
    arrays = {name: np.stack([i[name].numpy() for i in items]) for name in dataset.features}
    arrays["task"] = np.array([item["task"] for item in items])
    arrays["lengths"] = np.array(dataset.meta.episodes["length"])
    arrays["stats.action.mean"] = dataset.meta.stats["action"]["mean"]
    arrays["counts"] = np.array([dataset.num_episodes, dataset.num_frames, dataset.fps])
    window = LeRobotDataset(
        "local/oracle",
        root=root,
        delta_timestamps={"action": [0.0, 1 / dataset.fps]},
        video_backend="pyav",
    )
    arrays["windows"] = np.stack([window[i]["action"].numpy() for i in range(len(window))])
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Windows as robomimic reads them from its HDF5 files."""

from __future__ import annotations

import json
import tempfile

import h5py
import torch
from torch.utils.data import DataLoader

from benchmarks.serve import serve
from benchmarks.workers.disk_data import BATCH, LENGTH, WINDOW, episodes

FOLDER = tempfile.TemporaryDirectory(prefix="robomimic-")


def windows():
    import robomimic.utils.obs_utils as obs_utils
    from robomimic.utils.dataset import SequenceDataset

    torch.set_num_threads(1)
    path = f"{FOLDER.name}/demos.hdf5"
    with h5py.File(path, "w") as file:
        group = file.create_group("data")
        group.attrs["env_args"] = json.dumps({"env_name": "benchmark", "type": 1, "env_kwargs": {}})
        for number, columns in enumerate(episodes()):
            demo = group.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = LENGTH
            demo["obs/state"] = columns["observation.state"]
            demo["actions"] = columns["action"]
            demo["rewards"] = columns["next.reward"]
            demo["dones"] = columns["next.done"]
    obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["state"]}})
    dataset = SequenceDataset(
        hdf5_path=path,
        obs_keys=("state",),
        dataset_keys=("actions", "rewards", "dones"),
        frame_stack=1,
        seq_length=WINDOW,
        pad_frame_stack=False,
        pad_seq_length=False,
        get_pad_mask=False,
        goal_mode=None,
        hdf5_cache_mode=None,
        hdf5_use_swmr=True,
        load_next_obs=False,
    )
    loader = DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True)

    def forever():
        while True:
            yield from loader

    stream = forever()
    return lambda: next(stream), 1


if __name__ == "__main__":
    serve({"windows": windows}, ["robomimic", "h5py", "torch", "numpy"])

"""d3rlpy's CalQL.update on batches drawn beforehand, with CORL's sizes and a fixed weight."""

from __future__ import annotations

import itertools
import logging

import d3rlpy
import numpy as np
import torch

from benchmarks.serve import serve

OBS, ACT, BATCH, EPISODES, LENGTH = 39, 4, 256, 50, 200


def calql():
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    rng = np.random.default_rng(0)
    rows = EPISODES * LENGTH
    timeouts = np.zeros(rows, np.float32)
    timeouts[LENGTH - 1 :: LENGTH] = 1
    dataset = d3rlpy.dataset.MDPDataset(
        rng.standard_normal((rows, OBS), np.float32),
        rng.uniform(-0.9, 0.9, (rows, ACT)).astype(np.float32),
        rng.random(rows, np.float32),
        np.zeros(rows, np.float32),
        timeouts,
    )
    algorithm = d3rlpy.algos.CalQLConfig(
        batch_size=BATCH,
        actor_encoder_factory=d3rlpy.models.VectorEncoderFactory(hidden_units=[256, 256, 256]),
        critic_encoder_factory=d3rlpy.models.VectorEncoderFactory(hidden_units=[256, 256]),
        n_action_samples=10,
        alpha_learning_rate=0.0,
        initial_alpha=5.0,
    ).create(device=False)
    algorithm.build_with_dataset(dataset)
    batches = itertools.cycle([dataset.sample_transition_batch(BATCH) for _ in range(4)])
    return lambda: algorithm.update(next(batches)), 1


if __name__ == "__main__":
    serve({"calql": calql}, ["d3rlpy", "torch", "numpy"])

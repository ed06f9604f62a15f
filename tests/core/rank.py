"""A process of test_ranks: trains the tiny model and says what came of it."""

import json
import sys

import numpy as np
import torch

from embodied.core import ranks
from embodied.core.phase import Phase, Recipe, Until
from embodied.core.trainer import Trainer, TrainerOptions
from embodied.llm import grpo, sft
from embodied.llm.collector import LatestRollout
from tests import tiny_language


def rollout(rows):
    """Answers with fixed tokens, lengths, rewards and old likelihoods; a rank takes its share."""
    rng = np.random.default_rng(3)
    mask = np.arange(6) < rng.integers(2, 7, rows)[:, None]
    columns = {
        "prompt": torch.tensor(rng.integers(3, 20, (rows, 4))),
        "prompt_mask": torch.ones(rows, 4, dtype=torch.bool),
        "completion": torch.tensor(rng.integers(3, 20, (rows, 6))),
        "mask": torch.tensor(mask),
        "old_log_prob": torch.tensor(rng.normal(-2.0, 0.3, (rows, 6)), dtype=torch.float32),
        "reward": torch.tensor(rng.normal(size=(rows, 6)) * mask, dtype=torch.float32),
    }
    share = rows // ranks.count
    return {k: v[ranks.index * share :][:share] for k, v in columns.items()}


def main(what, folder, batch, steps):
    ranks.join("cpu")
    task = tiny_language.task()
    if what == "sft":
        config = sft.SFTConfig(updates=steps, batch_size=batch, lr=1e-3)
        recipe = sft.recipe(config, task)
    else:
        config = grpo.GRPOConfig(prompts=batch // 4, group=4, lr=1e-3, epochs=2)
        source = LatestRollout()
        source.load_state_dict(rollout(batch * ranks.count))
        learner = grpo.GRPO(config, task)
        recipe = Recipe([Phase("fit", learner, source, Until("updates", steps))])
    options = TrainerOptions(tensorboard=False, checkpoint_every=2, log_every=1)
    trainer = Trainer(recipe, f"{folder}/{ranks.count}-{ranks.index}", options=options)
    learner, losses = recipe.phases[0].learner, []
    take = learner.update

    def update(source):
        found = take(source)
        losses.append(float(ranks.mean(found["loss"])))
        print(json.dumps({"step": len(losses)}), flush=True)
        return found

    learner.update = update
    trainer.run()
    weights = torch.cat([p.detach().reshape(-1) for p in task.model.network.parameters()])
    print(json.dumps({"losses": losses, "weights": weights.tolist()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

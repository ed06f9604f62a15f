"""A language model of a thousand weights and a task for it."""

import numpy as np
import torch

from embodied.core.seeding import Streams
from embodied.data import tiny
from embodied.llm.task import Example, TextTask
from policies import lm

CHAIN = tiny.Chain(longest=4)


def tokenizer():
    return lm.symbol_tokenizer(list(tiny.SYMBOLS), tiny.PAD, tiny.BEGIN, tiny.END)


def model(seed=0, std=0.3):
    generator = torch.Generator().manual_seed(seed)
    return lm.small(tokenizer(), generator, layers=2, width=8, heads=2, std=std)


def task(seed=0, length=None):
    rng = np.random.default_rng(1)
    prompts = CHAIN.problems(20, rng, length)
    return TextTask(
        model(seed),
        Streams(seed),
        prompts=prompts,
        score=lambda prompt, text: float(len(text) % 2),
        longest=CHAIN.response_length,
        examples=[Example(prompt, CHAIN.attempt(prompt, rng)) for prompt in prompts],
    )


class Batches:
    """The same answers again for every learner: 4 symbols each, the second half padded."""

    def __init__(self, seed=0):
        self.generator = torch.Generator().manual_seed(seed)

    def next(self, n):
        def ids(width):
            return torch.randint(3, 60, (n, width), generator=self.generator)

        mask = torch.arange(4) < torch.tensor([4, 2]).repeat(n)[:n, None]
        reward = torch.rand(n, 1, generator=self.generator) * (torch.arange(4) == 1)
        return {
            "prompt": ids(3),
            "prompt_mask": torch.ones(n, 3, dtype=torch.bool),
            "completion": ids(4),
            "mask": mask,
            "weight": torch.rand(n, generator=self.generator),
            "old_log_prob": -torch.rand(n, 4, generator=self.generator) - 3.5,
            "reward": reward,
        }

"""A language model of a thousand weights and a task for it."""

import numpy as np
import torch

from embodied.core.seeding import Streams
from embodied.data import tiny
from embodied.data.revision import Revision
from embodied.data.text import Example, Pair
from embodied.llm.task import TextTask
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
    answers = [CHAIN.attempt(prompt, rng) for prompt in prompts]
    return TextTask(
        model(seed),
        Streams(seed),
        prompts=prompts,
        score=lambda prompt, text: float(len(text) % 2),
        longest=CHAIN.response_length,
        categories=[len(prompt.rstrip("_:")) - 2 for prompt in prompts],
        examples=[Example(p, answer) for p, answer in zip(prompts, answers, strict=True)],
        begin=lambda prompt: Revision(CHAIN, prompt),
        pairs=[Pair(p, a, CHAIN.mistake(p, rng)) for p, a in zip(prompts, answers, strict=True)],
    )


class Batches:
    """The same answers again for every learner: 4 symbols each, the second half padded.

    As turns, they are of dialogues of two players with one turn each.

    Args:
        seed: draws them.
        rows: per row asked for, 2 where a learner takes pairs.
    """

    def __init__(self, seed=0, rows=1):
        self.rows = rows
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self):
        return 8

    def next(self, n):
        n *= self.rows

        def ids(width):
            return torch.randint(3, 60, (n, width), generator=self.generator)

        mask = torch.arange(4) < torch.tensor([4, 2]).repeat(n)[:n, None]
        reward = 2 * torch.rand(n, 1, generator=self.generator) * (torch.arange(4) == 1)
        return {
            "prompt": ids(3),
            "prompt_mask": torch.ones(n, 3, dtype=torch.bool),
            "completion": ids(4),
            "mask": mask,
            "index": torch.arange(n) % 20,
            "weight": torch.rand(n, generator=self.generator),
            "old_log_prob": -torch.rand(n, 4, generator=self.generator) - 3.5,
            "reward": reward,
            "episode": torch.arange(n) // 2,
            "turn": torch.arange(n) % 2,
            "player": torch.arange(n) % 2,
        }

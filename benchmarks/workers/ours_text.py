"""This project's language learners: sampling, and steps of GRPO, DPO and SFT."""

from __future__ import annotations

import numpy as np
import torch
import transformers

from benchmarks.serve import serve
from benchmarks.workers import tiny_text as tiny
from embodied.core.seeding import Streams
from embodied.data.text import Example, Pair
from embodied.llm import dpo, grpo, sft
from embodied.llm.collector import LatestRollout, TextCollector
from embodied.llm.task import TextTask
from policies.lm import LanguageModel
from policies.sampling import Sampling, generate

ROWS = tiny.PROMPTS * tiny.GROUP
LOADED = (transformers.GPT2LMHeadModel, transformers.LlamaForCausalLM)  # as TRL's import does


def task(shape: str, end: bool = False) -> TextTask:
    rows = tiny.preferences()
    return TextTask(
        LanguageModel(tiny.model(shape, end).eval(), tiny.tokenizer()),
        Streams(0),
        prompts=[prompt for prompt, _ in tiny.questions()],
        score=lambda prompt, answer: tiny.score(answer),
        longest=tiny.LONGEST,
        examples=[Example(row["prompt"], row["chosen"] + "<eos>") for row in rows],
        pairs=[
            Pair(row["prompt"], row["chosen"] + "<eos>", row["rejected"] + "<eos>") for row in rows
        ],
    )


def sample(shape: str):
    model = task(shape).model
    rng = torch.Generator().manual_seed(0)
    prompt = torch.randint(4, tiny.VOCABULARY, (tiny.PROMPTS, tiny.PROMPT), generator=rng)
    real, how = torch.ones_like(prompt, dtype=torch.bool), Sampling(tiny.LONGEST)
    return lambda: generate(model, prompt, real, tiny.GROUP, how, rng), ROWS


def learner(shape: str):
    config = grpo.GRPOConfig(prompts=tiny.PROMPTS, group=tiny.GROUP, lr=1e-5)
    made = task(shape)
    collector = TextCollector(made.questions(), made.score, tiny.PROMPTS, tiny.GROUP)
    return grpo.GRPO(config, made), collector, LatestRollout()


def grpo_step(shape: str):
    trained, collector, source = learner(shape)
    policy = trained.policy()

    def step():
        source.add(collector.collect(policy))
        trained.update(source)

    return step, ROWS


def update(shape: str):
    trained, collector, source = learner(shape)
    rollout = collector.collect(trained.policy())
    rollout.reward[:] = np.random.default_rng(0).normal(size=rollout.reward.shape)
    source.add(rollout)
    return lambda: trained.update(source), ROWS


def dpo_step(shape: str):
    made = task(shape, end=True)
    trained = dpo.DPO(dpo.DPOConfig(batch_size=tiny.PAIRS, lr=1e-5), made)
    source = made.preferences()
    return lambda: trained.update(source), tiny.PAIRS


def sft_step(shape: str):
    made = task(shape, end=True)
    trained = sft.SFT(sft.SFTConfig(batch_size=tiny.PAIRS, lr=1e-5), made)
    source = made.demonstrations()
    return lambda: trained.update(source), tiny.PAIRS


KINDS = {
    "sample": sample,
    "grpo": grpo_step,
    "update": update,
    "dpo": dpo_step,
    "sft": sft_step,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(
        {
            f"{kind}-{shape}": lambda build=build, shape=shape: build(shape)
            for kind, build in KINDS.items()
            for shape in ("gpt2", "llama")
        },
        ["torch", "transformers"],
    )

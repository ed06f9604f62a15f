"""TRL's trainers, one optimizer step per call, and what transformers does alone."""

from __future__ import annotations

import copy
import os
import tempfile
import threading

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "WANDB_DISABLED": "true"}

import torch
import trl
from datasets import Dataset
from transformers import TrainerCallback

from benchmarks.serve import serve
from benchmarks.workers import tiny_text as tiny

ROWS = tiny.PROMPTS * tiny.GROUP


class Gate(TrainerCallback):
    """Lets `train`, in a thread of its own, do one step at a time."""

    def __init__(self) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)

    def on_step_begin(self, *_: object, **__: object) -> None:
        self._go.acquire()

    def on_step_end(self, *_: object, **__: object) -> None:
        self._done.release()

    def step(self) -> None:
        self._go.release()
        self._done.acquire()


def options(rows: int) -> dict:
    return {
        "output_dir": tempfile.mkdtemp(prefix="trl-"),
        "per_device_train_batch_size": rows,
        "use_cpu": True,
        "bf16": False,
        "max_steps": 10**6,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 10**6,
        "disable_tqdm": True,
        "learning_rate": 1e-5,
        "gradient_checkpointing": False,
    }


def gated(trainer: type, gate: Gate, **given: object):
    made = trainer(processing_class=tiny.tokenizer(), callbacks=[gate], **given)
    threading.Thread(target=made.train, daemon=True).start()
    return gate.step


def grpo(shape: str):
    rows = Dataset.from_list([{"prompt": prompt} for prompt, _ in tiny.questions()])
    args = trl.GRPOConfig(
        num_generations=tiny.GROUP,
        max_completion_length=tiny.LONGEST,
        temperature=1.0,
        **options(ROWS),
    )
    reward = lambda completions, **_: [tiny.score(text) for text in completions]  # noqa: E731
    step = gated(
        trl.GRPOTrainer,
        Gate(),
        model=tiny.model(shape),
        reward_funcs=reward,
        args=args,
        train_dataset=rows,
    )
    return step, ROWS


def dpo(shape: str):
    model = tiny.model(shape, end=True)
    step = gated(
        trl.DPOTrainer,
        Gate(),
        model=model,
        ref_model=copy.deepcopy(model),
        args=trl.DPOConfig(**options(tiny.PAIRS)),
        train_dataset=Dataset.from_list(tiny.preferences()),
    )
    return step, tiny.PAIRS


def sft(shape: str):
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in tiny.preferences()]
    step = gated(
        trl.SFTTrainer,
        Gate(),
        model=tiny.model(shape, end=True),
        args=trl.SFTConfig(packing=False, max_length=64, **options(tiny.PAIRS)),
        train_dataset=Dataset.from_list(rows),
    )
    return step, tiny.PAIRS


def generate(shape: str):
    """512 prompts, each once: what GRPOTrainer hands to `generate`."""
    model = tiny.model(shape).eval()
    prompt = torch.randint(4, tiny.VOCABULARY, (tiny.PROMPTS, tiny.PROMPT))
    prompt = prompt.repeat_interleave(tiny.GROUP, 0)

    @torch.no_grad()
    def step():
        model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=True,
            max_new_tokens=tiny.LONGEST,
            top_k=0,
            pad_token_id=0,
        )

    return step, ROWS


def update(shape: str):
    """The model's own forward with all logits, the loss written by hand, and AdamW."""
    model = tiny.model(shape)
    rows = torch.randint(4, tiny.VOCABULARY, (ROWS, tiny.PROMPT + tiny.LONGEST))
    answer, advantage = rows[:, tiny.PROMPT :], torch.randn(ROWS, 1)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)

    def step():
        logits = model(rows).logits[:, tiny.PROMPT - 1 : -1].float()
        log_prob = logits.log_softmax(-1).gather(-1, answer[..., None])[..., 0]
        loss = -(torch.exp(log_prob - log_prob.detach()) * advantage).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step, ROWS


KINDS = {"grpo": grpo, "dpo": dpo, "sft": sft, "generate": generate, "update": update}

if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(
        {
            f"{kind}-{shape}": lambda build=build, shape=shape: build(shape)
            for kind, build in KINDS.items()
            for shape in ("gpt2", "llama")
        },
        ["torch", "transformers", "trl"],
    )

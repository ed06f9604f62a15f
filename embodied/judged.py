"""Language runs on data of one's own, whose answers a reward of `rewards` judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from embodied.core.seeding import Streams
from embodied.core.types import UserError
from embodied.data.io import sha256_file
from embodied.data.text import Prompt, read
from embodied.llm.task import Score, TextTask
from embodied.settings import Settings
from embodied.text import TextEvaluator, fingerprint, load_engine, load_model, tiny_task
from policies.lm import LanguageModel
from policies.sampling import Sampling
from rewards import Reward

LONGEST = 256  # tokens of an answer, unless the settings say


def build(settings: Settings, device: str) -> tuple[TextTask, TextEvaluator, dict[str, Any]]:
    """Model, data and reward of a run, its evaluator, and what run.json says of them.

    Raises:
        UserError: there is no data, or a row lacks what the reward needs.
    """
    train, reward = settings.train, settings.train.reward
    name = type(reward).__name__.lower()
    if not train.data:
        raise UserError(f"reward={name} judges answers to prompts of yours; give data=rows.jsonl")
    model = load_model(train, tiny_task(train)[0], device)
    streams, longest = Streams(train.seed), train.longest or LONGEST
    texts = read(train.data, model.tokenizer, reward.check)
    if train.evaluation.data:
        questions = questions_in(train.evaluation.data, model, reward)
    else:
        questions = texts.prompts
    if not questions:
        raise UserError(
            f"{train.data} has no prompts to evaluate on; give some with evaluation.data=rows.jsonl"
        )
    order = Streams(train.evaluation.seed).numpy("questions").permutation(len(questions))
    asked = [questions[i] for i in order[: train.evaluation.episodes]]
    score = scored(reward, model)
    about = {
        "env": f"text/{name}",
        "env_args": {**asdict(reward), "longest": longest},
        "env_hash": fingerprint([name, asdict(reward), longest, list(asked)]),
        "model": train.model,
        "dataset": {"path": train.data, "fingerprint": sha256_file(train.data)[:16]},
        "observation_scaling": None,
    }
    task = TextTask(
        model,
        streams,
        prompts=texts.prompts or None,
        score=score,
        longest=longest,
        examples=texts.examples or None,
        pairs=texts.pairs or None,
        engine=load_engine(settings, model),
        about=about,
    )
    return task, TextEvaluator(asked, score, Sampling(longest), train.evaluation.seed), about


def questions_in(path: str | Path, model: LanguageModel, reward: Reward) -> Sequence[Prompt]:
    """The prompts of a file, each with what the reward needs.

    Raises:
        UserError: a row has no prompt, or lacks something; names file and line.
    """
    texts = read(path, model.tokenizer, reward.check)
    if not texts.prompts:
        raise UserError(f"{path} has no prompts: rows are prompt, or question, with {reward.FACTS}")
    return texts.prompts


def scored(reward: Reward, model: LanguageModel) -> Score:
    """A reward as methods call it: the facts come with the prompt, the end token is left out."""

    def score(prompt: str, response: str) -> float:
        facts = prompt.facts if isinstance(prompt, Prompt) else {}
        return reward(prompt, response.removesuffix(model.tokenizer.eos_token), facts)

    return score

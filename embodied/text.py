"""From settings to a language task: model, prompts and reward, and fixed questions to ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from embodied.bases import base_model, fingerprint
from embodied.core.evaluate import Evaluator
from embodied.core.registry import nearest
from embodied.core.seeding import Streams
from embodied.core.types import UserError
from embodied.data import tiny
from embodied.data.games import GAMES, Game
from embodied.data.io import sha256_file
from embodied.data.revision import Revision
from embodied.data.text import Example, Pair, Prompt, Texts, read
from embodied.llm.collector import LanguagePolicy
from embodied.llm.task import Score, TextTask
from embodied.questions import QuestionEvaluator, Reply
from embodied.revisions import RevisionEvaluator
from embodied.settings import RewardSettings, Settings, TrainSettings
from policies import lm
from policies.sampling import Engine, Sampling

TINY = "tiny"
CORRECTED = ("grpo", "ppo", "self_rewarding_ppo")  # methods that weight another engine's tokens
PROMPTS = 4096  # of a task that makes its own


class TextEvaluator(QuestionEvaluator):
    """Asks for one answer to each question, at the temperature the policy was trained at.

    Args:
        prompts: the questions.
        score: rewards an answer; 1 and above is a success.
        sampling: see `QuestionEvaluator`, as what follows.
        seed: the same.
    """

    def __init__(
        self, prompts: Sequence[str], score: Score, sampling: Sampling, seed: int = 0
    ) -> None:
        super().__init__(prompts, sampling, seed)
        self.score = score

    def ask(self, policy: LanguagePolicy, some: Sequence[int]) -> list[Reply]:
        """One answer to each."""
        asked = [self.prompts[i] for i in some]
        drawn, texts, _ = policy.answer(asked)
        replies = []
        for prompt, text, row, mask in zip(
            asked, texts, drawn.tokens.cpu(), drawn.mask.cpu(), strict=True
        ):
            tokens, reward = row[mask].numpy(), float(self.score(prompt, text))
            replies.append(Reply(reward, reward >= 1, tokens, len(tokens)))
        return replies


def build(settings: Settings, device: str) -> tuple[TextTask, Evaluator, dict[str, Any]]:
    """Model and task of a run, its evaluator, and what run.json says of them.

    Raises:
        UserError: there is no such task or model, or its options are wrong.
    """
    train = settings.train
    if not isinstance(train.reward, RewardSettings):
        from embodied import judged

        return judged.build(settings, device)
    if train.task == "rows":
        from embodied import given

        return given.build(settings, device)
    if train.task in GAMES:
        from embodied import arena

        return arena.build(settings, device)
    task, length, reward = tiny_task(train)
    model = load_model(train, task, device)
    streams = Streams(train.seed)
    if train.data:
        texts = read(train.data, model.tokenizer)
        strange = [prompt for prompt in texts.prompts if not task.understands(prompt)]
        if strange:
            raise UserError(
                f"{train.data}: {strange[0]!r} is no problem of task={train.task}, whose verifier "
                "rewards the answers"
            )
    else:
        texts = made_texts(task, PROMPTS, length, streams.numpy("task"))

    def score(prompt: str, response: str) -> float:
        return float(getattr(task.verify(prompt, response), reward))

    questions = task.problems(
        train.evaluation.episodes, Streams(train.evaluation.seed).numpy("questions"), length
    )
    about = {
        "env": f"{TINY}/{train.task}",
        "env_args": {**asdict(task), "length": length, "reward": reward},
        "env_hash": fingerprint([train.task, asdict(task), length, reward]),
        "model": train.model,
        "dataset": {"path": train.data, "fingerprint": sha256_file(train.data)[:16]}
        if train.data
        else None,
        "observation_scaling": None,
    }
    made = TextTask(
        model,
        streams,
        prompts=texts.prompts or None,
        score=score,
        longest=train.longest or task.response_length,
        examples=texts.examples or None,
        pairs=texts.pairs or None,
        begin=lambda prompt: Revision(task, prompt, reward),
        categories=[
            prompt.facts.get("category", len(prompt.replace(tiny.PAD, "")))
            for prompt in texts.prompts
        ],
        engine=load_engine(settings, model),
        about=about,
    )
    sampling, seed = Sampling(made.longest), train.evaluation.seed
    turns = train.task_args.get("turns", 1)
    if turns == 1:
        return made, TextEvaluator(questions, score, sampling, seed), about
    return made, RevisionEvaluator(task, questions, reward, turns, sampling, seed), about


def load_model(
    train: TrainSettings, task: tiny.Task | Game | None, device: str
) -> lm.LanguageModel:
    """The model a run begins with."""
    model = lm.load(base_model(task) if train.model == TINY else train.model, device)
    if train.lora.rank:
        from policies.adapters import adapt

        model = adapt(model, Streams(train.seed).torch("lora"), **asdict(train.lora))
    return model


def load_engine(settings: Settings, model: lm.LanguageModel) -> Engine | None:
    """What draws a run's answers, if not the built-in sampler.

    Raises:
        UserError: the method does not correct for another engine, or the model has adapters.
    """
    train = settings.train
    if train.engine == "built-in":
        return None
    if settings.method_id not in CORRECTED:
        raise UserError(
            f"engine={train.engine} draws with other probabilities, for which "
            f"{', '.join(CORRECTED)} correct; method={settings.method_id} does not"
        )
    if train.lora.rank:
        raise UserError(f"engine={train.engine} reads whole models; leave out lora.rank")
    from policies.vllm_engine import VLLM

    return VLLM(model, **train.engine_args)


def tiny_task(train: TrainSettings) -> tuple[tiny.Task, int | None, str]:
    """The task, the length of its problems, and which verdict is the reward."""
    if train.task not in tiny.TASKS:
        known = (*tiny.TASKS, *GAMES, "rows")
        raise UserError(f"unknown task {train.task!r}; {nearest(train.task, known)}")
    options = dict(train.task_args)
    length, reward = options.pop("length", None), options.pop("reward", "all_steps")
    turns = options.pop("turns", 1)
    if not isinstance(turns, int) or turns < 1:
        raise UserError(f"task_args.turns must be a number of turns, got {turns!r}")
    if reward not in ("final", "all_steps"):
        raise UserError(f"task_args.reward must be final or all_steps, got {reward!r}")
    try:
        task = tiny.TASKS[train.task](**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"task={train.task}: {error}") from error
    if length is not None and not 1 <= length <= task.longest:
        raise UserError(f"task_args.length must lie in 1 to {task.longest}, got {length}")
    return task, length, reward


def made_texts(task: tiny.Task, count: int, length: int | None, rng: np.random.Generator) -> Texts:
    """Problems of a task, each with its answer, and with one that slips as the worse one."""
    prompts = task.problems(count, rng, length)
    answers = [task.attempt(prompt, rng) for prompt in prompts]
    slips = [task.mistake(prompt, rng) for prompt in prompts]
    return Texts(
        [Prompt(prompt) for prompt in prompts],
        [Example(*both) for both in zip(prompts, answers, strict=True)],
        [Pair(*three) for three in zip(prompts, answers, slips, strict=True)],
    )


def chat(run: str | Path, ask: Callable[[], str], say: Callable[[str], None]) -> None:
    """Talk to what a run has trained, until there is no more to ask.

    A tokenizer with a chat template keeps the conversation; without one each line is a prompt of
    its own.

    Args:
        run: run directory.
        ask: returns the next line; raises EOFError at the end.
        say: takes each answer.

    Raises:
        UserError: the run is not of a language model.
    """
    from embodied.assemble import read_run
    from embodied.loading import load

    about, _ = read_run(run)
    if "model" not in about:
        raise UserError(f"{run} is a run of {about['method']} on {about['env']}: it does not talk")
    policy = load(run).policy(deterministic=False)
    tokenizer, messages = policy.model.tokenizer, []
    while True:
        try:
            line = ask()
        except EOFError:
            return
        if tokenizer.chat_template is None:
            _, (answer,), _ = policy.answer([line])
        else:
            messages.append({"role": "user", "content": line})
            prompt = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            _, (answer,), _ = policy.answer([prompt])
            answer = answer.removesuffix(tokenizer.eos_token)
            messages.append({"role": "assistant", "content": answer})
        say(answer)

"""From settings to a language task: the model, its prompts and reward, and fixed questions to ask.

The base model of the tiny suite is made once per machine and kept in the user's cache.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from embodied.core.evaluate import Evaluator
from embodied.core.registry import nearest
from embodied.core.seeding import Streams
from embodied.core.trainer import Trainer, TrainerOptions
from embodied.core.types import UserError
from embodied.data import tiny
from embodied.data.games import GAMES, Game
from embodied.data.io import sha256_file
from embodied.data.revision import Revision
from embodied.data.text import Example, Pair, Prompt, Texts, read
from embodied.llm import sft
from embodied.llm.collector import LanguagePolicy
from embodied.llm.task import Score, TextTask
from embodied.questions import QuestionEvaluator, Reply, short
from embodied.revisions import RevisionEvaluator
from embodied.settings import RewardSettings, Settings, TrainSettings
from policies import lm
from policies.sampling import Engine, Sampling

TINY = "tiny"
CORRECTED = ("grpo", "ppo", "self_rewarding_ppo")  # methods that weight another engine's tokens
PROMPTS = 4096  # of a task that makes its own
BASE = sft.SFTConfig(
    updates=700,
    batch_size=64,
    lr=3e-3,
    betas=(0.9, 0.98),
    weight_decay=0.01,
    warm_up=50,
    final_lr=0.1,
)
BASES = {
    "tictactoe": replace(BASE, updates=1500),
    "add": replace(BASE, updates=2400),
    "edit": replace(BASE, updates=2200),
}
"""Of tasks that need another recipe than `BASE`."""
SHAPES = {"tictactoe": {"layers": 1, "width": 128}}
"""Of models that need another shape than that of `lm.small`: with one layer, where the move is
drawn sees all cells at once; of the shapes tried that learnt most per game."""
BASE_SEED, BASE_REVISION = 0, 1


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


def load_model(train: TrainSettings, task: tiny.Task | Game, device: str) -> lm.LanguageModel:
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
        known = (*tiny.TASKS, *GAMES)
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


def base_model(task: tiny.Task | Game) -> Path:
    """Folder of the tiny suite's base model, which is trained now if it is not there yet.

    Every step of its demonstrations was wrong with a known probability, so it has room to improve.
    """
    name, recipe, folder = type(task).__name__.lower(), _recipe(task), base_folder(task)
    if folder.exists():
        return folder
    cache = folder.parent
    cache.mkdir(parents=True, exist_ok=True)
    print(f"embodied: making the base model of {name} in {folder}, once", file=sys.stderr)
    streams = Streams(BASE_SEED)
    model = lm.small(
        lm.symbol_tokenizer(list(tiny.SYMBOLS), tiny.PAD, tiny.BEGIN, tiny.END),
        streams.torch("base/init"),
        **SHAPES.get(name, {}),
    )
    rng = streams.numpy("base/data")
    prompts = task.problems(recipe.updates * recipe.batch_size, rng)
    examples = [Example(prompt, task.demonstration(prompt, rng)) for prompt in prompts]
    scratch = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cache))
    try:
        made = TextTask(model, streams, examples=examples, longest=task.response_length)
        options = TrainerOptions(checkpoint_every=0, tensorboard=False)
        trainer = Trainer(sft.recipe(recipe, made), scratch / "run", options=options)
        trainer.run()
        trainer.close()
        model.save(scratch / "model")
        try:
            os.rename(scratch / "model", folder)
        except OSError:  # somebody else was quicker
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def base_folder(task: tiny.Task | Game) -> Path:
    """Where the base model of a task lies, or will: named after all that it is made from."""
    name, rng = type(task).__name__.lower(), Streams(BASE_SEED).numpy("base/data")
    shown = [(prompt, task.demonstration(prompt, rng)) for prompt in task.problems(64, rng)]
    recipe = asdict(_recipe(task))
    key = [name, asdict(task), recipe, SHAPES.get(name), BASE_SEED, BASE_REVISION]
    key += [tiny.SYMBOLS, shown]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "embodied"
    return cache / f"{name}-{fingerprint(key)}"


def _recipe(task: tiny.Task | Game) -> sft.SFTConfig:
    return BASES.get(type(task).__name__.lower(), BASE)


def fingerprint(values: Any) -> str:
    """First 16 hex digits of the SHA-256 of JSON values."""
    return short(json.dumps(values, sort_keys=True))


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

"""Base models of the tiny suite, each made once per machine and kept in the user's cache.

Every step of their demonstrations is wrong with a known probability, so there is room to improve.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from embodied.core.seeding import Streams
from embodied.core.trainer import Trainer, TrainerOptions
from embodied.data import tiny
from embodied.data.games import Game
from embodied.data.text import Example
from embodied.llm import sft
from embodied.llm.task import TextTask
from embodied.questions import short
from policies import lm

BASE = sft.SFTConfig(
    updates=700,
    batch_size=64,
    lr=3e-3,
    betas=(0.9, 0.98),
    weight_decay=0.01,
    warm_up=50,
    final_lr=0.1,
)
BASES = {"add": replace(BASE, updates=2400), "edit": replace(BASE, updates=200, lr=3e-4)}
"""Of tasks that need another recipe than `BASE`."""
BASE_SEED, BASE_REVISION = 0, 1


@dataclass(frozen=True)
class Lesson:
    """What comes before the demonstrations, where these alone do not teach.

    Attributes:
        fit: how long and how fast.
        shares: of each kind of lesson that the task gives.
        changes: to the task, for these lessons.
    """

    fit: sft.SFTConfig
    shares: dict[str, float]
    changes: dict[str, float] = field(default_factory=dict)


LESSONS = {
    "edit": (
        Lesson(replace(BASE, updates=900), {"sums": 1.0}),
        Lesson(
            replace(BASE, updates=2400, final_lr=0.3),
            {"proof": 0.7, "glaring": 0.3},
            {"keep": 0.0, "fix": 1.0},
        ),
        Lesson(
            replace(BASE, updates=800, lr=2e-3, final_lr=0.5),
            {"whole": 0.5, "slight": 0.5},
            {"keep": 0.0, "fix": 1.0, "slip": 0.2},
        ),
        Lesson(
            replace(BASE, updates=800, lr=2e-3, warm_up=0, final_lr=0.5),
            {"whole": 0.25, "slight": 0.75},
            {"keep": 0.1, "fix": 0.6},
        ),
        Lesson(
            replace(BASE, updates=800, lr=1.5e-3, warm_up=0),
            {"whole": 0.25, "slight": 0.75},
        ),
    )
}
"""To mend, a model must find the one wrong sum of five. Demonstrations show that in a fifth of
their edits, and 2200 updates on them alone teach edits at random; see `Edit.lesson`."""


def base_model(task: tiny.Task | Game) -> Path:
    """Folder of a task's base model, which is trained now if it is not there yet."""
    name = type(task).__name__.lower()
    recipe, lessons = BASES.get(name, BASE), LESSONS.get(name, ())
    made_of = [name, asdict(task), asdict(recipe), BASE_SEED, BASE_REVISION]
    key = fingerprint([*made_of, *map(asdict, lessons)])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "embodied"
    folder = cache / f"{name}-{key}"
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    print(f"embodied: making the base model of {name} in {folder}, once", file=sys.stderr)
    streams = Streams(BASE_SEED)
    model = lm.small(
        lm.symbol_tokenizer(list(tiny.SYMBOLS), tiny.PAD, tiny.BEGIN, tiny.END),
        streams.torch("base/init"),
    )
    scratch = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cache))
    try:
        for i, lesson in enumerate(lessons):
            given = _given(lesson, replace(task, **lesson.changes), streams.numpy(f"lesson/{i}"))
            _fit(model, lesson.fit, given, streams, scratch / f"lesson-{i}")
        rng = streams.numpy("base/data")
        prompts = task.problems(recipe.updates * recipe.batch_size, rng)
        shown = [Example(prompt, task.demonstration(prompt, rng)) for prompt in prompts]
        _fit(model, recipe, shown, streams, scratch / "run")
        model.save(scratch / "model")
        try:
            os.rename(scratch / "model", folder)
        except OSError:  # somebody else was quicker
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _given(lesson: Lesson, task: tiny.Edit, rng: np.random.Generator) -> list[Example]:
    """Examples of a lesson; half of the problems are as long as there are."""
    half, kinds = lesson.fit.updates * lesson.fit.batch_size // 2, list(lesson.shares)
    prompts = task.problems(half, rng) + task.problems(half, rng, task.longest)
    drawn = rng.choice(kinds, len(prompts), p=list(lesson.shares.values()))
    return [
        Example(*task.lesson(kind, prompt, rng))
        for kind, prompt in zip(drawn, prompts, strict=True)
    ]


def _fit(
    model: lm.LanguageModel,
    recipe: sft.SFTConfig,
    examples: Sequence[Example],
    streams: Streams,
    directory: Path,
) -> None:
    made = TextTask(model, streams, examples=examples)
    options = TrainerOptions(checkpoint_every=0, tensorboard=False)
    trainer = Trainer(sft.recipe(recipe, made), directory, options=options)
    trainer.run()
    trainer.close()


def fingerprint(values: Any) -> str:
    """First 16 hex digits of the SHA-256 of JSON values."""
    return short(json.dumps(values, sort_keys=True))

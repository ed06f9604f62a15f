"""Base models of the tiny suite, each made once per machine and kept in the user's cache.

Every step of their demonstrations is wrong with a known probability, so there is room to improve.

Deviations from the suite's one recipe (700 updates on demonstrations):
1. ADD gets 2400 updates.
2. EDIT's base learns sums, then to mend wrong ones, and then, in steps, its demonstrations. What
   tells a right edit from a random one is a fifth of them: 2200 updates on demonstrations alone (of
   edits named by letters) taught edits at random. Without the steps between it forgets to mend.
3. TicTacToe's base has one layer of width 128, in which the place where a move is drawn sees all
   cells at once, and 1500 updates; it is to know the legal moves.
4. EDIT's base is fitted to the probabilities that the symbols were drawn with.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from embodied.core.seeding import Streams
from embodied.core.trainer import Trainer, TrainerOptions
from embodied.data import tiny
from embodied.data.games import Game
from embodied.data.text import Example
from embodied.lessons import Lesson, teach
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
BASES = {"add": replace(BASE, updates=2400), "tictactoe": replace(BASE, updates=1500)}
"""Of tasks that need another recipe than `BASE`."""
SHAPES = {"tictactoe": {"layers": 1, "width": 128}}
"""Of models that need another shape than that of `lm.small`."""
BASE_SEED, BASE_REVISION = 0, 1
NEXT = replace(BASE, updates=150, batch_size=32, lr=1e-3, warm_up=20, final_lr=1.0)
LESSONS = {
    "edit": (
        Lesson(replace(BASE, updates=900), {"slip": 0.0}, edits=False),
        Lesson(
            replace(BASE, updates=1000, batch_size=32, final_lr=0.3),
            {"slip": 0.0, "keep": 0.0, "fix": 1.0},
            slip=0.3,
        ),
        Lesson(NEXT, {"slip": 0.02, "keep": 0.03, "fix": 0.9}, slip=0.25),
        Lesson(NEXT, {"slip": 0.06, "keep": 0.1, "fix": 0.7}, slip=0.2),
        Lesson(NEXT, {"slip": 0.1, "keep": 0.2, "fix": 0.45}, slip=0.2),
        Lesson(replace(BASE, updates=300, lr=1e-3, warm_up=0, final_lr=0.05)),
    )
}
"""Of tasks whose base is taught in lessons; the last one is about their demonstrations."""
SAMPLE = 8  # texts of each lesson, or of the demonstrations, that go into a base's name


def base_folder(task: tiny.Task | Game) -> Path:
    """Where a task's base model lies, or will: named after all that it is made from."""
    name = type(task).__name__.lower()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "embodied"
    return cache / f"{name}-{fingerprint(_made_of(name, task))}"


def base_model(task: tiny.Task | Game) -> Path:
    """Folder of a task's base model, which is trained now if it is not there yet."""
    folder = base_folder(task)
    if folder.exists():
        return folder
    name, streams, cache = type(task).__name__.lower(), Streams(BASE_SEED), folder.parent
    lessons = LESSONS.get(name, ())
    cache.mkdir(parents=True, exist_ok=True)
    print(f"embodied: making the base model of {name} in {folder}, once", file=sys.stderr)
    model = lm.small(
        lm.symbol_tokenizer(list(tiny.SYMBOLS), tiny.PAD, tiny.BEGIN, tiny.END),
        streams.torch("base/init"),
        **SHAPES.get(name, {}),
    )
    scratch = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cache))
    try:
        for i, lesson in enumerate(lessons):
            teach(model, lesson, task, streams, f"lesson/{i}", scratch / f"lesson-{i}")
        if not lessons:
            _fit(model, BASES.get(name, BASE), task, streams, scratch / "run")
        model.save(scratch / "model")
        try:
            os.rename(scratch / "model", folder)
        except OSError:  # somebody else was quicker
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _made_of(name: str, task: tiny.Task | Game) -> list[Any]:
    """What determines a base model: settings, and texts of its lessons or its demonstrations."""
    found: list[Any] = [name, asdict(task), SHAPES.get(name), tiny.SYMBOLS]
    found += [BASE_SEED, BASE_REVISION]
    if name not in LESSONS:
        rng = Streams(BASE_SEED).numpy("base/data")
        shown = [(text, task.demonstration(text, rng)) for text in task.problems(SAMPLE, rng)]
        return [*found, asdict(BASES.get(name, BASE)), shown]
    for i, lesson in enumerate(LESSONS[name]):
        rng, make = Streams(BASE_SEED).numpy(f"lesson/{i}"), lesson.texts(task)
        found.append([asdict(lesson), [asdict(make(rng)) for _ in range(SAMPLE)]])
    return found


def _fit(
    model: lm.LanguageModel,
    recipe: sft.SFTConfig,
    task: tiny.Task | Game,
    streams: Streams,
    directory: Path,
) -> None:
    """Fit demonstrations."""
    rng = streams.numpy("base/data")
    prompts = task.problems(recipe.updates * recipe.batch_size, rng)
    shown = [Example(prompt, task.demonstration(prompt, rng)) for prompt in prompts]
    made = TextTask(model, streams, examples=shown)
    options = TrainerOptions(checkpoint_every=0, tensorboard=False)
    trainer = Trainer(sft.recipe(recipe, made), directory, options=options)
    trainer.run()
    trainer.close()


def fingerprint(values: Any) -> str:
    """First 16 hex digits of the SHA-256 of JSON values."""
    return short(json.dumps(values, sort_keys=True))

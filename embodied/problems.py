"""`embodied collect suite=tiny`: a task of the tiny suite as files that anybody can train on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from embodied.core.seeding import Streams
from embodied.core.types import UserError
from embodied.data.text import Texts
from embodied.data.tiny import END
from embodied.report.files import write_text
from embodied.settings import TrainSettings, free_arguments, take
from embodied.text import made_texts, tiny_task


def collect(out: str | Path, settings: TrainSettings, count: int, seed: int = 0) -> list[Path]:
    """Write `problems.jsonl`, `examples.jsonl` and `pairs.jsonl`, of the same problems.

    An example is a problem with its right answer, a pair has an answer with a slip beside it. The
    answers are without their end, which `data=FILE` adds.

    Args:
        out: directory.
        settings: task and task_args.
        count: how many.
        seed: chooses them.

    Raises:
        UserError: other data lies there.
    """
    task, length, _ = tiny_task(settings)
    texts = made_texts(task, count, length, Streams(seed).numpy(f"collect/{settings.task}"))
    written = []
    for name, rows in _rows(texts).items():
        path = Path(out) / f"{name}.jsonl"
        content = "".join(json.dumps(row) + "\n" for row in rows)
        if path.exists() and path.read_text(encoding="utf-8") != content:
            raise UserError(f"{path} holds other data; write to another directory")
        write_text(path, content)
        written.append(path)
    return written


def _rows(texts: Texts) -> dict[str, list[dict[str, str]]]:
    return {
        "problems": [{"prompt": prompt} for prompt in texts.prompts],
        "examples": [
            {"prompt": e.prompt, "completion": e.response.removesuffix(END)} for e in texts.examples
        ],
        "pairs": [
            {
                "prompt": pair.prompt,
                "chosen": pair.chosen.removesuffix(END),
                "rejected": pair.rejected.removesuffix(END),
            }
            for pair in texts.pairs
        ],
    }


def command(out: str, overrides: Sequence[str]) -> int:
    """Write what the command line asks for."""
    task_args, rest = free_arguments(overrides, "task_args")
    task, rest = take(rest, "task")
    numbers = {"episodes": 1000, "seed": 0}
    for override in rest:
        key, _, value = override.partition("=")
        if key not in numbers or not value.isdecimal():
            raise UserError(
                "embodied collect suite=tiny takes task=NAME, task_args.KEY=VALUE, episodes=N, "
                f"seed=N and out=DIRECTORY, not {override!r}"
            )
        numbers[key] = int(value)
    settings = TrainSettings(task=task or "chain", task_args=task_args)
    if numbers["episodes"] < 1:
        raise UserError("episodes must be at least 1")
    files = collect(out, settings, numbers["episodes"], numbers["seed"])
    print(
        f"embodied: {numbers['episodes']} problems of {settings.task} in "
        f"{', '.join(map(str, files))}; train with data=FILE task={settings.task}"
    )
    return 0

"""Runs of a proof on tasks that the command line does not have."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from embodied.core.evaluate import Evaluator
from embodied.core.log import read_log
from embodied.core.phase import Recipe
from embodied.core.trainer import Trainer, TrainerOptions
from embodied.proofs.runs import Unfinished
from embodied.report.files import write_text


def trained(
    directory: Path,
    settings: dict[str, Any],
    make: Callable[[], tuple[Recipe, Evaluator | None]],
    processes: int,
) -> list[dict[str, Any]]:
    """The log of a run, which is done first unless it was done with these settings.

    Args:
        directory: of the run.
        settings: JSON values that tell it from others.
        make: the recipe and what evaluates it.
        processes: 0 starts nothing.

    Raises:
        Unfinished: it is not done and may not be started.
    """
    told, text = directory / "settings.json", json.dumps(settings, sort_keys=True)
    if not (told.exists() and told.read_text(encoding="utf-8") == text):
        if processes == 0:
            raise Unfinished(str(directory))
        shutil.rmtree(directory, ignore_errors=True)
        recipe, evaluator = make()
        options = TrainerOptions(log_every=1, checkpoint_every=0, keep=1, tensorboard=False)
        trainer = Trainer(recipe, directory, evaluator=evaluator, options=options, config=settings)
        with closing(trainer):
            trainer.run()
        write_text(told, text)
    return read_log(directory)

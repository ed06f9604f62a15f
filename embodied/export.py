"""What a language run has trained, as a folder that transformers, vLLM and `model=` read."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from embodied.assemble import read_run
from embodied.core.types import UserError
from embodied.loading import load


def export(run: str | Path, folder: str | Path) -> Path:
    """Write the model of a run's newest checkpoint: safetensors, config and tokenizer.

    Adapters are worked into the weights. The folder is there when it is whole.

    Args:
        run: run directory.
        folder: where to; must not exist.

    Returns:
        The folder.

    Raises:
        UserError: the run is not of a language model, or there is such a folder.
    """
    about, _ = read_run(run)
    if "model" not in about:
        raise UserError(f"{run} is a run of {about['method']} on {about['env']}: no language model")
    folder = Path(folder)
    if folder.exists():
        raise UserError(f"{folder} exists already; name a new folder")
    model = load(run).policy(deterministic=False).model
    if hasattr(model.network, "merged"):
        model.network = model.network.merged()
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        model.save(scratch)
        os.rename(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder

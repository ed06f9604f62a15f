"""Sweeps: one command, a run for each combination of settings."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from embodied.settings import compose, default_directory, parse, quoted


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """All combinations of `key=a,b` and `key=range(...)` overrides, one list per run.

    The choices a run directory's name would not show are appended to it, so that no two runs of a
    sweep share one.

    Raises:
        UserError: as `compose`, for any of the combinations.
    """
    options, swept = [], []
    for override in parse(overrides):
        if override.is_sweep_override():
            key = override.get_key_element()
            options.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            options.append([override.input_line])
        swept.append(override.is_sweep_override())
    runs = []
    for combination in itertools.product(*options):
        composed = compose(combination)
        shown = () if composed.train.run else ("method", "env", "task", "seed")
        choices = [c for c, several in zip(combination, swept, strict=True) if several]
        hidden = [c for c in choices if c.partition("=")[0] not in shown]
        if hidden:
            suffix = re.sub(r"[^-+=.,\w]+", "_", "-".join(hidden))
            directory = composed.train.run or default_directory(composed)
            combination = (*combination, f"run={quoted(f'{directory}-{suffix}')}")
        runs.append(list(combination))
    return runs

"""Runs in a process of its own: says of pairs of answers whether math-verify holds them equal.

It reads one JSON list a line and writes `equal` or `different`. What it parses was written by a
model, so it works behind the walls of `rewards.jail`, as far as this machine has them.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from pathlib import Path

from math_verify import parse, verify

MEMORY = 4 * 2**30


def main() -> None:
    """Answer until there is no more to read."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # whoever asks keeps the time
    _confine()
    print("ready", flush=True)
    for line in sys.stdin:
        given, true = map(_parsed, json.loads(line))
        same = bool(given and true) and verify(true, given, timeout_seconds=None)
        print("equal" if same else "different", flush=True)


def _parsed(text: str) -> list:
    """What an answer stands for; LaTeX in dollars, plain expressions without."""
    return parse(f"${text}$", parsing_timeout=None) or parse(text, parsing_timeout=None)


def _confine() -> None:
    spec = importlib.util.spec_from_file_location("jail", Path(__file__).with_name("jail.py"))
    jail = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(jail)
    jail.confine({"AS": (MEMORY, MEMORY)})


if __name__ == "__main__":
    main()

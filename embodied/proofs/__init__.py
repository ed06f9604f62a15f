"""Small-scale proofs: one file per method that has experiments, each writing its evidence pages."""

from __future__ import annotations

import importlib
from pathlib import Path

from embodied.core import registry
from embodied.core.types import UserError

PROOFS = {
    "wsrl": "embodied.proofs.wsrl",
    "bc": "embodied.proofs.family",
    "sac": "embodied.proofs.family",
    "cql": "embodied.proofs.family",
    "calql": "embodied.proofs.family",
    "iql": "embodied.proofs.family",
    "rlpd": "embodied.proofs.family",
}
DOCS = Path("docs") / "methods"
RUNS = Path("runs") / "proofs"


def reproduce(method: str, *, seeds: int | None, only: str | None, jobs: int) -> int:
    """Run a method's proof and write `docs/methods/<method>.md`.

    Runs already finished under `runs/proofs` are kept, so an interrupted proof goes on.

    Args:
        method: method id.
        seeds: seeds per arm; the proof's own number if None.
        only: name of one experiment of the proof; the page is then not rewritten.
        jobs: training processes at a time.

    Returns:
        0 if every gate holds, else 1.
    """
    registry.get(method)
    if method not in PROOFS:
        raise UserError(f"no proof is registered for {method!r}")
    module = importlib.import_module(PROOFS[method])
    return int(not module.reproduce(method, seeds=seeds, only=only, jobs=jobs))

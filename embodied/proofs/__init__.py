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
    "slim": "embodied.proofs.slim",
    "play_lmp": "embodied.proofs.play_lmp",
    "sft": "embodied.proofs.tiny",
    "dpo": "embodied.proofs.tiny",
    "ppo": "embodied.proofs.tiny",
    "grpo": "embodied.proofs.tiny",
    "spiral": "embodied.proofs.selfplay",
    "score": "embodied.proofs.correction",
    "rise": "embodied.proofs.correction",
    "spin": "embodied.proofs.predecessor",
    "nft": "embodied.proofs.negatives",
    "masked_thought": "embodied.proofs.masking",
    "s3ft": "embodied.proofs.wording",
    "b_star": "embodied.proofs.balancing",
    "sec": "embodied.proofs.curriculum",
    "self_rewarding_ppo": "embodied.proofs.extrapolation",
}
DOCS = Path("docs") / "methods"
RUNS = Path("runs") / "proofs"


def reproduce(method: str, *, seeds: int | None, only: str | None, jobs: int) -> int:
    """Run a method's proof and write `docs/methods/<method>.md`.

    Runs already finished under `runs/proofs` are kept, so an interrupted proof goes on.

    Args:
        method: method id.
        seeds: seeds per arm; each experiment's own number if None.
        only: name of one experiment to run; the page then shows it beside those that were run
            before, and names the rest.
        jobs: training processes at a time.

    Returns:
        0 if every experiment has been run and every gate holds, else 1.
    """
    from embodied.assemble import versions
    from embodied.proofs.runs import Unfinished
    from embodied.report.page import Section, write_page

    entry = registry.get(method)
    if method not in PROOFS:
        raise UserError(f"no proof is registered for {method!r}")
    experiments = importlib.import_module(PROOFS[method]).experiments(method)
    if only and only not in experiments:
        raise UserError(
            f"no experiment {only!r} in this proof; {registry.nearest(only, experiments)}"
        )
    sections: list[Section] = []
    missing = []
    for name, (experiment, default) in experiments.items():
        try:
            sections += experiment(seeds or default, jobs if only in (None, name) else 0)
        except Unfinished:
            missing.append(name)
    if missing:
        command = f"`embodied reproduce {method} --only NAME`"
        text = f"Not part of this page yet: {', '.join(missing)} ({command} runs one)."
        sections.append(Section("Not run yet", text))
    write_page(
        DOCS / f"{method}.md",
        title=entry.documentation.splitlines()[0].rstrip("."),
        paper=entry.paper,
        summary=f"{entry.summary}.",
        command=f"embodied reproduce {method}" + (f" --seeds {seeds}" if seeds else ""),
        sections=sections,
        versions=versions(),
    )
    gates = [gate for section in sections for gate in section.gates]
    for gate in gates:
        print(f"{'holds' if gate.holds else 'FAILS'}: {gate.description}: {gate.measured}")
    for name in missing:
        print(f"not run yet: {name}")
    return int(bool(missing) or not all(gate.holds for gate in gates))

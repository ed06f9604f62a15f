"""Peak memory of the language learners beside TRL's: `python -m benchmarks.memory`.

Each takes a few steps, 64 prompts of 8 answers or 64 pairs, in a process of its own. "Whole" is the
most that the process ever held, which is judged; "own" is that without what it held when everything
was imported and nothing was built. MB.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.driver import Options, Process, peers

STEPS = ("grpo", "dpo", "sft")
HEAD = (
    "| step | shape | ours, own | TRL, own | ratio | ours, whole | TRL, whole | met |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
)


def peak(worker: str, variant: str, options: Options) -> tuple[float, float]:
    """Returns own and whole, in MB.

    Raises:
        RuntimeError: the worker cannot take a step.
    """
    process = Process(worker, [variant], options)  # ready means that it took a few steps
    try:
        if process.failed:
            raise RuntimeError(f"{process.label}: {process.failed[variant]}")
        return process.peak() - process.imported, process.peak()
    finally:
        process.close()


def line(step: str, shape: str, options: Options) -> str:
    """One row of the table."""
    (own, whole), (theirs, all_of_it) = (
        peak(worker, f"{step}-{shape}", options) for worker in ("text", "trl")
    )
    met = "yes" if whole <= all_of_it else "**no**"
    figures = f"{own:.0f} | {theirs:.0f} | {own / theirs:.2f}x | {whole:.0f} | {all_of_it:.0f}"
    return f"| {step} | {shape} | {figures} | {met} |"


def main() -> int:
    """Command line; needs EMBODIED_PEERS."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--page", type=Path, help="write the page here")
    chosen = parser.parse_args()
    options = Options(peers=peers())
    if options.peers is None:
        parser.error("EMBODIED_PEERS is to name the folder that benchmarks/peers.sh made")
    rows = list(HEAD)
    print(*rows, sep="\n", flush=True)
    for step in STEPS:
        for shape in ("gpt2", "llama"):
            rows.append(line(step, shape, options))
            print(rows[-1], flush=True)
    if chosen.page:
        text = ["# Peak memory of a language step", *__doc__.split("\n")[1:], *rows, ""]
        command = "EMBODIED_PEERS=PEERS python -m benchmarks.memory --page docs/memory.md"
        text += ["```", command, "```", ""]
        chosen.page.write_text("\n".join(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

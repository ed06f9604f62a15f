"""Every registered task against the contract, and its expert against the task: docs/conformance.md.

    python -m envs.conformance                         # all of them, as far as they are installed
    python -m envs.conformance --only libero/libero_goal dm_control

Each result is kept as it comes, so an interrupted run goes on where it stopped; after a change of
an environment, `--again` checks anew. Tests check a sample of the tasks in the same way.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from envs.base import EnvsError, MissingExtra, UnknownTask
from envs.checker import EnvCheckError, check_env
from envs.registry import describe, make, tasks
from envs.scripted import expert

KEPT, PAGE = Path("runs/conformance.jsonl"), Path("docs/conformance.md")


def conformance(env_id: str, *, steps: int = 50, attempts: int = 5) -> dict[str, Any]:
    """Checks one task.

    Args:
        env_id: the task.
        steps: of each of the contract's trial runs.
        attempts: episodes its expert may take to succeed once.

    Returns:
        `id`, `hash`, `contract` ("kept", or the broken promises), `notes`, `expert` ("none",
        "episode N", the first in which it succeeds, or "never") and `seconds`.

    Raises:
        MissingExtra: its simulator is not installed.
    """
    start = time.perf_counter()
    env = make(env_id)
    found = {"id": env_id, "hash": describe(env)["hash"], "contract": "kept", "notes": []}
    try:
        found["notes"] = check_env(env_id, steps=steps)
    except EnvCheckError as error:
        found["contract"] = "; ".join(error.problems)
    found["expert"] = _reaches(env, attempts)
    env.close()
    return {**found, "seconds": round(time.perf_counter() - start, 1)}


def _reaches(env: Any, attempts: int) -> str:
    """In which episode the expert first succeeds."""
    try:
        policy = expert(env)
    except UnknownTask:
        return "none"
    for number in range(attempts):
        env.reset(seed=number)
        policy.reset()
        ended = False
        while not ended:
            action = policy.act(env.unwrapped.state_observation())
            _, _, terminated, truncated, info = env.step(action)
            if info["success"]:
                return f"episode {number + 1}"
            ended = terminated or truncated
    return "never"


def page(results: dict[str, dict[str, Any]]) -> str:
    """Returns the table in Markdown."""
    kept = sum(found["contract"] == "kept" for found in results.values())
    able = [found for found in results.values() if found["expert"] != "none"]
    reach = sum(found["expert"] != "never" for found in able)
    lines = [
        "# Every task against its contract",
        "",
        f"{kept} of {len(results)} tasks checked keep the contract of `envs.checker` (spaces, "
        "determinism from the seed, observations of their own, exact saving and restoring in a "
        f"fresh object, bounds, global generators left alone); {len(tasks())} are registered. The "
        f"scripted expert of {len(able)} of them reaches success within five episodes in {reach}.",
        "Made by `python -m envs.conformance`.",
        "",
        "| task | contract | expert succeeds | environment |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {env_id} | {results[env_id]['contract']} | {results[env_id]['expert']} | "
        f"`{results[env_id]['hash']}` |"
        for env_id in tasks()
        if env_id in results
    ]
    return "\n".join(lines) + "\n"


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Returns the results kept in a file, by id; the last one of each task counts."""
    if not path.exists():
        return {}
    found = (json.loads(line) for line in path.read_text().splitlines())
    return {result["id"]: result for result in found}


def _todo(chosen: list[str], steps: int, kept: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Checks what is not kept yet; says what is not installed."""
    missing: set[str] = set()
    for env_id in chosen:
        family = env_id.split("/")[0]
        if family in missing or env_id in kept:
            continue
        try:
            yield conformance(env_id, steps=steps)
        except MissingExtra as error:
            missing.add(family)
            print(f"left out: {error}", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Checks tasks, keeps the results and writes the page; returns 1 if a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m envs.conformance", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[""], help="ids that begin so")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--again", action="store_true", help="also what was checked before")
    parser.add_argument("--kept", type=Path, default=KEPT, help="where results are kept")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args(argv)
    chosen = [env_id for env_id in tasks() if env_id.startswith(tuple(args.only))]
    if not chosen:
        parser.error(f"no task begins with {' or '.join(args.only)}")
    results = read(args.kept)
    args.kept.parent.mkdir(parents=True, exist_ok=True)
    with args.kept.open("a") as file:
        for found in _todo(chosen, args.steps, {} if args.again else dict(results)):
            results[found["id"]] = found
            file.write(json.dumps(found) + "\n")
            file.flush()
            print(
                f"{found['id']:40s} {found['seconds']:6.1f} s  contract {found['contract']}, "
                f"expert: {found['expert']}",
                flush=True,
            )
    args.page.parent.mkdir(parents=True, exist_ok=True)
    args.page.write_text(page(results))
    broken = [env_id for env_id in chosen if results.get(env_id, {}).get("contract") != "kept"]
    print(f"{len(chosen) - len(broken)} of {len(chosen)} keep the contract; {args.page}")
    return min(len(broken), 1)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except EnvsError as error:
        raise SystemExit(f"envs.conformance: {error}") from error

"""Ledgers of evaluations: one as a page, two compared."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embodied.core.types import UserError

SCHEMA = 2  # of the first line


@dataclass(frozen=True)
class Ledger:
    """An evaluation as it was written.

    Attributes:
        path: of the file.
        head: circumstances.
        episodes: by task and index.
    """

    path: Path
    head: dict[str, Any]
    episodes: dict[tuple[str, int], dict[str, Any]]

    @classmethod
    def read(cls, path: str | Path) -> Ledger:
        """Read a ledger.

        Raises:
            UserError: it is none, or it is damaged.
        """
        path = Path(path)
        try:
            head, *rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
            episodes = {(row["task"], row["index"]): row for row in rows}
            expected = {(t, i) for t in head["tasks"] for i in range(head["episodes"])}
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no ledger of `embodied eval`: {error!r}") from error
        if head.get("schema") != SCHEMA:
            raise UserError(f"{path} was written by another version: evaluate again")
        if set(episodes) != expected:
            raise UserError(f"{path} is damaged: {len(episodes)} of {len(expected)} episodes")
        return cls(path, head, episodes)

    def of(self, task: str) -> list[dict[str, Any]]:
        """Episodes of a task."""
        return [self.episodes[task, i] for i in range(self.head["episodes"])]


@dataclass(frozen=True)
class Verdict:
    """Whether two ledgers may be compared, and how they do."""

    comparable: bool
    text: str


def compare(a: Ledger, b: Ledger) -> Verdict:
    """Compare two ledgers episode by episode, if they are of the same tasks and initial states.

    Only equal environment hashes compare: they cover the task, its options, the look of images and
    the versions of the simulator. The test is McNemar's, exact (Dietterich 1998).
    """
    reasons = []
    if missing := sorted(set(a.head["tasks"]) ^ set(b.head["tasks"])):
        reasons.append(f"only one of them has the task(s) {', '.join(missing)}")
    for task in sorted(set(a.head["tasks"]) & set(b.head["tasks"])):
        one, other = a.head["tasks"][task], b.head["tasks"][task]
        for key in ("env_args", "versions", "env_hash", "initial_states"):
            if one[key] != other[key]:
                reasons.append(f"{task}: {key} {one[key]} and {other[key]}")
        pictures = one["env_args"].get("obs", "state") != "state"
        if pictures and one.get("look") != other.get("look"):
            reasons.append(
                f"{task}: the look of pictures {one.get('look')} and {other.get('look')}"
            )
    kinds = (one["env_args"].get("obs", "state") for one in a.head["tasks"].values())
    pixels = any(kind != "state" for kind in kinds)
    if pixels and a.head["renderer"] != b.head["renderer"]:
        reasons.append(f"images by {a.head['renderer']} and by {b.head['renderer']}")
    notes = [
        f"{name}: {a.head['versions'].get(name)} and {b.head['versions'].get(name)}"
        for name in sorted({*a.head["versions"], *b.head["versions"]})
        if a.head["versions"].get(name) != b.head["versions"].get(name)
    ]
    differ = "".join(f"\n  also different: {note}" for note in notes)
    if reasons:
        return Verdict(
            False, "not comparable:" + "".join(f"\n  {reason}" for reason in reasons) + differ
        )
    pairs = [(a.episodes[key]["success"], b.episodes[key]["success"]) for key in a.episodes]
    first, second = sum(x for x, _ in pairs), sum(y for _, y in pairs)
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    n = len(pairs)
    text = (
        f"comparable: {len(a.head['tasks'])} task(s), {n} episodes from the same initial states\n"
        f"  A {a.path}: {first}/{n} = {first / n:.1%}\n"
        f"  B {b.path}: {second}/{n} = {second / n:.1%}\n"
        f"  won by A alone {only_first}, by B alone {only_second}; "
        f"exact McNemar p = {_mcnemar(only_first, only_second):.3g}"
    )
    return Verdict(True, text + differ)


def _mcnemar(b: int, c: int) -> float:
    """Two-sided probability of so uneven a split of b + c fair coins."""
    n, k = b + c, min(b, c)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n) if n else 1.0

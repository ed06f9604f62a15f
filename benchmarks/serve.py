"""The worker's side: build the variants asked for, warm up, then work only when told to.

Protocol, one JSON object per line: the worker says {"ready": [...], "failed": {name: why},
"versions": {...}, "imported": MB}, then answers {"name": ..., "secs": ...} with {"units": ...,
"cpu": ...}. Runs in any Python 3.10+ with the standard library alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

Step = Callable[[], object]
Build = Callable[[], tuple[Step, float]]

WARM_UP_SECONDS = 0.3


def serve(builders: Mapping[str, Build], packages: Sequence[str] = (), warm_up: int = 1) -> None:
    """Serve the variants named on the command line until standard input ends.

    Args:
        builders: name -> function that returns (step, units); one call of `step` does `units`.
        packages: distributions whose versions are reported.
        warm_up: calls at least made before anything is counted. A just-in-time compiler needs as
            many as it has different argument types to see.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    imported = resident("self", "VmRSS")
    ready: dict[str, tuple[Step, float]] = {}
    failed: dict[str, str] = {}
    for name in sys.argv[1:]:
        try:
            ready[name] = builders[name]()
            _warm_up(ready[name][0], warm_up)
        except Exception as error:  # reported as a skipped row
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}"[:300]
            ready.pop(name, None)
    hello = {"ready": list(ready), "failed": failed, "versions": _versions(packages)}
    _say(answers, hello | {"imported": imported})
    for line in sys.stdin:
        request = json.loads(line)
        _say(answers, measure(*ready[request["name"]], request["secs"]))


def measure(step: Step, units: float, secs: float) -> dict[str, float]:
    """Call `step` until `secs` CPU seconds are spent; units done and CPU seconds taken."""
    done, begin, cpu = 0.0, time.process_time(), 0.0
    while cpu < secs:
        step()
        done += units
        cpu = time.process_time() - begin
    return {"units": done, "cpu": cpu}


def resident(process: int | str, what: str) -> float:
    """MB that a process holds now ("VmRSS") or held at most ("VmHWM"), as Linux tells it."""
    with open(f"/proc/{process}/status", encoding="utf-8") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


def _warm_up(step: Step, calls: int) -> None:
    for _ in range(calls):
        step()
    begin = time.process_time()
    step()
    once = max(time.process_time() - begin, 1e-6)
    for _ in range(min(20, int(WARM_UP_SECONDS / once))):
        step()


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _say(stream: object, message: dict) -> None:
    print(json.dumps(message), file=stream, flush=True)

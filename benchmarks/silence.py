"""What the arm does when its policy or its link falls silent: `python -m benchmarks.silence`.

A Panda's twin runs behind rosbridge and behind Zenoh in a process of its own; a policy in another
process swings it through a TCP relay. In each trial one thing fails at a random moment:

    frozen     the policy's process is stopped (SIGSTOP), and goes on a second later
    cut        the connection is closed
    half-open  the connection stays open, but nothing passes any more; new ones work
    stalled    nothing passes for a while, then all that was sent comes at once
    burst      the link stands, but commands are held back and come all at once; in every other
               trial somebody has just armed the arm again when they come

Times are taken in the robot's process, from the arrival of the last command that was accepted.
"""

import argparse
import itertools
import json
import math
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.relay import Relay

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "silence.md"
WIRES = ("rosbridge", "zenoh")
KINDS = ("frozen", "cut", "half-open", "stalled", "burst")
LONG, SHORT = 5.0, 1.2  # s of silence, in every fifth trial and in the others
STALE = 0.150  # s
STANDING = 0.02  # rad/s
SILENCE = 0.1  # s between two joint states
LIMITS = {"hold": 0.150, "stop": 0.600, "reconnect": 2.0, "overshoot": 0.02, "drift": 0.005}
TRIES = 5


class Process:
    """A process of `benchmarks.silence_ends`."""

    def __init__(self, what: str, wire: str, port: int, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.silence_ends", what, wire, str(port), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            text=True,
        )
        self.pid = self._process.pid
        self._answer()

    def ask(self, op: str, **values: object) -> dict:
        """Has something done."""
        self._process.stdin.write(json.dumps({"op": op, **values}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process of the trials has ended: {self._process.args}")
        return json.loads(line)

    def close(self) -> None:
        """Lets it end."""
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@dataclass(frozen=True)
class Trial:
    """What was seen in a trial; s and rad.

    Attributes:
        hold: from the last good command until the arm brakes.
        stop: until it is disarmed and stands.
        reconnect: until the policy has states again, from when the link could stand again.
        overshoot: beyond where it came to rest.
        travel: from where it began to brake to where it came to rest.
        drift: how far it moved between the stop and the arming.
        unarmed: steps sent between the stop and the arming.
        stale: commands older than `STALE` that were followed.
        reordered: commands followed after a newer one.
        late: the longest delay of the robot's own loop meanwhile.
        resumed: whether it moved after it was armed again.
    """

    hold: float
    stop: float
    reconnect: float
    overshoot: float
    travel: float
    drift: float
    unarmed: int
    stale: int
    reordered: int
    late: float
    resumed: bool

    @property
    def passed(self) -> bool:
        """Whether every figure is within its limit."""
        within = all(getattr(self, name) <= limit for name, limit in LIMITS.items())
        return within and not (self.unarmed or self.stale or self.reordered) and self.resumed


class Unfit(RuntimeError):
    """The arm did not move steadily before the fault: the trial is done again."""


class Bench:
    """The three processes of one wire."""

    def __init__(self, wire: str, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.robot = Process("robot", wire, port, folder)
        self.relay = Relay(port)
        self.policy = Process("policy", wire, self.relay.port, folder)

    def trial(self, kind: str, number: int, rng: random.Random) -> Trial:
        """Lets one thing fail, and arms again.

        Raises:
            Unfit: the policy itself was too slow before the fault.
        """
        self._arm()
        self.robot.ask("take"), self.policy.ask("take")
        time.sleep(rng.uniform(0.6, 1.2))
        began = time.monotonic()
        restored = self._fail(kind, LONG if number % 5 == 0 else SHORT, number)
        time.sleep(0.5)
        self._arm()
        armed, events = time.monotonic(), []
        for _ in range(TRIES):
            time.sleep(0.4)
            events += self.robot.ask("take")["events"]
            if moves(events, armed):
                break
            self._arm()  # the policy was too slow, and stopped again
        return judge(events, self.policy.ask("take")["arrivals"], began, restored, armed)

    def _fail(self, kind: str, seconds: float, number: int) -> float:
        """Returns when the link could stand again, after it failed for long enough."""
        now = time.monotonic()
        if kind == "frozen":
            os.kill(self.policy.pid, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(self.policy.pid, signal.SIGCONT)
        elif kind == "stalled":
            self.relay.flows.clear()
            time.sleep(seconds)
            self.relay.flows.set()
        elif kind == "burst":
            end = self.policy.ask("silence", seconds=seconds)["at"] + seconds
            time.sleep(max(0.0, end - time.monotonic() - 0.15))
            if number % 2:
                self.robot.ask("arm")
            time.sleep(max(0.0, end - time.monotonic()))
            return end
        else:
            {"cut": self.relay.cut, "half-open": self.relay.mute}[kind]()
            time.sleep(SHORT)
            return now
        return time.monotonic()

    def _arm(self) -> None:
        end = time.monotonic() + 20.0
        while not (answer := self.policy.ask("arm"))["armed"]:
            if time.monotonic() > end:
                raise RuntimeError(f"the arm cannot be armed again: {answer['why']}")
            time.sleep(0.05)

    def close(self) -> None:
        """Ends all."""
        self.policy.close()
        self.relay.close()
        self.robot.close()


def moves(events: list[list], since: float) -> bool:
    """Whether the arm has moved since a moment."""
    path = [e[2] for e in events if e[0] == "read" and e[1] > since]
    return max(max(joint) - min(joint) for joint in zip(*path, strict=True)) > 0.005


def judge(
    events: list[list], arrivals: list[float], began: float, restored: float, armed: float
) -> Trial:
    """Reads a trial out of what the two processes noted.

    Args:
        events: of `silence_ends.Watched`.
        arrivals: s, of joint states at the policy.
        began: s, the fault.
        restored: s, from when on the link could stand again.
        armed: s, the last arming.
    """
    at = {what: [e[1] for e in events if e[0] == what] for what in ("brake", "halt", "armed")}
    stopped = next((t for t in at["halt"] if t > began), None)
    again = max((t for t in at["armed"] if t <= armed), default=None)
    if stopped is None or again is None or any(t < began for t in at["halt"]):
        raise Unfit("the arm was not moving, or was never stopped")
    good = [(t, sent) for what, t, *rest in events if what == "good" for sent in rest]
    last = max((t for t, _ in good if t < stopped), default=None)
    if last is None or last < began - 0.1:
        raise Unfit("the policy was slow before the fault")
    followed = max(t for what, t, *_ in events if what == "followed" and t < stopped)
    braked = next((t for t in at["brake"] if followed < t < stopped), stopped)
    reads = [(t, q, v) for what, t, *rest in events if what == "read" for q, v in [rest]]
    rest = next(t for t, _, v in reads if t >= stopped and v < STANDING)
    armings = [t for t in at["armed"] if t > stopped]
    between = [t for what, t, *_ in events if what == "write" and stopped < t < min(armings)]
    held = [q for t, q, _ in reads if rest <= t < again]
    if not held:
        raise Unfit("the link was back before the watchdog acted")
    path = [q for t, q, _ in reads if braked <= t < again]
    beyond = max(
        max(q - max(a, b), min(a, b) - q)
        for a, b, joint in zip(path[0], held[-1], zip(*path, strict=True), strict=True)
        for q in joint
    )
    later = [(a, b) for a, b in itertools.pairwise(arrivals) if b > max(began, restored)]
    silences = [b for a, b in later if b - a > SILENCE] or [b for _, b in later[:1]]
    times = [t for t, _, _ in reads if began <= t <= rest]
    sent = [stamp for _, stamp in good]
    return Trial(
        hold=braked - last,
        stop=rest - last,
        reconnect=max(silences, default=math.inf) - restored,
        overshoot=max(0.0, beyond),
        travel=max(abs(a - b) for a, b in zip(path[0], held[-1], strict=True)),
        drift=max(abs(a - b) for q in held for a, b in zip(q, held[-1], strict=True)),
        unarmed=len(between),
        stale=sum(t - stamp > STALE for t, stamp in good),
        reordered=sum(b <= a for a, b in itertools.pairwise(sent)),
        late=max(b - a for a, b in itertools.pairwise(times)) - 0.01,
        resumed=moves(events, armed),
    )


def trials(wire: str, kind: str, count: int, seed: int = 0) -> tuple[list[Trial], int]:
    """Makes trials; returns them and how many had to be made again.

    Raises:
        Unfit: too many had to.
    """
    rng, found, unfit = random.Random(f"{seed} {wire} {kind}"), [], 0
    with tempfile.TemporaryDirectory(prefix="embodied-silence-") as folder:
        bench = Bench(wire, Path(folder))
        try:
            while len(found) < count:
                try:
                    found.append(bench.trial(kind, len(found), rng))
                except Unfit:
                    unfit += 1
                    if unfit > TRIES + count:
                        raise
        finally:
            bench.close()
    return found, unfit


def main() -> int:
    """Command line; 1 if a figure is not met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.silence", description=__doc__)
    parser.add_argument("--trials", type=int, default=50, help="of each kind, on each wire")
    parser.add_argument("--wire", action="append", choices=WIRES)
    parser.add_argument("--kind", action="append", choices=KINDS)
    parser.add_argument("--ledger", type=Path, help="JSON lines to add results to")
    parser.add_argument("--page", type=Path, help="write the page from the ledger, and do no more")
    chosen = parser.parse_args()
    if chosen.page:
        results = [json.loads(text) for text in chosen.ledger.read_text().splitlines()]
        chosen.page.write_text(page(results), encoding="utf-8")
        return 0
    met = True
    for wire in chosen.wire or WIRES:
        for kind in chosen.kind or KINDS:
            before = os.getloadavg()[0]
            found, unfit = trials(wire, kind, chosen.trials)
            result = {"wire": wire, "kind": kind, "trials": [asdict(t) for t in found]}
            result |= {"unfit": unfit, "load": [before, os.getloadavg()[0]]}
            if chosen.ledger:
                with chosen.ledger.open("a") as file:
                    file.write(json.dumps(result) + "\n")
            met &= all(trial.passed for trial in found)
            print(row(result), flush=True)
            for trial in found:
                if not trial.passed:
                    print("   ", trial, flush=True)
    return 0 if met else 1


HEADINGS = (
    "wire | fault | trials | hold, ms | stop, ms | reconnect, ms | loop late, ms | "
    "overshoot, rad | drift, rad | stale | reordered | unarmed | within limits | load"
)
INTRODUCTION = """# When the policy or the link falls silent

{doc}
- **hold**: until the arm brakes; at most 150 ms. **stop**: until it is disarmed and stands (below
  0.02 rad/s); at most 600 ms. Both from the arrival of the last command that was accepted.
- **reconnect**: until the policy has joint states again, with none of them missing for more than
  0.1 s afterwards, from when the link could stand again (the thawing, the cut, the muting, the end
  of the silence); at most 2 s.
- **loop late**: the longest delay of the robot's own loop between fault and stop; what it adds to
  the others is the scheduler's. The robot's process asks for real-time priority, as on a robot.
- **overshoot**: how far a joint went beyond where it came to rest; below 0.02 rad. **drift**: how
  far it moved between the stop and the arming.
- **stale**, **reordered**: commands followed although older than 150 ms, or after a newer one.
  **unarmed**: steps sent between the stop and the arming. All must be 0.

Times are median / largest of all trials. A trial is within limits if all of that holds, and if the
arm moves again after it is armed. The silence is 5 s in every fifth trial, else 1.2 s. Trials in
which the policy itself was too slow before the fault, or the link was back before the watchdog had
to act, were made again (their number in brackets).
Load is the machine's load average on {cores} cores; one wire and one fault at a time.

"""
REPRODUCE = """
```
python -m benchmarks.silence --trials 50 --ledger silence.jsonl
python -m benchmarks.silence --ledger silence.jsonl --page docs/silence.md
```
"""


def row(result: dict) -> str:
    """One line of the table."""
    found = [Trial(**values) for values in result["trials"]]
    cells = [result["wire"], result["kind"], f"{len(found)} ({result['unfit']})"]
    for name in ("hold", "stop", "reconnect", "late"):
        values = [1e3 * getattr(trial, name) for trial in found]
        cells.append(f"{statistics.median(values):.0f} / {max(values):.0f}")
    cells += [f"{max(getattr(t, name) for t in found):.4f}" for name in ("overshoot", "drift")]
    cells += [str(sum(getattr(t, n) for t in found)) for n in ("stale", "reordered", "unarmed")]
    cells.append(f"{sum(trial.passed for trial in found)} of {len(found)}")
    cells.append(" to ".join(f"{load:.1f}" for load in result["load"]))
    return "| " + " | ".join(cells) + " |"


def page(results: list[dict]) -> str:
    """docs/silence.md."""
    doc = __doc__.split("\n", 2)[2]
    order = {(wire, kind): i for i, (wire, kind) in enumerate((w, k) for w in WIRES for k in KINDS)}
    results = sorted(results, key=lambda result: order[result["wire"], result["kind"]])
    text = INTRODUCTION.format(doc=doc, cores=os.cpu_count())
    text += f"| {HEADINGS} |\n" + "|" + " --- |" * len(HEADINGS.split("|")) + "\n"
    text += "\n".join(row(result) for result in results) + "\n\n## Trials out of limits\n\n"
    for result in results:
        for number, values in enumerate(result["trials"]):
            if not (trial := Trial(**values)).passed:
                text += f"- {result['wire']}, {result['kind']}, number {number}: {trial}\n"
    return text + REPRODUCE


if __name__ == "__main__":
    sys.exit(main())

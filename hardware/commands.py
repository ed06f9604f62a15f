"""What a person does with a robot: check, serve, reset. For `embodied hardware` and
`python -m hardware`, which a robot's computer has without torch.
"""

import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from hardware.errors import HardwareError
from hardware.robots import TRANSPORTS, connected, find, make_wire
from hardware.wire import Wire

USAGE = """\
usage: python -m hardware check|serve|reset KEY=VALUE ...

  check robot=panda_twin [transport=local|zenoh|rosbridge|rclpy] [address=...]
        [motion=true] [seconds=2]   the robot against its contract; exit status 1 if it fails.
                                    motion=true also turns the last joint by a few degrees
  serve robot=panda_twin transport=zenoh|rosbridge [address=...]
                                    a twin for others to connect to, until Ctrl-C
  reset robot=... reason="what happened, and why it is safe now"
        [transport=... address=...] [by=...]
                                    clears a latched stop, on the machine beside the robot

robot is panda_twin or a YAML file (hardware/robots.py shows one); limits=FILE and
limits.KEY=VALUE change what the safety envelope enforces.
"""
_COMMON = ("robot", "transport", "address", "limits")
_KEYS = {"check": ("motion", "seconds"), "serve": (), "reset": ("reason", "by")}


class WrongUse(HardwareError, ValueError):
    """The command was called wrongly; the message says how."""


def run(action: str, words: Sequence[str]) -> int:
    """Does what was asked; returns the exit status, 2 for what the user can mend."""
    try:
        return _ACTIONS[action](_values(action, words))
    except (HardwareError, ImportError) as error:
        print(f"embodied: {error}", file=sys.stderr)
        return 2


def main(words: Sequence[str]) -> int:
    """`python -m hardware`."""
    if not words or words[0] not in _ACTIONS:
        wrong = bool(words) and words[0] not in ("-h", "--help")
        print(USAGE, end="", file=sys.stderr if wrong else sys.stdout)
        return 2 if wrong else 0
    if any(word in ("-h", "--help") for word in words):
        print(USAGE, end="")
        return 0
    try:
        return run(words[0], words[1:])
    except KeyboardInterrupt:
        return 130


def _values(action: str, words: Sequence[str]) -> dict[str, Any]:
    """What `KEY=VALUE` words say; `changes` are those of limits."""
    known = (*_COMMON, *_KEYS[action])
    values: dict[str, Any] = {"changes": {}}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign:
            raise WrongUse(f"{word!r}: settings look like key=value")
        if key.startswith("limits."):
            values["changes"][key.removeprefix("limits.")] = yaml.safe_load(text)
        elif key in known:
            values[key] = text
        else:
            raise WrongUse(f"hardware {action} has no {key!r}; it takes {', '.join(known)}")
    if "robot" not in values:
        raise WrongUse(f"say which robot: hardware {action} robot=panda_twin")
    if values.setdefault("transport", "local") not in TRANSPORTS:
        raise WrongUse(f"transport={values['transport']!r}; it is one of {', '.join(TRANSPORTS)}")
    return values


def _options(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"limits": values.get("limits"), "changes": values["changes"]}


def _wire(values: Mapping[str, Any]) -> Wire | None:
    if values["transport"] == "local":
        return None
    try:
        return make_wire(values["transport"], values.get("address", ""))
    except ValueError as error:  # no such address
        raise WrongUse(str(error)) from error


def _check(values: Mapping[str, Any]) -> int:
    from hardware.conformance import FAIL, Check

    motion = values.get("motion", "false")
    if motion not in ("true", "false"):
        raise WrongUse(f"motion={motion}: say true or false")
    arm = find(values["robot"], **_options(values))
    try:
        seconds = float(values.get("seconds", 2.0))
    except ValueError as error:
        raise WrongUse(f"seconds={values['seconds']}: a number is needed") from error
    wire = _wire(values)
    rows = Check(arm, connected(arm, wire), wire, seconds).run(motion == "true")
    failed = sum(row.verdict == FAIL for row in rows)
    _print_table(f"{arm.name} over {values['transport']}", rows)
    moved = "" if motion == "true" else "; nothing moved (motion=true tries that too)"
    print(f"embodied: {failed} of {len(rows)} checks failed{moved}")
    return int(failed > 0)


def _print_table(title: str, rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "what", "should be", "is", title=title, box=None, title_justify="left")
    styles = {"ok": "green", "note": "yellow", "FAIL": "bold red"}
    for what, expected, seen, verdict in rows:
        table.add_row(Text(verdict, styles[verdict]), Text(what), Text(expected), Text(seen))
    Console().print(table)


def _serve(values: Mapping[str, Any]) -> int:
    from hardware.robots import PORTS
    from hardware.serving import serve

    transport = values["transport"]
    if transport not in PORTS:
        raise WrongUse(f"a twin is served over {' or '.join(PORTS)}: transport=zenoh")
    scheme = "tcp" if transport == "zenoh" else "ws"
    address = values.get("address") or f"{scheme}://127.0.0.1:{PORTS[transport]}"
    if transport == "zenoh":
        address = address.replace("tcp://", "tcp/")

    def ready(at: str) -> None:
        print(f"embodied: {values['robot']} over {transport} at {at}; Ctrl-C ends it", flush=True)

    options = _options(values)
    try:
        serve(values["robot"], transport, address, threading.Event(), options=options, ready=ready)
    except KeyboardInterrupt:
        print("embodied: ended")
    return 0


def _reset(values: Mapping[str, Any]) -> int:
    from hardware.latch import Latch

    reason = values.get("reason", "").strip()
    if not reason:
        raise WrongUse('a reset needs reason="what happened, and why it is safe now"')
    arm = find(values["robot"], **_options(values))
    why = Latch(arm.name).tripped
    if why is None:
        print(f"embodied: the stop of {arm.name} is not latched on this machine")
        return 0
    with connected(arm, _wire(values)) as robot:
        robot.connect()
        if robot.limits.deadman_age and not arm.spec.simulated:
            threading.Event().wait(2.0 * robot.limits.deadman_age)  # to hear a switch that is held
        robot.reset_stop(reason, values.get("by"))
    print(f"embodied: reset ({why['cause']}: {why['detail']}); {robot.latch.log} keeps the reason")
    return 0


_ACTIONS = {"check": _check, "serve": _serve, "reset": _reset}

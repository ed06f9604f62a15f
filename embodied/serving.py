"""`embodied serve`: a run's policy behind a websocket, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embodied.actors import Trained, is_run
from embodied.core.types import UserError
from embodied.settings import take
from hardware.policy_server import PolicyServer
from hardware.policy_wire import ACTION, read_token


def command(overrides: Sequence[str]) -> int:
    """Serve until a signal ends it."""
    policy, rest = take(overrides, "policy")
    if not policy or not is_run(policy):
        raise UserError(
            f"{policy or 'nothing'} cannot be served: say which run, embodied serve policy=RUN"
        )
    host, rest = take(rest, "host")
    token_file, rest = take(rest, "token_file")
    options = {"port": 8000, "clients": 8, "idle": 600}
    for override in rest:
        key, _, value = override.partition("=")
        if key not in options or not value.isdecimal():
            raise UserError(
                "embodied serve takes policy=RUN, host=ADDRESS, port=N, token_file=PATH, "
                f"clients=N and idle=SECONDS, not {override!r}"
            )
        options[key] = int(value)
    token = read_token(token_file)
    with serve(policy, host=host or "127.0.0.1", token=token, tell=_say, **options) as server:
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        maps = {name: str(column) for name, column in server.columns.items()}
        action = maps.pop(ACTION)
        _say(f"{policy} maps {', '.join(f'{n} {c}' for n, c in maps.items())} to action {action}")
        _say(f"serving at {server.url}{'' if token is None else ' with a token'}; Ctrl-C ends")
        stop.wait()
    counts = ", ".join(f"{count} {what}" for what, count in sorted(server.counts.items()))
    _say(f"ended; {counts or 'nobody came'}")
    return 0


def serve(run: str | Path, **options: Any) -> PolicyServer:
    """A server of a run's policy; it listens already.

    Args:
        run: run directory.
        options: see `PolicyServer`.

    Raises:
        UserError: there is no such run.
        HardwareError: it may not or cannot listen there.
    """
    trained = Trained(Path(run))
    (observed,) = (name for name in trained.columns if name != ACTION)

    def act(rows: list[dict[str, Any]]) -> list[np.ndarray]:
        observations = [np.array(row["observation"][observed]) for row in rows]  # torch may write
        return trained.act(range(len(rows)), observations)

    about = {key: value for key, value in trained.description.items() if key != "name"}
    name = trained.description["name"]
    return PolicyServer(act, trained.columns, name=name, about=about, **options)


def _say(text: str) -> None:
    print(f"embodied: {text}", flush=True)

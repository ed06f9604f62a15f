"""A state observation to a policy server and an action back, over loopback; both ends are here.

`python -m benchmarks.workers.policy_round_trip` alone prints the waiting times of both variants.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time

import msgpack
import numpy as np
from websockets.asyncio.server import serve as listen
from websockets.sync.client import connect

from benchmarks.serve import serve
from hardware.policy_client import RemotePolicy
from hardware.policy_server import PolicyServer
from hardware.policy_wire import Column

STATE, ACTION = np.linspace(-1, 1, 39, dtype=np.float32), np.zeros(4, np.float32)
ROUNDS, TRIPS = 7, 300


def ours():
    columns = {"observation.state": Column("float32", (39,)), "action": Column("float32", (4,))}
    server = PolicyServer(lambda rows: [ACTION] * len(rows), columns, name="bench", port=0)
    policy = RemotePolicy(server.url)
    row = {"episode": 1, "step": 0, "task": "door", "observation": {"observation.state": STATE}}
    return lambda: policy.act([row]), 1


def bare():
    """What `websockets` and `msgpack` need for the same payload, with nothing checked."""

    def read(m):
        return np.frombuffer(m["data"], m["dtype"]).reshape(m["shape"]) if "data" in m else m

    def write(a):
        return {"data": a.tobytes(), "dtype": a.dtype.str, "shape": a.shape}

    async def answer(link):
        async for frame in link:
            rows = msgpack.unpackb(frame, object_hook=read)["rows"]
            await link.send(
                msgpack.packb({"id": 1, "actions": [ACTION] * len(rows)}, default=write)
            )

    ready, port = threading.Event(), []

    async def run():
        async with listen(answer, "127.0.0.1", 0, compression=None) as server:
            port.append(server.sockets[0].getsockname()[1])
            ready.set()
            await server.serve_forever()

    threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()
    ready.wait()
    link = connect(f"ws://127.0.0.1:{port[0]}", compression=None, proxy=None).__enter__()
    row = {"episode": 1, "step": 0, "task": "door", "observation": {"observation.state": STATE}}

    def step():
        link.send(msgpack.packb({"id": 1, "rows": [row]}, default=write))
        return msgpack.unpackb(link.recv(), object_hook=read)

    return step, 1


VARIANTS = {"ours": ours, "bare": bare}


def waits() -> None:
    """Prints p50 and p99 of both, in ms, over interleaved rounds; ours does no inference."""
    steps = {name: build()[0] for name, build in VARIANTS.items()}
    found: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(ROUNDS):
        for name in list(steps)[:: 1 if i % 2 else -1]:
            for _ in range(TRIPS):
                start = time.perf_counter()
                steps[name]()
                found[name].append(1e3 * (time.perf_counter() - start))
    for name, values in found.items():
        low, high = np.quantile(values, [0.5, 0.99])
        print(f"{name}: p50 {low:.2f} ms, p99 {high:.2f} ms of {len(values)} round trips")


if __name__ == "__main__":
    if sys.argv[1:]:
        serve(VARIANTS, ["websockets", "msgpack", "numpy"])
    else:
        waits()

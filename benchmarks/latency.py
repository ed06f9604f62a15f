"""How long things take on the robot's side: `python -m benchmarks.latency`.

Latencies are wall times between two processes on loopback, at 200 messages per second, from the
call that publishes a finished message to the call of the receiver; the bare library carries the
same message in the same rounds. Rounds alternate between the two. All processes ask for real-time
priority, as the control process does.
"""

import argparse
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from hardware import Command, Robot, load_limits, messages
from hardware.latch import Latch
from hardware.loop import LoopProcess, Timing, take_priority
from hardware.mirror import MirrorDriver
from hardware.twin import HOME, panda_twin

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "latency.md"
TOPIC, KEY, PERIOD = "/joint_states", "bench/joint_states", 0.005
WIRES = {
    "zenoh": ("JointState over Zenoh", 0.5, 2.0),
    "bare-zenoh": ("the same bytes by eclipse-zenoh alone", None, None),
    "rosbridge": ("JointState over rosbridge (CBOR)", 1.0, None),
    "roslibpy": ("the same as JSON, received by roslibpy", None, None),
    "bare-rosbridge": ("the same as JSON by websockets alone", None, None),
}


def joint_state() -> messages.Message:
    """A JointState of seven joints that tells when it was sent: now."""
    names = [f"panda_joint{i}" for i in range(1, 8)]
    values = np.linspace(-1.0, 1.0, 7)
    message = messages.joint_state(names, values, values, values, stamp=0.0)
    message["header"]["stamp"] = messages.time_message(time.monotonic())
    return message


def sent(message: messages.Message) -> float:
    """s when it was sent."""
    return messages.seconds(message["header"]["stamp"])


# --- the four ways, each as a sender here and a receiver in another process ----------------------


def send_zenoh(port: int) -> tuple[Callable[[], None], Callable[[], None]]:
    from hardware.zenoh_ros import ZenohWire

    wire = ZenohWire((), listen=[f"tcp/127.0.0.1:{port}"])
    publish = wire.publisher(TOPIC, messages.JOINT_STATE)
    return lambda: publish(joint_state()), wire.close


def receive_zenoh(port: int, hear: Callable[[float], None]) -> Callable[[], None]:
    from hardware.zenoh_ros import ZenohWire

    wire = ZenohWire([f"tcp/127.0.0.1:{port}"], wait=5.0)
    wire.subscribe(TOPIC, messages.JOINT_STATE, lambda message, _: hear(sent(message)))
    return wire.close


def _session(**options: object) -> object:
    import zenoh

    config = zenoh.Config()
    config.insert_json5("scouting/multicast/enabled", "false")
    for key, value in options.items():
        config.insert_json5(key.replace("_", "/"), json.dumps(value))
    return zenoh.open(config)


def send_bare_zenoh(port: int) -> tuple[Callable[[], None], Callable[[], None]]:
    from hardware import cdr

    session = _session(listen_endpoints=[f"tcp/127.0.0.1:{port}"])
    publisher = session.declare_publisher(KEY, express=True)
    rest = cdr.encode(messages.JOINT_STATE, joint_state())
    return lambda: publisher.put(rest + np.float64(time.monotonic()).tobytes()), session.close


def receive_bare_zenoh(port: int, hear: Callable[[float], None]) -> Callable[[], None]:
    session = _session(mode="client", connect_endpoints=[f"tcp/127.0.0.1:{port}"])

    def come(sample: object) -> None:
        hear(float(np.frombuffer(sample.payload.to_bytes()[-8:])[0]))

    kept = session.declare_subscriber(KEY, come)
    return lambda: (kept.undeclare(), session.close())


def send_rosbridge(port: int) -> tuple[Callable[[], None], Callable[[], None]]:
    from hardware.rosbridge import RosbridgeServer

    server = RosbridgeServer("127.0.0.1", port)
    publish = server.publisher(TOPIC, messages.JOINT_STATE)
    return lambda: publish(joint_state()), server.close


def receive_rosbridge(port: int, hear: Callable[[float], None]) -> Callable[[], None]:
    from hardware.rosbridge import RosbridgeWire

    wire = RosbridgeWire(f"ws://127.0.0.1:{port}", timeout=5.0)
    wire.subscribe(TOPIC, messages.JOINT_STATE, lambda message, _: hear(sent(message)))
    return wire.close


send_roslibpy = send_rosbridge


def receive_roslibpy(port: int, hear: Callable[[float], None]) -> Callable[[], None]:
    import roslibpy

    client = roslibpy.Ros("127.0.0.1", port)
    client.run(timeout=10)
    topic = roslibpy.Topic(client, TOPIC, "sensor_msgs/JointState")
    topic.subscribe(lambda message: hear(sent(message)))
    return client.terminate


def send_bare_rosbridge(port: int) -> tuple[Callable[[], None], Callable[[], None]]:
    from websockets.sync.server import serve

    peers: list = []

    def welcome(peer: object) -> None:
        peers.append(peer)
        for _ in peer:
            pass

    server = serve(welcome, "127.0.0.1", port, compression=None)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def send() -> None:
        message = {
            key: value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in joint_state().items()
        }
        text = json.dumps({"op": "publish", "topic": TOPIC, "msg": message})
        for peer in peers:
            peer.send(text)

    return send, server.shutdown


def receive_bare_rosbridge(port: int, hear: Callable[[float], None]) -> Callable[[], None]:
    from websockets.sync.client import connect

    link = connect(f"ws://127.0.0.1:{port}", compression=None, proxy=None)

    def run() -> None:
        for text in link:
            hear(sent(json.loads(text)["msg"]))

    threading.Thread(target=run, daemon=True).start()
    return link.close


def receiver(name: str, port: int) -> None:
    """The other process: prints ms of each message once standard input ends."""
    took: list[float] = []
    close = globals()[f"receive_{name.replace('-', '_')}"](
        port, lambda at: took.append(1e3 * (time.monotonic() - at))
    )
    print("ready", flush=True)
    sys.stdin.read()
    print(json.dumps(took), flush=True)
    close()


def wire(name: str, count: int) -> list[float]:
    """ms of each message on one of `WIRES`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    send, close = globals()[f"send_{name.replace('-', '_')}"](port)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.latency", "--receive", name, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )
    try:
        process.stdout.readline()
        time.sleep(0.3)
        warm, due = 50, time.monotonic()
        for _ in range(warm + count):
            send()
            due += PERIOD
            time.sleep(max(0.0, due - time.monotonic()))
        time.sleep(0.2)
        took = json.loads(process.communicate(timeout=20)[0])
    finally:
        process.kill()
        process.wait()
        close()
    return took[warm:]


# --- what has no peer -----------------------------------------------------------------------------


def _mirror(folder: str, rate: float, clock: Callable[[], float] = time.monotonic) -> Robot:
    limits = load_limits("panda")
    spec = limits.spec("bench", command_rate=rate, simulated=True)
    driver = MirrorDriver(spec, np.array(HOME), clock)
    return Robot(driver, limits, latch=Latch("bench", folder), clock=clock)


def envelope(count: int) -> list[float]:
    """Microseconds of each command: two of three on a path, one a random jump."""
    now = [100.0]
    with tempfile.TemporaryDirectory() as folder:
        robot = _mirror(folder, 100.0, lambda: now[0])
        robot.connect()
        lease, rng, took = robot.activate("bench"), np.random.default_rng(0), []
        for i in range(count):
            now[0] += 0.01
            position = robot.read().position
            wanted = np.array(HOME) + 0.4 * np.sin(0.7 * now[0] + np.arange(7))
            if i % 3 == 0:
                wanted = position + rng.normal(size=7) * 0.3
            command = Command(wanted, now[0], i)
            begin = time.perf_counter()
            robot.command(command, lease)
            took.append(1e6 * (time.perf_counter() - begin))
    return took


def interpolation(seconds: float) -> float:
    """Share of periods that ended late, in percent, of the control process at 500 Hz."""
    with tempfile.TemporaryDirectory() as folder:
        spec = load_limits("panda").spec("bench", command_rate=500.0, simulated=True)
        with LoopProcess(partial(_mirror, folder, 500.0), spec, Timing(0.05)) as loop:
            loop.arm("bench")
            loop.wait(0.5)
            before, end = loop.observe(), time.monotonic() + seconds
            while time.monotonic() < end:
                seen = loop.observe().state
                times = seen.stamp + 0.05 * np.arange(10)[:, None]
                chunk = np.array([*HOME, 0.04]) + 0.1 * np.sin(times - before.state.stamp)
                loop.send(chunk, float(times[0, 0]), seen.stamp)
                loop.wait(0.05)
            after = loop.observe()
    return 100.0 * (after.overruns - before.overruns) / (after.steps - before.steps)


def real_time_factor(seconds: float) -> float:
    """Simulated seconds per CPU second of the twin, read and written at 100 Hz."""
    now = [0.0]
    twin = panda_twin(clock=lambda: now[0], live=False)
    twin.connect()
    twin.activate()
    begin = time.process_time()
    for _ in range(round(100 * seconds)):
        now[0] += 0.01
        twin.read()
        twin.write(np.array(HOME) + 0.1 * math.sin(now[0]), np.zeros(7), None)
    return seconds / (time.process_time() - begin)


# --- the table ------------------------------------------------------------------------------------

HEAD = "| what | unit | p50 | p99 | goal | met |\n| --- | --- | --- | --- | --- | --- |"


def row(what: str, unit: str, values: list[float], goals: tuple[float | None, float | None]) -> str:
    """One line: p50 and p99, which may be at most their goals."""
    found = np.quantile(values, [0.5, 0.99])
    named = [(f"p{n} {g:g}", v <= g) for n, v, g in zip((50, 99), found, goals, strict=True) if g]
    met = "" if not named else "yes" if all(ok for _, ok in named) else "**no**"
    goal = ", ".join(name for name, _ in named)
    return f"| {what} | {unit} | {found[0]:.3g} | {found[1]:.3g} | {goal} | {met} |"


def measure(quick: bool = False) -> list[str]:
    """All rows of the table; prints each."""
    rounds, count = (1, 50) if quick else (4, 500)
    took: dict[str, list[float]] = {name: [] for name in WIRES}
    for number in range(rounds):
        for name in WIRES if number % 2 == 0 else reversed(WIRES):
            took[name] += wire(name, count)
    lines = [row(WIRES[n][0], "ms", took[n], WIRES[n][1:]) for n in WIRES]
    times = envelope(500 if quick else 5_000)
    lines.append(row("safety envelope, one command", "us", times, (None, 200.0)))
    late = interpolation(1.0 if quick else 10.0)
    met = "yes" if late < 0.5 else "**no**"
    lines.append(
        f"| interpolation at 500 Hz, periods late | % | {late:.2f} | | below 0.5 | {met} |"
    )
    factor = real_time_factor(1.0 if quick else 10.0)
    met = "yes" if factor >= 5.0 else "**no**"
    lines.append(f"| twin at 1 kHz, of real time (CPU) | x | {factor:.1f} | | 5 | {met} |")
    print(HEAD, *lines, sep="\n", flush=True)
    return lines


def page(lines: list[str], load: tuple[float, float]) -> str:
    """docs/latency.md."""
    return "\n".join(
        [
            "# Latencies on the robot's side",
            "",
            *__doc__.split("\n")[2:],
            HEAD,
            *lines,
            "",
            f"Load average {load[0]:.1f} to {load[1]:.1f} on {os.cpu_count()} cores while this was "
            "measured: the 99th",
            "percentiles of a busy machine are the scheduler's. The goals are for an idle one.",
            "",
            "```\npython -m benchmarks.latency --page docs/latency.md\n```",
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--receive", nargs=2, metavar=("NAME", "PORT"), help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    parser.add_argument("--page", type=Path, help="write the page here")
    chosen = parser.parse_args(arguments)
    if chosen.receive:
        receiver(chosen.receive[0], int(chosen.receive[1]))
        return 0
    take_priority()
    before = os.getloadavg()[0]
    lines = measure(chosen.quick)
    if chosen.page:
        chosen.page.write_text(page(lines, (before, os.getloadavg()[0])), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

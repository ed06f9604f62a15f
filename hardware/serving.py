"""A twin behind a wire: in this process, or in one of its own beside a policy."""

import contextlib
import multiprocessing
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from hardware.errors import HardwareError, LinkLost
from hardware.robot import Robot
from hardware.robots import Arm, find, make_wire
from hardware.ros_server import RobotServer

START_SECONDS = 60.0  # imports and the first picture


def serve(
    robot: str | Arm,
    transport: str,
    address: str,
    stop: threading.Event,
    *,
    options: Mapping[str, Any] | None = None,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serves a twin until told to stop.

    Args:
        robot: see `hardware.robots.find`.
        transport: "zenoh" or "rosbridge".
        address: where to listen, see `make_wire`.
        stop: ends it.
        options: further arguments of `find`.
        ready: told the address once it is served.

    Raises:
        HardwareError: it is no twin, or the address is taken.
    """
    arm = find(robot, **(options or {}))
    twin = arm.twin()
    wire = make_wire(transport, address, serve=True)
    made = Robot(twin, arm.limits)
    server = RobotServer(made, wire, arm.topics, fingers=arm.fingers)
    with contextlib.closing(server):
        ready(getattr(wire, "url", address))
        server.run(stop)


class TwinProcess:
    """A twin served by a process of its own, on loopback.

    Attributes:
        address: for `make_wire`.
        process: it.
    """

    def __init__(
        self,
        robot: str | Arm,
        transport: str,
        *,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts it and waits until it is served.

        Raises:
            HardwareError: it could not be served; the message says why.
        """
        address = f"tcp/127.0.0.1:{free_port()}" if transport == "zenoh" else "ws://127.0.0.1:0"
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        self.process = context.Process(
            target=_serve,
            args=(robot, transport, address, dict(options or {}), far),
            name=f"twin {getattr(robot, 'name', robot)}",
        )
        self.process.start()
        far.close()
        self.address = self._answer()

    def _answer(self) -> str:
        try:
            if not self._pipe.poll(START_SECONDS):
                raise LinkLost("the twin's process does not answer")
            problem, address = self._pipe.recv_bytes().decode().split("\n", 1)
        except (EOFError, OSError) as error:
            raise LinkLost("the twin's process has ended") from error
        if problem:
            self.process.join(5.0)
            raise HardwareError(problem)
        return address

    def close(self) -> None:
        """Ends it."""
        self._pipe.close()  # which it notices
        self.process.join(5.0)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()


def free_port() -> int:
    """A TCP port of loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _serve(
    robot: str | Arm,
    transport: str,
    address: str,
    options: dict[str, Any],
    pipe: Connection,
) -> None:
    """The twin's process: serves until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the policy's; it ends us
    stop = threading.Event()

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            pipe.recv_bytes()
        stop.set()

    def ready(at: str) -> None:
        pipe.send_bytes(f"\n{at}".encode())
        threading.Thread(target=watch, daemon=True).start()

    try:
        serve(robot, transport, address, stop, options=options, ready=ready)
    except Exception as error:  # whoever started us must read it
        with contextlib.suppress(OSError):
            text = f"{type(error).__name__}: {error}".replace("\n", " ")
            pipe.send_bytes(f"{text}\n".encode())

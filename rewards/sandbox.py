"""Programs nobody has read, run in a process that can do little.

What holds on Linux on x86-64 and arm64, as any user, also in containers and without namespaces:

- time: the processor time and the wall time of a program are limited, then it is killed;
- memory: the address space is limited;
- processes: none can be started, by a seccomp filter, so a fork bomb is one failed call; threads
  can;
- network: no socket of any kind can be made, by the same filter, and where the kernel lets a user
  make namespaces the process also is in a network of its own that has no interface. `asyncio` and
  `multiprocessing` do not work;
- files: by Landlock (Linux 5.13) only an empty directory of its own can be written, which is
  removed at the end, and only Python's own directories and the system's libraries can be read. One
  file's size is limited; their number is not, but by the time there is;
- other processes cannot be signalled or looked into; no right of root is left;
- the environment is empty but for PATH, HOME and the like; nothing is inherited but three pipes; of
  what it prints as much is kept as the limit says, and it is killed at the limit.

Elsewhere (macOS, other processors, older kernels) time, memory and file size are limited as above,
and what else holds is found out by trying: a program is refused, before its first line, unless all
of `LAYERS` hold, or fewer are asked for. This is no virtual machine: a hole in the kernel is a
way out.

The results come through a pipe with a number that only this process and the jail know. What a
program prints, or how it exits, is no result. The jail shares its interpreter with the program: one
written to search the interpreter's memory for the number could forge a result. Where that matters,
compare what is printed, out here.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from embodied.core.types import UserError
from rewards import jail

ENDED, TIME, OUTPUT, KILLED = "ended", "time", "output", "killed"
THREADS = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)
MIB = 2**20
LAYERS = jail.LAYERS


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        seconds: of wall time.
        cpu_seconds: of processor time.
        memory: MiB of address space.
        file_size: MiB of one file.
        output: bytes that it may print.
    """

    seconds: float = 10.0
    cpu_seconds: float = 5.0
    memory: int = 1024
    file_size: int = 1
    output: int = 65536

    def __post_init__(self) -> None:
        if min(self.seconds, self.cpu_seconds, self.memory, self.file_size, self.output) <= 0:
            raise ValueError(f"limits must be positive, got {self}")

    def resources(self) -> dict[str, tuple[int, int]]:
        """Soft and hard limits by the names of the resource module."""
        cpu = math.ceil(self.cpu_seconds)
        return {
            "CPU": (cpu, cpu + 1),
            "AS": (self.memory * MIB,) * 2,
            "FSIZE": (self.file_size * MIB,) * 2,
            "NOFILE": (64, 64),
            "CORE": (0, 0),
        }


@dataclass(frozen=True)
class Outcome:
    """What became of a program.

    Attributes:
        status: ended (by itself), time, output (printed too much) or killed (by a signal).
        errors: by file, the error it ended with, or None; files that never ended have no entry.
        printed: what it wrote to stdout and stderr, up to the limit.
    """

    status: str
    errors: tuple[str | None, ...]
    printed: str


class SandboxError(UserError):
    """This machine cannot keep a program in."""


def run(
    files: Mapping[str, str],
    limits: Limits,
    *,
    stdin: str = "",
    required: Sequence[str] = LAYERS,
) -> Outcome:
    """Run files one after the other in one fresh interpreter and one module, `__main__`.

    A first file that fails ends it; the others are its tests, and are all run.

    Args:
        files: name -> source.
        limits: what they may use together.
        stdin: what the first may read.
        required: which of `LAYERS` must hold.

    Raises:
        SandboxError: they do not; nothing was run.
    """
    nonce = secrets.token_hex(16)
    with (
        tempfile.TemporaryDirectory(prefix="embodied-") as folder,
        tempfile.TemporaryFile() as given,
    ):
        for name, source in files.items():
            Path(folder, name).write_text(source, encoding="utf-8", errors="replace")
        given.write(stdin.encode())
        given.seek(0)
        order = {
            "nonce": nonce,
            "limits": limits.resources(),
            "required": list(required),
            "files": list(files),
        }
        process, results = _start(order, folder, given)
        status, printed, said = _watch(process, results, limits)
    held, errors = _results(said, nonce)
    if status == ENDED and held is None:
        raise SandboxError(f"the sandbox did not start: {printed.strip() or process.returncode}")
    if held is not None and not set(required) <= held:
        missing = ", ".join(sorted(set(required) - held))
        raise SandboxError(
            f"this machine cannot close off {missing} for a program (see rewards/sandbox.py); ask "
            "for less only if you trust what is run"
        )
    return Outcome(status, tuple(errors), printed)


def _start(order: Mapping, folder: str, stdin: object) -> tuple[subprocess.Popen, int]:
    """The process, with its orders, and the pipe that its results come through."""
    orders, hand_over = os.pipe()
    results, report = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", jail.__file__, str(orders), str(report)],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": folder, "LANG": "C.UTF-8", **THREADS},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(orders, report),
            start_new_session=True,
        )
        os.write(hand_over, json.dumps(order).encode())
    except BaseException:
        os.close(results)
        raise
    finally:
        for end in (orders, hand_over, report):
            os.close(end)
    return process, results


def _watch(process: subprocess.Popen, results: int, limits: Limits) -> tuple[str, str, bytes]:
    """Status, what was printed, and what came through the pipe, until the process has ended."""
    stdout = process.stdout.fileno()
    room, got = {stdout: limits.output, results: MIB}, {stdout: bytearray(), results: bytearray()}
    deadline, status = time.monotonic() + limits.seconds, ENDED
    with selectors.DefaultSelector() as selector, process, os.fdopen(results, "rb"):
        for end in got:
            selector.register(end, selectors.EVENT_READ)
        while selector.get_map() and status == ENDED:
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            for key, _ in ready:
                more = os.read(key.fd, 65536)
                if not more:
                    selector.unregister(key.fd)
                got[key.fd] += more
                if len(got[key.fd]) > room[key.fd]:
                    status = OUTPUT
            if not ready:
                status = TIME
        with contextlib.suppress(
            ProcessLookupError
        ):  # it has ended, and nothing it started is left
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    if status == ENDED and code < 0:
        status = TIME if code == -signal.SIGXCPU else KILLED
    printed = bytes(got[stdout][: limits.output])
    return status, printed.decode(errors="replace"), bytes(got[results])


def _results(said: bytes, nonce: str) -> tuple[set[str] | None, list[str | None]]:
    """What holds (None if the jail never said so) and the errors of the files that ended."""
    held, errors = None, []
    for line in said.decode(errors="replace").splitlines():
        try:
            message = json.loads(line)
            known = secrets.compare_digest(message["nonce"], nonce)
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:  # something else than the jail has written here
            break
        if "held" in message:
            held = set(message["held"])
        elif message["file"] == len(errors):
            errors.append(message["error"])
    return held, errors

"""One process per environment, each replaced when it dies, hangs or raises.

Observations are written to shared memory; everything else goes through a pipe per worker. The
parent waits for pipe and process at once, so a killed worker is seen immediately and a silent one
when the time is up.
"""

import collections
import contextlib
import ctypes
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
from gymnasium.spaces import Space

from envs import batch
from envs.base import EnvsError

START_SECONDS = 120.0  # a simulator's imports on a busy machine
MOST_RESTARTS, WITHIN_STEPS = 5, 1_000
PR_SET_PDEATHSIG = 1  # prctl(2)

Command = tuple[str, Any]


class WorkerError(EnvsError, RuntimeError):
    """Workers fail too often, or one failed in a call that cannot do without its answer."""

    exit_code = 12


class Workers:
    """A pool with one environment per process.

    Args:
        make: makes one environment; it is called in the worker and must be picklable.
        name: of the environment, for messages.
        space: batched observations, [N, ...] or a dict of such.
        timeout: seconds a worker may take to answer.

    Attributes:
        faults: what happened to the workers that were replaced, oldest first.
        replaced: how often each worker was replaced, [N].
    """

    def __init__(self, make: Callable[[], Any], name: str, space: Space, timeout: float) -> None:
        self.name, self.timeout = name, timeout
        self.faults: list[str] = []
        self.replaced = [0] * batch.count(space)
        self._make, self._space = make, space
        # With fork, a worker would inherit the other workers' pipe ends and outlive a killed
        # parent; a GL context or a thread pool in this process would not survive it either.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["envs"])  # so that a worker starts at once
        self._memory = self._context.RawArray(ctypes.c_uint8, batch.nbytes(space))
        self._shared = batch.observations(space, self._memory)
        self._observations = batch.observations(space)
        self._steps = 0
        self._restarts: collections.deque[int] = collections.deque()
        self._ready = [False] * len(self.replaced)
        self.processes: list[Any] = [None] * len(self.replaced)
        self._pipes: list[Connection] = [None] * len(self.replaced)
        for i in range(len(self.replaced)):
            self._start(i)

    def observations(self) -> np.ndarray | dict[str, np.ndarray]:
        """The last complete observation of every environment, fresh arrays."""
        return self._observations.copy()

    def ask(self, commands: Mapping[int, Command]) -> dict[int, Any]:
        """Sends a command to some workers; returns the answers of those that gave one in time.

        The others have been replaced: their next command must be a reset.

        Raises:
            WorkerError: more than 5 were replaced within 1000 steps; all are stopped.
        """
        self._steps += any(name == "step" for name, _ in commands.values())
        waiting, answers = {}, {}
        for i, command in commands.items():
            with contextlib.suppress(ConnectionError):  # seen below as a dead process
                self._pipes[i].send(command)
            waiting[i] = time.monotonic() + (self.timeout if self._ready[i] else START_SECONDS)
        while waiting:
            left = min(waiting.values()) - time.monotonic()
            ends = [end for i in waiting for end in (self._pipes[i], self.processes[i].sentinel)]
            wait(ends, max(left, 0.0))
            for i, deadline in list(waiting.items()):
                problem = self._receive(i, answers, late=time.monotonic() >= deadline)
                if problem is not None:
                    self._replace(i, problem)
                if i in answers or problem is not None:
                    del waiting[i]
        return answers

    def _receive(self, i: int, answers: dict[int, Any], *, late: bool) -> str | None:
        """Takes worker i's answer, if it is there; returns what is wrong with the worker."""
        try:
            if self._pipes[i].poll():
                ok, answer = self._pipes[i].recv()
                if not ok:
                    return f"raised\n{answer}"
                answers[i] = answer
                self._ready[i] = True
                self._observations[i] = self._shared[i]
                return None
        except (EOFError, ConnectionError):
            return "died"
        if not self.processes[i].is_alive():
            return f"died (exit code {self.processes[i].exitcode})"
        return f"gave no answer within {self.timeout:g} s" if late else None

    def _replace(self, i: int, problem: str) -> None:
        self._stop(i)
        self.faults.append(f"step {self._steps}: worker {i} of {self.name} {problem}")
        self.replaced[i] += 1
        self._restarts.append(self._steps)
        while self._restarts[0] <= self._steps - WITHIN_STEPS:
            self._restarts.popleft()
        if len(self._restarts) > MOST_RESTARTS:
            self.close(0.0)
            raise WorkerError(
                f"{len(self._restarts)} workers failed within {WITHIN_STEPS} steps; all were "
                f"stopped. The last: {self.faults[-1]}"
            )
        self._start(i)

    def _start(self, i: int) -> None:
        self._pipes[i], theirs = self._context.Pipe()
        arguments = (theirs, self._memory, i, self._space, self._make)
        self._ready[i] = False
        self.processes[i] = self._context.Process(target=_work, args=arguments, daemon=True)
        self.processes[i].start()
        theirs.close()

    def _stop(self, i: int) -> None:
        self.processes[i].kill()  # a stopped process ignores gentler signals
        self.processes[i].join()
        self._pipes[i].close()

    def close(self, patience: float = 5.0) -> None:
        """Stops all workers: politely, and by force those that do not stop in time."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(("close", None))
        deadline = time.monotonic() + patience
        for i, process in enumerate(self.processes):
            process.join(max(deadline - time.monotonic(), 0.0))
            self._stop(i)


def _work(pipe: Connection, memory: Any, index: int, space: Space, make: Callable[[], Any]) -> None:
    """A worker: answers (True, result) or (False, traceback) until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    with contextlib.suppress(OSError, AttributeError):  # Linux: nobody outlives a killed parent
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    shared = batch.observations(space, memory, index)
    env = None
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            name, argument = pipe.recv()
            if name == "close":
                break
            try:
                env = env or make()
                answer = _do(env, shared, name, argument)
            except Exception:
                pipe.send((False, traceback.format_exc(limit=-3)))
            else:
                pipe.send((True, answer))
    if env is not None:
        env.close()


def _do(env: Any, shared: np.ndarray | batch.Parts, name: str, argument: Any) -> Any:
    """One command; `reset` and `step` leave the observation in shared memory."""
    if name == "reset":
        shared[...], info = env.reset(seed=argument)
        return info
    if name == "step":
        shared[...], *rest = env.step(argument)
        return tuple(rest)
    method, arguments = argument
    result = getattr(env, method)(*arguments)
    if method == "set_state":
        shared[...] = env.observation()
    return result

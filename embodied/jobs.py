"""Jobs for worker processes, their results in the order of the jobs.

A worker that dies is noticed at once, one that raises is named, and Ctrl-C reaches this process
only: the workers end when the generator does.
"""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import envs
from embodied.core.types import UserError
from embodied.data import DatasetError
from hardware.errors import HardwareError

AHEAD = 4  # jobs handed out per worker before the oldest result is taken
GOODBYE = 10.0  # seconds a worker has to close what it opened
USERS = (UserError, envs.EnvsError, DatasetError, HardwareError)
"""Errors that the user can mend; a worker's stack trace would hide what they say."""


class Work(Protocol):
    """What is done with a job. It is copied into each process, so it opens things when called."""

    def __call__(self, job: Any) -> Any:
        """Does a job."""

    def close(self) -> None:
        """Closes what the calls opened."""


class WorkerDied(UserError):
    """A worker process ended by itself."""


class WorkerFailed(RuntimeError):
    """A job raised what nobody expected; the message is the worker's stack trace."""


def in_order(
    work: Work, jobs: Iterable[Any], workers: int
) -> Generator[tuple[Any, Any], None, None]:
    """Do jobs and yield each with its result, in order of the jobs.

    Args:
        work: done here if `workers` is 1, else in as many processes.
        jobs: may be endless; read only a little ahead of what was yielded. None stands for "none
            before another result is taken".
        workers: processes.

    Raises:
        UserError: a job failed in a way the user can mend.
        WorkerDied: a process was killed.
    """
    if workers == 1:
        try:
            for job in jobs:
                yield job, work(job)
        finally:
            work.close()
        return
    with _Crew(work, workers) as crew:
        source, numbers = iter(jobs), itertools.count()
        waiting: dict[int, Any] = {}
        results: dict[int, Any] = {}
        exhausted = False
        while True:
            held = exhausted
            while not held and crew.idle and len(waiting) < AHEAD * workers:
                try:
                    job = next(source)
                except StopIteration:
                    exhausted = held = True
                    break
                if job is None:
                    held = True
                else:
                    number = next(numbers)
                    waiting[number] = job
                    crew.give(number, job)
            if not waiting:
                return
            first = next(iter(waiting))
            if first in results:
                yield waiting.pop(first), results.pop(first)
            else:
                results |= crew.take()


class _Crew:
    """Worker processes, each with at most one job."""

    def __init__(self, work: Work, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.idle: list[Connection] = []
        self._busy: dict[Connection, Any] = {}
        self._processes: list[tuple[Any, Connection]] = []
        with _no_interrupts():
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, work), daemon=True)
                process.start()
                theirs.close()
                self.idle.append(ours)
                self._processes.append((process, ours))

    def give(self, number: int, job: Any) -> None:
        """Hand a job to a worker that has none."""
        pipe = self.idle.pop()
        self._busy[pipe] = job
        try:
            pipe.send((number, job))
        except OSError as error:
            raise self._died(pipe) from error

    def take(self) -> dict[int, Any]:
        """Wait for results: number of the job -> result."""
        found = {}
        for pipe in wait(list(self._busy)):
            try:
                number, done, value = pipe.recv()
            except (EOFError, OSError) as error:
                raise self._died(pipe) from error
            if not done:
                raise value if isinstance(value, Exception) else WorkerFailed(value)
            found[number] = value
            del self._busy[pipe]
            self.idle.append(pipe)
        return found

    def _died(self, pipe: Connection) -> WorkerDied:
        process = next(process for process, own in self._processes if own is pipe)
        process.join(GOODBYE)
        return WorkerDied(
            f"a worker process ended (exit code {process.exitcode}; -9 is often a lack of memory) "
            f"while it did {self._busy[pipe]}"
        )

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        for process, pipe in self._processes:
            pipe.close()  # an idle worker leaves at the end of its pipe
            if kind is not None:
                process.terminate()
        for process, _ in self._processes:
            process.join(GOODBYE)
            if process.is_alive():
                process.kill()
                process.join()


@contextmanager
def _no_interrupts() -> Generator[None, None, None]:
    """Processes begun here never see Ctrl-C, this one sees it at the end."""
    resource_tracker.ensure_running()  # its start, at the first process, would lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, work: Callable[[Any], Any]) -> None:
    """Body of a worker process: does jobs until the pipe ends."""
    try:
        while True:
            number, job = pipe.recv()
            try:
                answer = (number, True, work(job))
            except USERS as error:
                answer = (number, False, UserError(str(error)))
            except ImportError as error:
                answer = (number, False, ImportError(str(error), name=error.name))
            except Exception:
                answer = (number, False, traceback.format_exc())
            pipe.send(answer)
    except (EOFError, OSError):  # the parent has ended, or wants no more
        work.close()

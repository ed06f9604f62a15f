"""One run per directory at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from embodied.core.types import UserError


class DirectoryLock:
    """Holds `<directory>/.lock` until released; the operating system releases it on any death.

    Args:
        directory: made if missing.

    Raises:
        UserError: somebody else holds it, or it cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = open(directory / ".lock", "a+")
        except OSError as error:
            raise UserError(
                f"cannot write to the run directory {directory}: {error.strerror}; mend that or "
                "give another directory"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise UserError(
                f"another run is using {directory} (process {holder}); stop it, close its trainer "
                "if it is in this process, or give another directory"
            ) from error
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def release(self) -> None:
        """Let the next run in; harmless when called twice."""
        self._file.close()

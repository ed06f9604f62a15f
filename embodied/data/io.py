"""Durable file writes from the standard library alone."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system: no advisory locks there
    fcntl = None

TEMP_SUFFIX = ".tmp"


def fsync_dir(path: str | Path) -> None:
    """Flush a directory, so that the names created or replaced in it survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_dirs(path: str | Path) -> None:
    """Create a directory and its parents, flushing each parent that gained a name."""
    path = Path(path)
    if path.is_dir():
        return
    make_dirs(path.parent)
    path.mkdir(exist_ok=True)
    fsync_dir(path.parent)


def write_atomic(path: str | Path, data: bytes) -> None:
    """Replace `path` by `data`, durably: a reader or a crash sees the old bytes or the new ones.

    The temporary file lies beside the target, because a rename is atomic only within one
    file system. Its name is fixed, so a leftover of a killed process is overwritten next time.
    """
    path = Path(path)
    make_dirs(path.parent)
    temporary = path.with_name(path.name + TEMP_SUFFIX)
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    fsync_dir(path.parent)


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def exclusive(path: str | Path) -> Iterator[None]:
    """Hold the lock file `path`; the system frees it when the process ends, however it ends.

    Raises:
        RuntimeError: another process holds it.
    """
    path = Path(path)
    make_dirs(path.parent)
    with open(path, "ab") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RuntimeError(
                    f"another process is writing here (it holds {path}); "
                    "wait for it or choose another directory"
                ) from error
        yield

"""Every change a checkpoint makes to the disk goes through here, one durable operation at a time.

The operations are few and named so that tests can fail or kill any one of them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Files:
    """The file operations of a checkpoint. Each raises OSError on failure; none is swallowed."""

    def make_directory(self, path: Path) -> None:
        """Create a directory and its parents."""
        path.mkdir(parents=True, exist_ok=True)

    def write_text(self, path: Path, text: str) -> None:
        """Write a text file."""
        path.write_text(text, encoding="utf-8")

    def write_tensors(self, path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write a safetensors file."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        try:
            save_file(dict(tensors), path)
        except SafetensorError as error:  # safetensors wraps the operating system's error
            raise OSError(f"could not write {path}: {error}") from error

    def sync(self, path: Path) -> None:
        """Force a file or a directory entry to the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Atomically give `source` the name `target`, replacing a file of that name."""
        os.replace(source, target)

    def remove(self, path: Path) -> None:
        """Delete a directory tree."""
        shutil.rmtree(path)


def replace_text(files: Files, path: Path, text: str) -> None:
    """Replace a small file atomically: temporary file beside it, sync, rename, sync directory."""
    temporary = path.with_name(path.name + ".tmp")
    files.write_text(temporary, text)
    files.sync(temporary)
    files.rename(temporary, path)
    files.sync(path.parent)


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""Checkpoints: one directory, all or nothing.

A save writes `step_N.tmp/`, syncs every file, writes `MANIFEST.json` (sizes and SHA-256) last,
renames the directory to `step_N/` and then rewrites the one-line `LATEST`. A directory without a
manifest that verifies is never used, whatever it or `LATEST` is called. Tensors are stored as
safetensors, everything else as JSON.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embodied.core import ranks
from embodied.core.files import Files, replace_text, sha256
from embodied.core.types import State, UserError

FORMAT = 1
MANIFEST = "MANIFEST.json"
_DIRECTORY = re.compile(r"step_(\d{12})")


class CorruptCheckpoint(UserError):
    """A checkpoint that does not verify; the message names the file and what can be done."""


class NoCheckpoint(UserError):
    """There is nothing to load."""


class SaveFailed(UserError):
    """The final state of a run could not be saved."""

    exit_code = 14


def split_state(state: Any, prefix: str = "") -> tuple[Any, dict[str, torch.Tensor]]:
    """Separate a nested state into a JSON tree and a flat dict of tensors.

    Tensors become `{"tensor": key}` and numpy arrays `{"array": key}` in the tree; nested dicts
    become `{"dict": {...}}`, so that no name of the caller's can be mistaken for one of ours.
    """
    tensors: dict[str, torch.Tensor] = {}

    def store(path: str, tensor: torch.Tensor) -> str:
        while path in tensors:  # {"a": {"b": x}, "a.b": y}
            path += "'"
        tensors[path] = tensor
        return path

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, torch.Tensor):
            return {"tensor": store(path, value.detach().cpu().contiguous().clone())}
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                raise TypeError(f"state {path!r} is an array of objects and cannot be saved")
            return {"array": store(path, torch.from_numpy(np.array(value, order="C")))}
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, Mapping):
            bad = [k for k in value if not isinstance(k, str)]
            if bad:
                raise TypeError(f"state {path!r} has keys that are not strings: {bad[:3]}")
            return {"dict": {k: walk(v, f"{path}.{k}" if path else k) for k, v in value.items()}}
        if isinstance(value, (list, tuple)):
            return [walk(v, f"{path}.{i}" if path else str(i)) for i, v in enumerate(value)]
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise TypeError(f"state {path!r} is a {type(value).__name__} and cannot be saved")

    return walk(state, prefix), tensors


def join_state(tree: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The inverse of `split_state` (tuples come back as lists)."""
    if isinstance(tree, list):
        return [join_state(v, tensors) for v in tree]
    if isinstance(tree, dict):
        ((kind, value),) = tree.items()
        if kind == "tensor":
            return tensors[value]
        if kind == "array":
            return tensors[value].numpy()
        return {k: join_state(v, tensors) for k, v in value.items()}
    return tree


def digest(state: State) -> str:
    """SHA-256 over a nested state: equal exactly if every tensor and value is equal."""
    tree, tensors = split_state(state)
    hasher = hashlib.sha256(json.dumps(tree, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        hasher.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        if tensor.numel():  # an empty one may have strides that cannot be viewed as bytes
            hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


def _manifest_text(body: Mapping[str, Any]) -> str:
    own = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": own}, indent=1)


def verify(directory: Path) -> dict[str, Any]:
    """Check every file of a checkpoint against its manifest.

    Returns:
        The manifest.

    Raises:
        CorruptCheckpoint: naming the first file that is missing or altered.
    """

    def bad(file: str, what: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(f"checkpoint {directory} is damaged: {file} {what}")

    path = directory / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
        manifest = json.loads(text)
        del manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise bad(MANIFEST, f"cannot be read ({type(error).__name__})") from error
    if text != _manifest_text(manifest):
        raise bad(MANIFEST, "does not match its own SHA-256")
    if manifest["format"] != FORMAT:
        raise bad(MANIFEST, f"has format {manifest['format']}, this version reads {FORMAT}")
    for name, entry in manifest["files"].items():
        file = directory / name
        if not file.is_file():
            raise bad(name, "is missing")
        if file.stat().st_size != entry["size"]:
            raise bad(name, f"has {file.stat().st_size} bytes, expected {entry['size']}")
        try:
            found = sha256(file)
        except OSError as error:
            raise bad(name, f"cannot be read ({error.strerror})") from error
        if found != entry["sha256"]:
            raise bad(name, "does not match its SHA-256")
    return manifest


def _verifies(directory: Path) -> bool:
    try:
        verify(directory)
    except CorruptCheckpoint:
        return False
    return True


class Checkpoints:
    """The checkpoints of one run.

    Args:
        root: directory that holds them.
        keep: how many to keep; older ones are deleted only after a newer one has verified.
        files: the file operations, replaceable to inject faults.
    """

    def __init__(self, root: str | Path, *, keep: int = 2, files: Files | None = None) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.root = Path(root)
        self.keep = keep
        self.files = files or Files()

    def steps(self) -> list[int]:
        """Steps of all complete-looking checkpoints, oldest first (not yet verified)."""
        if not self.root.is_dir():
            return []
        found = (_DIRECTORY.fullmatch(p.name) for p in self.root.iterdir() if p.is_dir())
        return sorted(int(m.group(1)) for m in found if m)

    def path(self, step: int) -> Path:
        """Directory of a checkpoint."""
        return self.root / f"step_{step:012d}"

    def save(self, step: int, parts: Mapping[str, State]) -> Path:
        """Write a checkpoint durably; one that exists and verifies is not written again.

        Args:
            step: its number; larger than any before.
            parts: state of each component by name; each becomes `<name>.json` and, if it holds
                any tensor, `<name>.safetensors`.

        Raises:
            OSError: if anything could not be written. Earlier checkpoints are then untouched.
        """
        target, temporary = self.path(step), self.path(step).with_suffix(".tmp")
        for left in self.root.glob("step_*.tmp"):  # by a process that was killed
            self.files.remove(left)
        if not _verifies(target):
            if target.exists():
                self.files.remove(target)
            self.files.make_directory(temporary)
            try:
                self._write(temporary, step, parts)
                self.files.rename(temporary, target)
            except OSError:
                if temporary.exists():
                    self.files.remove(temporary)
                raise
            if not _verifies(target):
                raise OSError(f"{target} was written but does not verify")
        self.files.sync(self.root)
        replace_text(self.files, self.root / "LATEST", target.name + "\n")
        for old in self.steps()[: -self.keep]:
            self.files.remove(self.path(old))
        return target

    def _write(self, directory: Path, step: int, parts: Mapping[str, State]) -> None:
        entries = {}

        def record(path: Path) -> None:
            self.files.sync(path)
            entries[path.name] = {"size": path.stat().st_size, "sha256": sha256(path)}

        for name, state in parts.items():
            tree, tensors = split_state(state)
            path = directory / f"{name}.json"
            self.files.write_text(path, json.dumps(tree, indent=1))
            record(path)
            if tensors:
                path = directory / f"{name}.safetensors"
                self.files.write_tensors(path, tensors)
                record(path)
        body = {"format": FORMAT, "step": step, "parts": list(parts), "files": entries}
        manifest = directory / MANIFEST
        self.files.write_text(manifest, _manifest_text(body))
        self.files.sync(manifest)
        self.files.sync(directory)

    def load(self, *, fallback: bool = False) -> tuple[int, dict[str, State]]:
        """Read the newest checkpoint, of several ranks the newest that all have.

        Args:
            fallback: if the newest is damaged, set it aside as `*.damaged` and use the newest that
                verifies, instead of raising.

        Returns:
            Its step and the state of each part.

        Raises:
            NoCheckpoint: there is none.
            CorruptCheckpoint: the newest is damaged; the message names the file, the step of the
                next older one and how to use it.
        """
        newest = ranks.least(max(self.steps(), default=-1))
        steps = [step for step in self.steps() if step <= newest]
        if not steps:
            raise NoCheckpoint(f"no checkpoint in {self.root}")
        for i, step in enumerate(reversed(steps)):
            try:
                return step, read_checkpoint(self.path(step))
            except CorruptCheckpoint as error:
                older = steps[: len(steps) - 1 - i]
                if not older:
                    raise CorruptCheckpoint(f"{error}. There is no older checkpoint.") from error
                if not fallback:
                    raise CorruptCheckpoint(
                        f"{error}. An older checkpoint exists at step {older[-1]}; resume with "
                        "fallback=true to continue from the newest one that verifies."
                    ) from error
                aside = self.path(step).with_suffix(".damaged")
                if aside.exists():
                    self.files.remove(aside)
                self.files.rename(self.path(step), aside)
        raise AssertionError("unreachable: the loop returns or raises")


def read_checkpoint(directory: str | Path) -> dict[str, State]:
    """Verify one checkpoint directory and read the state of every part."""
    from safetensors.torch import load_file

    directory = Path(directory)
    manifest = verify(directory)
    parts = {}
    for name in manifest["parts"]:
        tree = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))
        file = f"{name}.safetensors"
        tensors = load_file(directory / file) if file in manifest["files"] else {}
        parts[name] = join_state(tree, tensors)
    return parts

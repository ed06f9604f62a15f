"""What a run tells: one JSON line per event, TensorBoard, and W&B if asked.

`log.jsonl` is the record every figure and report is made from. Each line has `kind` (train,
evaluation, phase, fault, checkpoint), the counters, the phase, and `metrics` with prefixed names
(`critic/q_mean`). On resume the file is cut back to the checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from embodied.core.checkpoint import split_state
from embodied.core.files import Files
from embodied.core.types import Metrics, State, UserError


class MeanMetrics:
    """Running means between two log lines; part of the checkpoint so no line changes on resume."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor | float] = {}  # tensors stay on their GPU
        self._counts: dict[str, int] = {}

    def add(self, metrics: Metrics) -> None:
        """Add one set of scalars (numbers or 0-d tensors; nothing is synchronised here)."""
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + _double(value)
            self._counts[name] = self._counts.get(name, 0) + 1

    def pop(self) -> dict[str, float]:
        """The means, and start anew."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> State:
        """Sums and counts."""
        sums = {k: torch.as_tensor(v, dtype=torch.float64) for k, v in self._sums.items()}
        return {"sums": sums, "counts": dict(self._counts)}

    def load_state_dict(self, state: State) -> None:
        """Take over sums and counts."""
        self._sums = {k: _double(v) for k, v in state["sums"].items()}
        self._counts = dict(state["counts"])


def _double(value: torch.Tensor | float) -> torch.Tensor | float:
    """In double precision: a number, or a tensor where reading it would wait for a GPU."""
    if isinstance(value, torch.Tensor) and value.device.type != "cpu":
        return value.detach().double()
    return float(value)


class RunLog:
    """Writes the events of a run.

    Args:
        directory: the run directory.
        tensorboard: also write event files to `tb/`.
        wandb: also send to Weights & Biases, as this project name.
        config: stored with W&B.
        files: file operations for arrays, replaceable to inject faults.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        tensorboard: bool = True,
        wandb: str | None = None,
        config: Mapping[str, Any] | None = None,
        files: Files | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.files = files or Files()
        self.path = self.directory / "log.jsonl"
        self._file = open(self.path, "ab", buffering=0)
        self._pending = bytearray()
        self._tensorboard_wanted = tensorboard
        self._tensorboard: Any = None
        self._wandb = _start_wandb(wandb, self.directory, config) if wandb else None

    def write(self, kind: str, step: int, **fields: Any) -> None:
        """Append one event. `metrics` in fields also goes to TensorBoard and W&B.

        Where the disk is full, lines wait in memory for a later call; `position` then raises, so no
        checkpoint claims a log that is not there.
        """
        line = {"kind": kind, "step": step, **fields}
        self._pending += json.dumps(line, default=_jsonable).encode() + b"\n"
        with contextlib.suppress(OSError):
            self._drain()
        metrics = fields.get("metrics", {})
        if metrics and self._tensorboard_wanted:
            try:
                writer = self._writer(step)
                for name, value in metrics.items():
                    writer.add_scalar(name, value, step)
            except OSError as error:
                self._tensorboard_wanted = False
                self.write("fault", step, what=f"TensorBoard stopped: {error}")
        if metrics and self._wandb is not None:
            self._wandb.log(dict(metrics), step=step)

    def keep(self, folder: str, name: str, arrays: Mapping[str, Any], step: int) -> None:
        """Write arrays to `<folder>/<name>.safetensors`; a failure is an event of the log."""
        path = self.directory / folder / f"{name}.safetensors"
        try:
            self.files.make_directory(path.parent)
            self.files.write_tensors(path, split_state(dict(arrays))[1])
        except OSError as error:
            self.write("fault", step, what=f"{folder}/{path.name} not kept: {error}")

    def _drain(self) -> None:
        while self._pending:
            del self._pending[: self._file.write(self._pending)]

    def _writer(self, step: int) -> Any:
        if self._tensorboard is None:
            from torch.utils.tensorboard import SummaryWriter

            # purge_step hides what an interrupted run wrote past its last checkpoint
            self._tensorboard = SummaryWriter(str(self.directory / "tb"), purge_step=step)
        return self._tensorboard

    def position(self) -> int:
        """Bytes written so far, all of them on the disk; OSError if they cannot be."""
        self._drain()
        os.fsync(self._file.fileno())
        return os.stat(self.path).st_size  # by name: a log that was deleted is no log

    def cut(self, position: int) -> None:
        """Forget everything after `position`: what came after the checkpoint will come again."""
        size = self.path.stat().st_size
        if size < position:
            raise UserError(
                f"{self.path} has {size} bytes but the checkpoint was taken at {position}; restore "
                "the file or resume into a copy of the run with an empty log.jsonl of that length"
            )
        self._file.truncate(position)
        self._file.seek(position)
        self._pending.clear()

    def restart(self) -> None:
        """Begin anew; what an earlier run left is kept as `log.jsonl.old`."""
        if self.path.stat().st_size:
            self._file.close()
            os.replace(self.path, self.path.with_name("log.jsonl.old"))
            self._file = open(self.path, "ab", buffering=0)

    def close(self) -> None:
        """Flush and close everything."""
        with contextlib.closing(self._file):
            self._drain()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def read_log(directory: str | Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The events of a run, or those of one kind."""
    with open(Path(directory) / "log.jsonl", encoding="utf-8") as stream:
        events = [json.loads(line) for line in stream if line.endswith("\n")]
    return [e for e in events if kind is None or e["kind"] == kind]


def _jsonable(value: Any) -> Any:
    if isinstance(value, torch.Tensor) or hasattr(value, "item"):
        value = value.item()
        return value if not isinstance(value, float) or math.isfinite(value) else str(value)
    raise TypeError(f"{type(value).__name__} in a log line")


def _start_wandb(project: str, directory: Path, config: Mapping[str, Any] | None) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError('W&B logging needs: pip install "embodied[wandb]"') from error
    return wandb.init(project=project, dir=str(directory), config=dict(config or {}))

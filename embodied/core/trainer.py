"""The one loop: enter a phase; collect; update; guard; log; evaluate; checkpoint; leave.

Everything that happens next is decided by state that a checkpoint holds, so a run that is killed
anywhere and resumed does exactly what it would have done.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from embodied.core.checkpoint import Checkpoints, split_state
from embodied.core.counters import Counters
from embodied.core.evaluate import Evaluation, Evaluator
from embodied.core.files import Files
from embodied.core.guards import FaultCounter, Limits, NonFinite, bad_streams
from embodied.core.log import MeanMetrics, RunLog
from embodied.core.phase import Phase, Recipe
from embodied.core.progress import ProgressLine
from embodied.core.types import Batch, Source, State, UserError


class Interrupted(UserError):
    """The run was asked to stop; its state is saved."""

    exit_code = 130


class SaveFailed(UserError):
    """The final state of a run could not be saved."""

    exit_code = 14


@dataclass(frozen=True)
class TrainerOptions:
    """How a run is kept; none of it changes what is computed.

    Attributes:
        log_every: trainer steps between log lines.
        checkpoint_every: trainer steps between checkpoints; 0 saves at phase ends and stops only.
        keep: checkpoints kept.
        tensorboard: write TensorBoard files.
        wandb: W&B project, or None.
        limits: faults survived.
    """

    log_every: int = 500
    checkpoint_every: int = 5000
    keep: int = 2
    tensorboard: bool = True
    wandb: str | None = None
    limits: Limits = field(default_factory=Limits)


class _Recorder:
    """Remembers the last batch a source gave, so that a bad one can be kept."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.last: Batch | None = None
        self.rows = 0

    def next(self, n: int) -> Batch:
        self.last = self.source.next(n)
        self.rows += n
        return self.last


class Trainer:
    """Runs a recipe.

    `run()` trains to the end; `step()` does one trainer step, for a debugger or a notebook.

    Args:
        recipe: the phases.
        directory: run directory, made if missing.
        evaluator: evaluates the acting policy when a phase asks for it.
        options: logging and checkpointing.
        config: stored in every checkpoint.
        files: file operations of checkpoints, replaceable to inject faults.
    """

    def __init__(
        self,
        recipe: Recipe,
        directory: str | Path,
        *,
        evaluator: Evaluator | None = None,
        options: TrainerOptions | None = None,
        config: Mapping[str, Any] | None = None,
        files: Files | None = None,
    ) -> None:
        self.recipe = recipe
        self.directory = Path(directory)
        self.options = options or TrainerOptions()
        self.evaluator = evaluator
        self.config = dict(config or {})
        self.directory.mkdir(parents=True, exist_ok=True)
        self.files = files or Files()
        self.checkpoints = Checkpoints(
            self.directory / "checkpoints", keep=self.options.keep, files=self.files
        )
        self.log = RunLog(
            self.directory,
            tensorboard=self.options.tensorboard,
            wandb=self.options.wandb,
            config=self.config,
        )
        self.counters, self.phase_start = Counters(), Counters()
        self.iteration = 0
        self.phase_index = 0
        self.debt = Fraction(0)
        self.faults = FaultCounter(self.options.limits)
        self.metrics = MeanMetrics()
        self.probes: dict[str, dict[str, torch.Tensor]] = {}
        self.evaluation: Evaluation | None = None
        self._entered = False
        self._due: str | None = None  # name of the phase whose evaluation is due
        self._evaluated_at = 0.0
        self._recent: deque[bool] = deque(maxlen=20)
        self._stop: int | None = None
        self._unsaved: OSError | None = None
        self._clock = time.perf_counter()

    @property
    def phase(self) -> Phase | None:
        """The current phase; None when the recipe is done."""
        return self.recipe[self.phase_index] if self.phase_index < len(self.recipe) else None

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.phase is None and self._due is None

    @property
    def recent_success(self) -> float | None:
        """Success rate of the last 20 collected episodes."""
        return float(np.mean(self._recent)) if self._recent else None

    def run(self, progress: ProgressLine | None = None) -> None:
        """Train to the end, or until SIGINT or SIGTERM, and save.

        Raises:
            Interrupted: after a signal, with the state saved.
            SaveFailed: the final state could not be saved.
        """
        self._clock = time.perf_counter()
        with _signals(self._request_stop):
            try:
                while not self.done:
                    self.step()
                    if progress is not None:
                        progress.update(self)
                    self._check_stop()
            except Interrupted:
                self.save()
                raise
            finally:
                self.log.position()
        self.save()
        if self._unsaved is not None:
            raise SaveFailed(f"the final state could not be saved: {self._unsaved}")

    def step(self) -> None:
        """Do the evaluation that is due, or one collect and the updates it owes."""
        if self._due is not None:
            self._evaluate(self._due)
            return
        phase = self.phase
        if not self._entered:
            self._enter(phase)
        if phase.collector is not None:
            self._collect(phase)
        else:
            self.debt += 1
        while self.debt >= 1:
            self.debt -= 1
            self._update(phase)
        self.iteration += 1
        now = time.perf_counter()
        self.counters.wall_time += now - self._clock
        self._clock = now
        if self.iteration % self.options.log_every == 0:
            self._write("train", metrics=self.metrics.pop())
        self._advance(phase)
        every = self.options.checkpoint_every
        if (every and self.iteration % every == 0) or not self._entered:
            self.save()

    def set_probe(self, name: str, batch: Batch) -> None:
        """Keep a copy of a batch; its diagnostics are logged with every evaluation."""
        self.probes[name] = {k: v.clone() for k, v in batch.items()}

    def _enter(self, phase: Phase) -> None:
        self.phase_start = self.counters.copy()
        self.debt = Fraction(0)
        self._evaluated_at = 0.0
        self._entered = True
        if phase.on_enter is not None:
            phase.on_enter(self)
        self._write("phase")

    def _advance(self, phase: Phase) -> None:
        """Leave the phase if it is over; note whether an evaluation is due."""
        done = phase.until.progress(self.counters, self.phase_start)
        if phase.until.reached(self.counters, self.phase_start):
            self._due = phase.name if phase.eval_at_end else None
            self.phase_index += 1
            self._entered = False
        elif phase.eval_every and done - self._evaluated_at >= phase.eval_every:
            self._evaluated_at = done
            self._due = phase.name

    def _collect(self, phase: Phase) -> None:
        policy = phase.policy or phase.learner.policy()
        add = getattr(phase.source, "add", None)
        try:
            rollout = phase.collector.collect(policy)
        except NonFinite as error:
            self._drop(phase, np.ones(phase.collector.num_envs, bool), str(error))
            return
        bad = bad_streams(rollout)
        if bad.any():
            rollout.meta["dropped"] = bad
            phase.collector.abandon(bad)
        if add is not None:
            add(rollout)
        self.counters.env_steps += rollout.steps
        self.counters.tokens += rollout.meta.get("tokens", 0)
        for episode in rollout.meta.get("episodes", ()):
            self.counters.episodes += 1
            self._recent.append(episode["success"])
            self.metrics.add({f"episode/{k}": v for k, v in episode.items()})
        collected = self.counters.env_steps - self.phase_start.env_steps
        if collected > phase.start_after and (
            phase.start_rows == 0 or len(phase.source) >= phase.start_rows
        ):
            self.debt += phase.updates_per_step * rollout.steps
        if bad.any():
            self._count_drops(int(bad.sum()), "an observation or reward was not finite")

    def _drop(self, phase: Phase, streams: np.ndarray, why: str) -> None:
        phase.collector.abandon(streams)
        for stream in np.flatnonzero(streams):
            if hasattr(phase.source, "drop_episode"):
                phase.source.drop_episode(int(stream))
        self._count_drops(int(streams.sum()), why)

    def _count_drops(self, n: int, why: str) -> None:
        self._write("fault", what=f"{n} episode(s) dropped: {why}")
        self.counters.episodes += n
        self.faults.episodes_dropped(n, self.counters.episodes)

    def _update(self, phase: Phase) -> None:
        source = _Recorder(phase.source)
        try:
            self.metrics.add(phase.learner.update(source))
        except NonFinite as error:
            self._keep_tensors("faults", source.last or {})
            self._write("fault", what=f"update skipped: {error}")
            self.faults.update_skipped(str(error))
        else:
            self.faults.update_ok()
        self.counters.updates += 1
        self.counters.samples += source.rows

    def _keep_tensors(self, folder: str, arrays: Mapping[str, Any]) -> None:
        """Write arrays to `<folder>/step_N.safetensors` of the run, beside the log line."""
        (self.directory / folder).mkdir(exist_ok=True)
        path = self.directory / folder / f"step_{self.iteration:012d}.safetensors"
        self.files.write_tensors(path, split_state(dict(arrays))[1])

    def _evaluate(self, phase_name: str) -> None:
        phase = next(p for p in self.recipe.phases if p.name == phase_name)
        metrics: dict[str, float] = {}
        for name, batch in self.probes.items():
            if hasattr(phase.learner, "probe"):
                found = phase.learner.probe(batch)
                metrics.update({f"probe/{name}_{k}": float(v) for k, v in found.items()})
        fields: dict[str, Any] = {}
        if self.evaluator is not None:
            policy = phase.learner.policy(deterministic=True)
            result = self.evaluator(policy, on_step=lambda *_: self._check_stop())
            self.evaluation = result
            metrics |= {"eval/success": result.success, "eval/return": result.mean_return}
            fields = {"interval": result.interval, "ledger": result.ledger()}
            self._keep_tensors("evaluations", {str(i): a for i, a in enumerate(result.actions)})
        self._due = None
        self._write("evaluation", of=phase_name, metrics=metrics, **fields)
        self._clock = time.perf_counter()

    def _write(self, kind: str, **fields: Any) -> None:
        phase = self.phase.name if self.phase else "done"
        counters = asdict(self.counters)
        self.log.write(kind, self.iteration, phase=phase, counters=counters, **fields)

    def save(self) -> Path | None:
        """Write a checkpoint. A failure is logged, and training goes on with the older one."""
        try:
            path = self.checkpoints.save(self.iteration_key, self.state_dict())
        except OSError as error:
            self._unsaved = error
            self._write("fault", what=f"checkpoint not saved: {error}")
            return None
        self._unsaved = None
        return path

    @property
    def iteration_key(self) -> int:
        """Checkpoint number: two per trainer step, the odd one with its evaluation done."""
        return 2 * self.iteration + (self._due is None)

    def state_dict(self) -> dict[str, State]:
        """Everything, by part: the trainer's own state and every part of the recipe."""
        own = {
            "iteration": self.iteration,
            "phase_index": self.phase_index,
            "entered": self._entered,
            "due": self._due,
            "evaluated_at": self._evaluated_at,
            "debt": [self.debt.numerator, self.debt.denominator],
            "counters": self.counters.state_dict(),
            "phase_start": self.phase_start.state_dict(),
            "faults": self.faults.state_dict(),
            "metrics": self.metrics.state_dict(),
            "recent": list(self._recent),
            "probes": self.probes,
            "log": self.log.position(),
        }
        parts = {name: part.state_dict() for name, part in self.recipe.parts()}
        return {"trainer": own, "config": self.config, **parts}

    def load_state_dict(self, state: Mapping[str, State]) -> None:
        """Take over everything and cut the log back to that moment."""
        own = state["trainer"]
        self.iteration, self.phase_index = own["iteration"], own["phase_index"]
        self._entered, self._due = own["entered"], own["due"]
        self._evaluated_at = own["evaluated_at"]
        self.debt = Fraction(*own["debt"])
        self.counters.load_state_dict(own["counters"])
        self.phase_start.load_state_dict(own["phase_start"])
        self.faults.load_state_dict(own["faults"])
        self.metrics.load_state_dict(own["metrics"])
        self._recent.extend(own["recent"])
        self.probes = own["probes"]
        for name, part in self.recipe.parts():
            if name not in state:
                raise UserError(f"the checkpoint has no part {name!r}: it is of another recipe")
            part.load_state_dict(state[name])
        self.log.cut(own["log"])

    def resume(self, *, fallback: bool = False) -> int:
        """Continue from the newest checkpoint; returns the trainer step it was taken at."""
        _, state = self.checkpoints.load(fallback=fallback)
        self.load_state_dict(state)
        return self.iteration

    def _request_stop(self, number: int, _: FrameType | None) -> None:
        self._stop = number

    def _check_stop(self) -> None:
        if self._stop is not None:
            name = signal.Signals(self._stop).name
            stopped = Interrupted(f"{name}: saved after {self.iteration} trainer steps")
            stopped.exit_code = 0 if self._stop == signal.SIGTERM else 130
            raise stopped


class _signals:
    """Route SIGINT and SIGTERM to a handler, in the main thread only, and put them back."""

    def __init__(self, handler: Any) -> None:
        self.handler = handler
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self.handler)

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

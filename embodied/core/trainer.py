"""The one loop: enter a phase; collect; update; guard; log; evaluate; checkpoint; leave.

Everything that happens next is decided by state that a checkpoint holds, so a run that is killed
anywhere and resumed does exactly what it would have done.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embodied.core.checkpoint import Checkpoints, SaveFailed
from embodied.core.evaluate import Evaluation, Evaluator
from embodied.core.files import Files
from embodied.core.guards import BatchRecorder, FaultCounter, NonFinite, TooManyFaults, bad_streams
from embodied.core.lock import DirectoryLock
from embodied.core.log import MeanMetrics, RunLog
from embodied.core.options import TrainerOptions
from embodied.core.phase import Phase, Recipe
from embodied.core.position import Position
from embodied.core.signals import Interrupted, StopSignals
from embodied.core.types import Batch, Learner, State, UserError

__all__ = ["Interrupted", "SaveFailed", "Trainer", "TrainerOptions"]


class Trainer(Position):
    """Runs a recipe.

    `run()` trains to the end; `step()` does one trainer step, for a debugger or a notebook. The run
    directory belongs to one trainer at a time, until `close()` or the end of its process.

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
        super().__init__(recipe)
        self.directory = Path(directory)
        self.evaluator, self.options = evaluator, options or TrainerOptions()
        self.config = dict(config or {})
        self._lock = DirectoryLock(self.directory)
        self.checkpoints = Checkpoints(
            self.directory / "checkpoints", keep=self.options.keep, files=files
        )
        self.log = RunLog(
            self.directory,
            tensorboard=self.options.tensorboard,
            wandb=self.options.wandb,
            config=self.config,
            files=files,
        )
        self.faults = FaultCounter(self.options.limits)
        self.metrics = MeanMetrics()
        self.probes: dict[str, dict[str, torch.Tensor]] = {}
        self.evaluation: Evaluation | None = None
        self._begun = False
        self._recent: deque[bool] = deque(maxlen=20)
        self._signals = StopSignals()
        self._clock = time.perf_counter()

    @property
    def recent_success(self) -> float | None:
        """Success rate of the last 20 collected episodes."""
        return float(np.mean(self._recent)) if self._recent else None

    def run(self, after_step: Callable[[Trainer], None] = lambda trainer: None) -> None:
        """Train to the end, or until SIGINT or SIGTERM, and save.

        Args:
            after_step: called after every step, for a progress line.

        Raises:
            Interrupted: after a signal, with the state saved.
            SaveFailed: the final state could not be saved.
        """
        self._clock = time.perf_counter()
        interrupted: Interrupted | None = None
        with self._signals:
            try:
                while not self.done:
                    self.step()
                    after_step(self)
                    self._signals.check(self.iteration, together=True)
            except Interrupted as error:
                interrupted = error
            if self.save() is None:
                raise SaveFailed(f"the last state is not saved; {self.log.path} says why")
        if interrupted is not None:
            raise interrupted

    def step(self) -> None:
        """Do the evaluation that is due, or one collect and the updates it owes."""
        self._begin()
        if self.due is not None:
            self._evaluate(self.due)
            return
        if self.done:
            raise RuntimeError("the recipe is done: no step is left")
        phase = self.phase
        if not self.entered:
            self._enter(phase)
            if phase.until.amount <= 0:
                self.advance()
                return
        if phase.collector is not None:
            self._collect(phase)
        else:
            self.debt += 1
        while self.debt >= 1:
            self.debt -= 1
            self._update(phase)
        self.iteration += 1
        before, self._clock = self._clock, time.perf_counter()
        self.counters.wall_time += self._clock - before
        if self.iteration % self.options.log_every == 0:
            self._write("train", metrics=self.metrics.pop())
        self.advance()
        every = self.options.checkpoint_every
        if (every and self.iteration % every == 0) or not self.entered:
            self.save()

    def close(self) -> None:
        """Close the log and let another trainer use the directory. Saves nothing."""
        self.log.close()
        self._lock.release()

    def set_probe(self, name: str, batch: Batch) -> None:
        """Keep a copy of a batch; its diagnostics are logged with every evaluation."""
        self.probes[name] = {k: v.clone() for k, v in batch.items()}

    def _begin(self) -> None:
        """Before the first step of a run that was not resumed: mix with no other run."""
        if self._begun:
            return
        if self.checkpoints.steps():
            raise UserError(f"{self.directory} holds a run; resume it or give another directory")
        self.log.restart()
        self._begun = True

    def _enter(self, phase: Phase) -> None:
        self.enter()
        if phase.on_enter is not None:
            phase.on_enter(self)
        self._write("phase")

    def _collect(self, phase: Phase) -> None:
        try:
            rollout = phase.collector.collect(phase.policy or phase.learner.policy())
        except NonFinite as error:
            phase.collector.abandon(np.ones(phase.collector.num_envs, bool))
            self._forget(phase)
            self._count_drops(phase.collector.num_envs, str(error))
            return
        bad, broken = bad_streams(rollout)
        dropped = bad | broken
        if dropped.any():
            rollout.meta["dropped"] = dropped
            phase.collector.abandon(dropped)
        if hasattr(phase.source, "add"):
            phase.source.add(rollout)
        self.counters.env_steps += rollout.steps
        self.counters.tokens += rollout.meta.get("tokens", 0)
        for episode in rollout.meta.get("episodes", ()):
            if not dropped[episode["stream"]]:
                self.counters.episodes += 1
                self._recent.append(episode["success"])
                self.metrics.add({f"episode/{k}": v for k, v in episode.items() if k != "stream"})
        collected = self.counters.env_steps - self.phase_start.env_steps
        if collected > phase.start_after and (
            phase.start_rows == 0 or len(phase.source) >= phase.start_rows
        ):
            self.debt += phase.owed(rollout.steps)
        if bad.any():
            self._count_drops(int(bad.sum()), "an observation or reward was not finite")
        if broken.any():
            self._write("fault", what=f"{broken.sum()} episode(s) dropped: {rollout.meta['fault']}")

    @staticmethod
    def _forget(phase: Phase) -> None:
        """Take the unfinished episodes of a phase's collector out of its source."""
        if hasattr(phase.source, "drop_episode"):
            for stream in range(phase.collector.num_envs):
                phase.source.drop_episode(stream)

    def _count_drops(self, n: int, why: str) -> None:
        self._write("fault", what=f"{n} episode(s) dropped: {why}")
        self.counters.episodes += n
        self.faults.episodes_dropped(n, self.counters.episodes)

    def _update(self, phase: Phase) -> None:
        source = BatchRecorder(phase.source)
        try:
            self.metrics.add(phase.learner.update(source))
        except NonFinite as error:
            name = f"update_{self.counters.updates:012d}"
            self.log.keep("faults", name, source.last, self.iteration)
            self._write("fault", what=f"update skipped: {error}", batch=name)
            self.faults.update_skipped(str(error))
        else:
            self.faults.update_ok()
        self.counters.updates += 1
        self.counters.samples += source.rows

    def _evaluate(self, phase_name: str) -> None:
        learner = next(p.learner for p in self.recipe.phases if p.name == phase_name)
        metrics: dict[str, float] = {}
        for name, batch in self.probes.items() if hasattr(learner, "probe") else ():
            metrics |= {f"probe/{name}_{k}": float(v) for k, v in learner.probe(batch).items()}
        fields: dict[str, Any] = {}
        if self.evaluator is not None:
            self.evaluation = result = self._run_evaluator(learner)
            metrics |= result.summary()
            fields = {"interval": result.interval, "ledger": result.ledger()}
            actions = {str(i): a for i, a in enumerate(result.actions)}
            self.log.keep("evaluations", f"step_{self.iteration:012d}", actions, self.iteration)
        self.due = None
        self._write("evaluation", of=phase_name, metrics=metrics, **fields)
        self._clock = time.perf_counter()

    def _run_evaluator(self, learner: Learner) -> Evaluation:
        policy = learner.policy(deterministic=True)
        try:
            return self.evaluator(policy, on_step=lambda *_: self._signals.check(self.iteration))
        except NonFinite as error:
            self._write("fault", what=f"evaluation stopped: {error}")
            raise TooManyFaults(f"stopped in an evaluation: {error}") from error

    def _write(self, kind: str, **fields: Any) -> None:
        phase = self.phase.name if self.phase else "done"
        self.log.write(kind, self.iteration, phase=phase, counters=asdict(self.counters), **fields)

    def save(self) -> Path | None:
        """Write a checkpoint. A failure is logged, and training goes on with the older one."""
        self._begin()
        try:
            return self.checkpoints.save(self.checkpoint_key, self.state_dict())
        except OSError as error:
            self._write("fault", what=f"checkpoint not saved: {error}")
            return None

    def state_dict(self) -> dict[str, State]:
        """Everything, by part: the trainer's own state and every part of the recipe."""
        own = {
            **self.position_state(),
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
        missing = [name for name, _ in self.recipe.parts() if name not in state]
        if missing:
            raise UserError(f"the checkpoint has no part {missing[0]!r}: it is of another recipe")
        own = state["trainer"]
        self.load_position(own)
        self.faults.load_state_dict(own["faults"])
        self.metrics.load_state_dict(own["metrics"])
        self.probes = own["probes"]
        self._recent = deque(own["recent"], maxlen=self._recent.maxlen)
        for name, part in self.recipe.parts():
            part.load_state_dict(state[name])
        for phase in self.recipe.phases:
            if getattr(phase.collector, "restarted", False):
                self._forget(phase)
        self.log.cut(own["log"])
        self._begun = True

    def resume(self, *, fallback: bool = False) -> int:
        """Continue from the newest checkpoint; returns the trainer step it was taken at."""
        _, state = self.checkpoints.load(fallback=fallback)
        self.load_state_dict(state)
        return self.iteration

"""See evaluated episodes again: an initial state's seed and the actions taken are enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import envs
from embodied.assemble import read_run
from embodied.core.evaluate import Evaluation
from embodied.core.log import read_log
from embodied.core.types import UserError
from embodied.jobs import in_order
from embodied.progress import bar

SIZE = (320, 320)
PICTURES = 60  # of a video
FAILURES = 3  # videos of a task with `videos=failures`


def frames(env: Any, seed: int, actions: np.ndarray, every: int) -> Iterator[np.ndarray]:
    """Render an episode: [H, W, 3] uint8 every few steps, the last step included."""
    env.reset(seed=seed)
    yield env.render()
    for t, action in enumerate(actions):
        env.step(action)
        if (t + 1) % every == 0 or t + 1 == len(actions):
            yield env.render()


def write(path: Path, env: Any, seed: int, actions: np.ndarray) -> Path:
    """Write an episode as a video of at most about sixty pictures."""
    from embodied.report.video import write_video

    every = max(1, len(actions) // PICTURES)
    fps = max(5, round((env.metadata.get("render_fps") or 20) / every))
    return write_video(path, frames(env, seed, actions, every), fps)


def choose(before: dict[str, Any], after: dict[str, Any]) -> int:
    """The initial state to show: one lost before and won after, if there is any."""
    gained = [
        a["index"]
        for b, a in zip(before["ledger"], after["ledger"], strict=False)
        if a["success"] and not b["success"]
    ]
    return gained[0] if gained else 0


def record_videos(run: str | Path) -> list[Path]:
    """Write `videos/before.mp4` and `videos/after.mp4` of a run, from the same initial state.

    Without a way to render, `videos/unavailable.txt` says why.
    """
    from safetensors.numpy import load_file

    run = Path(run)
    about, _ = read_run(run)
    evaluations = [e for e in read_log(run, "evaluation") if "ledger" in e]
    if not evaluations or "model" in about:  # answers are no pictures
        return []
    before = next((e for e in reversed(evaluations) if e["of"] == "offline"), evaluations[0])
    shown = {"before": before, "after": evaluations[-1]}
    index = choose(shown["before"], shown["after"])
    folder = run / "videos"
    folder.mkdir(exist_ok=True)
    options = {**about["env_args"], "render": "fast", "render_size": SIZE}
    env = envs.make(about["env"], **options)
    (folder / "unavailable.txt").unlink(missing_ok=True)
    written = []
    try:
        for name, evaluation in shown.items():
            path = run / "evaluations" / f"step_{evaluation['step']:012d}.safetensors"
            seed, actions = evaluation["ledger"][index]["seed"], load_file(path)[str(index)]
            written.append(write(folder / f"{name}.mp4", env, seed, actions))
    except (envs.RenderError, UserError) as error:
        (folder / "unavailable.txt").write_text(str(error), encoding="utf-8")
    finally:
        env.close()
    return written


def episode_path(folder: Path, task: str, index: int) -> Path:
    """Where the video of an evaluated episode lies."""
    return folder / f"{task.replace('/', '-')}-{index}.mp4"


@dataclass
class Replayer:
    """Renders episodes anew; a copy lives in each worker."""

    folder: Path
    tasks: Mapping[str, Mapping[str, Any]]
    make: Callable[..., Any]
    _task: str = field(default="", init=False)
    _env: Any = field(default=None, init=False)

    def __call__(self, job: tuple[str, int, int, np.ndarray]) -> str:
        """Write one video; returns why not, or nothing."""
        task, index, seed, actions = job
        try:
            if task != self._task:
                self.close()
                # the policy's own observations need not be computed again
                options = {**self.tasks[task], "obs": "state", "render": "fast"}
                self._env, self._task = self.make(task, {**options, "render_size": SIZE}), task
            write(episode_path(self.folder, task, index), self._env, seed, actions)
        except (envs.RenderError, UserError) as error:
            return str(error)
        return ""

    def close(self) -> None:
        """Close the environment."""
        if self._env is not None:
            self._env.close()
        self._env, self._task = None, ""


def record_episodes(
    folder: Path,
    results: Mapping[str, Evaluation],
    which: int | str,
    tasks: Mapping[str, Mapping[str, Any]],
    workers: int,
    make: Callable[..., Any],
) -> str:
    """Write videos of evaluated episodes, from their seeds and actions.

    Args:
        folder: for the videos; those of an earlier evaluation are removed.
        results: by task.
        which: how many of each task, from the first on; or "failures": the first lost ones.
        tasks: options of the environments.
        workers: processes.
        make: makes an environment.

    Returns:
        Why there are none, if there should be some; else an empty text.
    """
    for old in folder.glob("*.mp4"):
        old.unlink()
    jobs = []
    for task, result in results.items():
        lost = [e.index for e in result.episodes if not e.success][:FAILURES]
        for index in lost if which == "failures" else range(min(which, len(result.episodes))):
            jobs.append((task, index, result.episodes[index].seed, result.actions[index]))
    if not jobs:
        return ""
    problems = set()
    with bar("rendering", len(jobs)) as advance:
        player = Replayer(folder, tasks, make)
        for _, problem in in_order(player, jobs, min(workers, len(jobs))):
            problems |= {problem} - {""}
            advance(1)
    return "; ".join(sorted(problems))

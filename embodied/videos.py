"""See evaluated episodes again: an initial state's seed and the actions taken are enough."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import envs
from embodied.assemble import read_run
from embodied.core.log import read_log
from embodied.core.types import UserError

WIDTH = 320


def frames(env: Any, seed: int, actions: np.ndarray, every: int) -> Iterator[np.ndarray]:
    """Render an episode: [H, W, 3] uint8 every few steps, the last step included."""
    env.reset(seed=seed)
    yield env.render()
    for t, action in enumerate(actions):
        env.step(action)
        if (t + 1) % every == 0 or t + 1 == len(actions):
            yield env.render()


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

    from embodied.report.video import write_video

    run = Path(run)
    about, _ = read_run(run)
    evaluations = [e for e in read_log(run, "evaluation") if "ledger" in e]
    if not evaluations:
        return []
    before = next((e for e in reversed(evaluations) if e["of"] == "offline"), evaluations[0])
    shown = {"before": before, "after": evaluations[-1]}
    index = choose(shown["before"], shown["after"])
    folder = run / "videos"
    folder.mkdir(exist_ok=True)
    options = {**about["env_args"], "render": "fast", "render_size": (WIDTH, WIDTH)}
    env = envs.make(about["env"], **options)
    (folder / "unavailable.txt").unlink(missing_ok=True)
    written = []
    try:
        for name, evaluation in shown.items():
            episode = evaluation["ledger"][index]
            path = run / "evaluations" / f"step_{evaluation['step']:012d}.safetensors"
            actions = load_file(path)[str(index)]
            every = max(1, len(actions) // 60)
            fps = max(5, round((env.metadata.get("render_fps") or 20) / every))
            images = frames(env, episode["seed"], actions, every)
            written.append(write_video(folder / f"{name}.mp4", images, fps))
    except (envs.RenderError, UserError) as error:
        (folder / "unavailable.txt").write_text(str(error), encoding="utf-8")
    finally:
        env.close()
    return written

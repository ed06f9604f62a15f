"""Flight recordings as datasets: `embodied data convert run.mcap out=DATASET`.

A row is a step of the policy as the recording's `/step` notes have it: what it observed, what was
executed, what came of it; with each camera's newest picture of that moment. A recording that was
cut off gives every step that reached the disk; its last episode ends as truncated. A recording
without such notes (of another program) gives a row per joint state at `fps`: positions and
velocities as the state, the positions sent as the action.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from embodied import data
from embodied.core.types import UserError
from embodied.data import Feature
from embodied.stations import SCENES

SUFFIX = ".mcap"
FPS = 10  # of recordings that do not say


def is_flight(path: str | Path) -> bool:
    """Whether a path is a flight recording."""
    return Path(path).suffix == SUFFIX


@dataclass
class Flight:
    """A recording, read once.

    Attributes:
        meta: what it says about itself.
        steps: the notes of its steps, with the episode's number and the pictures of their moment.
        episodes: what is known of each episode, by number.
        counts: messages by topic.
        limits: how often each limit acted.
        states: stamp [t] and positions and velocities [t, 2n].
        sent: stamp [t] and positions [t, n].
        span: s from the first message to the last.
        loop: what the control loop said at the end: periods, overruns, whether it latched.
    """

    meta: dict[str, Any]
    steps: list[dict[str, Any]] = field(default_factory=list)
    episodes: dict[int, dict[str, Any]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    limits: Counter[str] = field(default_factory=Counter)
    states: tuple[np.ndarray, np.ndarray] = (np.zeros(0), np.zeros((0, 0)))
    sent: tuple[np.ndarray, np.ndarray] = (np.zeros(0), np.zeros((0, 0)))
    span: float = 0.0
    loop: dict[str, Any] = field(default_factory=dict)


def read_flight(path: str | Path, pictures: bool = False) -> Flight:
    """Reads a recording, also one that was cut off.

    Args:
        path: of the .mcap file.
        pictures: keep pictures with the steps, still compressed.

    Raises:
        UserError: it cannot be read.
    """
    from hardware import messages, recorder
    from hardware.errors import HardwareError

    try:
        flight = Flight(recorder.metadata(path))
        names = flight.meta["joints"]
        states, sent, first, last = [], [], None, 0.0
        shown: dict[str, list[tuple[float, Any]]] = {}
        number = -1
        for topic, kind, stamp, message in recorder.read(path):
            first, last = stamp if first is None else first, stamp
            flight.counts[topic] += 1
            if topic == "/joint_states":
                pair = [messages.read_joints(message, names, k) for k in ("position", "velocity")]
                states.append((stamp, np.concatenate(pair)))
            elif topic == "/command":
                sent.append((stamp, messages.read_trajectory(message, names)[1][0]))
            elif topic == "/limits":
                flight.limits[message["status"][0]["name"]] += 1
            elif topic == "/episode":
                note = json.loads(message["data"])
                number = note["episode"]
                flight.episodes.setdefault(number, {}).update(note)
            elif topic == "/loop":
                flight.loop = json.loads(message["data"])
            elif topic == "/step":
                note = json.loads(message["data"]) | {"episode": number, "stamp": stamp}
                note["pictures"] = _newest(shown, note["observed"]) if pictures else {}
                flight.steps.append(note)
            elif pictures and kind == recorder.IMAGE:
                shown.setdefault(topic.split("/")[1], []).append((stamp, message))
    except HardwareError as error:
        raise UserError(str(error)) from error
    flight.states, flight.sent = _columns(states), _columns(sent)
    flight.span = last - (first or 0.0)
    return flight


def _columns(rows: list[tuple[float, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    if not rows:
        return np.zeros(0), np.zeros((0, 0))
    stamps, values = zip(*rows, strict=True)
    return np.array(stamps), np.stack(values)


def _newest(shown: dict[str, list[tuple[float, Any]]], observed: float) -> dict[str, Any]:
    """Each camera's newest picture that was there when the policy looked; older ones are let go."""
    found = {}
    for camera, taken in shown.items():
        while len(taken) > 1 and taken[1][0] <= observed + 1e-3:
            taken.pop(0)
        found[camera] = taken[0][1]
    return found


def info(path: str | Path) -> dict[str, Any]:
    """What `embodied data info` says about a recording."""
    flight = read_flight(path)
    about: dict[str, Any] = {"path": str(path), "format": "flight recording (MCAP)"}
    about |= {key: flight.meta[key] for key in ("robot", "rate") if key in flight.meta}
    if "policy" in flight.meta:
        about["policy"] = flight.meta["policy"]
    about["seconds"] = round(flight.span, 1)
    about["steps"] = len(flight.steps)
    whole = [e for e in flight.episodes.values() if "end" in e]
    about["episodes"] = f"{len(whole)} whole, {len(flight.episodes) - len(whole)} cut off"
    about["successes"] = sum(e["success"] for e in whole)
    about["limits"] = dict(flight.limits.most_common()) or "none acted"
    about |= {topic: f"{count} messages" for topic, count in sorted(flight.counts.items())}
    return about


def convert(
    source: str | Path,
    target: str | Path,
    format: str = "lerobot",
    on_episode: Callable[[int, int], None] = lambda done, total: None,
    *,
    video: bool = False,
) -> data.Reader:
    """Makes a dataset of a recording.

    Args:
        source: the .mcap file.
        target: where to write; must not exist.
        format: a name of `embodied.data.FORMATS`.
        on_episode: told how many episodes have arrived, and of how many.
        video: keep pictures as mp4 (LeRobot only).

    Raises:
        UserError: there is nothing in it to make a dataset of.
        DatasetError: the target exists, or the format cannot hold this.
    """
    if video and format != "lerobot":
        raise UserError(f"only the lerobot format stores video, not {format}")
    flight = read_flight(source, pictures=True)
    episodes = list(_episodes(flight)) if flight.steps else _bare(flight)
    if not episodes:
        raise UserError(f"{source} holds no step of a policy and no joint state")
    features = {
        name: Feature(str(v.dtype), v.shape[1:], video=video and v.ndim == 4)
        for name, v in episodes[0][0].items()
    }
    meta = {"flight": {k: v for k, v in flight.meta.items() if k != "joints"}}
    meta["joints"] = flight.meta["joints"]
    writer = data.create(
        target,
        format,
        env_id=_env_id(flight),
        fps=round(flight.meta.get("fps", FPS)),
        features=features,
        meta=meta,
    )
    with closing(writer):
        for done, (columns, about) in enumerate(episodes, 1):
            writer.add_episode(columns, task=about.get("task", "move"), meta=about)
            on_episode(done, len(episodes))
    return data.formats.named(format).open(Path(target), verify=False)


def _episodes(flight: Flight) -> Iterator[tuple[dict[str, np.ndarray], dict[str, Any]]]:
    """Columns of each episode and what is known of it; steps of a robot that broke are left out."""
    for number, group in itertools.groupby(flight.steps, key=lambda step: step["episode"]):
        steps = [step for step in group if not step["broken"]]
        if not steps:
            continue
        flags = {key: np.array([step[key] for step in steps]) for key in _FLAGS}
        flags["truncated"][-1] = not flags["terminated"][-1]
        columns = {
            "observation.state": np.array([s["observation"] for s in steps], np.float32),
            "action": np.array([s["action"] for s in steps], np.float32),
            "next.observation.state": np.array([s["next"] for s in steps], np.float32),
            "next.reward": np.array([s["reward"] for s in steps], np.float32),
            "next.done": flags["terminated"] | flags["truncated"],
            "intervened": flags.pop("intervened"),
            **{f"next.{key}": values for key, values in flags.items()},
        }
        for camera in steps[0]["pictures"]:
            columns[f"observation.images.{camera}"] = _pictures(steps, camera)
        about = {"index": number, **flight.episodes.get(number, {})}
        yield columns, {"env": _env_id(flight), **about}


def _env_id(flight: Flight) -> str:
    robot = str(flight.meta["robot"])
    return robot if robot.startswith(SCENES) else f"real/{robot.replace(' ', '_')}"


_FLAGS = ("success", "terminated", "truncated", "intervened")


def _pictures(steps: list[dict[str, Any]], camera: str) -> np.ndarray:
    """[T, H, W, 3]; a picture that several steps saw is unpacked once."""
    from hardware.pictures import read_compressed_image

    unpacked: dict[int, np.ndarray] = {}
    for step in steps:
        message = step["pictures"][camera]
        if id(message) not in unpacked:
            unpacked[id(message)] = read_compressed_image(message)
    return np.stack([unpacked[id(step["pictures"][camera])] for step in steps])


def _bare(flight: Flight) -> list[tuple[dict[str, np.ndarray], dict[str, Any]]]:
    """One episode of joint states and the positions sent, at the dataset's rate."""
    stamps, states = flight.states
    sent_at, sent = flight.sent
    if len(stamps) < 2 or not len(sent_at):
        return []
    ticks = np.arange(max(stamps[0], sent_at[0]), stamps[-1], 1.0 / flight.meta.get("fps", FPS))
    rows = np.searchsorted(stamps, ticks, "right") - 1
    followed = np.minimum(np.searchsorted(sent_at, ticks), len(sent_at) - 1)
    columns = {
        "observation.state": states[rows].astype(np.float32),
        "action": sent[followed].astype(np.float32),
    }
    return [(columns, {"index": 0})] if len(rows) else []

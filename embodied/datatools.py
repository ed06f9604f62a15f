"""`embodied data`: look at, check, mend and convert datasets of any format."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from embodied import data, flights
from embodied.core.types import UserError
from embodied.data.formats import Reader
from embodied.flights import is_flight

EPISODES_SHOWN = 20  # rows of a printed table from each end


def run(arguments: argparse.Namespace) -> int:
    """Do what `embodied data` was asked; returns the exit status."""
    if arguments.action != "convert" and arguments.out:
        raise UserError(f"embodied data {arguments.action} takes one path, not {arguments.out!r}")
    return ACTIONS[arguments.action](arguments)


def _info(arguments: argparse.Namespace) -> int:
    if is_flight(arguments.path):
        for key, value in flights.info(arguments.path).items():
            print(f"{key}: {value}")
        return 0
    from embodied.datasets import describe_dataset

    dataset = data.open_dataset(arguments.path, verify=False)
    for key, value in describe_dataset(dataset, arguments.path).items():
        print(f"{key}: {value}")
    print(f"format: {data.detect(arguments.path).title}")
    print(f"env: {dataset.env_id}\nfps: {dataset.fps}")
    for name, feature in dataset.features.items():
        print(f"{name}: {feature.dtype} {feature.shape}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    problems = data.verify(arguments.path)
    for problem in problems:
        print(problem)
    print(f"embodied: {f'{len(problems)} problem(s)' if problems else 'no problems'}")
    return int(any(problem.fatal for problem in problems))


def _repair(arguments: argparse.Namespace) -> int:
    done = data.repair(arguments.path)
    for problem in done.problems:
        print(problem)
    for path in done.quarantined:
        print(f"moved to quarantine: {path}")
    print(f"embodied: {done.num_episodes} episodes, {done.num_frames} frames verified")
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    flight = is_flight(arguments.path)
    if flight and not arguments.to:
        arguments.to = "lerobot"
    if arguments.out:
        arguments.out = arguments.out.removeprefix("out=")
    if not arguments.out or not arguments.to:
        raise UserError(
            "say where to and which format: embodied data convert DATASET OUT --to FORMAT, "
            f"FORMAT one of {', '.join(data.FORMATS)}"
        )
    with _bar("converting") as advance:
        new = (flights.convert if flight else data.convert)(
            arguments.path, arguments.out, arguments.to, advance, video=arguments.video
        )
    print(f"embodied: {new.num_episodes} episodes, {new.num_frames} frames in {arguments.out}")
    return 0


@contextmanager
def _bar(what: str) -> Iterator[Any]:
    """A progress bar; yields what to call with (done, total)."""
    from rich.progress import Progress

    with Progress(transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _view(arguments: argparse.Namespace) -> int:
    dataset = data.open_dataset(arguments.path, verify=False)
    if arguments.html:
        from embodied.datasets import describe_dataset
        from embodied.report.dataset import write_page

        facts = describe_dataset(dataset, arguments.path)
        facts["format"] = data.detect(arguments.path).title
        page = write_page(arguments.html, dataset, facts, arguments.episodes)
        print(f"embodied: wrote {page}")
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("episode", "frames", "return", "success", "task", box=None)
    total = dataset.num_episodes
    for index in range(total):
        if EPISODES_SHOWN <= index < total - EPISODES_SHOWN:
            if index == EPISODES_SHOWN:
                table.add_row("...")
            continue
        table.add_row(*episode_row(dataset, index))
    Console().print(table)
    return 0


def episode_row(dataset: Reader, index: int) -> tuple[str, str, str, str, str]:
    """Index, frames, return, success and task of an episode, as text."""
    names = [name for name in ("next.reward", "next.success") if name in dataset.features]
    columns = dataset.episode(index, names) if names else {}
    reward = f"{columns['next.reward'].sum():.4g}" if "next.reward" in columns else ""
    success = ("no", "yes")[int(columns["next.success"].any())] if "next.success" in columns else ""
    frames = str(int(dataset.episode_lengths[index]))
    return str(index), frames, reward, success, dataset.task(index)


ACTIONS = {
    "info": _info,
    "verify": _verify,
    "repair": _repair,
    "convert": _convert,
    "view": _view,
}

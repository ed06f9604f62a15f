"""Check a dataset from outside, and keep what can be verified of a damaged one."""

import itertools
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from embodied.data.io import exclusive, sha256_bytes
from embodied.data.layout import (
    LEDGER,
    LOCK,
    CorruptDataset,
    Episode,
    Ledger,
    data_path,
    index_columns,
)
from embodied.data.parquet import decode_episode, decode_header
from embodied.data.problems import Problem, RepairReport
from embodied.data.views import (
    Summary,
    check_episode,
    checked_episodes,
    publish,
    read_ledger,
    strays,
    sweep,
    view_state,
)


def verify(root: str | Path) -> list[Problem]:
    """Everything wrong with a dataset, without changing it; an empty list is a sound one.

    Raises:
        DatasetNotFound: there is no dataset here.
    """
    root = Path(root)
    try:
        ledger = read_ledger(root)
    except CorruptDataset as error:
        return [Problem(error.path, error.reason)]
    return _view_problems(root, ledger) + _episode_problems(root, ledger)


def _view_problems(root: Path, ledger: Ledger) -> list[Problem]:
    problems = []
    for path in ledger.views:
        state = view_state(root, ledger, path)
        if state == "stale":
            problems.append(Problem(path, "one commit behind the ledger", fatal=False))
        elif state != "fresh":
            problems.append(Problem(path, state))
    for path in strays(root, ledger, ledger.views):
        problems.append(Problem(path, "left by an interrupted write", fatal=False))
    return problems


def _episode_problems(root: Path, ledger: Ledger) -> list[Problem]:
    problems, start = [], 0
    for index, entry in enumerate(ledger.episodes):
        try:
            check_episode(root, ledger, index, start)
        except CorruptDataset as error:
            problems.append(Problem(error.path, error.reason, error.episode))
        start += entry.length
    return problems


def repair(root: str | Path) -> RepairReport:
    """Keep the longest verified prefix of episodes and make the metadata describe it.

    Data files from the first damaged episode on are moved to `quarantine/`, also sound ones
    behind it, because episode indices must have no gap; so is a data file that was never
    committed. A lost ledger is rebuilt from the headers of the data files. Metadata is written
    last, the ledger before the files that follow from it. A second run changes nothing.

    Raises:
        DatasetNotFound: there is no dataset here.
        CorruptDataset: ledger lost and no data file of ours readable; nothing was changed.
        RuntimeError: another process is writing here.
    """
    root, problems = Path(root), []
    with suppress(CorruptDataset):
        read_ledger(root)  # raises DatasetNotFound before the lock creates a directory
    with exclusive(root / LOCK):
        try:
            ledger = read_ledger(root)
            problems += _view_problems(root, ledger)
        except CorruptDataset as error:
            problems.append(Problem(error.path, error.reason))
            ledger = _ledger_from_data(root)
        problems += _episode_problems(root, ledger)
        kept = next(
            (problem.episode for problem in problems if problem.episode is not None),
            len(ledger.episodes),
        )
        ledger, summary = ledger.truncated(kept), Summary()
        for columns, entry in zip(checked_episodes(root, ledger), ledger.episodes, strict=True):
            task = ledger.tasks[entry.task]
            summary = summary.extended(ledger.settings, task, columns)
        views = summary.render(ledger)
        quarantined, removed = sweep(root, ledger, views)
        entries = {path: entry for path, entry in ledger.views.items() if path in views}
        ledger, rewritten = publish(root, replace(ledger, views=entries), views)
    return RepairReport(
        len(ledger.episodes),
        ledger.num_frames,
        tuple(problems),
        tuple(quarantined),
        tuple(removed),
        tuple(rewritten),
    )


def _ledger_from_data(root: Path) -> Ledger:
    """A ledger of the readable data files from episode 0 on, without views.

    Only the checksums of Parquet's own pages vouch for these files.
    """
    ledger = None
    for index in itertools.count():
        path = root / data_path(index)
        if not path.is_file():
            break
        raw = path.read_bytes()
        try:
            header = decode_header(raw)
            settings, task = header.settings, header.task
            ledger = ledger or Ledger(settings)
            columns = decode_episode(settings, raw)
        except ValueError:
            break  # the caller reports the files from here on as quarantined
        tasks = ledger.tasks if task in ledger.tasks else (*ledger.tasks, task)
        length, task_index = len(columns["index"]), tasks.index(task)
        expected = index_columns(settings, index, ledger.num_frames, task_index, length)
        sound = all(np.array_equal(columns[name], values) for name, values in expected.items())
        if settings != ledger.settings or not sound:
            break
        entry = Episode(length, task_index, sha256_bytes(raw))
        ledger = replace(ledger, tasks=tasks, episodes=(*ledger.episodes, entry))
    if ledger is None or not ledger.episodes:
        raise CorruptDataset(
            root, LEDGER, "it is lost and no data file holds what is needed to rebuild it"
        )
    return ledger

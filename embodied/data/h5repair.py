"""Check a dataset in one HDF5 file from outside, and keep what can be verified of a damaged one."""

import itertools
import os
from dataclasses import replace
from pathlib import Path

from embodied.data.h5layout import H5_ERRORS, Layout
from embodied.data.h5ledger import (
    Ledger,
    Record,
    ledger_path,
    merge,
    open_h5,
    part_path,
    quarantine,
    read_ledger,
    relative,
    restore_companions,
    rewrite,
    settled,
    side,
    strays,
    write_ledger,
)
from embodied.data.h5store import (
    LOCK,
    H5Dataset,
    adopted,
    check_all,
    clear,
    group_digest,
)
from embodied.data.io import exclusive, make_dirs, sha256_file
from embodied.data.layout import CorruptDataset, EmptyDataset, IncompatibleDataset
from embodied.data.problems import Problem, RepairReport


def verify(layout: Layout, path: Path) -> list[Problem]:
    """Everything wrong with a dataset, without changing it; an empty list is a sound one.

    Raises:
        DatasetNotFound: there is no dataset here.
    """
    try:
        found = read_ledger(path)
        if found is None:
            H5Dataset.open(layout, path)
            return []
    except CorruptDataset as error:
        return [Problem(error.path, error.reason, error.episode)]
    except EmptyDataset:
        return []
    return _problems(layout, path, found, settled(path, found))


def _problems(layout: Layout, path: Path, found: Ledger, ledger: Ledger) -> list[Problem]:
    problems = []
    if found.pending is not None:
        name = relative(path, ledger_path(path))
        problems.append(Problem(name, "a merge was interrupted", fatal=False))
    for file in strays(path, ledger):
        reason = "left by an interrupted write"
        problems.append(Problem(relative(path, file), reason, fatal=False))
    rest = replace(ledger, files=None)
    for name, digest in (ledger.files or {}).items():
        only = replace(ledger, episodes=ledger.episodes[: ledger.merged], files={name: digest})
        problems += _problem(layout, path, only, found.pending is None)
    for index, record in enumerate(ledger.episodes):
        if record.part is not None:
            blank = [replace(e, part=None) for e in ledger.episodes]
            blank[index] = record
            problems += _problem(layout, path, replace(rest, episodes=tuple(blank)), True)
    return problems


def _problem(layout: Layout, path: Path, ledger: Ledger, companions: bool) -> list[Problem]:
    try:
        check_all(layout, path, ledger, companions)
    except CorruptDataset as error:
        return [Problem(error.path, error.reason, error.episode)]
    return []


def repair(layout: Layout, path: Path) -> RepairReport:
    """Keep the longest verified prefix of episodes, all of it in one file that any tool opens.

    A damaged file is moved to the side directory's `quarantine/`, and so are sound parts behind
    the first damaged episode. A lost ledger is rebuilt from the checksums that arrays carry. A
    second run changes nothing.

    Raises:
        DatasetNotFound: there is no dataset here.
        IncompatibleDataset: another tool wrote the file; it is left as it is.
        CorruptDataset: nothing readable is left; nothing was changed.
        RuntimeError: another process is writing here.
    """
    problems: list[Problem] = []
    try:
        found = read_ledger(path)
    except CorruptDataset as error:
        problems.append(Problem(error.path, error.reason))
        found = _rebuilt(layout, path)
    if found is None:
        return _foreign(layout, path)
    with exclusive(side(path) / LOCK):
        ledger = settled(path, found)
        before = _state(path, ledger)
        problems += _problems(layout, path, found, ledger)
        moved, removed = clear(path, ledger)
        kept = _kept(layout, path, ledger, problems)
        for index in range(kept, len(ledger.episodes)):
            if ledger.episodes[index].part is not None and part_path(path, index).is_file():
                moved.append(quarantine(path, part_path(path, index)))
        damaged = ledger.files is not None and _changed(path, ledger)
        merged = min(kept, ledger.merged)
        ledger = replace(ledger, episodes=ledger.episodes[:kept])
        groups = [layout.group(index) for index in range(merged)]
        if damaged:
            moved += _set_aside(path)
            ledger = replace(ledger, files=None)
        if damaged and kept:
            ledger = rewrite(path, layout, ledger, groups)
        else:
            if damaged and path.is_file():
                path.unlink()
            ledger = merge(path, layout, ledger, groups)
        if ledger.files is not None:
            restore_companions(path, layout, ledger)
        after = _state(path, ledger)
    rewritten = sorted(name for name in after if before.get(name) != after[name])
    return RepairReport(
        len(ledger.episodes),
        ledger.num_frames,
        tuple(problems),
        tuple(moved),
        tuple(removed),
        tuple(rewritten),
    )


def _kept(layout: Layout, path: Path, ledger: Ledger, problems: list[Problem]) -> int:
    """How many episodes from the first on are sound."""
    bad = [p.episode for p in problems if p.fatal and p.episode is not None]
    if ledger.merged and not path.is_file():
        bad.append(0)
    return min(bad, default=len(ledger.episodes))


def _changed(path: Path, ledger: Ledger) -> bool:
    return not path.is_file() or sha256_file(path) != ledger.files[path.name]


def _set_aside(path: Path) -> list[str]:
    """Keep a damaged file under a second name, so that it can be replaced in one step."""
    if not path.is_file():
        return []
    folder = side(path) / "quarantine"
    make_dirs(folder)
    names = (path.name if n == 0 else f"{path.name}.{n}" for n in itertools.count())
    os.link(path, next(folder / name for name in names if not (folder / name).exists()))
    return [path.name]


def _state(path: Path, ledger: Ledger) -> dict[str, str]:
    """Name -> checksum of the dataset's own files that are there."""
    names = [path.name, *(ledger.files or {})]
    files = {ledger_path(path), *(path.with_name(name) for name in names)}
    return {relative(path, file): sha256_file(file) for file in files if file.is_file()}


def _foreign(layout: Layout, path: Path) -> RepairReport:
    """Nothing to do for another tool's sound file; a damaged one has nothing to verify it with."""
    with open_h5(path, path) as file:
        own = layout.is_own(file)
    if own:
        with exclusive(side(path) / LOCK):
            ledger = write_ledger(path, adopted(layout, path))
        return _done(ledger, [relative(path, ledger_path(path))])
    try:
        dataset = H5Dataset.open(layout, path)
    except CorruptDataset as error:
        raise IncompatibleDataset(
            f"{error.path}: {error.reason}. Another tool wrote this file, so it is left as it is; "
            f"copy the episodes before the damage with: embodied data convert {path} NEW"
        ) from error
    return RepairReport(dataset.num_episodes, dataset.num_frames, (), (), (), ())


def _done(ledger: Ledger, rewritten: list[str]) -> RepairReport:
    return RepairReport(len(ledger.episodes), ledger.num_frames, (), (), (), tuple(rewritten))


def _rebuilt(layout: Layout, path: Path) -> Ledger:
    """A ledger of the merged file and the parts behind it, by the arrays' own checksums."""
    ledger = adopted(layout, path) if path.is_file() else None
    for index in itertools.count(0 if ledger is None else len(ledger.episodes)):
        part = part_path(path, index)
        if not part.is_file():
            break
        try:
            with open_h5(part, path, index) as file:
                contents = layout.contents(file, part)
                group = file[layout.group(index)]
                length, task = layout.length(group), layout.task(file, group, part)
                record = Record(length, task, group_digest(group), sha256_file(part))
            H5Dataset.unlisted(layout, part)
        except (CorruptDataset, *H5_ERRORS):
            break
        ledger = ledger or Ledger(layout.name, contents.settings)
        ledger = replace(ledger, episodes=(*ledger.episodes, record))
    if ledger is None:
        raise CorruptDataset(
            path,
            relative(path, ledger_path(path)),
            "it is lost and no file holds what is needed to rebuild it",
        )
    with exclusive(side(path) / LOCK):
        return write_ledger(path, ledger)

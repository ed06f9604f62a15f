"""Evidence pages: what `embodied reproduce` measured, as Markdown with figures beside it.

A page depends on its arguments alone (no clock, no machine), so rebuilding it from the same runs
gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embodied.report.files import replacing, write_text

FIGURE_LIMIT = 150_000  # bytes; figures live in the repository


@dataclass(frozen=True)
class Gate:
    """A condition set before the runs, and whether it holds.

    Attributes:
        description: what has to be, with the number.
        measured: what was measured, in words.
        holds: whether it is so.
    """

    description: str
    measured: str
    holds: bool


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        heading: its title.
        text: Markdown.
        columns: of the table; empty for no table.
        rows: of the table.
        figure: (bytes, name) of an SVG or PNG, written as `figures/<page>-<name>.<svg|png>`.
        gates: conditions this part decides.
    """

    heading: str
    text: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    figure: tuple[bytes, str] | None = None
    gates: Sequence[Gate] = field(default=())


def write_page(
    path: str | Path,
    *,
    title: str,
    paper: str,
    summary: str,
    command: str,
    sections: Sequence[Section],
    seeds: Sequence[int] = (),
    versions: Mapping[str, str] | None = None,
) -> Path:
    """Write an evidence page and its figures, the page last and atomically.

    Args:
        path: `docs/methods/<id>.md`; figures go to `figures/` beside it.
        title: method's name.
        paper: link to the paper.
        summary: what the page shows, in a sentence or two.
        command: rebuilds the page.
        sections: its parts.
        seeds: seeds of the runs.
        versions: packages of the runs.

    Returns:
        Path of the page.

    Raises:
        ValueError: a figure is too large or of an unknown kind, or a row does not fit its table.
    """
    path = Path(path)
    gates = [gate for section in sections for gate in section.gates]
    parts = [f"# {title}", summary, f"Paper: <{paper}>", _verdict(gates)]
    parts.append(f"Rebuild this page:\n\n```\n{command}\n```")
    if seeds:
        parts.append("Seeds: " + ", ".join(map(str, seeds)))
    if versions:
        parts.append("Versions: " + ", ".join(f"{k} {v}" for k, v in sorted(versions.items())))
    for section in sections:
        parts += _section(section, path)
    write_text(path, "\n\n".join(parts) + "\n")
    return path


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; floats have four significant digits."""
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"a row has {len(row)} cells, the table {len(columns)}: {row}")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _verdict(gates: Sequence[Gate]) -> str:
    if not gates:
        return "**This page has no gates.**"
    failed = [g for g in gates if not g.holds]
    if not failed:
        return f"**Every gate holds ({len(gates)} of {len(gates)}).**"
    lines = "\n".join(f"- {g.description}; measured: {g.measured}" for g in failed)
    return f"**{len(failed)} of {len(gates)} gates do not hold:**\n\n{lines}"


def _section(section: Section, page: Path) -> list[str]:
    parts = [f"## {section.heading}"]
    if section.text:
        parts.append(section.text)
    if section.columns:
        parts.append(table(section.columns, section.rows))
    if section.figure is not None:
        parts.append(_figure(*section.figure, page, section.heading))
    if section.gates:
        rows = [(g.description, g.measured, "yes" if g.holds else "**no**") for g in section.gates]
        parts.append(table(("gate", "measured", "holds"), rows))
    return parts


def _figure(content: bytes, name: str, page: Path, heading: str) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "svg" if b"<svg" in content[:1000] else None
    if kind is None:
        raise ValueError(f"figure {name!r} is neither SVG nor PNG")
    if len(content) > FIGURE_LIMIT:
        raise ValueError(
            f"figure {name!r} has {len(content):,} bytes, at most {FIGURE_LIMIT:,} are kept in the "
            "repository; draw fewer points or use kind='png'"
        )
    file = page.parent / "figures" / f"{page.stem}-{name}.{kind}"
    with replacing(file) as temporary:
        temporary.write_bytes(content)
    return f"![{heading}](figures/{file.name})"


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")

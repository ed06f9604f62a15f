"""A page that shows a dataset: its episodes, a few frames, actions and rewards over time."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from embodied.data.formats import Reader
from embodied.report.files import write_text
from embodied.report.style import CSS

FRAMES = 6  # pictures of an episode
ROWS = 200  # episodes listed
WIDTH, HEIGHT = 640, 120  # of a plot
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def write_page(path: str | Path, dataset: Reader, facts: Mapping[str, Any], episodes: int) -> Path:
    """Write the page, atomically.

    Args:
        path: the HTML file.
        dataset: what to show.
        facts: what to say of it above everything else.
        episodes: how many episodes to draw.

    Returns:
        The file's path.
    """
    path = Path(path)
    facts = {**facts, "env": dataset.env_id, "fps": dataset.fps}
    parts = [
        f"<header><h1>{escape(str(facts.get('path', dataset.root)))}</h1></header>",
        _section("About", _list(facts)),
        _section("Columns", _columns(dataset)),
        _section("Episodes", _table(dataset)),
        *(_episode(dataset, index) for index in range(min(episodes, dataset.num_episodes))),
    ]
    title = escape(dataset.root.name)
    write_text(
        path,
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{CSS}</style></head><body><main>{''.join(parts)}</main></body></html>",
    )
    return path


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _list(facts: Mapping[str, Any]) -> str:
    rows = (f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items())
    return f"<dl>{''.join(rows)}</dl>"


def _columns(dataset: Reader) -> str:
    shapes = {name: f"{f.dtype} {f.shape}" for name, f in dataset.features.items()}
    return _list(shapes)


def _table(dataset: Reader) -> str:
    lengths, total = dataset.episode_lengths, dataset.num_episodes
    success = "next.success" in dataset.features
    rows = []
    for index in range(min(total, ROWS)):
        cells = [str(index), str(int(lengths[index]))]
        if success:
            done = dataset.episode(index, ["next.success"])["next.success"].any()
            cells.append("yes" if done else "no")
        body = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr>{body}<td class="text">{escape(dataset.task(index))}</td></tr>')
    head = "<th>episode</th><th>frames</th>" + ("<th>success</th>" if success else "")
    rest = f"<p>and {total - ROWS} more</p>" if total > ROWS else ""
    return (
        f'<div class="scroll"><table><thead><tr>{head}<th class="text">task</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{rest}"
    )


def _episode(dataset: Reader, index: int) -> str:
    columns = dataset.episode(index, list(dataset.features))
    body = []
    for name, values in columns.items():
        if is_image(values) and not name.startswith("next."):
            body.append(f"<h3>{escape(name)}</h3>{_strip(values)}")
    for name in ("action", "observation.state", "next.reward"):
        if name in columns and columns[name].size:
            body.append(f"<h3>{escape(name)}</h3>{_plot(columns[name])}")
    return _section(f"Episode {index}: {dataset.task(index)}", "".join(body))


def is_image(values: np.ndarray) -> bool:
    """Whether a column [T, H, W, 3 or 1] holds pictures."""
    return values.dtype == np.uint8 and values.ndim == 4 and values.shape[-1] in (1, 3)


def _strip(frames: np.ndarray) -> str:
    chosen = np.unique(np.linspace(0, len(frames) - 1, FRAMES).round().astype(int))
    pictures = []
    for row in chosen:
        data = base64.b64encode(png(frames[row])).decode()
        pictures.append(
            f'<figure style="flex:1 1 100px;max-width:200px"><img alt="frame {row}" '
            f'src="data:image/png;base64,{data}"><figcaption>{row}</figcaption></figure>'
        )
    return f'<div class="videos" style="gap:8px">{"".join(pictures)}</div>'


def png(picture: np.ndarray) -> bytes:
    """A PNG file of a picture [H, W, 3 or 1] uint8."""
    height, width, channels = picture.shape

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    lines = picture.reshape(height, width * channels)
    rows = np.concatenate([np.zeros((height, 1), np.uint8), lines], axis=1)  # no row filter
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows.tobytes()))
        + chunk(b"IEND", b"")
    )


def _plot(values: np.ndarray) -> str:
    """Lines over time as SVG, one per component: at most as many as there are colours."""
    lines = values.reshape(len(values), -1).astype(np.float64)[:, : len(COLOURS)]
    low, high = float(lines.min()), float(lines.max())
    x = np.linspace(4, WIDTH - 4, max(len(lines), 2))[: len(lines)]
    y = HEIGHT - 6 - (lines - low) / ((high - low) or 1.0) * (HEIGHT - 12)
    drawn = "".join(_line(x, y[:, i], COLOURS[i]) for i in range(lines.shape[1]))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" style="width:100%;border:1px solid #dfe5ea" '
        f'role="img">{drawn}</svg><figcaption>{len(values)} frames, {low:.4g} to {high:.4g}'
        "</figcaption>"
    )


def _line(x: Sequence[float], y: Sequence[float], colour: str) -> str:
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return f'<polyline fill="none" stroke="{colour}" stroke-width="1.3" points="{points}"/>'

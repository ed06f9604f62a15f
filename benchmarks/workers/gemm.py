"""The matrix products of one lean step, and nothing else: the bound of the machine.

WSRL: observation 39, action 4, batch 256, 4 critic updates, 10 critics of 43-256-256-1 of which a
random pair backs up, an actor of 39-256-256-8 updated on 1024 rows through the critic that is
smallest in each row.

GRPO: the linear layers of the model of `tiny_text`, for 64 prompts of 8 symbols and 512 answers of
32: each prompt is read once when sampling and once when learning, and the last token never.
"""

from __future__ import annotations

import itertools

import torch

from benchmarks.serve import serve
from benchmarks.workers import tiny_text as tiny

OBS, ACT, HIDDEN, BATCH, UTD, MEMBERS, PAIR = 39, 4, 256, 256, 4, 10, 2
Product = tuple[int, int, int]  # [m, k] @ [k, n]


def _forward(rows: int, widths: tuple[int, ...]) -> list[Product]:
    return [(rows, a, b) for a, b in itertools.pairwise(widths)]


def _gradients(rows: int, widths: tuple[int, ...]) -> list[Product]:
    """Weight gradients of all layers, input gradients of all but the first."""
    layers = list(itertools.pairwise(widths))
    return [(a, rows, b) for a, b in layers] + [(rows, b, a) for a, b in layers[1:]]


def wsrl_products() -> list[Product]:
    """The products of one step, in order."""
    critic = (OBS + ACT, HIDDEN, HIDDEN, 1)
    actor = (OBS, HIDDEN, HIDDEN, 2 * ACT)
    rows = BATCH * UTD
    update = _forward(BATCH, actor) + _forward(BATCH, critic) * PAIR
    update += (_forward(BATCH, critic) + _gradients(BATCH, critic)) * MEMBERS
    step = update * UTD + _forward(rows, actor) + _gradients(rows, actor)
    step += _forward(rows, critic) * MEMBERS
    return [*step, (rows, HIDDEN, HIDDEN), (rows, HIDDEN, ACT)]


def grpo_products(shape: str) -> list[Product]:
    """The products of one step, in order."""
    width, feed = tiny.WIDTH, {"gpt2": 4 * tiny.WIDTH, "llama": tiny.FEED_FORWARD}[shape]
    block = {
        "gpt2": [(width, 3 * width), (width, width), (width, feed), (feed, width)],
        "llama": [(width, width)] * 4 + [(width, feed)] * 2 + [(feed, width)],
    }[shape]
    layers, head = block * tiny.LAYERS, (width, tiny.VOCABULARY)
    answers = tiny.PROMPTS * tiny.GROUP
    read = tiny.PROMPTS * tiny.PROMPT
    products = [(read, a, b) for a, b in layers] + [(tiny.PROMPTS, *head)]
    products += [(answers, a, b) for a, b in [*layers, head]] * (tiny.LONGEST - 1)
    rows = read + answers * (tiny.LONGEST - 1)
    for count, parts in ((rows, layers), (answers * tiny.LONGEST, [head])):
        products += [(count, a, b) for a, b in parts]
        products += [(a, count, b) for a, b in parts] + [(count, b, a) for a, b in parts]
    return products


def products(shapes: list[Product], units: int):
    """Products, each shape in its own buffers."""
    torch.set_num_threads(1)
    buffers = {
        (m, k, n): (torch.randn(m, k), torch.randn(k, n), torch.empty(m, n))
        for m, k, n in set(shapes)
    }
    calls = [buffers[shape] for shape in shapes]

    def step() -> None:
        for a, b, out in calls:
            torch.mm(a, b, out=out)

    return step, units


if __name__ == "__main__":
    answers = tiny.PROMPTS * tiny.GROUP
    serve(
        {
            "wsrl": lambda: products(wsrl_products(), UTD),
            "grpo-gpt2": lambda: products(grpo_products("gpt2"), answers),
            "grpo-llama": lambda: products(grpo_products("llama"), answers),
        },
        ["torch"],
    )

"""The matrix products of one lean WSRL step, and nothing else: the bound of the machine.

Shapes: observation 39, action 4, batch 256, 4 critic updates, 10 critics of 43-256-256-1 of which a
random pair backs up, an actor of 39-256-256-8 updated on 1024 rows through the critic that is
smallest in each row.
"""

from __future__ import annotations

import itertools

import torch

from benchmarks.serve import serve

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


def wsrl():
    """One step's products, each shape in its own buffers."""
    torch.set_num_threads(1)
    buffers = {
        (m, k, n): (torch.randn(m, k), torch.randn(k, n), torch.empty(m, n))
        for m, k, n in set(wsrl_products())
    }
    calls = [buffers[shape] for shape in wsrl_products()]

    def step() -> None:
        for a, b, out in calls:
            torch.mm(a, b, out=out)

    return step, UTD


if __name__ == "__main__":
    serve({"wsrl": wsrl}, ["torch"])

"""Attention of one new position per row, compiled for the CPU: keys and values are read once.

Libraries multiply many small matrices at some cost each, and at these sizes that cost is most of
the time. numba compiles at the first call, which takes seconds, and keeps the result where it can.
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

LEAST = 16  # rows a thread is worth


@functools.cache
def _kernels() -> tuple[Any, Any] | None:
    """The compiled functions, or None without numba."""
    try:
        import numba
    except ImportError:
        return None
    how = {"cache": True, "nogil": True, "fastmath": {"reassoc", "contract", "nsz", "arcp"}}
    return numba.njit(**how)(_score), numba.njit(**how)(_mix)


def available(query: Tensor) -> bool:
    """Whether `attend` can take these queries."""
    plain = query.device.type == "cpu" and query.dtype == torch.float32
    return plain and not torch.is_grad_enabled() and _kernels() is not None


def attend(
    query: Tensor,
    keys: tuple[Tensor, Tensor],
    values: tuple[Tensor, Tensor],
    hidden: Tensor | None,
    length: int,
    scaling: float,
) -> Tensor:
    """Softmax attention over a prompt and what was written since: float32 [B, Hq, d].

    Args:
        query: float32 [B, Hq, d]; Hq is a multiple of the key heads H.
        keys: of the prompts [N, H, P, d], B a multiple of N, and of the completions [B, H, T, d].
        values: the same.
        hidden: bool [N, P], true on padding, or None.
        length: how many of the T positions are written.
        scaling: of the scores.
    """
    score, mix = _kernels()
    rows, heads, size = query.shape
    width = keys[0].shape[2]
    weights, out = torch.empty(rows, heads, width + length), torch.empty(rows, heads, size)
    threads = min(torch.get_num_threads(), max(1, rows // LEAST))
    edges = np.linspace(0, rows, threads + 1).astype(int)

    def spread(kernel: Any, *given: Any) -> None:
        given = tuple(x.numpy() if isinstance(x, Tensor) else x for x in given)
        if threads == 1:
            kernel(0, rows, *given)
        else:
            list(_pool(threads).map(lambda ends: kernel(*ends, *given), pairwise(edges.tolist())))

    spread(score, query.contiguous(), *keys, length, np.float32(scaling), weights)
    if hidden is not None:
        group = rows // len(hidden)
        weights[..., :width].masked_fill_(hidden.repeat_interleave(group, 0)[:, None], -torch.inf)
    spread(mix, weights.softmax(-1), *values, length, out)
    return out


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "decode")


def _score(begin, end, query, prompts, written, length, scaling, out):
    """Scores of rows begin to end: of the prompt's P positions, then of those written."""
    heads, size = query.shape[1:]
    group, each = len(query) // len(prompts), heads // prompts.shape[1]
    width = prompts.shape[2]
    for row in range(begin, end):
        for head in range(heads):
            asked, scores = query[row, head], out[row, head]
            keys = prompts[row // group, head // each]
            for j in range(width):
                total = np.float32(0.0)
                for i in range(size):
                    total += asked[i] * keys[j, i]
                scores[j] = total * scaling
            keys = written[row, head // each]
            for j in range(length):
                total = np.float32(0.0)
                for i in range(size):
                    total += asked[i] * keys[j, i]
                scores[width + j] = total * scaling


def _mix(begin, end, weights, prompts, written, length, out):
    """Values of rows begin to end, summed by their weights."""
    heads, size = out.shape[1:]
    group, each = len(out) // len(prompts), heads // prompts.shape[1]
    width = prompts.shape[2]
    total = np.empty(size, np.float32)
    for row in range(begin, end):
        for head in range(heads):
            share = weights[row, head]
            total[:] = 0.0
            values = prompts[row // group, head // each]
            for j in range(width):
                for i in range(size):
                    total[i] += share[j] * values[j, i]
            values = written[row, head // each]
            for j in range(length):
                for i in range(size):
                    total[i] += share[width + j] * values[j, i]
            out[row, head] = total

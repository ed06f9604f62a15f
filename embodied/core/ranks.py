"""One model trained by several processes, as torchrun starts them: ranks.

Each rank draws its own rows of the same stream and takes the same steps; gradients are averaged.
Statistics of a batch other than its token count (a whitening, a batch's deviation) are of each
rank's own rows. Without torchrun there is one rank, and nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
from torch import Tensor

PATIENCE = timedelta(minutes=30)  # while rank 0 evaluates; one that dies is noticed at once

index = int(os.environ.get("RANK", 0))
count = int(os.environ.get("WORLD_SIZE", 1))
local = int(os.environ.get("LOCAL_RANK", 0))


def join(device: str) -> None:
    """Meet the other ranks, by gloo on the CPU and by nccl on GPUs."""
    if count > 1 and not torch.distributed.is_initialized():
        backend = "gloo" if device == "cpu" else "nccl"
        torch.distributed.init_process_group(backend, timeout=PATIENCE)


def mean(value: Tensor) -> Tensor:
    """The mean over ranks of a tensor without gradient; every rank must ask."""
    if count == 1:
        return value
    total = value.detach().float().clone()
    torch.distributed.all_reduce(total)
    return total / count


def average(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their means over ranks, in one message."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    torch.distributed.all_reduce(flat)
    parts = flat.div_(count).split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def least(value: int) -> int:
    """The smallest of a whole number over ranks; every rank must ask."""
    if count == 1:
        return value
    shared = torch.tensor(value)
    if torch.distributed.get_backend() == "nccl":
        shared = shared.cuda(local)
    torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MIN)
    return int(shared)


def any_of(flag: bool) -> bool:
    """Whether a flag is set on any rank; every rank must ask."""
    return least(0 if flag else 1) == 0

"""How the process holds memory."""

from __future__ import annotations

import torch

_MOST = (32 << 20) - (1 << 16)  # bytes; glibc learns nothing from a larger block


def keep_freed_memory() -> None:
    """Have glibc keep freed activations for the next update instead of giving them back.

    By default large ones are returned and faulted in again page by page, 3 to 5 % of an update.
    glibc adapts to the largest block it saw freed (mallopt(3), M_MMAP_THRESHOLD), so one is shown
    to it. Other allocators are not changed by this.
    """
    torch.empty(_MOST, dtype=torch.uint8)

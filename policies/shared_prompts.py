"""Decoding a group of completions of one prompt without copying the prompt's keys and values.

The usual cache holds a prompt once per completion and is copied at every step, and attention reads
all of it each time. Here a prompt's keys and values are kept once and multiplied with the queries
of its whole group at a time; those of the completions are written into their place beside.

It works through transformers' own switches, a cache and an attention function, with the model's
code as it is; `supports` says for which architectures that was tested.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from policies.lm import LanguageModel, hub

NAME = "shared_prompts"
TESTED = ("gpt2", "gpt_neox", "llama", "qwen2", "qwen3")


class Parts(NamedTuple):
    """Keys or values as the cache hands them to attention.

    Attributes:
        prompt: [N, H, P, d].
        own: [B, H, t, d], B = N x group.
        hidden: [N, 1, 1, P] bool, true on padding, or None.
    """

    prompt: Tensor
    own: Tensor
    hidden: Tensor | None


def supports(model: LanguageModel) -> bool:
    """Whether a model's attention is plain: no windows, no caps, no sinks."""
    config = model.network.config
    return config.model_type in TESTED and not getattr(config, "use_sliding_window", False)


class SharedPrompts:
    """A cache, as far as decoding asks for one.

    Args:
        read: the cache after the prompts were read, one row each.
        prompt_mask: [N, P].
        group: completions per prompt.
        longest: tokens of a completion at most.
    """

    is_compileable = False

    def __init__(self, read: Any, prompt_mask: Tensor, group: int, longest: int) -> None:
        self._prompts = [(layer.keys, layer.values) for layer in read.layers]
        rows = len(prompt_mask) * group
        self._own = [
            tuple(
                torch.empty(rows, part.shape[1], longest, part.shape[3], dtype=part.dtype,
                            device=part.device)
                for part in pair
            )
            for pair in self._prompts
        ]  # fmt: skip
        hidden = ~prompt_mask.bool()
        self._hidden = hidden[:, None, None] if hidden.any() else None
        self.step = 0

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> Any:
        """Write the newest position [B, H, 1, d] into its place; what attention is to read."""
        found = []
        for fresh, own, prompt in zip(
            (keys, values), self._own[layer], self._prompts[layer], strict=True
        ):
            own[:, :, self.step] = fresh[:, :, 0]
            found.append(Parts(prompt, own[:, :, : self.step + 1], self._hidden))
        return tuple(found)

    def get_seq_length(self, layer: int = 0) -> int:
        """Positions before the newest."""
        return self._prompts[0][0].shape[2] + self.step


def attend(
    module: Any, query: Tensor, key: Parts, value: Parts, *_: Any, scaling: float, **__: Any
) -> tuple[Tensor, None]:
    """Softmax attention of one new position per row: [B, 1, Hq, d].

    Args:
        module: of the model; not needed.
        query: [B, Hq, 1, d]; Hq is a multiple of the key heads H.
        key: of prompts and completions.
        value: the same.
        scaling: of the scores.
    """
    rows, heads, _, size = query.shape
    prompts, shared, width, _ = key.prompt.shape
    group, each = rows // prompts, heads // shared
    query = query.view(rows, shared, each, size) * scaling
    together = query.view(prompts, group, shared, each, size).transpose(1, 2)
    together = together.reshape(prompts, shared, group * each, size)
    scores = together @ key.prompt.transpose(-1, -2)  # [N, H, group x each, P]
    if key.hidden is not None:
        scores = scores.masked_fill(key.hidden, float("-inf"))
    scores = scores.view(prompts, shared, group, each, width).transpose(1, 2)
    before = scores.reshape(rows, shared, each, width)
    weights = torch.cat([before, query @ key.own.transpose(-1, -2)], -1).softmax(-1)
    before = weights[..., :width].view(prompts, group, shared, each, width).transpose(1, 2)
    seen = before.reshape(prompts, shared, group * each, width) @ value.prompt
    seen = seen.view(prompts, shared, group, each, size).transpose(1, 2)
    seen = seen.reshape(rows, shared, each, size) + weights[..., width:] @ value.own
    return seen.reshape(rows, 1, heads, size), None


@contextlib.contextmanager
def switched(model: LanguageModel) -> Iterator[None]:
    """Have a model attend by `attend` meanwhile."""
    registry = hub().modeling_utils.ALL_ATTENTION_FUNCTIONS
    if NAME not in registry.valid_keys():
        registry.register(NAME, attend)
    config = model.network.config
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before

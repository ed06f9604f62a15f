"""A group of completions of one prompt, without repeating the prompt.

Decoding: the usual cache holds a prompt once per completion and is copied at every step, and
attention reads all of it each time. Here a prompt's keys and values are kept once and multiplied
with the queries of its whole group at a time; those of the completions are written into their place
beside. Reading, to learn (`logits`): a prompt and its completions are one row, in which completions
do not see one another.

It works through transformers' own switches, a cache and an attention function, with the model's
code as it is; `supports` says for which architectures that was tested.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from policies import decode_kernel
from policies.lm import LanguageModel, hub, positions

NAME, PACKED = "shared_prompts", "packed_prompts"
TESTED = ("gpt2", "gpt_neox", "llama", "qwen2", "qwen3")


class Parts(NamedTuple):
    """Keys or values as the cache hands them to attention.

    Attributes:
        prompt: [N, H, P, d].
        own: [B, H, T, d], B = N x group.
        length: of the T positions, those that are written.
        hidden: [N, P] bool, true on padding, or None.
    """

    prompt: Tensor
    own: Tensor
    length: int
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
        self._hidden = hidden if hidden.any() else None
        self.step = 0

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> Any:
        """Write the newest position [B, H, 1, d] into its place; what attention is to read."""
        found = []
        for fresh, own, prompt in zip(
            (keys, values), self._own[layer], self._prompts[layer], strict=True
        ):
            own[:, :, self.step] = fresh[:, :, 0]
            found.append(Parts(prompt, own, self.step + 1, self._hidden))
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
    if decode_kernel.available(query):
        pairs = (key.prompt, key.own), (value.prompt, value.own)
        seen = decode_kernel.attend(query[:, :, 0], *pairs, key.hidden, key.length, scaling)
        return seen[:, None], None
    prompts, shared, width, _ = key.prompt.shape
    group, each = rows // prompts, heads // shared
    query = query.view(rows, shared, each, size) * scaling
    together = query.view(prompts, group, shared, each, size).transpose(1, 2)
    together = together.reshape(prompts, shared, group * each, size)
    scores = together @ key.prompt.transpose(-1, -2)  # [N, H, group x each, P]
    if key.hidden is not None:
        scores = scores.masked_fill(key.hidden[:, None, None], float("-inf"))
    scores = scores.view(prompts, shared, group, each, width).transpose(1, 2)
    before = scores.reshape(rows, shared, each, width)
    keys, values = (part.own[:, :, : part.length] for part in (key, value))
    weights = torch.cat([before, query @ keys.transpose(-1, -2)], -1).softmax(-1)
    before = weights[..., :width].view(prompts, group, shared, each, width).transpose(1, 2)
    seen = before.reshape(prompts, shared, group * each, width) @ value.prompt
    seen = seen.view(prompts, shared, group, each, size).transpose(1, 2)
    seen = seen.reshape(rows, shared, each, size) + weights[..., width:] @ values
    return seen.reshape(rows, 1, heads, size), None


@dataclass(frozen=True)
class Layout:
    """A row that holds a prompt and all of its completions.

    Attributes:
        width: of the prompt, P.
        group: completions, G.
        first: what the prompt's positions see, bool [N, 1, P, P]; None for all before them.
        rest: what a completion's positions see, bool [T, P + T] or [B, 1, T, P + T].
    """

    width: int
    group: int
    first: Tensor | None
    rest: Tensor


def attend_packed(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *_: Any,
    scaling: float,
    layout: Layout,
    **__: Any,
) -> tuple[Tensor, None]:
    """Softmax attention inside rows of a `Layout`: [N, L, Hq, d], L = P + G x T.

    Args:
        module: of the model; not needed.
        query: [N, Hq, L, d].
        key: [N, H, L, d].
        value: the same.
        scaling: of the scores.
        layout: which position sees which.
    """
    group = layout.group
    how = {"scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
    prompts, answers = zip(
        *(x.split([layout.width, x.shape[2] - layout.width], 2) for x in (query, key, value)),
        strict=True,
    )
    # [N, H, G x T, d] -> [B, H, T, d]
    answers = [x.unflatten(2, (group, -1)).transpose(1, 2).flatten(0, 1) for x in answers]
    whole = [
        torch.cat([before.repeat_interleave(group, 0), after], 2)
        for before, after in zip(prompts[1:], answers[1:], strict=True)
    ]
    first = scaled_dot_product_attention(
        *prompts, attn_mask=layout.first, is_causal=layout.first is None, **how
    )
    rest = scaled_dot_product_attention(answers[0], *whole, attn_mask=layout.rest, **how)
    rest = rest.unflatten(0, (-1, group)).transpose(1, 2).flatten(2, 3)
    return torch.cat([first, rest], 2).transpose(1, 2), None


def logits(
    model: LanguageModel,
    prompt: Tensor,
    prompt_mask: Tensor,
    completion: Tensor,
    mask: Tensor,
    embeddings: Tensor | None = None,
) -> Tensor:
    """`LanguageModel.logits`; where rows next to one another share a prompt, it is read once.

    Args:
        model: of these rows.
        prompt: [B, P] ids.
        prompt_mask: [B, P].
        completion: [B, T] ids.
        mask: [B, T].
        embeddings: [B, P + T, D], read in place of those of prompt and completion.
    """
    group = repeats(prompt, prompt_mask)
    if group == 1 or embeddings is not None or not supports(model):
        return model.logits(prompt, prompt_mask, completion, mask, embeddings)
    (rows, width), longest = prompt.shape, completion.shape[1]
    seen = prompt_mask[::group].bool()
    first, rest = None, _before(longest - 1, width + longest - 1, prompt.device)
    if not seen.all():
        first = _before(width, width, prompt.device) & seen[:, None, None]
        first |= torch.eye(width, dtype=torch.bool, device=prompt.device)  # padding sees itself
        ahead = seen.new_ones(len(seen), longest - 1)
        rest = rest & torch.cat([seen, ahead], 1).repeat_interleave(group, 0)[:, None, None]
    after = seen.sum(1, keepdim=True) + torch.arange(longest - 1, device=prompt.device)
    places = torch.cat([positions(seen.long()), after.repeat(1, group)], 1)
    answers = completion[:, :-1].reshape(len(seen), -1)
    with switched(model, PACKED):
        found = model.network(
            input_ids=torch.cat([prompt[::group], answers], 1),
            position_ids=places,
            use_cache=False,
            logits_to_keep=answers.shape[1] + 1,
            layout=Layout(width, group, first, rest),
        ).logits
    begun = found[:, :1].repeat_interleave(group, 0)
    after = found[:, 1:].reshape(rows, longest - 1, found.shape[-1])
    return torch.cat([begun, after], 1)


def repeats(prompt: Tensor, mask: Tensor) -> int:
    """How many rows next to one another share each prompt of [B, P]; 1 if that differs."""
    both = torch.cat([prompt, mask.to(prompt.dtype)], 1)
    fresh = torch.ones(len(both), dtype=torch.bool, device=both.device)
    fresh[1:] = (both[1:] != both[:-1]).any(1)
    begins = fresh.nonzero()[:, 0]
    group, left = divmod(len(both), len(begins))
    even = not left and torch.equal(begins, torch.arange(len(begins), device=begins.device) * group)
    return group if even else 1


def _before(count: int, length: int, device: torch.device) -> Tensor:
    """[count, length]: the last `count` of `length` positions see themselves and all before."""
    ones = torch.ones(count, length, dtype=torch.bool, device=device)
    return ones.tril(length - count)


@contextlib.contextmanager
def switched(model: LanguageModel, name: str = NAME) -> Iterator[None]:
    """Have a model attend by `attend`, or `attend_packed`, meanwhile."""
    registry = hub().modeling_utils.ALL_ATTENTION_FUNCTIONS
    if NAME not in registry.valid_keys():
        registry.register(NAME, attend)
        registry.register(PACKED, attend_packed)
    config = model.network.config
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before

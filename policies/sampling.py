"""Completions drawn from a language model, with the log-probability of every token."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from policies.lm import LanguageModel, positions
from policies.shared_prompts import SharedPrompts, supports, switched


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Attributes:
        longest: tokens of a completion at most, its end included.
        temperature: divides the logits; 0 takes the likeliest token.
        top_p: draw from the fewest tokens whose probabilities sum to this.
        stop: texts that end a completion; they stay in it.
    """

    longest: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.longest < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"needed are longest >= 1, temperature >= 0 and 0 < top_p <= 1; got {self}"
            )


Draws = torch.Generator | Sequence[torch.Generator] | None
"""What draws tokens: one generator for all, or one on the CPU for each prompt, whose completions
then do not depend on which prompts are completed beside it."""


class Completions(NamedTuple):
    """What was drawn, B = prompts x group rows, those of one prompt next to one another.

    Attributes:
        tokens: [B, T] ids, padded on the right.
        mask: [B, T] bool, true up to the end of a completion.
        log_prob: [B, T] at the sampling temperature over all symbols, whatever `top_p` left out.
        ended: [B] bool, false where `longest` cut it off.
    """

    tokens: Tensor
    mask: Tensor
    log_prob: Tensor
    ended: Tensor


class Engine(Protocol):
    """Draws completions; the built-in one is `generate`."""

    def __call__(
        self,
        model: LanguageModel,
        prompt: Tensor,
        prompt_mask: Tensor,
        group: int,
        sampling: Sampling,
        generator: Draws,
    ) -> Completions:
        """See `generate`."""


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompt: Tensor,
    prompt_mask: Tensor,
    group: int,
    sampling: Sampling,
    generator: Draws = None,
) -> Completions:
    """Draw `group` completions of each prompt; a prompt is read once, whatever the group.

    Args:
        model: what to draw from.
        prompt: [N, P] ids, padded on the left.
        prompt_mask: [N, P].
        group: completions per prompt.
        sampling: how.
        generator: draws the tokens; not needed at temperature 0.
    """
    attention = prompt_mask.long()
    output = model.network(
        input_ids=prompt,
        attention_mask=attention,
        position_ids=positions(attention),
        use_cache=True,
        logits_to_keep=1,
    )
    cache = output.past_key_values
    if shared := supports(model):
        cache = SharedPrompts(cache, prompt_mask, group, sampling.longest)
    elif group > 1:
        cache.batch_repeat_interleave(group)
    rows, width = len(prompt) * group, prompt.shape[1]
    logits = output.logits[:, -1].repeat_interleave(group, 0)
    seen = torch.ones(rows, width + sampling.longest, dtype=torch.long, device=prompt.device)
    seen[:, :width] = attention.repeat_interleave(group, 0)
    place = seen[:, :width].sum(1, keepdim=True)
    tokens = torch.full((rows, sampling.longest), model.pad, device=prompt.device)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    log_prob = torch.zeros(tokens.shape, device=prompt.device)
    running = torch.ones(rows, dtype=torch.bool, device=prompt.device)
    for step in range(sampling.longest):
        chosen, chosen_log_prob = _draw(logits.float(), sampling, generator)
        tokens[:, step] = torch.where(running, chosen, model.pad)
        mask[:, step] = running
        log_prob[:, step] = torch.where(running, chosen_log_prob, 0.0)
        running = running & (chosen != model.end)
        if sampling.stop:
            running = running & ~_stopped(model, tokens[:, : step + 1], running, sampling.stop)
        if step + 1 == sampling.longest or not running.any():
            break
        with switched(model) if shared else nullcontext():
            output = model.network(
                input_ids=tokens[:, step : step + 1],
                attention_mask=seen[:, : width + step + 1],
                position_ids=place + step,
                past_key_values=cache,
                use_cache=True,
            )
        if shared:
            cache.step += 1
        logits = output.logits[:, -1]
    length = step + 1
    return Completions(tokens[:, :length], mask[:, :length], log_prob[:, :length], ~running)


def _draw(logits: Tensor, sampling: Sampling, generator: Draws) -> tuple[Tensor, Tensor]:
    """A token per row of [B, V] logits, and its log-probability."""
    if sampling.temperature == 0:
        log_probs = logits.log_softmax(-1)
        chosen = log_probs.argmax(-1)
    else:
        log_probs = (logits / sampling.temperature).log_softmax(-1)
        probs = log_probs.exp()
        if sampling.top_p < 1:
            ordered, order = probs.sort(-1, descending=True)
            ordered[ordered.cumsum(-1) - ordered >= sampling.top_p] = 0.0
            probs = torch.zeros_like(probs).scatter(-1, order, ordered)
        apart = generator if isinstance(generator, Sequence) else [generator]
        chosen = _drawn(probs, apart)
    return chosen, log_probs.gather(-1, chosen[:, None])[:, 0]


def _drawn(probs: Tensor, generators: Sequence[torch.Generator | None]) -> Tensor:
    """A token per row of [B, V], by inverse transform; each generator has B / len of the rows."""
    size = len(probs) // len(generators), 1
    draws = [
        torch.rand(size, generator=g, device=g.device if g else None, dtype=torch.double)
        for g in generators
    ]
    below = probs.double().cumsum(-1)
    wanted = torch.cat(draws).to(probs.device) * below[:, -1:]
    return torch.searchsorted(below, wanted, right=True)[:, 0]


def _stopped(
    model: LanguageModel, tokens: Tensor, running: Tensor, stop: tuple[str, ...]
) -> Tensor:
    """Which of the running rows have come to a stop text."""
    found = torch.zeros_like(running)
    most = max(len(text.encode()) for text in stop)  # a token has at least one byte
    for row in running.nonzero()[:, 0].tolist():
        text = model.tokenizer.decode(tokens[row, -2 * most :], skip_special_tokens=True)
        found[row] = any(end in text for end in stop)
    return found

"""What a language method is handed: it never loads models or reads files itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embodied.core.seeding import Streams
from embodied.core.types import Batch, State, UserError
from embodied.data.text import Example, Pair
from policies.lm import LanguageModel

Score = Callable[[str, str], float]
"""(prompt, response) -> reward; 1 and above counts as a success."""


class Prompts:
    """Prompts in a random order, over and over; the place in it is part of a checkpoint.

    Args:
        prompts: at least one.
        rng: orders each pass.
    """

    def __init__(self, prompts: Sequence[str], rng: np.random.Generator) -> None:
        if not len(prompts):
            raise UserError("there are no prompts")
        self.prompts = prompts
        self._rng = rng
        self._order = np.arange(0)
        self._at = 0

    def next(self, n: int) -> list[str]:
        """n prompts."""
        return [self.prompts[i] for i in self.indices(n)]

    def indices(self, n: int) -> np.ndarray:
        """Positions of the next n: int64[n]."""
        while len(self._order) - self._at < n:
            fresh = self._rng.permutation(len(self.prompts))
            self._order, self._at = np.concatenate([self._order[self._at :], fresh]), 0
        self._at += n
        return self._order[self._at - n : self._at]

    def state_dict(self) -> State:
        """The order, the place in it and the generator."""
        return {
            "rng": self._rng.bit_generator.state,
            "order": self._order.copy(),
            "at": self._at,
            "prompts": len(self.prompts),
        }

    def load_state_dict(self, state: State) -> None:
        """Take over a state; refuse that of another list."""
        if state["prompts"] != len(self.prompts):
            raise UserError(
                f"the run had {state['prompts']} prompts, here are {len(self.prompts)}; resume it "
                "with the same data"
            )
        self._rng.bit_generator.state = state["rng"]
        self._order, self._at = np.array(state["order"]), int(state["at"])


class ExampleSource:
    """Batches of examples, each example once per pass.

    Args:
        examples: what there is to learn from.
        model: its tokenizer makes ids of texts.
        rng: orders each pass.
    """

    def __init__(
        self, examples: Sequence[Example], model: LanguageModel, rng: np.random.Generator
    ) -> None:
        self._order = Prompts(examples, rng)
        self._model = model

    def __len__(self) -> int:
        return len(self._order.prompts)

    def next(self, n: int) -> Batch:
        """n examples.

        Returns:
            prompt [n, P], prompt_mask, completion [n, T], mask, and weight [n].
        """
        chosen = self._order.next(n)
        prompt, prompt_mask = padded_ids(self._model, [e.prompt for e in chosen], left=True)
        completion, mask = padded_ids(self._model, [e.response for e in chosen])
        weight = torch.tensor([e.weight for e in chosen], device=prompt.device)
        return {
            "prompt": prompt,
            "prompt_mask": prompt_mask,
            "completion": completion,
            "mask": mask,
            "weight": weight,
        }

    def state_dict(self) -> State:
        """Order and place."""
        return self._order.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Take over order and place."""
        self._order.load_state_dict(state)


class PairSource:
    """Batches of preferences, each pair once per pass.

    Args:
        pairs: what there is to learn from.
        model: its tokenizer makes ids of texts.
        rng: orders each pass.
    """

    def __init__(
        self, pairs: Sequence[Pair], model: LanguageModel, rng: np.random.Generator
    ) -> None:
        self._order = Prompts(pairs, rng)
        self._model = model

    def __len__(self) -> int:
        return len(self._order.prompts)

    def next(self, n: int) -> Batch:
        """n pairs as 2 n rows: the chosen responses, then the rejected ones in the same order.

        Returns:
            prompt [2 n, P], prompt_mask, completion [2 n, T], mask.
        """
        chosen = self._order.next(n)
        prompts = 2 * [pair.prompt for pair in chosen]
        responses = [pair.chosen for pair in chosen] + [pair.rejected for pair in chosen]
        prompt, prompt_mask = padded_ids(self._model, prompts, left=True)
        completion, mask = padded_ids(self._model, responses)
        columns = ("prompt", "prompt_mask", "completion", "mask")
        return dict(zip(columns, (prompt, prompt_mask, completion, mask), strict=True))

    def state_dict(self) -> State:
        """Order and place."""
        return self._order.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Take over order and place."""
        self._order.load_state_dict(state)


def padded_ids(
    model: LanguageModel, texts: Sequence[str], left: bool = False
) -> tuple[Tensor, Tensor]:
    """Ids [B, L] of texts and their mask, on the model's device; special tokens are in the text."""
    rows = model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), model.pad)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, where], mask[i, where] = torch.tensor(row), True
    return ids.to(model.device), mask.to(model.device)


@dataclass
class TextTask:
    """A model, what it is trained on, and the run's random streams.

    Attributes:
        model: the model to start from; methods train it in place.
        streams: named random streams of the run.
        prompts: what the model is asked, or None without generation.
        score: rewards a response.
        longest: tokens of a response at most, its end included.
        examples: responses to imitate, or None.
        pairs: preferences, or None.
        about: what identifies model and data, for logs.
    """

    model: LanguageModel
    streams: Streams
    prompts: Sequence[str] | None = None
    score: Score | None = None
    longest: int = 64
    examples: Sequence[Example] | None = None
    pairs: Sequence[Pair] | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def questions(self) -> Prompts:
        """The prompts as an endless list.

        Raises:
            UserError: the task has none, or nothing that rewards an answer.
        """
        if self.prompts is None or self.score is None:
            raise UserError("this method generates answers; give a task with prompts and a reward")
        return Prompts(self.prompts, self.streams.numpy("prompts"))

    def demonstrations(self) -> ExampleSource:
        """The examples as a source.

        Raises:
            UserError: the task has none.
        """
        if self.examples is None:
            raise UserError("this method imitates answers; give data with responses")
        return ExampleSource(self.examples, self.model, self.streams.numpy("examples"))

    def preferences(self) -> PairSource:
        """The pairs as a source.

        Raises:
            UserError: the task has none.
        """
        if self.pairs is None:
            raise UserError("this method learns from preferences; give data with pairs")
        return PairSource(self.pairs, self.model, self.streams.numpy("pairs"))

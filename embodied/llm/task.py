"""What a language method is handed: it never loads models or reads files itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from embodied.core import ranks
from embodied.core.seeding import Streams
from embodied.core.types import Batch, State, UserError
from embodied.data.text import Example, Pair
from policies.lm import LanguageModel
from policies.sampling import Engine

Score = Callable[[str, str], float]
"""(prompt, response) -> reward; 1 and above counts as a success. A prompt read from a file is a
`Prompt`, which carries its row's facts."""
Player = Callable[[str, np.random.Generator], str]
"""(prompt, generator) -> answer of somebody who is no model."""


class Dialogue(Protocol):
    """One episode of several turns, by one speaker or two."""

    def ask(self) -> tuple[int, str] | None:
        """Who speaks next, 0 or 1, and the prompt that speaker sees; None once it is over."""

    def take(self, answer: str) -> None:
        """Go on by the answer to what was asked."""

    def rewards(self) -> Sequence[float]:
        """Of each turn so far, for whoever took it; 1 and above counts as a success."""


class Passes:
    """Items in a random order, over and over; the place in it is part of a checkpoint.

    Args:
        items: at least one.
        rng: orders each pass.

    Attributes:
        drawn: places in `items` of what was drawn last.
    """

    def __init__(self, items: Sequence[Any], rng: np.random.Generator) -> None:
        if not len(items):
            raise UserError("there is nothing to learn from: no prompts, responses or pairs")
        self.items = items
        self.drawn = np.arange(0)
        self._rng = rng
        self._order = np.arange(0)
        self._at = 0

    def __len__(self) -> int:
        return len(self.items)

    def draw(self, n: int, whole: bool = False) -> list[Any]:
        """The next n items, or, if `whole`, those that are left of a pass if they are fewer.

        Of several ranks each gets others.
        """
        left, n = len(self._order) - self._at, n * ranks.count
        if whole:
            n = min(n, left if left >= ranks.count else len(self.items))
            n -= n % ranks.count
        while len(self._order) - self._at < n:
            fresh = self._rng.permutation(len(self.items))
            self._order, self._at = np.concatenate([self._order[self._at :], fresh]), 0
        self._at += n
        share = n // ranks.count
        self.drawn = self._order[self._at - n : self._at][ranks.index * share :][:share]
        return [self.items[i] for i in self.drawn]

    def state_dict(self) -> State:
        """The order, the place in it and the generator."""
        return {
            "rng": self._rng.bit_generator.state,
            "order": self._order.copy(),
            "at": self._at,
            "items": len(self.items),
        }

    def load_state_dict(self, state: State) -> None:
        """Take over a state; refuse that of another list."""
        if state["items"] != len(self.items):
            raise UserError(
                f"the run had {state['items']} rows, here are {len(self.items)}; resume it with "
                "the same data"
            )
        self._rng.bit_generator.state = state["rng"]
        self._order, self._at = np.array(state["order"]), int(state["at"])


class ExampleSource(Passes):
    """Batches of `Example`s, each once per pass.

    Args:
        examples: what there is to learn from.
        model: its tokenizer makes ids of texts.
        rng: orders each pass.
    """

    def __init__(
        self, examples: Sequence[Example], model: LanguageModel, rng: np.random.Generator
    ) -> None:
        super().__init__(examples, rng)
        self._model = model

    def next(self, n: int) -> Batch:
        """n examples.

        Returns:
            prompt [n, P], prompt_mask, completion [n, T], mask, and weight [n].
        """
        chosen = self.draw(n)
        batch = rows(self._model, [e.prompt for e in chosen], [e.response for e in chosen])
        weight = torch.tensor([e.weight for e in chosen], device=self._model.device)
        return {**batch, "weight": weight}


class PairSource(Passes):
    """Batches of `Pair`s, each once per pass; see `ExampleSource`."""

    def __init__(
        self, pairs: Sequence[Pair], model: LanguageModel, rng: np.random.Generator
    ) -> None:
        super().__init__(pairs, rng)
        self._model = model

    def next(self, n: int) -> Batch:
        """n pairs as 2 n rows: the chosen responses, then the rejected ones in the same order.

        Returns:
            prompt [2 n, P], prompt_mask, completion [2 n, T], mask.
        """
        chosen = self.draw(n)
        responses = [pair.chosen for pair in chosen] + [pair.rejected for pair in chosen]
        return rows(self._model, 2 * [pair.prompt for pair in chosen], responses)


def rows(model: LanguageModel, prompts: Sequence[str], responses: Sequence[str]) -> Batch:
    """Prompts and their responses: prompt [B, P], prompt_mask, completion [B, T], mask."""
    prompt, prompt_mask = padded_ids(model, prompts, left=True)
    completion, mask = padded_ids(model, responses)
    return {
        "prompt": prompt,
        "prompt_mask": prompt_mask,
        "completion": completion,
        "mask": mask,
    }


def padded_ids(
    model: LanguageModel, texts: Sequence[str], left: bool = False
) -> tuple[Tensor, Tensor]:
    """Ids [B, L] of texts and their mask, on the model's device; special tokens are in the text."""
    return padded(model, model.tokenizer(list(texts), add_special_tokens=False)["input_ids"], left)


def padded(
    model: LanguageModel, rows: Sequence[Sequence[int]], left: bool = False
) -> tuple[Tensor, Tensor]:
    """Rows of ids as one tensor [B, L] and its mask, on the model's device."""
    ids, mask = stacked([np.asarray(row, np.int64) for row in rows], model.pad, left)
    return torch.from_numpy(ids).to(model.device), torch.from_numpy(mask).to(model.device)


def stacked(
    rows: Sequence[np.ndarray], fill: float, left: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of different lengths as one array [B, L] of their dtype, filled up, and its mask."""
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    if left:
        mask = mask[:, ::-1].copy()
    filled = np.full(mask.shape, fill, rows[0].dtype)
    filled[mask] = np.concatenate(rows)
    return filled, mask


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
        begin: starts a dialogue from a prompt, or None.
        players: whom the model may talk to, besides models, by name.
        process: rates the weakest step of a response, in [-1, 1], or None.
        categories: what kind of problem each prompt is, or None.
        engine: draws answers in place of the built-in sampler, or None.
        about: what identifies model and data, for logs.
    """

    model: LanguageModel
    streams: Streams
    prompts: Sequence[str] | None = None
    score: Score | None = None
    longest: int = 64
    examples: Sequence[Example] | None = None
    pairs: Sequence[Pair] | None = None
    begin: Callable[[str], Dialogue] | None = None
    players: Mapping[str, Player] = field(default_factory=dict)
    process: Score | None = None
    categories: Sequence[Any] | None = None
    engine: Engine | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def questions(self) -> Passes:
        """The prompts as an endless list.

        Raises:
            UserError: the task has none, or nothing that rewards an answer.
        """
        if self.prompts is None or self.score is None:
            raise UserError(
                "this method generates answers; give a task (task=...), or prompts and a reward "
                "(data=..., reward=...)"
            )
        return Passes(self.prompts, self.streams.numpy("prompts"))

    def openings(self) -> Passes:
        """The prompts that dialogues begin from, as an endless list.

        Raises:
            UserError: the task has no dialogues.
        """
        if self.prompts is None or self.begin is None:
            raise UserError(
                "this method takes several turns; give a task that has them, as games do"
            )
        return Passes(self.prompts, self.streams.numpy("prompts"))

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

"""Answers that a model gave, kept to be learnt from: what self-training fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from embodied.core.types import Batch, Rollout, State
from embodied.llm.task import Passes, padded
from policies.lm import LanguageModel


class Answer(NamedTuple):
    """One answer.

    Attributes:
        prompt: [P] ids.
        completion: [T] ids.
        index: place of the prompt in its list.
        reward: what it was worth.
        round: in which round it was given.
    """

    prompt: np.ndarray
    completion: np.ndarray
    index: int
    reward: float
    round: int


class Answers:
    """Answers as a source, in a random order over and over; rollouts add to it.

    Args:
        model: pads the batches.
        rng: orders each pass.

    Attributes:
        kept: the answers.
        round: number of the present round, from 0.
    """

    def __init__(self, model: LanguageModel, rng: np.random.Generator) -> None:
        self.model, self._rng = model, rng
        self.kept: list[Answer] = []
        self.round = -1
        self._passes: Passes | None = None

    def __len__(self) -> int:
        return len(self.kept)

    def begin(self, remember: int = 0) -> None:
        """Begin a round; only answers of the last `remember` rounds stay."""
        self.round += 1
        self.keep([a for a in self.kept if a.round >= self.round - remember])

    def keep(self, answers: Sequence[Answer]) -> None:
        """Replace what is kept; a new pass begins."""
        self.kept, self._passes = list(answers), None

    def add(self, rollout: Rollout) -> None:
        """Take the answers of a rollout; a new pass begins."""
        rows = zip(
            rollout.observation,
            rollout.meta["prompt_mask"],
            rollout.action,
            rollout.mask,
            rollout.meta["columns"]["index"],
            rollout.reward.sum(-1),
            strict=True,
        )
        new = [
            Answer(prompt[asked], completion[real], int(index), float(reward), self.round)
            for prompt, asked, completion, real, index, reward in rows
        ]
        self.keep([*self.kept, *new])

    def draw(self, n: int) -> list[Answer]:
        """The next n answers."""
        if self._passes is None:
            self._passes = Passes(self.kept, self._rng)
        return self._passes.draw(n)

    def next(self, n: int) -> Batch:
        """n answers to imitate.

        Returns:
            prompt [n, P], prompt_mask, completion [n, T], mask, and weight [n].
        """
        chosen = self.draw(n)
        rows = rows_of(self.model, [a.prompt for a in chosen], [a.completion for a in chosen])
        return {**rows, "weight": torch.ones(n, device=self.model.device)}

    def state_dict(self) -> State:
        """The answers, the round, the place in the pass and the generator."""
        return {
            "round": self.round,
            "rng": self._rng.bit_generator.state,
            "passes": None if self._passes is None else self._passes.state_dict(),
            "answers": packed(self.kept),
        }

    def load_state_dict(self, state: State) -> None:
        """Take over a state."""
        self._rng.bit_generator.state = state["rng"]
        self.round, self.kept, self._passes = state["round"], unpacked(state["answers"]), None
        if state["passes"] is not None:
            self._passes = Passes(self.kept, self._rng)
            self._passes.load_state_dict(state["passes"])


def rows_of(
    model: LanguageModel, prompts: Sequence[np.ndarray], completions: Sequence[np.ndarray]
) -> Batch:
    """Prompts and completions as a batch: prompt, prompt_mask, completion, mask."""
    prompt, prompt_mask = padded(model, prompts, left=True)
    completion, mask = padded(model, completions)
    return {"prompt": prompt, "prompt_mask": prompt_mask, "completion": completion, "mask": mask}


def packed(answers: Sequence[Answer]) -> State:
    """Answers as a few arrays."""
    return {
        "prompt": _joined([a.prompt for a in answers]),
        "completion": _joined([a.completion for a in answers]),
        "prompt_lengths": np.array([len(a.prompt) for a in answers], np.int64),
        "lengths": np.array([len(a.completion) for a in answers], np.int64),
        "index": np.array([a.index for a in answers], np.int64),
        "reward": np.array([a.reward for a in answers], np.float64),
        "round": np.array([a.round for a in answers], np.int64),
    }


def unpacked(state: State) -> list[Answer]:
    """Answers from those arrays."""
    prompts = np.split(state["prompt"], np.cumsum(state["prompt_lengths"]))
    completions = np.split(state["completion"], np.cumsum(state["lengths"]))
    numbers = zip(
        state["index"].tolist(), state["reward"].tolist(), state["round"].tolist(), strict=True
    )
    return [Answer(prompts[i], completions[i], *three) for i, three in enumerate(numbers)]


def _joined(rows: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *rows])

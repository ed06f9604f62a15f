"""What evaluations of language models share: the same questions every time, in batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from embodied.core.evaluate import Episode, Evaluation
from embodied.core.seeding import Streams
from embodied.data.io import sha256_bytes
from embodied.llm.collector import LanguagePolicy
from policies.sampling import Sampling


class Reply(NamedTuple):
    """What came of one question.

    Attributes:
        reward: of it.
        success: whether it was one.
        tokens: everything that was said.
        length: of it, in tokens or in turns.
        details: what the metrics are made of.
    """

    reward: float
    success: bool
    tokens: np.ndarray
    length: int
    details: Any = None


class QuestionEvaluator:
    """Asks a policy the same questions every time; what a question is, subclasses say.

    Args:
        prompts: the questions.
        sampling: how answers are drawn.
        seed: draws them, whatever was drawn before.
        batch: questions asked together.
    """

    def __init__(
        self, prompts: Sequence[str], sampling: Sampling, seed: int = 0, batch: int = 256
    ) -> None:
        self.prompts, self.sampling, self.seed, self.batch = list(prompts), sampling, seed, batch

    def ask(self, policy: LanguagePolicy, some: Sequence[int]) -> list[Reply]:
        """Ask questions by their numbers.

        Args:
            policy: draws from a generator of this batch alone.
            some: which questions.
        """
        raise TypeError(f"{type(self).__name__} does not say what a question is")

    def metrics(self, policy: LanguagePolicy, details: list[Any]) -> dict[str, float]:
        """Further numbers, from the details of all replies."""
        return {}

    def __call__(
        self,
        policy: LanguagePolicy,
        indices: Sequence[int] | None = None,
        on_step: Callable[[int, Any], None] | None = None,
    ) -> Evaluation:
        """Evaluate.

        Args:
            policy: its model answers.
            indices: which questions; all of them if None.
            on_step: called with (index, None) before each batch.
        """
        chosen = list(range(len(self.prompts)) if indices is None else indices)
        replies: list[Reply] = []
        for start in range(0, len(chosen), self.batch):
            some = chosen[start : start + self.batch]
            if on_step:
                on_step(some[0], None)
            generator = Streams(self.seed).torch(f"evaluation/{some[0]}", policy.model.device)
            replies += self.ask(LanguagePolicy(policy.model, self.sampling, generator), some)
        episodes = [
            Episode(i, self.seed, short(self.prompts[i]), one.reward, one.success, one.length)
            for i, one in zip(chosen, replies, strict=True)
        ]
        metrics = self.metrics(policy, [one.details for one in replies])
        return Evaluation(episodes, [one.tokens for one in replies], metrics=metrics)


def short(text: str) -> str:
    """What a question goes by in a ledger: 16 hex digits of its checksum."""
    return sha256_bytes(text.encode())[:16]


def majority(answers: Sequence[str]) -> str:
    """The most frequent answer, the earliest of a tie."""
    return Counter(answers).most_common(1)[0][0]  # which keeps the order of the first ones

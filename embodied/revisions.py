"""Evaluation of a model that revises its answers: turn by turn, and against as many fresh ones."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from embodied.core.evaluate import Episode, Evaluation
from embodied.core.seeding import Streams
from embodied.data.revision import Revision
from embodied.data.tiny import Task
from embodied.llm.collector import LanguagePolicy
from embodied.llm.dialogue import play
from policies.sampling import Sampling


class RevisionEvaluator:
    """Asks the same questions every time, and to look again at each answer.

    A success is a last attempt that is right. The metrics add, for K turns and attempts a_1 .. a_K:

    - `accuracy/t`: of attempt t.
    - `delta`, `mended`, `spoilt`: accuracy/2 - accuracy/1, and the shares of all problems that the
      second turn turned right (i -> c) or wrong (c -> i).
    - `mend_rate`, `spoil_rate`: the same as shares of those wrong, or right, at first.
    - `vote_turns`: the majority of a_1 .. a_K, the earliest of a tie (m1@tK).
    - `vote_fresh`: the majority of K first attempts (mK@t1).
    - `any_turn`: some attempt was right (p1@tK), which only an oracle could pick.

    Args:
        task: judges attempts.
        prompts: the questions.
        reward: which verdict counts: final or all_steps.
        turns: K, at least 2.
        sampling: how answers are drawn.
        seed: draws them, whatever was drawn before.
        batch: questions asked together.
    """

    def __init__(
        self,
        task: Task,
        prompts: Sequence[str],
        reward: str,
        turns: int,
        sampling: Sampling,
        seed: int = 0,
        batch: int = 256,
    ) -> None:
        self.task, self.prompts, self.reward, self.turns = task, list(prompts), reward, turns
        self.sampling, self.seed, self.batch = sampling, seed, batch

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
        episodes, actions, right, votes = [], [], [], []
        for start in range(0, len(chosen), self.batch):
            some = chosen[start : start + self.batch]
            if on_step:
                on_step(some[0], None)
            dialogues, answers, fresh = self._ask(policy, some)
            for i, dialogue, said, first in zip(some, dialogues, answers, fresh, strict=True):
                rewards = dialogue.rewards()
                right.append([reward >= 1 for reward in rewards])
                votes.append([self._vote(dialogue, dialogue.attempts), self._vote(dialogue, first)])
                digest = hashlib.sha256(dialogue.prompt.encode()).hexdigest()[:16]
                last = rewards[-1]
                episodes.append(Episode(i, self.seed, digest, last, last >= 1, len(said)))
                actions.append(said)
        metrics = revision_metrics(np.array(right), *np.array(votes).T)
        return Evaluation(episodes, actions, metrics=metrics)

    def _ask(
        self, policy: LanguagePolicy, some: Sequence[int]
    ) -> tuple[list[Revision], list[np.ndarray], list[list[str]]]:
        """Dialogues at their end, the tokens of each, and K fresh first attempts of each."""
        generator = Streams(self.seed).torch(f"evaluation/{some[0]}", policy.model.device)
        model = LanguagePolicy(policy.model, self.sampling, generator)
        dialogues = [Revision(self.task, self.prompts[i], self.reward) for i in some]
        taken = play(dialogues, model, turns=self.turns)
        _, fresh, _ = model.answer([self.prompts[i] for i in some], self.turns)
        k = self.turns  # turns are in order, dialogue by dialogue
        said = [
            np.concatenate([turn.answer for turn in taken[i * k : i * k + k]])
            for i in range(len(some))
        ]
        return dialogues, said, [fresh[i * k : i * k + k] for i in range(len(some))]

    def _vote(self, dialogue: Revision, attempts: Sequence[str]) -> bool:
        """Whether the majority of attempts is right."""
        verdict = self.task.verify(dialogue.prompt, majority(attempts))
        return bool(getattr(verdict, self.reward))


def majority(answers: Sequence[str]) -> str:
    """The most frequent answer, the earliest of a tie."""
    return Counter(answers).most_common(1)[0][0]  # which keeps the order of the first ones


def revision_metrics(
    right: np.ndarray, vote_turns: np.ndarray, vote_fresh: np.ndarray
) -> dict[str, float]:
    """See `RevisionEvaluator`.

    Args:
        right: [N, K] bool, each attempt.
        vote_turns: [N] bool, the majority over turns.
        vote_fresh: [N] bool, the majority of fresh attempts.
    """
    first, second = right[:, 0], right[:, 1]
    mended, spoilt = float(np.mean(~first & second)), float(np.mean(first & ~second))
    accuracy = right.mean(0).tolist()
    return {
        **{f"accuracy/{turn + 1}": value for turn, value in enumerate(accuracy)},
        "delta": accuracy[1] - accuracy[0],
        "mended": mended,
        "spoilt": spoilt,
        "mend_rate": mended / max(1 - accuracy[0], 1 / len(right)),
        "spoil_rate": spoilt / max(accuracy[0], 1 / len(right)),
        "vote_turns": float(vote_turns.mean()),
        "vote_fresh": float(vote_fresh.mean()),
        "any_turn": float(right.any(1).mean()),
    }

"""Evaluation of a model that revises its answers: turn by turn, and against as many fresh ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from embodied.data.revision import Revision
from embodied.data.tiny import Task
from embodied.llm.collector import LanguagePolicy
from embodied.llm.dialogue import play
from embodied.questions import QuestionEvaluator, Reply, majority
from policies.sampling import Sampling


class RevisionEvaluator(QuestionEvaluator):
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
        sampling: see `QuestionEvaluator`, as what follows.
        seed: the same.
    """

    def __init__(
        self,
        task: Task,
        prompts: Sequence[str],
        reward: str,
        turns: int,
        sampling: Sampling,
        seed: int = 0,
    ) -> None:
        super().__init__(prompts, sampling, seed)
        self.task, self.reward, self.turns = task, reward, turns

    def ask(self, policy: LanguagePolicy, some: Sequence[int]) -> list[Reply]:
        """Dialogues of K turns, and K fresh first attempts beside each."""
        dialogues = [Revision(self.task, self.prompts[i], self.reward) for i in some]
        taken = play(dialogues, policy, turns=self.turns)
        _, fresh, _ = policy.answer([self.prompts[i] for i in some], self.turns)
        replies = []
        for at, dialogue in enumerate(dialogues):
            mine = slice(at * self.turns, (at + 1) * self.turns)  # turns are dialogue by dialogue
            said = np.concatenate([turn.answer for turn in taken[mine]])
            rewards = dialogue.rewards()
            right = [reward >= 1 for reward in rewards]
            votes = self._vote(dialogue, dialogue.attempts), self._vote(dialogue, fresh[mine])
            replies.append(Reply(rewards[-1], right[-1], said, len(said), (right, votes)))
        return replies

    def metrics(self, policy: LanguagePolicy, details: list[Any]) -> dict[str, float]:
        """See above."""
        right, votes = map(np.array, zip(*details, strict=True))
        return revision_metrics(right, *votes.T)

    def _vote(self, dialogue: Revision, attempts: Sequence[str]) -> bool:
        """Whether the majority of attempts is right."""
        verdict = self.task.verify(dialogue.prompt, majority(attempts))
        return bool(getattr(verdict, self.reward))


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

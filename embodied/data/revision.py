"""Attempts at one problem, each made from the one before; nobody says whether it was right."""

from __future__ import annotations

from embodied.data.tiny import Task


class Revision:
    """A dialogue with one speaker: a problem, an attempt, and another turn as long as it is asked.

    The prompt of a later turn holds the problem and the latest attempt.

    Args:
        task: makes the prompts and judges the attempts.
        prompt: the problem.
        reward: which verdict is the reward of a turn: final or all_steps.
    """

    def __init__(self, task: Task, prompt: str, reward: str = "all_steps") -> None:
        self.task, self.prompt, self.reward = task, prompt, reward
        self.attempts: list[str] = []

    def ask(self) -> tuple[int, str]:
        """The problem, and after the first turn the latest attempt."""
        if not self.attempts:
            return 0, self.prompt
        return 0, self.task.again(self.prompt, self.attempts[-1])

    def take(self, answer: str) -> None:
        """The next attempt, or what makes one of the latest."""
        revised = self.task.revised(self.attempts[-1], answer) if self.attempts else answer
        self.attempts.append(revised)

    def rewards(self) -> list[float]:
        """Whether each attempt was right."""
        verdicts = (self.task.verify(self.prompt, attempt) for attempt in self.attempts)
        return [float(getattr(verdict, self.reward)) for verdict in verdicts]

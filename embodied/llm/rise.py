"""RISE: recursive introspection.

Qu et al. 2024, https://arxiv.org/abs/2407.18219.

Answering becomes a decision process: the state is the question with earlier attempts and a fixed
"try again", the action another attempt, the reward whether it is right. The model attempts, and at
later turns the best of N samples stands in for it, as a teacher at the states that its own mistakes
lead to. It is then fitted to every turn, better ones more; and again from what it has become.

    L = (1/B) sum_b w_b mean_t[-log pi(y_bt | s_b, y_b<t)],   w_b = exp(r_b / tau)

Iteration k has dialogues of k + 1 turns, which end at the first success.

Deviations:
1. Self-distillation only: the better action is the model's own. A stronger teacher would be another
   policy at the later turns of the collector.
2. How many earlier attempts a prompt holds is up to the task; the tiny suite's hold the latest one,
   the window of 2 of the authors' evaluation.
3. Degenerate answers (long repetitions) are not drawn anew: an answer has a bounded length.
4. `stop=false` lets a dialogue go on after a success, so that there are examples of keeping what
   was right; the authors have none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from embodied.core.guards import check_batch
from embodied.core.phase import Phase, Recipe, Until
from embodied.core.registry import register
from embodied.core.types import Batch, Metrics, Rollout, Source, State
from embodied.data.text import Example
from embodied.llm.dialogue import DialogueCollector
from embodied.llm.learner import LanguageLearner
from embodied.llm.schedules import warm_cosine
from embodied.llm.task import ExampleSource, TextTask
from embodied.objectives.likelihood import masked_mean
from embodied.objectives.policy_gradient import aggregate

CRITERIA = ("all", "better", "best", "success")


@dataclass(frozen=True, kw_only=True)
class RISEConfig:
    """Recursive introspection; defaults of the authors' self-distillation.

    Attributes:
        iterations: rounds of dialogues and fits.
        problems: dialogues per iteration.
        prompts: held at a time.
        tries: answers drawn at the first turn, and at later ones; the best one goes on.
        temperature: of the answers.
        criterion: which turns after the first are examples: all; better than the turn before; best
            so far, ties included; success. The first turn is always one, except under success.
        stop: end a dialogue at its first success.
        tau: of the weights.
        updates: optimizer steps of a fit.
        batch_size: examples per step.
        lr: Adam learning rate.
        warm_up: share of the steps of a fit in which the rate rises, before it falls along a
            cosine.
        clip_norm: of the gradient.
        eval_every: updates between evaluations; 0 evaluates at the end of each fit only.
    """

    iterations: int = 2
    problems: int = 512
    prompts: int = 64
    tries: tuple[int, int] = (1, 16)
    temperature: float = 1.0
    criterion: str = "all"
    stop: bool = True
    tau: float = 0.4
    updates: int = 100
    batch_size: int = 64
    lr: float = 1e-5
    warm_up: float = 0.04
    clip_norm: float = 1.0
    eval_every: int = 0

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise ValueError(
                f"criterion must be one of {', '.join(CRITERIA)}, got {self.criterion!r}"
            )
        if self.tau <= 0:
            raise ValueError(f"tau must be positive, got {self.tau}")


def kept(rewards: Sequence[float], criterion: str) -> list[bool]:
    """Which turns of a dialogue become examples.

    Args:
        rewards: turn by turn.
        criterion: see `RISEConfig`.
    """
    if criterion == "success":
        return [reward >= 1 for reward in rewards]
    chosen = [True] * len(rewards)
    for turn in range(1, len(rewards)):
        if criterion == "better":
            chosen[turn] = rewards[turn] > rewards[turn - 1]
        elif criterion == "best":
            chosen[turn] = rewards[turn] >= max(rewards[:turn])
    return chosen


class Improvements:
    """Turns of dialogues as weighted examples, each once, in a random order over and over.

    Args:
        config: criterion and tau.
        task: whose tokenizer makes ids of them.
    """

    def __init__(self, config: RISEConfig, task: TextTask) -> None:
        self.config, self.model = config, task.model
        self.examples: dict[tuple[str, str], float] = {}
        self._rng = task.streams.numpy("improvements")
        self._source: ExampleSource | None = None

    def __len__(self) -> int:
        return len(self.examples)

    def clear(self) -> None:
        """Begin an iteration."""
        self.examples, self._source = {}, None

    def add(self, rollout: Rollout) -> None:
        """Take what the criterion keeps of a rollout's dialogues."""
        episode, reward = rollout.meta["columns"]["episode"], rollout.reward.sum(-1)
        for rows in np.split(np.arange(len(episode)), np.flatnonzero(np.diff(episode)) + 1):
            for row, keep in zip(rows, kept(reward[rows], self.config.criterion), strict=True):
                if keep:
                    weight = math.exp(reward[row] / self.config.tau)
                    self.examples.setdefault(tuple(rollout.meta["texts"][row]), weight)
        self._source = None

    def next(self, n: int) -> Batch:
        """n examples: prompt [n, P], prompt_mask, completion [n, T], mask, weight [n]."""
        return self._shuffled().next(n)

    def _shuffled(self) -> ExampleSource:
        if self._source is None:
            rows = [Example(*texts, weight) for texts, weight in self.examples.items()]
            self._source = ExampleSource(rows, self.model, self._rng)
        return self._source

    def state_dict(self) -> State:
        """The examples, the place among them and the generator."""
        return {
            "examples": [[*texts, weight] for texts, weight in self.examples.items()],
            "place": self._source.state_dict() if self._source else None,
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Take over a state."""
        self.examples = {(prompt, text): weight for prompt, text, weight in state["examples"]}
        self._rng.bit_generator.state = state["rng"]
        self._source = None
        if state["place"] is not None:
            self._shuffled().load_state_dict(state["place"])


class RISE(LanguageLearner):
    """A language model that learns to improve what it has answered."""

    def __init__(self, config: RISEConfig, task: TextTask) -> None:
        self.config = config
        super().__init__(
            "rise", task, config.lr, temperature=config.temperature, clip_norm=config.clip_norm
        )
        self.begun = 0

    def begin(self) -> None:
        """A fit begins: optimizer and schedule start afresh."""
        self.optimizer.load_state_dict({})
        self.begun = self.updates

    def update(self, source: Source) -> Metrics:
        """One step on one batch of examples."""
        c = self.config
        batch = source.next(c.batch_size)
        check_batch(batch)
        log_prob, mask, weight = self.log_probs(batch), batch["mask"], batch["weight"]
        loss = aggregate(-weight[:, None] * log_prob, mask, "grpo")
        share = warm_cosine(self.updates - self.begun, c.updates, round(c.warm_up * c.updates), 0.0)
        norm = self.step(loss, c.lr * share)
        return {
            "loss": loss.detach(),
            "grad_norm": norm,
            "weight": weight.mean(),
            "token_probability": masked_mean(log_prob.detach().exp(), mask),
        }

    def state_dict(self) -> State:
        """Also the updates before this fit."""
        return {**super().state_dict(), "begun": self.begun}

    def load_state_dict(self, state: State) -> None:
        """Take over a state of the same configuration."""
        super().load_state_dict(state)
        self.begun = int(state["begun"])


def recipe(config: RISEConfig, task: TextTask) -> Recipe:
    """Dialogues, then a fit; each iteration's dialogues are a turn longer."""
    learner, examples, openings = RISE(config, task), Improvements(config, task), task.openings()

    def gather(trainer: Any) -> None:
        examples.clear()

    def fit(trainer: Any) -> None:
        learner.begin()

    phases = []
    for k in range(1, config.iterations + 1):
        collector = DialogueCollector(
            openings,
            task.begin,
            config.prompts,
            turns=k + 1,
            tries=config.tries,
            until_right=config.stop,
        )
        phases += [
            Phase(
                f"attempt-{k}",
                learner,
                examples,
                Until("episodes", config.problems),
                collector,
                updates_per_step=Fraction(0),
                on_enter=gather,
                eval_at_end=False,
            ),
            Phase(
                f"fit-{k}",
                learner,
                examples,
                Until("updates", config.updates),
                on_enter=fit,
                eval_every=config.eval_every,
            ),
        ]
    return Recipe(phases)


register(
    "rise",
    config=RISEConfig,
    learner=RISE,
    recipe=recipe,
    paper="https://arxiv.org/abs/2407.18219",
    summary="Fits its own best next attempts at problems it got wrong, weighted by reward",
    updates=("model", "optimizer", "updates"),
)

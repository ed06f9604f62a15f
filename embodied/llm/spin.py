"""SPIN: self-play fine-tuning.

Chen et al. 2024, https://arxiv.org/abs/2401.01335; code https://github.com/uclaml/SPIN.

In each iteration the model of the iteration before answers the prompts of the demonstrations, and
the new model learns to tell the demonstrations y from those answers y', with its own likelihood
ratio to the old model as what it tells them by. It can do no better than to answer like the
demonstrations: only then is nothing left to tell.

    L = -log sigmoid(beta [log p(y|x) / p_t(y|x) - log p(y'|x) / p_t(y'|x)]),   y' ~ p_t(.|x)

p_t, the opponent, stays fixed for an iteration. Without limits on p the minimum is
p_{t+1} ~ p_t (p_data / p_t)^(1 / beta). It is the loss of DPO with pairs made anew from each
opponent, and no preferences. From the second iteration on, the answers of the opponent before are
learnt from as well, as in the official scripts.

Deviations:
1. RMSProp is Adam without a first moment (betas 0, 0.99): it differs from torch's in that the
   second moment is corrected for its start at 0.
2. Every iteration has the same number of updates (6 epochs of the first 50,000 pairs); the official
   ones from the second on have twice as many, since they have twice the pairs.
3. Demonstrations and answers are written by one template; the official scripts use two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from embodied.core.phase import Phase, Recipe, Until
from embodied.core.registry import register
from embodied.core.trainer import Trainer
from embodied.core.types import Batch, Metrics, Source, State
from embodied.data.text import Example
from embodied.llm.answers import Answers, rows_of
from embodied.llm.collector import TextCollector
from embodied.llm.learner import LanguageLearner
from embodied.llm.schedules import warm_linear
from embodied.llm.task import Passes, TextTask
from embodied.objectives.likelihood import sequence_sums
from embodied.objectives.preference import preference_loss
from policies.lm import LanguageModel

LOSSES = ("sigmoid", "hinge")


@dataclass(frozen=True, kw_only=True)
class SPINConfig:
    """Self-play fine-tuning; defaults of the official scripts.

    Attributes:
        iterations: opponents.
        updates: optimizer steps against each (6 epochs of 50,000 pairs).
        batch_size: pairs per step.
        beta: lambda of the paper: how dear it is to leave the opponent.
        beta_factors: of beta in each iteration; the last one goes on.
        loss: sigmoid or hinge.
        lr: RMSProp learning rate.
        lr_factors: of the learning rate in each iteration; the last one goes on.
        warm_up: share of an iteration in which the learning rate rises; then it falls to 0.
        clip_norm: of the gradient.
        temperature: of the answers; the theory asks for 1.
        remember: iterations whose answers are learnt from besides the present one's.
        answers: prompts answered at a time; it changes speed only.
        eval_every: updates between evaluations; 0 evaluates after each iteration only.
    """

    iterations: int = 4
    updates: int = 4688
    batch_size: int = 64
    beta: float = 0.1
    beta_factors: tuple[float, ...] = (1.0, 1.0, 1.0, 50.0)
    loss: str = "sigmoid"
    lr: float = 5e-7
    lr_factors: tuple[float, ...] = (1.0, 1.0, 0.2, 0.2)
    warm_up: float = 0.1
    clip_norm: float = 1.0
    temperature: float = 1.0
    remember: int = 1
    answers: int = 64
    eval_every: int = 0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if not self.beta_factors or not self.lr_factors:
            raise ValueError("beta_factors and lr_factors need a number each")


class OwnAnswers(Answers):
    """Each demonstration beside the model's own answers to its prompt.

    Args:
        demonstrations: whose prompts are answered, in this order.
        model: its tokenizer makes ids of them.
        rng: orders each pass.
    """

    def __init__(
        self, demonstrations: Sequence[Example], model: LanguageModel, rng: np.random.Generator
    ) -> None:
        super().__init__(model, rng)
        texts = [example.response for example in demonstrations]
        rows = model.tokenizer(texts, add_special_tokens=False)["input_ids"]
        self.demonstrations = [np.array(row) for row in rows]

    def next(self, n: int) -> Batch:
        """n pairs as 2 n rows: the demonstrations, then the model's answers in the same order."""
        own = self.draw(n)
        chosen = [self.demonstrations[a.index] for a in own]
        prompts, rejected = [a.prompt for a in own], [a.completion for a in own]
        return rows_of(self.model, 2 * prompts, [*chosen, *rejected])


class SPIN(LanguageLearner):
    """A language model that learns to be told from its predecessor."""

    def __init__(self, config: SPINConfig, task: TextTask) -> None:
        self.config = config
        super().__init__(
            "spin",
            task,
            config.lr,
            temperature=config.temperature,
            clip_norm=config.clip_norm,
            betas=(0.0, 0.99),
        )
        self.reference = self.frozen("reference")
        self.iteration, self.begun = 0, 0

    def begin(self, iteration: int) -> None:
        """The model becomes the opponent; optimizer and schedule start afresh."""
        self.reference.network.load_state_dict(self.model.network.state_dict())
        self.optimizer.load_state_dict({})
        self.iteration, self.begun = iteration, self.updates

    def update(self, source: Source) -> Metrics:
        """One step on one batch of pairs: its first half demonstrations, its second half own."""
        c = self.config
        batch = source.next(c.batch_size)
        before = sequence_sums(self.log_probs(batch, self.reference), batch["mask"])
        after = sequence_sums(self.log_probs(batch), batch["mask"])
        real, own = (after - before).chunk(2)
        beta = c.beta * _factor(c.beta_factors, self.iteration)
        loss = preference_loss(real, own, beta, kind=c.loss).mean()
        share = warm_linear(self.updates - self.begun, c.updates, round(c.warm_up * c.updates))
        norm = self.step(loss, c.lr * _factor(c.lr_factors, self.iteration) * share)
        margin, likelihoods = (real - own).detach(), after.detach().chunk(2)
        return {
            "loss": loss.detach(),
            "grad_norm": norm,
            "preferred": (margin > 0).float().mean(),
            "margin": beta * margin.mean(),
            "log_prob/demonstration": likelihoods[0].mean(),
            "log_prob/own": likelihoods[1].mean(),
        }

    def state_dict(self) -> State:
        """Also the iteration and the updates done before it."""
        return {**super().state_dict(), "iteration": [self.iteration, self.begun]}

    def load_state_dict(self, state: State) -> None:
        """Take over a state of the same configuration."""
        super().load_state_dict(state)
        self.iteration, self.begun = state["iteration"]


def _factor(factors: tuple[float, ...], iteration: int) -> float:
    return factors[min(iteration, len(factors) - 1)]


def recipe(config: SPINConfig, task: TextTask) -> Recipe:
    """Answer every prompt, then learn to tell; once per opponent."""
    demonstrations = task.demonstrations().items
    learner = SPIN(config, task)
    pairs = OwnAnswers(demonstrations, task.model, task.streams.numpy("pairs"))
    prompts = Passes([e.prompt for e in demonstrations], task.streams.numpy("prompts"))
    score = task.score or (lambda prompt, response: 0.0)

    def meet(trainer: Trainer) -> None:
        pairs.begin(config.remember)
        learner.begin(pairs.round)

    answer = Phase(
        "answer",
        learner,
        pairs,
        Until("episodes", len(demonstrations)),
        TextCollector(prompts, score, config.answers, 1, whole=True),
        updates_per_step=Fraction(0),
        on_enter=meet,
        eval_at_end=False,
    )
    fit = Phase(
        "fit", learner, pairs, Until("updates", config.updates), eval_every=config.eval_every
    )
    return Recipe([answer, fit], config.iterations)


register(
    "spin",
    config=SPINConfig,
    learner=SPIN,
    recipe=recipe,
    paper="https://arxiv.org/abs/2401.01335",
    summary="Self-play: tells demonstrations from the answers of its own predecessor",
    updates=("model", "optimizer", "updates"),
)

"""SEC: a self-evolving curriculum.

Chen et al. 2025, https://arxiv.org/abs/2505.14970.

Which kind of problem to train on next is a bandit whose arms are the kinds. An arm pays the mean
absolute advantage of the answers to its problems: how much there is to learn from it now. That is
near zero where all answers are right or all wrong, and greatest where half are, so the curriculum
follows the frontier of what the model can do.

    r(c) = mean over the batch's answers to problems of kind c of |A|
    Q(c) <- alpha r(c) + (1 - alpha) Q(c),   p(c) = exp(Q(c) / tau) / sum exp(Q / tau)

The kind of each problem of a batch is drawn from p, the problem without replacement among its kind.
The policy is trained as by GRPO.

Deviations:
1. Kinds that are not in a batch decay, Q(c) <- (1 - alpha) Q(c), as in the official code;
   `decay_unseen=false` is the paper's rule, which leaves them.
2. The reward is the task's; the official one adds 0.1 for the right format.
3. The deviation in A has 1e-4 added to it (TRL), not 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embodied.core.guards import check_batch
from embodied.core.phase import Phase, Recipe, Until
from embodied.core.registry import register
from embodied.core.types import Batch, Metrics, Source, State, UserError
from embodied.llm.collector import LatestRollout, TextCollector
from embodied.llm.learner import LanguageLearner
from embodied.llm.task import Passes, TextTask
from embodied.objectives.advantages import group_advantages
from embodied.objectives.likelihood import masked_mean
from embodied.objectives.policy_gradient import clipped_surrogate, token_ratio

SIGNALS = ("advantage", "raw", "reward")


@dataclass(frozen=True, kw_only=True)
class SECConfig:
    """A curriculum by bandit; defaults of the official code for Countdown.

    Attributes:
        steps: batches of answers.
        prompts: problems per batch.
        group: answers per problem.
        minibatch: problems per optimizer step.
        temperature: of the answers.
        rate: alpha, the weight of the newest batch.
        sharpness: tau; inf draws all kinds alike (Countdown 1, maths 0.4, puzzles 0.2).
        signal: what an arm pays: advantage (scaled by the group's deviation), raw (not scaled), or
            reward as an ablation.
        decay_unseen: kinds that are not in a batch lose value too.
        clip: e of the surrogate.
        lr: Adam learning rate.
        clip_norm: of the gradient.
        eval_every: batches between evaluations; 0 evaluates at the end only.
    """

    steps: int = 240
    prompts: int = 256
    group: int = 8
    minibatch: int = 64
    temperature: float = 1.0
    rate: float = 0.5
    sharpness: float = 1.0
    signal: str = "advantage"
    decay_unseen: bool = True
    clip: float = 0.2
    lr: float = 1e-6
    clip_norm: float = 1.0
    eval_every: int = 0

    def __post_init__(self) -> None:
        if self.signal not in SIGNALS:
            raise ValueError(f"signal must be one of {', '.join(SIGNALS)}, got {self.signal!r}")
        if not 0 < self.rate <= 1 or self.sharpness <= 0 or self.group < 2:
            raise ValueError(
                "needed are 0 < rate <= 1, sharpness > 0 and group >= 2; got "
                f"{self.rate}, {self.sharpness} and {self.group}"
            )

    @property
    def rows(self) -> int:
        """Answers per batch."""
        return self.prompts * self.group


def arm_values(
    values: Tensor, kinds: Tensor, pay: Tensor, rate: float, decay_unseen: bool
) -> Tensor:
    """Q after a batch: [C].

    Args:
        values: [C] Q before it.
        kinds: [B] of each answer.
        pay: [B] what each is worth to its arm.
        rate: alpha.
        decay_unseen: arms without answers move towards 0 instead of staying.
    """
    count = torch.zeros_like(values).index_add(0, kinds, torch.ones_like(pay))
    mean = torch.zeros_like(values).index_add(0, kinds, pay) / count.clamp(min=1)
    moved = rate * mean + (1 - rate) * values
    return moved if decay_unseen else torch.where(count > 0, moved, values)


def arm_probabilities(values: Tensor, sharpness: float) -> Tensor:
    """p(c) of each arm: [C]."""
    return (values / sharpness).softmax(-1)


class Curriculum:
    """Problems whose kinds are drawn from probabilities that change; stands in for `Passes`.

    Args:
        items: problems.
        kinds: number of the kind of each, from 0 without gaps.
        probabilities: of the kinds, asked at every draw.
        rng: draws kinds and orders the problems of each.
    """

    def __init__(
        self,
        items: Sequence[Any],
        kinds: np.ndarray,
        probabilities: Callable[[], np.ndarray],
        rng: np.random.Generator,
    ) -> None:
        self.items, self._probabilities, self._rng = items, probabilities, rng
        self.drawn = np.arange(0)
        self._passes = [
            Passes(np.flatnonzero(kinds == kind), rng) for kind in range(kinds.max() + 1)
        ]

    def __len__(self) -> int:
        return len(self.items)

    def draw(self, n: int, whole: bool = False) -> list[Any]:
        """The next n problems."""
        p = self._probabilities()
        kinds = self._rng.choice(len(self._passes), n, p=p / p.sum())
        self.drawn = np.array([self._passes[kind].draw(1)[0] for kind in kinds])
        return [self.items[i] for i in self.drawn]

    def state_dict(self) -> State:
        """The order of each kind, the places in them and the generator."""
        return {str(i): passes.state_dict() for i, passes in enumerate(self._passes)}

    def load_state_dict(self, state: State) -> None:
        """Take over a state; refuse that of other problems."""
        if len(state) != len(self._passes):
            raise UserError(
                f"the run had {len(state)} kinds of problems, here are {len(self._passes)}; resume "
                "it with the same data"
            )
        for i, passes in enumerate(self._passes):
            passes.load_state_dict(state[str(i)])


class SEC(LanguageLearner):
    """A language model trained by policy gradients, and what each kind of problem teaches it.

    Attributes:
        kinds: number of the kind of each prompt of the task.
        names: of the kinds.
        values: [C] Q.
    """

    def __init__(self, config: SECConfig, task: TextTask) -> None:
        self.config = config
        super().__init__(
            "sec", task, config.lr, temperature=config.temperature, clip_norm=config.clip_norm
        )
        if task.categories is None:
            raise UserError("this method chooses among kinds of problems; give prompts a category")
        self.names = sorted(set(task.categories), key=lambda name: (str(type(name)), name))
        number = {name: i for i, name in enumerate(self.names)}
        self.kinds = torch.tensor([number[name] for name in task.categories])
        self.values = torch.zeros(len(self.names), dtype=torch.float64)

    def probabilities(self) -> np.ndarray:
        """p of each kind as it is now: [C]."""
        return arm_probabilities(self.values, self.config.sharpness).numpy()

    def update(self, source: Source) -> Metrics:
        """One pass over a batch of answers; then the arms are paid."""
        c = self.config
        batch = dict(source.next(c.rows))
        check_batch(batch)
        score = batch["reward"].sum(-1)
        batch["advantage"] = group_advantages(score, c.group)
        pay = {
            "advantage": batch["advantage"].abs(),
            "raw": group_advantages(score, c.group, "none").abs(),
            "reward": score,
        }[c.signal]
        metrics: Metrics = {}
        questions = torch.arange(c.rows, device=score.device).reshape(-1, c.group)
        if c.minibatch < c.prompts:
            order = torch.randperm(c.prompts, generator=self.generator, device=score.device)
            questions = questions[order]
        for some in questions.split(c.minibatch):
            rows = some.reshape(-1)
            metrics = self._step({name: column[rows] for name, column in batch.items()})
        kinds = self.kinds[batch["index"].cpu()]
        self.values = arm_values(self.values, kinds, pay.double().cpu(), c.rate, c.decay_unseen)
        share = torch.bincount(kinds, minlength=len(self.names)) / len(kinds)
        return {
            **metrics,
            **{f"value/{name}": q for name, q in zip(self.names, self.values, strict=True)},
            **{f"share/{name}": x for name, x in zip(self.names, share, strict=True)},
        }

    def _step(self, batch: Batch) -> Metrics:
        """One optimizer step."""
        mask, old = batch["mask"], batch["old_log_prob"]
        ratio = token_ratio(self.log_probs(batch), old)
        loss = clipped_surrogate(ratio, batch["advantage"][:, None], self.config.clip)
        loss = masked_mean(loss, mask)
        norm = self.step(loss)
        clipped = ((ratio - 1).abs() > self.config.clip).float()
        return {"loss": loss.detach(), "grad_norm": norm, "clipped": masked_mean(clipped, mask)}

    def state_dict(self) -> State:
        """Also the value of each kind."""
        return {**super().state_dict(), "values": self.values}

    def load_state_dict(self, state: State) -> None:
        """Take over a state of the same kinds."""
        super().load_state_dict(state)
        self.values = state["values"].clone()


def recipe(config: SECConfig, task: TextTask) -> Recipe:
    """One phase: problems of the kinds that teach most, answers, an update."""
    learner = SEC(config, task)
    problems = Curriculum(
        task.questions().items,
        learner.kinds.numpy(),
        learner.probabilities,
        task.streams.numpy("prompts"),
    )
    return Recipe(
        [
            Phase(
                "online",
                learner,
                LatestRollout(task.model.device),
                Until("episodes", config.steps * config.rows),
                TextCollector(problems, task.score, config.prompts, config.group),
                updates_per_rollout=Fraction(1),
                eval_every=config.eval_every * config.rows,
            )
        ]
    )


register(
    "sec",
    config=SECConfig,
    learner=SEC,
    recipe=recipe,
    paper="https://arxiv.org/abs/2505.14970",
    summary="GRPO on the kinds of problems that have most to teach, chosen by a bandit",
    updates=("model", "optimizer", "generator", "updates", "values"),
)

"""NFT: negative-aware fine-tuning.

Chen et al. 2025, https://arxiv.org/abs/2505.18116; code https://github.com/NVlabs/NFT.

Answers are marked right or wrong, and both are fitted by maximum likelihood. A right one raises its
own likelihood; a wrong one is fitted by an implicit negative policy, which is written in terms of
the trained policy, so that fitting it pushes that policy away. With r the rate at which the
sampler pi_old answers a question rightly, pi_old = r pi+ + (1 - r) pi-, hence

    pi-_t = (pi_old - r pi)_t / (1 - r),   R_t = pi_t / pi_old,t
    L = -sum_q w(r) sum_t [c log R_t + (1 - c) log maxv((1 - r R_t) / (1 - r), e)] / 1000

maxv takes max(x, e) as value and x as gradient, so a wrong token always pushes. On-policy,
w = 1 - r gives the gradient of Dr. GRPO, w = sqrt((1 - r) / r) that of GRPO with the population's
deviation. `neg_weight=0` is rejection-sampling fine-tuning (RFT), the baseline.

Deviations:
1. `neg_weight=-1`, in the official code the loss of DAPO with its own advantages, is here the
   clipped surrogate (0.2, 0.28) with the advantages that NFT has on-policy: w for a right answer,
   -w r / (1 - r) for a wrong one.
2. Questions whose answers are all right or all wrong are left out; if `rounds` batches bring too
   few others, they fill the batch with weight 0, where the official code stops.
3. The reward of the task is 0 or 1 instead of -1 or 1; an answer is right from 1 on.
4. Log-probabilities of the sampler are recomputed once per batch, as officially, though here the
   sampler's own are the same to 1e-5.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from embodied.core.guards import check_batch
from embodied.core.phase import Phase, Recipe, Until
from embodied.core.registry import register
from embodied.core.types import Batch, Metrics, Rollout, Source
from embodied.llm.answers import Answers, rows_of
from embodied.llm.collector import TextCollector
from embodied.llm.learner import LanguageLearner
from embodied.llm.task import TextTask
from embodied.objectives.likelihood import masked_mean
from embodied.objectives.policy_gradient import clipped_surrogate
from policies.lm import LanguageModel

WEIGHTINGS = ("uniform", "dr_grpo", "grpo")


@dataclass(frozen=True, kw_only=True)
class NFTConfig:
    """Negative-aware fine-tuning; defaults of the official 7B run.

    Attributes:
        steps: batches of answers.
        prompts: questions per batch, all of them answered both rightly and wrongly.
        group: answers per question.
        oversample: questions asked at a time, as a multiple of `prompts`.
        rounds: times that questions are asked, at most, to fill a batch.
        minibatch: questions per optimizer step.
        temperature: of the answers.
        weighting: w: uniform (1), dr_grpo (1 - r) or grpo (sqrt((1 - r) / r)).
        neg_weight: multiplies what wrong answers add; 0 is RFT, -1 a clipped policy gradient.
        epsilon: e, the least value of the ratio of a wrong token.
        rate_bounds: between which r is kept.
        ratio_bound: the most that log R may be.
        divisor: of the sum over tokens.
        lr: AdamW learning rate.
        warm_up: optimizer steps in which it rises.
        weight_decay: decoupled.
        clip_norm: of the gradient.
        eval_every: batches between evaluations; 0 evaluates at the end only.
    """

    steps: int = 320
    prompts: int = 512
    group: int = 16
    oversample: int = 3
    rounds: int = 10
    minibatch: int = 32
    temperature: float = 1.0
    weighting: str = "dr_grpo"
    neg_weight: float = 1.0
    epsilon: float = 1.0
    rate_bounds: tuple[float, float] = (0.02, 0.98)
    ratio_bound: float = 10.0
    divisor: float = 1000.0
    lr: float = 1e-6
    warm_up: int = 10
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    eval_every: int = 0

    def __post_init__(self) -> None:
        if self.weighting not in WEIGHTINGS:
            raise ValueError(
                f"weighting must be one of {', '.join(WEIGHTINGS)}, got {self.weighting!r}"
            )
        if self.group < 2 or self.epsilon <= 0 or self.oversample < 1:
            raise ValueError(
                "needed are group >= 2, epsilon > 0 and oversample >= 1; got "
                f"{self.group}, {self.epsilon} and {self.oversample}"
            )

    @property
    def rows(self) -> int:
        """Answers per batch."""
        return self.prompts * self.group


def question_weight(rate: Tensor, weighting: str) -> Tensor:
    """w(r) of each question, like `rate` (section 3.3)."""
    if weighting == "uniform":
        return torch.ones_like(rate)
    return 1 - rate if weighting == "dr_grpo" else ((1 - rate) / rate).sqrt()


def nft_loss(
    log_ratio: Tensor, right: Tensor, rate: Tensor, epsilon: float, bound: float = 10.0
) -> Tensor:
    """-c log R - (1 - c) log maxv((1 - r R) / (1 - r), e): [B, T] (equation 10, without w).

    Args:
        log_ratio: [B, T] log R with gradient.
        right: [B] bool.
        rate: [B] r, in (0, 1).
        epsilon: e > 0.
        bound: the most that log R may be in the ratio of wrong tokens.
    """
    rate = rate.detach()[:, None]
    x = (1 - rate * log_ratio.clamp(max=bound).exp()) / (1 - rate)
    straight = x + (x.clamp(min=epsilon) - x).detach()
    return -torch.where(right[:, None], log_ratio, straight.log())


class MixedGroups(Answers):
    """Groups of answers of which some are right and some wrong; each batch is given once.

    Args:
        model: pads the batches.
        rng: unused by a source that keeps its order.
        group: answers per question.
        rounds: rollouts after which the others fill up the batch.
    """

    def __init__(
        self, model: LanguageModel, rng: np.random.Generator, group: int, rounds: int
    ) -> None:
        super().__init__(model, rng)
        self.group, self.rounds = group, rounds
        self.round = 0

    def add(self, rollout: Rollout) -> None:
        """Take the answers of a rollout."""
        self.round += 1
        super().add(rollout)

    def __len__(self) -> int:
        """Answers to questions that were answered both ways, or all of them if time is up."""
        if self.round >= self.rounds:
            return len(self.kept)
        return self.group * sum(self._mixed())

    def next(self, n: int) -> Batch:
        """n answers, groups together, mixed ones first; the rest is forgotten.

        Returns:
            prompt [n, P], prompt_mask, completion [n, T], mask and reward [n, 1].
        """
        order = np.argsort(~np.array(self._mixed(), bool), kind="stable")[: n // self.group]
        chosen = [self.kept[g * self.group + i] for g in order for i in range(self.group)]
        rows = rows_of(self.model, [a.prompt for a in chosen], [a.completion for a in chosen])
        reward = torch.tensor([[a.reward] for a in chosen], device=self.model.device)
        self.keep([])
        self.round = 0
        return {**rows, "reward": reward}

    def _mixed(self) -> list[bool]:
        right = np.array([a.reward >= 1 for a in self.kept]).reshape(-1, self.group)
        return list(right.any(1) & ~right.all(1))


class NFT(LanguageLearner):
    """A language model that learns from right and wrong answers of its own."""

    def __init__(self, config: NFTConfig, task: TextTask) -> None:
        self.config = config
        super().__init__(
            "nft",
            task,
            config.lr,
            temperature=config.temperature,
            clip_norm=config.clip_norm,
            weight_decay=config.weight_decay,
            decoupled=True,
        )

    def update(self, source: Source) -> Metrics:
        """One pass over a batch of answers."""
        c = self.config
        batch = dict(source.next(c.rows))
        check_batch(batch)
        batch["right"] = batch["reward"].sum(-1) >= 1
        rate = batch["right"].float().reshape(-1, c.group).mean(-1, keepdim=True)
        weight = question_weight(rate.clamp(*c.rate_bounds), c.weighting)
        weight = weight.where((rate > 0) & (rate < 1), 0)
        batch["weight"] = weight.expand(-1, c.group).reshape(-1)
        batch["rate"] = rate.clamp(*c.rate_bounds).expand(-1, c.group).reshape(-1)
        size = min(c.minibatch, c.prompts) * c.group
        with torch.no_grad():
            parts = [self.log_probs(_some(batch, slice(i, i + size))) for i in
                     range(0, c.rows, size)]  # fmt: skip
        batch["old"] = torch.cat(parts)
        found = [self._step(_some(batch, rows)) for rows in self._minibatches(size // c.group)]
        metrics = {name: torch.stack([each[name] for each in found]).mean() for name in found[0]}
        return metrics | {
            "entropy": -masked_mean(batch["old"], batch["mask"]),
            "right": batch["right"].float().mean(),
            "uniform": (weight == 0).float().mean(),
            "grad_norm/max": torch.stack([each["grad_norm"] for each in found]).max(),
        }

    def _minibatches(self, questions: int) -> list[Tensor]:
        """Rows of each minibatch, whose questions are drawn at random."""
        c, device = self.config, self.model.device
        order = torch.arange(c.prompts, device=device)
        if questions < c.prompts:
            order = torch.randperm(c.prompts, generator=self.generator, device=device)
        within = torch.arange(c.group, device=device)
        return [(some[:, None] * c.group + within).reshape(-1) for some in order.split(questions)]

    def _step(self, batch: Batch) -> Metrics:
        """One optimizer step."""
        c, mask, right, rate = self.config, batch["mask"], batch["right"], batch["rate"]
        log_ratio = self.log_probs(batch) - batch["old"]
        if c.neg_weight < 0:
            advantage = torch.where(right, 1.0, -rate / (1 - rate))[:, None]
            loss = clipped_surrogate(log_ratio.exp(), advantage, 0.2, 0.28)
        else:
            loss = nft_loss(log_ratio, right, rate, c.epsilon, c.ratio_bound)
            loss = loss * torch.where(right, 1.0, c.neg_weight)[:, None]
        loss = (loss * batch["weight"][:, None]).where(mask, 0).sum() / c.divisor
        norm = self.step(loss, c.lr * min(1.0, (self.updates + 1) / max(1, c.warm_up)))
        return {
            "loss": loss.detach(),
            "grad_norm": norm,
            "ratio": masked_mean(log_ratio.detach().exp(), mask),
        }


def _some(batch: Batch, rows: Tensor | slice) -> Batch:
    return {name: column[rows] for name, column in batch.items()}


def recipe(config: NFTConfig, task: TextTask) -> Recipe:
    """One phase: answers until enough questions are mixed, a pass over them."""
    groups = MixedGroups(task.model, task.streams.numpy("groups"), config.group, config.rounds)
    asked = config.prompts * config.oversample
    return Recipe(
        [
            Phase(
                "online",
                NFT(config, task),
                groups,
                Until("updates", config.steps),
                TextCollector(task.questions(), task.score, asked, config.group),
                updates_per_rollout=Fraction(1),
                start_rows=config.rows,
                eval_every=config.eval_every,
            )
        ]
    )


register(
    "nft",
    config=NFTConfig,
    learner=NFT,
    recipe=recipe,
    paper="https://arxiv.org/abs/2505.18116",
    summary="Maximum likelihood of right answers, and of wrong ones under an implicit negative",
    updates=("model", "optimizer", "generator", "updates"),
)

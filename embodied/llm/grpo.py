"""GRPO: group relative policy optimisation.

Shao et al. 2024 (DeepSeekMath), https://arxiv.org/abs/2402.03300, section 4.

Several answers are drawn to each prompt, and the group's mean reward is the baseline: no critic.

    A_i = (r_i - mean(r_1..r_G)) / (std(r_1..r_G) + 1e-4)
    l_it = -min(rho_it A_i, clip(rho_it, 1 - e_low, 1 + e_high) A_i) + beta k3_it
    rho_it = pi(o_it | q, o_i<t) / pi_old(o_it | q, o_i<t)

`scale=none aggregation=dr_grpo` is Dr. GRPO (https://arxiv.org/abs/2503.20783); `clip_high=0.28
aggregation=dapo` the loss of DAPO (https://arxiv.org/abs/2503.14476); `ratio=sequence_mean` GSPO
(https://arxiv.org/abs/2507.18071); `advantage=leave_one_out ratio=sequence aggregation=grpo` RLOO
(https://arxiv.org/abs/2402.14740), with `kl_in_reward=true` if beta > 0.

Deviations:
1. Defaults are those of TRL 1.16, which differ from the paper's: no KL term (beta 0 against 0.04),
   and the mean is over the tokens of the whole batch (`dapo`), not per sequence.
2. The KL term is multiplied by rho (`unbiased_kl`), which makes its gradient right off-policy; the
   paper's is not. On-policy they are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from embodied.core import ranks
from embodied.core.guards import check_batch, check_loss
from embodied.core.phase import Phase, Recipe, Until
from embodied.core.registry import register
from embodied.core.types import Batch, Metrics, Source
from embodied.llm.collector import LatestRollout, TextCollector
from embodied.llm.learner import LanguageLearner
from embodied.llm.task import TextTask
from embodied.objectives.advantages import group_advantages, leave_one_out
from embodied.objectives.likelihood import masked_mean, sequence_sums
from embodied.objectives.policy_gradient import (
    aggregate,
    clipped_surrogate,
    kl_estimate,
    sequence_ratio,
    token_ratio,
)

RATIOS = ("token", "sequence_mean", "sequence")
ADVANTAGES = ("group", "leave_one_out", "shuffled")


@dataclass(frozen=True, kw_only=True)
class GRPOConfig:
    """Group relative policy optimisation; defaults of TRL 1.16 where it has them.

    Attributes:
        steps: batches of answers.
        prompts: per batch.
        group: answers per prompt, G.
        temperature: of the answers.
        epochs: updates on each batch of answers.
        micro_batch: answers per backward pass, in whole groups; 0 for all at once. It changes
            memory, not results.
        lr: Adam learning rate.
        clip_norm: of the gradient.
        clip_low: e_low.
        clip_high: e_high; null for the same.
        beta: weight of the KL term; 0 keeps no reference.
        unbiased_kl: multiply the KL term by rho.
        kl_in_reward: take beta log(pi_old / pi_ref) of the whole answer off its reward, instead of
            the KL term.
        advantage: group, leave_one_out, or shuffled: those of the group handed to random answers of
            the batch, a control that must learn nothing.
        scale: of group advantages: group, batch or none.
        aggregation: dapo, grpo, bnpo, dr_grpo or seq_sum.
        ratio: token; or one per answer, sequence_mean or sequence.
        eval_every: batches between evaluations; 0 evaluates at the end only.
    """

    steps: int = 100
    prompts: int = 32
    group: int = 8
    temperature: float = 1.0
    epochs: int = 1
    micro_batch: int = 128
    lr: float = 1e-6
    clip_norm: float = 1.0
    clip_low: float = 0.2
    clip_high: float | None = None
    beta: float = 0.0
    unbiased_kl: bool = True
    kl_in_reward: bool = False
    advantage: str = "group"
    scale: str = "group"
    aggregation: str = "dapo"
    ratio: str = "token"
    eval_every: int = 0

    def __post_init__(self) -> None:
        if self.advantage not in ADVANTAGES:
            raise ValueError(
                f"advantage must be one of {', '.join(ADVANTAGES)}, got {self.advantage!r}"
            )
        if self.ratio not in RATIOS:
            raise ValueError(f"ratio must be one of {', '.join(RATIOS)}, got {self.ratio!r}")
        if self.group < 2:
            raise ValueError(f"group must be at least 2, got {self.group}: it is the baseline")

    @property
    def rows(self) -> int:
        """Answers per batch."""
        return self.prompts * self.group


def grpo_loss(
    config: GRPOConfig,
    log_prob: Tensor,
    old: Tensor | None,
    ref: Tensor | None,
    advantage: Tensor,
    mask: Tensor,
    *,
    longest: int,
    tokens: Tensor,
    sequences: int,
    engine_ratio: Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """The loss of some of a batch's answers.

    Args:
        config: clipping, KL and aggregation.
        log_prob: [B, T] with gradient.
        old: [B, T] of the policy that answered; None on the first update, where it is the same.
        ref: [B, T] of the reference, or None.
        advantage: [B].
        mask: [B, T].
        longest: tokens an answer may have.
        tokens: of the whole batch.
        sequences: of the whole batch.
        engine_ratio: [B, T] weights of tokens that another engine drew, or None.
    """
    if config.ratio == "token":
        ratio = token_ratio(log_prob, old)
    else:
        ratio = sequence_ratio(log_prob, old, mask, mean=config.ratio == "sequence_mean")
    loss = clipped_surrogate(ratio, advantage[:, None], config.clip_low, config.clip_high)
    high = config.clip_low if config.clip_high is None else config.clip_high
    up, down = advantage[:, None] > 0, advantage[:, None] < 0
    clipped = ((ratio > 1 + high) & up) | ((ratio < 1 - config.clip_low) & down)
    metrics = {"clipped": masked_mean(clipped.float().expand_as(log_prob), mask)}
    loss = loss.expand_as(log_prob)
    if engine_ratio is not None:
        loss = loss * engine_ratio
    if ref is not None:
        kl = kl_estimate(log_prob, ref)
        metrics["kl"] = masked_mean(kl.detach(), mask)
        loss = loss + config.beta * (kl * ratio if config.unbiased_kl else kl)
    how = {"longest": longest, "tokens": tokens, "sequences": sequences}
    return aggregate(loss, mask, config.aggregation, **how), metrics


class GRPO(LanguageLearner):
    """A language model trained by policy gradients on groups of its own answers."""

    def __init__(self, config: GRPOConfig, task: TextTask) -> None:
        self.config = config
        super().__init__(
            "grpo", task, config.lr, temperature=config.temperature, clip_norm=config.clip_norm
        )
        self.reference = self.frozen("reference") if config.beta else None

    def update(self, source: Source) -> Metrics:
        """`epochs` optimizer steps on one batch of answers."""
        c = self.config
        batch = source.next(c.rows)
        check_batch(batch)
        score = batch["reward"].sum(-1)
        if c.kl_in_reward and self.reference:
            away = kl_estimate(batch["old_log_prob"], self.log_probs(batch, self.reference), "k1")
            score = score - c.beta * sequence_sums(away, batch["mask"])
        if c.advantage == "leave_one_out":
            advantage = leave_one_out(score, c.group)
        else:
            advantage = group_advantages(score, c.group, c.scale)
        if c.advantage == "shuffled":
            order = torch.randperm(c.rows, generator=self.generator, device=advantage.device)
            advantage = advantage[order]
        metrics: Metrics = {"advantage_zero": (advantage == 0).float().mean()}
        for epoch in range(c.epochs):
            metrics |= self._step(batch, advantage, first=epoch == 0)
        return metrics

    def _step(self, batch: Batch, advantage: Tensor, first: bool) -> Metrics:
        """One optimizer step, its gradient gathered over micro-batches."""
        c, rows = self.config, len(advantage)
        size = max(c.micro_batch // c.group, 1) * c.group if c.micro_batch else rows
        tokens = self.tokens(batch["mask"])
        self.optimizer.zero_grad()
        total, metrics = torch.zeros((), device=tokens.device), {}
        for start in range(0, rows, size):
            part = {name: column[start : start + size] for name, column in batch.items()}
            penalised = self.reference and not c.kl_in_reward
            ref = self.log_probs(part, self.reference) if penalised else None
            loss, found = grpo_loss(
                c,
                self.log_probs(part),
                None if first and c.epochs == 1 else part["old_log_prob"],
                ref,
                advantage[start : start + size],
                part["mask"],
                longest=self.longest,
                tokens=tokens,
                sequences=rows,
                engine_ratio=part.get("engine_ratio"),
            )
            check_loss("model", ranks.mean(loss))
            loss.backward()
            total += loss.detach()
            share = part["mask"].sum() / batch["mask"].sum()
            for name, value in found.items():
                metrics[name] = metrics.get(name, 0.0) + share * value
        norm = self.optimizer.step()
        self.updates += 1
        return {"loss": total, "grad_norm": norm, **metrics}


def recipe(config: GRPOConfig, task: TextTask) -> Recipe:
    """One phase: a batch of answers, an update."""
    learner = GRPO(config, task)
    return Recipe(
        [
            Phase(
                "online",
                learner,
                LatestRollout(task.model.device),
                Until("episodes", config.steps * config.rows),
                TextCollector(task.questions(), task.score, config.prompts, config.group),
                updates_per_rollout=Fraction(1),
                eval_every=config.eval_every * config.rows,
            )
        ]
    )


register(
    "grpo",
    config=GRPOConfig,
    learner=GRPO,
    recipe=recipe,
    paper="https://arxiv.org/abs/2402.03300",
    summary="Policy gradients on groups of answers, the group's mean reward as baseline",
    updates=("model", "optimizer", "updates"),
)

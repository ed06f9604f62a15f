"""DPO: direct preference optimisation.

Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, equation 7.

A language model is its own reward model: the reward of a response is, up to a constant per prompt,
how much likelier it has become than under the reference. Fitting preferences by maximum likelihood
then needs neither a reward model nor samples.

    L = -log sigmoid(beta (Delta_w - Delta_l)),   Delta = sum_t [log pi(o_t|q) - log pi_ref(o_t|q)]

of a chosen response w and a rejected one l. `loss=ipo` is IPO (https://arxiv.org/abs/2310.12036),
`loss=hinge` SLiC's, `label_smoothing` cDPO's and, with `loss=robust`, robust DPO's.

Deviations:
1. IPO divides each margin by the length of its response, as TRL does; the IPO paper does not.
"""

from __future__ import annotations

from dataclasses import dataclass

from embodied.core.phase import Phase, Recipe, Until
from embodied.core.registry import register
from embodied.core.types import Metrics, Source
from embodied.llm.learner import LanguageLearner
from embodied.llm.schedules import warm_cosine
from embodied.llm.task import TextTask
from embodied.objectives.likelihood import sequence_sums
from embodied.objectives.preference import KINDS, preference_loss


@dataclass(frozen=True, kw_only=True)
class DPOConfig:
    """Direct preference optimisation; defaults of TRL.

    Attributes:
        updates: optimizer steps.
        batch_size: pairs per step.
        beta: how dear it is to leave the reference.
        loss: sigmoid, robust, hinge or ipo.
        label_smoothing: share of preferences taken to be wrong, in [0, 0.5).
        lr: AdamW learning rate.
        weight_decay: decoupled.
        warm_up: steps in which the learning rate rises.
        final_lr: share of the learning rate at the end of the cosine; 1 keeps it constant.
        clip_norm: of the gradient.
        eval_every: updates between evaluations; 0 evaluates at the end only.
    """

    updates: int = 1000
    batch_size: int = 64
    beta: float = 0.1
    loss: str = "sigmoid"
    label_smoothing: float = 0.0
    lr: float = 1e-6
    weight_decay: float = 0.0
    warm_up: int = 0
    final_lr: float = 1.0
    clip_norm: float = 1.0
    eval_every: int = 0

    def __post_init__(self) -> None:
        if self.loss not in KINDS:
            raise ValueError(f"loss must be one of {', '.join(KINDS)}, got {self.loss!r}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must lie in [0, 0.5), got {self.label_smoothing}")


class DPO(LanguageLearner):
    """A language model fitted to preferences."""

    def __init__(self, config: DPOConfig, task: TextTask) -> None:
        self.config = config
        super().__init__(
            "dpo",
            task,
            config.lr,
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
            decoupled=True,
        )
        self.reference = self.frozen("reference")

    def update(self, source: Source) -> Metrics:
        """One step on one batch of pairs: its first half chosen, its second half rejected."""
        c = self.config
        batch = source.next(c.batch_size)
        lengths = batch["mask"].sum(-1).chunk(2)
        before = sequence_sums(self.log_probs(batch, self.reference), batch["mask"])
        after = sequence_sums(self.log_probs(batch), batch["mask"])
        chosen, rejected = (after - before).chunk(2)
        losses = preference_loss(
            chosen,
            rejected,
            c.beta,
            kind=c.loss,
            label_smoothing=c.label_smoothing,
            lengths=lengths,
        )
        loss = losses.mean()
        norm = self.step(loss, c.lr * warm_cosine(self.updates, c.updates, c.warm_up, c.final_lr))
        margin = (chosen - rejected).detach()
        return {
            "loss": loss.detach(),
            "grad_norm": norm,
            "preferred": (margin > 0).float().mean(),
            "margin": c.beta * margin.mean(),
            "reward/chosen": c.beta * chosen.detach().mean(),
            "reward/rejected": c.beta * rejected.detach().mean(),
        }


def recipe(config: DPOConfig, task: TextTask) -> Recipe:
    """One phase on the preferences."""
    until, learner = Until("updates", config.updates), DPO(config, task)
    return Recipe([Phase("fit", learner, task.preferences(), until, eval_every=config.eval_every)])


register(
    "dpo",
    config=DPOConfig,
    learner=DPO,
    recipe=recipe,
    paper="https://arxiv.org/abs/2305.18290",
    summary="Direct preference optimisation: fits pairs of a better and a worse response",
    updates=("model", "optimizer", "updates"),
)

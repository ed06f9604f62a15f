"""SFT: supervised fine-tuning, the step before every other and the baseline under them.

Ouyang et al. 2022 (InstructGPT), https://arxiv.org/abs/2203.02155, section 3.5.

Maximise the likelihood of given responses. The prompt is context, not a target; the end of a
response is a target, without which the model never learns to stop.

    L = -sum_it w_i m_it log pi(o_it | q_i, o_i<t) / sum_it m_it

over the responses of a batch: a mean over tokens, not over responses.

Deviations:
1. None of the method. Defaults of learning rate and loss are those of TRL's SFTTrainer.
"""

from __future__ import annotations

from dataclasses import dataclass

from embodied.core.phase import Phase, Recipe, Until
from embodied.core.registry import register
from embodied.core.types import Metrics, Source
from embodied.llm.learner import LanguageLearner
from embodied.llm.schedules import warm_cosine
from embodied.llm.task import TextTask


@dataclass(frozen=True, kw_only=True)
class SFTConfig:
    """Supervised fine-tuning.

    Attributes:
        updates: optimizer steps.
        batch_size: responses per step.
        lr: AdamW learning rate (TRL).
        betas: of AdamW (TRL).
        weight_decay: decoupled (TRL).
        warm_up: steps in which the learning rate rises.
        final_lr: share of the learning rate at the end of the cosine; 1 keeps it constant.
        clip_norm: of the gradient (TRL).
        eval_every: updates between evaluations; 0 evaluates at the end only.
    """

    updates: int = 1000
    batch_size: int = 64
    lr: float = 2e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warm_up: int = 0
    final_lr: float = 1.0
    clip_norm: float = 1.0
    eval_every: int = 0


class SFT(LanguageLearner):
    """A language model fitted by maximum likelihood."""

    def __init__(self, config: SFTConfig, task: TextTask) -> None:
        self.config = config
        super().__init__(
            "sft",
            task,
            config.lr,
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
            betas=config.betas,
            decoupled=True,
        )

    def update(self, source: Source) -> Metrics:
        """One step on one batch of responses."""
        c = self.config
        lr = c.lr * warm_cosine(self.updates, c.updates, c.warm_up, c.final_lr)
        return self.imitate(source.next(c.batch_size), lr)


def recipe(config: SFTConfig, task: TextTask) -> Recipe:
    """One phase on the demonstrations."""
    until = Until("updates", config.updates)
    learner = SFT(config, task)
    return Recipe(
        [Phase("fit", learner, task.demonstrations(), until, eval_every=config.eval_every)]
    )


register(
    "sft",
    config=SFTConfig,
    learner=SFT,
    recipe=recipe,
    paper="https://arxiv.org/abs/2203.02155",
    summary="Supervised fine-tuning: maximum likelihood of given responses",
    updates=("model", "optimizer", "updates"),
)

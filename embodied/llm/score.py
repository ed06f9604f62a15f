"""SCoRe: self-correction by reinforcement learning.

Kumar et al. 2024, https://arxiv.org/abs/2409.12917.

A model answers, is asked to look again, and answers once more; nobody tells it whether it was
right. Plain reinforcement learning over both turns makes a good first answer and repeats it. So a
first stage moves the second turn alone and pins the first to the reference (equation 3); the second
stage trains both (equation 4), with a bonus for a second answer better than the first (equation 5).

    I:  max E[ r(y2) - beta_2 KL(pi(.|x1) || ref(.|x1)) ]
    II: max E[ sum_i r(y_i) - beta_1 KL(pi(.|x_i) || ref(.|x_i)) ],  r(y2) += alpha (r(y2) - r(y1))

The first answer is credited with its own reward only (discount 0 between turns): with the bonus it
would pay to be wrong at first.

Deviations:
1. There is no code of the authors. The baseline is the mean of the other dialogues that began from
   the same prompt, per turn; the paper says no more than that it is simple.
2. The divergence is exact, over all symbols, at the prefixes that were drawn (`kl=k3` estimates it
   from the drawn symbols, for large vocabularies).
3. No dialogues whose first answer is the reference's are mixed in, which the paper allows for.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from embodied.core.guards import check_batch
from embodied.core.phase import Phase, Recipe, Until
from embodied.core.registry import register
from embodied.core.types import Metrics, Source, State
from embodied.llm.collector import LatestRollout
from embodied.llm.dialogue import DialogueCollector
from embodied.llm.learner import LanguageLearner
from embodied.llm.task import TextTask
from embodied.objectives.advantages import leave_one_out
from embodied.objectives.likelihood import sequence_sums

TURNS = 2


@dataclass(frozen=True, kw_only=True)
class SCoReConfig:
    """Self-correction in two stages; defaults of the paper on MATH.

    Attributes:
        first_steps: batches of stage I; 0 leaves it out.
        steps: batches of stage II.
        prompts: per batch.
        group: dialogues per prompt, at least 2: they are the baseline.
        temperature: of the answers.
        lr: Adam learning rate.
        clip_norm: of the gradient.
        alpha: weight of the bonus; 0 is plain reinforcement learning over two turns.
        beta_first: beta_2, what pins the first turn in stage I, per sum over tokens.
        beta: beta_1, of both turns in stage II.
        kl: exact or k3.
        discount: share of the second turn's return that the first is credited with.
        eval_every: batches between evaluations; 0 evaluates at the end of each stage only.
    """

    first_steps: int = 1500
    steps: int = 1500
    prompts: int = 128
    group: int = 4
    temperature: float = 1.0
    lr: float = 5e-6
    clip_norm: float = 1.0
    alpha: float = 10.0
    beta_first: float = 0.1
    beta: float = 0.01
    kl: str = "exact"
    discount: float = 0.0
    eval_every: int = 0

    def __post_init__(self) -> None:
        if self.group < 2:
            raise ValueError(f"group must be at least 2, got {self.group}: it is the baseline")
        if self.kl not in ("exact", "k3"):
            raise ValueError(f"kl must be exact or k3, got {self.kl!r}")


def turn_returns(
    first: Tensor, second: Tensor, *, stage: int, alpha: float, discount: float = 0.0
) -> tuple[Tensor, Tensor]:
    """What each turn is credited with, like the rewards.

    Args:
        first: r(y1).
        second: r(y2).
        stage: 1 rewards the second turn alone.
        alpha: of the bonus, in stage 2.
        discount: of the second turn's return, for the first.
    """
    if stage == 1:
        return torch.zeros_like(first), second
    shaped = second + alpha * (second - first)
    return first + discount * shaped, shaped


def score_loss(
    log_prob: Tensor, kl: Tensor, advantage: Tensor, penalty: Tensor, mask: Tensor
) -> Tensor:
    """Mean over dialogues of sum_i [-A_i log pi(y_i|x_i) + beta_i KL_i]: a scalar.

    Args:
        log_prob: [B, T], two rows per dialogue.
        kl: [B, T], per token.
        advantage: [B].
        penalty: [B], beta of each row.
        mask: [B, T].
    """
    rows = penalty * sequence_sums(kl, mask) - advantage * sequence_sums(log_prob, mask)
    return rows.sum() / (len(rows) / TURNS)


class SCoRe(LanguageLearner):
    """A language model that learns to correct itself."""

    def __init__(self, config: SCoReConfig, task: TextTask) -> None:
        self.config = config
        super().__init__(
            "score", task, config.lr, temperature=config.temperature, clip_norm=config.clip_norm
        )
        self.reference = self.frozen("reference")
        self.stage = 1 if config.first_steps else 2

    def update(self, source: Source) -> Metrics:
        """One step on a batch of dialogues."""
        c = self.config
        batch = source.next(TURNS * c.prompts * c.group)
        check_batch(batch)
        mask, reward = batch["mask"], batch["reward"].sum(-1).reshape(-1, TURNS)
        returns = turn_returns(
            *reward.unbind(1), stage=self.stage, alpha=c.alpha, discount=c.discount
        )
        advantage = torch.stack([leave_one_out(each, c.group) for each in returns], 1)
        betas = (c.beta_first, 0.0) if self.stage == 1 else (c.beta, c.beta)
        penalty = advantage.new_tensor(betas).repeat(len(reward))
        log_prob, kl = self.divergence(batch, self.reference, c.kl)
        loss = score_loss(log_prob, kl, advantage.reshape(-1), penalty, mask)
        norm = self.step(loss)
        drift = sequence_sums(kl.detach(), mask).reshape(-1, TURNS).mean(0)
        return {"loss": loss.detach(), "grad_norm": norm, "stage": self.stage} | {
            **{f"kl/{turn + 1}": value for turn, value in enumerate(drift)},
            **corrections(reward),
        }

    def enter(self, stage: int) -> None:
        """Begin a stage."""
        self.stage = stage

    def state_dict(self) -> State:
        """The stage too."""
        return {**super().state_dict(), "stage": self.stage}

    def load_state_dict(self, state: State) -> None:
        """Take over a state of the same configuration."""
        super().load_state_dict(state)
        self.stage = int(state["stage"])


def corrections(reward: Tensor) -> Metrics:
    """Accuracy of both turns, and how many answers were mended (i -> c) and spoilt (c -> i).

    Args:
        reward: [N, 2].
    """
    first, second = (reward >= 1).unbind(1)
    return {
        "accuracy/1": first.float().mean(),
        "accuracy/2": second.float().mean(),
        "mended": (~first & second).float().mean(),
        "spoilt": (first & ~second).float().mean(),
    }


def recipe(config: SCoReConfig, task: TextTask) -> Recipe:
    """Two phases that differ in what they reward and pin."""
    learner = SCoRe(config, task)
    source = LatestRollout(task.model.device)
    collector = DialogueCollector(
        task.openings(), task.begin, config.prompts, config.group, turns=TURNS
    )
    stages = [("pin", 1, config.first_steps), ("correct", 2, config.steps)]
    return Recipe(
        [
            Phase(
                name,
                learner,
                source,
                Until("updates", steps),
                collector,
                updates_per_rollout=Fraction(1),
                on_enter=lambda trainer, stage=stage: learner.enter(stage),
                eval_every=config.eval_every,
            )
            for name, stage, steps in stages
            if steps
        ]
    )


register(
    "score",
    config=SCoReConfig,
    learner=SCoRe,
    recipe=recipe,
    paper="https://arxiv.org/abs/2409.12917",
    summary="Self-correction in two stages: pin the first answer, then reward mending it",
    updates=("model", "optimizer", "updates"),
)

"""Self-rewarding PPO: alignment from demonstrations alone.

Zhang et al. 2025, https://arxiv.org/abs/2510.21090 (no code was published).

A pretrained model is fine-tuned on demonstrations for a short time. How much likelier an answer
has become by that says how much the demonstrations favour it, and is the reward of PPO on further
prompts, which need no demonstrations, preferences or verifier.

    r(x, y) = sum_t [log pi_sft(y_t|x, y_<t) - log pi_pt(y_t|x, y_<t)],  given at the last token

less a penalty c (log pi - log pi_sft)_t at every token. With both models frozen the optimum is
pi* ~ pi_sft (pi_sft / pi_pt)^(1 / c): a step beyond pi_sft along the line from pi_pt. With the
penalty towards pi_pt and c = 1 it would be pi_sft itself, and without one the text degenerates.

Deviations:
1. The paper says neither reference nor coefficient of the penalty; pi_sft and 0.05 are taken.
2. Updates of the short fine-tuning, learning rates, and batches in which only the critic learns are
   not in the paper.
3. Policy and critic have an optimizer each, so that each gradient is clipped by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from embodied.core.guards import check_batch
from embodied.core.phase import Phase, Recipe, Until
from embodied.core.registry import register
from embodied.core.trainer import Trainer
from embodied.core.types import Batch, Metrics, Source, State, UserError
from embodied.llm.actor_critic import ActorCritic, ActorCriticConfig
from embodied.llm.collector import LatestRollout, TextCollector
from embodied.llm.learner import LanguageLearner
from embodied.llm.task import Passes, TextTask
from embodied.objectives.likelihood import sequence_sums
from embodied.objectives.policy_gradient import kl_estimate

REWARDS = ("ratio", "likelihood")


@dataclass(frozen=True, kw_only=True)
class SelfRewardingPPOConfig(ActorCriticConfig):
    """PPO whose reward is what a short fine-tuning has changed.

    Attributes:
        fit_updates: optimizer steps on the demonstrations before.
        fit_batch: demonstrations per step.
        fit_lr: Adam learning rate meanwhile.
        reward: ratio, or as an ablation likelihood: log pi_sft without pi_pt.
        per_token: divide the reward by the length of the answer.
        critic_warm_up: batches in which only the critic learns.
        temperature: of the answers, and of all likelihoods.
        lr: Adam learning rate of the policy.
        critic_lr: of the critic.
    """

    fit_updates: int = 100
    fit_batch: int = 64
    fit_lr: float = 2e-5
    reward: str = "ratio"
    per_token: bool = False
    critic_warm_up: int = 5
    temperature: float = 1.0
    lr: float = 1e-6
    critic_lr: float = 5e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reward not in REWARDS:
            raise ValueError(f"reward must be one of {', '.join(REWARDS)}, got {self.reward!r}")


def coherent_reward(
    tuned: Tensor, pretrained: Tensor | None, mask: Tensor, per_token: bool = False
) -> Tensor:
    """r of each answer, without gradient: [B].

    Args:
        tuned: [B, T] log pi_sft.
        pretrained: [B, T] log pi_pt, or None to leave it out.
        mask: [B, T].
        per_token: divide by the length.
    """
    difference = tuned if pretrained is None else tuned - pretrained
    total = sequence_sums(difference.detach(), mask)
    return total / mask.sum(-1).clamp(min=1) if per_token else total


class Fit(LanguageLearner):
    """The short fine-tuning on demonstrations."""

    def __init__(self, config: SelfRewardingPPOConfig, task: TextTask) -> None:
        self.config = config
        super().__init__("self_rewarding_ppo/fit", task, config.fit_lr, clip_norm=config.clip_norm)

    def update(self, source: Source) -> Metrics:
        """One step on one batch of demonstrations."""
        return self.imitate(source.next(self.config.fit_batch))


class SelfRewardingPPO(ActorCritic):
    """A language model rewarded by what its fine-tuning has changed.

    Attributes:
        pretrained: the model before it.
        reference: the model after it.
        batches: of answers so far.
    """

    def __init__(self, config: SelfRewardingPPOConfig, task: TextTask) -> None:
        super().__init__("self_rewarding_ppo", config, task)
        self.pretrained = self.frozen("pretrained")
        self.reference = self.frozen("reference")
        self.batches = 0

    def begin(self) -> None:
        """The model as it is now is the tuned one; the critic begins from it."""
        network = self.model.network
        self.reference.network.load_state_dict(network.state_dict())
        self.critic.body.load_state_dict(network.base_model.state_dict())

    def update(self, source: Source) -> Metrics:
        """`epochs` passes over one batch of answers."""
        c = self.config
        batch = dict(source.next(c.prompts))
        check_batch(batch)
        with torch.no_grad():
            tuned = self.log_probs(batch, self.reference)
            kl = kl_estimate(batch["old_log_prob"], tuned, "k1")
            score = self._score(batch, tuned)
        metrics = self.improve(batch, kl, score, critic_only=self.batches < c.critic_warm_up)
        self.batches += 1
        return {**metrics, "score": score.mean()}

    def _score(self, batch: Batch, tuned: Tensor) -> Tensor:
        c = self.config
        before = self.log_probs(batch, self.pretrained) if c.reward == "ratio" else None
        return coherent_reward(tuned, before, batch["mask"], c.per_token)

    def state_dict(self) -> State:
        """Also how many batches there were."""
        return {**super().state_dict(), "batches": self.batches}

    def load_state_dict(self, state: State) -> None:
        """Take over a state of the same configuration."""
        super().load_state_dict(state)
        self.batches = int(state["batches"])


def recipe(config: SelfRewardingPPOConfig, task: TextTask) -> Recipe:
    """Fit the demonstrations for a while; then answer, and learn from how likely answers became."""
    if task.prompts is None:
        raise UserError("this method answers prompts too; give data that has them")
    fit, learner = Fit(config, task), SelfRewardingPPO(config, task)
    prompts = Passes(task.prompts, task.streams.numpy("prompts"))
    score = task.score or (lambda prompt, response: 0.0)

    def begin(trainer: Trainer) -> None:
        learner.begin()

    online = Phase(
        "online",
        learner,
        LatestRollout(task.model.device),
        Until("episodes", config.steps * config.prompts),
        TextCollector(prompts, score, config.prompts, 1),
        updates_per_rollout=Fraction(1),
        on_enter=begin,
        eval_every=config.eval_every * config.prompts,
    )
    return Recipe(
        [Phase("fit", fit, task.demonstrations(), Until("updates", config.fit_updates)), online]
    )


register(
    "self_rewarding_ppo",
    config=SelfRewardingPPOConfig,
    learner=SelfRewardingPPO,
    recipe=recipe,
    paper="https://arxiv.org/abs/2510.21090",
    summary="PPO rewarded by how much likelier a short fine-tuning has made an answer",
    updates=(
        *("model", "critic", "optimizer", "critic_optimizer", "generator", "updates", "batches"),
    ),
)

"""PPO: proximal policy optimisation of a language model, with a critic and a KL penalty per token.

Schulman et al. 2017, https://arxiv.org/abs/1707.06347; for language models Ziegler et al. 2019.

Each answer is an episode whose steps are its tokens. The reward is the score at the last token,
less a penalty for leaving the reference at every token; a critic spreads it over the tokens.

    r_t = -c (log pi_old - log pi_ref)_t + [t last] score
    delta_t = r_t + gamma V_{t+1} - V_t,   A_t = delta_t + gamma lambda A_{t+1},   R_t = A_t + V_t
    L_pi = mean_t max(-A rho, -A clip(rho, 1 - e, 1 + e))
    L_V = 1/2 mean_t max((V - R)^2, (clip(V, V_old - e_V, V_old + e_V) - R)^2)

with A whitened over the batch and L = L_pi + 0.1 L_V.

Deviations:
1. Policy and critic have an optimizer each, so that each gradient is clipped by itself; TRL steps
   both with one.
2. The critic's body begins as a copy of the policy's, for want of a reward model to copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from embodied.core import ranks
from embodied.core.guards import check_batch, check_loss
from embodied.core.optim import Adam
from embodied.core.phase import Phase, Recipe, Until
from embodied.core.registry import register
from embodied.core.types import Batch, Metrics, Source
from embodied.llm.collector import LatestRollout, TextCollector
from embodied.llm.learner import LanguageLearner
from embodied.llm.task import TextTask
from embodied.objectives.advantages import generalised_advantages, token_rewards, whiten
from embodied.objectives.likelihood import masked_mean
from embodied.objectives.policy_gradient import (
    clipped_surrogate,
    kl_estimate,
    token_ratio,
    value_loss,
)
from policies.token_values import TokenValues


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Proximal policy optimisation; defaults of TRL 1.12.

    Attributes:
        steps: batches of answers.
        prompts: answers per batch, one to each prompt.
        temperature: of the answers.
        epochs: passes over each batch of answers.
        minibatches: optimizer steps per pass.
        lr: Adam learning rate of the policy.
        critic_lr: of the critic.
        clip_norm: of each gradient.
        kl_coef: c.
        kl: estimator in the reward, k1 or k3.
        clip: e.
        value_clip: e_V.
        value_coef: weight of L_V.
        discount: gamma.
        trace: lambda.
        whiten_rewards: scale rewards to unit variance, their mean kept.
        eval_every: batches between evaluations; 0 evaluates at the end only.
    """

    steps: int = 100
    prompts: int = 256
    temperature: float = 0.7
    epochs: int = 4
    minibatches: int = 1
    lr: float = 3e-6
    critic_lr: float = 3e-6
    clip_norm: float = 1.0
    kl_coef: float = 0.05
    kl: str = "k1"
    clip: float = 0.2
    value_clip: float = 0.2
    value_coef: float = 0.1
    discount: float = 1.0
    trace: float = 0.95
    whiten_rewards: bool = False
    eval_every: int = 0

    def __post_init__(self) -> None:
        if self.minibatches < 1 or self.prompts % self.minibatches:
            raise ValueError(
                f"prompts={self.prompts} cannot be cut into minibatches={self.minibatches}"
            )
        if self.kl not in ("k1", "k3"):
            raise ValueError(f"kl must be k1 or k3, got {self.kl!r}")


class PPO(LanguageLearner):
    """A language model and its critic."""

    def __init__(self, config: PPOConfig, task: TextTask) -> None:
        self.config = config
        super().__init__(
            "ppo", task, config.lr, temperature=config.temperature, clip_norm=config.clip_norm
        )
        self.reference = self.frozen("reference")
        self.critic = TokenValues(self.model, task.streams.torch("ppo/critic"))
        self.critic_optimizer = Adam(
            "critic", list(self.critic.parameters()), config.critic_lr, clip_norm=config.clip_norm
        )
        self.keep(critic=self.critic, critic_optimizer=self.critic_optimizer)

    def update(self, source: Source) -> Metrics:
        """`epochs` passes over one batch of answers."""
        c = self.config
        batch = dict(source.next(c.prompts))
        check_batch(batch)
        mask, old = batch["mask"], batch["old_log_prob"]
        with torch.no_grad():
            kl = kl_estimate(old, self.log_probs(batch, self.reference), c.kl)
            batch["value"] = self.critic(*_inputs(batch))
        reward = token_rewards(kl, batch["reward"].sum(-1), mask, c.kl_coef)
        if c.whiten_rewards:
            reward = whiten(reward, mask, shift=False)
        advantage, batch["return"] = generalised_advantages(
            reward, batch["value"], mask, c.discount, c.trace
        )
        batch["advantage"] = whiten(advantage, mask)
        metrics: Metrics = {}
        for _ in range(c.epochs):
            order = torch.randperm(c.prompts, generator=self.generator, device=mask.device)
            for rows in order.chunk(c.minibatches):
                metrics = self._step({name: column[rows] for name, column in batch.items()})
        return metrics | {"kl": masked_mean(kl, mask), "return": masked_mean(batch["return"], mask)}

    def _step(self, batch: Batch) -> Metrics:
        """One step of policy and critic."""
        c, mask = self.config, batch["mask"]
        ratio = token_ratio(self.log_probs(batch), batch["old_log_prob"])
        tokens = self.tokens(mask)
        policy = masked_mean(clipped_surrogate(ratio, batch["advantage"], c.clip), mask, tokens)
        values = self.critic(*_inputs(batch))
        critic = value_loss(values, batch["value"], batch["return"], mask, c.value_clip, tokens)
        check_loss("critic", ranks.mean(critic))
        self.critic_optimizer.zero_grad()
        norm = self.step(policy + c.value_coef * critic)
        critic_norm = self.critic_optimizer.step()
        clipped = ((ratio - 1).abs() > c.clip).float()
        return {
            "loss": policy.detach(),
            "critic/loss": critic.detach(),
            "grad_norm": norm,
            "critic/grad_norm": critic_norm,
            "clipped": masked_mean(clipped, mask),
        }


def _inputs(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return batch["prompt"], batch["prompt_mask"], batch["completion"], batch["mask"]


def recipe(config: PPOConfig, task: TextTask) -> Recipe:
    """One phase: a batch of answers, several passes over it."""
    learner = PPO(config, task)
    return Recipe(
        [
            Phase(
                "online",
                learner,
                LatestRollout(task.model.device),
                Until("episodes", config.steps * config.prompts),
                TextCollector(task.questions(), task.score, config.prompts, 1),
                updates_per_rollout=Fraction(1),
                eval_every=config.eval_every * config.prompts,
            )
        ]
    )


register(
    "ppo",
    config=PPOConfig,
    learner=PPO,
    recipe=recipe,
    paper="https://arxiv.org/abs/1707.06347",
    summary="Proximal policy optimisation with a critic and a KL penalty per token",
    updates=("model", "critic", "optimizer", "critic_optimizer", "generator", "updates"),
)

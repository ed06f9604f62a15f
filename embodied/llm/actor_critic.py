"""What PPO on language models shares: a critic beside the policy, and passes over a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from embodied.core import ranks
from embodied.core.guards import check_loss
from embodied.core.optim import Adam
from embodied.core.types import Batch, Metrics
from embodied.llm.learner import LanguageLearner
from embodied.llm.task import TextTask
from embodied.objectives.advantages import generalised_advantages, token_rewards, whiten
from embodied.objectives.likelihood import masked_mean
from embodied.objectives.policy_gradient import clipped_surrogate, token_ratio, value_loss
from policies.token_values import TokenValues


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig:
    """A policy, its critic, and passes over batches of answers; defaults of TRL 1.12.

    Attributes:
        steps: batches of answers.
        prompts: answers per batch, one to each prompt.
        temperature: of the answers.
        epochs: passes over each batch of answers.
        minibatches: optimizer steps per pass.
        lr: Adam learning rate of the policy.
        critic_lr: of the critic.
        clip_norm: of each gradient.
        kl_coef: c, how dear it is to leave the reference.
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


class ActorCritic(LanguageLearner):
    """A language model and its critic, whose body begins as a copy of the model's.

    Args:
        name: of the method; names its random streams.
        config: of both.
        task: what the model is.
    """

    def __init__(self, name: str, config: ActorCriticConfig, task: TextTask) -> None:
        self.config = config
        super().__init__(
            name, task, config.lr, temperature=config.temperature, clip_norm=config.clip_norm
        )
        self.critic = TokenValues(self.model, task.streams.torch(f"{name}/critic"))
        self.critic_optimizer = Adam(
            "critic", list(self.critic.parameters()), config.critic_lr, clip_norm=config.clip_norm
        )
        self.keep(critic=self.critic, critic_optimizer=self.critic_optimizer)

    def improve(
        self, batch: Batch, kl: Tensor, score: Tensor, critic_only: bool = False
    ) -> Metrics:
        """`epochs` passes over one batch of answers.

        Args:
            batch: prompt, prompt_mask, completion, mask and old_log_prob.
            kl: [B, T] estimates, taken off the reward of each token.
            score: [B], the reward of the last token.
            critic_only: leave the policy as it is.
        """
        c = self.config
        batch = dict(batch)
        mask = batch["mask"]
        with torch.no_grad():
            batch["value"] = self.critic(*_inputs(batch))
        reward = token_rewards(kl, score, mask, c.kl_coef)
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
                some = {name: column[rows] for name, column in batch.items()}
                metrics = self._critic_step(some) if critic_only else self._step(some)
        return metrics | {"kl": masked_mean(kl, mask), "return": masked_mean(batch["return"], mask)}

    def _critic_loss(self, batch: Batch) -> Tensor:
        """L_V, checked and ready to be differentiated."""
        values = self.critic(*_inputs(batch))
        loss = value_loss(
            values,
            batch["value"],
            batch["return"],
            batch["mask"],
            self.config.value_clip,
            self.tokens(batch["mask"]),
        )
        check_loss("critic", ranks.mean(loss))
        self.critic_optimizer.zero_grad()
        return loss

    def _critic_step(self, batch: Batch) -> Metrics:
        """One step of the critic alone."""
        loss = self._critic_loss(batch)
        (self.config.value_coef * loss).backward()
        norm = self.critic_optimizer.step()
        return {"critic/loss": loss.detach(), "critic/grad_norm": norm}

    def _step(self, batch: Batch) -> Metrics:
        """One step of policy and critic."""
        c, mask = self.config, batch["mask"]
        ratio = token_ratio(self.log_probs(batch), batch["old_log_prob"])
        surrogate = clipped_surrogate(ratio, batch["advantage"], c.clip)
        surrogate = surrogate * batch.get("engine_ratio", 1.0)
        policy = masked_mean(surrogate, mask, self.tokens(mask))
        critic = self._critic_loss(batch)
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

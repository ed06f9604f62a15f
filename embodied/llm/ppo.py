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

from embodied.core.guards import check_batch
from embodied.core.phase import Phase, Recipe, Until
from embodied.core.registry import register
from embodied.core.types import Metrics, Source
from embodied.llm.actor_critic import ActorCritic, ActorCriticConfig
from embodied.llm.collector import LatestRollout, TextCollector
from embodied.llm.task import TextTask
from embodied.objectives.policy_gradient import kl_estimate


@dataclass(frozen=True, kw_only=True)
class PPOConfig(ActorCriticConfig):
    """Proximal policy optimisation; defaults of TRL 1.12.

    Attributes:
        kl: estimator in the reward, k1 or k3.
    """

    kl: str = "k1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kl not in ("k1", "k3"):
            raise ValueError(f"kl must be k1 or k3, got {self.kl!r}")


class PPO(ActorCritic):
    """A language model and its critic."""

    def __init__(self, config: PPOConfig, task: TextTask) -> None:
        super().__init__("ppo", config, task)
        self.reference = self.frozen("reference")

    def update(self, source: Source) -> Metrics:
        """`epochs` passes over one batch of answers."""
        c = self.config
        batch = dict(source.next(c.prompts))
        check_batch(batch)
        with torch.no_grad():
            kl = kl_estimate(batch["old_log_prob"], self.log_probs(batch, self.reference), c.kl)
        return self.improve(batch, kl, batch["reward"].sum(-1))


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

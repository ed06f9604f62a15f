"""Cal-QL: calibrated Q-learning, offline pre-training made for fine-tuning.

Nakamoto et al. 2023, https://arxiv.org/abs/2303.05479; code github.com/nakamotoo/Cal-QL.

CQL pushes Q so low that online data, once it arrives, looks better than everything learnt, and the
first steps of fine-tuning are spent unlearning. Cal-QL stops the push at the Monte-Carlo return of
the behaviour policy, so the critic keeps the scale of real returns.

    L_Q  = 1/E sum_i E (Q_i(s, a) - y)^2 + alpha E [ lse_i(s) - Q_i(s, a) ]
    lse  as in CQL with Q(s, a_j) replaced by max(Q(s, a_j), R(s)) for policy actions a_j
    R_t  = sum_k gamma^k r_{t+k} of the episode the state comes from
    y    = r + gamma m min_i Q_i'(s', a')  (or max over 10 a' of the min, AntMaze)

Deviations:
1. R is computed from the transformed reward; the authors' robot code computes it from the raw one,
   which switches the bound off.
2. An all-failure episode of a sparse task gets r_neg / (1 - gamma) by a comparison with tolerance;
   the authors compare floats exactly.
3. `bound_random_actions` (off) clamps the uniform actions too, which the authors never do.
4. The multiplier, if any, starts at 1 and takes the place of `weight`; the authors start at e and
   multiply it by 5.
5. Online updates draw from finished episodes, one per environment step, instead of T updates after
   each episode of T steps.
6. beta = softplus(rho), orthogonal initialisation, std = exp(net) clipped, as in WSRL's code; the
   authors scale and shift log std by two learnt scalars.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from embodied.agents.actor_critic import (
    UPDATES,
    ActorCritic,
    ActorCriticConfig,
    ConservativeConfig,
)
from embodied.agents.offline_online import OfflineOnlineConfig, offline_online
from embodied.agents.task import RobotTask
from embodied.core.phase import Recipe
from embodied.core.registry import register


@dataclass(frozen=True, kw_only=True)
class CalQLConfig(OfflineOnlineConfig, ActorCriticConfig):
    """Cal-QL; learning rates of the authors, 50 % offline rows online.

    Attributes:
        conservative: the calibrated regulariser.
    """

    actor_lr: float = 1e-4
    temperature_lr: float = 1e-4
    entropy_backup: bool = False
    conservative: ConservativeConfig = field(
        default_factory=lambda: ConservativeConfig(calibrated=True)
    )


def build(config: CalQLConfig, task: RobotTask) -> ActorCritic:
    """A fresh learner."""
    return ActorCritic(config, task, conservative=config.conservative, stream="calql")


def recipe(config: CalQLConfig, task: RobotTask) -> Recipe:
    """Offline, then optionally online with the same loss."""
    return offline_online(config, task, build(config, task), returns_discount=config.discount)


register(
    "calql",
    config=CalQLConfig,
    learner=build,
    recipe=recipe,
    paper="https://arxiv.org/abs/2303.05479",
    summary="CQL whose pessimism stops at the Monte-Carlo return, made for fine-tuning",
    updates=(*UPDATES, "multiplier", "multiplier_optimizer"),
)

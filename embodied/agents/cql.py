"""CQL: conservative Q-learning, CQL(H) form.

Kumar et al. 2020, https://arxiv.org/abs/2006.04779; code github.com/aviralkumar2907/CQL.

Offline, the actor asks the critic about actions the data does not contain and believes what it
hears. CQL adds a term to SAC's critic loss that pushes Q down on sampled actions and up on the
data's, so that unseen actions look worse than they are. Fine-tuning continues with the same loss.

    L_Q  = 1/E sum_i E (Q_i(s, a) - y)^2 + alpha E [ lse_i(s) - Q_i(s, a) ]
    lse  = T log sum_j exp((Q(s, a_j) - log p_j) / T)
           over n uniform, n pi(.|s) and n pi(.|s') actions, all evaluated at s
    y    = r + gamma m min_i Q_i'(s', a'), no entropy term

Deviations:
1. The paper's 1/2 on the TD term is absent, as in every code: alpha 5 here is alpha 2.5 there.
2. `conservative.subset` regularises a random subset of a large ensemble per step, as WSRL's code
   does; by default all critics are.
3. beta = softplus(rho), orthogonal initialisation, std clipped as in WSRL's code.
4. The first-40k-steps behaviour-cloning actor of the authors' AntMaze runs is left out.
5. The Lagrange multiplier is softplus(rho) from 1 and takes the place of alpha (WSRL); the authors
   clip exp(rho) and multiply it by alpha.
6. With `max_target_actions` the min over critics is taken before the max over actions (Cal-QL,
   WSRL); the authors' AntMaze code takes the max first.
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
class CQLConfig(OfflineOnlineConfig, ActorCriticConfig):
    """CQL; learning rates and architecture of Cal-QL's and WSRL's re-implementations.

    Attributes:
        conservative: the regulariser.
    """

    actor_lr: float = 1e-4
    temperature_lr: float = 1e-4
    entropy_backup: bool = False
    conservative: ConservativeConfig = field(default_factory=ConservativeConfig)


def build(config: CQLConfig, task: RobotTask) -> ActorCritic:
    """A fresh learner."""
    return ActorCritic(config, task, conservative=config.conservative, stream="cql")


def recipe(config: CQLConfig, task: RobotTask) -> Recipe:
    """Offline, then optionally online with the same loss."""
    return offline_online(config, task, build(config, task))


register(
    "cql",
    config=CQLConfig,
    learner=build,
    recipe=recipe,
    paper="https://arxiv.org/abs/2006.04779",
    summary="SAC with Q pushed down on actions the data does not contain",
    updates=(*UPDATES, "multiplier", "multiplier_optimizer"),
)

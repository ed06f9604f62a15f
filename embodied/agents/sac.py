"""SAC: soft actor-critic, with the ensemble options of REDQ.

Haarnoja et al. 2018, https://arxiv.org/abs/1801.01290 and https://arxiv.org/abs/1812.05905.
REDQ: Chen et al. 2021, https://arxiv.org/abs/2101.05982.

An off-policy actor-critic that maximises reward plus entropy. The critic regresses to a soft
Bellman backup with the minimum of two target critics; the actor maximises the soft value through
reparameterised actions; the temperature is tuned to a target entropy. REDQ is the same learner
with ten critics, a random pair in the backup, twenty critic steps per environment step and the
mean over critics in the actor's objective.

    y    = r + gamma m [min_i Q_i'(s', a') - beta log pi(a'|s')],  a' ~ pi(.|s')
    L_Q  = 1/E sum_i E (Q_i(s, a) - y)^2
    L_pi = E [beta log pi(a|s) - min_i Q_i(s, a)],                  a ~ pi(.|s), reparameterised
    L_b  = beta (H - H_target)

Deviations:
1. beta = softplus(rho) with loss beta (H - H_target), as in WSRL's code; most SAC code uses
   exp(rho). Same sign, other scale.
2. The critic loss is the mean over the ensemble, not the sum; under Adam only epsilon sees it.
3. std is exp(net) clipped to [1e-5, 10] instead of log std clipped to [-20, 2].
4. Orthogonal initialisation; the papers' codes use Xavier uniform.
5. REDQ's fractional subset sizes and its per-task target entropies (MBPO's) are not built in; set
   `target_entropy_per_dim`.
"""

from __future__ import annotations

from dataclasses import dataclass

from embodied.agents.actor_critic import UPDATES, ActorCritic
from embodied.agents.from_scratch import FromScratchConfig, from_scratch
from embodied.agents.task import RobotTask
from embodied.core.collector import UniformPolicy
from embodied.core.phase import Recipe
from embodied.core.registry import register


@dataclass(frozen=True, kw_only=True)
class SACConfig(FromScratchConfig):
    """SAC from scratch. For REDQ: members=10 subset=2 utd=20 actor_reduce=mean actor_rows=last."""


def build(config: SACConfig, task: RobotTask) -> ActorCritic:
    """A fresh learner."""
    return ActorCritic(config, task, stream="sac")


def recipe(config: SACConfig, task: RobotTask) -> Recipe:
    """Random actions, then online training."""
    replay = task.replay(min(config.capacity, config.online_steps))
    uniform = UniformPolicy(task.action_dim, task.streams.numpy("sac/random"))
    return from_scratch(config, task, build(config, task), replay, first=uniform)


register(
    "sac",
    config=SACConfig,
    learner=build,
    recipe=recipe,
    paper="https://arxiv.org/abs/1812.05905",
    summary="Soft actor-critic from scratch, with REDQ's ensemble as an option",
    updates=UPDATES,
)

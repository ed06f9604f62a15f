"""RLPD: online reinforcement learning with prior data, no pre-training.

Ball et al. 2023, https://arxiv.org/abs/2302.02948; code github.com/ikostrikov/rlpd.

SAC with ten LayerNorm critics and a high update-to-data ratio, half of every batch taken from the
offline data. LayerNorm bounds how far Q extrapolates, which is what makes the mixture stable
without any pessimism. Nothing is trained before the first environment step.

    batch = interleave(128 G online rows, 128 G offline rows), sliced into G minibatches
    y    = r + gamma m [min_{i in M} Q_i'(s', a') (- beta log pi(a'|s'))],  |M| = 2
    L_Q  = 1/E sum_i E (Q_i(s, a) - y)^2 on each minibatch
    L_pi = E [beta log pi(a|s) - 1/E sum_i Q_i(s, a)] on the last minibatch only
    L_b  = beta (H - H_target), H_target = -d/2

Deviations:
1. beta = softplus(rho) instead of exp(rho).
2. The critic loss is the mean over the ensemble, not the sum.
3. std is exp(net) clipped to [1e-5, 10]; orthogonal instead of Xavier initialisation.
4. `policy_first` acts with the untrained policy at first, as WSRL's comparison does; the authors
   act uniformly.
"""

from __future__ import annotations

from dataclasses import dataclass

from embodied.agents.actor_critic import UPDATES, ActorCritic
from embodied.agents.from_scratch import FromScratchConfig, from_scratch
from embodied.agents.offline_online import PROBE_ROWS
from embodied.agents.task import RobotTask
from embodied.core.collector import UniformPolicy
from embodied.core.phase import Recipe
from embodied.core.registry import register
from embodied.core.sources import MixSource
from embodied.core.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class RLPDConfig(FromScratchConfig):
    """RLPD; defaults of the authors' sac_learner.py and train_finetuning.py.

    Attributes:
        policy_first: act with the untrained policy before the first update, instead of uniformly.
        offline_ratio: share of offline rows in every batch.
    """

    members: int = 10
    subset: int = 2
    utd: int = 20
    actor_reduce: str = "mean"
    actor_rows: str = "last"
    critic_layer_norm: bool = True
    target_entropy_per_dim: float = -0.5
    online_steps: int = 250_000
    policy_first: bool = False
    offline_ratio: float = 0.5


def build(config: RLPDConfig, task: RobotTask) -> ActorCritic:
    """A fresh learner."""
    return ActorCritic(config, task, stream="rlpd")


def recipe(config: RLPDConfig, task: RobotTask) -> Recipe:
    """Fill the buffer a little, then train on half online, half offline rows."""
    replay, offline = task.replay(min(config.capacity, config.online_steps)), task.offline()
    mixed = MixSource(replay, offline, config.offline_ratio)
    uniform = UniformPolicy(task.action_dim, task.streams.numpy("rlpd/random"))

    def probe_offline(trainer: Trainer) -> None:
        if "offline" not in trainer.probes:
            trainer.set_probe("offline", offline.next(PROBE_ROWS))

    return from_scratch(
        config,
        task,
        build(config, task),
        mixed,
        first=None if config.policy_first else uniform,
        on_enter=probe_offline,
    )


register(
    "rlpd",
    config=RLPDConfig,
    learner=build,
    recipe=recipe,
    paper="https://arxiv.org/abs/2302.02948",
    summary="Online SAC with LayerNorm critics and half of each batch from prior data",
    updates=UPDATES,
)

"""BC: behaviour cloning, the baseline under every offline method.

Pomerleau 1989 (ALVINN), https://papers.nips.cc/paper/95; WSRL's code has the same baseline.

Maximise the likelihood of the data's actions. What a method adds beyond imitation is measured
against this.

    L = -E_D log pi(a|s)

Deviations:
1. The policy is the tanh-Gaussian of the actor-critic family, so that WSRL can start from it;
   actions are clipped to +-0.99999 where their density is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from embodied.agents.acting import ActorPolicy
from embodied.agents.task import RobotTask
from embodied.core.guards import check_batch, check_loss
from embodied.core.optim import Adam
from embodied.core.phase import Phase, Recipe, Until
from embodied.core.registry import register
from embodied.core.types import Metrics, Source, State
from embodied.objectives.cloning import weighted_cloning_loss
from policies.gaussian import TanhGaussian


@dataclass(frozen=True, kw_only=True)
class BCConfig:
    """Behaviour cloning; learning rate and network of WSRL's baseline.

    Attributes:
        offline_updates: updates on the data.
        batch_size: rows per update.
        actor_lr: Adam learning rate.
        hidden: width of each hidden layer.
        actor_layer_norm: LayerNorm in the network.
        state_dependent_std: whether the std is an output of the network.
    """

    offline_updates: int = 100_000
    batch_size: int = 256
    actor_lr: float = 3e-4
    hidden: tuple[int, ...] = (256, 256)
    actor_layer_norm: bool = False
    state_dependent_std: bool = True


class BC:
    """A tanh-Gaussian policy fitted by maximum likelihood."""

    def __init__(self, config: BCConfig, task: RobotTask) -> None:
        self.config = config
        self.device = torch.device(task.device)
        self.act_dim = task.action_dim
        self.actor = TanhGaussian(
            task.observation_dim,
            self.act_dim,
            config.hidden,
            layer_norm=config.actor_layer_norm,
            state_dependent_std=config.state_dependent_std,
            generator=task.streams.torch("bc/init"),
        ).to(self.device)
        self.actor_optimizer = Adam("actor", list(self.actor.parameters()), config.actor_lr)
        self.exploration = task.streams.torch("bc/act", self.device)

    def policy(self, deterministic: bool = False) -> ActorPolicy:
        """The current policy; it follows later updates."""
        generator = None if deterministic else self.exploration
        return ActorPolicy(self.actor, self.act_dim, generator)

    def update(self, source: Source) -> Metrics:
        """One step on one batch."""
        batch = source.next(self.config.batch_size)
        check_batch(batch)
        loss = weighted_cloning_loss(self.actor.log_prob(batch["observation"], batch["action"]))
        check_loss("actor", loss)
        self.actor_optimizer.zero_grad()
        loss.backward()
        norm = self.actor_optimizer.step()
        return {"actor/bc_loss": loss.detach(), "actor/grad_norm": norm}

    def state_dict(self) -> State:
        """Policy, optimizer and exploration noise."""
        return {
            "actor": dict(self.actor.state_dict()),
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "exploration": self.exploration.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Take over a state of the same configuration."""
        self.actor.load_state_dict(state["actor"])
        self.actor_optimizer.load_state_dict(state["actor_optimizer"])
        self.exploration.set_state(state["exploration"].cpu())


def recipe(config: BCConfig, task: RobotTask) -> Recipe:
    """One offline phase."""
    until = Until("updates", config.offline_updates)
    return Recipe([Phase("offline", BC(config, task), task.offline(), until)])


register(
    "bc",
    config=BCConfig,
    learner=BC,
    recipe=recipe,
    paper="https://papers.nips.cc/paper/95",
    summary="Behaviour cloning: maximum likelihood of the data's actions",
    updates=("actor", "actor_optimizer"),
)

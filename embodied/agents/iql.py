"""IQL: implicit Q-learning.

Kostrikov et al. 2021, https://arxiv.org/abs/2110.06169; code
github.com/ikostrikov/implicit_q_learning.

The critic is never asked about an action outside the data: the value of a state is an upper
expectile of the Q-values of the actions taken there, Q regresses to that value, and the policy
clones the data's actions weighted by their advantage. Fine-tuning appends online data and goes on.

    L_V  = E |kappa - 1(u < 0)| u^2,  u = min_i Q_i'(s, a) - V(s)
    L_Q  = 1/E sum_i E (Q_i(s, a) - r - gamma m V(s'))^2
    L_pi = -E min(exp(lambda (min_i Q_i'(s, a) - V(s))), 100) log pi(a|s)

Steps in this order: V, then the actor with the new V, then Q with the new V, then Polyak.

Deviations:
1. `squash` puts a tanh-Gaussian in place of the authors' Gaussian with tanh mean, so that WSRL can
   take the policy over; off by default.
2. The cosine decay of the actor's learning rate, which the authors use for offline runs, is off by
   default (`cosine_decay`), since it leaves nothing to fine-tune with.
3. Orthogonal initialisation with output gain 0.01 in the actor.
4. The critic loss is the mean over the ensemble, not the sum; under Adam only epsilon sees it.
5. Online batches take the share offline data has of all rows from the data and the rest from the
   buffer, instead of appending the data to the buffer; the first update comes after `wait_steps`
   steps (WSRL's code), not after one.
6. Locomotion rewards are not scaled by 1000 / (best - worst return); the task's reward transform
   can.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from embodied.agents.acting import ActorPolicy, probe_critic
from embodied.agents.critic_losses import TDLoss
from embodied.agents.offline_online import OfflineOnlineConfig, offline_online
from embodied.agents.task import RobotTask
from embodied.core.guards import check_batch, check_loss
from embodied.core.optim import Adam
from embodied.core.phase import Recipe
from embodied.core.registry import register
from embodied.core.types import Batch, Metrics, Source, State
from embodied.objectives.cloning import weighted_cloning_loss
from embodied.objectives.q_learning import (
    advantage_weights,
    expectile_loss,
    min_over_members,
    td_target,
)
from policies.critic import CriticEnsemble
from policies.gaussian import Gaussian, TanhGaussian
from policies.mlp import MLP


@dataclass(frozen=True, kw_only=True)
class IQLConfig(OfflineOnlineConfig):
    """IQL; defaults of the authors' locomotion configuration.

    Attributes:
        discount: gamma.
        tau: Polyak rate of the target critics.
        batch_size: rows per update.
        actor_lr: Adam learning rate of the actor.
        critic_lr: of critics and value.
        cosine_decay: decay actor_lr to 0 over `offline_updates`.
        expectile: kappa (0.9 on AntMaze, 0.7 elsewhere).
        inverse_temperature: lambda (10 on AntMaze, 3 locomotion, 0.5 Kitchen and Adroit).
        weight_clip: largest weight of a sample.
        members: critics in the ensemble.
        hidden: width of each hidden layer of actor and value.
        critic_hidden: of the critics; empty means as the actor.
        actor_layer_norm: LayerNorm in the actor.
        critic_layer_norm: LayerNorm in critics and value.
        dropout: in the actor (0.1 on Kitchen and Adroit); Gaussian policy only.
        squash: tanh-Gaussian policy.
        state_dependent_std: of the squashed policy.
    """

    discount: float = 0.99
    tau: float = 0.005
    batch_size: int = 256
    actor_lr: float = 3e-4
    critic_lr: float = 3e-4
    cosine_decay: bool = False
    expectile: float = 0.7
    inverse_temperature: float = 3.0
    weight_clip: float = 100.0
    members: int = 2
    hidden: tuple[int, ...] = (256, 256)
    critic_hidden: tuple[int, ...] = ()
    actor_layer_norm: bool = False
    critic_layer_norm: bool = False
    dropout: float = 0.0
    squash: bool = False
    state_dependent_std: bool = False
    offline_ratio: float = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile must lie in (0, 1), got {self.expectile}")
        if self.dropout and self.squash:
            raise ValueError("dropout needs squash=false")


class IQL:
    """Actor, value network, critic ensemble and its targets."""

    def __init__(self, config: IQLConfig, task: RobotTask) -> None:
        self.config = config
        self.device = torch.device(task.device)
        obs_dim, act_dim = task.observation_dim, task.action_dim
        self.act_dim = act_dim
        init = task.streams.torch("iql/init")
        network = {"layer_norm": config.actor_layer_norm, "generator": init}
        if config.squash:
            self.actor = TanhGaussian(
                obs_dim,
                act_dim,
                config.hidden,
                state_dependent_std=config.state_dependent_std,
                **network,
            )
        else:
            self.actor = Gaussian(
                obs_dim, act_dim, config.hidden, dropout=config.dropout, **network
            )
        self.actor.to(self.device)
        critic_hidden = config.critic_hidden or config.hidden
        self.critic = CriticEnsemble(
            obs_dim,
            act_dim,
            members=config.members,
            hidden=critic_hidden,
            layer_norm=config.critic_layer_norm,
            generator=init,
        ).to(self.device)
        self.target = self.critic.copy_weight()
        self.value = MLP(
            obs_dim, critic_hidden, 1, layer_norm=config.critic_layer_norm, generator=init
        ).to(self.device)
        self.actor_optimizer = Adam("actor", list(self.actor.parameters()), config.actor_lr)
        self.critic_optimizer = Adam("critic", [self.critic.weight], config.critic_lr)
        self.value_optimizer = Adam("value", list(self.value.parameters()), config.critic_lr)
        self.noise = task.streams.torch("iql/update", self.device)
        self.exploration = task.streams.torch("iql/act", self.device)
        self.steps = 0

    def policy(self, deterministic: bool = False) -> ActorPolicy:
        """The current policy; samples are clipped to [-1, 1]."""
        generator = None if deterministic else self.exploration
        return ActorPolicy(self.actor, self.act_dim, generator)

    def update(self, source: Source) -> Metrics:
        """One step each of value, actor and critics."""
        batch = source.next(self.config.batch_size)
        check_batch(batch)
        obs, action = batch["observation"], batch["action"]
        with torch.no_grad():
            q = min_over_members(self.critic.values(obs, action, weight=self.target))
        metrics = self._value_step(obs, q)
        metrics |= self._actor_step(obs, action, q)
        metrics |= self._critic_step(batch)
        self.steps += 1
        return metrics

    def _value_step(self, obs: torch.Tensor, q: torch.Tensor) -> Metrics:
        value = self.value(obs).squeeze(-1)
        loss = expectile_loss(q - value, self.config.expectile)
        check_loss("value", loss)
        self.value_optimizer.zero_grad()
        loss.backward()
        self.value_optimizer.step()
        return {"value/loss": loss.detach(), "value/mean": value.detach().mean()}

    def _actor_step(self, obs: torch.Tensor, action: torch.Tensor, q: torch.Tensor) -> Metrics:
        config = self.config
        if config.cosine_decay:
            done = min(1.0, self.steps / max(1, config.offline_updates))
            self.actor_optimizer.lr = config.actor_lr * 0.5 * (1 + math.cos(math.pi * done))
        with torch.no_grad():
            advantage = q - self.value(obs).squeeze(-1)
        weight = advantage_weights(advantage, config.inverse_temperature, config.weight_clip)
        if config.dropout:
            log_prob = self.actor.log_prob(obs, action, self.noise)
        else:
            log_prob = self.actor.log_prob(obs, action)
        loss = weighted_cloning_loss(log_prob, weight)
        check_loss("actor", loss)
        self.actor_optimizer.zero_grad()
        loss.backward()
        norm = self.actor_optimizer.step()
        return {
            "actor/loss": loss.detach(),
            "actor/grad_norm": norm,
            "actor/weight": weight.mean(),
        }

    def _critic_step(self, batch: Batch) -> Metrics:
        config = self.config
        with torch.no_grad():
            next_value = self.value(batch["next_observation"]).squeeze(-1)
        target = td_target(batch["reward"], batch["mask"], next_value, config.discount)
        td = TDLoss(target, config.members)
        q = self.critic.accumulate(batch["observation"], batch["action"], td, add=False)
        loss = td.value(q)
        check_loss("critic", loss)
        norm = self.critic_optimizer.step()
        self.target.lerp_(self.critic.weight.detach(), config.tau)
        return {"critic/td_loss": loss, "critic/q_mean": q.mean(), "critic/grad_norm": norm}

    @torch.no_grad()
    def probe(self, batch: Batch) -> Metrics:
        """Mean Q and TD error on a fixed batch, with the policy's mode as the next action."""
        return probe_critic(self.critic, self.target, self.actor.mode, batch, self.config.discount)

    def _parts(self) -> Mapping[str, Any]:
        return {
            "actor": self.actor,
            "critic": self.critic,
            "value": self.value,
            "actor_optimizer": self.actor_optimizer,
            "critic_optimizer": self.critic_optimizer,
            "value_optimizer": self.value_optimizer,
        }

    def state_dict(self) -> State:
        """Every tensor, both generators and the step count."""
        return {
            **{name: dict(part.state_dict()) for name, part in self._parts().items()},
            "target": self.target,
            "noise": self.noise.get_state(),
            "exploration": self.exploration.get_state(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: State) -> None:
        """Take over a state of the same configuration."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.target.copy_(state["target"])
        self.noise.set_state(state["noise"].cpu())
        self.exploration.set_state(state["exploration"].cpu())
        self.steps = state["steps"]


def recipe(config: IQLConfig, task: RobotTask) -> Recipe:
    """Offline, then optionally online with the same losses."""
    return offline_online(config, task, IQL(config, task))


register(
    "iql",
    config=IQLConfig,
    learner=IQL,
    recipe=recipe,
    paper="https://arxiv.org/abs/2110.06169",
    summary="Expectile values of the data's own actions, policy by weighted cloning",
    updates=(
        "actor",
        "actor_optimizer",
        "critic",
        "critic_optimizer",
        "value",
        "value_optimizer",
        "target",
        "noise",
        "steps",
    ),
)

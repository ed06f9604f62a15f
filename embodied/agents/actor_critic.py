"""The learner the offline-to-online family shares: a tanh-Gaussian actor and a critic ensemble.

SAC, REDQ, RLPD, CQL, Cal-QL and WSRL's online phase are settings of it (the table in
docs/methods/index.md says which), so that handing a policy from one to the other is handing over a
state. The equations are in `objectives/q_learning.py` and `objectives/conservative.py`.

One `update` pulls one batch of `batch_size * utd` rows, takes `utd` critic steps on consecutive
slices, each followed by a Polyak step, and then one actor and one temperature step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied.agents.acting import ActorPolicy, probe_critic
from embodied.agents.critic_losses import ConservativeLoss, TDLoss
from embodied.agents.task import RobotTask
from embodied.core.guards import check_batch, check_loss
from embodied.core.memory import keep_freed_memory
from embodied.core.optim import Adam
from embodied.core.types import Batch, Metrics, Source, State
from embodied.objectives.conservative import lagrange_loss
from embodied.objectives.q_learning import (
    actor_loss,
    max_min_backup,
    min_over_members,
    td_target,
    temperature_loss,
)
from policies.critic import CriticEnsemble
from policies.gaussian import TanhGaussian

UPDATES = (
    "actor",
    "actor_optimizer",
    "critic",
    "critic_optimizer",
    "target",
    "temperature",
    "temperature_optimizer",
    "noise",
    "steps",
)


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig:
    """Settings of the shared learner. Defaults are SAC's (Haarnoja et al. 2018) unless said.

    Attributes:
        discount: gamma.
        tau: Polyak rate of the target critics.
        batch_size: rows per critic step.
        utd: critic steps per update.
        actor_lr: Adam learning rate of the actor.
        critic_lr: Adam learning rate of the critics.
        temperature_lr: Adam learning rate of the temperature.
        init_temperature: beta at the start.
        target_entropy_per_dim: H_target / action_dim (-1 in SAC, -0.5 in RLPD).
        members: critics in the ensemble.
        subset: target critics drawn per step; their minimum is the backup. 0, or as many as there
            are, means all.
        subset_replacement: draw them with replacement (WSRL) or without (REDQ, RLPD).
        actor_reduce: what the actor maximises over all critics: min or mean.
        actor_rows: actor step on all rows of the update (WSRL) or the last slice (REDQ, RLPD).
        entropy_backup: subtract beta log pi(a'|s') in the target.
        max_target_actions: back up the max over so many next actions; 0 uses one action. Needs
            entropy_backup=false.
        hidden: width of each hidden layer of the actor.
        critic_hidden: of the critics; empty means as the actor.
        actor_layer_norm: LayerNorm in the actor.
        critic_layer_norm: LayerNorm in the critics.
        state_dependent_std: whether the actor's std is an output of its network.
    """

    discount: float = 0.99
    tau: float = 0.005
    batch_size: int = 256
    utd: int = 1
    actor_lr: float = 3e-4
    critic_lr: float = 3e-4
    temperature_lr: float = 3e-4
    init_temperature: float = 1.0
    target_entropy_per_dim: float = -1.0
    members: int = 2
    subset: int = 0
    subset_replacement: bool = False
    actor_reduce: str = "min"
    actor_rows: str = "all"
    entropy_backup: bool = True
    max_target_actions: int = 0
    hidden: tuple[int, ...] = (256, 256)
    critic_hidden: tuple[int, ...] = ()
    actor_layer_norm: bool = False
    critic_layer_norm: bool = False
    state_dependent_std: bool = True

    def __post_init__(self) -> None:
        if self.actor_reduce not in ("min", "mean"):
            raise ValueError(f"actor_reduce must be min or mean, got {self.actor_reduce!r}")
        if self.actor_rows not in ("all", "last"):
            raise ValueError(f"actor_rows must be all or last, got {self.actor_rows!r}")
        if not 0 <= self.subset <= self.members:
            raise ValueError(f"subset must lie in [0, members={self.members}], got {self.subset}")
        if self.utd < 1 or self.batch_size < 1:
            raise ValueError("utd and batch_size must be at least 1")
        if self.max_target_actions and self.entropy_backup:
            raise ValueError("max_target_actions backs up no entropy: set entropy_backup=false")


@dataclass(frozen=True, kw_only=True)
class ConservativeConfig:
    """The regulariser of CQL and Cal-QL.

    Attributes:
        weight: alpha on the gap (5 for locomotion, 1 for Adroit); 0 leaves plain SAC.
        actions: n uniform, n current-policy and n next-policy actions are compared.
        softmax_temperature: T of the log-sum-exp.
        calibrated: clamp policy actions from below at the Monte-Carlo return (Cal-QL).
        bound_random_actions: clamp the uniform actions as well (WSRL's switch, off).
        importance_weights: subtract log densities (off in WSRL's kitchen settings).
        subset: critics regularised per step, drawn at random; 0 means all. WSRL draws 2 of 10.
        lagrange_threshold: gap tolerated by a learnt multiplier, which then takes the place of
            `weight` (0.8 on AntMaze); None keeps `weight` fixed.
        lagrange_lr: learning rate of the multiplier.
    """

    weight: float = 5.0
    actions: int = 10
    softmax_temperature: float = 1.0
    calibrated: bool = False
    bound_random_actions: bool = False
    importance_weights: bool = True
    subset: int = 0
    lagrange_threshold: float | None = None
    lagrange_lr: float = 3e-4

    @property
    def active(self) -> bool:
        """Whether it has any weight."""
        return self.weight != 0 or self.lagrange_threshold is not None


class _Value(torch.autograd.Function):
    """Q(s, a) as a function of the action alone, its gradient from the ensemble's fast path."""

    @staticmethod
    def forward(ctx: Any, action: Tensor, obs: Tensor, critic: CriticEnsemble, reduce: str):
        q, gradient = critic.action_gradient(obs, action, reduce=reduce)
        ctx.save_for_backward(gradient)
        return q

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        (gradient,) = ctx.saved_tensors
        return grads[0][:, None] * gradient, None, None, None


class ActorCritic:
    """Actor, critic ensemble, target critics and temperature, with their optimizers.

    Args:
        config: settings.
        task: sizes, device and random streams.
        conservative: the CQL or Cal-QL regulariser, or None.
        stream: prefix of the random streams, so that two learners of a run differ.
    """

    def __init__(
        self,
        config: ActorCriticConfig,
        task: RobotTask,
        *,
        conservative: ConservativeConfig | None = None,
        stream: str = "learner",
    ) -> None:
        self.config = config
        self.conservative = conservative if conservative and conservative.active else None
        self.device = torch.device(task.device)
        keep_freed_memory()
        obs_dim, act_dim = task.observation_dim, task.action_dim
        self.act_dim = act_dim
        init = task.streams.torch(f"{stream}/init")
        self.actor = TanhGaussian(
            obs_dim,
            act_dim,
            config.hidden,
            layer_norm=config.actor_layer_norm,
            state_dependent_std=config.state_dependent_std,
            generator=init,
        ).to(self.device)
        self.critic = CriticEnsemble(
            obs_dim,
            act_dim,
            members=config.members,
            hidden=config.critic_hidden or config.hidden,
            layer_norm=config.critic_layer_norm,
            generator=init,
        ).to(self.device)
        self.target = self.critic.copy_weight()
        self._temperature = _positive(config.init_temperature, self.device)
        self.target_entropy = config.target_entropy_per_dim * act_dim
        self.actor_optimizer = Adam("actor", list(self.actor.parameters()), config.actor_lr)
        self.critic_optimizer = Adam("critic", [self.critic.weight], config.critic_lr)
        self.temperature_optimizer = Adam("temperature", [self._temperature], config.temperature_lr)
        self._multiplier = self._multiplier_optimizer = None
        if conservative and conservative.lagrange_threshold is not None:
            self._multiplier = _positive(1.0, self.device)
            self._multiplier_optimizer = Adam(
                "cql multiplier", [self._multiplier], conservative.lagrange_lr
            )
        self.noise = task.streams.torch(f"{stream}/update", self.device)
        self.exploration = task.streams.torch(f"{stream}/act", self.device)
        self.steps = 0

    @property
    def temperature(self) -> Tensor:
        """beta = softplus(rho), with gradient to rho."""
        return F.softplus(self._temperature)

    def policy(self, deterministic: bool = False) -> ActorPolicy:
        """The current policy; it follows later updates."""
        generator = None if deterministic else self.exploration
        return ActorPolicy(self.actor, self.act_dim, generator)

    def update(self, source: Source) -> Metrics:
        """`utd` critic steps and one actor and temperature step."""
        size = self.config.batch_size
        batch = source.next(size * self.config.utd)
        check_batch(batch)
        metrics: Metrics = {}
        for k in range(self.config.utd):
            part = {name: column[k * size : (k + 1) * size] for name, column in batch.items()}
            metrics = self.critic_step(part)
        metrics |= self.actor_step(batch if self.config.actor_rows == "all" else part)
        self.steps += 1
        return metrics

    def critic_step(self, batch: Batch) -> Metrics:
        """One step of all critics on B rows, and a Polyak step of the targets."""
        obs, action, members = batch["observation"], batch["action"], self.config.members
        td = TDLoss(self._td_target(batch), members)
        if self.conservative is not None and self.conservative.subset in (0, members):
            metrics = self._accumulate_conservative(batch, td)
        else:
            q = self.critic.accumulate(obs, action, td, add=False)
            loss = td.value(q)
            check_loss("critic", loss)
            metrics = {"critic/td_loss": loss, "critic/q_mean": q.mean()}
            if self.conservative is not None:
                metrics |= self._accumulate_conservative(batch)
        metrics["critic/grad_norm"] = self.critic_optimizer.step()
        self.target.lerp_(self.critic.weight.detach(), self.config.tau)
        return metrics

    def actor_step(self, batch: Batch) -> Metrics:
        """One step of the actor and of the temperature on the rows given."""
        obs = batch["observation"]
        action, log_prob = self.actor.sample(obs, self._noise(len(obs)))
        q = _Value.apply(action, obs, self.critic, self.config.actor_reduce)
        beta = self.temperature
        loss = actor_loss(log_prob, q, beta.detach())
        check_loss("actor", loss)
        self.actor_optimizer.zero_grad()
        loss.backward()
        norm = self.actor_optimizer.step()
        entropy = -log_prob.detach().mean()
        beta_loss = temperature_loss(beta, entropy, self.target_entropy)
        self.temperature_optimizer.zero_grad()
        beta_loss.backward()
        self.temperature_optimizer.step()
        return {
            "actor/loss": loss.detach(),
            "actor/grad_norm": norm,
            "actor/entropy": entropy,
            "actor/temperature": beta.detach(),
        }

    @torch.no_grad()
    def _td_target(self, batch: Batch) -> Tensor:
        next_obs, k = batch["next_observation"], self.config.max_target_actions
        ids = self._draw(self.config.subset, self.config.subset_replacement)
        if k:
            action, _ = self.actor.sample(next_obs, self._noise(len(next_obs), k))
            q = self.critic.values(next_obs, action, members=ids, weight=self.target)
            value = max_min_backup(q)
        else:
            action, log_prob = self.actor.sample(next_obs, self._noise(len(next_obs)))
            q = self.critic.values(next_obs, action, members=ids, weight=self.target)
            value = min_over_members(q)
            if self.config.entropy_backup:
                value = value - self.temperature * log_prob
        return td_target(batch["reward"], batch["mask"], value, self.config.discount)

    def _accumulate_conservative(self, batch: Batch, td: TDLoss | None = None) -> Metrics:
        """Add the gradient of alpha (lse - Q_data); sampled actions and densities are constants.

        With a TD loss, whose values are among those needed here, write the gradient of both.
        """
        config = self.conservative
        obs, n = batch["observation"], config.actions
        with torch.no_grad():
            uniform = (
                torch.rand(len(obs), n, self.act_dim, generator=self.noise, device=self.device)
                .mul_(2.0)
                .sub_(1.0)
            )
            here, log_here = self.actor.sample(obs, self._noise(len(obs), n))
            # drawn at s' and with the density there, but evaluated at s
            there, log_there = self.actor.sample(
                batch["next_observation"], self._noise(len(obs), n)
            )
            flat = torch.full_like(log_here, -self.act_dim * math.log(2.0))
            density = torch.cat([flat, log_here, log_there], dim=1)
            actions = torch.cat([batch["action"][:, None], uniform, here, there], dim=1)
        if not config.importance_weights:
            density = None
        ids = self._draw(config.subset, replacement=True)
        count = self.config.members if ids is None else len(ids)
        bound = _bound(batch) if config.calibrated else None
        alpha = config.weight
        if self._multiplier is not None:
            alpha = F.softplus(self._multiplier.detach())
        terms = count * len(obs)
        free = 0 if config.bound_random_actions else n
        loss = ConservativeLoss(alpha / terms, density, bound, free, config.softmax_temperature, td)
        q = self.critic.accumulate(obs, actions, loss, members=ids, add=td is None)
        gap = loss.gap_sum / terms
        value = alpha * gap
        check_loss("conservative", value)
        metrics = {"critic/cql_gap": gap, "critic/cql_loss": value}
        if td is not None:
            td_loss = td.value(q[..., 0])
            check_loss("critic", td_loss)
            metrics |= {"critic/td_loss": td_loss, "critic/q_mean": q[..., 0].mean()}
        if bound is not None:
            metrics["critic/bound_rate"] = (q[..., 1 + n :] < bound[:, None]).float().mean()
        if self._multiplier is not None:
            multiplier = F.softplus(self._multiplier)
            self._multiplier_optimizer.zero_grad()
            lagrange_loss(multiplier, gap, config.lagrange_threshold).backward()
            self._multiplier_optimizer.step()
            metrics["critic/cql_multiplier"] = multiplier.detach()
        return metrics

    def _draw(self, count: int, replacement: bool) -> list[int] | None:
        """`count` critics at random; None means all of them."""
        members = self.config.members
        if count in (0, members):
            return None
        if replacement:
            ids = torch.randint(0, members, (count,), generator=self.noise, device=self.device)
        else:
            ids = torch.randperm(members, generator=self.noise, device=self.device)[:count]
        return ids.tolist()

    def _noise(self, rows: int, samples: int | None = None) -> Tensor:
        shape = (rows, self.act_dim) if samples is None else (rows, samples, self.act_dim)
        return torch.randn(shape, generator=self.noise, device=self.device)

    @torch.no_grad()
    def probe(self, batch: Batch) -> Metrics:
        """Mean Q and TD error on a fixed batch, with the policy's mode as the next action."""
        return probe_critic(self.critic, self.target, self.actor.mode, batch, self.config.discount)

    def take_over(self, state: Mapping[str, Any]) -> None:
        """Begin from another learner's actor, critics, targets, temperature and Adam moments.

        Parts the other learner does not have keep their initial state; parts only it has (a CQL
        multiplier, a value network) are left behind.
        """
        mine = self.state_dict()
        shared = ("actor", "critic", "target", "temperature")
        for name in (*shared, *(f"{n}_optimizer" for n in shared)):
            if name in state and name in mine:
                mine[name] = state[name]
        self.load_state_dict(mine)

    def state_dict(self) -> State:
        """Every tensor, both generators and the step count."""
        state = {
            "actor": dict(self.actor.state_dict()),
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "critic": dict(self.critic.state_dict()),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "target": self.target,
            "temperature": self._temperature.detach(),
            "temperature_optimizer": self.temperature_optimizer.state_dict(),
            "noise": self.noise.get_state(),
            "exploration": self.exploration.get_state(),
            "steps": self.steps,
        }
        if self._multiplier is not None:
            state["multiplier"] = self._multiplier.detach()
            state["multiplier_optimizer"] = self._multiplier_optimizer.state_dict()
        return state

    @torch.no_grad()
    def load_state_dict(self, state: State) -> None:
        """Take over a state of the same configuration."""
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        self.target.copy_(state["target"])
        self._temperature.copy_(state["temperature"])
        self.actor_optimizer.load_state_dict(state["actor_optimizer"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.temperature_optimizer.load_state_dict(state["temperature_optimizer"])
        self.noise.set_state(state["noise"].cpu())
        self.exploration.set_state(state["exploration"].cpu())
        self.steps = state["steps"]
        if self._multiplier is not None:
            self._multiplier.copy_(state["multiplier"])
            self._multiplier_optimizer.load_state_dict(state["multiplier_optimizer"])


def _bound(batch: Batch) -> Tensor:
    """[B] Monte-Carlo returns, without which Cal-QL would quietly be CQL."""
    if "mc_return" not in batch:
        raise ValueError(
            "the calibrated regulariser needs the column mc_return: give the source a discount "
            "for Monte-Carlo returns, or set conservative.calibrated=false"
        )
    return batch["mc_return"]


def _positive(value: float, device: torch.device) -> Tensor:
    """A scalar leaf rho with softplus(rho) = value."""
    rho = math.log(math.expm1(value))
    return torch.tensor(rho, device=device, requires_grad=True)

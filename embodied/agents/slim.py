"""SLIM: skill learning with multiple critics.

Emukpere et al. 2024, https://arxiv.org/abs/2402.00823.

One policy pi(a|s, z) learns many ways of moving an object, a skill z each, without any task. Three
rewards of its own ask it to reach the object, to do something to it that tells z, and to stay safe.
Their sum fails or needs delicate weights; here each has its own critic, its advantages are
standardised, and only then are they added.

    r_reach = exp(-k max(|p_hand - p_object| - d_0, 0)),   r_safe = -1 where unsafe, else 0
    r_skill = (phi(o') - phi(o))' z,   phi 1-Lipschitz and trained to maximise the same (LSD)
    A_i = GAE(r_i, V_i; gamma_i, lambda_i),   L_V = sum_i mean (V_i - R_i)^2,   R_i = A_i + V_i
    A = sum_i w_i (A_i - mean A_i) / std A_i,   o the object's position
    L_pi = -E min(rho A, clip(rho, 1 - e, 1 + e) A) - c_H H(pi)

The skill is part of the observation: `env_args.prior` draws one for each episode.

There is no official code and the full text was not at hand: every number is ours.

Deviations:
1. phi is updated on a batch before its rewards are read; LSD's code reads them first. The rewards
   are computed from stored o and o' at every update and never replayed.
2. Each reward is divided by its own running root mean square, over 1 - gamma, so that every critic
   has targets of the size of 1 in whatever unit a reward comes. No normaliser is shared.
3. A deviation of advantages is not taken to be less than `floor` times its running mean: once a
   penalty has become rare its advantages would else drown the others.
4. The sum of the standardised advantages is standardised again, in every baseline alike, so that
   none has another step size.
5. H is the entropy before the tanh; standard deviations do not depend on the state.
6. Violations end no episode: the critic of reaching would learn to fear contact.
7. A reward that a task has no columns for is left out; if none is left the task's own is learnt,
   by plain PPO: the high level over frozen skills (`env_args.skills`) and the flat baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from embodied.agents.acting import ActorPolicy
from embodied.agents.on_policy import OnPolicySource, stretches
from embodied.agents.task import RobotTask
from embodied.core.guards import check_batch, check_loss
from embodied.core.optim import Adam
from embodied.core.phase import Phase, Recipe, Until
from embodied.core.registry import register
from embodied.core.types import Metrics, Source, State
from embodied.objectives.policy_gradient import clipped_surrogate, token_ratio
from embodied.objectives.skill_discovery import (
    centred_skill,
    combined,
    critics_loss,
    information_reward,
    lipschitz_skill_reward,
    multi_surrogate,
    reach_reward,
    safety_reward,
    standardised,
    traced_advantages,
)
from policies.gaussian import TanhGaussian
from policies.lipschitz import LipschitzMLP
from policies.mlp import MLP
from policies.running import RunningMean, RunningScale, ScaledActor
from policies.value_ensemble import ValueEnsemble

REWARDS = ("skill", "reach", "safe", "task")
CRITICS = ("separate", "shared", "sum")
KEEP = 0.98  # of a running mean, per update
FIRST_LOG_STD = -0.5


@dataclass(frozen=True, kw_only=True)
class SLIMConfig:
    """Skill discovery; columns are those of an observation.

    Attributes:
        online_steps: environment steps.
        horizon: steps of every environment per update.
        epochs: passes over them.
        minibatches: optimizer steps per pass.
        rewards: some of skill, reach, safe and task (the environment's own).
        weights: w, one per reward.
        units: each reward is multiplied by one of these before anything else; only to show that
            this does not matter.
        critics: separate (SLIM), shared (one network with an output per reward), or sum (one critic
            for the weighted sum of the rewards, the naive baseline).
        standardise: the advantages of each reward; without it they are added as they are.
        clip_each: clip each reward's surrogate by itself and add afterwards.
        floor: see deviation 3; 0 has none.
        skill_reward: lsd, or diayn for mutual information.
        hand: columns of the hand's position; none leaves reaching out.
        thing: columns of the object's position; none takes all that are not the skill.
        safe: columns that have bounds; none leaves safety out.
        safe_low: their lower bounds.
        safe_high: their upper bounds.
        sharpness: k.
        near: d_0.
        discount: gamma of each reward; the last one counts for all further.
        trace: lambda, the same way.
        clip: e.
        entropy: c_H.
        actor_lr: Adam learning rate of the policy.
        critic_lr: of the critics.
        skill_lr: of phi.
        skill_steps: optimizer steps of phi per update.
        clip_norm: of the policy's gradient; a norm over all critics would mix them.
        hidden: width of each hidden layer of the policy.
        critic_hidden: of each critic.
        skill_hidden: of phi.
        normalise: centre and scale observations by running moments.
        eval_every: environment steps between evaluations; 0 evaluates at the end only.
    """

    online_steps: int = 640_000
    horizon: int = 50
    epochs: int = 4
    minibatches: int = 4
    rewards: tuple[str, ...] = ("skill", "reach", "safe")
    weights: tuple[float, ...] = (1.0, 0.5, 1.5)
    units: tuple[float, ...] = (1.0, 1.0, 1.0)
    critics: str = "separate"
    standardise: bool = True
    clip_each: bool = False
    floor: float = 1.0
    skill_reward: str = "lsd"
    hand: tuple[int, ...] = ()
    thing: tuple[int, ...] = ()
    safe: tuple[int, ...] = ()
    safe_low: tuple[float, ...] = ()
    safe_high: tuple[float, ...] = ()
    sharpness: float = 5.0
    near: float = 0.12
    discount: tuple[float, ...] = (0.98,)
    trace: tuple[float, ...] = (0.95,)
    clip: float = 0.2
    entropy: float = 0.003
    actor_lr: float = 1e-3
    critic_lr: float = 1e-3
    skill_lr: float = 1e-3
    skill_steps: int = 8
    clip_norm: float = 1.0
    hidden: tuple[int, ...] = (64, 64)
    critic_hidden: tuple[int, ...] = (64, 64)
    skill_hidden: tuple[int, ...] = (64, 64)
    normalise: bool = False
    eval_every: int = 0

    def __post_init__(self) -> None:
        if not self.rewards or not set(self.rewards) <= set(REWARDS):
            raise ValueError(f"rewards must be some of {', '.join(REWARDS)}, got {self.rewards}")
        if min(len(self.weights), len(self.units)) < len(self.rewards):
            raise ValueError(f"{len(self.rewards)} rewards need as many weights and units")
        if self.critics not in CRITICS:
            raise ValueError(f"critics must be one of {', '.join(CRITICS)}, got {self.critics!r}")
        if self.skill_reward not in ("lsd", "diayn"):
            raise ValueError(f"skill_reward must be lsd or diayn, got {self.skill_reward!r}")
        if not len(self.safe) == len(self.safe_low) == len(self.safe_high):
            raise ValueError("safe, safe_low and safe_high must be equally long")
        if not self.discount or not self.trace or max(self.discount) >= 1:
            raise ValueError(f"discount and trace need a number in [0, 1), got {self.discount}")
        if self.clip_each and (self.critics == "sum" or not self.standardise):
            raise ValueError("clip_each clips standardised advantages of several critics")


def skill_prior(task: RobotTask) -> tuple[int, bool]:
    """How many of the last columns are the skill, and whether it is one-hot."""
    if task.collector is None:
        return 0, False
    wrappers = task.collector.envs.identity.get("wrappers", ())
    found = [each for each in wrappers if each["wrapper"] == "SkillPrior"]
    return (found[-1]["dim"], found[-1]["kind"] == "one-hot") if found else (0, False)


def _each(values: tuple[float, ...], count: int) -> Tensor:
    """`count` numbers, the last one again for those that are missing."""
    return torch.tensor([*values, *[values[-1]] * count][:count])


class SLIM:
    """Policy, a critic per reward, and phi."""

    def __init__(self, config: SLIMConfig, task: RobotTask) -> None:
        self.config = c = config
        self.device = torch.device(task.device)
        self.act_dim, obs_dim = task.action_dim, task.observation_dim
        self.skill_dim, self.discrete = skill_prior(task)
        missing = {"skill": not self.skill_dim, "reach": not c.hand, "safe": not c.safe}
        given = [i for i, name in enumerate(c.rewards) if not missing.get(name)]
        self.names = tuple(c.rewards[i] for i in given) or ("task",)
        self.weights = torch.tensor([c.weights[i] for i in given] or [1.0]).to(self.device)
        units = torch.tensor([c.units[i] for i in given] or [1.0], dtype=torch.float64)
        self.units = units.to(self.device)
        self.state_dim = obs_dim - self.skill_dim
        self.thing = list(c.thing or range(self.state_dim))
        environments = task.collector.num_envs if task.collector else 1
        self.rows = environments * c.horizon

        init = task.streams.torch("slim/init")
        count = 1 if c.critics == "sum" else len(self.names)
        self.discount = _each(c.discount, count).to(self.device)
        self.trace = _each(c.trace, count).to(self.device)
        scale = RunningScale(obs_dim, fixed=self.skill_dim)
        stds = {"state_dependent_std": False, "std_min": 0.05, "std_max": 2.0}
        policy = TanhGaussian(obs_dim, self.act_dim, c.hidden, **stds, generator=init)
        torch.nn.init.constant_(policy.log_std, FIRST_LOG_STD)
        self.actor = ScaledActor(policy, scale).to(self.device)
        self.critic = ValueEnsemble(
            obs_dim, count, c.critic_hidden, shared=c.critics == "shared", generator=init
        ).to(self.device)
        network = LipschitzMLP if c.skill_reward == "lsd" else MLP
        shape = (len(self.thing), c.skill_hidden, max(1, self.skill_dim))
        self.phi = network(*shape, generator=init).to(self.device)
        actor = [*policy.parameters()]
        self.actor_optimizer = Adam("actor", actor, c.actor_lr, clip_norm=c.clip_norm)
        self.critic_optimizer = Adam("critic", [*self.critic.parameters()], c.critic_lr)
        self.phi_optimizer = Adam("phi", [*self.phi.parameters()], c.skill_lr)
        self.generator = task.streams.torch("slim/update", self.device)
        self.exploration = task.streams.torch("slim/act", self.device)
        self.square = RunningMean(count, KEEP).to(self.device)
        self.spread = RunningMean(count, KEEP).to(self.device)

    def policy(self, deterministic: bool = False) -> ActorPolicy:
        """The current policy."""
        return ActorPolicy(self.actor, self.act_dim, None if deterministic else self.exploration)

    def update(self, source: Source) -> Metrics:
        """phi, then rewards and advantages, then `epochs` passes over a batch of stretches."""
        c = self.config
        batch = stretches(source.next(self.rows))
        check_batch(batch)
        metrics = self._discover(batch) if "skill" in self.names else {}
        with torch.no_grad():
            metrics |= self._judge(batch)
        keep = batch["real"].bool()
        rows = {name: batch[name][keep] for name in ("observation", "action", "old")}
        rows |= {name: batch[name][..., keep] for name in ("advantage", "target")}
        for _ in range(c.epochs):
            order = torch.randperm(len(rows["old"]), generator=self.generator, device=self.device)
            for part in order.chunk(c.minibatches):
                metrics |= self._step(rows, part)
        if c.normalise:  # afterwards, so that the old policy is the one that acted
            self.actor.scale.add(rows["observation"])
        return metrics

    def rewards(self, batch: dict[str, Tensor]) -> Tensor:
        """Rewards in their order, each in its unit: [K, N, T], float64."""
        before, after, c = batch["observation"], batch["next_observation"], self.config
        found = []
        for name in self.names:
            if name == "skill":
                found.append(self._skill_reward(before, after))
            elif name == "reach":
                hand, thing = after[..., list(c.hand)], after[..., self.thing]
                found.append(reach_reward(hand, thing, c.sharpness, c.near))
            elif name == "safe":
                bounds = (after.new_tensor(bound) for bound in (c.safe_low, c.safe_high))
                found.append(safety_reward(after[..., list(c.safe)], *bounds))
            else:
                found.append(batch["reward"])
        # float64, so that a unit leaves no trace in what is rounded to float32 afterwards
        return torch.stack(found).double() * self.units[:, None, None]

    def _skill(self, observation: Tensor) -> Tensor:
        skill = observation[..., self.state_dim :]
        lsd = self.config.skill_reward == "lsd"
        return centred_skill(skill) if self.discrete and lsd else skill

    def _skill_reward(self, before: Tensor, after: Tensor) -> Tensor:
        z, later = self._skill(before), self.phi(after[..., self.thing])
        if self.config.skill_reward == "diayn":
            return information_reward(later, z, self.discrete)
        return lipschitz_skill_reward(self.phi(before[..., self.thing]), later, z)

    def _discover(self, batch: dict[str, Tensor]) -> Metrics:
        """Some steps of phi on shuffled parts of the batch."""
        keep = batch["real"].bool()
        before, after = (batch[name][keep] for name in ("observation", "next_observation"))
        order = torch.randperm(len(before), generator=self.generator, device=self.device)
        for part in order.chunk(self.config.skill_steps):
            loss = -self._skill_reward(before[part], after[part]).mean()
            check_loss("phi", loss)
            self.phi_optimizer.zero_grad()
            loss.backward()
            self.phi_optimizer.step()
        return {"phi/loss": loss.detach()}

    def _judge(self, batch: dict[str, Tensor]) -> Metrics:
        """Puts old log-probabilities, advantages and targets into the batch."""
        c, real = self.config, batch["real"]
        raw = self.rewards(batch)
        steps = real.double().sum().clamp(min=1)
        metrics = {
            f"reward/{name}": (one * real).sum() / steps
            for name, one in zip(self.names, raw, strict=True)
        }
        weights = self.weights
        if c.critics == "sum":
            raw, weights = combined(raw, weights.double())[None], torch.ones_like(weights[:1])
        self.square.add((raw.square() * real).sum((1, 2)) / steps)
        size = self.square.mean.sqrt() / (1 - self.discount.double())
        reward = (raw / size.clamp(min=1e-12)[:, None, None]).float()
        value = self.critic(self.actor.scale(batch["observation"]))
        after = self.critic(self.actor.scale(batch["next_observation"]))
        advantage = traced_advantages(
            *(reward, value, after, batch["mask"], batch["ended"], self.discount, self.trace)
        )
        batch["target"] = advantage + value
        if c.standardise:
            least = (c.floor * self.spread.mean).float()
            advantage, deviation = standardised(advantage, real, least)
            self.spread.add(deviation)
        else:
            advantage = advantage * size.float()[:, None, None]
        if not c.clip_each:
            total = combined(advantage, weights)[None]
            advantage = standardised(total, real)[0][0]
        batch["advantage"] = advantage
        batch["old"] = self.actor.log_prob(batch["observation"], batch["action"])
        return metrics

    def _step(self, rows: dict[str, Tensor], part: Tensor) -> Metrics:
        """One step of the policy and one of the critics."""
        c = self.config
        obs = rows["observation"][part]
        log_prob = self.actor.log_prob(obs, rows["action"][part])
        ratio = token_ratio(log_prob, rows["old"][part])
        advantage = rows["advantage"][..., part]
        if c.clip_each:
            surrogate = multi_surrogate(ratio, advantage, self.weights, c.clip)
        else:
            surrogate = clipped_surrogate(ratio, advantage, c.clip)
        log_std = self.actor.actor.log_std
        entropy = log_std.sum()  # up to a constant
        loss = surrogate.mean() - c.entropy * entropy
        value = critics_loss(self.critic(self.actor.scale(obs)), rows["target"][:, part])
        check_loss("actor", loss)
        check_loss("critic", value)
        self.actor_optimizer.zero_grad()
        loss.backward()
        norm = self.actor_optimizer.step()
        with torch.no_grad():  # beyond its range it would have no gradient
            log_std.clamp_(*self.actor.actor.log_std_range)
        self.critic_optimizer.zero_grad()
        value.backward()
        self.critic_optimizer.step()
        return {
            "actor/loss": loss.detach(),
            "actor/grad_norm": norm,
            "actor/log_std": entropy.detach() / self.act_dim,
            "actor/clipped": ((ratio.detach() - 1).abs() > c.clip).float().mean(),
            "critic/loss": value.detach(),
        }

    def _parts(self) -> dict[str, Any]:
        trained = [n for part in ("actor", "critic", "phi") for n in (part, f"{part}_optimizer")]
        return {name: getattr(self, name) for name in (*trained, "square", "spread")}

    def state_dict(self) -> State:
        """Every tensor and both generators."""
        return {
            **{name: dict(part.state_dict()) for name, part in self._parts().items()},
            "generator": self.generator.get_state(),
            "exploration": self.exploration.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Take over a state of the same configuration."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.generator.set_state(state["generator"].cpu())
        self.exploration.set_state(state["exploration"].cpu())


def recipe(config: SLIMConfig, task: RobotTask) -> Recipe:
    """One phase: a stretch of every environment, a few passes over it."""
    learner, source = SLIM(config, task), OnPolicySource(config.horizon, task.device)
    until = Until("env_steps", config.online_steps)
    updates = {"updates_per_step": Fraction(1, learner.rows), "eval_every": config.eval_every}
    return Recipe([Phase("online", learner, source, until, task.environments(), **updates)])


register(
    "slim",
    config=SLIMConfig,
    learner=SLIM,
    recipe=recipe,
    paper="https://arxiv.org/abs/2402.00823",
    summary="Unsupervised manipulation skills: one critic for each reward, advantages standardised",
    updates=(
        *("actor", "actor_optimizer", "critic", "critic_optimizer", "phi", "phi_optimizer"),
        *("square", "spread", "generator"),
    ),
)

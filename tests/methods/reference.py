"""One update of the shared learner again, in plain autograd, for the fast path to agree with.

Everything is in float64, so agreement is not a matter of rounding. Random draws are repeated from
a copy of the learner's generator in the learner's order: subset and a' of the target, then uniform
actions, pi(.|s), pi(.|s') and the subset of the regulariser, then the actor's noise.
"""

import copy
import math

import torch
import torch.nn.functional as F


def to_double(learner):
    """Turn a learner, never updated yet, to float64."""
    learner.actor.double()
    learner.critic.double()
    learner.target = learner.target.double()
    learner._temperature.data = learner._temperature.data.double()
    if learner._multiplier is not None:
        learner._multiplier.data = learner._multiplier.data.double()
    return learner


class Reference:
    def __init__(self, learner):
        self.config, self.conservative = learner.config, learner.conservative
        self.actor, self.critic = copy.deepcopy(learner.actor), copy.deepcopy(learner.critic)
        self.target = learner.target.clone()
        self.rho = learner._temperature.detach().clone().requires_grad_()
        self.generator = torch.Generator()
        self.generator.set_state(learner.noise.get_state())
        config = self.config
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr=config.actor_lr)
        self.critic_adam = torch.optim.Adam(self.critic.parameters(), lr=config.critic_lr)
        self.rho_adam = torch.optim.Adam([self.rho], lr=config.temperature_lr)
        self.multiplier = None
        if learner._multiplier is not None:
            self.multiplier = learner._multiplier.detach().clone().requires_grad_()
            self.multiplier_adam = torch.optim.Adam(
                [self.multiplier], lr=learner.conservative.lagrange_lr
            )

    def noise(self, *shape):
        return torch.randn(shape, generator=self.generator)

    def sample(self, obs, noise):
        """a = tanh(u) and log pi by the change of variables."""
        mean, std = self.actor(obs)
        if noise.dim() == 3:
            mean, std = mean[:, None], std[:, None]
        u = mean + std * noise
        normal = torch.distributions.Normal(mean, std).log_prob(u)
        return torch.tanh(u), (normal - torch.log(1.0 - torch.tanh(u) ** 2)).sum(-1)

    def subset(self, count, replacement):
        members = self.config.members
        if count in (0, members):
            return list(range(members))
        if replacement:
            return torch.randint(0, members, (count,), generator=self.generator).tolist()
        return torch.randperm(members, generator=self.generator)[:count].tolist()

    def backup(self, batch):
        config, s2 = self.config, batch["next_observation"]
        ids = self.subset(config.subset, config.subset_replacement)
        k, act = config.max_target_actions, batch["action"].shape[1]
        if k:
            a, _ = self.sample(s2, self.noise(len(s2), k, act))
            value = self.critic(s2, a, members=ids, weight=self.target).amin(0).amax(-1)
        else:
            a, log_prob = self.sample(s2, self.noise(len(s2), act))
            value = self.critic(s2, a, members=ids, weight=self.target).amin(0)
            if config.entropy_backup:
                value = value - F.softplus(self.rho) * log_prob
        return (batch["reward"] + config.discount * batch["mask"] * value).detach()

    def gap(self, batch):
        """Mean over drawn critics and rows of lse(s) - Q(s, a)."""
        c, s = self.conservative, batch["observation"]
        rows, n, act = len(s), c.actions, batch["action"].shape[1]
        uniform = torch.rand(rows, n, act, generator=self.generator).double() * 2 - 1
        here, log_here = self.sample(s, self.noise(rows, n, act))
        there, log_there = self.sample(batch["next_observation"], self.noise(rows, n, act))
        ids = self.subset(c.subset, True)
        data = self.critic(s, batch["action"], members=ids)
        parts = [self.critic(s, a.detach(), members=ids) for a in (uniform, here, there)]
        if c.calibrated:
            bound = batch["mc_return"][None, :, None]
            for i in range(0 if c.bound_random_actions else 1, 3):
                parts[i] = torch.where(parts[i] < bound, bound, parts[i])
        if c.importance_weights:
            log_uniform = torch.full_like(log_here, act * math.log(0.5))
            scores = [
                q - p.detach()
                for q, p in zip(parts, (log_uniform, log_here, log_there), strict=True)
            ]
            lse = torch.logsumexp(torch.cat(scores, -1), -1)
        else:
            lse = torch.logsumexp(torch.cat([*parts, data[..., None]], -1), -1)
            lse = lse - math.log(3 * n + 1)
        return (lse - data).mean()

    def critic_step(self, batch):
        y = self.backup(batch)
        loss = F.mse_loss(
            self.critic(batch["observation"], batch["action"]), y.expand(self.config.members, -1)
        )
        if self.conservative is not None:
            gap = self.gap(batch)
            alpha = self.conservative.weight
            if self.multiplier is not None:
                alpha = F.softplus(self.multiplier).detach()
            loss = loss + alpha * gap
        self.critic_adam.zero_grad()
        loss.backward()
        self.critic_adam.step()
        if self.conservative is not None and self.multiplier is not None:
            excess = gap.detach() - self.conservative.lagrange_threshold
            self.multiplier_adam.zero_grad()
            (-F.softplus(self.multiplier) * excess).backward()
            self.multiplier_adam.step()
        tau = self.config.tau
        self.target = tau * self.critic.weight.detach() + (1 - tau) * self.target

    def actor_step(self, batch):
        s = batch["observation"]
        a, log_prob = self.sample(s, self.noise(*batch["action"].shape))
        q = self.critic(s, a)
        q = q.amin(0) if self.config.actor_reduce == "min" else q.mean(0)
        beta = F.softplus(self.rho)
        self.actor_adam.zero_grad()
        (beta.detach() * log_prob - q).mean().backward()
        self.actor_adam.step()
        entropy = -log_prob.mean().detach()
        self.rho_adam.zero_grad()
        (beta * (entropy - self.config.target_entropy_per_dim * a.shape[1])).backward()
        self.rho_adam.step()

    def update(self, batch):
        config, size = self.config, self.config.batch_size
        for k in range(config.utd):
            part = {n: c[k * size : (k + 1) * size] for n, c in batch.items()}
            self.critic_step(part)
        self.actor_step(batch if config.actor_rows == "all" else part)


def assert_agree(learner, reference, tolerance=1e-6):
    """Weights, targets, temperature and multiplier within `tolerance`."""
    pairs = [
        (learner.critic.weight, reference.critic.weight),
        (learner.target, reference.target),
        (learner._temperature, reference.rho),
        *zip(learner.actor.parameters(), reference.actor.parameters(), strict=True),
    ]
    if reference.multiplier is not None:
        pairs.append((learner._multiplier, reference.multiplier))
    for mine, other in pairs:
        torch.testing.assert_close(mine, other, atol=tolerance, rtol=tolerance)

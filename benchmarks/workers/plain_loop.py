"""WSRL's online loop written the plain way, in the style of CORL's single files.

A replay buffer of five tensors indexed with numpy, one nn.Sequential per critic, torch.optim.Adam
with its defaults, the released Meta-World environment, one WSRL step per environment step.
"""

from __future__ import annotations

import copy
import math

import gymnasium
import metaworld  # noqa: F401  (registers Meta-World)
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.serve import serve

OBS, ACT, HIDDEN, BATCH, UTD, MEMBERS = 39, 4, 256, 256, 4, 10
DISCOUNT, TAU = 0.99, 0.005


class ReplayBuffer:
    def __init__(self, size: int) -> None:
        self.size, self.count = size, 0
        shapes = ((OBS,), (ACT,), (1,), (OBS,), (1,))
        self.columns = [torch.zeros(size, *shape) for shape in shapes]

    def add(self, *values) -> None:
        for column, value in zip(self.columns, values, strict=True):
            column[self.count % self.size] = torch.as_tensor(value, dtype=torch.float32)
        self.count += 1

    def sample(self, n: int) -> list[torch.Tensor]:
        index = np.random.randint(0, min(self.count, self.size), size=n)  # noqa: NPY002
        return [column[index] for column in self.columns]


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    layers = []
    for width in (inputs, HIDDEN):
        layers += [nn.Linear(width, HIDDEN), nn.LayerNorm(HIDDEN), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(HIDDEN, outputs))


class Actor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(OBS, 2 * ACT)

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = self.net(observation).chunk(2, -1)
        normal = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())
        u = normal.rsample()
        log_prob = normal.log_prob(u) - 2 * (math.log(2) - u - F.softplus(-2 * u))
        return torch.tanh(u), log_prob.sum(-1)


class WSRL:
    def __init__(self) -> None:
        self.actor = Actor()
        self.critics = nn.ModuleList(mlp(OBS + ACT, 1) for _ in range(MEMBERS))
        self.targets = copy.deepcopy(self.critics)
        self.log_alpha = torch.zeros((), requires_grad=True)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), 1e-4)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), 3e-4)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], 1e-4)

    def update_critics(self, observation, action, reward, following, done) -> None:
        with torch.no_grad():
            next_action, _ = self.actor(following)
            pair = np.random.randint(0, MEMBERS, 2)  # noqa: NPY002
            x = torch.cat([following, next_action], -1)
            q = torch.minimum(*(self.targets[i](x) for i in pair))
            y = reward + DISCOUNT * (1 - done) * q
        x = torch.cat([observation, action], -1)
        loss = sum(F.mse_loss(critic(x), y) for critic in self.critics)
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        with torch.no_grad():
            pairs = zip(self.critics.parameters(), self.targets.parameters(), strict=True)
            for source, target in pairs:
                target.copy_(TAU * source + (1 - TAU) * target)

    def update_actor(self, observation: torch.Tensor) -> None:
        action, log_prob = self.actor(observation)
        x = torch.cat([observation, action], -1)
        q = torch.stack([critic(x) for critic in self.critics]).min(0)[0].squeeze(-1)
        loss = (self.log_alpha.exp().detach() * log_prob - q).mean()
        self.actor_optimizer.zero_grad()
        loss.backward()
        self.actor_optimizer.step()
        alpha_loss = -(self.log_alpha.exp() * (log_prob.detach() - ACT)).mean()
        self.alpha_optimizer.zero_grad()
        alpha_loss.backward()
        self.alpha_optimizer.step()

    def update(self, batch: list[torch.Tensor]) -> None:
        for k in range(UTD):
            self.update_critics(*(column[k * BATCH : (k + 1) * BATCH] for column in batch))
        self.update_actor(batch[0])

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> np.ndarray:
        return self.actor(torch.tensor(observation[None], dtype=torch.float32))[0][0].numpy()


def train():
    torch.manual_seed(0)
    env = gymnasium.make("Meta-World/MT1", env_name="door-open-v3", seed=0)
    agent, replay = WSRL(), ReplayBuffer(100_000)
    for _ in range(BATCH * UTD):
        replay.add(*(torch.randn(column.shape[1:]) for column in replay.columns))
    observation, _ = env.reset()

    def step() -> None:
        nonlocal observation
        action = agent.act(observation)
        following, reward, terminated, truncated, _ = env.step(action)
        replay.add(observation, action, [reward], following, [float(terminated)])
        observation = env.reset()[0] if terminated or truncated else following
        agent.update(replay.sample(BATCH * UTD))

    return step, 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve({"train": train}, ["metaworld", "mujoco", "torch", "numpy"])

"""Acting and probing, alike in every method of the family."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from embodied.core.guards import NonFinite
from embodied.core.types import Batch, Metrics
from embodied.objectives.q_learning import min_over_members, td_target
from policies.critic import CriticEnsemble
from policies.gaussian import Gaussian, TanhGaussian


class ActorPolicy:
    """Acts with an actor network.

    Args:
        actor: a Gaussian or TanhGaussian.
        act_dim: length of an action.
        generator: exploration noise; None acts deterministically.
    """

    def __init__(
        self, actor: TanhGaussian | Gaussian, act_dim: int, generator: torch.Generator | None
    ) -> None:
        self.actor = actor
        self.act_dim = act_dim
        self.generator = generator
        self._device = next(actor.parameters()).device

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> np.ndarray:
        """[N, O] observations to [N, A] actions in [-1, 1].

        Raises:
            NonFinite: rather than let a non-finite action reach an environment.
        """
        obs = torch.from_numpy(np.ascontiguousarray(observation, np.float32)).to(self._device)
        if self.generator is None:
            action = self.actor.mode(obs)
        else:
            shape = (len(obs), self.act_dim)
            noise = torch.randn(shape, generator=self.generator, device=self._device)
            action = self.actor.act(obs, noise)
        action = action.cpu().numpy()
        if not np.isfinite(action.sum()):
            raise NonFinite("action of the policy")
        return np.clip(action, -1.0, 1.0)


@torch.no_grad()
def probe_critic(
    critic: CriticEnsemble, target: Tensor, mode: Any, batch: Batch, discount: float
) -> Metrics:
    """Mean Q over critics and rows, and the mean squared TD error against the min of all targets.

    Args:
        critic: the ensemble.
        target: its target weights [E, P].
        mode: obs -> deterministic action.
        batch: B transitions.
        discount: gamma.
    """
    next_obs = batch["next_observation"]
    value = min_over_members(critic.values(next_obs, mode(next_obs), weight=target))
    q = critic.values(batch["observation"], batch["action"])
    y = td_target(batch["reward"], batch["mask"], value, discount)
    return {"q": q.mean(), "td": (q - y).square().mean()}

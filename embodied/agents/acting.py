"""Acting with an actor network: what every method of the family hands to a collector."""

from __future__ import annotations

import numpy as np
import torch

from embodied.core.guards import NonFinite
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

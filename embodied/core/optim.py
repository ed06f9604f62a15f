"""Adam whose state fits a checkpoint, stepped only behind the finite checks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from embodied.core.guards import check_gradients, check_parameters
from embodied.core.types import State


class Adam:
    """Fused Adam (Kingma and Ba 2015) over a list of parameters.

    Args:
        name: says whose gradient was not finite.
        parameters: leaves with `requires_grad`.
        lr: learning rate.
        clip_norm: scale the gradient down to this norm, or None.
    """

    def __init__(
        self,
        name: str,
        parameters: Sequence[Tensor],
        lr: float,
        *,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ) -> None:
        self.name = name
        self.parameters = list(parameters)
        self.clip_norm = clip_norm
        self._adam = torch.optim.Adam(self.parameters, lr=lr, weight_decay=weight_decay, fused=True)

    @property
    def lr(self) -> float:
        """Learning rate; settable by schedules."""
        return self._adam.param_groups[0]["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        self._adam.param_groups[0]["lr"] = value

    def zero_grad(self) -> None:
        """Zero the gradients, keeping their buffers."""
        self._adam.zero_grad(set_to_none=False)

    def step(self) -> Tensor:
        """Check that parameters and gradient are finite, clip the gradient if asked, step.

        Returns:
            The gradient norm before clipping, a scalar tensor.

        Raises:
            NonFinite: before anything has changed.
        """
        check_parameters(self.name, self.parameters)
        norm = check_gradients(self.name, self.parameters)
        if self.clip_norm is not None and norm > self.clip_norm:
            gradients = [p.grad for p in self.parameters if p.grad is not None]
            torch._foreach_mul_(gradients, self.clip_norm / (norm + 1e-6))
        self._adam.step()
        return norm

    def state_dict(self) -> State:
        """Moments and step of each parameter that was ever stepped, by position."""
        return {
            str(i): dict(self._adam.state[p])
            for i, p in enumerate(self.parameters)
            if p in self._adam.state
        }

    def load_state_dict(self, state: State) -> None:
        """Take over moments and steps; the learning rate stays as configured."""
        self._adam.state.clear()
        for i, entries in state.items():
            parameter = self.parameters[int(i)]
            for name, value in entries.items():
                if name != "step" and value.shape != parameter.shape:
                    raise ValueError(
                        f"optimizer {self.name}: {name} of parameter {i} has shape "
                        f"{tuple(value.shape)}, the parameter {tuple(parameter.shape)}"
                    )
            self._adam.state[parameter] = {
                k: v.to(parameter.device, copy=True) for k, v in entries.items()
            }

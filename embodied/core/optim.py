"""Adam whose state fits a checkpoint, stepped only behind the finite checks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from embodied.core import ranks
from embodied.core.guards import check_gradients, check_parameters
from embodied.core.types import State


class Adam:
    """Fused Adam (Kingma and Ba 2015) over a list of parameters.

    Args:
        name: says whose gradient was not finite.
        parameters: leaves with `requires_grad`.
        lr: learning rate.
        weight_decay: added to the gradient, or, if `decoupled`, taken off the weights (AdamW,
            Loshchilov and Hutter 2019).
        clip_norm: scale the gradient down to this norm, or None.
        betas: decay of the two moments.
    """

    def __init__(
        self,
        name: str,
        parameters: Sequence[Tensor],
        lr: float,
        *,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        decoupled: bool = False,
    ) -> None:
        self.name = name
        self.parameters = list(parameters)
        self.clip_norm = clip_norm
        self.weight_decay, self.betas = weight_decay, betas
        self._kernel = torch._fused_adamw_ if decoupled else torch._fused_adam_
        self.lr = lr  # settable by schedules
        self._state: dict[int, dict[str, Tensor]] = {}  # by position

    def zero_grad(self) -> None:
        """Zero the gradients, keeping their buffers."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if gradients:
            torch._foreach_zero_(gradients)

    @torch.no_grad()
    def step(self) -> Tensor:
        """Check that parameters and gradient are finite, clip the gradient if asked, step.

        The gradient is the mean over ranks.

        Returns:
            The gradient norm before clipping, a scalar tensor.

        Raises:
            NonFinite: before anything has changed.
        """
        if ranks.count > 1:
            ranks.average([p.grad for p in self.parameters if p.grad is not None])
        check_parameters(self.name, self.parameters)
        norm = check_gradients(self.name, self.parameters)
        if self.clip_norm is not None and norm > self.clip_norm:
            gradients = [p.grad for p in self.parameters if p.grad is not None]
            torch._foreach_mul_(gradients, self.clip_norm / (norm + 1e-6))
        self._fused_step()
        return norm

    def _fused_step(self) -> None:
        """The kernel of torch.optim.Adam(fused=True), whose own step costs a small network more."""
        positions = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        for i in positions:
            if i not in self._state:
                p = self.parameters[i]
                self._state[i] = {
                    "step": torch.zeros((), dtype=torch.float32, device=p.device),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        states = [self._state[i] for i in positions]
        steps = [state["step"] for state in states]
        torch._foreach_add_(steps, 1.0)
        self._kernel(
            [self.parameters[i] for i in positions],
            [self.parameters[i].grad for i in positions],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            steps,
            lr=self.lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )

    def state_dict(self) -> State:
        """Moments and step of each parameter that was ever stepped, by position."""
        return {str(i): dict(entries) for i, entries in self._state.items()}

    def load_state_dict(self, state: State) -> None:
        """Take over moments and steps; the learning rate stays as configured."""
        self._state.clear()
        for i, entries in state.items():
            parameter = self.parameters[int(i)]
            for name, value in entries.items():
                if name != "step" and value.shape != parameter.shape:
                    raise ValueError(
                        f"optimizer {self.name}: {name} of parameter {i} has shape "
                        f"{tuple(value.shape)}, the parameter {tuple(parameter.shape)}"
                    )
            self._state[int(i)] = {k: v.to(parameter.device, copy=True) for k, v in entries.items()}

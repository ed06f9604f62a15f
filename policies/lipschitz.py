"""A network that cannot stretch distances: every layer is divided by its spectral norm."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policies.mlp import MLP


class LipschitzMLP(nn.Module):
    """An MLP with ReLU whose weights are used as W / sigma(W), so |f(x) - f(y)| <= |x - y|.

    sigma is exact (singular value decomposition) and not the lower bound of a power iteration,
    which is affordable at this size; its gradient is u v'.

    Args:
        in_dim: Features of the input.
        hidden: Width of each hidden layer.
        out_dim: Features of the output.
        generator: Source of the initial weights.
    """

    def __init__(
        self, in_dim: int, hidden: Sequence[int], out_dim: int, *, generator: torch.Generator
    ):
        super().__init__()
        self.net = MLP(in_dim, hidden, out_dim, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x [..., in_dim] to [..., out_dim]."""
        *hidden, output = self.net.linears
        for linear in hidden:
            x = torch.relu(F.linear(x, _unit(linear.weight), linear.bias))
        return F.linear(x, _unit(output.weight), output.bias)


def _unit(weight: Tensor) -> Tensor:
    """W / sigma(W)."""
    with torch.no_grad():
        left, _, right = torch.linalg.svd(weight, full_matrices=False)
    sigma = left[:, 0] @ weight @ right[0]
    return weight / sigma

"""Several value functions of a state, evaluated in one batched product per layer."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from policies.mlp import orthogonal_


class ValueEnsemble(nn.Module):
    """K MLPs with ReLU from an observation to a number each, or one MLP with K outputs.

    Separate networks share nothing: a loss of one changes no gradient of another.

    Args:
        obs_dim: Features of an observation, O.
        count: Number of values, K.
        hidden: Width of each hidden layer.
        shared: One network with K outputs.
        generator: Source of the initial weights: orthogonal, gain sqrt(2), of the output 1.
    """

    def __init__(
        self,
        obs_dim: int,
        count: int,
        hidden: Sequence[int],
        *,
        shared: bool = False,
        generator: torch.Generator,
    ):
        super().__init__()
        networks, outputs = (1, count) if shared else (count, 1)
        widths = [obs_dim, *hidden, outputs]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(widths):
            gain = math.sqrt(2.0) if len(self.weights) < len(hidden) else 1.0
            weight = torch.empty(networks, fan_in, fan_out)
            for one in weight:
                orthogonal_(one, gain, generator)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(networks, 1, fan_out)))

    def forward(self, obs: Tensor) -> Tensor:
        """Maps obs [..., O] to values [K, ...]."""
        rows = obs.reshape(1, -1, obs.shape[-1])
        h = rows.expand(len(self.weights[0]), -1, -1)
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            if i < last:
                h = torch.relu_(h)
        values = h.permute(0, 2, 1).reshape(-1, rows.shape[1])  # one of the first two axes is 1
        return values.reshape(len(values), *obs.shape[:-1])

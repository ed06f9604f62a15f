"""The multilayer perceptron that the actors and value functions are made of."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-6  # flax's default; torch's is 1e-5


def orthogonal_(weight: Tensor, gain: float, generator: torch.Generator) -> Tensor:
    """Fills `weight` [rows, columns] with an orthogonal matrix times `gain` (Saxe et al. 2014).

    The draw is made on the generator's device in float32, so the same seed gives the same
    network in every precision and on every device.
    """
    draw = torch.empty(weight.shape, device=generator.device, dtype=torch.float32)
    nn.init.orthogonal_(draw, gain, generator=generator)
    with torch.no_grad():
        return weight.copy_(draw)


class MLP(nn.Module):
    """Linear -> [LayerNorm] -> activation -> [dropout] per hidden layer, then a linear output.

    Weights are orthogonal with gain sqrt(2) (output: `out_gain`), biases zero.

    Args:
        in_dim: Features of the input.
        hidden: Width of each hidden layer; may be empty.
        out_dim: Features of the output.
        layer_norm: Normalise before each activation (Ba et al. 2016), epsilon 1e-6.
        activation: Elementwise function between layers; it may work in place.
        dropout: Probability with which a hidden unit is dropped; see `forward`.
        out_gain: Gain of the output layer; about 1e-2 starts an actor near the zero action.
        generator: Source of the initial weights.
    """

    def __init__(
        self,
        in_dim: int,
        hidden: Sequence[int],
        out_dim: int,
        *,
        layer_norm: bool = False,
        activation: Callable[[Tensor], Tensor] = torch.relu_,
        dropout: float = 0.0,
        out_gain: float = 1.0,
        generator: torch.Generator,
    ):
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"MLP: dropout must be in [0, 1), got {dropout}")
        self.activation = activation
        self.dropout = dropout
        widths = [in_dim, *hidden, out_dim]
        gains = [math.sqrt(2.0)] * len(hidden) + [out_gain]
        self.linears = nn.ModuleList()
        for fan_in, fan_out, gain in zip(widths[:-1], widths[1:], gains, strict=True):
            # skip_init: nn.Linear's own initialisation would draw from the global generator.
            linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
            orthogonal_(linear.weight, gain, generator)
            nn.init.zeros_(linear.bias)
            self.linears.append(linear)
        self.norms = nn.ModuleList(
            nn.LayerNorm(width, eps=LAYER_NORM_EPS) for width in hidden if layer_norm
        )

    def forward(self, x: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        """Maps x [..., in_dim] to [..., out_dim].

        Dropout acts exactly when a generator for its masks is passed, whatever the train or
        eval mode of the module: the caller says which passes are noisy, and with which stream.
        """
        *hidden, output = self.linears
        for i, linear in enumerate(hidden):
            x = linear(x)
            if self.norms:
                x = self.norms[i](x)
            x = self.activation(x)
            if self.dropout and dropout is not None:
                keep = 1.0 - self.dropout
                x = x * torch.empty_like(x).bernoulli_(keep, generator=dropout) / keep
        return output(x)

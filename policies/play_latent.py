"""The networks of Play-LMP: what names a plan, what proposes one, and what carries it out.

Lynch et al. 2019, arXiv 1903.01973. Shapes: B windows of T steps, states [B, T, S], goals [B, G],
plans [B, Z], actions with A dimensions, mixtures of M logistics.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policies.mlp import MLP

SMALLEST_STD = 1e-4
UNIFORM_EDGE = 1e-5  # of the uniform draws that logistic noise is made from


class Plan(NamedTuple):
    """A diagonal normal over plans: [B, Z] each."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, output: Tensor) -> "Plan":
        """From a network's output [B, 2 Z]: mean, and softplus plus 1e-4 as deviation."""
        mean, raw = output.chunk(2, -1)
        return cls(mean, F.softplus(raw) + SMALLEST_STD)

    def sample(self, noise: Tensor) -> Tensor:
        """Reparameterised: noise [B, Z], standard normal."""
        return torch.addcmul(self.mean, self.std, noise)


def relu_rnn(
    inputs: int, hidden: int, *, bidirectional: bool = False, generator: torch.Generator
) -> nn.RNN:
    """Two layers of a ReLU RNN over [B, T, inputs], uniform in +-1/sqrt(hidden) as torch has it."""
    # Made without storage first: its own initialisation would draw from the global generator.
    rnn = nn.RNN(
        inputs,
        hidden,
        num_layers=2,
        nonlinearity="relu",
        batch_first=True,
        bidirectional=bidirectional,
        device="meta",
    ).to_empty(device="cpu")
    bound = hidden**-0.5
    with torch.no_grad():
        for parameter in rnn.parameters():
            draw = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            parameter.copy_(draw)
    return rnn


class Recogniser(nn.Module):
    """q(z | window): a bidirectional RNN that has seen all states of a window.

    The plan is read off the last state of the forward half and the first of the backward half,
    each of which has seen the whole window.

    Args:
        states: S.
        hidden: width of each direction.
        latent: Z.
        generator: source of the initial weights.
    """

    def __init__(self, states: int, hidden: int, latent: int, *, generator: torch.Generator):
        super().__init__()
        self.rnn = relu_rnn(states, hidden, bidirectional=True, generator=generator)
        self.head = MLP(2 * hidden, (), 2 * latent, generator=generator)

    def forward(self, states: Tensor) -> Plan:
        """States [B, T, S] to a plan's distribution."""
        ends = self.rnn(states)[1][-2:]  # last layer, both directions: [2, B, H]
        return Plan.of(self.head(torch.cat(tuple(ends), -1)))


class Proposer(nn.Module):
    """p(z | state, goal): what plans lead from a state to a goal.

    Args:
        states: S.
        goals: G.
        hidden: width of each of four layers.
        latent: Z.
        generator: source of the initial weights.
    """

    def __init__(
        self, states: int, goals: int, hidden: int, latent: int, *, generator: torch.Generator
    ):
        super().__init__()
        self.net = MLP(states + goals, (hidden,) * 4, 2 * latent, generator=generator)

    def forward(self, state: Tensor, goal: Tensor) -> Plan:
        """State [B, S] and goal [B, G] to a plan's distribution."""
        return Plan.of(self.net(torch.cat((state, goal), -1)))


class Mixture(NamedTuple):
    """A mixture of logistics for each action dimension: [..., A, M] each."""

    logits: Tensor
    mean: Tensor
    log_scale: Tensor

    def sample(self, gumbel: Tensor, uniform: Tensor) -> Tensor:
        """Actions [..., A] in [-1, 1]: a component by Gumbel-max, then a + s (ln u - ln(1 - u)).

        Args:
            gumbel: [..., A, M], uniform in (0, 1); Gumbel noise is made of it.
            uniform: [..., A], uniform in (0, 1).
        """
        noise = -torch.log(-torch.log(gumbel.clamp(UNIFORM_EDGE, 1 - UNIFORM_EDGE)))
        index = (self.logits + noise).argmax(-1, keepdim=True)
        mean, log_scale = (x.gather(-1, index).squeeze(-1) for x in (self.mean, self.log_scale))
        u = uniform.clamp(UNIFORM_EDGE, 1 - UNIFORM_EDGE)
        return (mean + log_scale.exp() * (u.log() - (1 - u).log())).clamp(-1.0, 1.0)

    def mode(self) -> Tensor:
        """The mean of the likeliest component of each dimension: [..., A] in [-1, 1]."""
        index = self.logits.argmax(-1, keepdim=True)
        return self.mean.gather(-1, index).squeeze(-1).clamp(-1.0, 1.0)


class Decoder(nn.Module):
    """pi(a_t | s_<=t, g, z): an RNN, or with `recurrent=False` an MLP of the present state.

    Args:
        states: S.
        goals: G.
        latent: Z; 0 for a policy without plans.
        actions: A.
        hidden: width of both layers.
        components: M.
        least_log_scale: lower clip of the log scales.
        recurrent: whether it remembers the states since the plan was made.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        states: int,
        goals: int,
        latent: int,
        actions: int,
        *,
        hidden: int,
        components: int,
        least_log_scale: float,
        recurrent: bool,
        generator: torch.Generator,
    ):
        super().__init__()
        self.shape = (actions, components)
        self.least_log_scale = least_log_scale
        inputs = latent + states + goals
        outputs = 3 * actions * components
        if recurrent:
            self.rnn = relu_rnn(inputs, hidden, generator=generator)
            self.head = MLP(hidden, (), outputs, generator=generator)
        else:
            self.rnn = None
            self.head = MLP(inputs, (hidden, hidden), outputs, generator=generator)
        self._spread()

    def _spread(self) -> None:
        """Start with components side by side over [-1, 1], each as wide as the gaps."""
        actions, components = self.shape
        output = self.head.linears[-1]
        with torch.no_grad():
            output.weight.mul_(0.1)
            bias = output.bias.view(3, actions, components)
            bias[1] = (torch.arange(components) + 0.5) * (2.0 / components) - 1.0
            bias[2] = -math.log(components)

    def forward(
        self, plan: Tensor, states: Tensor, goal: Tensor, memory: Tensor | None = None
    ) -> tuple[Mixture, Tensor | None]:
        """The actions of every step.

        Args:
            plan: [B, Z].
            states: [B, T, S].
            goal: [B, G].
            memory: [2, B, H] from an earlier call, or None at the beginning of a plan.

        Returns:
            The mixture, [B, T, A, M] each, and the memory after the last step.
        """
        batch, steps = states.shape[:2]
        fixed = torch.cat((plan, goal), -1)[:, None].expand(batch, steps, -1)
        x = torch.cat((fixed, states), -1)
        if self.rnn is not None:
            x, memory = self.rnn(x, memory)
        logits, mean, log_scale = self.head(x).unflatten(-1, (3, *self.shape)).unbind(-3)
        return Mixture(logits, mean, log_scale.clamp(min=self.least_log_scale)), memory


class PlanNetworks(nn.Module):
    """Goal encoder, recogniser, proposer and decoder; without plans only the first and last.

    Args:
        states: S.
        actions: A.
        latent: Z.
        goals: G.
        width: of the layers of all networks but the goal encoder.
        goal_width: of the goal encoder's two layers.
        components: M.
        least_log_scale: lower clip of the log scales.
        recurrent: of the decoder.
        planning: "proposed", "standard" (a fixed standard normal instead of the proposer), "none".
        generators: sources of the initial weights of goal, recogniser, proposer and decoder.
    """

    def __init__(
        self,
        states: int,
        actions: int,
        *,
        latent: int,
        goals: int,
        width: int,
        goal_width: int,
        components: int,
        least_log_scale: float,
        recurrent: bool,
        planning: str,
        generators: dict[str, torch.Generator],
    ):
        super().__init__()
        self.latent = 0 if planning == "none" else latent
        self.goal = MLP(states, (goal_width,) * 2, goals, generator=generators["goal"])
        self.recogniser = self.proposer = None
        if planning != "none":
            self.recogniser = Recogniser(states, width, latent, generator=generators["recogniser"])
        if planning == "proposed":
            self.proposer = Proposer(states, goals, width, latent, generator=generators["proposer"])
        self.decoder = Decoder(
            states,
            goals,
            self.latent,
            actions,
            hidden=width,
            components=components,
            least_log_scale=least_log_scale,
            recurrent=recurrent,
            generator=generators["decoder"],
        )

    def prior(self, state: Tensor, goal: Tensor) -> Plan:
        """Plans before anything was done: state [B, S], encoded goal [B, G]."""
        if self.proposer is not None:
            return self.proposer(state, goal)
        mean = state.new_zeros(len(state), self.latent)
        return Plan(mean, torch.ones_like(mean))

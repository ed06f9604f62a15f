"""An ensemble of Q-functions in one flat parameter, with a network backward written by hand.

Each member is Q(s, a) = MLP([s, a]): Linear -> [LayerNorm] -> ReLU per hidden layer, then a linear
output. All weights are one parameter [E, P], so Adam, Polyak averaging, the gradient norm and a
checkpoint are each one operation on one tensor.

`CriticEnsemble.forward` is the plain autograd reference. The training path (`values`, `accumulate`,
`action_gradient`) gives the same numbers several times faster on a CPU: it works on one chunk of
members and rows at a time, whose weights and activations stay in a core's cache.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policies.mlp import LAYER_NORM_EPS, orthogonal_

aten = torch.ops.aten

Loss = Callable[[Tensor, Tensor], Tensor]
Members = Sequence[int] | Tensor | None

# Chunking -----------------------------------------------------------------------------------

CACHE_BYTES = 1 << 20  # about one core's L2
MAX_VIEWS = 256  # remembered views of weights, gradients and targets
MIN_ROWS = 64  # fewer rows than this waste the matrix kernels


def chunk_sizes(
    device: torch.device, itemsize: int, parameters: int, width: int, rows: int
) -> tuple[int, int]:
    """How many members, and how many of their rows, to work on at once.

    On a GPU everything is one stacked product. On a CPU a pass over a chunk touches its weights
    and about four activations per hidden unit and row; that should fit the cache. Large networks
    come out as one member at a time, tiny ones as all members at once, which saves dispatch.

    Args:
        device: Where the ensemble lives.
        itemsize: Bytes per number.
        parameters: Parameters of one member.
        width: Widest hidden layer.
        rows: Rows (observation-action pairs) to evaluate.

    Returns:
        (members, rows), each at least 1.
    """
    if device.type != "cpu":
        return 1 << 30, 1 << 30
    row_bytes = 4 * width * itemsize
    rows = min(rows, max(MIN_ROWS, CACHE_BYTES // row_bytes))
    members = CACHE_BYTES // (parameters * itemsize + rows * row_bytes)
    return max(1, members), rows


class _Rows(NamedTuple):
    """A chunk of the batch: R observations, each with K actions (or one, then K is None)."""

    span: slice  # which of the B observations
    obs: Tensor  # [R, O]; with the actions appended, [R, O + A], when K is None
    act: Tensor  # [R * K, A]
    repeat: int | None  # K


class _Layer(NamedTuple):
    """Views of one layer of n members in the flat weights (or in their gradient)."""

    weight: Tensor  # [n, in, out]
    bias: Tensor  # [n, 1, out]
    scale: Tensor | None  # [n, 1, out], LayerNorm
    shift: Tensor | None  # [n, 1, out]


class _Tape(NamedTuple):
    """What the backward of one hidden layer needs; each activation is [n, rows, out]."""

    pre: Tensor  # linear output
    mean: Tensor | None  # LayerNorm statistics of `pre`
    rstd: Tensor | None
    normal: Tensor | None  # normalised `pre`, kept only when several members are stacked
    out: Tensor  # after LayerNorm and ReLU


class CriticEnsemble(nn.Module):
    """E Q-functions over (observation, action) with all weights in `weight` [E, P].

    Args:
        obs_dim: Features of an observation, O.
        act_dim: Features of an action, A.
        members: Number of Q-functions, E.
        hidden: Width of each hidden layer, at least one.
        layer_norm: LayerNorm before each ReLU.
        out_gain: Gain of the output layer's orthogonal initial weights (hidden layers: sqrt(2)).
        generator: Source of the initial weights.
        dtype: float32 or float64.
        device: Where the weights live.
        chunk: (members, rows) worked on at once; None chooses by `chunk_sizes`.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        *,
        members: int = 10,
        hidden: Sequence[int] = (256, 256),
        layer_norm: bool = True,
        out_gain: float = math.sqrt(2.0),
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        chunk: tuple[int, int] | None = None,
    ):
        super().__init__()
        if members < 1 or not hidden:
            raise ValueError(
                "CriticEnsemble: need at least one member and one hidden layer, "
                f"got members={members}, hidden={tuple(hidden)}"
            )
        self.obs_dim, self.act_dim, self.hidden = obs_dim, act_dim, tuple(hidden)
        self.layer_norm = layer_norm
        self.chunk = chunk
        widths = [obs_dim + act_dim, *hidden, 1]
        self._shapes: list[tuple[int, int]] = []
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            extras = 3 if layer_norm and i < len(hidden) else 1
            self._shapes += [(fan_in, fan_out)] + [(1, fan_out)] * extras
        self._sizes = [math.prod(shape) for shape in self._shapes]
        flat = torch.zeros(members, sum(self._sizes), dtype=dtype, device=device)
        for member in flat:
            layers = self._split(member[None])
            for layer in layers:
                gain = out_gain if layer is layers[-1] else math.sqrt(2.0)
                orthogonal_(layer.weight[0], gain, generator)
                if layer.scale is not None:
                    layer.scale.fill_(1.0)
        self.weight = nn.Parameter(flat)
        self._views: dict[tuple[int, int, int], list[_Layer]] = {}

    @property
    def members(self) -> int:
        """Number of Q-functions, E."""
        return self.weight.shape[0]

    def copy_weight(self) -> Tensor:
        """A detached copy of the weights [E, P], for a target network."""
        return self.weight.detach().clone()

    def clear_grad(self) -> None:
        """Sets the gradient to zero and keeps its buffer."""
        if self.weight.grad is None:
            self.weight.grad = torch.zeros_like(self.weight)
        else:
            self.weight.grad.zero_()

    # Reference ------------------------------------------------------------------------------

    def forward(
        self, obs: Tensor, act: Tensor, *, members: Members = None, weight: Tensor | None = None
    ) -> Tensor:
        """Q-values by plain autograd.

        Args:
            obs: [B, O].
            act: [B, A], or [B, K, A] for K actions per observation.
            members: Which Q-functions; None means all.
            weight: Weights [E, P] to use instead of the parameter, such as a target's.

        Returns:
            [E', B] or [E', B, K].
        """
        self._check(obs, act)
        weight = self.weight if weight is None else weight
        if members is not None:
            weight = weight[torch.as_tensor(members, device=weight.device)]
        n = weight.shape[0]
        *hidden, output = self._split(weight)
        if act.dim() == 3:
            obs = obs.unsqueeze(1).expand(-1, act.shape[1], -1)
        h = torch.cat([obs, act], -1).flatten(0, -2).expand(n, -1, -1)
        for layer in hidden:
            h = torch.baddbmm(layer.bias, h, layer.weight)
            if layer.scale is not None:
                h = F.layer_norm(h, h.shape[-1:], eps=LAYER_NORM_EPS) * layer.scale + layer.shift
            h = F.relu(h)
        q = torch.baddbmm(output.bias, h, output.weight)
        return q.view(n, *act.shape[:-1])

    # Training path --------------------------------------------------------------------------

    @torch.no_grad()
    def values(
        self, obs: Tensor, act: Tensor, *, members: Members = None, weight: Tensor | None = None
    ) -> Tensor:
        """`forward` without a gradient, chunk by chunk; keep `members` on the CPU."""
        weight = self.weight if weight is None else weight.detach()
        stack, rows = self._rows(obs, act)
        ids = self._ids(members)
        q = obs.new_empty(len(ids), *act.shape[:-1])
        for at, run in _runs(ids, stack):
            layers = self._layers(weight, run)
            for part in rows:
                q[at, part.span] = self._forward(layers, part)[0]
        return q

    @torch.no_grad()
    def accumulate(
        self, obs: Tensor, act: Tensor, loss: Loss, *, members: Members = None
    ) -> tuple[Tensor, Tensor]:
        """Adds the gradient of a loss to `weight.grad`.

        The loss must be a sum over members of a loss of each member's own values, because it is
        evaluated chunk by chunk of members (always on all B rows). Its gradient with respect to
        the values is taken by autograd, the one through the network by hand.

        Args:
            obs: [B, O].
            act: [B, A] or [B, K, A].
            loss: (q [n, B] or [n, B, K], ids [n] of its members) -> scalar.
            members: Which Q-functions; None means all.

        Returns:
            (q, loss): the detached values [E', B] or [E', B, K], and the summed loss, a scalar.
        """
        stack, rows = self._rows(obs, act)
        ids = self._ids(members)
        if self.weight.grad is None:
            self.clear_grad()
        q = obs.new_empty(len(ids), *act.shape[:-1])
        total = obs.new_zeros(())
        for at, run in _runs(ids, stack):
            layers = self._layers(self.weight, run)
            grads = self._layers(self.weight.grad, run)
            tapes = []
            for part in rows:
                q[at, part.span], tape = self._forward(layers, part)
                tapes.append(tape)
            value, dq = _leaf_gradient(loss, q[at], torch.arange(run.start, run.stop))
            total += value
            for part, tape in zip(rows, tapes, strict=True):
                self._backward(layers, part, tape, dq[:, part.span], grads)
        return q, total

    @torch.no_grad()
    def action_gradient(self, obs: Tensor, act: Tensor, *, reduce: str) -> tuple[Tensor, Tensor]:
        """The ensemble's minimum or mean and its gradient with respect to the action.

        For the minimum only each row's smallest member has a gradient, so rows are grouped by
        that member. Nothing flows into the weights.

        Args:
            obs: [B, O].
            act: [B, A].
            reduce: "min" or "mean" over all members.

        Returns:
            (q [B], dq/da [B, A]).
        """
        if reduce not in ("min", "mean"):
            raise ValueError(f'action_gradient: reduce must be "min" or "mean", got {reduce!r}')
        if act.dim() != 2:
            raise ValueError(f"action_gradient: act must be [B, A], got {tuple(act.shape)}")
        stack, rows = self._rows(obs, act)
        grad = torch.zeros_like(act)
        if reduce == "min" and stack < self.members:
            q, smallest = self.values(obs, act).min(0)
            order = smallest.argsort()
            counts = smallest.bincount(minlength=self.members).tolist()
            for member, group in enumerate(order.split(counts)):
                if len(group):
                    layers = self._layers(self.weight, slice(member, member + 1))
                    for part in self._rows(obs[group], act[group])[1]:
                        value, tape = self._forward(layers, part)
                        grad[group[part.span]] = self._backward(
                            layers, part, tape, torch.ones_like(value)
                        )
            return q, grad
        total = obs.new_zeros(len(obs))
        for _, run in _runs(range(self.members), stack):
            layers = self._layers(self.weight, run)
            for part in rows:
                value, tape = self._forward(layers, part)
                if reduce == "min":
                    total[part.span], smallest = value.min(0)
                    dq = torch.zeros_like(value).scatter_(0, smallest[None], 1.0)
                else:
                    total[part.span] += value.sum(0) / self.members
                    dq = torch.full_like(value, 1.0 / self.members)
                grad[part.span] += self._backward(layers, part, tape, dq)
        return total, grad

    # Forward and backward of one chunk ------------------------------------------------------

    def _forward(self, layers: list[_Layer], rows: _Rows) -> tuple[Tensor, list[_Tape]]:
        """h_0 = [s, a]; z_l = h_{l-1} W_l + b_l; h_l = relu(LN(z_l)); q = h_L w + b.

        With K actions per observation z_1 = (s W_s + b_1) + a W_a, its first term computed once
        per observation.

        Returns:
            (q [n, R] or [n, R, K], tape of the hidden layers).
        """
        *hidden, output = layers
        tapes: list[_Tape] = []
        for layer in hidden:
            n, _, width = layer.bias.shape
            if tapes:
                pre = torch.baddbmm(layer.bias, tapes[-1].out, layer.weight)
            elif rows.repeat is None:
                pre = torch.baddbmm(layer.bias, rows.obs.expand(n, -1, -1), layer.weight)
            else:
                w_obs, w_act = layer.weight.split([self.obs_dim, self.act_dim], 1)
                obs_part = torch.baddbmm(layer.bias, rows.obs.expand(n, -1, -1), w_obs)
                pre = torch.bmm(rows.act.expand(n, -1, -1), w_act)
                pre.view(n, -1, rows.repeat, width).add_(obs_part.unsqueeze(2))
            tapes.append(_activate(layer, pre))
        q = torch.baddbmm(output.bias, tapes[-1].out, output.weight).squeeze(-1)
        return (q if rows.repeat is None else q.view(n, -1, rows.repeat)), tapes

    def _backward(
        self,
        layers: list[_Layer],
        rows: _Rows,
        tapes: list[_Tape],
        dq: Tensor,
        grads: list[_Layer] | None = None,
    ) -> Tensor | None:
        """The transposed pass: dh_L = dq w'; dz_l = LN'(dh_l * [h_l > 0]); dh_{l-1} = dz_l W_l'.

        Args:
            layers: Weights of the n members.
            rows: The rows of the forward.
            tapes: Its tape.
            dq: [n, R] or [n, R, K].
            grads: Where to add dW_l = h_{l-1}' dz_l and db_l = sum dz_l; None to skip that and
                return the gradient with respect to the actions instead.

        Returns:
            None, or dq/da summed over the n members, [R, A].
        """
        *hidden, output = layers
        dq = dq.flatten(1).unsqueeze(-1)
        if grads is not None:
            grads[-1].weight.baddbmm_(tapes[-1].out.transpose(1, 2), dq)
            grads[-1].bias.add_(dq.sum(1, keepdim=True))
        d = dq * output.weight.transpose(1, 2)
        for i in reversed(range(len(hidden))):
            layer, grad = hidden[i], None if grads is None else grads[i]
            d = _deactivate(layer, tapes[i], d, grad)
            if i > 0:
                if grad is not None:
                    grad.bias.add_(d.sum(1, keepdim=True))
                    grad.weight.baddbmm_(tapes[i - 1].out.transpose(1, 2), d)
                d = torch.bmm(d, layer.weight.transpose(1, 2))
            elif grad is not None:
                self._first_layer_gradient(grad, rows, d)
        if grads is not None:
            return None
        return torch.bmm(d, hidden[0].weight[:, self.obs_dim :].transpose(1, 2)).sum(0)

    def _first_layer_gradient(self, grad: _Layer, rows: _Rows, d: Tensor) -> None:
        """dW_s = s' sum_k dz_1, dW_a = a' dz_1: the observations are not repeated K times."""
        n, _, width = d.shape
        w_obs = grad.weight
        if rows.repeat is not None:
            w_obs, w_act = grad.weight.split([self.obs_dim, self.act_dim], 1)
            w_act.baddbmm_(rows.act.t().expand(n, -1, -1), d)
            d = d.view(n, -1, rows.repeat, width).sum(2)
        grad.bias.add_(d.sum(1, keepdim=True))
        w_obs.baddbmm_(rows.obs.t().expand(n, -1, -1), d)

    # Views and checks -----------------------------------------------------------------------

    def _layers(self, flat: Tensor, run: slice) -> list[_Layer]:
        """`_split` of some members' weights, remembered: making the views costs as much as a sum.

        A remembered view keeps its memory alive, so the same address is the same memory.
        """
        key = (flat.data_ptr(), run.start, run.stop)
        layers = self._views.get(key)
        if layers is None:
            if len(self._views) >= MAX_VIEWS:
                self._views.clear()
            layers = self._views[key] = self._split(flat.detach()[run])
        return layers

    def _split(self, flat: Tensor) -> list[_Layer]:
        """Views of flat weights [n, P], layer by layer."""
        parts = flat.split(self._sizes, 1)
        views = [p.view(-1, *shape) for p, shape in zip(parts, self._shapes, strict=True)]
        if not self.layer_norm:
            return [_Layer(*views[i : i + 2], None, None) for i in range(0, len(views), 2)]
        hidden = [_Layer(*views[i : i + 4]) for i in range(0, len(views) - 2, 4)]
        return [*hidden, _Layer(*views[-2:], None, None)]

    def _rows(self, obs: Tensor, act: Tensor) -> tuple[int, list[_Rows]]:
        """The members to stack, and the batch cut into row chunks."""
        self._check(obs, act)
        obs, act = obs.detach(), act.detach()
        repeat = act.shape[1] if act.dim() == 3 else None
        per_obs = repeat or 1
        members, limit = self.chunk or chunk_sizes(
            obs.device,
            obs.element_size(),
            self.weight.shape[1],
            max(self.hidden),
            len(obs) * per_obs,
        )
        step = max(1, limit // per_obs)
        x = torch.cat([obs, act], 1) if repeat is None else obs
        parts = []
        for start in range(0, len(obs), step):
            span = slice(start, start + step)
            parts.append(_Rows(span, x[span], act[span].reshape(-1, self.act_dim), repeat))
        return members, parts

    def _ids(self, members: Members) -> Sequence[int]:
        if members is None:
            return range(self.members)
        ids = members.tolist() if isinstance(members, Tensor) else list(members)
        if any(not 0 <= i < self.members for i in ids):
            raise ValueError(f"CriticEnsemble: members must be in [0, {self.members}), got {ids}")
        return ids

    def _check(self, obs: Tensor, act: Tensor) -> None:
        if (
            obs.dim() != 2
            or act.dim() not in (2, 3)
            or obs.shape[1] != self.obs_dim
            or act.shape[-1] != self.act_dim
            or len(obs) != len(act)
        ):
            raise ValueError(
                f"CriticEnsemble: need obs [B, {self.obs_dim}] and act [B, {self.act_dim}] or "
                f"[B, K, {self.act_dim}], got {tuple(obs.shape)} and {tuple(act.shape)}"
            )


class SquaredError:
    """sum_e mean_b (q_eb - target_b)^2, with its gradient written out.

    Args:
        target: [B], for q [n, B].
    """

    def __init__(self, target: Tensor):
        self.target = target

    def __call__(self, q: Tensor, ids: Tensor) -> Tensor:
        """The loss, a scalar."""
        return ((q - self.target) ** 2).mean(1).sum()

    def gradient(self, q: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its gradient with respect to q [n, B]."""
        error = q - self.target
        flat = error.view(-1)
        return flat.dot(flat) / len(self.target), error * (2.0 / len(self.target))


def _runs(ids: Sequence[int], limit: int) -> Iterator[tuple[slice, slice]]:
    """Cuts ids into consecutive runs of at most `limit`: (where in ids, which members)."""
    start = 0
    for i in range(1, len(ids) + 1):
        if i == len(ids) or ids[i] != ids[i - 1] + 1 or i - start == limit:
            yield slice(start, i), slice(ids[start], ids[i - 1] + 1)
            start = i


def _leaf_gradient(loss: Loss, q: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and its gradient with respect to q, taken as a leaf."""
    if hasattr(loss, "gradient"):
        return loss.gradient(q, ids)
    with torch.enable_grad():
        leaf = q.detach().requires_grad_()
        value = loss(leaf, ids.to(q.device))
        (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def _activate(layer: _Layer, pre: Tensor) -> _Tape:
    """relu(LN(z)): the fused LayerNorm applies one member's scale and shift, not a stack's."""
    if layer.scale is None:
        return _Tape(pre, None, None, None, pre.relu_())
    shape = pre.shape[-1:]
    if len(pre) == 1:
        scale, shift = layer.scale.flatten(), layer.shift.flatten()
        out, mean, rstd = aten.native_layer_norm(pre, shape, scale, shift, LAYER_NORM_EPS)
        return _Tape(pre, mean, rstd, None, out.relu_())
    normal, mean, rstd = aten.native_layer_norm(pre, shape, None, None, LAYER_NORM_EPS)
    out = torch.addcmul(layer.shift, normal, layer.scale).relu_()
    return _Tape(pre, mean, rstd, normal, out)


def _deactivate(layer: _Layer, tape: _Tape, d: Tensor, grad: _Layer | None) -> Tensor:
    """dh -> dz through relu(LN(z)); adds dscale = sum dh LN(z) and dshift = sum dh to `grad`."""
    d = aten.threshold_backward(d, tape.out, 0)
    if layer.scale is None:
        return d
    shape = d.shape[-1:]
    stats = (tape.mean, tape.rstd)
    if len(d) == 1:
        affine = (layer.scale.flatten(), layer.shift.flatten())
        mask = [True, grad is not None, grad is not None]
        d, scale, shift = aten.native_layer_norm_backward(d, tape.pre, shape, *stats, *affine, mask)
        if grad is not None:
            grad.scale.add_(scale)
            grad.shift.add_(shift)
        return d
    if grad is not None:
        grad.scale.add_((d * tape.normal).sum(1, keepdim=True))
        grad.shift.add_(d.sum(1, keepdim=True))
    mask = [True, False, False]
    return aten.native_layer_norm_backward(
        d * layer.scale, tape.pre, shape, *stats, None, None, mask
    )[0]

"""Forward and hand-written backward of several equal MLPs [s, a] -> scalar at once.

The n networks (members of an ensemble) are stacked along the first axis of every weight and
activation. Nothing here knows the ensemble or its chunking: see `policies.critic`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from policies.mlp import LAYER_NORM_EPS

aten = torch.ops.aten


class Rows(NamedTuple):
    """A chunk of the batch: R observations, each with K actions (or one, then K is None)."""

    span: slice  # which of the B observations
    obs: Tensor  # [1, R, O]; with `act` appended, [1, R, O + A + 1], when K is None
    act: Tensor  # [1, R * K, A + 1], the actions and a column of ones that carries the bias
    repeat: int | None  # K

    def part(self, start: int, end: int) -> "Rows":
        """Some of the observations, with their actions; `end` may lie beyond the last."""
        k = self.repeat or 1
        obs, act = self.obs[:, start:end], self.act[:, start * k : end * k]
        return Rows(slice(start, end), obs, act, self.repeat)


class Layer(NamedTuple):
    """Views of one layer of n members in the flat weights (or in their gradient)."""

    affine: Tensor  # [n, in + 1, out]: the weight and below it the bias, which are:
    weight: Tensor  # [n, in, out]
    bias: Tensor  # [n, 1, out]
    transposed: Tensor  # [n, out, in], the weight again
    scale: Tensor | None  # [n, 1, out], LayerNorm; [out] of a single member
    shift: Tensor | None  # the same


class Tape(NamedTuple):
    """What the backward of one hidden layer needs; each activation is [n, rows, out]."""

    pre: Tensor | None  # linear output, for LayerNorm
    mean: Tensor | None  # LayerNorm statistics of `pre`
    rstd: Tensor | None
    normal: Tensor | None  # normalised `pre`, kept only when several members are stacked
    out: Tensor  # after LayerNorm and ReLU

    def rows(self, index: Tensor) -> "Tape":
        """The tape of some rows."""
        return Tape(*(None if t is None else t.index_select(1, index) for t in self))


def forward(layers: list[Layer], rows: Rows, tapes: list[Tape] | None = None) -> Tensor:
    """h_0 = [s, a]; z_l = h_{l-1} W_l + b_l; h_l = relu(LN(z_l)); q = h_L w + b.

    The bias of the first layer is the weight of a constant input. With K actions per observation
    z_1 = s W_s + [a, 1] [W_a; b_1], its first term computed once per observation.

    Args:
        layers: Weights of the n members.
        rows: What to evaluate.
        tapes: The tape of each hidden layer is appended here, for `backward`.

    Returns:
        q [n, R] or [n, R, K].
    """
    *hidden, output = layers
    n, h = len(output.bias), None
    for layer in hidden:
        if h is not None:
            pre = torch.bmm(h, layer.weight).add_(layer.bias)
        elif rows.repeat is None:
            pre = torch.bmm(_shared(rows.obs, n), layer.affine)
        else:
            w_obs, w_act = _split_input(layer, rows)
            obs_part = torch.bmm(_shared(rows.obs, n), w_obs)
            pre = torch.bmm(_shared(rows.act, n), w_act)
            pre.view(n, -1, rows.repeat, pre.shape[-1]).add_(obs_part.unsqueeze(2))
        tape = _activate(layer, pre)
        h = tape.out
        if tapes is not None:
            tapes.append(tape)
        del pre, tape  # the next layer takes memory that is still in the cache
    q = torch.baddbmm(output.bias, h, output.weight)
    return q.squeeze(-1) if rows.repeat is None else q.view(n, -1, rows.repeat)


def backward(
    layers: list[Layer],
    rows: Rows,
    tapes: list[Tape],
    dq: Tensor,
    grads: list[Layer] | None = None,
    *,
    add: bool = True,
) -> Tensor | None:
    """The transposed pass: dh_L = dq w'; dz_l = LN'(dh_l * [h_l > 0]); dh_{l-1} = dz_l W_l'.

    Args:
        layers: Weights of the n members.
        rows: The rows of the forward.
        tapes: Its tapes.
        dq: [n, R] or [n, R, K].
        grads: Where dW_l = h_{l-1}' dz_l and db_l = sum dz_l go; None to skip that and return
            the gradient with respect to the actions instead.
        add: Add to `grads`; False overwrites them, whatever they hold.

    Returns:
        None, or dq/da summed over the n members, [R, A].
    """
    *hidden, output = layers
    dq = dq.reshape(len(dq), -1, 1)
    if grads is not None:
        _product(grads[-1].weight, tapes[-1].out, dq, add)
        _row_sum(grads[-1].bias, dq, add)
    d = dq * output.transposed
    for i in reversed(range(len(hidden))):
        layer, grad = hidden[i], None if grads is None else grads[i]
        d = _deactivate(layer, tapes[i], d, grad, add)
        if i > 0:
            if grad is not None:
                _row_sum(grad.bias, d, add)
                _product(grad.weight, tapes[i - 1].out, d, add)
            d = torch.bmm(d, layer.transposed)
        elif grad is not None:
            _first_layer_gradient(grad, rows, d, add)
    if grads is not None:
        return None
    w_act = _split_input(hidden[0], rows)[1][:, :-1]
    return torch.bmm(d, w_act.transpose(1, 2)).sum(0)


def _first_layer_gradient(grad: Layer, rows: Rows, d: Tensor, add: bool) -> None:
    """dW_s = s' sum_k dz_1, dW_a = a' dz_1: the observations are not repeated K times."""
    n, _, width = d.shape
    w_obs = grad.affine
    if rows.repeat is not None:
        w_obs, w_act = _split_input(grad, rows)
        _product(w_act, _shared(rows.act, n), d, add)
        d = d.view(n, -1, rows.repeat, width).sum(2)
    _product(w_obs, _shared(rows.obs, n), d, add)


def _shared(x: Tensor, n: int) -> Tensor:
    """The same rows [1, R, in] for n members."""
    return x if n == 1 else x.expand(n, -1, -1)


def _split_input(layer: Layer, rows: Rows) -> tuple[Tensor, Tensor]:
    """What multiplies the observation, [n, O, out], and [a, 1], [n, A + 1, out]."""
    of_act = rows.act.shape[-1]
    return layer.affine.split([layer.affine.shape[1] - of_act, of_act], 1)


def _product(into: Tensor, h: Tensor, d: Tensor, add: bool) -> None:
    """h' d, added or written."""
    into.baddbmm_(h.transpose(1, 2), d, beta=1.0 if add else 0.0)


def _row_sum(into: Tensor, d: Tensor, add: bool) -> None:
    """The sum over rows, added or written."""
    if add:
        into.add_(d.sum(1, keepdim=True))
    else:
        torch.sum(d, 1, keepdim=True, out=into)


def _put(into: Tensor, value: Tensor, add: bool) -> None:
    """A value, added or written."""
    if add:
        into.add_(value)
    else:
        into.copy_(value)


def _activate(layer: Layer, pre: Tensor) -> Tape:
    """relu(LN(z)): the fused LayerNorm applies one member's scale and shift, not a stack's."""
    if layer.scale is None:
        return Tape(None, None, None, None, pre.relu_())
    shape = pre.shape[-1:]
    if len(pre) == 1:
        affine = (layer.scale, layer.shift)
        out, mean, rstd = torch.native_layer_norm(pre, shape, *affine, LAYER_NORM_EPS)
        return Tape(pre, mean, rstd, None, out.relu_())
    normal, mean, rstd = torch.native_layer_norm(pre, shape, None, None, LAYER_NORM_EPS)
    out = torch.addcmul(layer.shift, normal, layer.scale).relu_()
    return Tape(pre, mean, rstd, normal, out)


def _deactivate(layer: Layer, tape: Tape, d: Tensor, grad: Layer | None, add: bool) -> Tensor:
    """dh -> dz through relu(LN(z)); dscale = sum dh LN(z) and dshift = sum dh go to `grad`."""
    aten.threshold_backward.grad_input(d, tape.out, 0, grad_input=d)
    if layer.scale is None:
        return d
    shape = d.shape[-1:]
    stats = (tape.mean, tape.rstd)
    if len(d) == 1:
        affine = (layer.scale, layer.shift)
        mask = [True, grad is not None, grad is not None]
        d, scale, shift = aten.native_layer_norm_backward(d, tape.pre, shape, *stats, *affine, mask)
        if grad is not None:
            _put(grad.scale, scale, add)
            _put(grad.shift, shift, add)
        return d
    if grad is not None:
        _row_sum(grad.scale, d * tape.normal, add)
        _row_sum(grad.shift, d, add)
    mask = [True, False, False]
    return aten.native_layer_norm_backward(
        d * layer.scale, tape.pre, shape, *stats, None, None, mask
    )[0]

"""An ensemble of Q-functions in one flat parameter, with a network backward written by hand.

Each member is Q(s, a) = MLP([s, a]): Linear -> [LayerNorm] -> ReLU per hidden layer, then a linear
output. All weights are one parameter [E, P], so Adam, Polyak averaging, the gradient norm and a
checkpoint are each one operation on one tensor.

`CriticEnsemble.forward` is the plain autograd reference. The training path (`values`, `accumulate`,
`action_gradient`) gives the same numbers several times faster on a CPU: it works on one chunk of
members and rows at a time, whose weights and activations stay in a core's cache.
"""

import abc
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policies.mlp import LAYER_NORM_EPS, orthogonal_
from policies.stacked import Layer, Rows, backward, forward

Members = Sequence[int] | Tensor | None


class RowLoss(abc.ABC):
    """A sum over members and rows of a loss of each row's own values, known by its gradient."""

    @abc.abstractmethod
    def gradient(self, q: Tensor, span: slice) -> Tensor:
        """dL/dq for some members and rows; called once for each of them.

        Args:
            q: [n, R] or [n, R, K], the values of n members in rows `span` of the batch.
            span: Which of the B rows.
        """


# Chunking -----------------------------------------------------------------------------------

CACHE_BYTES = 1 << 20  # about one core's L2
ROW_BYTES = 8 << 20  # activations of one member; larger than L2, but fewer passes: see below
MIN_ROWS = 64  # fewer rows than this waste the matrix kernels


def chunk_sizes(
    device: torch.device, itemsize: int, parameters: int, width: int, rows: int
) -> tuple[int, int]:
    """How many members, and how many of their rows, to work on at once.

    On a GPU everything is one stacked product. On a CPU a pass over a chunk touches its weights
    and about four activations per hidden unit and row. Members are stacked only while all that
    fits the cache: large networks come out as one at a time, tiny ones as all at once, which saves
    dispatch. Rows are cut later, at 2048 for width 256, because small products and the passes over
    a member's gradient cost more than L2 misses (Cal-QL, 7936 rows: 1.12x faster than 256 rows).

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
    rows = min(rows, max(MIN_ROWS, ROW_BYTES // row_bytes))
    members = CACHE_BYTES // (parameters * itemsize + rows * row_bytes)
    return max(1, members), rows


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
            extras = 2 if layer_norm and i < len(hidden) else 0
            self._shapes += [(fan_in + 1, fan_out)] + [(1, fan_out)] * extras  # bias as last row
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
        self._views: dict[tuple[int, int, int], list[Layer]] = {}

    def __getstate__(self) -> dict:
        """Without the remembered views: a copied module has its own memory."""
        return {**self.__dict__, "_views": {}}

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
        runs = list(_runs(ids, stack))
        # Where members are stacked, copying their (small) weights costs less than another pass.
        gather = math.ceil(len(ids) / stack) < len(runs)
        if gather:
            weight = weight[torch.as_tensor(ids, device=weight.device)]
            runs = list(_runs(range(len(ids)), stack))
        q = obs.new_empty(len(ids), *act.shape[:-1])
        for at, run in runs:
            layers = self._split(weight[run]) if gather else self._layers(weight, run)
            for part in rows:
                q[at, part.span] = forward(layers, part)
        return q

    @torch.no_grad()
    def accumulate(
        self,
        obs: Tensor,
        act: Tensor,
        loss: RowLoss,
        *,
        members: Members = None,
        add: bool = True,
    ) -> Tensor:
        """Adds the gradient of a loss to `weight.grad`, or writes it there.

        Members and rows are taken chunk by chunk: forward, the loss's gradient, backward, so that
        the backward finds its tape in the cache.

        Args:
            obs: [B, O].
            act: [B, A] or [B, K, A].
            loss: Gives the gradient with respect to the values.
            members: Which Q-functions; None means all.
            add: Add to the gradient; False overwrites it (that of all members, so give none).

        Returns:
            The values [E', B] or [E', B, K].
        """
        if not add and members is not None:
            raise ValueError("accumulate: add=False overwrites the gradient of all members")
        stack, rows = self._rows(obs, act)
        if self.weight.grad is None:
            self.clear_grad()
        values = []
        for _, run in _runs(self._ids(members), stack):
            layers = self._layers(self.weight, run)
            grads = self._layers(self.weight.grad, run)
            chunks = []
            for i, part in enumerate(rows):
                q = forward(layers, part, tapes := [])
                chunks.append(q)
                dq = loss.gradient(q, part.span)
                backward(layers, part, tapes, dq, grads, add=add or i > 0)
                del tapes  # so that the next chunk's takes the memory that is in the cache
            values.append(chunks[0] if len(chunks) == 1 else torch.cat(chunks, 1))
        return torch.cat(values)

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
        if reduce == "min" and stack < self.members == 2:
            return self._smaller_gradient(rows, act)
        if reduce == "min" and stack < self.members:
            return self._smallest_gradient(obs, act)
        total = obs.new_zeros(len(obs))
        for _, run in _runs(range(self.members), stack):
            layers = self._layers(self.weight, run)
            for part in rows:
                value = forward(layers, part, tapes := [])
                if reduce == "min":
                    total[part.span], smallest = value.min(0)
                    dq = torch.zeros_like(value).scatter_(0, smallest[None], 1.0)
                else:
                    total[part.span] += value.sum(0) / self.members
                    dq = torch.full_like(value, 1.0 / self.members)
                grad[part.span] += backward(layers, part, tapes, dq)
        return total, grad

    def _smallest_gradient(self, obs: Tensor, act: Tensor) -> tuple[Tensor, Tensor]:
        """`action_gradient` of the smallest of many members, taken again for its own rows only."""
        q, smallest = self.values(obs, act).min(0)
        order = smallest.argsort()
        starts = [0, *smallest.bincount(minlength=self.members).cumsum(0).tolist()]
        rows = self._whole(obs[order], act[order])
        grad = torch.empty_like(act)
        for member, (start, end) in enumerate(itertools.pairwise(starts)):
            if start < end:
                layers = self._layers(self.weight, slice(member, member + 1))
                part = rows.part(start, end)
                value = forward(layers, part, tapes := [])
                grad[start:end] = backward(layers, part, tapes, torch.ones_like(value))
        return q, torch.empty_like(grad).index_copy_(0, order, grad)

    def _smaller_gradient(self, rows: list[Rows], act: Tensor) -> tuple[Tensor, Tensor]:
        """`action_gradient` of the smaller of two members, whose tapes are worth keeping."""
        q, grad = act.new_empty(len(act)), torch.empty_like(act)
        nets = [self._layers(self.weight, slice(i, i + 1)) for i in range(2)]
        for part in rows:
            first, second = [], []
            values = forward(nets[0], part, first), forward(nets[1], part, second)
            q[part.span] = torch.minimum(*values)[0]
            smaller = (values[0] <= values[1])[0]
            for layers, tapes, mine in ((nets[0], first, smaller), (nets[1], second, ~smaller)):
                index = mine.nonzero().squeeze(1)
                if len(index):
                    picked = [t.rows(index) for t in tapes]
                    d = backward(layers, part, picked, act.new_ones(1, len(index)))
                    grad[part.span].index_copy_(0, index, d)
        return q, grad

    # Views and checks -----------------------------------------------------------------------

    def _layers(self, flat: Tensor, run: slice) -> list[Layer]:
        """`_split` of some members' weights, remembered: making the views costs as much as a sum.

        A remembered view keeps its memory alive, so the same address is the same memory.
        """
        key = (flat.data_ptr(), run.start, run.stop)
        layers = self._views.get(key)
        if layers is None:
            if len(self._views) >= 4 * self.members:  # weight, gradient, target and one to spare
                self._views.clear()
            layers = self._views[key] = self._split(flat.detach()[run])
        return layers

    def _split(self, flat: Tensor) -> list[Layer]:
        """Views of flat weights [n, P], layer by layer."""
        parts = flat.split(self._sizes, 1)
        views = [p.view(-1, *shape) for p, shape in zip(parts, self._shapes, strict=True)]
        step = 3 if self.layer_norm else 1
        layers = []
        for i in range(0, len(views), step):
            affine, scale, shift = (*views[i : i + step], None, None)[:3]
            weight, bias = affine.split([affine.shape[1] - 1, 1], 1)
            if scale is not None and len(scale) == 1:
                scale, shift = scale.flatten(), shift.flatten()  # as the fused LayerNorm wants it
            layers.append(Layer(affine, weight, bias, weight.transpose(1, 2), scale, shift))
        return layers

    def _rows(self, obs: Tensor, act: Tensor) -> tuple[int, list[Rows]]:
        """The members to stack, and the batch cut into row chunks."""
        whole = self._whole(obs, act)
        per_obs = whole.repeat or 1
        members, limit = self.chunk or chunk_sizes(
            obs.device,
            obs.element_size(),
            self.weight.shape[1],
            max(self.hidden),
            len(obs) * per_obs,
        )
        step = max(1, limit // per_obs)
        return members, [whole.part(i, i + step) for i in range(0, len(obs), step)]

    def _whole(self, obs: Tensor, act: Tensor) -> Rows:
        """The batch as one chunk."""
        self._check(obs, act)
        obs, act = obs.detach(), act.detach()
        repeat = act.shape[1] if act.dim() == 3 else None
        act = torch.cat([act, act.new_ones(()).expand(*act.shape[:-1], 1)], -1)
        x = torch.cat([obs, act], 1) if repeat is None else obs
        act = act.view(1, -1, self.act_dim + 1)
        return Rows(slice(0, len(obs)), x.unsqueeze(0), act, repeat)

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


def _runs(ids: Sequence[int], limit: int) -> Iterator[tuple[slice, slice]]:
    """Cuts ids into consecutive runs of at most `limit`: (where in ids, which members)."""
    start = 0
    for i in range(1, len(ids) + 1):
        if i == len(ids) or ids[i] != ids[i - 1] + 1 or i - start == limit:
            yield slice(start, i), slice(ids[start], ids[i - 1] + 1)
            start = i

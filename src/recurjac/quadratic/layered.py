"""The P-chain along layers: a factor of the matrix is carried, on the smaller side of each layer.

For each v of the ball and all slopes, what a layer gives is h = L ω + b with ‖ω‖² <= growth and ‖b‖ <= loose.
L is stored as its columns, the *roots*.  The rest b is rounding alone, and is carried on by norms.
Source: docs/mathematics.md, §5.10.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Rigorous, length_of, root_up
from recurjac.arithmetic.rounding import grow, tiny_of
from recurjac.operators import AbstractOperator
from recurjac.quadratic.bends import Bends, bends
from recurjac.quadratic.layers import Layer, Layers
from recurjac.quadratic.roots import root_above
from recurjac.quadratic.windows import Windows

_SMALL = 1e-8
"""The size of deviations that are not told from 0, relative to the largest entry."""


@runtime_checkable
class Choose(Protocol):
    """Multipliers of a layer: those of its neurons up to a factor, (g, u), and that factor for a matrix (r, r)."""

    def inverse(self, k: int, windows: Windows) -> Tensor: ...
    def factor(self, k: int, cost: Tensor) -> Tensor: ...


@final
@dataclass(frozen=True)
class Reached:
    """(c J v) for each row c lies within √(growth G_cc) + rest_c; the sum of both parts bounds every norm.

    gram: G (K, K), rest: (K,), growth: a scalar not below 1.
    """

    gram: Ball
    growth: Tensor
    rest: Tensor

    @classmethod
    def exactly(cls, gram: Ball) -> Reached:
        """What rows reach if G alone bounds it."""
        return cls(gram, torch.ones_like(gram.mid[0, 0]), torch.zeros_like(gram.mid[0]))


@final
@dataclass(frozen=True)
class _State:
    """The invariant of the module; roots: (r, n), exact."""

    roots: Ball
    growth: Tensor
    loose: Tensor


def reach_layers(layers: Layers, start: Tensor, choose: Choose) -> Reached | None:
    """What the rows reach for each v for which the sum of v_i² / start_i is at most 1; None if nothing is proved.

    start: (inputs,).  Without radii, the result is differentiable, and not proved.
    """
    exact, one = layers.arithmetic.exact, torch.ones((), dtype=start.dtype, device=start.device)
    root = root_up(start) if layers.arithmetic.rigorous else start.sqrt()
    state = _State(exact(torch.diag(root)), one, torch.zeros_like(one))
    for k, layer in enumerate(layers.layers):
        found = _through(k, layer, state, choose, layers.arithmetic)
        if found is None or not bool(found.roots.mid.isfinite().all()):
            return None
        state = found
    across = state.roots.matmul(layers.rows).map(lambda t: t.mT)  # (K, r)
    size = layers.rows.size if layers.rows.rad is None else layers.rows.size + layers.rows.rad
    least = tiny_of(start) * (state.loose > 0).to(start.dtype)  # the product may underflow
    rest = grow(length_of(size, 2) * state.loose + least, size.shape[1] + 8)
    gram = across.matmul(across)
    return Reached(gram, state.growth, rest) if bool(gram.mid.isfinite().all()) else None


def _through(k: int, layer: Layer, state: _State, choose: Choose, arithmetic: AbstractArithmetic) -> _State | None:
    """The state after a layer."""
    windows = layer.windows
    bend = bends(windows, choose.inverse(k, windows))
    entered = None if bend is None else _entered(layer, state)
    if bend is None or entered is None:
        return None
    images = entered.map(lambda t: t[:, windows.entries].transpose(0, 1))  # (g, r, a)
    costs = images.matmul(bend.cost)
    short = len(entered.mid) == len(state.roots.mid) and layer.inputs < windows.entries.numel()
    whole = _pulled(layer, costs, state.roots) if short else _flat(costs).matmul(_flat(images))
    factor = (choose.factor(k, whole.mid) + _floor(entered.mid)).clamp(min=tiny_of(whole.mid) * 2.0**60)
    rank = len(whole.mid)
    left = arithmetic.exact(torch.eye(rank, dtype=whole.mid.dtype, device=whole.mid.device)) - _over(whole, factor)
    lower, info = torch.linalg.cholesky_ex(left.mid / 2 + left.mid.mT / 2)
    if int(info) != 0:
        return None
    given = _flat(images.matmul(bend.middle))  # (r, g o)
    turned = torch.linalg.solve_triangular(lower, given.mid, upper=False)
    growth, lost = state.growth, state.loose
    if arithmetic.rigorous:
        low = arithmetic.exact(lower)
        growth = grow(growth * (1 + _row_sum(left - low.matmul(low))), 4)
        lost = _norm_above(layer.operators) * lost * bend.norm
        lost = grow(lost + _frobenius(given - low.matmul(arithmetic.exact(turned.mT))), 8)
    roots = _joined(layer, turned, bend, factor, arithmetic)
    return None if roots is None else _State(roots, growth, lost)


def _floor(images: Tensor) -> Tensor:
    """What any factor is above, so that a layer without unknown slopes is not divided by nearly 0."""
    return (images.detach().abs().amax() * _SMALL).square()


def _entered(layer: Layer, state: _State) -> Ball | None:
    """The roots of y, (r, entries), of which there are at most as many as live entries."""
    images = layer.push(state.roots)
    live = layer.windows.entries.unique()
    if len(images.mid) <= len(live):
        return images
    side = images.map(lambda t: t[:, live].mT)
    root = root_above(side.matmul(side))
    if root is None:
        return None
    blank = torch.zeros(len(live), layer.windows.size, dtype=root.dtype, device=root.device)
    return _as(images, blank.index_copy(1, live, root.mT))


def _pulled(layer: Layer, costs: Ball, roots: Ball) -> Ball:
    """Lᵀ Aᵀ C A L from C A L (g, r, a) and the roots L of what the layer reads."""
    windows, rank = layer.windows, len(roots.mid)

    def spread(t: Tensor) -> Tensor:
        blank = torch.zeros(rank, windows.size, dtype=t.dtype, device=t.device)
        return blank.index_add(1, windows.entries.flatten(), t.transpose(0, 1).flatten(1))

    rad = None if costs.rad is None else grow(spread(costs.rad.expand_as(costs.mid)), 8)
    return layer.pull(Ball(spread(costs.mid), rad)).matmul(roots)


def _joined(layer: Layer, turned: Tensor, bend: Bends, factor: Tensor, arithmetic: AbstractArithmetic) -> Ball | None:
    """The roots of what the layer gives: those turned (r, g o) and those of its free part, or fewer for both."""
    windows = layer.windows
    g, o = windows.outputs.shape
    live = windows.left.mid.abs().amax(-1).flatten() > 0
    at = live.nonzero().flatten()
    free = bend.free * arithmetic.exact(factor)
    extra = root_above(free)
    if extra is None:
        return None
    loose = extra.abs().amax(1).flatten() > 0  # (g o): the columns of the roots of each group
    new = _blocks(extra.mT, g, o)[loose][:, at]
    kept = torch.cat([turned[:, at], new])
    if len(kept) == 0 or len(at) == 0:
        return arithmetic.exact(torch.zeros(1, layer.size, dtype=kept.dtype, device=kept.device))
    if len(kept) > len(at):
        side = arithmetic.exact(turned[:, at].mT)
        total = side.matmul(side) + _block_ball(free, g, o).map(lambda t: t[at][:, at])
        root = root_above(total)
        if root is None:
            return None
        kept = root.mT
    blank = torch.zeros(len(kept), layer.size, dtype=kept.dtype, device=kept.device)
    return arithmetic.exact(blank.index_copy(1, windows.outputs.flatten()[at], kept))


def _blocks(blocks: Tensor, g: int, o: int) -> Tensor:
    """The block diagonal matrix (g o, g o) of blocks (g, o, o)."""
    if o == 1:
        return torch.diag(blocks.flatten())
    place = torch.arange(g * o, device=blocks.device).reshape(g, o)
    rows, columns = place.unsqueeze(2).expand(g, o, o), place.unsqueeze(1).expand(g, o, o)
    return blocks.new_zeros(g * o, g * o).index_put((rows, columns), blocks)


def _block_ball(blocks: Ball, g: int, o: int) -> Ball:
    if blocks.rad is None:
        return Ball(_blocks(blocks.mid, g, o), None)
    return Ball(_blocks(blocks.mid, g, o), _blocks(blocks.rad.expand_as(blocks.mid), g, o))


def _flat(values: Ball) -> Ball:
    """(g, r, n) as (r, g n)."""
    return values.map(lambda t: t.transpose(0, 1).flatten(1))


def _over(matrix: Ball, number: Tensor) -> Ball:
    """The matrix over an exact number; its inverse is off by one rounding."""
    inverse = 1 / number
    if matrix.rad is None:
        return Ball(matrix.mid * inverse, None)
    return matrix * Ball(inverse, inverse.abs() * torch.finfo(inverse.dtype).eps + tiny_of(inverse))


def _as(like: Ball, tensor: Tensor) -> Ball:
    """An exact tensor, with a radius if `like` has one."""
    return Ball(tensor, None if like.rad is None else torch.zeros_like(tensor))


def _row_sum(matrix: Ball) -> Tensor:
    """A number not below the largest row sum of absolute values, so none below the norm of a symmetric matrix."""
    size = matrix.size if matrix.rad is None else matrix.size + matrix.rad
    return grow(size.sum(1), size.shape[1] + 2).amax()


def _frobenius(matrix: Ball) -> Tensor:
    """A number not below the Frobenius norm."""
    size = matrix.size if matrix.rad is None else matrix.size + matrix.rad
    most = size.amax()
    found = torch.linalg.vector_norm(size / most.clamp(min=tiny_of(size))) * most
    return grow(found, size.numel() + 8) + size.numel() * tiny_of(size) * (most > 0).to(most.dtype)


def _norm_above(operators: tuple[AbstractOperator, ...]) -> Tensor:
    """A number not below the spectral norm of a sum of operators: that of Schur's test."""
    total: Tensor | float = 0.0
    for a in operators:
        one, infinite = (a.norm(p, Rigorous()).to(torch.float64) for p in (1.0, inf))
        total = total + grow(root_up(one) * root_up(infinite), 6)
    return torch.as_tensor(total)

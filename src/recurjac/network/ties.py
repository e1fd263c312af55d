"""Neurons of a stage whose pre-activations are equal or opposite, joined into one (docs/mathematics.md, §6.6).

Bounds that let slopes vary independently of each other are loose where several neurons have one and the same kink.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.activations.two_piece import AbstractTwoPiece, PReLU
from recurjac.arithmetic import Rigorous
from recurjac.network import Network
from recurjac.network.stage import Constant, Edge, Stage
from recurjac.operators import AbstractOperator, Compose, Dense, compose

_RIGOROUS = Rigorous()
_ENTRIES = 2**22
"""The largest number of entries of a matrix that is looked at."""


def joined_ties(network: Network) -> Network:
    """The same function by a network without tied neurons, where they are found; the network itself if none are.

    Neurons are tied if they have the same activation, and the rows of their operators and biases are equal number by
    number, or opposite: relu(-z) = relu(z) - z.  Only products of weights that are exact in the network's dtype are
    computed; so the function is the same in real arithmetic.  Bounds of the result have no gradients.
    """
    if network.local or any(s.selection is not None for s in network.stages):
        return network
    stages, spread = (
        [replace(s, closed=None, matrices=None, extremes=None) for s in network.detached().stages],
        dict[int, Tensor](),
    )
    like = torch.zeros((), dtype=network.dtype, device=network.device)
    with torch.no_grad():
        for k, stage in enumerate(stages, 1):
            stages[k - 1] = stage = _reading(stage, spread, like)
            found = None if stage.linear else _ties(stage, like)
            if found is not None:
                stages[k - 1], spread[k] = _joined(stage, found)
    return replace(network, stages=tuple(stages)) if spread else network


@final
@dataclass(frozen=True)
class _Factored:
    """`inner`, then the matrix, which reads tensors of shape `middle`.

    tensor: what a constant applies it to; None for an edge from node `source`.
    """

    matrix: Tensor
    middle: Shape
    inner: AbstractOperator | None
    tensor: Tensor | None
    source: int

    def rows(self, chosen: Tensor) -> AbstractOperator:
        """The operator that computes only the entries `chosen`."""
        dense = Dense(self.matrix[chosen].contiguous(), self.middle, (len(chosen),))
        return dense if self.inner is None else compose(dense, self.inner)


@final
@dataclass(frozen=True)
class _Ties:
    """Which neurons are tied.  first: the neuron that stands for each group; group, opposite: (neurons,)."""

    parts: tuple[_Factored, ...]
    first: Tensor
    group: Tensor
    opposite: Tensor


def _ties(stage: Stage, like: Tensor) -> _Ties | None:
    """The tied neurons of a stage; None if there are none.  like: of the network's dtype and device."""
    if stage.factor is not None or any(isinstance(v, Tensor) for v in vars(stage.activation).values()):
        return None
    size = prod(stage.shape)
    parts = [_factored(e.operator, None, e.source, like) for e in stage.edges]
    parts += [_factored(c.operator, c.tensor, 0, like) for c in stage.constants]
    known = [p for p in parts if p is not None]
    if len(known) < len(parts) or not known:
        return None
    rows = torch.cat([p.matrix.reshape(size, -1) for p in known], 1)
    opposite = torch.zeros(size, dtype=torch.bool, device=rows.device)
    if isinstance(stage.activation, AbstractTwoPiece) and stage.activation.rectifies:
        lead = rows.gather(1, (rows != 0).to(torch.int8).argmax(1, keepdim=True))
        opposite = lead[:, 0] < 0
    keys, group = (torch.where(opposite.unsqueeze(1), -rows, rows) + 0.0).unique(dim=0, return_inverse=True)
    if len(keys) == size:
        return None
    place = torch.arange(size, device=rows.device)
    first = place.new_full((len(keys),), size).scatter_reduce(0, group, place, "amin")
    return _Ties(tuple(known), first, group, opposite != opposite[first][group])


def _factored(operator: AbstractOperator, tensor: Tensor | None, source: int, like: Tensor) -> _Factored | None:
    """The longest part of an operator, from its end, that is one matrix without rounding; None if there is none."""
    links = _links(operator)
    matrix = _matrix(links[0], like)
    if matrix is None:
        return None
    used = 1
    for link in links[1:]:
        inner = _matrix(link, like)
        product = None if inner is None else exact_product(matrix, inner)
        if product is None:
            break
        matrix, used = product, used + 1
    inner_operator = reduce(compose, links[used:]) if used < len(links) else None
    if tensor is not None and inner_operator is None:
        value = exact_product(matrix, tensor.reshape(-1, 1))
        if value is not None:
            return _Factored(value, (1,), None, torch.ones_like(value[:1, 0]), source)
    return _Factored(matrix, links[used - 1].in_shape, inner_operator, tensor, source)


def _links(operator: AbstractOperator) -> list[AbstractOperator]:
    """The operators of a composition, the last to be applied first."""
    if isinstance(operator, Compose):
        return [*_links(operator.outer), *_links(operator.inner)]
    return [operator]


def _matrix(operator: AbstractOperator, like: Tensor) -> Tensor | None:
    """The matrix of an operator, (out, in), if it is known without rounding and is not too large."""
    size = prod(operator.in_shape)
    if size * prod(operator.out_shape) > _ENTRIES:
        return None
    if isinstance(operator, Dense) and size == operator.weight.shape[1]:
        return operator.weight
    columns = operator.columns(torch.arange(size, device=like.device), like.dtype, _RIGOROUS)
    if not columns.exact and (columns.rad is None or bool((columns.rad != 0).any())):
        return None
    return columns.mid.reshape(size, -1).mT


def exact_product(a: Tensor, b: Tensor) -> Tensor | None:
    """a b for matrices, if neither a product of two entries nor a partial sum is rounded; None otherwise.

    Errors are computed by Dekker's product and Knuth's sum, which are exact unless numbers over- or underflow; sizes
    at which they could are refused.
    """
    if a.dtype != b.dtype or len(a) * b.shape[0] * b.shape[1] > 64 * _ENTRIES:
        return None
    if _moves(a) or _moves(b.mT):
        return a @ b
    for t in (a, b):
        size = t.abs()
        if bool(((size > _LARGE) | ((size < 1 / _LARGE) & (size > 0))).any()):
            return None
    total = a.new_zeros(len(a), b.shape[1])
    rounded = torch.zeros_like(total, dtype=torch.bool)
    for j in range(b.shape[0]):
        x, y = a[:, j : j + 1], b[j : j + 1]
        if not bool(y.any()) or not bool(x.any()):
            continue
        product = x * y
        (x1, x2), (y1, y2) = _halves(x), _halves(y)
        off = x2 * y2 - (((product - x1 * y1) - x2 * y1) - x1 * y2)
        after = total + product
        moved = after - total
        error = (total - (after - moved)) + (product - moved)
        rounded |= (off != 0) | (error != 0)
        total = after
    return None if bool(rounded.any()) else total


def _moves(matrix: Tensor) -> bool:
    """Whether each row has at most one entry that is not 0, and this is 1 or -1."""
    return bool(((matrix == 0) | (matrix.abs() == 1)).all()) and bool(((matrix != 0).sum(1) <= 1).all())


_LARGE = 2.0**24
"""Larger numbers, and smaller ones than its inverse, are not looked at: their products could leave float32."""


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Veltkamp's splitting into two numbers of half as many digits."""
    scaled = x * (2.0 ** (27 if x.dtype == torch.float64 else 12) + 1)
    high = scaled - (scaled - x)
    return high, x - high


def _reading(stage: Stage, spread: Mapping[int, Tensor], like: Tensor) -> Stage:
    """The stage on nodes of which some are replaced; spread: the old entries of those in terms of the new ones."""
    if not any(e.source in spread for e in stage.edges):
        return stage
    edges = []
    for e in stage.edges:
        if e.source in spread:
            matrix = spread[e.source]
            whole = compose(e.operator, Dense(matrix, (matrix.shape[1],), e.operator.in_shape))
            found = _factored(whole, None, e.source, like)
            exact = found is not None and found.inner is None
            operator = Dense(found.matrix, (matrix.shape[1],), stage.shape) if found is not None and exact else whole
            edges.append(Edge(e.source, operator))
        else:
            edges.append(e)
    return replace(stage, edges=tuple(edges))


def _joined(stage: Stage, ties: _Ties) -> tuple[Stage, Tensor]:
    """The stage with one neuron for each group, and its pre-activation if it has opposites; the old neurons in these.

    The second result is a matrix (old, new) with entries 0, 1 and -1.
    """
    mirrored = torch.zeros(len(ties.first), dtype=torch.bool, device=ties.first.device)
    mirrored[ties.group[ties.opposite]] = True
    chosen = torch.cat([ties.first, ties.first[mirrored]])
    edges = tuple(Edge(p.source, p.rows(chosen)) for p in ties.parts if p.tensor is None)
    constants = tuple(Constant(p.rows(chosen), p.tensor) for p in ties.parts if p.tensor is not None)
    like, activation = ties.parts[0].matrix, stage.activation
    if len(chosen) > len(ties.first):
        slope = like.new_zeros(len(chosen))
        slope[len(ties.first) :] = 1.0
        activation = PReLU(slope)
    spread = like.new_zeros(len(ties.group), len(chosen))
    spread[torch.arange(len(spread), device=like.device), ties.group] = 1.0
    place = len(ties.first) + mirrored.long().cumsum(0) - 1
    which = ties.opposite.nonzero().flatten()
    spread[which, place[ties.group[which]]] = -1.0
    return Stage(edges, constants, activation, (len(chosen),)), spread

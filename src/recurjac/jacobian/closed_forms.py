"""Closed forms of the Jacobians of softmax and normalisations in place of the stages that compute them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.activations.row_bounds import total_of
from recurjac.arithmetic import Interval
from recurjac.jacobian.base import AbstractAround, AbstractJacobianMethod, AbstractPrepared
from recurjac.jacobian.combine import All
from recurjac.jacobian.gradients import Gradients
from recurjac.network import Closed, Edge
from recurjac.operators import AbstractOperator, compose
from recurjac.operators.gather import gather
from recurjac.operators.interval import affine_image, interval_image
from recurjac.preactivation import PreactivationState
from recurjac.preactivation.closed import slopes_of
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import AbstractSeeds

_PAIRS = 2**13
"""The largest number of entries of the Jacobians of a stage that become neurons."""
_FORMS = 2**20
"""The largest number of entries of rows of numbers, each with a row of J and a tangent, that are bounded as forms."""


@final
@dataclass(frozen=True)
class ClosedForms(AbstractAround):
    """`method`, intersected with itself on a chain rule in which rows with a closed form are single steps.

    The derivatives of softmax and of normalisations are then known functions of what they read, whose ranges over boxes
    are nearly exact, where the stages in between let their parts vary independently.  Without such stages, only
    `method` runs; the title is therefore that of `method`.  Source: docs/mathematics.md, §3.11.
    """

    method: AbstractJacobianMethod

    def of(self, method: AbstractJacobianMethod) -> ClosedForms:
        return ClosedForms(method)

    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        whole = self.method.prepare(gradients)
        if gradients.problem is None or gradients.given is not None:
            return whole
        short = shortened(gradients.state, gradients.chain)
        if short is None:
            return whole
        prepared = [whole, self.method.prepare(Gradients(given=short))]
        alone = _alone(gradients.state, gradients.chain)
        return All(gradients.chain, tuple(prepared if alone is None else [*prepared, alone]))


def shortened(state: PreactivationState, whole: ChainRule) -> ChainRule | None:
    """The chain rule of the same Jacobian with closed forms in place of stages; None if there are none."""
    closed = {k: c for k in range(1, whole.end) if (c := state.closed(k)) is not None and _small(c)}
    if not closed:
        return None
    number, nodes = dict[int, int](), list[_Node]()
    for node in sorted(_needed(whole, closed)):
        if node in closed:
            slopes = slopes_of(closed[node], state.post(closed[node].source), state.arithmetic)
            nodes += _steps(closed[node], slopes, number[closed[node].source], len(nodes), whole.shapes[node])
        else:
            edges = tuple(Edge(number[e.source], e.operator) for e in whole.edges[node])
            nodes.append(_Node(whole.shapes[node], edges, whole.slopes[node]))
        number[node] = len(nodes) - 1
    shapes, into, slopes_in = zip(*((n.shape, n.edges, n.slopes) for n in nodes), strict=True)
    return replace(whole, shapes=shapes, edges=into, slopes=slopes_in, skeleton=None, places=None)


@final
@dataclass(frozen=True)
class _Node:
    """A node of a chain rule."""

    shape: Shape
    edges: tuple[Edge, ...]
    slopes: Interval | None


def _steps(closed: Closed, slopes: Interval, source: int, at: int, shape: Shape) -> list[_Node]:
    """A node `at` of n copies of each row, whose slopes are the entries of the Jacobian, and one of the sums."""
    rows = closed.rows.out_shape
    wide = (*rows, rows[-1])
    read = gather(lambda t: t.unsqueeze(-2).expand(wide), rows)
    added = gather(lambda t: t.unsqueeze(-1).expand(wide), rows).transpose()
    return [
        _Node(wide, (Edge(source, compose(read, closed.rows)),), slopes),
        _Node(shape, (Edge(at, compose(closed.back, added)),), None),
    ]


def _small(closed: Closed) -> bool:
    return prod(closed.rows.out_shape) * closed.rows.out_shape[-1] <= _PAIRS


def _needed(whole: ChainRule, closed: Mapping[int, Closed]) -> set[int]:
    """The nodes that are read on the way from the outputs to the input; both are among them."""
    found = {0, whole.end}
    for node in range(whole.end, 0, -1):
        if node in found:
            found |= {closed[node].source} if node in closed else {e.source for e in whole.edges[node]}
    return found


@final
@dataclass(frozen=True)
class _Alone(AbstractPrepared):
    """A network that is linear but for one function of rows, whose derivatives along tangents have a closed form."""

    whole: ChainRule
    node: int
    form: Closed
    box: Interval
    order: tuple[int, ...]

    @property
    def chain(self) -> ChainRule:
        return self.whole

    def push(self, tangents: AbstractSeeds) -> Interval:
        """By forms uᵀJw of the closed form's Jacobian J, where they are not too many."""
        chain, arithmetic = self.chain, self.chain.arithmetic
        rows, count, shape = chain.rows, tangents.count, self.form.rows.out_shape
        if chain.batch * rows * count * prod(shape) > _FORMS:
            end = torch.full((chain.batch, rows, count), torch.inf, dtype=chain.dtype, device=chain.device)
            return Interval.unchecked(-end, end)
        ways, pulled = tangents.tensor(), self._pulled()
        each = ways.expand(-1, rows, *ways.shape[2:]).flatten(1, 2)
        covectors = interval_image(self.form.back.transpose(), pulled[self.node], arithmetic)
        moved = interval_image(self.form.rows, self._moved(each), arithmetic)
        pairs = covectors.map(lambda t: t.repeat_interleave(count, 1))
        total = total_of(self.form.function.slope_between(self.box, pairs, moved, arithmetic), arithmetic)
        if 0 in pulled:
            around = pulled[0].map(lambda t: t.flatten(2).repeat_interleave(count, 1))
            beside = total_of(arithmetic.product(around, Interval.point(each.flatten(2))), arithmetic)
            total = arithmetic.sum([total, beside])
        return self._whole(total.map(lambda t: t[..., 0].unflatten(1, (rows, count))))

    def _moved(self, ways: Tensor) -> Interval:
        """Tangents (batch or 1, L, *input) at the source of the rows."""
        known = {0: Interval.point(ways)}
        for node in [k for k in self.order if 0 < k <= self.form.source]:
            terms = [(e.operator, known[e.source]) for e in self.chain.edges[node]]
            known[node] = affine_image(terms, None, self.chain.arithmetic)
        return known[self.form.source]

    def _pulled(self) -> dict[int, Interval]:
        """Gradients (batch or 1, K, *node) at the rows' values, and at the input but for what passes through these."""
        chain, shape = self.chain, self.chain.shapes[-1]
        covectors = chain.covectors
        if covectors is None:
            covectors = torch.eye(prod(shape), dtype=chain.dtype, device=chain.device).reshape(1, -1, *shape)
        known, terms = {chain.end: Interval.point(covectors)}, dict[int, list[tuple[AbstractOperator, Interval]]]()
        for node in self.order[::-1]:
            if node in terms:
                known[node] = affine_image(terms[node], None, chain.arithmetic)
            if node != self.node and node in known:
                for e in chain.edges[node]:
                    terms.setdefault(e.source, []).append((e.operator.transpose(), known[node]))
        return known


def _alone(state: PreactivationState, whole: ChainRule) -> _Alone | None:
    """The network with its only function of rows; None if it has others, or anything else that is not linear."""
    closed = {k: c for k in range(1, whole.end) if (c := state.closed(k)) is not None}
    order = tuple(sorted(_needed(whole, closed)))
    if len([k for k in order if k in closed]) != 1 or any(
        k not in closed and whole.slopes[k] is not None for k in order
    ):
        return None
    node = next(k for k in order if k in closed)
    form = closed[node]
    if any(not whole.edges[k] for k in order[1:]) or node < form.source:
        return None
    box = interval_image(form.rows, state.post(form.source), state.arithmetic)
    return _Alone(whole, node, form, box, order)

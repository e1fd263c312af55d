"""Routes from a node forward to the last node, for bounds of Jacobians (docs/mathematics.md, §5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Interval, Loss, Sizes, concatenate
from recurjac.operators import AbstractOperator
from recurjac.operators.interval_matrix import IntervalMatrix, other_terms
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.planning import AbstractPlanner
from recurjac.propagation.route import AbstractAbsorbingRoute, AbstractRoute, loss_of
from recurjac.region import Convex, One
from recurjac.relaxations import Absorption, LinearRelaxation

_LOOSE = 1e4
"""By which factor bounds of gradients may be too large: rounding costs this times the unit roundoff."""


@dataclass(frozen=True)
class AbstractPushRoute(AbstractRoute):
    """A route from a node forward to the last node, where forms are multiplied with the covectors.

    found: the lines of nodes.  known: bounds of g_h at nodes, for the magnitudes that rounding is paid by.
    """

    chain: ChainRule
    found: dict[int, LinearRelaxation | None] = field(default_factory=dict)
    known: dict[int, Interval] = field(default_factory=dict)

    @property
    def arithmetic(self) -> AbstractArithmetic:
        return self.chain.arithmetic

    @property
    def planner(self) -> AbstractPlanner:
        return self.chain.planner

    @cached_property
    def _out(self) -> list[list[tuple[int, AbstractOperator]]]:
        out: list[list[tuple[int, AbstractOperator]]] = [[] for _ in self.chain.shapes]
        for target, into in enumerate(self.chain.edges[:-1]):
            for e in into:
                out[e.source].append((target, e.operator))
        return out

    @cached_property
    def _rows(self) -> dict[int, Ball]:
        """The covectors pulled back to each node that has an edge into the last node."""
        rows: dict[int, Ball] = {}
        for e in self.chain.edges[-1]:
            more = self.chain.gradient_rows(e.operator)
            rows[e.source] = more if e.source not in rows else rows[e.source] + more
        return rows

    def nodes(self, start: int) -> Sequence[int]:
        return range(start, self.chain.end)

    @final
    def lines(self, node: int) -> LinearRelaxation | None:
        return self.found.get(node)

    def rows(self, node: int) -> Ball | None:
        return self._rows.get(node)

    def region(self, node: int) -> Convex | None:
        return None

    def loose(self, node: int) -> bool:
        """Whether rounding at earlier nodes would cost less if g_h were bounded at all neurons of `node`."""
        return False

    @final
    def floats(self) -> int:
        return self.chain.batch * self.chain.rows * self.widest()


@final
@dataclass(frozen=True)
class PushRoute(AbstractPushRoute, AbstractAbsorbingRoute):
    """A push route that goes from node to node along the edges of the chain rule.

    tight: the nodes at which `loose` was true, so that known slopes did not keep g_h from being bounded there.
    """

    tight: list[int] = field(default_factory=list)
    _middles: dict[int, Tensor] = field(default_factory=dict)
    _absorptions: dict[int, Absorption] = field(default_factory=dict)
    _sizes: dict[int, Tensor] = field(default_factory=dict)
    _images: dict[int, list[Sizes]] = field(default_factory=dict)

    def edges(self, node: int) -> Sequence[tuple[int, AbstractOperator]]:
        return self._out[node]

    def widest(self) -> int:
        return max((prod(s) for s in self.chain.shapes[1:-1]), default=1)

    def sizes(self, node: int) -> Tensor:
        return self.past(node)

    def images(self, node: int) -> list[Sizes]:
        """What the operators of all edges out of a node cost; their numbers bound their parts of |g_h|."""
        if node not in self._images:
            self._images[node] = [
                operator.absorb(Sizes.of(self.past(target), self._other_terms(target)))
                for target, operator in self._out[node]
            ]
        return self._images[node]

    def _other_terms(self, target: int) -> int:
        return other_terms([e.operator for e in self.chain.edges[target]])

    def loss(self, node: int) -> Loss:
        before = self.gradient(node) if self.found.get(node) is not None else None
        return loss_of(self.images(node), self.rows(node), before, len(self.chain.shapes[node]))

    def absorption(self, node: int) -> Absorption:
        if node not in self._absorptions:
            self._absorptions[node] = Absorption(self.lines(node), self.loss(node))
        return self._absorptions[node]

    def gradient(self, node: int) -> Tensor:
        """Upper bounds of |g_h| at a node: the least of what is known and of the products along its edges.

        All later nodes, and this one, must be bounded if their slopes are not all known.
        """
        arithmetic, rows = self.chain.arithmetic, self.rows(node)
        parts = [image.numbers for image in self.images(node)]
        if rows is not None:
            parts.append(torch.maximum(rows.upper(), -rows.lower()).detach())
        size = arithmetic.at_least(reduce(torch.add, parts), len(parts)) if parts else None
        if node in self.known:
            most = self.known[node].magnitude.detach()
            size = most if size is None else torch.minimum(size, most)
        return (
            torch.zeros(1, 1, *self.chain.shapes[node]).to(self.chain.device, self.chain.dtype)
            if size is None
            else size
        )

    def past(self, node: int) -> Tensor:
        """Upper bounds of |g_z| at a node."""
        if node not in self._sizes:
            self._sizes[node] = _past_slopes(self.chain, node, self.gradient(node))
        return self._sizes[node]

    def loose(self, node: int) -> bool:
        """Whether products of |A| exceed the gradient in the middle so far that sweeps from `node` would help.

        Rounding at earlier nodes is paid by |g|; products of |A| grow with depth whatever becomes of the gradient.
        """
        if not self.arithmetic.rigorous:
            return False
        excess = self._excess(node)
        worst = max((self._excess(n) for n in self.tight[-1:]), default=1.0)
        if excess > _LOOSE * max(1.0, worst):
            self.tight.append(node)
            return True
        return False

    def _excess(self, node: int) -> float:
        size, middle = self.gradient(node).flatten(2).sum(-1), self.middle(node).abs().flatten(2).sum(-1)
        return float((size / middle).nan_to_num(0.0, torch.inf).amax())

    def middle(self, node: int) -> Tensor:
        """About g_h at a node for the slopes in the middle, which proves nothing."""
        if node not in self._middles:
            rows = self.rows(node)
            parts = [] if rows is None else [rows.mid.detach()]
            with torch.no_grad():
                past = [(o.transpose(), Ball(self._middle_past(target), None)) for target, o in self.edges(node)]
                parts += [back.push(forms).mid for back, forms in past]
            zero = torch.zeros(1, 1, *self.chain.shapes[node], dtype=self.chain.dtype, device=self.chain.device)
            self._middles[node] = reduce(torch.add, parts, zero)
        return self._middles[node]

    def _middle_past(self, node: int) -> Tensor:
        """`middle` of g_z."""
        slopes, middle = self.chain.slopes[node], self.middle(node)
        return middle if slopes is None else middle * (slopes.lower / 2 + slopes.upper / 2).detach().unsqueeze(1)


@final
@dataclass(frozen=True)
class StackedPushRoute(AbstractPushRoute):
    """A push route for nodes that read all earlier nodes through matrices; the forms of all later nodes are joined.

    A single covector is joined with them: it makes the last node a scalar, for which a form has one coefficient.
    """

    @cached_property
    def _single(self) -> bool:
        rows = self._rows.values()
        return self.chain.rows == 1 and len(rows) == self.chain.end and all(r.shape[0] == 1 for r in rows)

    @cached_property
    def _stacks(self) -> list[IntervalMatrix]:
        """The matrix from each node to all later nodes except the last, stacked, with a single covector below."""
        chain, stacks = self.chain, []
        for node, out in enumerate(self._out[:-1]):
            parts = [o.matrix for _, o in out if isinstance(o, IntervalMatrix)]
            if self._single:
                parts.append(self._rows[node].map(lambda t: t.reshape(1, -1)))
            if parts:
                matrix = concatenate(parts, 0)
                stacks.append(IntervalMatrix(matrix, chain.shapes[node], (matrix.shape[0],)))
        return stacks

    def nodes(self, start: int) -> Sequence[int]:
        return range(start, self.chain.end + self._single)

    def rows(self, node: int) -> Ball | None:
        return None if self._single else self._rows.get(node)

    def region(self, node: int) -> Convex | None:
        if node != self.chain.end:
            return None
        return One(torch.ones(1, 1, dtype=self.chain.dtype, device=self.chain.device))

    def edges(self, node: int) -> Sequence[tuple[int, AbstractOperator]]:
        return [(node + 1, self._stacks[node])] if node < len(self._stacks) else []

    def split_passthrough(self, node: int, forms: Ball) -> tuple[Ball, Ball | None]:
        n, rows = prod(self.chain.shapes[node]), self.rows(node)
        here = forms.map(lambda t: t[..., :n])
        if forms.shape[-1] == n:
            return here, None
        passing = forms.map(lambda t: t[..., n:])
        # differentiating by the rows keeps `here` alive; without the copy, that would keep the memory of both parts
        return here, passing.map(torch.clone) if rows is not None and rows.mid.requires_grad else passing

    def widest(self) -> int:
        return max(1, sum(prod(s) for s in self.chain.shapes[1:-1]))


def _past_slopes(chain: ChainRule, node: int, gradient: Tensor) -> Tensor:
    """Upper bounds of |g_z| at a node from those of |g_h|, (batch or 1, K, *node)."""
    slopes = chain.slopes[node]
    if slopes is None:
        return gradient
    steep = slopes.magnitude.detach().unsqueeze(1)
    if bool(((steep == 0) | (steep == 1)).all()):
        return torch.where(steep == 0, 0.0, gradient)
    return chain.arithmetic.product(Interval.point(gradient), Interval.point(steep)).upper

"""Recursive bounds: RecurJac and Chords, two rules that choose lines for the one push sweep.

Algorithm 1 of RecurJac (arXiv:1810.11783) bounds ∂f/∂h from the last node to the first.  With y = g_h in [L, U] known
for later nodes, each product y δ of a gradient and a slope δ in [d, D] lies between two lines in y; the methods differ
in those lines alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Interval, concatenate
from recurjac.jacobian.base import AbstractJacobianMethod, AbstractPrepared
from recurjac.operators import AbstractOperator
from recurjac.operators.interval_matrix import IntervalMatrix
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import AbstractSeeds
from recurjac.propagation.neuron_subset import NeuronSubset
from recurjac.propagation.route import AbstractRoute
from recurjac.propagation.sweep import sweep
from recurjac.region import Convex, One
from recurjac.relaxations import LinearRelaxation


class AbstractRecursion(AbstractJacobianMethod):
    """A rule that chooses lines for y δ; everything else is written here."""

    @abstractmethod
    def lines(self, y: Interval, slope: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """Lines of y δ for y in `y` (B, K, *node) and δ in `slope` (B, 1, *node), not a point anywhere it is used."""

    @final
    def prepare(self, chain: ChainRule) -> AbstractPrepared:
        skeleton = chain.between_unstable
        route = PushRoute(chain.without_dead(), {}) if skeleton is None else StackedPushRoute(skeleton, {})
        chain = route.chain
        for node in range(chain.end - 1, 0, -1):
            slopes = chain.slopes[node]
            if slopes is None:
                continue
            unstable = chain.unstable(node)
            if unstable is None:
                route.found[node] = LinearRelaxation.proportional(slopes.lower.unsqueeze(1))
            else:
                route.found[node] = self._lines_at(route, node, slopes, unstable)
        return _Pushed(chain, route)

    def _lines_at(self, route: AbstractPushRoute, node: int, slopes: Interval, unstable: Tensor) -> LinearRelaxation:
        """Bound g_h at the unstable neurons and choose their lines; stable ones pass with their slope."""
        chain, everywhere = route.chain, bool(unstable.all())
        chosen, shape = None if everywhere else unstable, (chain.batch, *chain.shapes[node])
        selection = NeuronSubset.of(chosen, shape, chain.device)
        bounds = sweep(route, node, selection.units(chain.dtype))
        if bounds.shape[0] != chain.batch:
            bounds = bounds.map(lambda t: t.expand(chain.batch, t.shape[1], -1))
        slope = slopes.map(lambda t: t.unsqueeze(1))
        if everywhere:
            return self.lines(
                bounds.map(lambda t: t.reshape(*t.shape[:2], *chain.shapes[node])), slope, chain.arithmetic
            )
        y = bounds.map(lambda t: selection.scatter(t, 0.0))
        lines, exact = self.lines(y, slope, chain.arithmetic), ~unstable.unsqueeze(1)
        return LinearRelaxation(
            torch.where(exact, slope.lower, lines.lower_slope),
            torch.where(exact, 0.0, lines.lower_intercept),
            torch.where(exact, slope.lower, lines.upper_slope),
            torch.where(exact, 0.0, lines.upper_intercept),
            lines.size,
        )


@final
@dataclass(frozen=True)
class RecurJac(AbstractRecursion):
    """RecurJac-B: exact slopes where the sign of the gradient is known, constants where it is not.

    Source: arXiv:1810.11783, Algorithm 1 and Section 3.3 (the sign-unknown term I).
    """

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {"recurjac": cls()}

    @property
    def title(self) -> str:
        return "RecurJac-B"

    def lines(self, y: Interval, slope: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        positive, negative = y.lower >= 0, y.upper <= 0
        unknown = ~(positive | negative)
        product = arithmetic.product(y, slope)
        low = torch.where(positive, slope.lower, torch.where(negative, slope.upper, 0.0))
        high = torch.where(positive, slope.upper, torch.where(negative, slope.lower, 0.0))
        return LinearRelaxation(
            low,
            torch.where(unknown, product.lower, 0.0),
            high,
            torch.where(unknown, product.upper, 0.0),
            product.magnitude.detach(),
        )


@final
@dataclass(frozen=True)
class Chords(AbstractRecursion):
    """The best lines: min(dy, Dy) is concave and max(dy, Dy) convex in y, so their chords over [L, U] bound y δ.

    They are RecurJac's where the sign of y is known and never worse where it is not; no sign of δ is needed.
    Source: Shi et al., NeurIPS 2022, arXiv:2210.07394; docs/mathematics.md, §5.3.
    """

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {"chords": cls()}

    @property
    def title(self) -> str:
        return "Chords"

    def lines(self, y: Interval, slope: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        share = _share(y)
        d, top = slope.lower, slope.upper
        # through (L, d L), (U, D U) above and (L, D L), (U, d U) below
        high, low = d + share * (top - d), top - share * (top - d)
        unknown = (y.lower < 0) & (y.upper > 0)
        most = _intercept(high, y, arithmetic, (top, d)).upper()
        least = _intercept(low, y, arithmetic, (d, top)).lower()
        high = torch.where(unknown, high, torch.where(y.upper <= 0, d, top))
        low = torch.where(unknown, low, torch.where(y.upper <= 0, top, d))
        zero = torch.zeros_like(high)
        return LinearRelaxation(
            low, torch.where(unknown, least, zero), high, torch.where(unknown, most, zero),
            _size(y, slope, arithmetic),
        )  # fmt: skip


def _size(y: Interval, slope: Interval, arithmetic: AbstractArithmetic) -> Tensor:
    """At least |y δ|; without a better number infinity, as where rounding, which alone asks for it, is not covered."""
    if not arithmetic.rigorous:
        return torch.full_like(y.lower, torch.inf)
    size = arithmetic.exact(y.magnitude.detach()) * arithmetic.exact(slope.magnitude.detach())
    return size.upper().nan_to_num(torch.inf, torch.inf)


def _share(y: Interval) -> Tensor:
    """U / (U - L) where L < 0 < U, any number of [0, 1] elsewhere."""
    high, low = y.upper.clamp(min=0), y.lower.clamp(max=0)
    width = torch.where(high > low, high - low, 1.0)
    return torch.where(width.isinf(), 0.5, high / width).clamp(0, 1)


def _intercept(slope: Tensor, y: Interval, arithmetic: AbstractArithmetic, at: tuple[Tensor, Tensor]) -> _Ends:
    """The gaps (δ - slope) y at both ends of y, δ being at[0] at U and at[1] at L: the intercept bounds both."""
    exact = arithmetic.exact
    return _Ends((exact(at[0]) - exact(slope)) * exact(y.upper), (exact(at[1]) - exact(slope)) * exact(y.lower))


@final
@dataclass(frozen=True)
class _Ends:
    right: Ball
    left: Ball

    def upper(self) -> Tensor:
        return torch.maximum(self.right.upper(), self.left.upper())

    def lower(self) -> Tensor:
        return torch.minimum(self.right.lower(), self.left.lower())


@dataclass(frozen=True)
class AbstractPushRoute(AbstractRoute):
    """From a node forward to the last one, where a form meets the covectors."""

    chain: ChainRule
    found: dict[int, LinearRelaxation]

    @property
    def arithmetic(self) -> AbstractArithmetic:
        return self.chain.arithmetic

    @cached_property
    def _out(self) -> list[list[tuple[int, AbstractOperator]]]:
        out: list[list[tuple[int, AbstractOperator]]] = [[] for _ in self.chain.shapes]
        for target, into in enumerate(self.chain.edges[:-1]):
            for e in into:
                out[e.source].append((target, e.operator))
        return out

    @cached_property
    def _rows(self) -> dict[int, Ball]:
        """For each node that the last one reads, the covectors pulled back to it."""
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

    @final
    def floats(self) -> int:
        return self.chain.batch * self.chain.rows * self.widest()


@final
@dataclass(frozen=True)
class PushRoute(AbstractPushRoute):
    """From node to node along the edges of the chain rule."""

    def edges(self, node: int) -> Sequence[tuple[int, AbstractOperator]]:
        return self._out[node]

    def widest(self) -> int:
        return max((prod(s) for s in self.chain.shapes[1:-1]), default=1)


@final
@dataclass(frozen=True)
class StackedPushRoute(AbstractPushRoute):
    """The same where every node reads all earlier ones through matrices: forms of all later nodes travel as one.

    A single covector travels with them: it makes the last node a number, of which the form has one coefficient.
    """

    @property
    def dense(self) -> bool:
        return True

    @cached_property
    def _single(self) -> bool:
        rows = self._rows.values()
        return self.chain.rows == 1 and len(rows) == self.chain.end and all(r.shape[0] == 1 for r in rows)

    @cached_property
    def _stacks(self) -> list[IntervalMatrix]:
        """From each node to all later ones but the last, one after the other, and to the covector if it is one."""
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
        # a derivative by live rows keeps what is here, hence the memory of both
        return here, passing.map(torch.clone) if rows is not None and rows.mid.requires_grad else passing

    def widest(self) -> int:
        return max(1, sum(prod(s) for s in self.chain.shapes[1:-1]))


@final
@dataclass(frozen=True)
class _Pushed(AbstractPrepared):
    """Tangents are pushed along the route whose lines are all known."""

    chain: ChainRule
    route: AbstractPushRoute

    def push(self, tangents: AbstractSeeds) -> Interval:
        return self._whole(sweep(self.route, 0, tangents))

"""Recursive bounds: RecurJac and Chords, two rules that choose lines for the push sweep.

Algorithm 1 of RecurJac (arXiv:1810.11783) bounds ∂f/∂h from the last node to the first.  At later nodes, bounds [L, U]
of y = g_h are already known, so each product y δ of a gradient and a slope δ in [d, D] lies between two lines in y.
The methods differ only in these lines.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Interval
from recurjac.jacobian.base import AbstractJacobianMethod, AbstractNodewise, AbstractPrepared, Descended
from recurjac.jacobian.gradients import Gradients, through_slopes
from recurjac.operators.interval import interval_image, mixes_once
from recurjac.operators.interval_matrix import IntervalMatrix
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import AbstractSeeds
from recurjac.propagation.neuron_subset import NeuronSubset
from recurjac.propagation.push_route import AbstractPushRoute
from recurjac.propagation.sweep import sweep
from recurjac.relaxations import LinearRelaxation


class AbstractRecursion(AbstractNodewise):
    """A rule that chooses lines for y δ; this class implements everything else."""

    @abstractmethod
    def lines(self, y: Interval, slope: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """Lines of y δ for y in `y` (B, K, *node) and δ in `slope` (B, 1, *node).

        The lines are used only at neurons whose slope interval is not a point.
        """

    @property
    def exact_by_sign(self) -> bool:
        """Whether the lines are products with an end of the slope wherever the sign of y is known; False by default.

        All methods of which this is true choose the same lines there.
        """
        return False

    @property
    def tightest(self) -> bool:
        """Whether the lines are the tightest for y in any finite interval and δ in any interval; False by default.

        No method that is exact by sign, and has constants where the sign is unknown, then has tighter bounds, up to
        rounding (docs/mathematics.md, §5.3).
        """
        return False

    @property
    def constant_elsewhere(self) -> bool:
        """Whether the lines are constants wherever the sign of y is not known; False by default."""
        return False

    @final
    def prepare_beside(self, gradients: Gradients, others: Sequence[AbstractPrepared]) -> AbstractPrepared:
        """Bounds of g are those of another method with the same lines at all later nodes, where there is one.

        A method that cannot find more than another one is left out.
        """
        for other in others:
            if not isinstance(other, Descended) or len(other.methods) != 1:
                continue
            (method,) = other.methods
            if not (isinstance(method, AbstractRecursion) and self.exact_by_sign and method.exact_by_sign):
                continue
            if method.tightest and self.constant_elsewhere and _bounded(other.known):
                return other
            return self._after(gradients, other)
        return self.prepare(gradients)

    def _after(self, gradients: Gradients, other: Descended) -> AbstractPrepared:
        """The method prepared from what another one, whose lines differ only where signs are unknown, has bounded."""
        known, agreed = self.view(gradients), True
        for node in range(known.chain.end - 1, 0, -1):
            bounds = other.known.at(node) if agreed else self.node(known, node)
            if bounds is not None:
                known.learn(node, bounds)
            agreed = agreed and _signs_known(known, node)
        return other if agreed else Descended(known, (self,))

    @final
    def view(self, gradients: Gradients) -> Gradients:
        return gradients.shortened()

    @final
    def node(self, known: Gradients, node: int) -> Interval | None:
        """Bounds at the neurons whose slope is not known exactly; the others need none, unless rounding asks for it."""
        chain = known.chain
        unstable = chain.unstable(node)
        asked = self._route(known, node).loose(node)
        if unstable is None and not asked:
            return None
        if self.exact_by_sign and self.tightest:
            found = _by_products(chain, node)
            if found is not None and not _sign_in_doubt(found):
                return found.map(lambda t: t.expand(chain.batch, *t.shape[1:]))
        everywhere = unstable is None or asked or bool(unstable.all())
        subset = NeuronSubset.of(None if everywhere else unstable, (chain.batch, *chain.shapes[node]), chain.device)
        bounds = sweep(self._route(known, node), node, subset.units(chain.dtype))
        if bounds.shape[0] != chain.batch:
            bounds = bounds.map(lambda t: t.expand(chain.batch, t.shape[1], -1))
        if everywhere:
            return bounds.map(lambda t: t.reshape(*t.shape[:2], *chain.shapes[node]))
        low, high = subset.scatter(bounds.lower, -torch.inf), subset.scatter(bounds.upper, torch.inf)
        return Interval.unchecked(low, high)

    @final
    def pushed(self, known: Gradients, tangents: AbstractSeeds) -> Interval:
        return sweep(self._route(known, 0), 0, tangents)

    def _route(self, known: Gradients, node: int) -> AbstractPushRoute:
        """The method's route, with lines for all nodes after `node`."""
        route = known.route(self)
        for later in range(known.chain.end - 1, node, -1):
            if later not in route.found:
                bounds = known.at(later)
                if bounds is not None:
                    route.known[later] = bounds
                route.found[later] = self._relaxed(known, later)
        return route

    def _relaxed(self, known: Gradients, node: int) -> LinearRelaxation | None:
        """The lines at a node: the slopes where they are known exactly, otherwise lines from the bounds of g there."""
        chain = known.chain
        slopes, y = chain.slopes[node], known.at(node)
        if slopes is None:
            return None
        slope, unstable = slopes.map(lambda t: t.unsqueeze(1)), chain.unstable(node)
        if unstable is None:
            return LinearRelaxation.proportional(slope.lower)
        if y is None:
            end = torch.full_like(slope.lower, torch.inf)
            y = Interval(-end, end)
        if bool(unstable.all()):
            return self.lines(y, slope, chain.arithmetic)
        exact = ~unstable.unsqueeze(1)
        y = y.map(lambda t: torch.where(exact, 0.0, t))
        lines = self.lines(y, slope, chain.arithmetic)
        return LinearRelaxation(
            torch.where(exact, slope.lower, lines.lower_slope),
            torch.where(exact, 0.0, lines.lower_intercept),
            torch.where(exact, slope.lower, lines.upper_slope),
            torch.where(exact, 0.0, lines.upper_intercept),
            lines.size,
        )


def _by_products(chain: ChainRule, node: int) -> Interval | None:
    """Bounds of g_h at a node from which all paths meet slopes at one later node at most; None for other nodes.

    The gradient at that later node is known, and lines are products with an end of each slope.  What a sweep of unit
    forms makes of them is an interval product, which costs less because all forms share it: (batch or 1, K, *node).
    A bound that is 0 in a sweep may be off by rounding here (`_sign_in_doubt`).
    """
    terms, out = [], chain.successors(node)
    if len({e.source for e in out}) < len(out):  # forms along two edges into a node may cancel there
        return None
    for e in out:
        rows = _last_gradient(chain, e.source) if e.source != chain.end else None
        if e.source == chain.end:
            direct = chain.gradient_rows(e.operator)
            terms.append(chain.arithmetic.between(direct, direct))
        elif rows is None or not mixes_once(e.operator) or isinstance(e.operator, IntervalMatrix):
            return None  # (radii of a matrix times half-widths would cost too much)
        else:
            past = through_slopes(chain, e.source, rows)
            terms.append(interval_image(e.operator.transpose(), past, chain.arithmetic))
    return chain.arithmetic.sum(terms) if terms else None


def _sign_in_doubt(found: Interval) -> bool:
    """Whether an end is so near to 0, relative to the other one, that a sweep may prove a sign which is lost here."""
    near = torch.finfo(found.lower.dtype).eps ** 0.5
    low, high = -found.lower, found.upper
    return bool((((low > 0) & (low <= near * high)) | ((high > 0) & (high <= near * low))).any())


def _last_gradient(chain: ChainRule, node: int) -> Interval | None:
    """g_h at a node from which every edge leads to the last node, up to rounding, (batch or 1, K, *node)."""
    out = chain.successors(node)
    if not out or any(e.source != chain.end for e in out):
        return None
    rows = reduce(Ball.__add__, (chain.gradient_rows(e.operator) for e in out))
    return chain.arithmetic.between(rows, rows)


def _bounded(known: Gradients) -> bool:
    """Whether the gradient has finite bounds at every neuron whose slope is not known."""
    for node in range(1, known.chain.end):
        unstable, y = known.chain.unstable(node), known.at(node)
        if unstable is None:
            continue
        if y is None or not bool((~unstable.unsqueeze(1) | (y.lower.isfinite() & y.upper.isfinite())).all()):
            return False
    return True


def _signs_known(known: Gradients, node: int) -> bool:
    """Whether the sign of the gradient is known at every neuron of a node whose slope is not."""
    unstable, y = known.chain.unstable(node), known.at(node)
    if unstable is None:
        return True
    return y is not None and bool((~unstable.unsqueeze(1) | (y.lower >= 0) | (y.upper <= 0)).all())


@final
@dataclass(frozen=True)
class RecurJac(AbstractRecursion):
    """RecurJac-B: lines through 0 where the sign of the gradient is known, constants where it is not.

    Source: arXiv:1810.11783, Algorithm 1 and Section 3.3 (the sign-unknown term I).
    """

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {"recurjac": cls()}

    @property
    def title(self) -> str:
        return "RecurJac-B"

    @property
    def exact_by_sign(self) -> bool:
        return True

    @property
    def constant_elsewhere(self) -> bool:
        return True

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
    """The tightest lines: min(dy, Dy) is concave and max(dy, Dy) convex in y, so their chords over [L, U] bound y δ.

    They equal RecurJac's lines where the sign of y is known, and are never worse elsewhere.  δ may have any sign.
    Source: Shi et al., NeurIPS 2022, arXiv:2210.07394; docs/mathematics.md, §5.3.
    """

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {"chords": cls()}

    @property
    def title(self) -> str:
        return "Chords"

    @property
    def exact_by_sign(self) -> bool:
        return True

    @property
    def tightest(self) -> bool:
        return True

    def lines(self, y: Interval, slope: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        d, top = slope.lower, slope.upper
        unknown = (y.lower < 0) & (y.upper > 0) & (d < top)  # both lines are d y if δ = d is known
        if not bool(unknown.any()):
            low, high = torch.where(y.lower >= 0, d, top), torch.where(y.lower >= 0, top, d)
            none = torch.zeros_like(high)
            return LinearRelaxation(low, none, high, none, _size(y, slope, arithmetic))
        # the upper line goes through (L, d L) and (U, D U), the lower line through (L, D L) and (U, d U)
        rise = _share(y) * (top - d)
        high, low = (torch.minimum(torch.maximum(slope, d), top) for slope in (d + rise, top - rise))
        most, least = (
            _furthest(unknown, (a * y.upper, b * y.lower), arithmetic)
            for a, b in ((top - high, d - high), (low - d, low - top))
        )
        high = torch.where(unknown, high, torch.where(y.lower >= 0, top, d))
        low = torch.where(unknown, low, torch.where(y.lower >= 0, d, top))
        return LinearRelaxation(low, -least, high, most, _size(y, slope, arithmetic))


def _furthest(unknown: Tensor, gaps: tuple[Tensor, Tensor], arithmetic: AbstractArithmetic) -> Tensor:
    """An upper bound of the larger of two gaps where `unknown`, 0 elsewhere.

    gaps: products >= 0 of the differences of two numbers and a third one, as computed.
    """
    largest = torch.where(unknown, torch.maximum(*gaps), 0.0)
    if arithmetic.rigorous:  # also where both underflowed
        largest = torch.where(unknown, largest.clamp(min=torch.finfo(largest.dtype).tiny), largest)
    return arithmetic.at_least(largest, 2)


def _size(y: Interval, slope: Interval, arithmetic: AbstractArithmetic) -> Tensor:
    """An upper bound of |y δ|, which only rigorous arithmetic needs; infinite where no better bound is known."""
    if not arithmetic.rigorous:
        return torch.full_like(y.lower, torch.inf)
    steep = slope.magnitude.detach()
    if bool((steep == 1).all()):
        return y.magnitude.detach()
    size = arithmetic.exact(y.magnitude.detach()) * arithmetic.exact(steep)
    return size.upper().nan_to_num(torch.inf, torch.inf)


def _share(y: Interval) -> Tensor:
    """U / (U - L) where L < 0 < U, some number in [0, 1] elsewhere."""
    high, low = y.upper.clamp(min=0), y.lower.clamp(max=0)
    width = torch.where(high > low, high - low, 1.0)
    return torch.where(width.isinf(), 0.5, high / width).clamp(0, 1)

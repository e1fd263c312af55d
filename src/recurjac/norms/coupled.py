"""Norms by a quadratic dual of points and tangents, whose slopes are those at one point (docs/mathematics.md, §6.7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Interval, concatenate, root_up, round_up_to
from recurjac.deadline import Deadline, check_seconds, shorter
from recurjac.errors import expect_counts
from recurjac.jacobian import Gradients
from recurjac.norms.base import AbstractNormMethod
from recurjac.norms.induced import vector_norm
from recurjac.norms.quadratic import QuadraticNorm
from recurjac.preactivation.centred import SecantSystem, logarithms, secant_system
from recurjac.preactivation.range_dual import graphs, in_double, points_of
from recurjac.propagation.chain_rule import ChainRule
from recurjac.quadratic import (
    COUPLED,
    DualSystem,
    Lifted,
    Multipliers,
    Point,
    Ranges,
    Rows,
    Scale,
    lifted,
    optimised,
    proved_safely,
    reach,
    searched,
    sectors_of,
    system_of,
)  # fmt: skip
from recurjac.quadratic.lifted import base_of, unknown_neurons, variables
from recurjac.quadratics import Coefficients

_MOST = 1200
"""The largest number of variables, points and tangents together, of a dual that is searched."""
_POINTS = 0.3
"""The weight of the part of the points at the start, relative to that of the tangents."""
_INFLATED = 1.002
_RAISED = 1.02
_TANGENTS = 100
_SECANTS = 60
"""Steps of the P-chains from which the search starts."""


@final
@dataclass(frozen=True)
class CoupledNorm(AbstractNormMethod):
    """For each row, the largest tangent that a point of the region and slopes at that same point can have.

    steps: of the search.  seconds: for the search, which ends earlier if its steps take longer.
    Networks that are too wide, unbounded regions and parts of chain rules get the bound of the P-chain.  Where slopes
    are not coupled to points, as for smooth activations, it is no better than that.  Results have no derivatives.
    Source: docs/mathematics.md, §6.7.
    """

    steps: int = 300
    seconds: float = inf

    def __post_init__(self) -> None:
        check_seconds("CoupledNorm", self.seconds)
        expect_counts("CoupledNorm", steps=self.steps)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractNormMethod]:
        return {"coupled": cls()}

    @property
    def title(self) -> str:
        return "coupled dual"

    def within(self, seconds: float) -> CoupledNorm:
        return replace(self, seconds=shorter(self.seconds, seconds))

    def supports(self, p: float, q: float) -> bool:
        return True

    def norm(self, gradients: Gradients, p: float, q: float) -> Tensor:
        return vector_norm(self.rows(gradients, p), q, gradients.chain.arithmetic)

    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]:
        return []

    def rows(self, gradients: Gradients, p: float) -> Tensor:
        chain = gradients.chain
        found = torch.full((chain.batch, chain.rows), inf, dtype=chain.dtype, device=chain.device)
        if gradients.problem is not None and gradients.given is None:
            with torch.no_grad():
                for i in range(chain.batch):
                    most = _rows_of(gradients, i, p, self.steps, Deadline.after(self.seconds / chain.batch))
                    found[i] = round_up_to(torch.where(most.isnan(), inf, most), chain.dtype)
        return found if bool(found.isfinite().all()) else torch.minimum(found, QuadraticNorm().rows(gradients, p))


def _rows_of(gradients: Gradients, i: int, p: float, steps: int, deadline: Deadline) -> Tensor:
    """Bounds of the norms of all rows of sample i: (K,), in float64; infinite where the dual is not formed."""
    tangents = gradients.chain.sample(i)
    nothing = torch.full((tangents.rows,), inf, dtype=torch.float64, device=tangents.device)
    several = gradients.state.network.has_products  # neurons of two arguments have no such products
    points = (
        secant_system(gradients.state, i, tangents.covectors) if unknown_neurons(tangents) and not several else None
    )
    if points is None:
        return nothing
    tangents = reconciled(tangents, points.chain)
    if 2 * variables(tangents) > _MOST:
        return nothing
    lift, start = lifted(tangents, torch.ones_like(points.radius)), Start.of(points, tangents, p, deadline)
    if start is None:
        return nothing
    rows = lift.rows.with_copies(1, 2)
    dual = _Coupled.of(points, tangents, lift, start, p)
    units = dual.units.expand(tangents.rows, -1, -1)
    wanted, scale = Rows(rows.base.mid, rows.units.mid), Scale(units, dual.free, torch.zeros_like(dual.units[0]))
    best = searched(dual.system.plain(), wanted, start.point(units), scale, steps, None, deadline, COUPLED)
    return torch.minimum(proved_safely(dual.system, rows, best, units), start.half)


@final
@dataclass(frozen=True)
class Start:
    """Multipliers of the P-chains of secants and of tangents: weights w (n_0,) and sectors 1 / (t r²), (u,), of each.

    half: what the chain of tangents proves of each row, (K,).  sizes: bounds of |y'| of each unknown neuron, (u,).
    slopes: the middle of its secants' slopes, (u,).
    """

    weights: tuple[Tensor, Tensor]
    sectors: tuple[Tensor, Tensor]
    half: Tensor
    sizes: Tensor
    slopes: Tensor

    @classmethod
    def of(cls, points: SecantSystem, tangents: ChainRule, p: float, deadline: Deadline) -> Start | None:
        """None if the P-chain proves nothing."""
        places, ones = unknown_neurons(tangents), torch.ones_like(points.radius)
        system, other = system_of(tangents), system_of(_widened(points.chain, tangents))
        shared = optimised(system, Multipliers.first(system, ones, p != inf), ones, logarithms, _TANGENTS, deadline)
        sizes: dict[int, Tensor] = {}

        def choose(k, q):  # type: ignore[no-untyped-def]  # (annotated functions made here would never be freed in tests)
            sizes[k] = root_up(q.diagonal())
            return shared.choose(k, q)

        found = reach(system, shared.start(ones), choose)
        secants = points.multipliers(other, _SECANTS, deadline)
        if found is None or reach(other, secants.start(points.radius), secants.choose) is None:
            return None
        sectors = [
            sectors_of(s, places, m.chosen(s, r), _INFLATED)
            for s, m, r in ((other, secants, points.radius), (system, shared, ones))
        ]
        weights = [ones if m.weights is None else torch.softmax(m.weights, 0) for m in (secants, shared)]
        half = root_up(found.map(torch.diagonal).upper())
        (points_sectors, slopes), (own, _) = sectors
        reached = torch.cat([sizes[k] for k, _ in places])
        return cls((weights[0], weights[1]), (points_sectors, own), half, reached, slopes)

    def point(self, units: Tensor) -> Point:
        """The multipliers of both chains; the first product is the sector of points, the last one that of tangents."""
        share = self.half.unsqueeze(1) / 2
        shares = (share * _POINTS / 2, share)
        logs = [(s * _RAISED * w.clamp(min=1e-9)).log() for s, w in zip(shares, self.weights, strict=True)]
        numbers = torch.zeros_like(units)
        for i, s, sector in zip((0, -1), shares, self.sectors, strict=True):
            numbers[:, i] = torch.where(units[:, i] > 0, s * sector / units[:, i], 0.0)
        return Point(torch.stack(logs, 1), numbers)


def reconciled(tangents: ChainRule, secants: ChainRule) -> ChainRule:
    """The chain rule of tangents, with the hull of both ranges where a slope is known that is not that of all secants.

    There, the centre lies on another piece: outside a constraint, or by the rounding of its enclosure.
    """
    slopes = list(tangents.slopes)
    for k, (own, other) in enumerate(zip(tangents.slopes, secants.slopes, strict=True)):
        if own is not None and other is not None:
            apart = own.is_point & ((other.lower != own.lower) | (other.upper != own.upper))
            low, high = torch.minimum(own.lower, other.lower), torch.maximum(own.upper, other.upper)
            slopes[k] = Interval(torch.where(apart, low, own.lower), torch.where(apart, high, own.upper))
    return replace(tangents, slopes=tuple(slopes))


def _widened(chain: ChainRule, tangents: ChainRule) -> ChainRule:
    """The chain rule of secants, with the range of the derivative where that is not known but the secant is."""
    slopes = list(chain.slopes)
    for k, (own, other) in enumerate(zip(chain.slopes, tangents.slopes, strict=True)):
        if own is not None and other is not None:
            wide = own.is_point & ~other.is_point
            slopes[k] = Interval(torch.where(wide, other.lower, own.lower), torch.where(wide, other.upper, own.upper))
    return replace(chain, slopes=tuple(slopes))


@final
@dataclass(frozen=True)
class _Coupled:
    """The dual of points (copy 0) and tangents (copy 1).  units: of the multipliers, (1, C, u); free: (C, u)."""

    system: DualSystem
    free: Tensor
    units: Tensor

    @classmethod
    def of(cls, points: SecantSystem, tangents: ChainRule, lift: Lifted, start: Start, p: float) -> _Coupled:
        places = unknown_neurons(tangents)
        graph, ranges = graphs(points, places)
        couplings, slopes = _couplings(points, tangents, places)
        sector = sector_of(slopes, tangents.arithmetic)
        own = base_of(tangents, points.radius)
        base = concatenate([b.map(lambda t: t.unsqueeze(0)) for b in (own, lift.base)], 0)
        count = len(start.sizes)
        parts = [
            _placed(graph.terms, range(6)),
            *([] if couplings is None else [_placed(couplings.terms, (9, 10, 12, 13, 14, 15))]),
            _placed(sector, range(6, 12)),
        ]
        terms = concatenate(parts, 1)
        most = tangents.arithmetic.at_least(start.sizes * slopes.magnitude, 1)
        w = Interval(torch.cat([ranges.w.lower, -most.unsqueeze(0)]), torch.cat([ranges.w.upper, most.unsqueeze(0)]))
        both = Ranges(torch.cat([ranges.y, start.sizes.unsqueeze(0)]), w)
        k = start.half.mean() / 2
        point, tangent = k * _POINTS / 2 * start.sectors[0], k * start.sectors[1]
        own_units = torch.where(graph.typical > 0, point * graph.typical[0] / graph.typical.clamp(min=1e-30), 0.0)
        middle = (
            []
            if couplings is None
            else [torch.where(couplings.typical > 0, (point * tangent).sqrt(), 0.0).expand(len(couplings.zero), count)]
        )
        units = torch.cat([own_units, *middle, tangent.unsqueeze(0)])
        free = torch.cat(
            [
                graph.zero,
                *([] if couplings is None else [couplings.zero]),
                torch.zeros(1, count, dtype=torch.bool, device=units.device),
            ]
        )
        system = DualSystem(base, lift.neurons, terms, both, (points.euclidean, p != inf))
        return cls(system, free, units.unsqueeze(0))


def _couplings(
    points: SecantSystem, tangents: ChainRule, places: tuple[tuple[int, Tensor], ...]
) -> tuple[Coefficients | None, Interval]:
    """The couplings of all unknown neurons, if any activation has some, and the ranges of their slopes."""
    parts, arithmetic = [], tangents.arithmetic
    for k, index in places:
        activation = in_double(points.state, k)
        z, at = points.known(k)
        products = activation.couplings(at, arithmetic)
        blank = torch.zeros(0, len(index), dtype=torch.float64, device=index.device)
        if products:
            parts.append(Coefficients.of_tangents(products, points_of(activation, z, at), arithmetic).at(index))
        else:
            nothing = arithmetic.exact(blank.expand(6, 0, len(index)))
            parts.append(Coefficients(nothing, blank.bool(), blank))
    joined = Coefficients.joined(parts)
    return (joined if len(joined.zero) else None), slopes_of(tangents, places)


def sector_of(slopes: Interval, arithmetic: AbstractArithmetic) -> Ball:
    """(w' - d y') (D y' - w') as coefficients: (6, 1, u)."""
    exact, one = arithmetic.exact, torch.ones_like(slopes.lower)
    d, most, zero = exact(slopes.lower), exact(slopes.upper), exact(torch.zeros_like(one))
    terms = (-(d * most), d + most, exact(-one), zero, zero, zero)
    return concatenate([t.map(lambda x: x.reshape(1, 1, -1)) for t in terms], 0)


def _placed(terms: Ball, at: Sequence[int]) -> Ball:
    """Six coefficients (6, C, u) among the sixteen of a dual of two copies."""

    def placed(t):  # type: ignore[no-untyped-def]
        found = t.new_zeros(16, *t.shape[1:])
        found[list(at)] = t
        return found

    return terms.map(placed)


def slopes_of(tangents: ChainRule, places: tuple[tuple[int, Tensor], ...]) -> Interval:
    """The ranges of the slopes of the neurons at these places, in float64: (u,)."""
    lows, highs = [], []
    for k, index in places:
        slopes = tangents.slopes[k]
        if slopes is not None:
            lows.append(slopes.lower[0].flatten()[index].double())
            highs.append(slopes.upper[0].flatten()[index].double())
    return Interval(torch.cat(lows), torch.cat(highs))

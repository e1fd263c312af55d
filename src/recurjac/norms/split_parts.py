"""What is proved of parts in which signs of neurons are known: the norm of a row, and that nothing is left of a part.

signs: for each part and each neuron whose slope is not known, 1 where z >= 0, -1 where z <= 0, and 0 where the sign is
not known; (R, u).  See docs/mathematics.md, §6.8.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.activations.base import AbstractActivation
from recurjac.activations.two_piece import AbstractTwoPiece
from recurjac.arithmetic import AbstractArithmetic, Ball, Interval, concatenate
from recurjac.deadline import Deadline
from recurjac.norms.coupled import Start, sector_of, slopes_of
from recurjac.norms.induced import vector_norm
from recurjac.preactivation.centred import SecantSystem
from recurjac.preactivation.dual import graphs, in_double, points_of
from recurjac.propagation.chain_rule import ChainRule
from recurjac.quadratic import (
    Affine,
    DualSystem,
    Lifted,
    Point,
    Ranges,
    Rows,
    Scale,
    Settings,
    eliminated,
    influence,
    proved_safely,
    searched,
)  # fmt: skip
from recurjac.quadratics import Coefficients, Factor, Graph, Product

_RAISED = 1.02
"""By what factor λ is larger than that of the P-chain, so that F is strictly concave at the start."""
_GENTLE = Settings(0.1)
"""Steps from multipliers that were good for a larger part."""
_CLEARLY = 1e-4
"""How far below what is asked a bound must be before a search ends, as a share of the range."""
_EVEN = 0.2
"""The share of the mean that every neuron's unit has in addition."""
_STRONG = 1.0
"""The multiplier of what keeps variables at 0 of which there is no use, in units."""
_ALWAYS, _UNUSED = 0, 2
"""Kinds of products: those that hold everywhere, 1 and -1 where the neuron has that sign, and of unused variables."""
_DUAL = {1.0: inf, 2.0: 2.0, inf: 1.0}


@final
@dataclass(frozen=True)
class Kinks:
    """The slopes where z <= 0 (below) of the neurons with two pieces, whose sign may be divided; (u,).

    Where z >= 0 it is 1.  At z = 0 each part has its own slope: a norm is convex in it, so that both ends suffice.
    """

    below: Tensor
    divisible: Tensor

    @classmethod
    def of(cls, points: SecantSystem, places: tuple[tuple[int, Tensor], ...]) -> Kinks:
        slopes, divisible = [], []
        for k, index in places:
            slopes.append(_below(in_double(points.state, k), points.known(k)[1]).flatten()[index])
            two = isinstance(points.state.stage(k).activation, AbstractTwoPiece)
            divisible.append(torch.full_like(index, two, dtype=torch.bool))
        return cls(torch.cat(slopes), torch.cat(divisible))

    def slopes(self, signs: Tensor) -> Tensor:
        """The slopes of the neurons with a sign; 0 of the others."""
        return torch.where(signs > 0, 1.0, torch.where(signs < 0, self.below, 0.0))

    def settled(self, signs: Tensor) -> Tensor:
        """Which parts cannot be divided: (R,)."""
        return ((signs != 0) | ~self.divisible).all(1)


def _below(activation: AbstractActivation, at: Interval) -> Tensor:
    """The slope below 0 of an activation of two pieces; 1 of another one, where it is of no use."""
    one = torch.ones_like(at.lower)
    return activation.slope_below(one) * one if isinstance(activation, AbstractTwoPiece) else one


@final
@dataclass(frozen=True)
class Tangents:
    """The dual of §3.6 for the tangents of one row: slopes are free in their ranges where a part does not fix them.

    lift: the system, with one row.  terms: the sectors, and -w² for the variables of which there is no use.
    units: of the multipliers, (u,).
    """

    lift: Lifted
    kinks: Kinks
    slopes: Interval
    terms: Ball
    ranges: Ranges
    units: Tensor
    p: float
    arithmetic: AbstractArithmetic

    @classmethod
    def of(cls, lift: Lifted, kinks: Kinks, start: Start, tangents: ChainRule, p: float) -> Tangents:
        slopes, arithmetic = slopes_of(tangents, lift.places), tangents.arithmetic
        square = torch.zeros(6, 1, len(kinks.below)).to(kinks.below)
        square[2] = -1
        terms = concatenate([sector_of(slopes, arithmetic), arithmetic.exact(square)], 1)
        most = arithmetic.at_least(start.sizes * slopes.magnitude, 1).unsqueeze(0)
        ranges = Ranges(start.sizes.unsqueeze(0), Interval(-most, most))
        units = start.half.mean() / 2 * start.sectors[1]
        return cls(lift, kinks, slopes, terms, ranges, units, p, arithmetic)

    def begin(self, start: Start, k: int) -> Point:
        """The multipliers of the P-chain for row k."""
        share = start.half[k] / 2
        logs = (share * _RAISED * start.weights[1].clamp(min=1e-9)).log()
        sector = torch.where(self.units > 0, share * start.sectors[1] / self.units, 0.0)
        return Point(logs.reshape(1, 1, -1), torch.stack([sector, torch.full_like(sector, _STRONG)]).unsqueeze(0))

    def upper(self, signs: Tensor, begin: Point, steps: int, deadline: Deadline) -> tuple[Tensor, Point]:
        """Upper bounds of the row's norm in each part, and the multipliers that prove them, in single precision."""
        fixed, single = signs != 0, torch.float32
        neurons, rows = eliminated(self.lift, self.kinks.slopes(signs), fixed, self.arithmetic)
        if bool(fixed.all()):
            return self._exactly(rows), begin
        base = self.lift.base.map(lambda t: t.unsqueeze(0))
        system = DualSystem(base, neurons, self.terms, self.ranges, (self.p != inf,))
        units = torch.stack([torch.where(fixed, 0.0, self.units), torch.where(fixed, self.units, 0.0)], 1)
        nothing = torch.zeros_like(units[0], dtype=single)
        scale = Scale(units.to(single), nothing.bool(), nothing)
        plain, wanted = system.plain().to(single), Rows(rows.base.mid, rows.units.mid).to(single)
        best = searched(plain, wanted, begin.to(single), scale, steps, None, deadline, _GENTLE)
        found = proved_safely(system, rows, best.to(torch.float64), units)
        return torch.where(fixed.all(1), self._exactly(rows), found), best

    def _exactly(self, rows: Affine) -> Tensor:
        """The norm of the row without the variables w: (R,)."""
        row = rows.base.map(lambda t: t[:, 0]).matmul(self.lift.base.map(lambda t: t.mT))
        return vector_norm(torch.maximum(row.upper(), -row.lower()), _DUAL[self.p], self.arithmetic)

    def effects(self, signs: Tensor) -> Tensor:
        """How much the norm of the row depends on each neuron without a sign, about: (R, u); no proof depends on it."""
        parts, middle = len(signs), self.slopes.lower / 2 + self.slopes.upper / 2
        slopes = torch.where(signs != 0, self.kinks.slopes(signs), middle)
        own, units, base = self.lift.neurons.base.mid, self.lift.neurons.units.mid, self.lift.base.mid
        eye = torch.eye(len(units)).to(units)
        y = torch.linalg.solve_triangular(eye - units * slopes.unsqueeze(1), own.expand(parts, -1, -1), upper=False)
        ends = self.lift.rows.units.mid.expand(parts, 1, -1)
        along = torch.linalg.solve_triangular(eye - slopes.unsqueeze(2) * units, ends, upper=False, left=False)
        row = (self.lift.rows.base.mid + ((along * slopes.unsqueeze(1)) @ y)[:, 0]) @ base
        moved = ((along[:, 0] * self.slopes.width / 2).unsqueeze(2) * y) @ base
        change = (row.unsqueeze(1) + moved).abs().sum(2) - (row.unsqueeze(1) - moved).abs().sum(2)
        effect = change.abs() + 1e-3 * moved.abs().sum(2)
        return torch.where((signs == 0) & self.kinks.divisible, effect, -inf)


@final
@dataclass(frozen=True)
class HalfSpaces:
    """The dual of §3.6 for points, whose products include those of the signs of a part.

    at: what z of each neuron is at the centre.  nodes: of the neurons.  free: which products are 0, (C, u).
    typical: how large products are, (C, u).  kinds: where they hold, (C,).  weights, sectors, slopes: of the P-chain.
    """

    system: DualSystem
    at: Interval
    nodes: Tensor
    free: Tensor
    typical: Tensor
    kinds: Tensor
    weights: Tensor
    sectors: Tensor
    slopes: Tensor
    arithmetic: AbstractArithmetic

    @classmethod
    def of(cls, points: SecantSystem, lift: Lifted, base: Ball, start: Start) -> HalfSpaces:
        """base: that of the points."""
        (graph, ranges), arithmetic = graphs(points, lift.places), points.state.arithmetic
        more, lows, highs, nodes = [], [], [], []
        for k, index in lift.places:
            activation, (z, at) = in_double(points.state, k), points.known(k)
            more.append(
                Coefficients.of(sided(activation, at, arithmetic), points_of(activation, z, at), arithmetic).at(index)
            )
            lows.append(at.lower.flatten()[index])
            highs.append(at.upper.flatten()[index])
            nodes.append(torch.full_like(index, k))
        extra = Coefficients.joined(more)
        terms = concatenate([graph.terms, extra.terms], 1)
        w = Interval(ranges.w.lower.clamp(max=0), ranges.w.upper.clamp(min=0))  # 0 where there is no use of them
        system = DualSystem(
            base.map(lambda t: t.unsqueeze(0)), lift.neurons, terms, Ranges(ranges.y, w), (points.euclidean,)
        )
        kinds = torch.tensor([_ALWAYS] * len(graph.zero) + _SIDED).to(nodes[0])
        return cls(
            system, Interval(torch.cat(lows), torch.cat(highs)), torch.cat(nodes), torch.cat([graph.zero, extra.zero]),
            torch.cat([graph.typical, extra.typical]), kinds, start.weights[0], start.sectors[0], start.slopes,
            arithmetic,
        )  # fmt: skip

    def excluded(self, signs: Tensor, neurons: Tensor, sides: Tensor, steps: int, deadline: Deadline) -> Tensor:
        """Whether `sides` times z of the neurons (R,), one in each part, is proved to be below 0: (R,)."""
        rows = self.system.neurons.at(neurons).times(sides)
        half, single = self.system.ranges.y[0, neurons], torch.float32
        units = self.units(rows, signs, neurons)
        wanted = Rows(rows.base.mid.unsqueeze(1), rows.units.mid.unsqueeze(1))
        at = torch.where(sides > 0, self.at.upper[neurons], -self.at.lower[neurons])  # sides · z is at most at + y
        stop = (-at - _CLEARLY * half).to(single)
        scale = Scale(units.to(single), self.free, torch.zeros_like(self.free, dtype=single))
        begin = self.begin(half, units)
        plain = self.system.plain().to(single)
        best = searched(plain, wanted.to(single), begin.to(single), scale, steps, stop, deadline)
        found = proved_safely(self.system, rows.with_copies(0, 1), best.to(torch.float64), units)
        return (self.arithmetic.exact(at) + self.arithmetic.exact(found)).upper() < 0

    def units(self, rows: Affine, signs: Tensor, neurons: Tensor) -> Tensor:
        """Units of the multipliers of rows y of neurons (R,): (R, C, u); 0 for products that do not hold in the part.

        The system ends with the last node that has the neuron or a sign: later variables are of no use.
        """
        size = influence(self.system.neurons, self.slopes, rows.units.mid).abs()
        size = size + _EVEN * size.mean(1, keepdim=True) + 1e-9
        units = size.unsqueeze(1) * self.system.ranges.most_w[0] / 2 / self.typical.clamp(min=1e-30)
        last = torch.maximum(torch.where(signs != 0, self.nodes, 0).amax(1), self.nodes[neurons]).unsqueeze(1)
        later = ((self.nodes > last) | ((self.nodes == last) & (signs == 0))).unsqueeze(1)
        kinds = self.kinds.reshape(1, -1, 1)
        known = (kinds == _ALWAYS) | ((kinds.abs() == 1) & (kinds == signs.unsqueeze(1)))
        return torch.where((self.typical > 0) & torch.where(later, kinds == _UNUSED, known), units, 0.0)

    def begin(self, half: Tensor, units: Tensor) -> Point:
        """The multipliers of the P-chain; the first product is the sector, the last one that of unused variables."""
        share = half.unsqueeze(1) / 2
        numbers = torch.zeros_like(units)
        numbers[:, 0] = torch.where(units[:, 0] > 0, share * self.sectors / units[:, 0].clamp(min=1e-300), 0.0)
        numbers[:, -1] = _STRONG
        return Point((share * _RAISED * self.weights.clamp(min=1e-9)).log().unsqueeze(1), numbers)


_SIDED = [1, 1, 1, -1, -1, -1, _UNUSED]
"""The kinds of the products of `sided`."""


def sided(activation: AbstractActivation, at: Interval, arithmetic: AbstractArithmetic) -> list[Product]:
    """Where z >= 0: z >= 0, σ - z = 0 and -(σ - z)² = 0; the same where z <= 0; and -w² = 0 of a variable without use.

    For activations that do not have two pieces, only the last one holds.
    """
    graph, one = Graph(at, activation.value_range(at, arithmetic), arithmetic), torch.ones_like(at.lower)
    zero, found = arithmetic.exact(torch.zeros_like(one)), []
    for sign, slope in ((1.0, one), (-1.0, _below(activation, at))):
        side, rest, minus = graph.affine(sign, 0.0, 0.0), graph.affine(-slope, one, 0.0), graph.affine(slope, -one, 0.0)
        found += [Product(side, graph.unit), Product(rest, graph.unit, True), Product(rest, minus, True)]
    return [*found, Product(Factor(0 * one, one, zero), Factor(0 * one, -one, zero), True)]

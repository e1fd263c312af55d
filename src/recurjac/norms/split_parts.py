"""What is proved of parts in which sides of neurons are known: the norm of a row, and that nothing is left of a part.

signs: for each part and each neuron whose slope is not known, 1 where z is above its cut, which is 0 for two pieces, -1
where z is below it, and 0 where the side is not known; (R, u).  See docs/mathematics.md, §6.8.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Interval, concatenate
from recurjac.deadline import Deadline
from recurjac.norms.coupled import Start, sector_of, slopes_of
from recurjac.norms.induced import vector_norm
from recurjac.norms.split_cuts import ALWAYS, NEVER, UNUSED, Cuts, sided
from recurjac.preactivation.centred import SecantSystem
from recurjac.preactivation.range_dual import graphs, in_double, points_of
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
from recurjac.quadratics import Coefficients

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
_DUAL = {1.0: inf, 2.0: 2.0, inf: 1.0}


@final
@dataclass(frozen=True)
class Tangents:
    """The dual of §3.6 for the tangents of one row: slopes are free in their ranges where a part does not fix them.

    lift: the system, with one row.  terms: the sectors over the region, below and above the cuts, and -w² for the
    variables of which there is no use.  units: of the multipliers, (u,).
    """

    lift: Lifted
    cuts: Cuts
    slopes: Interval
    terms: Ball
    ranges: Ranges
    units: Tensor
    p: float
    arithmetic: AbstractArithmetic

    @classmethod
    def of(cls, lift: Lifted, cuts: Cuts, start: Start, tangents: ChainRule, p: float) -> Tangents:
        slopes, arithmetic = slopes_of(tangents, lift.places), tangents.arithmetic
        square = torch.zeros(6, 1, len(cuts.at)).to(cuts.at)
        square[2] = -1
        sides = [sector_of(cuts.slopes[i], arithmetic) for i in (0, 1)]
        terms = concatenate([sector_of(slopes, arithmetic), *sides, arithmetic.exact(square)], 1)
        most = arithmetic.at_least(start.sizes * slopes.magnitude, 1).unsqueeze(0)
        ranges = Ranges(start.sizes.unsqueeze(0), Interval(-most, most))
        units = start.half.mean() / 2 * start.sectors[1]
        return cls(lift, cuts, slopes, terms, ranges, units, p, arithmetic)

    def begin(self, start: Start, k: int) -> Point:
        """The multipliers of the P-chain for row k."""
        share = start.half[k] / 2
        logs = (share * _RAISED * start.weights[1].clamp(min=1e-9)).log()
        sector = torch.where(self.units > 0, share * start.sectors[1] / self.units, 0.0)
        none, strong = torch.zeros_like(sector), torch.full_like(sector, _STRONG)
        return Point(logs.reshape(1, 1, -1), torch.stack([sector, none, none, strong]).unsqueeze(0))

    def upper(self, signs: Tensor, begin: Point, steps: int, deadline: Deadline) -> tuple[Tensor, Point]:
        """Upper bounds of the row's norm in each part, and the multipliers that prove them, in single precision."""
        fixed, single = self.cuts.fixed(signs), torch.float32
        neurons, rows = eliminated(self.lift, self.cuts.middles(signs, self._middle), fixed, self.arithmetic)
        if bool(fixed.all()):
            return self._exactly(rows), begin
        base = self.lift.base.map(lambda t: t.unsqueeze(0))
        system = DualSystem(base, neurons, self.terms, self.ranges, (self.p != inf,))
        units = self._units(signs, fixed)
        nothing = torch.zeros_like(units[0], dtype=single)
        scale = Scale(units.to(single), nothing.bool(), nothing)
        plain, wanted = system.plain().to(single), Rows(rows.base.mid, rows.units.mid).to(single)
        best = searched(plain, wanted, begin.to(single), scale, steps, None, deadline, _GENTLE)
        found = proved_safely(system, rows, best.to(torch.float64), units)
        return torch.where(fixed.all(1), self._exactly(rows), found), best

    def _units(self, signs: Tensor, fixed: Tensor) -> Tensor:
        """Those of all products, (R, 4, u): with narrower slopes, t r² falls where the multiplier 1 / t r² grows."""
        below, above = self.units / self.cuts.shares(self.slopes).square()
        own = [torch.where(~fixed & (signs == side), unit, 0.0) for side, unit in ((-1, below), (1, above))]
        return torch.stack([torch.where(fixed, 0.0, self.units), *own, torch.where(fixed, self.units, 0.0)], 1)

    @property
    def _middle(self) -> Tensor:
        return self.slopes.lower / 2 + self.slopes.upper / 2

    def _exactly(self, rows: Affine) -> Tensor:
        """The norm of the row without the variables w: (R,)."""
        row = rows.base.map(lambda t: t[:, 0]).matmul(self.lift.base.map(lambda t: t.mT))
        return vector_norm(torch.maximum(row.upper(), -row.lower()), _DUAL[self.p], self.arithmetic)

    def effects(self, signs: Tensor) -> Tensor:
        """How much the norm of the row depends on each neuron without a sign, about: (R, u); no proof depends on it."""
        parts, slopes = len(signs), self.cuts.middles(signs, self._middle)
        own, units, base = self.lift.neurons.base.mid, self.lift.neurons.units.mid, self.lift.base.mid
        eye = torch.eye(len(units)).to(units)
        y = torch.linalg.solve_triangular(eye - units * slopes.unsqueeze(1), own.expand(parts, -1, -1), upper=False)
        ends = self.lift.rows.units.mid.expand(parts, 1, -1)
        along = torch.linalg.solve_triangular(eye - slopes.unsqueeze(2) * units, ends, upper=False, left=False)
        row = (self.lift.rows.base.mid + ((along * slopes.unsqueeze(1)) @ y)[:, 0]) @ base
        moved = ((along[:, 0] * self.slopes.width / 2).unsqueeze(2) * y) @ base
        change = (row.unsqueeze(1) + moved).abs().sum(2) - (row.unsqueeze(1) - moved).abs().sum(2)
        gained = 1 - self.cuts.left(self.slopes).mean(0)
        effect = (change.abs() + 1e-3 * moved.abs().sum(2)) * gained
        return torch.where((signs == 0) & self.cuts.divisible, effect, -inf)


@final
@dataclass(frozen=True)
class HalfSpaces:
    """The dual of §3.6 for points, whose products include those of the signs of a part.

    at: what z of each neuron is at the centre.  cuts: where neurons are divided.  nodes: of the neurons.
    free: which products are 0, (C, u).  typical: how large products are, (C, u).  kinds: where they hold, (C, u).
    weights, sectors, slopes: of the P-chain.
    """

    system: DualSystem
    at: Interval
    cuts: Cuts
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
        more, kinds, lows, highs, nodes = [], [], [], [], []
        for k, index in lift.places:
            activation, (z, at) = in_double(points.state, k), points.known(k)
            products, own = sided(activation, z, at, arithmetic)
            more.append(Coefficients.of(products, points_of(activation, z, at), arithmetic).at(index))
            kinds.append(torch.tensor(own).to(index).unsqueeze(1).expand(-1, len(index)))
            lows.append(at.lower.flatten()[index])
            highs.append(at.upper.flatten()[index])
            nodes.append(torch.full_like(index, k))
        extra = Coefficients.joined(more)
        terms = concatenate([graph.terms, extra.terms], 1)
        w = Interval(ranges.w.lower.clamp(max=0), ranges.w.upper.clamp(min=0))  # 0 where there is no use of them
        system = DualSystem(
            base.map(lambda t: t.unsqueeze(0)), lift.neurons, terms, Ranges(ranges.y, w), (points.euclidean,)
        )
        most = max(len(k) for k in kinds)
        sides = torch.cat([torch.nn.functional.pad(k, (0, 0, 0, most - len(k)), value=NEVER) for k in kinds], 1)
        every = torch.cat([torch.full_like(graph.zero, ALWAYS, dtype=sides.dtype), sides])
        return cls(
            system, Interval(torch.cat(lows), torch.cat(highs)), Cuts.of(points, lift.places), torch.cat(nodes),
            torch.cat([graph.zero, extra.zero]), torch.cat([graph.typical, extra.typical]), every, start.weights[0],
            start.sectors[0], start.slopes, arithmetic,
        )  # fmt: skip

    def excluded(self, signs: Tensor, neurons: Tensor, sides: Tensor, steps: int, deadline: Deadline) -> Tensor:
        """Whether z of the neurons (R,), one in each part, is proved not to be on these `sides` of its cut: (R,)."""
        rows = self.system.neurons.at(neurons).times(sides)
        half, single = self.system.ranges.y[0, neurons], torch.float32
        units = self.units(rows, signs, neurons)
        wanted = Rows(rows.base.mid.unsqueeze(1), rows.units.mid.unsqueeze(1))
        at = torch.where(sides > 0, self.at.upper[neurons], -self.at.lower[neurons])  # sides · z is at most at + y
        cut = sides * self.cuts.at[neurons]
        stop = (cut - at - _CLEARLY * half).to(single)
        scale = Scale(units.to(single), self.free, torch.zeros_like(self.free, dtype=single))
        begin = self.begin(half, units)
        plain = self.system.plain().to(single)
        best = searched(plain, wanted.to(single), begin.to(single), scale, steps, stop, deadline)
        found = proved_safely(self.system, rows.with_copies(0, 1), best.to(torch.float64), units)
        return (self.arithmetic.exact(at) + self.arithmetic.exact(found)).upper() < cut

    def units(self, rows: Affine, signs: Tensor, neurons: Tensor) -> Tensor:
        """Units of the multipliers of rows y of neurons (R,): (R, C, u); 0 for products that do not hold in the part.

        The system ends with the last node that has the neuron or a sign: later variables are of no use.
        """
        size = influence(self.system.neurons, self.slopes, rows.units.mid).abs()
        size = size + _EVEN * size.mean(1, keepdim=True) + 1e-9
        units = size.unsqueeze(1) * self.system.ranges.most_w[0] / 2 / self.typical.clamp(min=1e-30)
        last = torch.maximum(torch.where(signs != 0, self.nodes, 0).amax(1), self.nodes[neurons]).unsqueeze(1)
        later = ((self.nodes > last) | ((self.nodes == last) & (signs == 0))).unsqueeze(1)
        kinds = self.kinds.unsqueeze(0)
        known = (kinds == ALWAYS) | ((kinds.abs() == 1) & (kinds == signs.unsqueeze(1)))
        return torch.where((self.typical > 0) & torch.where(later, kinds == UNUSED, known), units, 0.0)

    def begin(self, half: Tensor, units: Tensor) -> Point:
        """The multipliers of the P-chain, for the first product, the sector; and those of unused variables."""
        share = half.unsqueeze(1) / 2
        numbers = torch.zeros_like(units)
        numbers[:, 0] = torch.where(units[:, 0] > 0, share * self.sectors / units[:, 0].clamp(min=1e-300), 0.0)
        numbers[(self.kinds == UNUSED).expand_as(numbers)] = _STRONG
        return Point((share * _RAISED * self.weights.clamp(min=1e-9)).log().unsqueeze(1), numbers)

"""Ranges by a quadratic dual: each side of a neuron has its own multipliers, which start from those of the P-chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.activations import AbstractActivation
from recurjac.arithmetic import Interval
from recurjac.deadline import NEVER, Deadline, check_seconds, shorter
from recurjac.machine import on_threads
from recurjac.preactivation.attempts import reached_by_steps
from recurjac.preactivation.base import AbstractPreactivation, Refine
from recurjac.preactivation.centred import AbstractCentred, SecantSystem
from recurjac.preactivation.relaxation import Crown
from recurjac.preactivation.state import PreactivationState
from recurjac.quadratic import (
    SIDES,
    Affine,
    DualSystem,
    Lifted,
    Multipliers,
    Point,
    Ranges,
    Rows,
    Scale,
    System,
    influence,
    lifted,
    proved_safely,
    searched,
    sectors_of,
)  # fmt: skip
from recurjac.quadratic.lifted import unknown_neurons, variables
from recurjac.quadratics import Coefficients

_MOST = 1500
"""The largest number of variables of a dual whose matrices are factorised for each row."""
_LOT = 16
"""How many rows are bounded together, at most."""
_ROOM = 3_500_000
"""The largest number of entries of their matrices, so that these fit in memory that is kept (`keep_freed_memory`)."""
_SHARED = 0.2
"""The share of the time for the multipliers of the P-chain."""
_DECIDING = 0.75
"""The share of the time for the signs of neurons."""
_HOPELESS = 0.4
"""What is asked of a side, as a share of what the P-chain proves, below which its sign is hardly ever proved."""
_NEAR = 0.2
"""How far above what is asked, as a share of itself, a bound may be so that the search for it begins once more."""
_ROUNDS = 4
"""How many such searches there are, each from the multipliers of the one before."""
_INFLATED = 1.02
"""By what factor t of the P-chain grows from node to node, so that F is strictly concave at the start."""
_RAISED = 1.05
"""The same for λ."""
_CLEARLY = 1e-4
"""How far below what is asked a bound must be before a search ends, as a share of the half-width."""
_SECTOR = 0.02
"""The least multiplier of a sector at the beginning of a search, in its unit."""
_EVEN = 0.2
"""The share of the mean that every neuron's unit has in addition."""


@final
@dataclass(frozen=True)
class DualRanges(AbstractCentred):
    """Centred secants, then the quadratic dual for the sides of neurons that they leave undecided.

    decide: steps for a side whose sign no point that was tried disproves; the search ends when the sign is proved, or
    is not likely to be.
    narrow: steps for both sides of the neurons that stay undecided.
    last: the same for neurons that only a linear output reads, if their only kink is at 0, so that no slope depends on
    more than their signs; None: as many as for others.
    search: steps of the P-chain.
    seconds: for each stage; searches end earlier if their steps take longer.
    Networks with products, and systems with more than 1500 variables, are bounded by secants only.
    Source: docs/mathematics.md, §3.6.
    """

    decide: int = 40
    narrow: int = 20
    search: int = 30
    seconds: float = inf
    last: int | None = None

    def __post_init__(self) -> None:
        check_seconds("DualRanges", self.seconds)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {"dual": Dual()}

    @property
    def title(self) -> str:
        return "quadratic dual"

    def within(self, seconds: float) -> DualRanges:
        return replace(self, seconds=shorter(self.seconds, seconds))

    def ranges(self, system: SecantSystem) -> tuple[Tensor, Tensor]:
        chain, deadline = system.system(), Deadline.after(self.seconds / system.state.region.batch)
        shared = system.multipliers(chain, self.search, deadline.part(_SHARED))
        half = system.half_widths(chain, shared)
        places = unknown_neurons(system.chain)
        if (
            not places
            or system.state.network.has_products
            or variables(system.chain) > _MOST
            or not bool(half.isfinite().all())
        ):
            return system.around(half, half)
        lift = lifted(system.chain, system.radius)
        with torch.no_grad():
            sides = _Sides.of(_RangeDual.of(system, lift, chain, shared, half), half, deadline)
            tried = self._decide(system, chain, sides)
            steps = self.narrow if self.last is None or not _only_signs_matter(system) else self.last
            if steps > 0:
                sides.sharpen_both(_undecided(system, sides), steps, tried)
        return system.around(sides.below, sides.above)

    def _decide(self, system: SecantSystem, chain: System, sides: _Sides) -> tuple[_Tried, ...]:
        """Try to prove the signs of neurons with a kink at 0 that have one sign at every point that is tried.

        Returns these sides with the multipliers that were found, the later ones being the better ones.
        """
        state, k = system.state, system.k
        zero = torch.zeros_like(system.at[-1].lower)
        bends = state.unstable(k, Interval(zero, zero)).flatten()[system.index] & _undecided(system, sides)
        if k == state.network.depth or not bool(bends.any()):
            return ()
        least, most = reached_by_steps(system, chain)
        low, high = (end.double().flatten()[system.index] for end in (system.at[-1].lower, system.at[-1].upper))
        positive, negative = (bends & (least >= 0)).nonzero().flatten(), (bends & (most <= 0)).nonzero().flatten()
        # z > 0 where z_c - z < z_c, and z < 0 where z - z_c < -z_c
        rows = torch.cat([positive, negative])
        signs = torch.cat([-torch.ones_like(positive), torch.ones_like(negative)])
        stop = torch.stack([-high, low])  # for sides above and below
        begun, limit = _Tried(rows, signs, None), Deadline.after(_DECIDING * sides.deadline.left)
        share = (begun.of(stop) / sides.proved(begun)).nan_to_num(0.0)
        order = share.argsort(descending=True)[: int((share >= _HOPELESS).sum())]  # what needs the least first
        found, done = begun.at(order), []
        for _ in range(_ROUNDS):
            after = sides.sharpen(found, self.decide, stop, limit)
            if after is None:
                break
            done.append(after)
            above = sides.proved(after) - after.of(stop)
            found = after.at(((above > 0) & (above <= _NEAR * sides.proved(after))).nonzero().flatten())
        return tuple(done)


def _only_signs_matter(system: SecantSystem) -> bool:
    """Whether slopes depend on the signs of this stage alone: only a linear output reads it, and its kinks are at 0."""
    stages, k = system.state.network.stages, system.k
    own = stages[k - 1].activation
    if not own.piecewise_linear or own.jumps != (0.0,) or not stages[-1].linear:
        return False
    return k < len(stages) and all(e.source != k for stage in stages[:-1] for e in stage.edges)


def _undecided(system: SecantSystem, sides: _Sides) -> Tensor:
    """Which rows are of neurons whose slope is not known with these bounds; all of them at the output."""
    state, k, shape = system.state, system.k, system.at[-1].shape
    if k == state.network.depth:
        return torch.ones(len(system.index), dtype=torch.bool, device=system.index.device)
    low, high = system.around(sides.below, sides.above)
    whole = torch.full((shape[1:].numel(),), torch.inf, dtype=low.dtype, device=low.device)
    z = Interval(
        (-whole).index_copy(0, system.index, low).reshape(shape), whole.index_copy(0, system.index, high).reshape(shape)
    )
    return state.unstable(k, z).flatten()[system.index]


@final
@dataclass
class _Sides:
    """Bounds of z_c - z (below) and of z - z_c (above) for each row."""

    dual: _RangeDual
    deadline: Deadline
    below: Tensor
    above: Tensor

    @classmethod
    def of(cls, dual: _RangeDual, half: Tensor, deadline: Deadline) -> _Sides:
        return cls(dual, deadline, half.clone(), half.clone())

    def sharpen_both(self, chosen: Tensor, steps: int, tried: tuple[_Tried, ...]) -> None:
        """Bound both sides of the rows of a mask; those that were tried go on with the multipliers found before."""
        index = chosen.nonzero().flatten()
        both = _Tried(index.repeat(2), torch.cat([torch.ones_like(index), -torch.ones_like(index)]), None)
        if len(index):
            both = replace(both, point=self.dual.started(both.rows, both.signs))
            for earlier in tried:
                both = both.going_on(earlier, len(self.above))
            self.sharpen(both, steps, None, self.deadline)

    def proved(self, sides: _Tried) -> Tensor:
        """The bounds of these sides."""
        return sides.of(torch.stack([self.above, self.below]))

    def sharpen(self, sides: _Tried, steps: int, stop: Tensor | None, deadline: Deadline) -> _Tried | None:
        """Bound these sides; one is given up once its bound is below its `stop`, (2, rows) for above and below.

        Returns those for which there was time, with the best multipliers.
        """
        rows, signs = sides.rows, sides.signs
        if len(rows) == 0:
            return None
        lots = torch.arange(len(rows), device=rows.device).split(self.dual.lot)
        threads = torch.get_num_threads()
        rounds = [-(-(len(lots) - i) // threads) for i in range(len(lots))]  # from each lot to the last
        upper = partial(self._upper, sides, steps, stop, deadline)
        done = []
        for lot, found in zip(lots, on_threads(upper, list(zip(lots, rounds, strict=True))), strict=True):
            if found is None:
                continue
            bounds, point = found
            row, up, down = rows[lot], signs[lot] > 0, signs[lot] < 0
            self.above[row[up]] = torch.minimum(self.above[row[up]], bounds[up])
            self.below[row[down]] = torch.minimum(self.below[row[down]], bounds[down])
            done.append(_Tried(row, signs[lot], point))
        return _Tried.joined(done)

    def _upper(
        self, sides: _Tried, steps: int, stop: Tensor | None, deadline: Deadline, at: tuple[Tensor, int]
    ) -> tuple[Tensor, Point] | None:
        """Bounds for one lot, which gets its share of the time that is left; None if there is none."""
        (lot, rounds), left = at, deadline.left
        if left == 0:
            return None
        own = Deadline.after(left / rounds)
        some = sides.at(lot)
        return self.dual.upper(some, steps, None if stop is None else some.of(stop), own)


@final
@dataclass(frozen=True)
class _Tried:
    """Sides of rows (1 above, -1 below), and multipliers for them, or None for those of the P-chain."""

    rows: Tensor
    signs: Tensor
    point: Point | None

    def at(self, index: Tensor) -> _Tried:
        return _Tried(self.rows[index], self.signs[index], None if self.point is None else self.point.at(index))

    def of(self, numbers: Tensor) -> Tensor:
        """Those of these sides, from numbers (2, rows) for above and below."""
        return numbers[(self.signs < 0).long(), self.rows]

    @classmethod
    def joined(cls, parts: Sequence[_Tried]) -> _Tried | None:
        """All of these sides; None if there are none."""
        points = [p.point for p in parts if p.point is not None]
        if not points:
            return None
        rows, signs = (torch.cat([getattr(p, name) for p in parts]) for name in ("rows", "signs"))
        return cls(rows, signs, Point.joined(points))

    def going_on(self, earlier: _Tried, count: int) -> _Tried:
        """The same sides with the multipliers of `earlier` where it has them; count: the number of rows."""
        if self.point is None or earlier.point is None:
            return self
        place = torch.full((2, count), -1, dtype=torch.long, device=self.rows.device)
        place[(earlier.signs > 0).long(), earlier.rows] = torch.arange(len(earlier.rows), device=self.rows.device)
        at = place[(self.signs > 0).long(), self.rows]
        return replace(self, point=self.point.replaced(at >= 0, earlier.point.at(at[at >= 0])))


@final
@dataclass(frozen=True)
class _RangeDual:
    """The dual of the rows of a system of secants, with the multipliers that the P-chain gives them at the start.

    free: which products are 0, (C, u).  typical: how large products are, (C, u).  half: the half-widths that the
    P-chain proves.  weights: its w, (n_0,), all 1 for a ball.  sectors: 1 / (t r²) of each unknown neuron, (u,).
    slopes: the middle of its secants' slopes, (u,).
    """

    system: DualSystem
    rows: Affine
    free: Tensor
    typical: Tensor
    half: Tensor
    weights: Tensor
    sectors: Tensor
    slopes: Tensor

    @classmethod
    def of(cls, system: SecantSystem, lift: Lifted, chain: System, shared: Multipliers, half: Tensor) -> _RangeDual:
        weights = torch.ones_like(system.radius) if shared.weights is None else torch.softmax(shared.weights, 0)
        products, ranges = graphs(system, lift.places)
        base = lift.base.map(lambda t: t.unsqueeze(0))
        dual = DualSystem(base, lift.neurons, products.terms, ranges, (system.euclidean,))
        sectors, slopes = sectors_of(chain, lift.places, shared.chosen(chain, system.radius), _INFLATED)
        return cls(dual, lift.rows, products.zero, products.typical, half, weights, sectors, slopes)

    @property
    def lot(self) -> int:
        """How many rows are bounded together."""
        size = self.system.neurons.base.mid.shape[1] + self.system.neurons.units.mid.shape[1]
        return min(_LOT, max(1, _ROOM // size**2))

    def started(self, rows: Tensor, signs: Tensor) -> Point:
        """The multipliers of the P-chain for `signs` times these rows, in single precision."""
        asked = self.rows.at(rows).times(signs.double())
        return self.begin(self.half[rows], self.units(_wanted(asked))).to(torch.float32)

    def upper(self, sides: _Tried, steps: int, stop: Tensor | None, deadline: Deadline = NEVER) -> tuple[Tensor, Point]:
        """Proved upper bounds of sides, and the multipliers that prove them."""
        rows, asked = sides.rows, self.rows.at(sides.rows).times(sides.signs.double())
        wanted = _wanted(asked)
        units = self.units(wanted)
        least = torch.zeros_like(self.typical).index_fill(
            0, torch.zeros(1, dtype=torch.long, device=self.typical.device), _SECTOR
        )
        single, scale = torch.float32, Scale(units.to(torch.float32), self.free, least.to(torch.float32))
        stop = None if stop is None else (stop - _CLEARLY * self.half[rows]).to(single)
        begin = self.begin(self.half[rows], units).to(single) if sides.point is None else sides.point
        best = searched(self.system.plain().to(single), wanted.to(single), begin, scale, steps, stop, deadline, SIDES)
        return proved_safely(self.system, asked.with_copies(0, 1), best.to(torch.float64), units), best

    def units(self, rows: Rows) -> Tensor:
        """Units of the multipliers, (R, C, u), by how much the rows depend on each neuron."""
        size = influence(self.system.neurons, self.slopes, rows.units[:, 0]).abs()
        size = size + _EVEN * size.mean(1, keepdim=True) + 1e-9
        units = size.unsqueeze(1) * self.system.ranges.most_w[0] / 2 / self.typical.clamp(min=1e-30)
        return torch.where(self.typical > 0, units, 0.0)

    def begin(self, half: Tensor, units: Tensor) -> Point:
        """Multipliers of the P-chain, a little larger; the first product is the sector."""
        share = half.unsqueeze(1) / 2
        logs = (share * _RAISED * self.weights.clamp(min=1e-9)).log().unsqueeze(1)
        numbers = torch.zeros_like(units)
        numbers[:, 0] = torch.where(units[:, 0] > 0, share * self.sectors / units[:, 0], 0.0)
        return Point(logs, numbers)


def _wanted(asked: Affine) -> Rows:
    """Rows of one copy in plain floating point."""
    return Rows(asked.base.mid.unsqueeze(1), asked.units.mid.unsqueeze(1))


def graphs(system: SecantSystem, places: Sequence[tuple[int, Tensor]]) -> tuple[Coefficients, Ranges]:
    """The products of the neurons at these places, and the ranges of their y and w."""
    state, arithmetic = system.state, system.state.arithmetic
    parts, y_sizes, lows, highs = [], [], [], []
    for k, index in places:
        activation = in_double(state, k)
        z, at = system.known(k)
        values, centre = activation.value_range(z, arithmetic), activation.value_range(at, arithmetic)
        points = points_of(activation, z, at)
        parts.append(Coefficients.of(activation.quadratics(z, at, arithmetic), points, arithmetic).at(index))
        y, w = arithmetic.sum([z, _minus(at)]), arithmetic.sum([values, _minus(centre)])
        y_sizes.append(y.magnitude.flatten()[index])
        lows.append(w.lower.flatten()[index])
        highs.append(w.upper.flatten()[index])
    w_range = Interval(torch.cat(lows).unsqueeze(0), torch.cat(highs).unsqueeze(0))
    return Coefficients.joined(parts), Ranges(torch.cat(y_sizes).unsqueeze(0), w_range)


def in_double(state: PreactivationState, k: int) -> AbstractActivation:
    """The activation of a stage, as the network applies it, for computations in float64."""
    return state.stage(k).activation.rounded(state.network.dtype).to(torch.float64, state.network.device)


def _minus(z: Interval) -> Interval:
    return Interval.unchecked(-z.upper, -z.lower)


def points_of(activation: AbstractActivation, z: Interval, at: Interval) -> Tensor:
    """Some points (z - c, σ(z) - σ(c)) of the graph: (2, 5, neurons)."""
    c = (at.lower / 2 + at.upper / 2).flatten()
    low, high = z.lower.flatten(), z.upper.flatten()
    points = torch.stack([low, low / 2 + c / 2, c, c / 2 + high / 2, high])
    values = activation.value(points.reshape(5, *z.shape[1:])).reshape(5, -1)
    return torch.stack([points - c, values - values[2]])


def Dual(decide: int = 40, narrow: int = 20) -> Refine:  # noqa: N802  (it stands for an object)
    """CROWN, then centred secants and the quadratic dual on the neurons that it leaves unstable."""
    return Refine(Crown(), DualRanges(decide, narrow))

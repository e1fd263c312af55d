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
"""How many rows are bounded together."""
_DECIDING = 0.75
"""The share of the time for the signs of neurons."""
_ATTEMPTS = 6
"""How many points are tried to disprove the sign of a neuron."""
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
    narrow: steps for both sides of the neurons that stay undecided.  search: steps of the P-chain.
    seconds: for each stage; searches end earlier if their steps take longer.
    Networks with products, and systems with more than 1500 variables, are bounded by secants only.
    Source: docs/mathematics.md, §3.6.
    """

    decide: int = 40
    narrow: int = 20
    search: int = 30
    seconds: float = inf

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
        shared = system.multipliers(chain, self.search, deadline)
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
            self._decide(system, chain, sides)
            sides.sharpen_both(_undecided(system, sides), self.narrow)
        return system.around(sides.below, sides.above)

    def _decide(self, system: SecantSystem, chain: System, sides: _Sides) -> None:
        """Try to prove the signs of neurons with a kink at 0 that have one sign at every point that is tried."""
        state, k = system.state, system.k
        zero = torch.zeros_like(system.at[-1].lower)
        bends = state.unstable(k, Interval(zero, zero)).flatten()[system.index] & _undecided(system, sides)
        if k == state.network.depth or not bool(bends.any()):
            return
        least, most = _tried(system, chain)
        low, high = (end.double().flatten()[system.index] for end in (system.at[-1].lower, system.at[-1].upper))
        positive, negative = (bends & (least >= 0)).nonzero().flatten(), (bends & (most <= 0)).nonzero().flatten()
        # z > 0 where z_c - z < z_c, and z < 0 where z - z_c < -z_c
        rows, stop = torch.cat([positive, negative]), torch.cat([low[positive], -high[negative]])
        signs = torch.cat([-torch.ones_like(positive), torch.ones_like(negative)])
        order = (stop / sides.above[rows]).argsort(descending=True)  # what needs the least first
        limit = Deadline.after(_DECIDING * sides.deadline.left)
        sides.sharpen(rows[order], signs[order], self.decide, stop[order], limit)


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


def _tried(system: SecantSystem, chain: System) -> tuple[Tensor, Tensor]:
    """The least and the largest value of each row's z that are found in the box or ball, in plain floating point."""
    state, count = system.state, len(system.index)
    network, along = state.network.detached(), chain.middle_rows()
    lead, to = system.centre.shape[1:], system.centre.dtype
    signs = torch.cat([torch.ones(count), -torch.ones(count)]).to(along)
    rows, step = torch.arange(count, device=along.device).repeat(2), _steepest(system, torch.cat([along, -along]))
    least = torch.full((count,), torch.inf, dtype=torch.float64, device=along.device)
    most = -least
    for _ in range(_ATTEMPTS):
        points = (system.centre + step.reshape(-1, *lead).to(to)).requires_grad_()
        with torch.enable_grad():
            z = network.preactivations(points)[system.k - 1].flatten(1)[:, system.index]
            mine = (z.gather(1, rows.unsqueeze(1))[:, 0] * signs).sum()
        least, most = (
            torch.minimum(least, z.detach().double().amin(0)),
            torch.maximum(most, z.detach().double().amax(0)),
        )
        slope = torch.autograd.grad(mine, points)[0].flatten(1).double()
        step = _steepest(system, slope) if system.euclidean else step / 2 + _steepest(system, slope) / 2
    return least, most


def _steepest(system: SecantSystem, rows: Tensor) -> Tensor:
    """The point of the box or ball around 0 where each linear form is largest."""
    if not system.euclidean:
        return rows.sign() * system.radius
    size: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp(min=1e-300)
    return rows / size * system.radius


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

    def sharpen_both(self, chosen: Tensor, steps: int) -> None:
        """Bound both sides of the rows of a mask."""
        up, down = chosen.nonzero().flatten(), chosen.nonzero().flatten()
        signs = torch.cat([torch.ones_like(up), -torch.ones_like(down)])
        self.sharpen(torch.cat([up, down]), signs, steps, None, self.deadline)

    def sharpen(self, rows: Tensor, signs: Tensor, steps: int, stop: Tensor | None, deadline: Deadline) -> None:
        """Bound `signs` times z - z_c at these rows; a row is given up once its bound is below its `stop`."""
        if len(rows) == 0:
            return
        lots = torch.arange(len(rows), device=rows.device).split(_LOT)
        threads = torch.get_num_threads()
        rounds = [-(-(len(lots) - i) // threads) for i in range(len(lots))]  # from each lot to the last
        upper = partial(self._upper, rows, signs, steps, stop, deadline)
        for lot, found in zip(lots, on_threads(upper, list(zip(lots, rounds, strict=True))), strict=True):
            row, up, down = rows[lot], signs[lot] > 0, signs[lot] < 0
            self.above[row[up]] = torch.minimum(self.above[row[up]], found[up])
            self.below[row[down]] = torch.minimum(self.below[row[down]], found[down])

    def _upper(
        self, rows: Tensor, signs: Tensor, steps: int, stop: Tensor | None, deadline: Deadline, at: tuple[Tensor, int]
    ) -> Tensor:
        """Bounds for one lot, which gets its share of the time that is left; infinite if there is none."""
        (lot, rounds), left = at, deadline.left
        if left == 0:
            return torch.full_like(self.above[rows[lot]], torch.inf)
        own = Deadline.after(left / rounds)
        return self.dual.upper(rows[lot], signs[lot], steps, None if stop is None else stop[lot], own)


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

    def upper(self, rows: Tensor, signs: Tensor, steps: int, stop: Tensor | None, deadline: Deadline = NEVER) -> Tensor:
        """Proved upper bounds of `signs` times the rows."""
        asked = self.rows.at(rows).times(signs.double())
        wanted = Rows(asked.base.mid.unsqueeze(1), asked.units.mid.unsqueeze(1))
        units = self.units(wanted)
        least = torch.zeros_like(self.typical).index_fill(
            0, torch.zeros(1, dtype=torch.long, device=self.typical.device), _SECTOR
        )
        single, scale = torch.float32, Scale(units.to(torch.float32), self.free, least.to(torch.float32))
        stop = None if stop is None else (stop - _CLEARLY * self.half[rows]).to(single)
        begin = self.begin(self.half[rows], units).to(single)
        best = searched(self.system.plain().to(single), wanted.to(single), begin, scale, steps, stop, deadline, SIDES)
        return proved_safely(self.system, asked.with_copies(0, 1), best.to(torch.float64), units)

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

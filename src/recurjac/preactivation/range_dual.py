"""The quadratic dual of the rows of a system of secants: sides one by one, or many with shared multipliers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recurjac.activations import AbstractActivation
from recurjac.arithmetic import Interval
from recurjac.deadline import NEVER, Deadline
from recurjac.preactivation.centred import SecantSystem
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
    Shared,
    System,
    influence,
    proved_safely,
    proved_together,
    searched,
    searched_together,
    sectors_of,
)  # fmt: skip
from recurjac.quadratics import Coefficients

_LOT = 16
"""How many rows are bounded together, at most, each with its own multipliers."""
_ROOM = 3_500_000
"""The largest number of entries of their matrices, so that these fit in memory that is kept (`keep_freed_memory`)."""
_INFLATED = 1.02
"""By what factor t of the P-chain grows from node to node, so that F is strictly concave at the start."""
_RAISED = 1.05
"""The same for λ."""
_HIGHER = 0.1
"""What is added to log λ where a search goes on from shared multipliers, so that F is strictly concave."""
_CLEARLY = 1e-4
"""How far below what is asked a bound must be before a search ends, as a share of the half-width."""
_SMALL = 1e-6
"""The least half-width in whose units a bound counts in a search for shared multipliers, as a share of the largest."""
_SECTOR = 0.02
"""The least multiplier of a sector at the beginning of a search, in its unit."""
_EVEN = 0.2
"""The share of the mean that every neuron's unit has in addition."""


@final
@dataclass(frozen=True)
class RangeDual:
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
    def of(cls, system: SecantSystem, lift: Lifted, chain: System, shared: Multipliers, half: Tensor) -> RangeDual:
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

    def going_on(self, rows: Tensor, signs: Tensor, shared: Shared) -> Point:
        """Where searches for these sides begin after one for shared multipliers, in single precision."""
        units = self.units(_wanted(self.rows.at(rows).times(signs.double())))
        return shared.point(units.to(torch.float32), _HIGHER)

    def upper(
        self, rows: Tensor, signs: Tensor, point: Point | None, steps: int, stop: Tensor | None,
        deadline: Deadline = NEVER,
    ) -> tuple[Tensor, Point]:  # fmt: skip
        """Proved upper bounds of `signs` times these rows, from a point or the P-chain, and what proves them."""
        asked = self.rows.at(rows).times(signs.double())
        wanted = _wanted(asked)
        units, single = self.units(wanted), torch.float32
        scale = Scale(units.to(single), self.free, self._least)
        stop = None if stop is None else (stop - _CLEARLY * self.half[rows]).to(single)
        begin = self.begin(self.half[rows], units).to(single) if point is None else point
        best = searched(self.system.plain().to(single), wanted.to(single), begin, scale, steps, stop, deadline, SIDES)
        return proved_safely(self.system, asked.with_copies(0, 1), best.to(torch.float64), units), best

    def upper_together(
        self, signs: Tensor, steps: int, deadline: Deadline = NEVER
    ) -> tuple[Tensor, Shared] | None:  # fmt: skip
        """Proved upper bounds of `signs` times all rows by multipliers that they share; None if none are found."""
        asked, single = self.rows.times(signs.double()), torch.float32
        wanted = _wanted(asked)
        units = self.units(wanted)
        known = self.half.clamp(min=_SMALL * float(self.half.max()))
        shared = (units / known[:, None, None]).mean(0, keepdim=True)
        begin = self.begin(torch.ones_like(self.half[:1]), shared).to(single)
        scale = Scale(shared.to(single), self.free, self._least)
        found = searched_together(
            self.system.plain().to(single), wanted.to(single), begin, scale, units.to(single), known.to(single),
            steps, deadline,
        )  # fmt: skip
        if found is None:
            return None
        return proved_together(self.system, asked.with_copies(0, 1), found.to(torch.float64)), found

    @property
    def _least(self) -> Tensor:
        """The least multipliers at the beginning of a search, in single precision: (C, u)."""
        least = torch.zeros_like(self.typical, dtype=torch.float32)
        least[:1] = _SECTOR
        return least

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

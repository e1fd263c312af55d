"""Norms by splitting neurons: the worst parts are divided by the side of one more (docs/mathematics.md, §6.8)."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import round_up_to
from recurjac.deadline import Deadline, check_seconds, shorter
from recurjac.errors import InvalidRequest, expect_counts
from recurjac.jacobian import Gradients
from recurjac.norms.base import AbstractNormMethod, NormBound
from recurjac.norms.coupled import Start, reconciled
from recurjac.norms.induced import vector_norm
from recurjac.norms.quadratic import QuadraticNorm
from recurjac.norms.split_cuts import Cuts
from recurjac.norms.split_parts import HalfSpaces, Tangents
from recurjac.preactivation.centred import secant_system
from recurjac.quadratic import Point, lifted, reduced
from recurjac.quadratic.lifted import base_of, unknown_neurons, variables
from recurjac.search import Attained

_MOST = 400
"""The largest number of variables of the dual of a part."""
_LOT = 32
"""How many parts are divided together."""
_FIRST = 4
"""How many times as many steps are taken for the whole region as for a part."""

_LAST = 5
"""The same for the proof that a part with all signs is empty."""


@final
@dataclass(frozen=True)
class SplitNorm(AbstractNormMethod):
    """For each row, the largest of the bounds of parts in which sides of some neurons are known.

    Those are signs of neurons with a kink at 0, and sides of a point of the range of others, where slopes have narrower
    ranges.  The parts with the worst bounds are divided by one more; those that are proved to be empty are dropped.
    With all signs known, a bound is exact.
    steps: of the search for each part.  parts: how many are bounded for each row.  seconds: for all rows of a batch.
    Networks that are too wide or have products, unbounded regions and parts of chain rules get the bound of the
    P-chain.  Results have no derivatives.  Source: docs/mathematics.md, §6.8.
    Raises InvalidRequest for numbers that are not positive.
    """

    steps: int = 20
    parts: int = 500
    seconds: float = inf

    def __post_init__(self) -> None:
        check_seconds("SplitNorm", self.seconds)
        expect_counts("SplitNorm", steps=self.steps, parts=self.parts)
        if min(self.steps, self.parts) < 1:
            raise InvalidRequest(f"{self} needs at least one step and one part")

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractNormMethod]:
        return {"split": cls()}

    @property
    def title(self) -> str:
        return "split signs"

    def within(self, seconds: float) -> SplitNorm:
        return replace(self, seconds=shorter(self.seconds, seconds))

    def supports(self, p: float, q: float) -> bool:
        return True

    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]:
        return []

    def norm(self, gradients: Gradients, p: float, q: float) -> Tensor:
        return vector_norm(self.rows(gradients, p), q, gradients.chain.arithmetic)

    def rows(self, gradients: Gradients, p: float) -> Tensor:
        return self._rows(gradients, p, [0.0] * gradients.chain.batch)

    def towards(self, gradients: Gradients, p: float, q: float, attained: Attained) -> NormBound:
        """Parts whose bound is at most what is attained are dropped, where the norm is that of the largest row."""
        if q != inf:
            return self.bound(gradients, p, q)
        rows = self._rows(gradients, p, attained.gain.double().tolist())
        return NormBound(vector_norm(rows, q, gradients.chain.arithmetic))

    def _rows(self, gradients: Gradients, p: float, floors: list[float]) -> Tensor:
        """Bounds of the larger of a row's norm and the `floor` of its sample: (batch, K)."""
        chain = gradients.chain
        found = torch.full((chain.batch, chain.rows), inf, dtype=chain.dtype, device=chain.device)
        if gradients.problem is not None and gradients.given is None:
            with torch.no_grad():
                for i, floor in enumerate(floors):
                    most = self._rows_of(gradients, i, p, floor)
                    found[i] = round_up_to(torch.where(most.isnan(), inf, most), chain.dtype)
        return found if bool(found.isfinite().all()) else torch.minimum(found, QuadraticNorm().rows(gradients, p))

    def _rows_of(self, gradients: Gradients, i: int, p: float, floor: float) -> Tensor:
        """Those of sample i, (K,), in float64; infinite where the dual is not formed."""
        tangents = gradients.chain.sample(i)
        nothing = torch.full((tangents.rows,), inf, dtype=torch.float64, device=tangents.device)
        several = gradients.state.network.has_products  # neurons of two arguments have no such products
        unknown = unknown_neurons(tangents) and not several
        points = secant_system(gradients.state, i, tangents.covectors) if unknown else None
        if points is None:
            return nothing
        tangents, deadline = reconciled(tangents, points.chain), Deadline.after(self.seconds / gradients.chain.batch)
        start = Start.of(points, tangents, p, deadline) if variables(tangents) <= _MOST else None
        if start is None:
            return nothing
        lift, found = lifted(tangents, torch.ones_like(points.radius)), start.half.clone()
        base, cuts = base_of(tangents, points.radius), Cuts.of(points, lift.places)
        for k in range(tangents.rows):
            one = replace(lift, rows=lift.rows.at(torch.tensor([k], device=tangents.device)))
            row, inputs = reduced(one, base, tangents.arithmetic)
            duals = Tangents.of(row, cuts, start, tangents, p), HalfSpaces.of(points, row, inputs, start)
            rest = Deadline.after(deadline.left / (tangents.rows - k))
            found[k] = min(float(found[k]), Splitting(*duals, self.steps, self.parts, floor, rest).upper(start, k))
        return found


@final
@dataclass
class Splitting:
    """The parts of one row: those that are open, worst first, and the largest bound of those that are not divided.

    Parts with a bound of at most `floor` are dropped; the bound is therefore one of the larger of the norm and `floor`.
    """

    tangents: Tangents
    halves: HalfSpaces
    steps: int
    most: int
    floor: float
    deadline: Deadline
    heap: list[tuple[float, int, Tensor, Point]] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        self.closed = self.floor

    def upper(self, start: Start, k: int) -> float:
        """Divide while there is time and something to gain; `start` has what is known of row k of the whole region."""
        signs = torch.zeros(1, len(self.tangents.units)).to(self.tangents.units)
        first = self.tangents.begin(start, k)
        upper, best = self.tangents.upper(signs, first, _FIRST * self.steps, self._rest)
        self._add(torch.minimum(upper, start.half[k : k + 1]), signs, best.to(torch.float32))
        while self.heap and -self.heap[0][0] > self.closed and self.count < self.most and not self.deadline.over:
            self._divide()
        return max(self.closed, -self.heap[0][0] if self.heap else -inf)

    @property
    def _rest(self) -> Deadline:
        return Deadline.after(self.deadline.left)

    def _add(self, uppers: Tensor, signs: Tensor, points: Point) -> None:
        for i, value in enumerate(uppers.tolist()):
            bound = value if isfinite(value) else inf
            self.count += 1
            if bound > self.floor:
                own = Point(points.logs[i : i + 1].clone(), points.numbers[i : i + 1].clone())
                heapq.heappush(self.heap, (-bound, self.count, signs[i : i + 1], own))

    def _taken(self) -> tuple[Tensor, Tensor, Point]:
        """The worst parts: their bounds, signs and multipliers."""
        taken: list[tuple[float, int, Tensor, Point]] = []
        while self.heap and len(taken) < _LOT and -self.heap[0][0] > self.closed:
            taken.append(heapq.heappop(self.heap))
        bounds = torch.tensor([-t[0] for t in taken], dtype=torch.float64, device=taken[0][2].device)
        points = Point(torch.cat([t[3].logs for t in taken]), torch.cat([t[3].numbers for t in taken]))
        return bounds, torch.cat([t[2] for t in taken]), points

    def _divide(self) -> None:
        """Divide the worst parts by the side of the neuron with the largest effect, and bound what is not empty."""
        bounds, signs, points = self._taken()
        settled = self.tangents.cuts.settled(signs)
        if bool(settled.any()):
            left = bounds[settled][~self._empty(signs[settled])]
            self.closed = max([self.closed, *left.tolist()])
        bounds, signs, points = bounds[~settled], signs[~settled], points.at(~settled)
        if len(signs) == 0:
            return
        neurons = self.tangents.effects(signs).argmax(1).repeat(2)
        parts, sides = torch.arange(len(signs), device=signs.device).repeat(2), torch.ones_like(bounds).repeat(2)
        sides[len(signs) :] = -1
        keep = ~self.halves.excluded(signs[parts], neurons, sides, self.steps, self._rest)
        if not bool(keep.any()):
            return
        parts, children = parts[keep], signs[parts[keep]]
        children[torch.arange(len(parts)), neurons[keep]] = sides[keep]
        upper, best = self.tangents.upper(children, points.at(parts), self.steps, self._rest)
        self._add(torch.minimum(upper, bounds[parts]), children, best)

    def _empty(self, signs: Tensor) -> Tensor:
        """Which parts, which cannot be divided, are proved to be empty, by each of their signs in turn: (R,)."""
        parts, neurons = signs.nonzero().unbind(1)
        if len(parts) == 0:
            return torch.zeros_like(signs[:, 0], dtype=torch.bool)
        others = signs[parts].index_put((torch.arange(len(parts)), neurons), torch.zeros_like(signs[0, 0]))
        found = self.halves.excluded(others, neurons, signs[parts, neurons], _LAST * self.steps, self._rest)
        return torch.zeros_like(signs[:, 0]).index_add(0, parts, found.to(signs)) > 0

"""Ranges by a quadratic dual: first by multipliers that many sides of neurons share, then by each side's own ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.deadline import Deadline, check_seconds, shorter
from recurjac.errors import expect_counts
from recurjac.machine import on_threads
from recurjac.preactivation.attempts import reached_by_steps
from recurjac.preactivation.base import AbstractPreactivation, Refine
from recurjac.preactivation.centred import AbstractCentred, SecantSystem
from recurjac.preactivation.range_dual import RangeDual
from recurjac.preactivation.relaxation import Crown
from recurjac.quadratic import Point, Shared, System, lifted
from recurjac.quadratic.lifted import unknown_neurons, variables

_MOST = 1500
"""The largest number of variables of a dual whose matrices are factorised for each row."""
_SHARED = 0.2
"""The share of the time for the multipliers of the P-chain."""
_TOGETHER = 0.3
"""The share of the rest of it for multipliers that all rows share."""
_FEW = 8
"""The least number of rows for which shared multipliers are sought."""
_DECIDING = 0.75
"""The share of the time for the signs of neurons."""
_HOPELESS = 0.4
"""What is asked of a side, as a share of what the P-chain proves, below which its sign is hardly ever proved."""
_NEAR = 0.2
"""How far above what is asked, as a share of itself, a bound may be so that the search for it begins once more."""
_ROUNDS = 4
"""How many such searches there are, each from the multipliers of the one before."""


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
    together: steps for both sides of all neurons with multipliers that they share, before any side has its own ones.
    seconds: for each stage; searches end earlier if their steps take longer.
    Networks with products, and systems with more than 1500 variables, are bounded by secants only.
    Source: docs/mathematics.md, §3.6.
    """

    decide: int = 40
    narrow: int = 20
    search: int = 30
    seconds: float = inf
    last: int | None = None
    together: int = 40

    def __post_init__(self) -> None:
        check_seconds("DualRanges", self.seconds)
        steps = {"decide": self.decide, "narrow": self.narrow, "search": self.search, "together": self.together}
        expect_counts("DualRanges", **steps, last=0 if self.last is None else self.last)

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
            sides = _Sides.of(RangeDual.of(system, lift, chain, shared, half), half, deadline)
            if self.together > 0 and len(half) >= _FEW:
                sides.sharpen_together(self.together, deadline.part(_TOGETHER))
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
        found, done = sides.begun(rows[order], signs[order]), []
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
    """Bounds of z_c - z (below) and of z - z_c (above) for each row, and multipliers that prove them for all rows."""

    dual: RangeDual
    deadline: Deadline
    below: Tensor
    above: Tensor
    shared_below: Shared | None = None
    shared_above: Shared | None = None

    @classmethod
    def of(cls, dual: RangeDual, half: Tensor, deadline: Deadline) -> _Sides:
        return cls(dual, deadline, half.clone(), half.clone())

    def sharpen_both(self, chosen: Tensor, steps: int, tried: tuple[_Tried, ...]) -> None:
        """Bound both sides of the rows of a mask; those that were tried go on with the multipliers found before."""
        index = chosen.nonzero().flatten()
        if len(index):
            both = self.begun(index.repeat(2), torch.cat([torch.ones_like(index), -torch.ones_like(index)]))
            for earlier in tried:
                both = both.going_on(earlier, len(self.above))
            self.sharpen(both, steps, None, self.deadline)

    def sharpen_together(self, steps: int, deadline: Deadline) -> None:
        """Bound both sides of all rows with multipliers that the rows share."""
        signs = torch.ones(len(self.above), dtype=torch.long, device=self.above.device)
        work = partial(self._together, steps, deadline)
        above, below = on_threads(work, [signs, -signs])
        if above is not None:
            self.above, self.shared_above = torch.minimum(self.above, above[0]), above[1]
        if below is not None:
            self.below, self.shared_below = torch.minimum(self.below, below[0]), below[1]

    def _together(self, steps: int, deadline: Deadline, signs: Tensor) -> tuple[Tensor, Shared] | None:
        return self.dual.upper_together(signs, steps, deadline)

    def begun(self, rows: Tensor, signs: Tensor) -> _Tried:
        """These sides, and where their own searches begin: at shared multipliers, or at those of the P-chain."""
        point = self.dual.started(rows, signs)
        for sign, shared in ((1, self.shared_above), (-1, self.shared_below)):
            mine = signs == sign
            if shared is not None and bool(mine.any()):
                point = point.replaced(mine, self.dual.going_on(rows[mine], signs[mine], shared.at(rows[mine])))
        return _Tried(rows, signs, point)

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
        asked = None if stop is None else some.of(stop)
        return self.dual.upper(some.rows, some.signs, some.point, steps, asked, own)


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


def Dual(decide: int = 40, narrow: int = 20) -> Refine:  # noqa: N802  (it stands for an object)
    """CROWN, then centred secants and the quadratic dual on the neurons that it leaves unstable."""
    return Refine(Crown(), DualRanges(decide, narrow))

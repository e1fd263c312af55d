"""Smooth activations of any shape: a search for the lines that are tightest at a point of an interval.

Of all lines above f on [l, u], the line that is lowest at the point m, such as the midpoint, has the height min_a h(a)
there, where

    h(a) = max over v in [l, u] of  f(v) - a (v - m)

is convex in the slope a.  The maximum is attained at an end, where f' turns or jumps, or where f'(v) = a on a piece
between those points on which f' falls.  Let p be the best v <= m and q the best v >= m for the slope of some chord of f
over m.  The chord from p to q is not lower at m, as both are on that line or above it.  Where it is not higher either,
no line above f is lower at m: it touches f at p and q, or at m alone.  These are Newton's steps for the slope at which
p and q are equally good.  With each of them, the points where f'(v) = a are improved by one step of the secant method;
points that are not right yet are points of the graph all the same, so that no chord is too high.

For any slope that the search returns, the intercept is the maximum of f(v) - a v over the same candidates, so the line
is valid; the search only makes it tight.  An error e in a candidate changes the intercept only by e² f'' / 2, because
the intercept is stationary there; the search ends where this is less than rounding.  The idea of free slopes is from
CROWN (arXiv:1811.00866, Section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self, final

import torch
from torch import Tensor

from recurjac.activations.smooth import AbstractSmooth
from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.relaxations import LinearRelaxation

_NOISE = 4
"""How many units of the last place of the numbers that meet are rounding in heights and in slopes."""
_STEPS = 60
"""The maximum number of steps of each search.  About ten are needed, and more in tails, where brackets are halved."""

_FEW = 200
"""Of fewer intervals than half of this, none are left out when their search has ended, because calls dominate."""


class AbstractCurved(AbstractSmooth):
    """σ of any shape; `slope_turns` must also cut off the far tails, where σ' is constant in floating point."""

    @final
    def lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """The lines that are tightest at the midpoint of z."""
        return tightest_lines(self, z, 0.5, arithmetic)


def tightest_lines(
    activation: AbstractSmooth, z: Interval, share: float, arithmetic: AbstractArithmetic
) -> LinearRelaxation:
    """The lines of σ that are tightest at a point of z, which has the given share of z before it.

    The lower line is found as the upper line of -σ.  As in `AbstractCurved`, `slope_turns` must cut off far tails.
    """
    core = activation.core(z)
    both = core.map(lambda end: torch.stack([end, end]))
    below = torch.tensor([True, False], device=z.lower.device).reshape(2, *[1] * z.lower.dim())
    slope, (least, most), touching = _lines(activation, both, below, share, arithmetic)
    return activation._over(z, arithmetic, (slope[0], least[0], touching[:, 0]), (slope[1], most[1], touching[:, 1]))


def _lines(
    activation: AbstractSmooth, z: Interval, below: Tensor, share: float, arithmetic: AbstractArithmetic
) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """The slope of the best line below or above σ, the smallest and largest intercepts that it may need, and points.

    At one of the points, (m, *shape), it touches σ.

    Both are differentiable in the ends of z.  Touching points inside z may be held fixed, because the slope of the
    line through them is stationary in them.
    """
    sign = torch.where(below, -1.0, 1.0).double().expand(z.shape).flatten()
    ends = z.map(lambda t: t.detach().double().flatten())
    search = _Search(activation, sign, ends.lower, ends.upper, share)
    with torch.no_grad():
        touching, contacts = search.touching_points()
    slope = activation.chord(Interval(*search.live(touching, z)), arithmetic)
    with torch.no_grad():
        candidates = search.candidates(sign * slope.detach().double().flatten(), contacts)
    points = search.live(candidates, z)
    return slope, activation.intercepts(slope, *points), points


@final
@dataclass(frozen=True)
class _Search:
    """f = σ (sign 1) or -σ (sign -1) on each of n intervals, in float64."""

    activation: AbstractSmooth
    sign: Tensor
    lower: Tensor
    upper: Tensor
    share: float

    def live(self, points: Tensor, z: Interval) -> Tensor:
        """Points (..., n) in the shape and dtype of z; ends and the point m are exact and keep their gradients.

        z: the intervals of this search.
        """
        shape = (*points.shape[:-1], *z.shape)
        cast = points.reshape(shape).to(z.lower.dtype)
        live = torch.minimum(torch.maximum(cast, z.lower.detach()), z.upper.detach())
        for own, copy in ((self._at(z.lower, z.upper), self.middle), (z.upper, self.upper), (z.lower, self.lower)):
            live = torch.where((points == copy).reshape(shape), own, live)
        return live

    def f(self, v: Tensor) -> Tensor:
        return self.sign * self.activation.value(v)

    def slope(self, v: Tensor) -> Tensor:
        return self.sign * self.activation.slope(v)

    @cached_property
    def middle(self) -> Tensor:
        """The point m at which the line is tightest."""
        return self._at(self.lower, self.upper)

    def _at(self, lower: Tensor, upper: Tensor) -> Tensor:
        return (1 - self.share) * lower + self.share * upper

    @cached_property
    def _cuts(self) -> Tensor:
        """The ends, the point m and the turning points of f', in ascending order: (k + 1, n)."""
        turns = self.activation.slope_turns(self.lower, self.upper)
        cuts = torch.cat([torch.stack([self.lower, self.middle, self.upper]), turns]).sort(0).values
        used = (cuts[1:] > cuts[:-1]).any(-1)
        used[0] = True
        return cuts[torch.cat([used.new_ones(1), used])]

    @cached_property
    def _values(self) -> Tensor:
        """f at the cuts."""
        return self.f(self._cuts)

    @cached_property
    def _slopes(self) -> tuple[Tensor, Tensor]:
        """f' at both ends of each piece between two cuts, from inside: (k, n)."""
        before, after = self.activation.slopes_beside(self._cuts)
        return self.sign * after[:-1], self.sign * before[1:]

    @cached_property
    def _range(self) -> tuple[Tensor, Tensor]:
        """The least and the largest f'."""
        slopes = torch.cat(self._slopes)
        return slopes.amin(0), slopes.amax(0)

    def touching_points(self) -> tuple[Tensor, _Contacts]:
        """The points where the line that is lowest at m touches f: p < m < q, or m twice; and contacts near its slope.

        It starts as the tangent at m or as the chord.  As long as f is above it on either side of m, the points there
        that are highest above it become p and q, so that its height at m never falls.
        """
        return self._improved(self._start(), self.slope(self.middle), self._contacts(), _STEPS)

    def _improved(self, touching: Tensor, slope: Tensor, contacts: _Contacts, steps: int) -> tuple[Tensor, _Contacts]:
        """Better p and q, from some, and the slope of a line through m where both are m."""
        values, sides = self.f(touching), contacts.sides(self._cuts, self.middle)
        for left in reversed(range(steps)):
            slope = torch.where(touching[1] > touching[0], self._chord(touching, values), slope)
            contacts = contacts.toward(slope)
            at, known, rise = contacts.points(slope)
            points, known = torch.cat([touching, self._cuts, at]), torch.cat([values, self._values, known])
            heights = self.heights(points, known, slope)
            limit = heights[0] + self._rounding(slope, values[0])
            found = torch.where(sides, heights, -torch.inf).max(1)
            better = found.values > limit
            rest = (better.any(0) | (heights[len(heights) - len(at) :] + rise > limit).any(0)).nonzero()[:, 0]
            if not len(rest):
                break
            touching = torch.where(better, points.gather(0, found.indices), touching)
            values = torch.where(better, known.gather(0, found.indices), values)
            if _FEW < 2 * len(rest) < len(slope):
                part = self._part(rest)
                found_at, moved = part._improved(touching[:, rest], slope[rest], contacts.part(part, rest), left)
                return touching.index_copy(1, rest, found_at), contacts.with_part(rest, moved)
        return touching, contacts

    def _start(self) -> Tensor:
        """The point m twice if f' does not rise on either side of it, otherwise both ends: (2, n)."""
        (first, last), cuts = self._slopes, self._cuts
        beside = (cuts[1:] > cuts[:-1]) & ((cuts[1:] == self.middle) | (cuts[:-1] == self.middle))
        concave = (~beside | (last <= first)).all(0)
        return torch.where(concave, self.middle, torch.stack([self.lower, self.upper]))

    def _contacts(self) -> _Contacts:
        """Contacts on the pieces where f' falls; elsewhere f less a line is largest at an end.

        r is the largest number of such pieces in an interval; where there are fewer, the others have no contact.
        """
        (first, last), cuts, values = self._slopes, self._cuts, self._values
        falling = last < first
        count = int(falling.sum(0).amax()) if falling.numel() else 0
        rows = falling.byte().sort(dim=0, descending=True, stable=True).indices[:count].expand(3, -1, -1)
        first, last = torch.where(falling, first, -torch.inf), torch.where(falling, last, torch.inf)
        ends = torch.stack([cuts[:-1], first, values[:-1]]), torch.stack([cuts[1:], last, values[1:]])
        return _Contacts.between(self, *(end.gather(1, rows) for end in ends))

    def _chord(self, points: Tensor, values: Tensor) -> Tensor:
        """The slope of the line through two points, within the range of f'; NaN if they are the same."""
        rise, run = values[1] - values[0], points[1] - points[0]
        return torch.minimum(torch.maximum(rise / run, self._range[0]), self._range[1])

    def heights(self, points: Tensor, values: Tensor, slope: Tensor) -> Tensor:
        """The values at m of the lines with this slope through points."""
        return values - slope * (points - self.middle)

    def _rounding(self, slope: Tensor, value: Tensor) -> Tensor:
        """A rough estimate of the rounding error of the height of a line through a point with this value of f."""
        size = value.abs() + slope.abs() * torch.maximum(self.lower.abs(), self.upper.abs())
        return _NOISE * torch.finfo(size.dtype).eps * size

    def candidates(self, slope: Tensor, contacts: _Contacts) -> Tensor:
        """Candidates for the maximum of f(v) - slope v on the interval, (m, n), from contacts near that slope."""
        return torch.cat([self._cuts, self._settled(slope, contacts, _STEPS).points(slope)[0]])

    def _settled(self, slope: Tensor, contacts: _Contacts, steps: int) -> _Contacts:
        """Contacts of which the highest is known, as far as it matters."""
        for left in reversed(range(steps)):
            at, known, rise = contacts.points(slope)
            points, values = torch.cat([self._cuts, at]), torch.cat([self._values, known])
            heights = self.heights(points, values, slope)
            best, where = heights.max(0)
            limit = best + self._rounding(slope, values.gather(0, where.unsqueeze(0))[0])
            rest = (heights[len(self._cuts) :] + rise > limit).any(0).nonzero()[:, 0]
            if not len(rest):
                break
            if _FEW < 2 * len(rest) < len(slope):
                part = self._part(rest)
                return contacts.with_part(rest, part._settled(slope[rest], contacts.part(part, rest), left))
            contacts = contacts.toward(slope)
        return contacts

    def _part(self, index: Tensor) -> _Search:
        """The search on some of the intervals."""
        return _Search(self.activation, self.sign[index], self.lower[index], self.upper[index], self.share)


@final
@dataclass(frozen=True)
class _Contacts:
    """Brackets of the points where f' has a given value, on r pieces on each of which f' falls.

    A step follows the secant of f' that the last one gave, which leads to another value as well, but not less far than
    to another number.  If that leaves the bracket or has gained little, the bracket is halved.  It is opened to the end
    of the piece where the value has left it.  Beyond the values of f' on a piece, the end is the point.  With each
    point, f' and f are known: (3, r, n).
    """

    search: _Search
    first: Tensor
    last: Tensor
    low: Tensor
    high: Tensor
    rate: Tensor
    slow: Tensor

    @classmethod
    def between(cls, search: _Search, first: Tensor, last: Tensor) -> Self:
        """Contacts on the pieces between these points, which have not moved yet; none if f' is -inf at the first."""
        run, fall, _ = last - first
        return cls(search, first, last, first, last, -run / fall, run < 0)

    def part(self, search: _Search, index: Tensor) -> _Contacts:
        """Those of some intervals, of which `search` is the search."""
        parts = (t.index_select(-1, index) for t in (self.first, self.last, self.low, self.high, self.rate, self.slow))
        return _Contacts(search, *parts)

    def with_part(self, index: Tensor, part: _Contacts) -> _Contacts:
        """The same contacts, with others on some intervals."""
        pairs = (self.low, part.low), (self.high, part.high), (self.rate, part.rate), (self.slow, part.slow)
        return _Contacts(self.search, self.first, self.last, *(a.index_copy(-1, index, b) for a, b in pairs))

    def sides(self, cuts: Tensor, middle: Tensor) -> Tensor:
        """Which of the touching points p and q, the cuts and the contacts are before and after m: (2, …)."""
        own = torch.tensor([[True], [False]], device=cuts.device).expand(2, cuts.shape[1])
        before, after = self.last[0] <= middle, self.first[0] >= middle
        return torch.stack([torch.cat([own, cuts <= middle, before]), torch.cat([~own, cuts >= middle, after])])

    def toward(self, slope: Tensor) -> _Contacts:
        """The contacts after one step to where f' is `slope`."""
        slope = self._reached(slope)
        before, after = slope > self.low[1], slope < self.high[1]
        low = torch.where(before, self.first, torch.where(after, self.high, self.low))
        high = torch.where(before, self.low, torch.where(after, self.last, self.high))
        start, miss, moves = _nearest(low, high, slope)
        least = _NOISE * torch.finfo(miss.dtype).eps * start[0].abs()
        step = torch.maximum(miss * self.rate, least)
        secant = torch.where(start[1] < slope, start[0] - step, start[0] + step)
        trusted = (secant > low[0]) & (secant < high[0]) & ~self.slow
        point = torch.where(trusted, secant, (low[0] + high[0]) / 2)
        found = torch.stack([point, self.search.slope(point), self.search.f(point)])
        (run, fall, _), left, passed = found - start, (found[1] - slope).abs(), found[1] < slope
        known = (fall.abs() > _NOISE * torch.finfo(fall.dtype).eps * start[1].abs()) & (trusted | (left < miss))
        return _Contacts(
            self.search, self.first, self.last,
            torch.where(moves & ~passed, found, low), torch.where(moves & passed, found, high),
            torch.where(known, (run / fall).abs(), self.rate), moves & trusted & (left > miss / 2),
        )  # fmt: skip

    def points(self, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The points where f' is nearest to `slope`, f there, and what heights of lines may exceed theirs by on pieces.

        (r, n) each.  On a piece, f is below its tangent.
        """
        start, miss, moves = _nearest(self.low, self.high, self._reached(slope))
        return start[0], start[2], torch.where(moves, miss * (self.last[0] - self.first[0]), 0.0)

    def _reached(self, slope: Tensor) -> Tensor:
        """The nearest value of f' on each piece."""
        return torch.minimum(torch.maximum(slope, self.last[1]), self.first[1])


def _nearest(low: Tensor, high: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The end of a bracket at which f' is nearest to a value, how far it is, and whether a step may lead nearer."""
    below, above, middle = low[1] - slope, slope - high[1], (low[0] + high[0]) / 2
    start, miss = torch.where(above < below, high, low), torch.minimum(below, above).abs()
    rounding = _NOISE * torch.finfo(miss.dtype).eps * slope.abs()
    return start, miss, (miss > rounding) & (low[0] < middle) & (middle < high[0])

"""Proved ranges and lines of smooth activations, from proved bounds of σ and its derivatives at single points.

Exact turning points lie within a stated distance of the numbers that an activation gives for them.  Within it, σ and
its derivatives change by at most a stated multiple of the distance.  Source: docs/mathematics.md, §8.3.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Enclosure, Interval, no_nan

MOVED = 8
"""How many times the error of a turning point a slack covers; four times would do (`intercepts`)."""


class AbstractFacts(ABC):
    """What a smooth activation states (`AbstractSmooth`)."""

    @property
    @abstractmethod
    def steepness(self) -> tuple[float, float, float]: ...
    @abstractmethod
    def turn_errors(self, turns: Tensor) -> Tensor: ...
    @abstractmethod
    def value(self, z: Tensor) -> Tensor: ...
    @abstractmethod
    def slope(self, z: Tensor) -> Tensor: ...
    @abstractmethod
    def slopes_beside(self, z: Tensor) -> tuple[Tensor, Tensor]: ...
    @abstractmethod
    def value_turns(self, lower: Tensor, upper: Tensor) -> Tensor: ...
    @abstractmethod
    def slope_turns(self, lower: Tensor, upper: Tensor) -> Tensor: ...
    @abstractmethod
    def curvature_turns(self, lower: Tensor, upper: Tensor) -> Tensor: ...
    @abstractmethod
    def proved_values(self, z: Tensor) -> Enclosure: ...
    @abstractmethod
    def proved_slopes(self, z: Tensor) -> tuple[Enclosure, Enclosure]: ...
    @abstractmethod
    def proved_values_and_slopes(self, z: Tensor) -> tuple[Enclosure, tuple[Enclosure, Enclosure]]: ...
    @abstractmethod
    def proved_curvatures(self, z: Tensor) -> Enclosure: ...


def value_bounds(facts: AbstractFacts, z: Interval) -> Interval:
    """Bounds of σ on z."""
    points, error = _with_turns(facts, facts.value_turns, z)
    return _hull(facts.proved_values(points), error, *facts.steepness[:2])


def slope_bounds(facts: AbstractFacts, z: Interval) -> Interval:
    """Bounds of σ' on z, on both sides of jumps."""
    points, error = _with_turns(facts, facts.slope_turns, z)
    left, right = facts.proved_slopes(points)
    return _hull(left if left is right else left.hull(right), error, *facts.steepness[1:])


def curvature_bounds(facts: AbstractFacts, z: Interval) -> Interval:
    """Bounds of σ'' on z."""
    points, error = _with_turns(facts, facts.curvature_turns, z)
    return _hull(facts.proved_curvatures(points), error, facts.steepness[2], torch.inf)


def _with_turns(
    facts: AbstractFacts, turns: Callable[[Tensor, Tensor], Tensor], z: Interval
) -> tuple[Tensor, Tensor | None]:
    """The ends of z with the turning points that may lie between them, (n, *shape), and how far off these may be.

    A number that is further from z than its error belongs to no turning point in z, and its place is taken by an end.
    """
    low, high = z.lower.detach(), z.upper.detach()
    wide = _moved(low, -2 * facts.turn_errors(low)), _moved(high, 2 * facts.turn_errors(high))
    found = turns(*wide)
    if not len(found):
        return torch.stack([low, high]), None
    near = (found != wide[0]) & (found != wide[1])
    points = torch.where(near, found, low)
    error = torch.where(near, facts.turn_errors(points), 0.0)
    ends = torch.stack([low, high])
    return torch.cat([ends, points]), torch.cat([torch.zeros_like(ends), error]) if bool(error.any()) else None


def _moved(end: Tensor, by: Tensor) -> Tensor:
    return torch.where(end.isinf(), end, end + by)


def _hull(found: Enclosure, error: Tensor | None, steep: float, bend: float) -> Interval:
    """The hull along axis 0 of what is known at points; an overflowed value does not bound the other end.

    steep, bend: bounds of the first and second derivative, the latter infinite where the former need not vanish at
    turning points.
    """
    if error is not None:
        found = found + around(torch.minimum(scaled(steep, error), scaled(bend, error.square() / 2)))
    known, largest = found.interval, torch.finfo(found.lower.dtype).max
    return Interval.unchecked(known.lower.amin(0).clamp(max=largest), known.upper.amax(0).clamp(min=-largest))


def around(size: Tensor) -> Enclosure:
    """All numbers of at most this size, which was computed with a few roundings of numbers that are not negative."""
    more = size * (1 + 8 * torch.finfo(size.dtype).eps)
    return Enclosure(-more, more)


def scaled(factor: float, numbers: Tensor) -> Tensor:
    return torch.where(numbers > 0, factor * numbers, 0.0)


def intercepts(
    facts: AbstractFacts, z: Interval, lower: tuple[Tensor, Tensor], upper: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Intercepts of lines with given slopes below and above σ on a bounded z.

    lower, upper: a slope for each neuron, and points of z, (m, *shape), at which the lines may touch σ.  The slopes may
    be any; the points decide only how tight the lines are.

    Let a and b be neighbours among the ends of z and the turning points of σ'.  Where σ' rises, σ - s v is largest at
    a or b.  Where it falls, σ is below its tangent at any point p of the piece, so that

        σ(v) - s v  <=  σ(p) - s p + max((σ'(p) - s) (b - p), (s - σ'(p)) (p - a), 0) .

    Where rounding hides what is the case, σ(v) - s v <= σ(a) - s a + max(D - s, 0) (b - a), and the same from b, with
    the bounds D of σ' at a and b.  Turning points may be off by e.  A point v within 2 e of one has σ(v) - s v at most
    2 e (|σ'| + |s|) above that there.  For all others, a, b and p are moved by at most 3 e to where σ' is monotone,
    which changes the right-hand sides by at most 4 e (2 |σ'| + 2 |s| + |σ''| (b - a)).
    """
    with torch.no_grad():
        pieces = Pieces.of(facts, z.map(lambda t: t.detach())).both()
        slopes = torch.stack([-lower[0].detach(), upper[0].detach()])
        found = no_nan(_most(pieces, slopes, torch.stack([lower[1].detach(), upper[1].detach()], 1)), torch.inf)
        return -found[0], found[1]


def intercepts_of_sigmoid(
    facts: AbstractFacts, z: Interval, lower: tuple[Tensor, Tensor], upper: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """`intercepts` for σ that is convex before 0 and concave after it, and whose slope has no jumps.

    lower, upper: a slope, and a point at which the line may touch σ, for each neuron.

    On the part of z = [l, u] before 0, σ(v) - s v is largest at an end of the part.  On the part after 0, which begins
    at a = max(l, 0), it is for any point p of that part at most

        σ(p) - s p + max((σ'(p) - s) (u - p), (s - σ'(p)) (p - a), 0) .

    So l and p are enough if u > 0, and l and u otherwise: then p = u, and the second term is 0.  The lower line is
    minus the upper line of -σ(-v), which has the same shape.
    """
    with torch.no_grad():
        first, last = torch.stack([-z.upper, z.lower]), torch.stack([-z.lower, z.upper])
        slope, given = torch.stack([lower[0], upper[0]]), torch.stack([-lower[1], upper[1]])
        start, turned = first.clamp(min=0), slope.new_tensor([-1.0, 1.0]).reshape(2, *[1] * z.lower.dim())
        p = torch.where(last > 0, torch.minimum(torch.maximum(given, start), last), last)
        points = torch.stack([first, p])
        values, (left, right) = facts.proved_values(points * turned), facts.proved_slopes(p * turned)
        tops = torch.stack([-values.lower[:, 0], values.upper[:, 1]], 1)
        heights = (Enclosure.point(tops) - Enclosure.point(slope) * Enclosure.point(points)).upper
        up = (torch.maximum(left.upper, right.upper) - slope).clamp(min=0) * (last - p)
        down = (slope - torch.minimum(left.lower, right.lower)).clamp(min=0) * (p - start).clamp(min=0)
        rise = around(torch.maximum(up, down).add_(torch.finfo(p.dtype).tiny))  # (products may underflow)
        found = torch.maximum(heights[0], (Enclosure.point(heights[1]) + rise).upper)
        found = no_nan(found, torch.inf)
        return -found[0], found[1]


@final
@dataclass(frozen=True)
class Pieces:
    """σ between cuts (k + 1, *shape): the ends of an interval, turning points of σ', others.

    negative: where -σ takes the place of σ, in a shape that broadcasts; None if nowhere.
    errors: how far exact turning points may be from cuts, (k + 1, *shape), also for cuts beside one; None if all are 0.
    """

    facts: AbstractFacts
    negative: Tensor | None
    cuts: Tensor
    values: Enclosure
    left: Enclosure
    right: Enclosure
    errors: Tensor | None

    @classmethod
    def of(cls, facts: AbstractFacts, z: Interval, *others: Tensor) -> Pieces:
        points, error = _with_turns(facts, facts.slope_turns, z)
        points = torch.cat([points, *(t.unsqueeze(0) for t in others)])
        cuts, order = points.sort(0)
        used = (cuts[1:] > cuts[:-1]).flatten(1).any(1)
        used[0] = True
        kept = torch.cat([used.new_ones(1), used])
        if error is not None:  # a cut has the errors of all that are near it, also of those that are left out
            error = torch.cat([error, torch.zeros_like(points[len(error) :])]).gather(0, order)
            near = (cuts.unsqueeze(0) - cuts.unsqueeze(1)).abs() <= MOVED * error.unsqueeze(0)
            error = torch.where(near, error.unsqueeze(0), 0.0).amax(1)[kept]
        cuts = cuts[kept]
        values, (left, right) = facts.proved_values_and_slopes(cuts)
        return cls(facts, None, cuts, values, left, right, error)

    def both(self) -> Pieces:
        """-σ and σ side by side: (…, 2, *shape)."""
        left = _both_signs(self.left)
        right = left if self.left is self.right else _both_signs(self.right)
        negative = torch.tensor([True, False], device=self.cuts.device).reshape(2, *[1] * (self.cuts.dim() - 1))
        errors = None if self.errors is None else self.errors.unsqueeze(1)
        return Pieces(self.facts, negative, self.cuts.unsqueeze(1), _both_signs(self.values), left, right, errors)

    def signed(self, found: Enclosure) -> Enclosure:
        """What was found of σ, as it is of σ or -σ."""
        return found if self.negative is None else (-found).where(self.negative, found)

    @cached_property
    def ends(self) -> tuple[Enclosure, Enclosure]:
        """The slopes inside at both ends of each piece, with what turning points may be off."""
        first, last = self.right[:-1], self.left[1:]
        if self.errors is None:
            return first, last
        loose = around(scaled(self.facts.steepness[1], MOVED * self.errors))
        return first + loose[:-1], last + loose[1:]

    @cached_property
    def rising(self) -> Tensor:
        """The pieces on which the slope is known to rise."""
        return self.ends[1].lower > self.ends[0].upper

    @cached_property
    def falling(self) -> Tensor:
        return self.ends[1].upper < self.ends[0].lower

    def at(self, points: Tensor) -> tuple[Enclosure, Enclosure]:
        """Values and slopes at one point of each piece; slopes are those from inside at its ends."""
        values, (left, right) = self.facts.proved_values_and_slopes(points)
        if left is right:
            return self.signed(values), self.signed(left)
        found = self.signed(left.hull(right))
        found = self.right[:-1].where(points == self.cuts[:-1], found)
        return self.signed(values), self.left[1:].where(points == self.cuts[1:], found)


def _both_signs(found: Enclosure) -> Enclosure:
    return Enclosure(torch.stack([-found.upper, found.lower], 1), torch.stack([-found.lower, found.upper], 1))


def _most(pieces: Pieces, slope: Tensor, touching: Tensor) -> Tensor:
    """An upper bound of the function less slope · v."""
    a, b, s = Enclosure.point(pieces.cuts[:-1]), Enclosure.point(pieces.cuts[1:]), Enclosure.point(slope)
    (first, last), heights = pieces.ends, (pieces.values - s * Enclosure.point(pieces.cuts)).upper
    width = (b - a).within(0.0)
    steepest = Enclosure.point(torch.maximum(first.upper, last.upper)) - s
    flattest = s - Enclosure.point(torch.minimum(first.lower, last.lower))
    up, down = (steepest.within(0.0) * width).upper, (flattest.within(0.0) * width).upper
    from_ends = [Enclosure.point(h) + Enclosure.point(rise) for h, rise in ((heights[:-1], up), (heights[1:], down))]
    each = torch.minimum(from_ends[0].upper, from_ends[1].upper)
    if bool(pieces.falling.any()):
        each = torch.where(pieces.falling, torch.minimum(each, _by_tangents(pieces, s, touching)), each)
    each = torch.where(pieces.rising, -torch.inf, each)
    found = torch.maximum(heights.amax(0), each.amax(0))
    return found if pieces.errors is None else (Enclosure.point(found) + _slack(pieces, slope)).upper


def _slack(pieces: Pieces, slope: Tensor) -> Enclosure:
    assert pieces.errors is not None  # noqa: S101  (narrows the type)
    (steep, bend, _), error = pieces.facts.steepness, MOVED * pieces.errors.amax(0)
    run = pieces.cuts[-1] - pieces.cuts[0]
    return around(2 * scaled(steep, error) + 2 * slope.abs() * error + scaled(bend, error) * run)


def _by_tangents(pieces: Pieces, s: Enclosure, touching: Tensor) -> Tensor:
    """Upper bounds on each piece, if the function is concave there: by a tangent at the best point that is known."""
    at = _best(pieces, s.lower, touching)
    p, a, b = Enclosure.point(at), Enclosure.point(pieces.cuts[:-1]), Enclosure.point(pieces.cuts[1:])
    values, slopes = pieces.at(at)
    tilt = slopes - s
    up, down = tilt.within(0.0) * (b - p).within(0.0), (-tilt).within(0.0) * (p - a).within(0.0)
    return (values - s * p + Enclosure.point(torch.maximum(up.upper, down.upper))).upper


def _best(pieces: Pieces, slope: Tensor, touching: Tensor) -> Tensor:
    """The point of each piece at which the function less slope · v seems to be largest, among those given."""
    a, b = pieces.cuts[:-1], pieces.cuts[1:]
    points = torch.cat([pieces.cuts.expand(-1, *slope.shape), touching])
    values = pieces.facts.value(points)
    heights = (values if pieces.negative is None else torch.where(pieces.negative, -values, values)) - slope * points
    points, heights = points.unsqueeze(1), heights.unsqueeze(1)
    inside = (points >= a) & (points <= b) & ~heights.isnan()
    best = torch.where(inside, heights, -torch.inf).max(0, keepdim=True).indices  # (argmax is slow along axis 0)
    found = points.expand(-1, len(a), *points.shape[2:]).gather(0, best)[0]
    return torch.minimum(torch.maximum(found, a), b)

"""Smooth activations of any shape: a search for the lines that are tightest at a point of an interval.

Of all lines above f on [l, u], the line that is lowest at the point m, such as the midpoint, has the height min_a h(a)
there, where

    h(a) = max over v in [l, u] of  f(v) - a (v - m)

is convex in the slope a.  The maximum is attained at an end, where f' turns or jumps, or where f'(v) = a, which has at
most one solution on each piece between those points (found by bisection).  For a given slope, let p be the best v <= m
and q the best v >= m.  As the slope grows, the value at p grows relative to the one at q.  At the minimum the two are
equal, and the line touches f at p and q, or at m alone.

For any slope that the search returns, the intercept is the maximum of f(v) - a v over the same candidates, so the line
is valid; the search only makes it tight.  The idea of free slopes is from CROWN (arXiv:1811.00866, Section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from recurjac.activations.smooth import AbstractSmooth
from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.relaxations import LinearRelaxation

_HALVINGS = 42
"""Bisection steps on a piece in the search for a point with a given slope.  `slope_turns` must keep pieces at most
about 10^3 wide.

An error e in the point changes the intercept only by e² σ'' / 2, because the intercept is stationary there."""
_STEPS = 30
"""The maximum number of steps in the search for a slope by Newton's method.

The slope stays in a bracket, which is halved where Newton's method fails or is slow."""


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
        touching = search.touching_points()
    slope = activation.chord(Interval(*(search.live(t, z) for t in touching)), arithmetic)
    with torch.no_grad():
        candidates = search.candidates(sign * slope.detach().double().flatten())
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
        return torch.cat([torch.stack([self.lower, self.middle, self.upper]), turns]).sort(0).values

    def candidates(self, slope: Tensor) -> Tensor:
        """Candidates for the maximum of f(v) - slope v on the interval, and on either side of m: (m, n)."""
        cuts = self._cuts
        used = (cuts[1:] > cuts[:-1]).any(-1)
        left, right = cuts[:-1][used], cuts[1:][used]
        first, last = self.activation.slopes_beside(left)[1], self.activation.slopes_beside(right)[0]
        target, rising = self.sign * slope, last > first
        exists = (torch.minimum(first, last) < target) & (target < torch.maximum(first, last))
        start = left
        for _ in range(_HALVINGS):
            point = left / 2 + right / 2
            before = (self.activation.slope(point) < target) == rising
            left, right = torch.where(before, point, left), torch.where(before, right, point)
        return torch.cat([cuts, torch.where(exists, left / 2 + right / 2, start)])

    def _best(self, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best points p <= m <= q for a slope, and the excess of the height at p over the height at q."""
        points, middle = self.candidates(slope), self.middle
        heights = self.f(points) - slope * (points - middle)
        left = torch.where(points <= middle, heights, -torch.inf).max(0)
        right = torch.where(points >= middle, heights, -torch.inf).max(0)
        p, q = (points.gather(0, side.indices.unsqueeze(0))[0] for side in (left, right))
        return p, q, left.values - right.values

    def touching_points(self) -> tuple[Tensor, Tensor]:
        """The points where the line that is lowest at m touches f: p < m < q, or m twice."""
        p, q = self.lower.clone(), self.upper.clone()
        chord = (self.f(q) - self.f(p)) / torch.where(q > p, q - p, 1.0)
        tangent, middle = self.sign * self.activation.slope(self.middle), self.middle
        by_chord, by_tangent = self._is_above(chord, p), self._is_above(tangent, middle)
        p, q = torch.where(by_tangent, middle, p), torch.where(by_tangent, middle, q)
        open_ = ~(by_chord | by_tangent)
        if bool(open_.any()):
            part = _Search(self.activation, self.sign[open_], self.lower[open_], self.upper[open_], self.share)
            p[open_], q[open_] = part._searched(chord[open_])
        return p, q

    def _is_above(self, slope: Tensor, at: Tensor) -> Tensor:
        """Whether the line with this slope through (at, f(at)) is above f, up to rounding."""
        points, through = self.candidates(slope), self.f(at) - slope * at
        return (self.f(points) - slope * points).amax(0) <= through + self._rounding(slope, at)

    def _rounding(self, slope: Tensor, at: Tensor) -> Tensor:
        """A rough estimate of the error of f(at) - slope at; only tightness depends on it."""
        size = self.f(at).abs() + slope.abs() * torch.maximum(self.lower.abs(), self.upper.abs())
        return 4 * torch.finfo(size.dtype).eps * size

    def _searched(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Newton's method for the slope at which the best points on both sides are equally good.

        For fixed p and q, this is the slope of the chord through both.
        """
        before, after = self.activation.slopes_beside(self._cuts)
        slopes = self.sign * torch.cat([before, after])
        low, high = slopes.amin(0), slopes.amax(0)
        margin = (high - low) * torch.finfo(slope.dtype).eps ** 0.5
        p, q, gain = self._best(slope)
        last = torch.full_like(gain, torch.inf)
        for _ in range(_STEPS):
            unequal = gain.abs() > self._rounding(slope, p)
            if not bool(unequal.any()):
                break
            low, high = torch.where(gain > 0, low, slope), torch.where(gain > 0, slope, high)
            newton = (self.f(q) - self.f(p)) / torch.where(q > p, q - p, 1.0)
            inside = torch.minimum(torch.maximum(newton, low), high)
            trusted = (q > p) & ((newton - inside).abs() <= margin) & (gain.abs() <= last / 2)
            last = gain.abs()
            slope = torch.where(unequal, torch.where(trusted, inside, low / 2 + high / 2), slope)
            p, q, gain = self._best(slope)
        return p, q

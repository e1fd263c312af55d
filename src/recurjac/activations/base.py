"""The interface of an activation, and the methods that are derived from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.quadratics import Graph, Product
from recurjac.relaxations import LinearRelaxation

_HALVINGS = 60
"""The number of halvings of a bracket in the search for a point of contact."""
_WIDEST = 1e3
"""Beyond this number, lines are not searched for, because the search needs short pieces (`curved`)."""
_ULPS = 8
"""The error of a value, in units of its last place, for which the ranges of secants have room."""


class AbstractActivation(ABC):
    """An element-wise function σ with its slope σ'; where σ has a kink, σ' is the interval of Clarke's derivative."""

    name: ClassVar[str]
    """The name in weight lists and on the command line."""

    @property
    @abstractmethod
    def rigorous(self) -> bool:
        """Whether the ranges and lines below cover rounding under `Rigorous`."""

    @property
    def limited(self) -> bool:
        """Whether σ is not defined everywhere, or so steep that it easily overflows."""
        return False

    @property
    def piecewise_linear(self) -> bool:
        """Whether the slope is constant on some intervals, so that a neuron can be linear over a region."""
        return False

    @property
    def jumps(self) -> tuple[float, ...]:
        """The points beside which the slope is constant, and different on both sides; none by default."""
        return ()

    @abstractmethod
    def value(self, z: Tensor) -> Tensor:
        """σ(z)."""

    @abstractmethod
    def value_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The range of σ(v) for v in z; infinite ends mean limits."""

    @abstractmethod
    def slope_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The range [d, D] of σ'(v) for v in z (docs/mathematics.md, §4); infinite ends mean limits."""

    def unstable(self, z: Interval, arithmetic: AbstractArithmetic) -> Tensor:
        """True where σ' is not constant on z."""
        return ~self.slope_range(z, arithmetic).is_point

    def secant_range(self, z: Interval, centre: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """Bounds of δ with σ(v) - σ(c) = δ (v - c), for v in z and c in `centre`; by default those of σ' between them.

        Where v = c, every δ is one.  Source: docs/mathematics.md, §3.4.
        """
        low, high = torch.minimum(z.lower, centre.lower), torch.maximum(z.upper, centre.upper)
        return self.slope_range(Interval(low, high), arithmetic)

    def quadratics(self, z: Interval, centre: Interval, arithmetic: AbstractArithmetic) -> list[Product]:
        """Products that are not negative on the graph of σ over z; the first one is the sector of the secants.

        centre: an enclosure of the point c that arguments are measured from.  Source: docs/mathematics.md, §3.5.
        """
        graph = Graph(centre, self.value_range(centre, arithmetic), arithmetic)
        lines, values = self.lines(z, arithmetic), self.value_range(z, arithmetic)
        above = graph.affine(lines.upper_slope[:, 0], -1.0, lines.upper_intercept[:, 0])
        below = graph.affine(-lines.lower_slope[:, 0], 1.0, -lines.lower_intercept[:, 0])
        left, right = graph.affine(1.0, 0.0, -z.lower), graph.affine(-1.0, 0.0, z.upper)
        least, most = graph.affine(0.0, 1.0, -values.lower), graph.affine(0.0, -1.0, values.upper)
        pairs = [(above, graph.unit), (below, graph.unit), (left, right), (least, most), (above, below)]
        pairs += [(line, end) for line in (above, below) for end in (left, right)]
        secants = self.secant_range(z, centre, arithmetic)
        return [graph.sector(secants), *(Product(a, b) for a, b in pairs)]

    def couplings(self, centre: Interval, arithmetic: AbstractArithmetic) -> list[Product]:
        """Products of a factor in (z, σ(z)) and one in a tangent (z', σ'(z) z') that are 0; none by default.

        They hold for every element of Clarke's derivative.  Source: docs/mathematics.md, §6.7.
        """
        return []

    def curvature_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval | None:
        """The range of σ''(v) for v in z; infinite ends mean limits.

        None, which is the default, if σ'' is not continuous or not known.
        """
        return None

    @abstractmethod
    def lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """CROWN's lines of σ on z (batch, *node): two tight lines with independent slopes, of shape (batch, 1, *node).

        Source: arXiv:1811.00866, Section 3 and Table 2.
        """

    @abstractmethod
    def parallel_lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """Fast-Lin's lines of σ on z (batch, *node): two lines with the same slope, of shape (batch, 1, *node).

        Source: arXiv:1804.09699, Section 3.3.
        """

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        """The same activation with its parameters in `dtype` on `device`; most have no such parameters."""
        return self

    def rounded(self, dtype: torch.dtype) -> Self:
        """The activation that a computation in `dtype` applies, if that rounds numbers that are its parameters."""
        return self

    @classmethod
    def named(cls, parameters: Mapping[str, Any]) -> Self:  # noqa: ARG003  # (some classes use it)
        """The activation called `name` in a weight list, with the parameters given in the list.

        Raises InvalidNetwork if a parameter without a universal default is missing.
        """
        return cls()

    @classmethod
    @abstractmethod
    def examples(cls) -> list[Self]:
        """A few activations of this class, for the tests that run on every class."""


class AbstractSmooth(AbstractActivation):
    """A continuous activation that defines its value, its slope, and their turning points; its slope may jump."""

    @abstractmethod
    def slope(self, z: Tensor) -> Tensor:
        """σ'(z), with its limits at ±inf; at a jump, either of the one-sided limits."""

    @abstractmethod
    def slope_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Points of [lower, upper], (n, *shape), between which σ' is continuous and monotone; see `within`."""

    def value_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Points of [lower, upper], (n, *shape), between which σ is monotone; none by default (most σ are)."""
        return within(lower, upper)

    def slopes_beside(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The limits of σ' from the left and from the right; they differ only at jumps, and by default nowhere."""
        slope = self.slope(z)
        return slope, slope

    def curvature(self, z: Tensor) -> Tensor | None:
        """σ''(z), with its limits at ±inf; None, which is the default, if σ'' is not continuous."""
        return None

    def curvature_beside(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers between which all of σ'' at z lies; both are σ''(z), and infinite where σ' jumps."""
        bend = self.curvature(z)
        if bend is None:
            raise ValueError(f"the second derivative of {self.name} is not continuous")
        return bend, bend

    def curvature_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Points of [lower, upper], (n, *shape), between which σ'' is monotone; none if σ'' is monotone everywhere."""
        return within(lower, upper)

    def core(self, z: Interval) -> Interval:
        """z where products of its points with slopes and values cannot overflow; another interval elsewhere.

        Where it is another interval, the lines are constants.  Everything that is computed from the core, and its
        derivatives, must be finite.
        """
        return bounded(z)

    def searchable(self, z: Interval) -> Interval:
        """A part of z where bisection finds points with a given slope; `z` itself if that is all of it."""
        return z.map(lambda end: end.clamp(min=-_WIDEST, max=_WIDEST))

    def excluded(self, z: Interval) -> Tensor | None:
        """True where z has points outside the domain of σ, so that nothing is known; None if there is no such place."""
        return None

    @property
    def roundings(self) -> tuple[int, int, int] | None:
        """How many products, quotients and roots of floating-point numbers `value`, `slope` and `curvature` consist of.

        Their results have the right signs, also where they are 0; 0 means that they are exact.  None, which is the
        default, if they use other functions, for which no error bound is proved (docs/mathematics.md, §8.1).  Otherwise
        `lines` must be chords and tangents, or `tightest_lines`.
        """
        return None

    @property
    def rigorous(self) -> bool:
        return self.roundings is not None

    def bent(self, z: Interval) -> Tensor:
        """Where σ is known to be convex or concave on z, a part of the core, and σ' as well if σ'' is continuous."""
        return torch.zeros_like(z.lower, dtype=torch.bool)

    @final
    def value_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The hull of σ at both ends and at its turning points between them."""
        values = self.value(_with_ends(z, self.value_turns(z.lower, z.upper)))
        return self._known(z, self._hull(0, values, values, arithmetic))

    @final
    def slope_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The hull of the one-sided σ' at both ends and at the turning points between them (at a jump: Clarke)."""
        left, right = self.slopes_beside(_with_ends(z, self.slope_turns(z.lower, z.upper)))
        return self._known(z, self._hull(1, torch.minimum(left, right), torch.maximum(left, right), arithmetic))

    def _hull(self, order: int, least: Tensor, most: Tensor, arithmetic: AbstractArithmetic) -> Interval:
        """The hull along axis 0 of what was computed as values, slopes or curvatures."""
        if arithmetic.rigorous and self.roundings is not None:
            count = self.roundings[order]
            least, most = arithmetic.rounded(least, count).lower, arithmetic.rounded(most, count).upper
        return _hull(least, most, arithmetic)

    @final
    def _known(self, z: Interval, found: Interval) -> Interval:
        """What was found, and the whole line where z leaves the domain."""
        out = self.excluded(z)
        if out is None or not bool(out.any()):
            return found
        low, high = torch.where(out, -torch.inf, found.lower), torch.where(out, torch.inf, found.upper)
        return Interval.unchecked(low, high)

    @final
    def secant_range(self, z: Interval, centre: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The range of the secants' slopes, which is exact up to rounding where z and c are a part of the core.

        It is the hull of the ranges for the least and the largest c, and of σ' on `centre` if that is not a point: if a
        secant's slope is extreme for c inside `centre`, it equals σ'(c).
        """
        hull = Interval(torch.minimum(z.lower, centre.lower), torch.maximum(z.upper, centre.upper))
        slopes, core = self.slope_range(hull, arithmetic), self.core(hull)
        whole = (core.lower == hull.lower) & (core.upper == hull.upper)
        if arithmetic.rigorous:  # where σ is bent, secants are steepest at ends, and no sign of a difference matters
            whole = whole & self.bent(hull)
        z, centre = (i.map(lambda end: torch.where(whole, end, core.lower)) for i in (z, centre))
        found = [self._secants_from(z, c) for c in (centre.lower, centre.upper)]
        around = self.slope_range(centre, arithmetic)
        point = centre.is_point
        found.append((torch.where(point, torch.inf, around.lower), torch.where(point, -torch.inf, around.upper)))
        least, most = (torch.stack(ends) for ends in zip(*found, strict=True))
        low = torch.minimum(torch.maximum(least.amin(0), slopes.lower), slopes.upper)
        high = torch.maximum(torch.minimum(most.amax(0), slopes.upper), slopes.lower)
        return arithmetic.enclose(torch.where(whole, low, slopes.lower), torch.where(whole, high, slopes.upper))

    def _secants_from(self, z: Interval, c: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the largest slope of a secant from c to a point v of z, both finite.

        The slope is extreme at an end, where σ' jumps, at v = c, or where σ'(v) = (σ(v) - σ(c)) / (v - c).  The
        difference of the two, times v - c, has the derivative σ''(v) (v - c), so that it vanishes at most once between
        two turning points of σ' on one side of c.  The slopes σ' at the ends of a bracket of that point enclose the one
        there.  Source: docs/mathematics.md, §3.4.
        """
        at = torch.minimum(torch.maximum(c, z.lower), z.upper)
        cuts = torch.cat([torch.stack([z.lower, at, z.upper]), self.slope_turns(z.lower, z.upper)]).sort(0).values
        values, start, run = self.value(cuts), self.value(c), cuts - c
        beside = self.slopes_beside(c)
        info, length = torch.finfo(c.dtype), torch.where(run == 0, 1.0, run)
        secant = (values - start) / length
        error = (_ULPS * info.eps * (values.abs() + start.abs()) + info.tiny) / length.abs() + info.eps * secant.abs()
        outside = torch.where(z.contains(c), 0.0, torch.inf)
        low = torch.cat([torch.where(run == 0, torch.inf, secant - error), torch.stack(beside) + outside])
        high = torch.cat([torch.where(run == 0, -torch.inf, secant + error), torch.stack(beside) - outside])
        before, after = self.slopes_beside(cuts)
        left = (after * run - (values - start))[:-1].sign()
        right = (before * run - (values - start))[1:].sign()
        turned = (left * right < 0) & (cuts[1:] > cuts[:-1])
        if bool(turned.any()):
            brackets = cuts[:-1][turned], cuts[1:][turned], left[turned]
            ends = self._contact(*brackets, c.expand_as(left)[turned])
            for slope in ends:
                low = torch.cat([low, torch.full_like(left, torch.inf).masked_scatter(turned, slope)])
                high = torch.cat([high, torch.full_like(left, -torch.inf).masked_scatter(turned, slope)])
        return low.amin(0), high.amax(0)

    def _contact(self, a: Tensor, b: Tensor, sign: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """σ' at both ends of a bracket of the point between a and b where the tangent goes through (c, σ(c))."""
        start = self.value(c)
        for _ in range(_HALVINGS):
            middle = a / 2 + b / 2
            same = (self.slope(middle) * (middle - c) - (self.value(middle) - start)).sign() == sign
            a, b = torch.where(same, middle, a), torch.where(same, b, middle)
        return self.slopes_beside(a)[1], self.slopes_beside(b)[0]

    def curvature_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval | None:
        """The hull of σ'' at both ends and at its turning points between them."""
        if self.curvature(z.lower) is None:
            return None
        least, most = self.curvature_beside(_with_ends(z, self.curvature_turns(z.lower, z.upper)))
        return self._known(z, self._hull(2, least, most, arithmetic))

    @final
    def parallel_lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """Two lines with the smallest slope d of σ on z; σ(v) - d v is non-decreasing, so its ends give intercepts."""
        core = self.core(z)
        slope = self.slope_range(core, arithmetic).lower
        low = self.value(core.lower) - slope * core.lower
        high = self.value(core.upper) - slope * core.upper
        return self._over(z, arithmetic, (slope, low), (slope, high))

    @final
    def chord(self, z: Interval, arithmetic: AbstractArithmetic) -> Tensor:
        """The slope of the chord over a bounded z, clamped to the range of σ' (valid by the mean value theorem)."""
        slopes = self.slope_range(z, arithmetic)
        width = torch.where(z.upper > z.lower, z.upper - z.lower, 1.0)
        slope = (self.value(z.upper) - self.value(z.lower)) / width
        return torch.minimum(torch.maximum(slope, slopes.lower), slopes.upper)

    @final
    def intercepts(self, slope: Tensor, *points: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the greatest of σ(v) - slope v over the points."""
        gaps = torch.stack([self.value(v) - slope * v for v in points])
        return gaps.amin(0), gaps.amax(0)

    @final
    def _over(
        self,
        z: Interval,
        arithmetic: AbstractArithmetic,
        lower: tuple[Tensor, Tensor],
        upper: tuple[Tensor, Tensor],
    ) -> LinearRelaxation:
        """Lines with these slopes and intercepts where the core is z, and constants that bound σ elsewhere."""
        core, values = self.core(z), self.value_range(z, arithmetic)
        whole = (core.lower == z.lower) & (core.upper == z.upper)
        zero = torch.zeros_like(z.lower)
        sides = ((lower[0], zero), (lower[1], values.lower), (upper[0], zero), (upper[1], values.upper))
        if arithmetic.rigorous and self.roundings is not None:
            low, high = (self._error(line[0], core, values, self.roundings) for line in (lower, upper))
            bottom, top = arithmetic.ball(lower[1], low).lower(), arithmetic.ball(upper[1], high).upper()
            sides = (sides[0], (bottom, values.lower), sides[2], (top, values.upper))
        chosen = [torch.where(whole, line, constant) for line, constant in sides]
        return LinearRelaxation(*(t.unsqueeze(1) for t in (*chosen, values.magnitude)))

    @final
    def _error(self, slope: Tensor, core: Interval, values: Interval, roundings: tuple[int, int, int]) -> Tensor:
        """How far the intercept of a chord or a tangent may be off (docs/mathematics.md, §8.1).

        It was computed as σ(v) - a v.  A tangent's slope a differs from σ'(v), so that it may be off by the difference
        times the width of the core.
        """
        with torch.no_grad():
            info, count = torch.finfo(slope.dtype), max(roundings[0], roundings[1]) + 4
            far = core.magnitude
            return 2 * count * (info.eps * (values.magnitude + 2 * slope.abs() * far) + info.tiny * (1 + far))


def within(lower: Tensor, upper: Tensor, *numbers: float) -> Tensor:
    """The numbers, each clamped to [lower, upper]: (len(numbers), *shape)."""
    points = lower.new_tensor(numbers).reshape(-1, *[1] * lower.dim())
    return torch.minimum(torch.maximum(points, lower), upper)


def _hull(least: Tensor, most: Tensor, arithmetic: AbstractArithmetic) -> Interval:
    """The interval from the minimum to the maximum along axis 0; an overflowed value does not bound the other end."""
    largest = torch.finfo(least.dtype).max
    return arithmetic.enclose(least.amin(0).clamp(max=largest), most.amax(0).clamp(min=-largest))


def _with_ends(z: Interval, points: Tensor) -> Tensor:
    return torch.cat([z.lower.unsqueeze(0), points, z.upper.unsqueeze(0)])


def bounded(z: Interval) -> Interval:
    """z clamped to ±`far`, so that values computed from it and their derivatives are finite."""
    return z.map(lambda end: end.clamp(min=-far(end), max=far(end)))


def far(tensor: Tensor) -> float:
    """The magnitude beyond which no product of a slope and a point is formed, because it could overflow."""
    return float(torch.finfo(tensor.dtype).max ** 0.25)

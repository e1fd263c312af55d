"""Smooth activations: what follows from values, slopes and turning points, and from their proved bounds."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import final

import torch
from torch import Tensor

from recurjac.activations.base import AbstractActivation, bounded, within
from recurjac.activations.limits import with_limits, with_limits_beside
from recurjac.activations.proofs import AbstractFacts, curvature_bounds, intercepts, slope_bounds, value_bounds
from recurjac.activations.secants import proved_secants_from, secants_from
from recurjac.arithmetic import AbstractArithmetic, Enclosure, Fast, Interval, Rigorous, with_derivative_of
from recurjac.relaxations import LinearRelaxation

_WIDEST = 1e3
"""Beyond this number, lines are not searched for, because the search needs short pieces (`curved`)."""
_ULPS = 8
"""How far turning points may be off, in units of their last place, unless an activation says more."""


class AbstractSmooth(AbstractActivation, AbstractFacts):
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
        default, if they use other functions (docs/mathematics.md, §8.1).
        """
        return None

    def enclosed_value(self, z: Tensor) -> Enclosure | None:
        """Proved bounds of σ(z) at finite z; None, which is the default without `roundings`, if there are none.

        Outside the domain they may be anything.
        """
        return self._rounded(0, self.value(z))

    def enclosed_slope(self, z: Tensor) -> Enclosure | None:
        """Proved bounds of σ'(z), as for `enclosed_value`."""
        return self._rounded(1, self.slope(z))

    def enclosed_slopes_beside(self, z: Tensor) -> tuple[Enclosure, Enclosure] | None:
        """Proved bounds of the limits of σ' from the left and from the right, which are stated if there are jumps.

        Where a jump is not exactly at a number, they are those at the number beside it that `slope_turns` gives.
        """
        if self.roundings is not None:
            left, right = (self._rounded(1, side) for side in self.slopes_beside(z))
        else:
            left = right = self.enclosed_slope(z)
        return None if left is None or right is None else (left, right)

    def enclosed_value_and_slopes(self, z: Tensor) -> tuple[Enclosure, tuple[Enclosure, Enclosure]] | None:
        """`enclosed_value` and `enclosed_slopes_beside`; overridden where they have parts in common."""
        value, slopes = self.enclosed_value(z), self.enclosed_slopes_beside(z)
        return None if value is None or slopes is None else (value, slopes)

    def enclosed_curvature(self, z: Tensor) -> Enclosure | None:
        """Proved bounds of σ''(z), as for `enclosed_value`, where σ'' is continuous."""
        found = self.curvature(z) if self.roundings is not None else None
        return None if found is None else self._rounded(2, found)

    def turn_errors(self, turns: Tensor) -> Tensor:
        """How far the turning points of σ, σ' and σ'' may be from the numbers that are given for them.

        By default, a few units in their last place, and 0 for 0.
        """
        return _ULPS * torch.finfo(turns.dtype).eps * turns.abs()

    @property
    def steepness(self) -> tuple[float, float, float]:
        """Upper bounds of |σ'|, |σ''| and |σ'''|, jumps of σ' aside, where turning points are not known exactly."""
        return torch.inf, torch.inf, torch.inf

    def _rounded(self, order: int, found: Tensor) -> Enclosure | None:
        if self.roundings is None:
            return None
        return Enclosure.of(Rigorous().rounded(found, self.roundings[order]))

    @property
    def rigorous(self) -> bool:
        """Whether values and slopes have proved bounds, from which all ranges and lines follow (`proofs`)."""
        return self.roundings is not None or type(self).enclosed_value is not AbstractSmooth.enclosed_value

    @final
    def proved_values(self, z: Tensor) -> Enclosure:
        """Proved bounds of σ(z), with its limits at ±inf."""
        return with_limits(z, self.enclosed_value, self.value)

    @final
    def proved_slopes(self, z: Tensor) -> tuple[Enclosure, Enclosure]:
        """Proved bounds of the limits of σ' from the left and from the right."""
        return with_limits_beside(z, self.enclosed_slopes_beside, self.slope)

    @final
    def proved_values_and_slopes(self, z: Tensor) -> tuple[Enclosure, tuple[Enclosure, Enclosure]]:
        """`proved_values` and `proved_slopes`."""
        z = z.detach()
        found = None if bool(z.isinf().any()) else self.enclosed_value_and_slopes(z)
        return (self.proved_values(z), self.proved_slopes(z)) if found is None else found

    @final
    def proved_curvatures(self, z: Tensor) -> Enclosure:
        """Proved bounds of σ''(z); infinite where σ' jumps."""
        found = with_limits(z, self.enclosed_curvature, lambda t: self.curvature_beside(t)[0])
        low, high = self.curvature_beside(z)
        return Enclosure(torch.where(low < high, low, found.lower), torch.where(low < high, high, found.upper))

    def proved_value_range(self, z: Interval) -> Interval:
        """Proved bounds of σ on z inside the domain; overridden where the shape of σ tells where it is extreme."""
        return value_bounds(self, z)

    def proved_slope_range(self, z: Interval) -> Interval:
        """Proved bounds of σ', as for `proved_value_range`."""
        return slope_bounds(self, z)

    @final
    def value_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The hull of σ at both ends and at its turning points between them."""
        if self._proves(arithmetic) and not _live(z):
            return self._known(z, self.proved_value_range(z))
        values = self.value(_with_ends(z, self.value_turns(z.lower, z.upper)))
        return self._known(z, self._moved(_hull(values, values, arithmetic), self.proved_value_range, z, arithmetic))

    @final
    def slope_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The hull of the one-sided σ' at both ends and at the turning points between them (at a jump: Clarke)."""
        if self._proves(arithmetic) and not _live(z):
            return self._known(z, self.proved_slope_range(z))
        left, right = self.slopes_beside(_with_ends(z, self.slope_turns(z.lower, z.upper)))
        found = _hull(torch.minimum(left, right), torch.maximum(left, right), arithmetic)
        return self._known(z, self._moved(found, self.proved_slope_range, z, arithmetic))

    def _proves(self, arithmetic: AbstractArithmetic) -> bool:
        return arithmetic.rigorous and self.rigorous

    def _moved(
        self, found: Interval, bounds: Callable[[Interval], Interval], z: Interval, arithmetic: AbstractArithmetic
    ) -> Interval:
        """Proved bounds with the derivatives of those found, if rounding is to be covered."""
        if not self._proves(arithmetic):
            return found
        proved = bounds(z)
        return Interval.unchecked(
            with_derivative_of(found.lower, proved.lower), with_derivative_of(found.upper, proved.upper)
        )

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
        z, centre = (i.map(lambda end: torch.where(whole, end, core.lower)) for i in (z, centre))
        ends = (centre.lower, centre.upper)
        if self._proves(arithmetic):
            found = [proved_secants_from(self, z, c, slopes) for c in ends]
        else:
            found = [secants_from(self, z, c) for c in ends]
        around = self.slope_range(centre, arithmetic)
        point = centre.is_point
        found.append((torch.where(point, torch.inf, around.lower), torch.where(point, -torch.inf, around.upper)))
        least, most = (torch.stack(ends) for ends in zip(*found, strict=True))
        low = torch.minimum(torch.maximum(least.amin(0), slopes.lower), slopes.upper)
        high = torch.maximum(torch.minimum(most.amax(0), slopes.upper), slopes.lower)
        return arithmetic.enclose(torch.where(whole, low, slopes.lower), torch.where(whole, high, slopes.upper))

    def curvature_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval | None:
        """The hull of σ'' at both ends and at its turning points between them."""
        if self.curvature(z.lower) is None:
            return None
        proves = arithmetic.rigorous and self.enclosed_curvature(torch.ones_like(z.lower)) is not None
        if proves and not _live(z):
            return self._known(z, curvature_bounds(self, z))
        least, most = self.curvature_beside(_with_ends(z, self.curvature_turns(z.lower, z.upper)))
        found = _hull(least, most, arithmetic)
        return self._known(z, self._moved(found, partial(curvature_bounds, self), z, arithmetic) if proves else found)

    @final
    def parallel_lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """Two lines with the smallest slope d of σ on z; σ(v) - d v is non-decreasing, so its ends give intercepts."""
        core = self.core(z)
        slope = self.slope_range(core, arithmetic).lower
        low = self.value(core.lower) - slope * core.lower
        high = self.value(core.upper) - slope * core.upper
        return self._over(z, arithmetic, (slope, low, core.lower), (slope, high, core.upper))

    @final
    def chord(self, z: Interval, arithmetic: AbstractArithmetic) -> Tensor:
        """The slope of the chord over a bounded z, clamped to the range of σ' (valid by the mean value theorem)."""
        slopes = self.slope_range(z, Fast())
        width = torch.where(z.upper > z.lower, z.upper - z.lower, 1.0)
        slope = (self.value(z.upper) - self.value(z.lower)) / width
        return torch.minimum(torch.maximum(slope, slopes.lower), slopes.upper)

    @final
    def intercepts(self, slope: Tensor, *points: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the greatest of σ(v) - slope v over the points."""
        stacked = torch.stack(points)
        gaps = self.value(stacked) - slope * stacked
        return gaps.amin(0), gaps.amax(0)

    @final
    def _over(
        self,
        z: Interval,
        arithmetic: AbstractArithmetic,
        lower: tuple[Tensor, Tensor, Tensor],
        upper: tuple[Tensor, Tensor, Tensor],
    ) -> LinearRelaxation:
        """Lines with these slopes and intercepts where the core is z, and constants that bound σ elsewhere.

        lower, upper: also points, (*shape,) or (m, *shape), at which the lines touch σ.  If rounding is to be covered,
        the intercepts are proved (`intercepts`).
        """
        core, bottom, top = self.core(z), lower[1], upper[1]
        if self._proves(arithmetic):
            touching = [t if t.dim() > z.lower.dim() else t.unsqueeze(0) for t in (lower[2], upper[2])]
            proved = intercepts(self, core, (lower[0], touching[0].detach()), (upper[0], touching[1].detach()))
            bottom, top = with_derivative_of(bottom, proved[0]), with_derivative_of(top, proved[1])
        return self._in_core(z, arithmetic, (lower[0], bottom), (upper[0], top))

    @final
    def _in_core(
        self, z: Interval, arithmetic: AbstractArithmetic, lower: tuple[Tensor, Tensor], upper: tuple[Tensor, Tensor]
    ) -> LinearRelaxation:
        """Lines with these slopes and intercepts where the core is z, and constants that bound σ elsewhere."""
        core, values = self.core(z), self.value_range(z, arithmetic)
        whole = (core.lower == z.lower) & (core.upper == z.upper)
        lines = [*lower, *upper]
        if not bool(whole.all()):
            zero = torch.zeros_like(z.lower)
            constants = (zero, values.lower, zero, values.upper)
            lines = [torch.where(whole, line, c) for line, c in zip(lines, constants, strict=True)]
        return LinearRelaxation(*(t.unsqueeze(1) for t in (*lines, values.magnitude)))


def _hull(least: Tensor, most: Tensor, arithmetic: AbstractArithmetic) -> Interval:
    """The interval from the minimum to the maximum along axis 0; an overflowed value does not bound the other end."""
    largest = torch.finfo(least.dtype).max
    return arithmetic.enclose(least.amin(0).clamp(max=largest), most.amax(0).clamp(min=-largest))


def _live(z: Interval) -> bool:
    return z.lower.requires_grad or z.upper.requires_grad


def _with_ends(z: Interval, points: Tensor) -> Tensor:
    return torch.cat([z.lower.unsqueeze(0), points, z.upper.unsqueeze(0)])

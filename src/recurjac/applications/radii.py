"""How far a margin is proved to stay positive, from bounds on growing balls; all of it in exact rational arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import inf, isfinite, nextafter
from typing import final


@final
@dataclass(frozen=True)
class RadiusBound:
    """On the ball of `radius` each margin is at least `margins`, its dual gradient norm at most `slopes` (one a row).

    NaN and infinite numbers bound nothing.  margin_by, slope_by: the titles of the proofs that state them.
    """

    radius: float
    margins: tuple[float, ...]
    slopes: tuple[float, ...]
    margin_by: tuple[str, ...] = ()
    slope_by: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class Proved:
    """The margin of one row is positive on the ball of `radius`; the integral goes from the ball of `start` on."""

    radius: float
    start: float

    @property
    def by_margin(self) -> bool:
        """Whether a bound of the margin on a ball of positive radius is part of the proof."""
        return self.start > 0

    @property
    def by_integral(self) -> bool:
        """Whether slopes are part of the proof."""
        return self.radius > self.start


def proved(rungs: Sequence[RadiusBound], row: int) -> Proved:
    """The largest radius at which the margin is proved to be positive; 0 if not even at the first rung, radius 0.

    Let g be the margin, t_0 = 0 < t_1 < … the radii, C_i a lower bound of g on the ball B_i of radius t_i, L_i an upper
    bound there of the norm of its gradients that is dual to the ball's.  Then F_i = max(C_i, F_{i-1} - (t_i - t_{i-1})
    L_i), F_0 = C_0, is a lower bound of g on B_i.  By induction: a point of B_i is in B_{i-1}, where g >= F_{i-1}, or
    at a distance s of the centre with t_{i-1} < s <= t_i.  On the segment from it to the centre, which stays in B_i (an
    intersection of convex sets), there is a point of B_{i-1} at distance t_{i-1}, and between both g changes by no more
    than (s - t_{i-1}) L_i by the mean value theorem (Lebourg's, where g has kinks).  For the same reason g > 0 at all
    distances s < t_{i-1} + F_{i-1} / L_i up to t_i.

    With C_i = -inf for i > 0 this is the right-end sum of Theorem 2 (docs/mathematics.md, §7.2); with L_i = inf it is
    the margin's bound alone.  A bound on a ball also holds on smaller ones: L_i is the least of those of all larger
    radii, C_i the greatest.  Fractions make the sums exact; the radius is the next floating-point number below.
    Source: arXiv:1810.11783, Theorem 2; the combination with C_i is ours.
    """
    ordered = sorted(rungs, key=lambda rung: rung.radius)
    least = _known([r.margins[row] for r in ordered], lower=True)
    most = _known([r.slopes[row] for r in ordered], lower=False)
    start, reached, bound = 0.0, 0.0, least[0]
    if bound is None or bound <= 0:
        return Proved(0.0, 0.0)
    for rung, margin, slope in zip(ordered[1:], least[1:], most[1:], strict=True):
        by_integral = _after(bound, reached, rung.radius, slope)
        if margin is not None and margin > 0 and (by_integral is None or margin >= by_integral):
            start, bound = rung.radius, margin
        elif by_integral is not None and by_integral > 0:
            bound = by_integral
        else:
            return Proved(reached if slope is None else _below(Fraction(reached) + bound / slope), start)
        reached = rung.radius
    return Proved(reached, start)


def _known(bounds: Sequence[float], lower: bool) -> list[Fraction | None]:
    """The best of each bound and those of all larger balls; None where all are infinite or NaN."""
    found: list[Fraction | None] = []
    best: Fraction | None = None
    for bound in reversed(bounds):
        number = Fraction(bound) if isfinite(bound) else None
        if number is not None and (best is None or (number > best if lower else number < best)):
            best = number
        found.append(best)
    return found[::-1]


def _after(bound: Fraction, radius: float, following: float, slope: Fraction | None) -> Fraction | None:
    """bound - (following - radius) slope, None for -inf; a slope of 0 takes nothing, however far."""
    if slope is not None and slope <= 0:
        return bound
    if slope is None or following == inf:
        return None
    return bound - (Fraction(following) - Fraction(radius)) * slope


def _below(number: Fraction) -> float:
    """The largest floating-point number less than a positive fraction."""
    try:
        nearest = float(number)
    except OverflowError:
        return nextafter(inf, 0.0)
    return nearest if Fraction(nearest) < number else nextafter(nearest, 0.0)


def by_margin(rungs: Sequence[RadiusBound]) -> list[RadiusBound]:
    """The rungs without their slopes: what bounds of the margin prove alone."""
    return [replace(r, slopes=tuple(inf for _ in r.slopes)) for r in rungs]


def by_integral(rungs: Sequence[RadiusBound]) -> list[RadiusBound]:
    """The rungs without margins at radii other than 0: what Theorem 2 proves alone."""
    return [r if r.radius == 0 else replace(r, margins=tuple(-inf for _ in r.margins)) for r in rungs]


def least_proved(rungs: Sequence[RadiusBound]) -> float:
    """The radius that is proved for every row."""
    return min(proved(rungs, row).radius for row in range(len(rungs[0].margins)))

"""How far a margin is proved to stay positive, from bounds on growing balls; all of it in exact rational arithmetic."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from math import inf, isfinite, isnan, nextafter
from typing import final

from recurjac.errors import InvalidRequest, expect_whole

_SMALLEST = 0.11
"""The first radius tried, as a share of the radius at which a margin of constant slope would be gone.

Doubled, it does not meet that radius, so that rounding does not decide what is tried next.
"""
_STEPS = 24
"""Factors of 4 downwards, and of 2 upwards, before the search for a grid gives up."""
_COARSE = 1 / 4
"""The share of the grid, from 0 on, that has the doubled radii alone: slopes change little there."""


@final
@dataclass(frozen=True)
class Radii:
    """The grid of radii: `intervals` linear steps to where the proofs end, below a quarter of that doubled radii.

    limit: no larger radius is looked at.  Raises InvalidRequest for less than one interval or a limit that is not
    positive.
    """

    intervals: int = 30
    limit: float = inf

    def __post_init__(self) -> None:
        expect_whole("the grid of radii", intervals=self.intervals)
        if self.intervals < 1:
            raise InvalidRequest(f"the number of intervals is {self.intervals!r}; it must be a whole number from 1 on")
        if isinstance(self.limit, bool) or not isinstance(self.limit, int | float) or not self.limit > 0:
            raise InvalidRequest(f"the largest radius is {self.limit!r}; it must be a positive number, or inf for none")


@final
@dataclass(frozen=True)
class RadiusBound:
    """On the ball of `radius` each margin is at least `margins`, its dual gradient norm at most `slopes` (one a row).

    NaN and infinite numbers bound nothing.
    """

    radius: float
    margins: tuple[float, ...]
    slopes: tuple[float, ...]


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


def search_radii(
    radii: Radii, centre: RadiusBound, whole: float, together: int
) -> Generator[list[float], list[RadiusBound], list[RadiusBound]]:
    """All rungs of one sample: yields the radii to bound next, none twice, takes their rungs, returns them all.

    centre: the rung of radius 0.  whole: from this radius on the ball is the whole region; it is called inf then.
    together: how many radii of the linear part are asked for at once.
    The first radius is one that is proved, or near 0; it is doubled until an estimate says that the next one is out of
    reach, or the radius is unlimited; then the linear steps follow until one is not proved.  Where the integral alone
    has ended they need not all be bounded: those around the end of the margin's own bound are.  The estimate decides
    where bounds are computed, never what they prove; no radius but the number of the linear ones depends on
    `intervals`.
    """
    rungs = [centre]
    if not least_proved(rungs) >= 0 or min(centre.margins) <= 0 or isnan(sum(centre.margins)):
        return rungs
    radius = _capped(_SMALLEST * first_order(centre), radii.limit, whole)
    for _ in range(_STEPS):
        rungs += yield [radius]
        if least_proved(rungs) >= radius:
            break
        radius = (whole if radius == inf else radius) / 4
        radius = radius if isfinite(radius) else 1.0
    top = _reach(rungs)
    for step in range(_STEPS):
        if radius >= radii.limit or radius == inf or top < 2 * radius:
            break
        following = _capped(inf if step == _STEPS - 1 else 2 * radius, radii.limit, whole)
        if all(r.radius != following for r in rungs):
            rungs += yield [following]
        if least_proved(rungs) < following:
            top = min(top, whole if following == inf else following)
            break
        radius, top = following, _reach(rungs)
    if radius == inf or radius >= radii.limit or not isfinite(top):
        return rungs
    end = min(top, radii.limit)
    steps = [end * (i / radii.intervals) for i in range(1, 4 * radii.intervals) if i / radii.intervals >= _COARSE]
    steps = sorted({s for s in steps if s < min(radii.limit, whole)} - {r.radius for r in rungs})
    if radii.limit < whole and radii.limit not in steps and all(r.radius != radii.limit for r in rungs):
        steps.append(radii.limit)
    for begin in range(0, len(steps), together):
        part = steps[begin : begin + together]
        rungs += yield part
        if least_proved(rungs) < part[-1]:
            break
        if least_proved(by_integral(rungs)) < part[-1]:
            yield from _beyond(rungs, steps[begin + together :], end, together)
            break
    return rungs


def _beyond(
    rungs: list[RadiusBound], steps: Sequence[float], end: float, together: int
) -> Generator[list[float], list[RadiusBound]]:
    """Add the rungs around the last step that a margin's bound proves alone, then following ones while proved at all.

    The steps up to `end` are halved.  If the margin's bound falls faster there than its slope allows, an integral that
    starts earlier reaches farther: then all steps are bounded.
    """
    near, tried = bisect_right(steps, end), set[int]()
    while True:
        reached = least_proved(by_margin(rungs))
        low = max((i for i in tried if steps[i] <= reached), default=-1)
        high = min((i for i in tried if steps[i] > reached), default=len(steps))
        if high - low <= 1:
            break
        probes = _evenly(low, min(high, near), together) or range(low + 1, min(high, low + 1 + together))
        rungs += yield [steps[i] for i in probes]
        tried.update(probes)
    missing = [s for i, s in enumerate(steps[:high]) if i not in tried]
    if missing and _falls_faster(rungs, reached):
        rungs += yield missing
    while high + 1 < len(steps) and least_proved(rungs) >= steps[high]:
        high += 1
        if high not in tried:
            rungs += yield [steps[high]]


def _falls_faster(rungs: Sequence[RadiusBound], radius: float) -> bool:
    """Whether a margin's bound falls by more than its slope times the distance, up to the last rung in `radius`."""
    inside = sorted((r for r in rungs if r.radius <= radius), key=lambda rung: rung.radius)
    if len(inside) < 2:
        return False
    before, last = inside[-2:]
    rows = zip(before.margins, last.margins, last.slopes, strict=True)
    return any(high - low > slope * (last.radius - before.radius) for high, low, slope in rows)


def _evenly(low: int, high: int, most: int) -> list[int]:
    """Up to `most` whole numbers between both, at even distances."""
    count = min(most, high - low - 1)
    return [low + (high - low) * i // (count + 1) for i in range(1, count + 1)]


def least_proved(rungs: Sequence[RadiusBound]) -> float:
    """The radius that is proved for every row."""
    return min(proved(rungs, row).radius for row in range(len(rungs[0].margins)))


def _capped(radius: float, limit: float, whole: float) -> float:
    return inf if min(radius, limit) >= whole else min(radius, limit)


def first_order(centre: RadiusBound) -> float:
    """The radius at which a margin would be gone at the slope of the centre; 1 where that says nothing."""
    pairs = zip(centre.margins, centre.slopes, strict=True)
    gone = min((m / s for m, s in pairs if 0 < s < inf), default=1.0)
    return gone if 0 < gone < inf else 1.0


def _reach(rungs: Sequence[RadiusBound]) -> float:
    """About how far the proofs will reach: no less, if slopes grow with the radius and margins fall ever faster."""
    return min(_reach_of(rungs, row) for row in range(len(rungs[0].margins)))


def _reach_of(rungs: Sequence[RadiusBound], row: int) -> float:
    ordered = sorted(rungs, key=lambda rung: rung.radius)
    radius = proved(ordered, row).radius
    inside = [r for r in ordered if r.radius <= radius]
    last, before = inside[-1], inside[-2] if len(inside) > 1 else None
    left, bound = last.slopes[row], ordered[0].margins[row]
    for a, b in pairwise(inside):
        bound = max(b.margins[row], bound - (b.radius - a.radius) * a.slopes[row])
    found = [last.radius + bound / left if left > 0 else inf]
    if before is not None and last.margins[row] > 0:
        fall = before.margins[row] - last.margins[row]
        found.append(last.radius + last.margins[row] * (last.radius - before.radius) / fall if fall > 0 else inf)
    return max((f for f in found if not isnan(f)), default=inf)

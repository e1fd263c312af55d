"""Which radii to bound next: the search for the largest radius that is proved, sample by sample, answered together.

A search is a generator.  It yields radii to try and is sent what was found on their balls; it sees no bounds but those.
`answered` runs many of them at once, so that what all samples ask for next is one batch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf, isfinite, isnan, sqrt
from typing import TypeVar, final

import torch

from recurjac.applications.attack import Attack
from recurjac.applications.radii import RadiusBound, by_integral, by_margin, least_proved, proved
from recurjac.errors import InvalidRequest, expect, expect_whole

_SMALLEST = 0.11
"""The first radius tried, as a share of the radius at which a margin of constant slope would be gone.

Doubled, it does not meet that radius, so that rounding does not decide what is tried next.
"""
_STEPS = 24
"""Factors of 4 downwards, and of 2 upwards, before the search for a grid gives up."""
_COARSE = 1 / 4
"""The share of the grid, from 0 on, that has the doubled radii alone: slopes change little there."""


_FIRST = 1.0
"""The first finite radius that a bracket tries; it goes up or down from there by ever larger factors."""
_LARGEST_FACTOR = 2.0**256

_Found = TypeVar("_Found")
_All = TypeVar("_All")


@final
@dataclass(frozen=True)
class RadiusSearch:
    """A grid of radii: `intervals` linear steps to where the proofs end, below a quarter of that doubled radii.

    limit: no larger radius is looked at.  attack: on the inputs; no proof depends on it.
    Raises InvalidRequest for less than one interval, a limit that is not positive and an attack of another kind.
    """

    intervals: int = 30
    limit: float = inf
    attack: Attack = field(default_factory=Attack)

    def __post_init__(self) -> None:
        expect_whole("the search of radii", intervals=self.intervals)
        if self.intervals < 1:
            raise InvalidRequest(f"the number of intervals is {self.intervals!r}; it must be a whole number from 1 on")
        if isinstance(self.limit, bool) or not isinstance(self.limit, int | float) or not self.limit > 0:
            raise InvalidRequest(f"the largest radius is {self.limit!r}; it must be a positive number, or inf for none")
        expect(self.attack, Attack, "the attack", "give an object such as Attack()")


def answered(
    searches: Mapping[int, Generator[list[float], list[_Found], _All]],
    bound: Callable[[Sequence[int], Sequence[float]], Sequence[_Found]],
) -> dict[int, _All]:
    """What each search returns, by its key; what all of them ask for next is found by one call.

    bound: for keys and radii of the same number, what is found on each ball.
    """
    done: dict[int, _All] = {}
    answers: dict[int, list[_Found] | None] = dict.fromkeys(searches)
    while answers:
        asked: dict[int, list[float]] = {}
        for i, answer in answers.items():
            try:
                asked[i] = next(searches[i]) if answer is None else searches[i].send(answer)
            except StopIteration as finished:
                done[i] = finished.value
        pairs = [(i, r) for i, radii in asked.items() for r in radii]
        found = iter(bound([i for i, _ in pairs], [r for _, r in pairs]) if pairs else [])
        answers = {i: [next(found) for _ in radii] for i, radii in asked.items()}
    return done


def bracket_radius(limit: float, dtype: torch.dtype, tolerance: float) -> Generator[list[float], list[bool], None]:
    """Close in on the largest radius that is proved: yields one radius at a time, takes whether it was proved.

    limit: no radius from there on is tried.  tolerance: relative width of the bracket at which it ends.
    The bracket is above `low`, which was proved (0: no ball yet), and below `high`, which was not.  Steps from 1 grow,
    up or down, until both ends are known; then the geometric mean of both follows.  Radii are numbers of `dtype`.
    """
    low, high, factor, failed = 0.0, limit, 2.0, False
    while high > low * (1 + tolerance):
        first = low == 0 and not failed  # this step is not from an end
        radius = float(torch.tensor(_between(low, high, factor, failed), dtype=dtype))
        if not low < radius < high or radius < torch.finfo(dtype).tiny:
            return
        (is_proved,) = yield [radius]
        if is_proved:
            low = radius
        else:
            high, failed = radius, True
        if not first:
            factor = min(factor * factor, _LARGEST_FACTOR)


def _between(low: float, high: float, factor: float, failed: bool) -> float:
    """The next radius: a step up or down while one end is unknown, else the geometric mean of both ends."""
    if low == 0:
        return high / factor if failed else min(high / 2, _FIRST)
    grown = low * factor
    return grown if not failed and grown < high else sqrt(low) * sqrt(high)


def search_radii(
    search: RadiusSearch, centre: RadiusBound, whole: float, together: int
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
    radius = _capped(_SMALLEST * first_order(centre), search.limit, whole)
    for _ in range(_STEPS):
        rungs += yield [radius]
        if least_proved(rungs) >= radius:
            break
        radius = (whole if radius == inf else radius) / 4
        radius = radius if isfinite(radius) else 1.0
    top = _reach(rungs)
    for step in range(_STEPS):
        if radius >= search.limit or radius == inf or top < 2 * radius:
            break
        following = _capped(inf if step == _STEPS - 1 else 2 * radius, search.limit, whole)
        if all(r.radius != following for r in rungs):
            rungs += yield [following]
        if least_proved(rungs) < following:
            top = min(top, whole if following == inf else following)
            break
        radius, top = following, _reach(rungs)
    if radius == inf or radius >= search.limit or not isfinite(top):
        return rungs
    end = min(top, search.limit)
    steps = [end * (i / search.intervals) for i in range(1, 4 * search.intervals) if i / search.intervals >= _COARSE]
    steps = sorted({s for s in steps if s < min(search.limit, whole)} - {r.radius for r in rungs})
    if search.limit < whole and search.limit not in steps and all(r.radius != search.limit for r in rungs):
        steps.append(search.limit)
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

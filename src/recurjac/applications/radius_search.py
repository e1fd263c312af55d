"""The search for the largest proved radius: which radii to bound next.

Each sample has its own search, which is a generator.  It yields radii to try and receives the results on their balls;
it knows no other bounds.  `answered` runs the searches of many samples together, so that their requests form one batch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import exp, inf, isfinite, isnan, log, sqrt
from typing import TypeVar, final

import torch

from recurjac.applications.attack import Attack
from recurjac.applications.radii import RadiusBound, by_integral, by_margin, least_proved, proved
from recurjac.deadline import Deadline, check_seconds
from recurjac.errors import InvalidRequest, expect, expect_whole

_SMALLEST = 0.11
"""The first radius tried, as a fraction of the radius at which a margin with a constant slope would be 0.

Doubling it never gives exactly that radius, so that rounding does not decide what is tried next.
"""
_STEPS = 24
"""The largest number of steps by factors of 4 down, and of 2 up, in the search for a grid."""
_COARSE = 1 / 4
"""The first part of the grid, as a fraction, that has only the doubled radii, because slopes change little there."""


_FAR = 1 / 64
"""The share of a radius that is much less than a quarter."""
_KEPT = 0.9
"""How much of the radius at which a margin would be lost, if losses were proportional to radii, is tried."""
_FURTHER = 1.5
"""How much farther than all other proofs the first of few radii is."""
_FEW = 8
"""The largest number of few radii."""
_NEAR = 0.02
"""The relative distance to the expected end at which they end."""

_FIRST = 1.0
"""The first finite radius that a bracket tries; from there, it goes up or down by growing factors."""
_LARGEST_FACTOR = 2.0**256

_Found = TypeVar("_Found")
_All = TypeVar("_All")


@final
@dataclass(frozen=True)
class RadiusProgress:
    """What is known of an input during the search: the proved radius, and the distance of the nearest adversary."""

    radius: float
    attack: float


@final
@dataclass(frozen=True)
class RadiusSearch:
    """A grid of radii, in linear steps to where the proofs end; its first quarter has doubling radii instead.

    intervals: the number of linear steps from 0 to the end.  limit: the largest radius that is tried.
    attack: on the inputs; no proof depends on it.
    time_limit: seconds for each input; inputs with the same label and targets share theirs.  After it, what is proved
    so far is the result.  progress: called whenever the proved radius of an input has grown.
    Raises InvalidRequest for less than one interval, a limit that is not positive, and for an attack of another kind.
    """

    intervals: int = 30
    limit: float = inf
    attack: Attack = field(default_factory=Attack)
    time_limit: float = inf
    progress: Callable[[RadiusProgress], None] | None = None

    def __post_init__(self) -> None:
        check_seconds("RadiusSearch", self.time_limit)
        expect_whole("the search of radii", intervals=self.intervals)
        if self.intervals < 1:
            raise InvalidRequest(f"the number of intervals is {self.intervals!r}; it must be a positive whole number")
        if isinstance(self.limit, bool) or not isinstance(self.limit, int | float) or not self.limit > 0:
            raise InvalidRequest(f"the largest radius is {self.limit!r}; it must be a positive number, or inf for none")
        expect(self.attack, Attack, "the attack", "give an object such as Attack()")


def answered(
    searches: Mapping[int, Generator[list[float], list[_Found], _All]],
    bound: Callable[[Sequence[int], Sequence[float]], Sequence[_Found]],
) -> dict[int, _All]:
    """The results of the searches, by their keys; the next requests of all searches are answered by one call.

    bound: takes keys and as many radii, and returns the result on each ball.
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


def told(
    search: Generator[list[float], list[RadiusBound], list[RadiusBound]],
    known: Sequence[RadiusBound],
    say: Callable[[float], None],
) -> Generator[list[float], list[RadiusBound], list[RadiusBound]]:
    """The same search, which says what is proved whenever that has grown.  known: the rungs that it starts with."""
    rungs = list(known)
    best = least_proved(rungs)
    try:
        asked = next(search)
        while True:
            found = yield asked
            rungs += found
            if least_proved(rungs) > best:
                best = least_proved(rungs)
                say(best)
            asked = search.send(found)
    except StopIteration as finished:
        return list(finished.value)


def within_time(
    search: Generator[list[float], list[RadiusBound], list[RadiusBound]],
    known: Sequence[RadiusBound],
    deadline: Deadline,
) -> Generator[list[float], list[RadiusBound], list[RadiusBound]]:
    """The same search, which asks for nothing after the deadline.  known: the rungs that it starts with."""
    rungs = list(known)
    try:
        asked = next(search)
        while not deadline.over:
            found = yield asked
            rungs += found
            asked = search.send(found)
    except StopIteration as finished:
        return list(finished.value)
    return rungs


def bracket_radius(
    limit: float, dtype: torch.dtype, tolerance: float, begin: float = 0.0
) -> Generator[list[float], list[bool], None]:
    """Bracket the largest proved radius: yields one radius at a time and receives whether it was proved.

    limit: only smaller radii are tried.  tolerance: the relative width of the bracket at which the search ends.
    begin: a radius that is known to be proved; the search then goes on from there.
    The bracket is between `low`, which was proved (0: no ball yet), and `high`, which was not.  Steps up or down from 1
    grow until both ends are known; then the geometric mean of the ends is tried.  Radii are numbers of `dtype`.
    """
    low, high, factor, failed = begin, limit, 2.0, False
    while high > low * (1 + tolerance):
        first = low == 0 and not failed  # this step does not start from an end
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
    """The next radius: a step up or down while an end is unknown, otherwise the geometric mean of both ends."""
    if low == 0:
        return high / factor if failed else min(high / 2, _FIRST)
    grown = low * factor
    return grown if not failed and grown < high else sqrt(low) * sqrt(high)


def search_radii(
    search: RadiusSearch, centre: RadiusBound, whole: float, together: int, known: Sequence[RadiusBound] = ()
) -> Generator[list[float], list[RadiusBound], list[RadiusBound]]:
    """All rungs of one sample: yields the radii to bound next, none twice; receives their rungs, and returns them all.

    centre: the rung of radius 0.  whole: from this radius on, the ball is the whole region; such radii become inf.
    together: the number of radii of the linear part that are requested at once.  known: other rungs, whose radii are
    only requested if nothing is stated about slopes there, while the centre's rung does state something.
    The search looks for a first radius that is proved, or near 0.  It doubles the radius until an estimate says that
    the next one cannot be proved, or until the ball is the whole region.  Then it takes the linear steps until one is
    not proved.  After the end of what the integral proves alone, only the steps around the end of what the bound of the
    margin proves need to be bounded.  The estimate decides where bounds are computed, never what they prove.
    `intervals` affects only the linear steps.
    """
    rungs = [centre, *known]
    if not least_proved(rungs) >= 0 or min(centre.margins) <= 0 or isnan(sum(centre.margins)):
        return rungs
    radius = _capped(_first(rungs), search.limit, whole)
    for _ in range(_STEPS):
        rungs += yield [radius]
        if least_proved(rungs) >= radius:
            break
        radius = _smaller(rungs[0], rungs[-1], whole if radius == inf else radius)
    top = _reach(rungs)
    for step in range(_STEPS):
        if radius >= search.limit or radius == inf or top < 2 * radius:
            break
        following = _capped(inf if step == _STEPS - 1 else 2 * radius, search.limit, whole)
        if following not in _asked(rungs):
            rungs += yield [following]
        if least_proved(rungs) < following:
            top = min(top, whole if following == inf else following)
            break
        radius, top = following, _reach(rungs)
    if radius == inf or radius >= search.limit or not isfinite(top):
        return rungs
    end = min(top, search.limit)
    steps = [end * (i / search.intervals) for i in range(1, 4 * search.intervals) if i / search.intervals >= _COARSE]
    steps = sorted({s for s in steps if s < min(search.limit, whole)} - _asked(rungs))
    if search.limit < whole and search.limit not in steps and search.limit not in _asked(rungs):
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


def _first(rungs: Sequence[RadiusBound]) -> float:
    """The first radius to try: a quarter of what is proved, or else one at which margins should still be positive."""
    low = least_proved(rungs)
    return low / 4 if 0 < low < inf else _SMALLEST * first_order(rungs[0])


def _asked(rungs: Sequence[RadiusBound]) -> set[float]:
    """The radii at which as much is stated about slopes as at the centre, whose rung is the first."""
    return {r.radius for r in rungs if r.slope_by or not rungs[0].slope_by}


def _smaller(centre: RadiusBound, failed: RadiusBound, radius: float) -> float:
    """The radius to try after one at which a margin was not proved: a quarter, or less if far too much was lost there.

    Losses grow at least about as fast as the radius, so that a margin should be proved where that much is left of it.
    """
    pairs = zip(centre.margins, failed.margins, strict=True)
    share = min((_KEPT * m / (m - low) for m, low in pairs if isfinite(low) and m > low), default=1 / 4)
    smaller = radius * (share if share < _FAR else 1 / 4)
    return smaller if isfinite(smaller) and smaller > 0 else 1.0


def _beyond(
    rungs: list[RadiusBound], steps: Sequence[float], end: float, together: int
) -> Generator[list[float], list[RadiusBound]]:
    """Add the rungs around the last step that a margin's bound proves alone, and later ones as long as they are proved.

    Bisection of the steps up to `end` finds that step.  If the margin's bound decreases faster there than its slope
    allows, an integral that starts earlier proves a larger radius, so all steps are bounded.
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


def few_radii(
    rungs: list[RadiusBound], search: RadiusSearch, whole: float, begin: float | None = None, away: float = inf
) -> Generator[list[float], list[RadiusBound], list[RadiusBound]]:
    """Further rungs of one sample by proofs that are asked on few balls; returns all rungs.

    rungs: what the other proofs state, of which one has radius 0.  whole: as in `search_radii`.  begin: the first
    radius if nothing is proved, by default about the largest that could be.  away: the distance of an adversary, which
    no proof reaches.
    The least margin decreases from that at the centre to 0.  Between the radii where it is known, its loss is taken for
    a power of the radius, which tells where to look next.
    """
    low, limit = least_proved(rungs), min(search.limit, whole)
    high, margin = away, min(rungs[0].margins)
    losses: list[tuple[float, float]] = []
    if not margin > 0 or not low >= 0 or low >= limit:
        return rungs
    radius = _FURTHER * low if low > 0 else begin or first_order(rungs[0])
    for _ in range(_FEW):
        asked = limit if radius >= limit else radius
        found = yield [_capped(asked, search.limit, whole)]
        rungs = rungs + found
        least = min(found[0].margins)
        if least_proved(rungs) >= asked:
            low = asked
        else:
            high = asked
        if low >= limit:
            break
        if least < margin and isfinite(lost := (margin - least) / margin):
            losses.append((asked, lost))
        radius = _guess(losses, low, high)
        if radius <= low * (1 + _NEAR) or high <= low * (1 + _NEAR):
            break
    return rungs


def _guess(losses: Sequence[tuple[float, float]], low: float, high: float) -> float:
    """A radius a little below the one at which the whole margin is lost, between the ends `low` and `high`."""
    if low == 0 and not losses:
        return high / 4
    if not losses:
        return sqrt(low * high) if isfinite(high) else _FURTHER * low
    near = sorted(losses, key=lambda pair: abs(log(pair[1])))[:2]
    (a, lost), power = near[0], 2.0
    if len(near) == 2:
        (b, other) = near[1]
        power = min(max(log(lost / other) / log(a / b), 0.5), 8.0) if lost != other else power
    radius = a * exp(-log(lost) / power) * (1 - _NEAR / 2)
    if not isfinite(high):
        return min(radius, _FURTHER**2 * low) if low > 0 else radius
    if not radius < high:
        return sqrt(low * high) if low > 0 else high / 4
    return radius if low < radius else low


def _falls_faster(rungs: Sequence[RadiusBound], radius: float) -> bool:
    """Whether a margin's bound falls by more than slope times distance between the last two rungs up to `radius`."""
    inside = sorted((r for r in rungs if r.radius <= radius), key=lambda rung: rung.radius)
    if len(inside) < 2:
        return False
    before, last = inside[-2:]
    rows = zip(before.margins, last.margins, last.slopes, strict=True)
    return any(high - low > slope * (last.radius - before.radius) for high, low, slope in rows)


def _evenly(low: int, high: int, most: int) -> list[int]:
    """Up to `most` evenly spaced whole numbers between `low` and `high`."""
    count = min(most, high - low - 1)
    return [low + (high - low) * i // (count + 1) for i in range(1, count + 1)]


def _capped(radius: float, limit: float, whole: float) -> float:
    return inf if min(radius, limit) >= whole else min(radius, limit)


def first_order(centre: RadiusBound) -> float:
    """The radius at which a margin would be 0 if it kept the slope at the centre; 1 if that is not known."""
    pairs = zip(centre.margins, centre.slopes, strict=True)
    gone = min((m / s for m, s in pairs if 0 < s < inf), default=1.0)
    return gone if 0 < gone < inf else 1.0


def _reach(rungs: Sequence[RadiusBound]) -> float:
    """An estimate of the largest provable radius; not below it if slopes grow, and margins fall ever faster."""
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


def remark_on(radius: float, limit: float, out_of_time: bool) -> str:
    """What is to be said about a proved radius; empty if nothing is.  out_of_time: whether the search was cut short."""
    if radius == inf:
        return "proved for every input of the region"
    if radius >= limit:
        return "the largest radius that was tried"
    nothing = "no positive radius is proved in the time" if out_of_time else "no positive radius is proved"
    return "" if radius > 0 else nothing

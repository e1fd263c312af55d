"""The search for a radius by proofs that divide balls: up to the nearest adversary, which they may find themselves."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from math import inf, isfinite, sqrt

from torch import Tensor

from recurjac.applications.radii import RadiusBound, least_proved
from recurjac.applications.radius_search import RadiusSearch, first_order
from recurjac.arithmetic import Interval

MET = 1e-3
"""The relative distance between a radius and an adversary at which they count as equal."""
BOUNDED, EXACT, TIME, INTERRUPTED = "bounded", "exact", "time", "interrupted"
"""How a search ended: by itself, with an adversary as near as the radius, for want of time, or by the user; or as
`given_up` says."""
_CLOSE = 2e-3
"""The relative distance between a radius that is proved, and one that could not be, at which the search ends."""
_GROWTH = 1.5
"""The first factor by which radii grow."""
_BALLS = 64
"""The largest number of balls."""


def ending(rungs: Sequence[RadiusBound], attack: float, otherwise: str) -> str:
    """How a search ended, from what is proved and the nearest adversary."""
    radius = least_proved(rungs)
    return EXACT if radius == inf or (radius > 0 and radius >= attack * (1 - MET)) else otherwise


def given_up(rungs: Sequence[RadiusBound]) -> str:
    """Why the smallest ball beyond what is proved was given up; `BOUNDED` if there is no such ball."""
    low = least_proved(rungs)
    left = [r for r in rungs if r.given_up and r.radius > low]
    return min(left, key=lambda r: r.radius).given_up if left else BOUNDED


def ranges_around(rungs: Sequence[RadiusBound], radius: float) -> tuple[Interval, ...]:
    """Ranges over the smallest ball that contains the one of this radius, if there are any."""
    larger = [r for r in rungs if r.ranges and r.radius >= radius]
    return min(larger, key=lambda r: r.radius).ranges if larger else ()


def dividing_radii(
    rungs: list[RadiusBound],
    search: RadiusSearch,
    whole: float,
    nearest: Callable[[Tensor | None], float],
) -> Generator[list[float], list[RadiusBound], list[RadiusBound]]:
    """Further rungs of one sample by proofs that prove a ball or find an adversary in it; returns all rungs.

    rungs: what the other proofs state, of which one has radius 0; further ones are added to the list.
    whole: as in `search_radii`.
    nearest: takes an adversary, or None, and returns the distance of the nearest one known.
    Radii grow by growing factors up to just below the nearest adversary.  Below a radius that could neither be proved
    nor refuted, they halve what is open.
    """
    low, limit, failed, factor = least_proved(rungs), min(search.limit, whole), inf, _GROWTH
    if not min(rungs[0].margins) > 0 or not low >= 0:
        return rungs
    first = first_order(rungs[0])
    for _ in range(_BALLS):
        away = nearest(None)
        near = limit if away > limit else away * (1 - MET / 2)
        if low >= min(limit, away * (1 - MET)) or failed <= low * (1 + _CLOSE):
            break
        asked = _between(low, failed) if isfinite(failed) else factor * low if low > 0 else first / 4
        asked = min(asked, near)
        if not asked > low:
            break
        found = yield [inf if asked >= whole else asked]
        rungs += found
        if found[0].adversary is not None:
            nearest(found[0].adversary)
        if least_proved(rungs) >= asked:
            low, factor = least_proved(rungs), min(1.5 * factor, 8.0)
        elif not nearest(None) <= asked:
            failed = min(failed, asked)
    return rungs


def _between(low: float, failed: float) -> float:
    """A radius between one that is proved and one that is not."""
    return failed / 4 if low == 0 else (low + failed) / 2 if failed < 4 * low else sqrt(low) * sqrt(failed)

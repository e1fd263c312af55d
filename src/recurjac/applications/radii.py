"""How far a margin is proved to stay positive, from bounds on growing balls; computed in exact rational arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import inf, isfinite, nextafter
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.errors import UnsoundBounds


@final
@dataclass(frozen=True)
class RadiusBound:
    """On the ball of `radius`, each margin is at least `margins`, and the dual norm of its gradient at most `slopes`.

    margins, slopes: one number per row; NaN and infinite numbers state nothing.  margin_by, slope_by: the titles of the
    proofs that state them.  adversary: a point of the ball, (*input), at which some margin is not positive.
    given_up: why a proof that divides the ball ended before it was decided; empty if it did not.  ranges: of the
    pre-activations over the ball, stage by stage, if a proof has tightened them.
    """

    radius: float
    margins: tuple[float, ...]
    slopes: tuple[float, ...]
    margin_by: tuple[str, ...] = ()
    slope_by: tuple[str, ...] = ()
    adversary: Tensor | None = None
    given_up: str = ""
    ranges: tuple[Interval, ...] = ()


@final
@dataclass(frozen=True)
class Proved:
    """The margin of one row is positive on the ball of `radius`; the integral starts at the ball of radius `start`."""

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
    """The largest radius at which the margin is proved to be positive; 0 if it is not even proved at radius 0.

    rungs: the bounds on the balls, one of which has radius 0.

    Let g be the margin and t_0 = 0 < t_1 < … the radii.  On the ball B_i of radius t_i, let C_i be a lower bound of g,
    and L_i an upper bound of the dual norm of its gradients.  Then F_i = max(C_i, F_{i-1} - (t_i - t_{i-1}) L_i), with
    F_0 = C_0, is a lower bound of g on B_i.  The proof is by induction: a point of B_i either lies in B_{i-1}, where
    g >= F_{i-1}, or at a distance s from the centre with t_{i-1} < s <= t_i.  In the second case, the segment from the
    point to the centre stays in B_i, which is convex, and contains a point of B_{i-1} at distance t_{i-1}.  By the mean
    value theorem (Lebourg's, if g has kinks), g changes by at most (s - t_{i-1}) L_i between these two points.  For the
    same reason, g > 0 at all distances s < t_{i-1} + F_{i-1} / L_i up to t_i.

    With C_i = -inf for i > 0, this is the right-end sum of Theorem 2 (docs/mathematics.md, §7.2); with L_i = inf, it is
    the bound of the margin alone.  A bound on a ball also holds on all smaller balls, so L_i is the least and C_i the
    greatest of the bounds at radii from t_i up.  Fractions make the sums exact; the radius is the next floating-point
    number below.
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
    """For each ball, the best of its bound and those of all larger balls; None if all are infinite or NaN."""
    found: list[Fraction | None] = []
    best: Fraction | None = None
    for bound in reversed(bounds):
        number = Fraction(bound) if isfinite(bound) else None
        if number is not None and (best is None or (number > best if lower else number < best)):
            best = number
        found.append(best)
    return found[::-1]


def _after(bound: Fraction, radius: float, following: float, slope: Fraction | None) -> Fraction | None:
    """bound - (following - radius) slope, or None for -inf; with a slope of 0, the bound does not change."""
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
    """The rungs without slopes, for what bounds of the margin prove alone."""
    return [replace(r, slopes=tuple(inf for _ in r.slopes)) for r in rungs]


def by_integral(rungs: Sequence[RadiusBound]) -> list[RadiusBound]:
    """The rungs without margins at positive radii, for what Theorem 2 proves alone."""
    return [r if r.radius == 0 else replace(r, margins=tuple(-inf for _ in r.margins)) for r in rungs]


def least_proved(rungs: Sequence[RadiusBound]) -> float:
    """The radius that is proved for all rows."""
    return min(proved(rungs, row).radius for row in range(len(rungs[0].margins)))


def title_of(found: Proved, rungs: Sequence[RadiusBound]) -> str:
    """The proofs that bound the margin on a ball, then those that bound slopes, if they are part of the proof."""
    if found.radius == 0:
        return "none"
    balls = [r for r in rungs if r.radius > 0]
    margins = dict.fromkeys(title for r in balls for title in r.margin_by if found.by_margin)
    slopes = dict.fromkeys(title for r in balls for title in r.slope_by if found.by_integral)
    return ", then ".join(dict.fromkeys(" or ".join(titles) for titles in (margins, slopes) if titles))


def weakest(rungs: Sequence[RadiusBound]) -> int:
    """The row with the least proved radius; if several are equal, the one of these with the least margin."""
    margins = rungs[0].margins
    return min(range(len(margins)), key=lambda row: (proved(rungs, row).radius, margins[row]))


def doubt(centre: RadiusBound) -> str:
    """Why nothing can be proved at an input that is classified as its label; empty if something can be."""
    if not all(isfinite(m) for m in centre.margins):
        return "the outputs at the input have no finite bounds"
    return "" if min(centre.margins) > 0 else "the margin at the input is not proved to be positive"


def checked(radius: Tensor, attack: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
    """The radii, checked against the adversaries.

    If rounding is not covered, a radius that exceeds the attack by no more than rounding is replaced by the attack.
    Raises UnsoundBounds if an adversary lies within a certified radius.
    """
    if not arithmetic.rigorous:
        close = radius <= attack * (1 + torch.finfo(attack.dtype).eps ** 0.25)
        radius = torch.where(close, torch.minimum(radius, attack), radius)
    wrong = (radius >= attack if arithmetic.rigorous else radius > attack) & attack.isfinite() & (radius > 0)
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        raise UnsoundBounds(
            f"an adversary of input {i} at distance {float(attack[i])!r} is within the certified radius "
            f"{float(radius[i])!r}; please report this, with the network"
        )
    return radius

"""Regions: what a linear function is at most there, and which points are inside."""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from flint import arb, ctx

from recurjac_check import reading
from recurjac_check.errors import Invalid

ZERO = arb(0)


@dataclass(frozen=True)
class Region:
    """{x : lower <= x <= upper, |x - center| <= radius}; the ball may be missing (norm None)."""

    lower: list[arb]
    upper: list[arb]
    norm: str | None
    center: list[arb]
    radius: arb

    @cached_property
    def middle(self) -> list[arb]:
        """The middle of the box."""
        return [(l + u) / 2 for l, u in zip(self.lower, self.upper, strict=True)]

    @cached_property
    def halves(self) -> list[arb]:
        """Half of each width of the box."""
        return [(u - l) / 2 for l, u in zip(self.lower, self.upper, strict=True)]

    def supremum(self, row: dict[int, arb]) -> arb:
        """A number that sum_i row_i x_i does not exceed."""
        middle, halves = self.middle, self.halves
        bound = sum((c * middle[i] + abs(c) * halves[i] for i, c in row.items()), ZERO).upper()
        if self.norm not in ("1", "2"):
            return bound
        at = sum((c * self.center[i] for i, c in row.items()), ZERO)
        ball = (at + self.radius * dual_norm(row.values(), self.norm)).upper()
        return ball if ball < bound else bound

    def around(self, euclidean: bool, where: str) -> tuple[list[arb], list[arb]]:
        """A point, and how far from it each input lies at most; with the 2-norm of these shares at most 1 if asked."""
        if not euclidean:
            at = [m.mid() for m in self.middle]
            ends = zip(at, self.lower, self.upper, strict=True)
            return at, [larger((u - c).upper(), (c - l).upper()) for c, l, u in ends]
        if self.norm not in ("1", "2"):
            raise Invalid(f"{where}.weights are missing: the region is in no ball of the 2-norm")
        return self.center, [self.radius] * len(self.center)

    def cut(self, i: int, at: arb, below: bool) -> "Region":
        """The part with x_i <= at, or with x_i >= at."""
        lower, upper = list(self.lower), list(self.upper)
        if below:
            upper[i] = smaller(upper[i], at)
        else:
            lower[i] = larger(lower[i], at)
        return replace(self, lower=lower, upper=upper)

    @property
    def is_empty(self) -> bool:
        """Whether the box has no points."""
        return any(l > u for l, u in zip(self.lower, self.upper, strict=True))


def smaller(a: arb, b: arb) -> arb:
    """The smaller one of two exact numbers; NaN if one of them is."""
    return a if a < b else b if b <= a else arb.nan()


def larger(a: arb, b: arb) -> arb:
    """The larger one of two exact numbers; NaN if one of them is."""
    return a if a > b else b if b >= a else arb.nan()


def norm(values: Any, p: str) -> arb:
    """The p-norm, from below to above."""
    sizes = [abs(v) for v in values]
    if p == "1":
        return sum(sizes, ZERO)
    if p == "2":
        total = sum((s * s for s in sizes), ZERO)
        return total.sqrt() if total >= 0 else larger(total.lower(), ZERO).sqrt().union(total.upper().sqrt())
    low, high = ZERO, ZERO
    for s in sizes:
        low, high = larger(low, s.lower()), larger(high, s.upper())
    return low.union(high)


DUAL = {"1": "inf", "2": "2", "inf": "1"}


def dual_norm(values: Any, p: str) -> arb:
    """The q-norm with 1/p + 1/q = 1."""
    return norm(values, DUAL[p])


def contains(region: Any, point: list[arb]) -> bool:
    """Whether a region of a certificate contains a point of doubles, which all sums below hold exactly."""
    with ctx.workprec(9000):
        found = read(region, len(point), outwards=False)
        inside = all(l <= x <= u for l, x, u in zip(found.lower, point, found.upper, strict=True))
        if found.norm in (None, "inf"):
            return inside
        steps = [x - c for x, c in zip(point, found.center, strict=True)]
        if found.norm == "1":
            return inside and bool(norm(steps, "1") <= found.radius)
        return inside and bool(sum((s * s for s in steps), ZERO) <= found.radius * found.radius)


def read(value: Any, n: int, outwards: bool = True) -> Region:
    """The region of a certificate; its box is enlarged by rounding, unless sums are exact."""
    if isinstance(value, dict) and value.get("kind") == "box":
        reading.record(value, "region", "kind lower upper")
        lower, upper = (reading.numbers(value[k], f"region.{k}", n) for k in ("lower", "upper"))
        return _valid(Region(lower, upper, None, lower, ZERO))
    reading.record(value, "region", "kind norm center radius clip")
    reading.text(value["kind"], "region.kind", "ball")
    p = reading.text(value["norm"], "region.norm", "1 2 inf")
    center = reading.numbers(value["center"], "region.center", n)
    radius = reading.number(value["radius"], "region.radius")
    if not radius >= 0:
        raise Invalid("region.radius is negative")
    lower = [(c - radius).lower() if outwards else c - radius for c in center]
    upper = [(c + radius).upper() if outwards else c + radius for c in center]
    if value["clip"] is not None:
        clip = reading.record(value["clip"], "region.clip", "lower upper")
        low, high = (reading.numbers(clip[k], f"region.clip.{k}", n, infinite=True) for k in ("lower", "upper"))
        lower = [larger(a, b) for a, b in zip(lower, low, strict=True)]
        upper = [smaller(a, b) for a, b in zip(upper, high, strict=True)]
    return _valid(Region(lower, upper, p, center, radius))


def _valid(region: Region) -> Region:
    if region.is_empty or not all(v.is_finite() for v in region.lower + region.upper):
        raise Invalid("the region is empty or not finite")
    return region


def digest(value: Any) -> str:
    """The hash of a region of a certificate."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

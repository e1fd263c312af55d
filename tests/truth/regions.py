"""Points of a region as it was asked about: all are in it in exact arithmetic."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any

import torch

import recurjac as rj
from recurjac.region import AbstractRegion

Point = tuple[float, ...]
_FAR = (1e-3, 1.0, 1e3, 1e8, 1e30)
"""Distances of points in directions in which a region is unbounded."""


@dataclass(frozen=True)
class Exact:
    """One sample's region: |x - centre|_p <= radius and low <= x <= high; radius has one number for each entry.

    The norm is that of the whole vector for p = 1 and 2, with the first radius.
    """

    centre: Point
    radius: Point
    p: float
    low: Point
    high: Point

    def holds(self, x: Point) -> bool:
        """Whether a point is in the region, by fractions."""
        if not all(a <= v <= b for a, v, b in zip(self.low, x, self.high, strict=True)):
            return False
        moves = [abs(Fraction(v) - Fraction(c)) for v, c in zip(x, self.centre, strict=True)]
        if self.p == math.inf:
            return all(m <= r for m, r in zip(moves, self.radius, strict=True))
        if self.radius[0] == math.inf:
            return True
        most = Fraction(self.radius[0])
        return sum(moves) <= most if self.p == 1 else sum(m * m for m in moves) <= most * most

    def nearest(self, x: Point) -> Point | None:
        """A point of the region near x, where rounding has left it; None if none is found."""
        inside = tuple(min(max(v, a), b) for a, v, b in zip(self.low, x, self.high, strict=True))
        for _ in range(60):
            if self.holds(inside):
                return inside
            inside = tuple(self._closer(v, c, r) for v, c, r in zip(inside, self.centre, self.radius, strict=True))
        return None

    def _closer(self, v: float, c: float, r: float) -> float:
        near = v if self.p != math.inf else min(max(v, c - r), c + r)
        step = near + (c - near) * 2.0**-52
        return step if step != v else math.nextafter(v, c)

    def points(self, count: int, draw: random.Random) -> list[Point]:
        """The centre, corners, and points inside and on the boundary."""
        found = dict.fromkeys(p for x in self._tried(count, draw) if (p := self.nearest(x)) is not None)
        return list(found)

    def _tried(self, count: int, draw: random.Random) -> list[Point]:
        n, centre = len(self.centre), tuple(min(max(c, a), b) for a, c, b in self._ends())
        tried = [centre]
        signs = list(product((-1.0, 1.0), repeat=n))
        draw.shuffle(signs)
        ways: list[tuple[float, ...]] = (
            signs[:8] if self.p == math.inf else [_unit(i, n, s) for i in range(n) for s in (-1.0, 1.0)]
        )
        ways += [tuple(draw.gauss(0, 1) for _ in range(n)) for _ in range(count)]
        ways += [tuple(draw.choice((-1.0, 0.0, 1.0)) for _ in range(n)) for _ in range(4)]
        for i, way in enumerate(ways):
            size = _norm(way, self.p)
            share = 1.0 if i % 2 == 0 else draw.random()
            if size > 0:
                moves = zip(centre, way, self.radius, self.low, self.high, strict=True)
                tried.append(tuple(self._moved(*m, share / size, draw) for m in moves))
        return tried

    def _ends(self) -> zip[tuple[float, float, float]]:
        return zip(self.low, self.centre, self.high, strict=True)

    def _moved(
        self, c: float, way: float, r: float, low: float, high: float, share: float, draw: random.Random
    ) -> float:
        reach = r
        if math.isinf(r):
            end = high if way > 0 else low
            reach = abs(end - c) if math.isfinite(end) else draw.choice(_FAR) * max(abs(c), 1.0)
        return c + way * share * reach


def _unit(i: int, n: int, sign: float) -> tuple[float, ...]:
    return tuple(sign * (i == j) for j in range(n))


def _norm(way: tuple[float, ...], p: float) -> float:
    if p == math.inf:
        return max(map(abs, way))
    return sum(map(abs, way)) if p == 1 else math.sqrt(sum(w * w for w in way))


def _rows(numbers: Any, like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(numbers, dtype=torch.float64).broadcast_to(like.shape).flatten(1)


def exact_regions(region: AbstractRegion, inputs: int) -> list[Exact]:
    """The region of each sample, from the numbers that it was made of; its tensors have a batch dimension."""
    if isinstance(region, rj.Box):
        low, high = (torch.as_tensor(e, dtype=torch.float64).flatten(1).tolist() for e in (region.lower, region.upper))
        return [
            Exact(_between(a, b), (math.inf,) * inputs, math.inf, tuple(a), tuple(b))
            for a, b in zip(low, high, strict=True)
        ]
    assert isinstance(region, rj.LpBall)
    x = torch.as_tensor(region.x, dtype=torch.float64)
    clip = (-math.inf, math.inf) if region.clip is None else region.clip
    parts = [x.flatten(1), _rows(region.radius, x), *(_rows(end, x) for end in clip)]
    return [
        Exact(tuple(c), tuple(r), float(region.p), tuple(a), tuple(b))
        for c, r, a, b in zip(*(p.tolist() for p in parts), strict=True)
    ]


def _between(low: list[float], high: list[float]) -> Point:
    def one(a: float, b: float) -> float:
        if math.isfinite(a) and math.isfinite(b):
            return min(max(a / 2 + b / 2, a), b)
        return a if math.isfinite(a) else b if math.isfinite(b) else 0.0

    return tuple(map(one, low, high))

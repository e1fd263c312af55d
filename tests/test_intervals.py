"""Intervals: what is made of them holds all that their points make, in exact arithmetic; wrong ends are refused."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import product as pairs
from math import inf, isfinite, nan

import pytest
import torch

from recurjac.arithmetic import AbstractArithmetic, Fast, Interval, Rigorous
from recurjac.errors import UnsoundBounds
from tests.helpers import KINDS, Exact, exact, misses, numbers
from tests.marks import every_dtype, every_kind, every_seed

FAST, RIGOROUS = Fast(), Rigorous()


@every_dtype
@every_seed
def test_midrad_covers_the_interval(seed: int, dtype: torch.dtype) -> None:
    for kind in KINDS:
        ends = numbers(kind, 40, seed, dtype).reshape(2, 20).sort(0).values
        mid, half = RIGOROUS.midrad(Interval(ends[0], ends[1]))
        rows = zip(exact(ends[0]), exact(ends[1]), exact(mid), half.tolist(), strict=True)
        assert all(m - s <= low and high - m <= s for low, high, m, s in rows), kind


@every_dtype
@every_seed
def test_without_rounding_midrad_is_the_same(seed: int, dtype: torch.dtype) -> None:
    """The same midpoints, and half-widths that differ by rounding; a point has the half-width 0."""
    info = torch.finfo(dtype)
    for kind in KINDS:
        ends = numbers(kind, 40, seed, dtype).reshape(2, 20).sort(0).values
        ends[:, :4] = ends[0, :4]
        both = Interval(ends[0], ends[1])
        (mid, half), (same, more) = FAST.midrad(both), RIGOROUS.midrad(both)
        assert torch.equal(mid, same), kind
        assert not bool(half[:4].any()), kind
        assert bool(((half - more).abs() <= 4 * info.eps * both.magnitude + 4 * info.tiny).all()), kind


def interval(kind: str, size: int, seed: int, dtype: torch.dtype) -> Interval:
    ends = numbers(kind, 2 * size, seed, dtype).reshape(2, size).sort(0).values
    low = torch.where(torch.arange(size) % 5 == 0, -inf, ends[0])
    high = torch.where(torch.arange(size) % 7 == 0, inf, ends[1])
    return Interval(torch.where(torch.arange(size) % 6 == 0, 0.0, low).minimum(high), high)


def finite(kind: str, size: int, seed: int, dtype: torch.dtype) -> Interval:
    """Intervals of which some begin or end with 0, and some are 0."""
    ends = numbers(kind, 2 * size, seed, dtype).reshape(2, size)
    ends[0, ::3], ends[1, ::4], ends[:, ::11] = 0, 0, 0
    return Interval(ends.amin(0), ends.amax(0))


@every_dtype
@every_seed
@pytest.mark.parametrize("points", [(), (0,), (1,), (0, 1)], ids=str)
def test_finite_products_hold_those_of_all_ends_and_little_more(
    points: tuple[int, ...], seed: int, dtype: torch.dtype
) -> None:
    """Also where products underflow; those with 0 are 0."""
    info = torch.finfo(dtype)
    for kind, other in pairs(KINDS, KINDS):
        factors = [finite(kind, 60, seed, dtype), finite(other, 60, seed + 100, dtype)]
        for i in points:
            factors[i] = Interval.point(factors[i].upper)
        a, b = factors
        found = RIGOROUS.product(a, b)
        corners = [[x * y for x, y in zip(exact(v), exact(w), strict=True)]
                   for v in (a.lower, a.upper) for w in (b.lower, b.upper)]  # fmt: skip
        least, most = ([end(c) for c in zip(*corners, strict=True)] for end in (min, max))
        assert not misses(found.lower, found.upper, least), (kind, other)
        assert not misses(found.lower, found.upper, most), (kind, other)
        for low, high, first, last in zip(found.lower.tolist(), found.upper.tolist(), least, most, strict=True):
            for end, true in ((low, first), (high, last)):
                if isfinite(end):
                    assert abs(end - true) <= 4 * Fraction(info.eps) * abs(true) + 8 * Fraction(info.tiny)
            if first == last == 0:
                assert low == high == 0


def inside(x: Interval) -> Iterator[Exact]:
    """Points of the interval: its ends (a far point for an infinite one) and some between."""
    far = torch.finfo(torch.float64).max
    low, high = x.lower.double().clamp(min=-far), x.upper.double().clamp(max=far)
    for share in (0.0, 0.3, 1.0):
        yield exact(((1 - share) * low + share * high).clamp(low, high))


@every_dtype
@every_seed
@every_kind
def test_products_and_sums_of_intervals_hold_those_of_their_points(kind: str, seed: int, dtype: torch.dtype) -> None:
    a, b = interval(kind, 35, seed, dtype), interval("ordinary", 35, seed + 100, dtype)
    product, total = RIGOROUS.product(a, b), RIGOROUS.sum([a, b])
    for x in inside(a):
        for y in inside(b):
            points = list(zip(x, y, strict=True))
            assert not misses(product.lower, product.upper, [p * q for p, q in points])
            assert not misses(total.lower, total.upper, [p + q for p, q in points])


@pytest.mark.parametrize("arithmetic", [FAST, RIGOROUS], ids=["fast", "rigorous"])
def test_infinite_ends_do_not_blur_the_finite_ones(arithmetic: AbstractArithmetic) -> None:
    a = Interval(torch.tensor([1.0, 0.0, 0.0, -2.0]), torch.tensor([2.0, 0.0, inf, inf]))
    b = Interval(torch.tensor([3.0, -inf, -inf, 1.0]), torch.tensor([inf, inf, -1.0, inf]))
    product = arithmetic.product(a, b)
    torch.testing.assert_close(product.lower, torch.tensor([3.0, 0.0, -inf, -inf]))
    torch.testing.assert_close(product.upper, torch.tensor([inf, 0.0, 0.0, inf]))
    total = arithmetic.sum([Interval.point(torch.ones(2)), Interval(torch.tensor([-inf, 2]), torch.tensor([1, inf]))])
    torch.testing.assert_close(total.lower, torch.tensor([-inf, 3.0]))
    torch.testing.assert_close(total.upper, torch.tensor([2.0, inf]))


@pytest.mark.parametrize("arithmetic", [FAST, RIGOROUS], ids=["fast", "rigorous"])
def test_a_nan_bound_is_no_bound(arithmetic: AbstractArithmetic) -> None:
    bounds = arithmetic.enclose(torch.tensor([nan, 0.0, nan]), torch.tensor([1.0, nan, nan]))
    assert bounds.lower.tolist() == [-inf, 0.0, -inf]
    assert bounds.upper.tolist() == [1.0, inf, inf]


def test_proved_bounds_that_cross_raise_and_unproved_ones_are_exchanged() -> None:
    low, high = torch.tensor([0.0, 1.0]), torch.tensor([2.0, 0.5])
    with pytest.raises(UnsoundBounds, match=r"1\.0 is not at most upper bound 0\.5 at index \(1,\)"):
        RIGOROUS.enclose(low, high)
    exchanged = FAST.enclose(low, high)
    assert exchanged.lower.tolist() == [0.0, 0.5]
    assert exchanged.upper.tolist() == [2.0, 1.0]


def test_intersection_keeps_the_tighter_ends() -> None:
    a, b = (
        Interval(torch.tensor([-inf, 0.0]), torch.tensor([1.0, 3.0])),
        Interval(torch.zeros(2), torch.tensor([2, inf])),
    )
    both = RIGOROUS.intersect(a, b)
    assert both.lower.tolist() == [0.0, 0.0]
    assert both.upper.tolist() == [1.0, 3.0]


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (nan, 0.0), (0.0, nan), (inf, -inf)])
def test_an_interval_refuses_ends_out_of_order(low: float, high: float) -> None:
    for shape in ((), (2, 3)):
        with pytest.raises(UnsoundBounds, match="is not at most"):
            Interval(torch.full(shape, low), torch.full(shape, high))


def test_an_interval_refuses_ends_of_two_shapes() -> None:
    with pytest.raises(UnsoundBounds, match="the same shape"):
        Interval(torch.zeros(2), torch.ones(3))


def test_facts_of_an_interval() -> None:
    x = Interval(torch.tensor([-3.0, 1.0, -inf, 2.0, inf]), torch.tensor([2.0, 4.0, -1.0, 2.0, inf]))
    assert x.width.tolist() == [5.0, 3.0, inf, 0.0, 0.0]
    assert x.magnitude.tolist() == [3.0, 4.0, inf, 2.0, inf]
    assert x.mignitude.tolist() == [0.0, 1.0, 1.0, 2.0, inf]
    assert x.is_point.tolist() == [False, False, False, True, True]
    assert x.contains(torch.tensor([2.0, 5.0, nan, 2.0, 1.0])).tolist() == [True, False, False, True, False]
    assert (-x)[0].lower == -2.0
    assert x[:4].reshape(2, 2).map(lambda t: t.mT).lower.tolist() == [[-3.0, -inf], [1.0, 2.0]]

"""Regions: maxima are exact and hold at every point, points lie inside exactly, bad requests are refused."""

from __future__ import annotations

from fractions import Fraction
from math import inf, prod, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from recurjac.arithmetic import Fast, Rigorous
from recurjac.errors import InvalidRegion
from recurjac.region import AbstractRegion, BoundBall, BoundBox, BoundRegion, Box, LpBall
from tests.helpers import CPU, KINDS, Exact, exact, misses, numbers

FAST, RIGOROUS = Fast(), Rigorous()
SEEDS = range(3)
SHAPE = (2, 3)
N, BATCH = prod(SHAPE), 4

every_seed = pytest.mark.parametrize("seed", SEEDS, ids=lambda s: f"seed{s}")
every_p = pytest.mark.parametrize("p", [1, 2, inf])


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def regions(p: float, seed: int) -> dict[str, AbstractRegion]:
    """Regions around one batch of centres in [0, 1]."""
    g = generator(seed)
    x = torch.rand(BATCH, *SHAPE, dtype=torch.float64, generator=g)
    x = torch.where(torch.rand(x.shape, generator=g) < 0.2, x.round(), x)
    per_sample = torch.tensor([0.0, 0.05, 0.4, 3.0], dtype=torch.float64)
    per_feature = torch.rand(1, *SHAPE, dtype=torch.float64, generator=g)
    tight = (x - 0.1 * torch.rand(x.shape, dtype=torch.float64, generator=g), x + per_feature * (per_feature > 0.3))
    found: dict[str, AbstractRegion] = {
        "free": LpBall(x, 0.3, p),
        "point": LpBall(x, 0, p),
        "per-sample": LpBall(x, per_sample, p),
        "clipped": LpBall(x, per_sample, p, clip=(0, 1)),
        "clipped-by-tensors": LpBall(x, per_sample * 2, p, clip=tight),
        "clipped-whole": LpBall(x, inf, p, clip=(0, 1)),
    }
    if p == inf:
        found |= {
            "per-feature": LpBall(x, per_feature, p, clip=(0, 1)),
            "per-feature-and-sample": LpBall(x, per_feature * (1 + per_sample.reshape(-1, 1, 1)), p),
            "box": Box(x - per_feature, x + 2 * per_feature),
            "half-space": Box(torch.where(x < 0.3, -inf, x), torch.where(x > 0.7, inf, x + 1)),
        }
    return found


def bind(region: AbstractRegion, dtype: torch.dtype = torch.float64) -> BoundRegion:
    return region.bind(SHAPE, dtype, CPU)


def bind_all(p: float, seed: int, dtype: torch.dtype = torch.float64) -> list[tuple[str, BoundRegion]]:
    return [(name, bind(region, dtype)) for name, region in regions(p, seed).items()]


def forms(seed: int, count: int = 5, dtype: torch.dtype = torch.float64) -> Tensor:
    """Coefficients (1, 2, count, *SHAPE), some 0, of several sizes."""
    c = torch.randn(1, 2, count, *SHAPE, dtype=torch.float64, generator=generator(seed + 50))
    sizes = 10 ** torch.linspace(-3, 3, count, dtype=torch.float64).reshape(-1, 1, 1)
    return (sizes * torch.where(c.abs() < 0.2, 0.0, c)).to(dtype)


def plain(c: float, radius: float, left: float, right: float) -> float:
    """max c δ over -left <= δ <= right, |δ| <= radius; 0 times infinity is 0."""
    return 0.0 if c == 0 else abs(c) * min(radius, right if c > 0 else left)


def truth(region: BoundRegion, c: np.ndarray[Any, Any], i: int) -> float:
    """The exact maximum of c (x' - x) over sample i, computed another way."""
    x, low, high = (t[i].flatten().tolist() for t in (region.x, *_clip(region)))
    left, right = [a - b for a, b in zip(x, low, strict=True)], [b - a for a, b in zip(x, high, strict=True)]
    if isinstance(region, BoundBox):
        radius = region.radius[i].flatten().tolist()
        return sum(plain(*row) for row in zip(c, radius, left, right, strict=True))
    assert isinstance(region, BoundBall)
    r = float(region.radius[i])
    room = [min(r, b if a > 0 else d) for a, b, d in zip(c, right, left, strict=True)]
    if region.p == 1:
        return _most_l1(np.abs(c), np.array(room), r)
    return _most_l2(np.abs(c), np.array(room), r)


def _clip(region: BoundRegion) -> tuple[Tensor, Tensor]:
    assert isinstance(region, BoundBox | BoundBall)
    return region.low, region.high


def _most_l1(gain: np.ndarray[Any, Any], room: np.ndarray[Any, Any], radius: float) -> float:
    """By linear programming."""
    if radius == inf:
        return float(gain @ room)
    solved = linprog(-gain, A_ub=np.ones((1, len(gain))), b_ub=[radius], bounds=list(zip(0 * room, room, strict=True)))
    return float(-solved.fun)


def _most_l2(gain: np.ndarray[Any, Any], room: np.ndarray[Any, Any], radius: float) -> float:
    """By bisection of the multiplier m, δ = min(gain / m, room), so that ‖δ‖₂ is the radius."""
    if np.linalg.norm(np.where(gain > 0, room, 0)) <= radius:
        return float(gain @ np.where(gain > 0, room, 0))
    low, high = 0.0, float(np.linalg.norm(gain)) / radius * 2
    for _ in range(200):
        m = (low + high) / 2
        if np.linalg.norm(np.minimum(gain / m, room)) > radius:
            low = m
        else:
            high = m
    return float(gain @ np.minimum(gain / high, room))


@every_seed
@every_p
def test_maximum_is_the_exact_one(p: float, seed: int) -> None:
    c = forms(seed)
    for name, region in bind_all(p, seed):
        found = region.support_function_(FAST.exact(c.clone()), FAST).mid
        assert found.shape == (BATCH, 2, 5)
        centre = torch.einsum("bkrij,cij->ckr", c, region.x)
        for i in range(BATCH):
            rows = c.reshape(-1, N).numpy()
            expected = torch.tensor([truth(region, row, i) for row in rows], dtype=torch.float64)
            assert found[i].flatten().tolist() == pytest.approx(
                (centre[i].flatten() + expected).tolist(), rel=1e-9, abs=1e-9
            ), name


@every_seed
@every_p
def test_maximum_holds_at_every_sampled_point(p: float, seed: int) -> None:
    c = forms(seed)
    for name, region in bind_all(p, seed):
        most = region.support_function_(FAST.exact(c.clone()), FAST).mid
        points = region.sample(200, generator(seed))
        reached = torch.einsum("bkrij,csij->cskr", c, points)
        slack = 1e-12 * torch.einsum("bkrij,csij->cskr", c.abs(), points.abs() + region.x.abs().unsqueeze(1))
        assert (reached <= most.unsqueeze(1) + slack).all(), name


def value_at(c: Exact, x: Exact) -> Fraction:
    return sum((a * b for a, b in zip(c, x, strict=True)), Fraction(0))


@every_p
def test_maximum_is_differentiable_in_the_coefficients(p: float) -> None:
    c = torch.randn(1, 2, 3, *SHAPE, dtype=torch.float64, generator=generator(0)).requires_grad_()
    for name, region in bind_all(p, 0):
        if name != "half-space":

            def most(c: Tensor, region: BoundRegion = region) -> Tensor:
                return region.support_function_(FAST.exact(c.clone()), FAST).mid

            assert torch.autograd.gradcheck(most, (c,), eps=1e-7, atol=1e-5, rtol=1e-5), name


@every_seed
@every_p
@pytest.mark.parametrize("kind", KINDS)
def test_rigorous_maxima_hold_in_exact_arithmetic(p: float, kind: str, seed: int) -> None:
    """float32 points that lie inside exactly against bounds with no tolerance; coefficients of all sizes."""
    c = numbers(kind, 3 * N, seed).reshape(1, 1, 3, *SHAPE)
    for name, region in bind_all(p, seed, torch.float32):
        most = region.support_function_(RIGOROUS.exact(c.clone()), RIGOROUS).upper()
        rows = [exact(row) for row in c[0, 0]]
        points = _extremes(region, c) if name != "half-space" else region.sample(3, generator(seed))
        for i in range(BATCH):
            for x in points[i]:
                found = [value_at(row, exact(x)) for row in rows]
                assert not misses(torch.full((3,), -inf), most[i, 0], found), name


def _extremes(region: BoundRegion, c: Tensor) -> Tensor:
    """Points inside where each form is large: far along its coefficients, projected; and samples."""
    signs = c[0, 0].sign().unsqueeze(0).expand(BATCH, -1, *SHAPE)
    direction = c[0, 0] / c[0, 0].abs().max().clamp(min=1e-38)
    far = region.x.unsqueeze(1) + torch.cat([10 * signs, direction.unsqueeze(0).expand_as(signs)], 1)
    return torch.cat([region.project(far), region.sample(3, generator(0))], 1)


@every_p
@pytest.mark.parametrize("clipped", [False, True], ids=["free", "clipped"])
def test_rigorous_maxima_are_at_least_the_exact_ones(p: float, clipped: bool) -> None:
    """Hundreds of terms, each lost when added to the first; a centre of 0 adds no error that could hide it."""
    n = 512
    lost = 2.0**-12.5 if p == 2 else 2.0**-25
    for row in (numbers("ordinary", n, 0), torch.full((n,), lost).index_fill(0, torch.tensor(0), 1.0)):
        ends = torch.full((n,), 1.0 if p == inf else 0.5)
        clip = (-ends, ends) if clipped else None
        region = LpBall(torch.zeros(1, n), 1 if p < inf else ends, p, clip=clip).bind((n,), torch.float32, CPU)
        bound = float(region.support_function_(RIGOROUS.exact(row.reshape(1, 1, 1, n)), RIGOROUS).upper())
        room = ends.tolist() if clipped or p == inf else [inf] * n
        least = _exactly(exact(row.abs()), room, Fraction(1), p)
        assert least <= bound <= least * (1 + Fraction(1, 1000))


@every_p
@pytest.mark.parametrize("n", [2, 64])
def test_rigorous_maxima_of_many_forms_are_at_least_those_in_float64(p: float, n: int) -> None:
    """One form in a thousand is rounded down by more than the last step alone would cover."""
    c = torch.randn(1, 1, 20_000, n, generator=generator(0))
    single, double = (LpBall(torch.zeros(1, n), 0.5625, p).bind((n,), t, CPU) for t in (torch.float32, torch.float64))
    most = single.support_function_(RIGOROUS.exact(c.clone()), RIGOROUS).upper().double()
    least = double.support_function_(FAST.exact(c.double()), FAST).mid
    assert (most >= least * (1 - 1e-13)).all()
    assert (most <= least * (1 + 1e-4)).all()


def _exactly(gain: Exact, room: list[float], radius: Fraction, p: float) -> Fraction:
    """max Σ gain δ, 0 <= δ <= room, ‖δ‖_p <= radius; for p = 2 a little less, the value at a point inside."""
    caps = [radius if r == inf else min(Fraction(r), radius) for r in room]
    if p == inf:
        return value_at(gain, caps)
    if p == 1:
        left, total = radius, Fraction(0)
        for best, cap in sorted(zip(gain, caps, strict=True), reverse=True):
            total, left = total + best * min(cap, left), left - min(cap, left)
        return total
    low, high = Fraction(0), Fraction(sum(gain)) / radius
    for _ in range(60):  # at `high` the point lies inside
        m = Fraction(float((low + high) / 2))
        moves = [min(g / m, cap) for g, cap in zip(gain, caps, strict=True)]
        low, high = (m, high) if sum(d * d for d in moves) > radius * radius else (low, m)
    return value_at(gain, [min(g / high, cap) for g, cap in zip(gain, caps, strict=True)])


@every_seed
@every_p
def test_rigorous_maxima_cover_a_radius_of_the_coefficients(p: float, seed: int) -> None:
    mid = numbers("ordinary", 2 * N, seed).reshape(1, 1, 2, *SHAPE)
    rad = numbers("ordinary", 2 * N, seed + 9).abs().reshape(1, 1, 2, *SHAPE) / 4
    for name, region in bind_all(p, seed, torch.float32):
        most = region.support_function_(RIGOROUS.ball(mid.clone(), rad), RIGOROUS).upper()
        points = region.sample(8, generator(seed))
        for sample, bounds in zip(points, most[:, 0].tolist(), strict=True):
            for x in sample:
                for row, spread, bound in zip(mid[0, 0], rad[0, 0], bounds, strict=True):
                    worst = value_at(exact(row), exact(x)) + value_at(exact(spread), exact(x.abs()))
                    assert worst <= bound, name


@pytest.mark.parametrize("p", [1, 2, inf])
@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-19, 1e25])
def test_small_and_large_coefficients_neither_vanish_nor_explode(p: float, scale: float) -> None:
    """Squares of 1e-22 are 0 in float32: the bound of the clipped 2-norm ball was 0 (this was a bug)."""
    x = torch.full((1, 4), 0.5)
    region = LpBall(x, 0.25, p, clip=(0.4, 1)).bind((4,), torch.float32, CPU)
    c = torch.tensor([3.0, 2.0, -1.0, 0.5]) * scale
    most = region.support_function_(RIGOROUS.exact(c.reshape(1, 1, 1, 4)), RIGOROUS).upper()
    at_scale_1 = region.support_function_(RIGOROUS.exact((c / scale).reshape(1, 1, 1, 4)), RIGOROUS).upper()
    assert float(most) == pytest.approx(float(at_scale_1) * scale, rel=1e-5, abs=0)


@pytest.mark.parametrize("p", [1, 2, inf])
def test_a_product_that_underflows_is_not_zero(p: float) -> None:
    """c ε is 1e-60, which float32 rounds to 0 (this was a bug)."""
    for clip in (None, (-1, 1), (-1e-31, 1)):
        region = LpBall([0.0, 0.0], 1e-30, p, clip=clip).bind((2,), torch.float32, CPU)
        most = region.support_function_(RIGOROUS.exact(torch.full((1, 1, 1, 2), 1e-30)), RIGOROUS).upper()
        assert float(most) > 0


@every_p
def test_a_form_of_zeros_is_zero_even_over_the_whole_space(p: float) -> None:
    for radius in (0.0, 0.3, inf):
        region = LpBall(torch.ones(1, *SHAPE), radius, p).bind(SHAPE, torch.float32, CPU)
        for arithmetic in (FAST, RIGOROUS):
            most = region.support_function_(arithmetic.exact(torch.zeros(1, 1, 2, *SHAPE)), arithmetic).upper()
            assert most.tolist() == [[[0.0, 0.0]]]
            one = region.support_function_(arithmetic.exact(torch.ones(1, 1, 1, *SHAPE)), arithmetic).upper()
            assert float(one) >= N
            assert one.isinf().all() == (radius == inf)


@every_seed
@every_p
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_points_lie_inside_in_exact_arithmetic(p: float, seed: int, dtype: torch.dtype) -> None:
    """Far from 0 the points of a small ball lie on a coarse grid: rounding must not carry them out."""
    found = bind_all(p, seed, dtype)
    coarse = 1000 + torch.rand(BATCH, *SHAPE, dtype=torch.float64, generator=generator(seed))
    found += [("coarse", bind(LpBall(coarse, 1e-3, p), dtype)), ("tiny", bind(LpBall(coarse * 0, 1e-42, p), dtype))]
    for name, region in found:
        wild = 3 * torch.randn(BATCH, 20, *SHAPE, generator=generator(seed)).to(dtype)
        near = region.x.unsqueeze(1) + wild / 1000
        for points in (region.sample(30, generator(seed)), region.project(wild), region.project(near)):
            assert points.dtype == dtype
            assert not [p for i in range(BATCH) for p in points[i] if not inside(region, i, p)], name


def inside(region: BoundRegion, i: int, point: Tensor) -> bool:
    """Whether the point is in the region's sample i, in exact arithmetic."""
    low, high = (t[i].flatten().tolist() for t in _clip(region))
    x, y = exact(region.x[i]), exact(point)
    if not all(a <= v <= b for a, v, b in zip(low, y, high, strict=True)):
        return False
    moves = [abs(a - b) for a, b in zip(x, y, strict=True)]
    if isinstance(region, BoundBox):
        return all(m <= r for m, r in zip(moves, region.radius[i].flatten().tolist(), strict=True))
    assert isinstance(region, BoundBall)
    radius = float(region.radius[i])
    if radius == inf:
        return True
    return sum(m**region.p for m in moves) <= Fraction(radius) ** int(region.p)


@every_seed
@every_p
def test_projection_leaves_points_of_the_region_where_they_are(p: float, seed: int) -> None:
    for name, region in bind_all(p, seed):
        points = region.sample(40, generator(seed))
        torch.testing.assert_close(region.project(points), points, rtol=1e-14, atol=1e-14, msg=name)
        x = region.x.unsqueeze(1)
        assert torch.equal(region.project(x), x)
        inner = x + (points - x) / 2
        assert torch.equal(region.project(inner), inner), name


@every_seed
@every_p
def test_samples_reach_the_boundary(p: float, seed: int) -> None:
    region = bind(LpBall(torch.zeros(BATCH, *SHAPE), 0.5, p))
    points = region.sample(60, generator(seed))
    length = torch.linalg.vector_norm(points.flatten(2), p, dim=2)
    assert length.amax() == pytest.approx(0.5, rel=1e-12)
    assert (length < 0.45).any()
    unbounded = bind(LpBall(torch.zeros(BATCH, *SHAPE), inf, p))
    assert unbounded.unbounded.all()
    assert unbounded.sample(60, generator(seed)).abs().amax() > 100


@every_seed
@every_p
def test_box_and_splits_agree_with_the_region(p: float, seed: int) -> None:
    for name, region in bind_all(p, seed):
        box = region.box(RIGOROUS)
        basis = torch.eye(N, dtype=torch.float64).reshape(1, 1, N, *SHAPE)
        most = region.support_function_(FAST.exact(torch.cat([basis, -basis], 2)), FAST).mid[:, 0]
        torch.testing.assert_close(box.upper.flatten(1), most[:, :N], rtol=1e-12, atol=1e-12, msg=name)
        torch.testing.assert_close(box.lower.flatten(1), -most[:, N:], rtol=1e-12, atol=1e-12, msg=name)
        parts = region.split(3)
        assert [part.batch for part in parts] == [3, 1]
        assert torch.equal(torch.cat([part.box(FAST).upper for part in parts]), region.box(FAST).upper)


@every_seed
@every_p
def test_a_float32_network_gets_the_whole_float64_ball(p: float, seed: int) -> None:
    for (name, small), (_, large) in zip(bind_all(p, seed), bind_all(p, seed, torch.float32), strict=True):
        points = small.sample(30, generator(seed))
        assert not [x for i in range(BATCH) for x in points[i] if not inside(large, i, x)], name
        assert large.x.dtype == torch.float32
        finite = small.box(FAST).width.isfinite()
        widths = [(region.box(FAST).width.double())[finite] for region in (large, small)]
        torch.testing.assert_close(*widths, rtol=1e-5, atol=1e-5, msg=name)


@every_p
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_single_numbers_are_those_of_every_feature(p: float, dtype: torch.dtype) -> None:
    """Bit for bit, also where rounding to float32 moves the radius, the clip box and some of the centres."""
    x = torch.rand(BATCH, *SHAPE, dtype=torch.float64, generator=generator(0)) * 0.7 + 0.2
    x[0] = 0.5
    each = torch.full((BATCH, 1, 1), 0.1, dtype=torch.float64)
    ends = torch.full_like(x, 0.1), torch.full_like(x, 0.95)
    short, long = bind(LpBall(x, 0.1, p, clip=(0.1, 0.95)), dtype), bind(LpBall(x, each, p, clip=ends), dtype)
    assert isinstance(short, BoundBall | BoundBox)
    assert isinstance(long, BoundBall | BoundBox)
    for name in ("x", "radius", "low", "high"):
        assert torch.equal(getattr(short, name), getattr(long, name)), name
    assert float(short.low.max()) <= 0.1
    assert float(short.high.min()) >= 0.95
    assert float(short.radius.min()) >= 0.1


def test_a_python_radius_is_not_rounded_through_float32() -> None:
    """torch.tensor(0.1) is a float32 number above 0.1 (this was a bug); 0.3 would become too small."""
    for number in (0.1, 0.3):
        for radius in (number, [number], np.float64(number)):
            region = LpBall([1.0, 2.0], radius).bind((2,), torch.float64, CPU)
            assert isinstance(region, BoundBox)
            assert region.radius.unique().tolist() == [number]
        assert LpBall([number], 1).bind((1,), torch.float64, CPU).x.item() == number
        assert Box([-number], [number]).bind((1,), torch.float64, CPU).box(FAST).upper.item() == number
    clipped = LpBall([0.1], 1, clip=(0.1, 0.3)).bind((1,), torch.float64, CPU).box(FAST)
    assert (clipped.lower.item(), clipped.upper.item()) == (0.1, 0.3)


def test_the_middle_of_a_box_lies_in_it() -> None:
    """Half a subnormal number rounds to 0 (this was a bug)."""
    for low, high in (
        (5e-324, 5e-324),
        (-5e-324, -5e-324),
        (1.0, 1.0),
        (-inf, 3.0),
        (2.0, inf),
        (-inf, inf),
        (1e308, 1e308),
    ):
        region = Box([low], [high]).bind((1,), torch.float64, CPU)
        assert low <= region.x.item() <= high
    assert sqrt(2) == Box([sqrt(2)], [sqrt(2)]).bind((1,), torch.float64, CPU).x.item()


def test_inputs_may_be_flat_single_or_batched() -> None:
    x = torch.rand(BATCH, *SHAPE)
    for given in (x, x.flatten(1), x.numpy(), x.tolist()):
        assert torch.equal(LpBall(given, 0.1, clip=(0, 1)).bind(SHAPE, torch.float32, CPU).x, x)
    for given in (x[0], x[0].flatten()):
        clip = (given - 0.5, given + 0.25)
        region = LpBall(given, 0.5, clip=clip).bind(SHAPE, torch.float32, CPU)
        assert torch.equal(region.x, x[:1])
        torch.testing.assert_close(region.box(FAST).upper, x[:1] + 0.25)
    with pytest.raises(InvalidRegion, match=r"shape \(4, 5\), but the network takes inputs of shape \(2, 3\)"):
        LpBall(torch.rand(4, 5), 0.1).bind(SHAPE, torch.float32, CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_beyond_a_ball_by_a_rounding_are_not_in_it(dtype: torch.dtype) -> None:
    """The ends of a box around an l∞ ball are rounded outwards; parts of it have points there."""
    g = torch.Generator().manual_seed(0)
    x, radius = 3 * torch.randn(1, 50, generator=g, dtype=torch.float64), 0.1
    ball = LpBall(x, radius)
    for sign in (1, -1):
        for steps in range(-3, 4):
            points = (x + sign * radius).to(dtype)
            for _ in range(abs(steps)):
                points = torch.nextafter(points, torch.full_like(points, sign * steps * inf))
            for point, centre in zip(points[0].tolist(), x[0].tolist(), strict=True):
                inside = abs(Fraction(point) - Fraction(centre)) <= Fraction(radius)
                one = torch.tensor([[[point]]], dtype=dtype)
                assert bool(LpBall(torch.tensor([[centre]], dtype=torch.float64), radius).holds(one)) == inside
    projected = ball.bind((50,), dtype, CPU).project(ball.x.to(dtype).unsqueeze(1) + 1)
    assert dtype == torch.float32 or bool(ball.holds(projected).all())

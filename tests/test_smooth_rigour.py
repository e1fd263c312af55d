"""Ranges, lines, secants of smooth activations and bounds of their networks hold in Arb, without any tolerance."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from math import inf

import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac.activations import (
    GELU,
    Arctan,
    Derivative,
    Erf,
    Mish,
    Sigmoid,
    SiLU,
    Sin,
    SoftmaxRows,
    Softplus,
    Tanh,
    curvature_lines,
)
from recurjac.activations import FlooredPower as Floored
from recurjac.activations.derivative import Derivative as DerivativeOf
from recurjac.activations.derivative import slope_lines as lines_of_slope
from recurjac.activations.proofs import AbstractFacts, intercepts, intercepts_of_sigmoid
from recurjac.activations.sigmoidal import AbstractSigmoidal
from recurjac.activations.smooth import AbstractSmooth
from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.jacobian.x_linear_search import mixed_intercept
from recurjac.network import chain
from tests import arb
from tests.helpers import CPU, concrete_classes, examples
from tests.powers import power as half_power

RIGOROUS = rj.Rigorous()
DTYPES = (torch.float64, torch.float32)
POSITIVE = ("log", "power", "reciprocal")
"""Activations that are tested on positive intervals."""
EVERY = examples(AbstractSmooth)
ALL: list[AbstractSmooth] = [e for cls in concrete_classes(AbstractSmooth) for e in cls.examples()]
every_activation = pytest.mark.parametrize("activation", EVERY)
SIGMOIDS = [a for a in ALL if isinstance(a, AbstractSigmoidal)]
every_sigmoid = pytest.mark.parametrize("activation", SIGMOIDS, ids=lambda a: a.name)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])


Prover = Callable[[AbstractFacts, Interval, tuple[Tensor, Tensor], tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]
"""Intercepts of lines below and above, from their slopes and a point for each."""


def intervals(activation: AbstractSmooth, dtype: torch.dtype, seed: int = 0) -> Interval:
    """(1, n): ordinary, tiny, wide, far, at turning points, single points."""
    g = torch.Generator().manual_seed(seed)
    a = 6 * torch.rand(8, generator=g, dtype=torch.float64) - 3
    turns = torch.cat(
        [
            activation.slope_turns(*ends).flatten()
            for ends in [(torch.tensor([-9.0]).double(), torch.tensor([9.0]).double())]
        ]
        + [
            activation.value_turns(*ends).flatten()
            for ends in [(torch.tensor([-9.0]).double(), torch.tensor([9.0]).double())]
        ]
    )
    turns = turns[turns.abs() < 9][:6]
    width = 10 ** (4 * torch.rand(8, generator=g, dtype=torch.float64) - 3)
    low = [a, a, -width, turns - 1e-9, turns, turns - 0.3, torch.tensor([-40.0, 8.0, -25.0, -300.0, 5.0, 0.0, -1e-9])]
    high = [
        a + width,
        a,
        width,
        turns + 1e-9,
        turns + 1,
        turns,
        torch.tensor([-30.0, 60.0, 25.0, 200.0, 5.0, 1e-3, 1.0]),
    ]
    ends = [torch.cat([t.double() for t in e]).to(dtype).unsqueeze(0) for e in (low, high)]
    if getattr(activation, "activation", activation).name in POSITIVE:
        ends = [e.abs() + 1e-3 for e in ends]
    if getattr(activation, "activation", activation).name in ("exp", "integer_power"):
        ends = [e.clamp(-50, 50) for e in ends]
    return Interval(torch.minimum(*ends), torch.maximum(*ends))


def points_of(activation: AbstractSmooth, z: Interval) -> Tensor:
    """Numbers of each interval, (m, n), where little is to spare: ends, the middle, turning points, and beside them."""
    g = torch.Generator().manual_seed(1)
    low, high = z.lower[0], z.upper[0]
    inner = low + torch.rand(3, len(low), generator=g, dtype=torch.float64).to(low.dtype) * (high - low)
    found = torch.cat(
        [
            torch.stack([low, high, low / 2 + high / 2]),
            inner,
            activation.slope_turns(low, high),
            activation.value_turns(low, high),
        ]
    )
    up, down = (torch.nextafter(found, torch.full_like(found, e)) for e in (inf, -inf))
    return torch.minimum(torch.maximum(torch.cat([found, up[2:], down[2:]]), low), high)


def violations(activation: AbstractSmooth, z: Interval, arithmetic: AbstractArithmetic) -> list[str]:
    """What is wrong at some point of an interval."""
    dtype, wrong = z.lower.dtype, []
    ranges = [activation.value_range(z, arithmetic), activation.slope_range(z, arithmetic)]
    bends = activation.curvature_range(z, arithmetic) if not isinstance(activation, Derivative) else None
    ranges += [] if bends is None else [bends]
    lines = [(choice.__name__, choice(z, arithmetic)) for choice in (activation.lines, activation.parallel_lines)]
    columns = [
        (name, [t.flatten().tolist() for t in (li.lower_slope, li.lower_intercept, li.upper_slope, li.upper_intercept)])
        for name, li in lines
    ]
    hulls = [(r.lower.flatten().tolist(), r.upper.flatten().tolist()) for r in ranges]
    for point in points_of(activation, z).tolist():
        for i, v in enumerate(point):
            for true in arb.derivatives(activation, v, dtype):
                for order, (low, high) in enumerate(hulls):
                    if arb.outside(low[i], true[order], high[i]):
                        wrong.append(f"order {order} at {v} of [{z.lower[0, i]}, {z.upper[0, i]}]: {true[order]}")
                for name, (a, b, c, d) in columns:
                    below = arb.number(a[i]) * arb.number(v)
                    above = arb.number(c[i]) * arb.number(v)
                    if arb.outside(b[i], true[0] - below, inf) or arb.outside(-inf, true[0] - above, d[i]):
                        wrong.append(f"{name} at {v} of [{z.lower[0, i]}, {z.upper[0, i]}]")
    return wrong


def few(activation: AbstractSmooth, dtype: torch.dtype) -> Interval:
    """Some of the intervals, other ones for each dtype."""
    first = 0 if dtype == torch.float64 else 2
    return intervals(activation, dtype).map(lambda t: t[:, first::7])


@every_dtype
@every_activation
def test_ranges_and_lines_hold(activation: AbstractSmooth, dtype: torch.dtype) -> None:
    activation = activation.to(dtype, CPU)
    assert activation.rigorous
    assert violations(activation, few(activation, dtype), RIGOROUS) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@every_dtype
@every_activation
def test_ranges_and_lines_hold_on_more_intervals(activation: AbstractSmooth, dtype: torch.dtype, seed: int) -> None:
    assert violations(activation.to(dtype, CPU), intervals(activation, dtype, seed), RIGOROUS) == []


def test_plain_arithmetic_is_not_enough() -> None:
    """The tests above can fail."""
    every = ALL[::3]
    wrong = [a for a in every if violations(a, few(a, torch.float64), rj.Fast())]
    assert len(wrong) > len(every) * 2 // 3


def wrong_lines(activation: AbstractSmooth, z: Interval, prove: Prover) -> list[tuple[float, float, int]]:
    """Where lines fail whose slopes fit badly, from points of z far from where such lines touch."""
    core, dtype, wrong = activation.core(z), z.lower.dtype, []
    whole = ((core.lower == z.lower) & (core.upper == z.upper))[0].tolist()
    g, slopes = torch.Generator().manual_seed(2), activation.slope_range(core, RIGOROUS)
    for share in (-0.3, 0.4, 1.2):
        slope = slopes.lower + share * (slopes.upper - slopes.lower)
        at = z.lower + torch.rand(z.shape, generator=g, dtype=torch.float64).to(dtype) * (z.upper - z.lower)
        at = torch.minimum(torch.maximum(at, z.lower), z.upper)
        bottom, top = prove(activation, core, (slope, at), (slope, at))
        points = torch.cat([points_of(activation, z), *(z.lower + k / 8 * (z.upper - z.lower) for k in range(1, 8))])
        for point in torch.minimum(torch.maximum(points, z.lower), z.upper).tolist():
            for i, v in enumerate(point):
                if whole[i] and bool(slope[0, i].isfinite()):
                    true = arb.derivatives(activation, v, dtype)[0][0]
                    gap = true - arb.number(float(slope[0, i])) * arb.number(v)
                    if arb.outside(float(bottom[0, i]), gap, float(top[0, i])):
                        wrong.append((share, v, i))
    return wrong


def from_any_points(
    facts: AbstractFacts, z: Interval, lower: tuple[Tensor, Tensor], upper: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """`intercepts` with one point for each line."""
    return intercepts(facts, z, (lower[0], lower[1].unsqueeze(0)), (upper[0], upper[1].unsqueeze(0)))


@every_dtype
@every_activation
def test_lines_of_any_slope_hold(activation: AbstractSmooth, dtype: torch.dtype) -> None:
    """Nothing depends on a search."""
    activation = activation.to(dtype, CPU)
    assert wrong_lines(activation, few(activation, dtype), from_any_points) == []


@every_dtype
@every_sigmoid
def test_lines_of_sigmoids_of_any_slope_hold(activation: AbstractSigmoidal, dtype: torch.dtype) -> None:
    """From points on either side of 0 and outside the interval; and they are as tight as those of any activation."""
    z, g = intervals(activation, dtype), torch.Generator().manual_seed(4)
    assert wrong_lines(activation, z, intercepts_of_sigmoid) == []
    moved = z.map(lambda t: t + torch.randn(t.shape, generator=g, dtype=torch.float64).to(dtype))
    core = activation.core(z)

    def moved_points(
        facts: AbstractFacts, z: Interval, lower: tuple[Tensor, Tensor], upper: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        return intercepts_of_sigmoid(facts, z, (lower[0], moved.lower), (upper[0], moved.upper))

    assert wrong_lines(activation, z, moved_points) == []
    lines = activation.lines(z, RIGOROUS)
    slopes, eps = (lines.lower_slope[:, 0], lines.upper_slope[:, 0]), 16 * torch.finfo(dtype).eps
    points = torch.cat([z.lower + k / 64 * (z.upper - z.lower) for k in range(65)]).unsqueeze(1)
    generic = intercepts(activation, core, (slopes[0], points), (slopes[1], points))
    room = eps * (1 + slopes[0].abs().maximum(slopes[1].abs()) * core.magnitude)
    whole = (core.lower == z.lower) & (core.upper == z.upper)
    assert bool((lines.lower_intercept[:, 0] >= generic[0] - room)[whole].all())
    assert bool((lines.upper_intercept[:, 0] <= generic[1] + room)[whole].all())


def wrong_secants(activation: AbstractSmooth, z: Interval, share: float) -> list[tuple[float, float]]:
    """Secants from a point with this share of the interval before it that are outside their range."""
    dtype, wrong = z.lower.dtype, []
    c = torch.minimum(z.lower + share * (z.upper - z.lower), z.upper)
    found = activation.secant_range(z, Interval.point(c), RIGOROUS)
    lower, upper = found.lower[0].tolist(), found.upper[0].tolist()
    starts = [arb.derivatives(activation, v, dtype)[0][0] for v in c[0].tolist()]
    for point in points_of(activation, z).tolist():
        for i, v in enumerate(point):
            run = arb.number(v) - arb.number(float(c[0, i]))
            rise = arb.derivatives(activation, v, dtype)[0][0] - starts[i]
            if run != 0 and arb.outside(lower[i], rise / run, upper[i]):
                wrong.append((v, float(c[0, i])))
    return wrong


@every_activation
def test_secants_hold(activation: AbstractSmooth) -> None:
    assert wrong_secants(activation, few(activation, torch.float64), 0.3) == []


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
@every_dtype
@every_activation
def test_secants_hold_on_more_intervals(activation: AbstractSmooth, dtype: torch.dtype, share: float) -> None:
    assert wrong_secants(activation.to(dtype, CPU), intervals(activation, dtype, 1), share) == []


@pytest.mark.parametrize("activation", [e for e in EVERY if not isinstance(e.values[0], Derivative)])
def test_lines_of_curvatures_hold(activation: AbstractSmooth) -> None:
    z = few(activation, torch.float64)
    if activation.curvature_range(z, RIGOROUS) is None:
        return
    found = curvature_lines(activation, z, RIGOROUS)
    sides = (found.lower_slope, found.lower_intercept, found.upper_slope, found.upper_intercept)
    a, b, c, d = (t.flatten().tolist() for t in sides)
    for point in points_of(activation, z).tolist():
        for i, v in enumerate(point):
            for true in arb.derivatives(activation, v, torch.float64):
                at = arb.number(v)
                assert not arb.outside(b[i], true[2] - arb.number(a[i]) * at, inf)
                assert not arb.outside(-inf, true[2] - arb.number(c[i]) * at, d[i])


def test_every_class_has_its_truth() -> None:
    """A new activation is tested here once `tests/arb.py` has its truth."""
    assert all(arb.known(activation) for activation in ALL)


def test_products_of_softmax_hold() -> None:
    """At corners and at random points of boxes, also far apart."""
    g = torch.Generator().manual_seed(0)
    for dtype in DTYPES:
        centre = torch.randn(1, 12, 4, generator=g, dtype=torch.float64) * 10.0 ** torch.linspace(-1, 1.5, 12)[:, None]
        half = torch.rand(1, 12, 4, generator=g, dtype=torch.float64) * 10.0 ** torch.linspace(-6, 1, 12)[:, None]
        z = Interval((centre - half).to(dtype), (centre + half).to(dtype))
        values, slopes = SoftmaxRows().value_range(z, RIGOROUS), SoftmaxRows().slope_range(z, RIGOROUS)
        for _ in range(12):
            share = torch.rand(z.shape, generator=g, dtype=torch.float64).round().to(dtype)
            for k, row in enumerate(torch.where(share > 0, z.upper, z.lower)[0].tolist()):
                powers = [arb.number(v).exp() for v in row]
                p = [e / sum(powers[1:], start=powers[0]) for e in powers]
                for i in range(4):
                    assert not arb.outside(float(values.lower[0, k, i]), p[i], float(values.upper[0, k, i]))
                    for j in range(4):
                        true = p[i] * (1 - p[j]) if i == j else -p[i] * p[j]
                        ends = slopes.lower[0, k, i, j], slopes.upper[0, k, i, j]
                        assert not arb.outside(float(ends[0]), true, float(ends[1]))


def test_mixtures_of_lines_hold() -> None:
    """Where all lines meet at one point of a constant function, no mixture may lie below it."""
    g = torch.Generator().manual_seed(0)
    point = torch.randn(1, 1, 200, generator=g)
    weights = torch.randn(3, 1, 1, 200, generator=g).softmax(0)
    slopes = [torch.randn(1, 1, 200, generator=g) for _ in range(3)]
    exact = [s.double() * point.double() for s in slopes]  # products of float32 numbers are exact in float64
    intercepts = [torch.nextafter((-t).float(), torch.tensor(inf)) for t in exact]
    slope = (weights * torch.stack(slopes)).sum(0)
    found = mixed_intercept(weights, slopes, intercepts, slope, Interval(point[0] - 1, point[0] + 1))
    assert bool((slope.double() * point.double() + found.double() >= 0).all())
    plain = (weights * torch.stack([(-t).float() for t in exact])).sum(0)
    assert bool((slope.double() * point.double() + plain.double() < 0).any())


SMOOTH = (Tanh(), Sigmoid(), GELU(), SiLU(), Softplus(), Sin(), Arctan(), Erf(), Mish())


def network(activation: AbstractSmooth, sizes: list[int], dtype: torch.dtype, seed: int) -> rj.Network:
    g = torch.Generator().manual_seed(seed)
    weights = [
        (
            (2 * torch.randn(n, m, generator=g, dtype=torch.float64) / m**0.5).to(dtype),
            torch.randn(n, generator=g, dtype=torch.float64).to(dtype),
        )
        for m, n in pairwise(sizes)
    ]
    return chain(weights, [activation] * (len(weights) - 1))


def missed(net: rj.Network, x: Tensor, radius: float, arithmetic: AbstractArithmetic | None) -> int:
    """How many entries of Jacobians at points of a box are not inside its bounds."""
    bounds = rj.jacobian_bounds(net, rj.LpBall(x, radius), arithmetic=arithmetic)
    assert bounds.rigorous == (arithmetic is None)
    lower, upper = bounds.lower[0].tolist(), bounds.upper[0].tolist()
    step = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).sign().to(x.dtype)
    wrong = 0
    for at in (x, x + radius * 0.99 * step, x - radius * 0.99 * step):
        _, true = arb.jacobian(net, at)
        for low, row, high in zip(lower, true, upper, strict=True):
            wrong += sum(arb.outside(a, t, b) for a, t, b in zip(low, row, high, strict=True))
    return wrong


@every_dtype
@pytest.mark.parametrize("activation", SMOOTH, ids=repr)
def test_jacobians_of_networks_are_inside(activation: AbstractSmooth, dtype: torch.dtype) -> None:
    plain = 0
    for seed in range(2):
        net = network(activation, [3, 5, 4, 2], dtype, seed)
        x = torch.randn(1, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
        for radius in (0.0, 0.05):
            assert missed(net, x, radius, None) == 0
        plain += missed(net, x, 0.0, rj.Fast())
    assert plain > 0


def test_a_slope_that_jumps_has_no_curvature_lines() -> None:
    """At its floor, a power has no second derivative: lines of its slope are constants that hold on both sides."""
    activation = Floored(0.5, 0.1)
    assert not DerivativeOf.known_for(activation, torch.zeros(1, dtype=torch.float64))
    z = Interval(torch.full((1, 1), 0.1, dtype=torch.float64), torch.full((1, 1), 2.1, dtype=torch.float64))
    lines = lines_of_slope(activation, z, 0.5, rj.Rigorous())
    assert float(lines.lower_slope[0, 0] * 0.1 + lines.lower_intercept[0, 0]) <= 0


@pytest.mark.parametrize(("exponent", "least"), [(-3.5, 0.8211323296839866), (-1.5, 0.25252894653233965)])
def test_a_limit_that_takes_several_operations_is_enclosed(exponent: float, least: float) -> None:
    """The value below the floor, which a power of six roundings gives."""
    z = Interval(torch.tensor([[-torch.inf]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64))
    found = Floored(exponent, least).value_range(z, rj.Rigorous())
    low, high = half_power(Fraction(least), exponent)
    assert Fraction(float(found.lower)) <= low
    assert high <= Fraction(float(found.upper))


@pytest.mark.parametrize("activation", [Tanh(), Arctan(), Erf(), Sin()], ids=lambda a: a.name)
def test_proved_lines_of_odd_functions_are_mirrored(activation: AbstractSmooth) -> None:
    """Both sides are proved in one evaluation, with slopes and points of their own; so neither may take the other's."""
    z = activation.core(intervals(activation, torch.float64))
    mirrored = Interval(-z.upper, -z.lower)
    g = torch.Generator().manual_seed(3)
    lower, upper = (torch.rand(z.shape, generator=g, dtype=torch.float64) for _ in range(2))
    points = [(z.lower + share * (z.upper - z.lower)).unsqueeze(0) for share in (0.3, 0.6)]
    below, above = intercepts(activation, z, (lower, points[0]), (upper, points[1]))
    other_below, other_above = intercepts(activation, mirrored, (upper, -points[1]), (lower, -points[0]))
    assert not torch.equal(below, -above)
    torch.testing.assert_close(other_below, -above, rtol=1e-14, atol=1e-300)
    torch.testing.assert_close(other_above, -below, rtol=1e-14, atol=1e-300)


@every_dtype
@every_activation
def test_values_and_slopes_are_the_same_together(activation: AbstractSmooth, dtype: torch.dtype) -> None:
    """Their common parts are evaluated once."""
    z = intervals(activation, dtype)
    for points in (z.lower, torch.cat([z.upper, torch.full_like(z.upper[:, :1], inf)], 1)):
        values, slopes = activation.proved_values_and_slopes(points)
        apart = (activation.proved_values(points), *activation.proved_slopes(points))
        for one, other in zip((values, *slopes), apart, strict=True):
            torch.testing.assert_close(one.lower, other.lower, rtol=0, atol=0, equal_nan=True)
            torch.testing.assert_close(one.upper, other.upper, rtol=0, atol=0, equal_nan=True)

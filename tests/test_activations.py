"""Slopes, ranges and lines of every activation hold at dense samples, and are tight where they should be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from itertools import pairwise
from math import inf

import pytest
import torch
from torch import Tensor

from recurjac.activations import (
    AbstractActivation,
    GELUTanh,
    HardSwish,
    HardTanh,
    LeakyReLU,
    PReLU,
)
from recurjac.activations.clamp import AbstractClamp
from recurjac.activations.convex import AbstractConcave, AbstractConvex
from recurjac.activations.curved import AbstractCurved
from recurjac.activations.domain import AbstractPositive, Reciprocal
from recurjac.activations.elu import AbstractELU
from recurjac.activations.periodic import AbstractPeriodic
from recurjac.activations.sigmoidal import AbstractSigmoidal
from recurjac.activations.smooth import AbstractSmooth
from recurjac.activations.two_piece import AbstractTwoPiece
from recurjac.arithmetic import AbstractArithmetic, Fast, Interval, Rigorous
from recurjac.relaxations import LinearRelaxation
from tests.exact import pieces
from tests.helpers import CPU, KINDS, examples, numbers

FAST, RIGOROUS = Fast(), Rigorous()
ULPS = 8
"""How many units in the last place of the numbers that meet in a smooth activation's line it may be off by."""
KINKS = (-6.0, -3.0, -1.0, 0.0, 1.0, 3.0, 6.0)
"""Points at which one activation or another may have a kink."""
BETWEEN = (0.1 + 5e-10,)
"""Points between kinks that lie close together."""
COUNT, FEW = 24, 8

Choose = Callable[[AbstractActivation, Interval, AbstractArithmetic], LinearRelaxation]
CHOICES: dict[str, Choose] = {
    "lines": lambda a, z, arithmetic: a.lines(z, arithmetic),
    "parallel": lambda a, z, arithmetic: a.parallel_lines(z, arithmetic),
}


def _ends(name: str) -> tuple[Tensor, Tensor]:
    """The ends of COUNT intervals in float64."""
    g = torch.Generator().manual_seed(sum(map(ord, name)))

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(COUNT, dtype=torch.float64, generator=g)

    def spread(low: float, high: float) -> Tensor:
        return 10 ** uniform(low, high)

    a, b, sign = uniform(-4, 4), uniform(0.1, 5), uniform(-1, 1).sign()
    zero, infinite, odd = torch.zeros(COUNT, dtype=torch.float64), torch.full_like(a, inf), torch.arange(COUNT) % 2 == 1
    families = {
        "ordinary": (a, a + b),
        "tight": (a, a + 1e-12),
        "tight-at-0": (-spread(-12, -9), spread(-12, -9)),
        "narrow": (a, a + spread(-8, -2)),
        "wide": (-spread(0, 4), spread(0, 4)),
        "far": (torch.where(odd, spread(1, 4), -2 * spread(4, 4)), torch.where(odd, 2 * spread(4, 4), -spread(1, 4))),
        "point": (a, a),
        "point-0": (zero, zero),
        "from-0": (zero, spread(-10, 4)),
        "to-0": (-spread(-10, 4), zero),
        "symmetric": (-b, b),
        "across-0": (-uniform(0.1, 4), uniform(0.1, 4)),
        "half-infinite": (torch.where(odd, -infinite, a), torch.where(odd, a, infinite)),
        "infinite": (-infinite, infinite),
        "beyond-far": (-spread(12, 37), torch.where(sign > 0, spread(12, 37), 1.0)),
    }
    return families[name]


FAMILIES = [
    *("ordinary", "tight", "tight-at-0", "narrow", "wide", "far", "point", "point-0", "from-0", "to-0"),
    *("symmetric", "across-0", "half-infinite", "infinite", "beyond-far"),
]
DTYPES = (torch.float32, torch.float64)
CASES = [(family, dtype) for family in FAMILIES for dtype in DTYPES]

every_activation = pytest.mark.parametrize("activation", examples(AbstractActivation))
every_choice = pytest.mark.parametrize("choice", CHOICES)


def intervals(family: str, dtype: torch.dtype = torch.float64) -> Interval:
    """(1, COUNT) intervals."""
    low, high = (end.to(dtype).unsqueeze(0) for end in _ends(family))
    return Interval(low, high)


def inside(activation: AbstractActivation, z: Interval) -> Interval:
    """The intervals, moved to the right until they lie in the domain if the activation is not finite everywhere."""
    if not isinstance(activation, AbstractPositive | Reciprocal):
        return z
    by = (0.5 - z.lower).clamp(min=0)
    return z.map(lambda end: end + by)


def few(family: str, dtype: torch.dtype = torch.float64) -> Interval:
    return intervals(family, dtype).map(lambda t: t[:, :FEW])


def samples(z: Interval) -> Tensor:
    """Points of each interval in float64, (S, 1, COUNT): evenly spread, dense near both ends and near 0, far out."""
    low, high = z.lower.double().clamp(min=-1e6), z.upper.double().clamp(max=1e6)
    low, high = low.clamp(max=z.upper.double()), high.clamp(min=z.lower.double())
    even = torch.linspace(0, 1, 401, dtype=torch.float64)
    close = 10 ** torch.linspace(-14, 0, 60, dtype=torch.float64)
    shares = torch.cat([even, close, 1 - close]).reshape(-1, 1, 1)
    near = torch.cat([-close, close, torch.zeros(1, dtype=torch.float64)]).reshape(-1, 1, 1) * 10
    points = torch.cat([low + shares * (high - low), near.expand(-1, *low.shape)])
    return points.clamp(z.lower.double(), z.upper.double())


def truth(activation: AbstractActivation, z: Tensor, dtype: torch.dtype) -> Tensor:
    """σ(z) in float64, of the activation that a network of `dtype` has."""
    if isinstance(activation, AbstractTwoPiece):
        slope = activation.to(dtype, CPU).slope_below(torch.zeros((), dtype=dtype)).double()
        return torch.where(z >= 0, z, slope * z)
    if isinstance(activation, AbstractClamp):
        low, high = torch.tensor(activation.kinks, dtype=dtype).double()
        return z.clamp(low, high)
    return activation.value(z)


def slopes(activation: AbstractActivation, z: Tensor, dtype: torch.dtype) -> Tensor:
    """σ'(z) in float64; autograd's rounding can be larger than that of a smooth activation's own formula."""
    if isinstance(activation, AbstractSmooth):
        return activation.slope(z)
    z = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(truth(activation, z, dtype).sum(), z)
    return slope


def swing(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """|z f'(z)|: an error of one unit in the last place of z changes f(z) by as many units as this."""
    z = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(z).sum() + 0 * z.sum(), z)
    return (z * slope).detach().abs()


def slack(dtype: torch.dtype, *terms: Tensor) -> Tensor:
    """A few units in the last place of the (finite) numbers that meet."""
    eps = torch.finfo(dtype).eps
    return sum((ULPS * eps * t.double().abs().nan_to_num(0, 0, 0) for t in terms), torch.tensor(eps**2))


def below(low: Tensor, high: Tensor, tolerance: Tensor | float) -> bool:
    return bool((low.double() <= high.double() + tolerance).all())


@pytest.mark.parametrize("activation", examples(AbstractSmooth))
def test_slopes_are_derivatives(activation: AbstractSmooth) -> None:
    for family in ("ordinary", "from-0", "to-0", "wide"):
        z = samples(inside(activation, intervals(family)))
        z = z.clamp(max=700).requires_grad_()  # what the exponential function can bear
        (derivative,) = torch.autograd.grad(activation.value(z).sum(), z)
        torch.testing.assert_close(activation.slope(z), derivative, rtol=1e-11, atol=1e-11)


@every_activation
def test_slope_range_holds_the_slopes(activation: AbstractActivation) -> None:
    for family, dtype in CASES:
        z = intervals(family, dtype)
        bounds = activation.to(dtype, CPU).slope_range(z, FAST)
        found = slopes(activation, samples(z), dtype)
        bend = swing(activation.slope, samples(z)) if isinstance(activation, AbstractSmooth) else torch.zeros(())
        tolerance = slack(torch.float64 if activation.piecewise_linear else dtype, found, torch.ones(()), bend)
        assert below(bounds.lower, found, tolerance), (family, dtype)
        assert below(found, bounds.upper, tolerance), (family, dtype)


@every_activation
def test_slope_range_holds_both_slopes_at_a_kink(activation: AbstractActivation) -> None:
    """Also where the kink is an end of the interval: Clarke's derivative there is an interval."""
    step = torch.tensor([-1e-6, 1e-6], dtype=torch.float64)
    for family, dtype in CASES:
        z = intervals(family, dtype)
        bounds = activation.to(dtype, CPU).slope_range(z, FAST)
        for kink in KINKS:
            at, inside = torch.tensor(kink, dtype=torch.float64), z.contains(torch.full_like(z.lower, kink))
            quotients = (truth(activation, at + step, dtype) - truth(activation, at, dtype)) / step
            for slope in quotients[quotients.isfinite()]:  # outside its domain, an activation has none
                assert below(bounds.lower[inside], slope, 1e-5), (family, dtype, kink)
                assert below(slope, bounds.upper[inside], 1e-5), (family, dtype, kink)


@pytest.mark.parametrize("family", ["ordinary", "symmetric", "wide"])
@every_activation
def test_ranges_are_tight(activation: AbstractActivation, family: str) -> None:
    z = inside(activation, intervals(family))
    near = torch.cat([torch.linspace(-8, 8, 8001, dtype=torch.float64), torch.tensor(BETWEEN, dtype=torch.float64)])
    points = torch.cat([samples(z), near.reshape(-1, 1, 1).expand(-1, 1, COUNT).clamp(z.lower, z.upper)])
    found, steep = activation.value(points), slopes(activation, points, torch.float64)
    for bounds, seen in ((activation.slope_range(z, FAST), steep), (activation.value_range(z, FAST), found)):
        torch.testing.assert_close(bounds.lower, seen.amin(0), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(bounds.upper, seen.amax(0), rtol=1e-3, atol=1e-3)


@every_activation
def test_value_range_holds_the_values(activation: AbstractActivation) -> None:
    for family, dtype in CASES:
        z = intervals(family, dtype)
        bounds = activation.to(dtype, CPU).value_range(z, FAST)
        found = truth(activation, samples(z), dtype)
        tolerance = slack(dtype, found, swing(activation.value, samples(z)))
        assert below(bounds.lower, found, tolerance), (family, dtype)
        assert below(found, bounds.upper, tolerance), (family, dtype)


@every_choice
@pytest.mark.parametrize("family", FAMILIES)
@every_activation
def test_lines_hold_at_samples(activation: AbstractActivation, family: str, choice: str) -> None:
    for dtype in DTYPES:
        z = intervals(family, dtype)
        lines, points = CHOICES[choice](activation.to(dtype, CPU), z, FAST), samples(z)
        found = truth(activation, points, dtype)
        sides = ((1, lines.upper_slope, lines.upper_intercept), (-1, lines.lower_slope, lines.lower_intercept))
        for sign, some_slope, some_intercept in sides:
            assert some_slope.shape == (1, 1, COUNT)
            assert some_slope.isfinite().all()
            slope, intercept = some_slope[:, 0].double(), some_intercept[:, 0].double()
            assert not (sign * intercept == -inf).any()
            reach = slope * torch.where(slope == 0, 0.0, z.magnitude.double())
            # the lower line of a sigmoid is 1 minus the upper one of the mirrored interval
            mirror = torch.tensor(1.0 if isinstance(activation, AbstractSigmoidal) else 0.0)
            tolerance = slack(dtype, found, mirror, intercept, reach, swing(activation.value, points))
            assert (sign * (slope * points + intercept) >= sign * found - tolerance).all(), (dtype, sign)
        assert below(found.abs(), lines.size[:, 0], slack(dtype, found, swing(activation.value, points))), dtype


def _half_planes(lines: LinearRelaxation) -> list[tuple[Fraction | float, ...]]:
    sides = (lines.lower_slope, lines.lower_intercept, lines.upper_slope, lines.upper_intercept, lines.size)
    columns = zip(*(t.flatten().tolist() for t in sides), strict=True)
    return [tuple(Fraction(v) if abs(v) < inf else v for v in column) for column in columns]


def _points(low: float, high: float, kinks: Sequence[Fraction]) -> list[Fraction]:
    """The ends and the kinks: a piecewise linear function with lines past it is extreme there."""
    ends = [Fraction(max(low, -1e40)), Fraction(min(high, 1e40))]
    return [v for v in (*ends, *kinks) if low <= v <= high]


def _violations(
    activation: AbstractActivation, z: Interval, lines: LinearRelaxation, values: Interval, slopes: Interval
) -> int:
    """How often lines, size, values and slopes fail in exact arithmetic."""
    functions = pieces(activation, z.lower)
    ranges = zip(values.lower[0].tolist(), values.upper[0].tolist(), strict=True)
    steep = zip(slopes.lower[0].tolist(), slopes.upper[0].tolist(), strict=True)
    ends = zip(z.lower[0].tolist(), z.upper[0].tolist(), strict=True)
    wrong = 0
    for function, (low, high), planes, hull, (least, most) in zip(
        functions, ends, _half_planes(lines), ranges, steep, strict=True
    ):
        a, b, c, d, size = planes
        for v in _points(low, high, function.kinks):
            w = function.value(v)
            wrong += not (a * v + b <= w <= c * v + d and abs(w) <= size and hull[0] <= w <= hull[1])
        wrong += not all(least <= m <= most for m in function.met(low, high))
    return wrong


def _steep(dtype: torch.dtype) -> list[AbstractTwoPiece]:
    """Slopes at which s + (1 - s) rounds to a number past 1 or s, or to 0."""
    found: list[AbstractTwoPiece] = [LeakyReLU(s) for s in (-100.3, 1e8, -1e8, 1e-8, 0.99999994, 1.0000001, -1 / 3)]
    return [*found, PReLU(numbers("ordinary", FEW, 0, dtype) * 100)]


PIECEWISE = [
    *examples(AbstractTwoPiece),
    *examples(AbstractClamp),
    *(pytest.param(a, id=f"steep-{i}") for i, a in enumerate(_steep(torch.float32))),
]


@every_choice
@pytest.mark.parametrize("activation", PIECEWISE)
def test_pieces_hold_in_exact_arithmetic(activation: AbstractActivation, choice: str) -> None:
    activation = activation.to(torch.float32, CPU)
    assert activation.rigorous
    for z in [few(f, torch.float32) for f in FAMILIES] + [_nasty(kind) for kind in KINDS]:
        lines = CHOICES[choice](activation, z, RIGOROUS)
        values, slope = activation.value_range(z, RIGOROUS), activation.slope_range(z, RIGOROUS)
        assert _violations(activation, z, lines, values, slope) == 0


def _nasty(kind: str) -> Interval:
    ends = numbers(kind, 2 * FEW, 0).reshape(2, 1, FEW).sort(0).values
    return Interval(ends[0], ends[1])


@pytest.mark.parametrize("activation", [LeakyReLU(0.3), HardTanh(-0.3, 2.1)], ids=repr)
def test_plain_arithmetic_is_not_enough_for_pieces(activation: AbstractActivation) -> None:
    """The test above could fail."""
    z = intervals("ordinary", torch.float32)
    lines = activation.lines(z, FAST)
    assert _violations(activation, z, lines, activation.value_range(z, FAST), activation.slope_range(z, FAST)) > 0


@pytest.mark.parametrize("arithmetic", [FAST, RIGOROUS], ids=["fast", "rigorous"])
def test_one_infinite_end_leaves_the_other_side_of_two_pieces_tight(arithmetic: AbstractArithmetic) -> None:
    z = Interval(torch.tensor([[-inf, -2.0]]), torch.tensor([[5.0, inf]]))
    values = LeakyReLU(0.5).value_range(z, arithmetic)
    torch.testing.assert_close(values.lower, torch.tensor([[-inf, -1.0]]))
    torch.testing.assert_close(values.upper, torch.tensor([[5.0, inf]]))
    lines = LeakyReLU(0.5).lines(z, arithmetic)
    torch.testing.assert_close(lines.upper_slope, torch.tensor([[[0.5, 1.0]]]))
    torch.testing.assert_close(lines.upper_intercept, torch.tensor([[[2.5, 1.0]]]))


def envelope(function: Callable[[Tensor], Tensor], z: Interval) -> Tensor:
    """The concave envelope of a function on each interval at its middle: the highest chord over it, by brute force."""
    share = torch.linspace(0, 0.5, 1000, dtype=torch.float64)
    highest = []
    for low, high in zip(z.lower.flatten(), z.upper.flatten(), strict=True):
        left, right = (low + share * (high - low)).unsqueeze(1), (high - share * (high - low)).unsqueeze(0)
        weight = ((low / 2 + high / 2 - left) / (right - left)).nan_to_num(0.5)  # both ends are the middle
        highest.append(torch.lerp(function(left), function(right), weight).max())
    return torch.stack(highest)


WITH_ENVELOPES = [
    p
    for base in (AbstractSigmoidal, AbstractConvex, AbstractConcave, AbstractCurved, AbstractClamp)
    for p in examples(base)
]


@pytest.mark.parametrize("family", ["ordinary", "across-0", "narrow"])
@pytest.mark.parametrize("activation", WITH_ENVELOPES)
def test_lines_meet_the_envelopes_at_the_middle(activation: AbstractActivation, family: str) -> None:
    """Brute force misses a kink by half a step: up to 5 / 2000 times the jump of the slope there."""
    z = inside(activation, few(family))
    kinked = isinstance(activation, AbstractClamp | HardSwish | AbstractELU)
    close = partial(torch.testing.assert_close, rtol=1e-6, atol=2e-3 if kinked else 1e-6)
    lines, middle = activation.lines(z, FAST), (z.lower / 2 + z.upper / 2)[0]
    upper, lower = envelope(activation.value, z), -envelope(lambda t: -activation.value(t), z)
    close((lines.upper_slope * middle + lines.upper_intercept).flatten(), upper)
    close((lines.lower_slope * middle + lines.lower_intercept).flatten(), lower)


@pytest.mark.parametrize("activation", examples(AbstractSmooth))
def test_between_turns_slopes_and_values_are_monotone(activation: AbstractSmooth) -> None:
    """So no turn is missing and none is in a wrong place."""
    low, high = torch.tensor([[-3.0], [-60.0]], dtype=torch.float64), torch.tensor([[3.2], [60.0]], dtype=torch.float64)
    if isinstance(activation, AbstractPeriodic):
        high = low + 12.5
    if isinstance(activation, AbstractPositive | Reciprocal):
        low = low.abs() / 10
    share = torch.linspace(1e-9, 1 - 1e-9, 20001, dtype=torch.float64).reshape(-1, 1, 1)
    for turns, function in ((activation.slope_turns, activation.slope), (activation.value_turns, activation.value)):
        cuts = torch.cat([low.unsqueeze(0), turns(low, high), high.unsqueeze(0)]).sort(0).values
        for left, right in pairwise(cuts):
            steps = function(torch.lerp(left, right, share)).diff(dim=0)
            tolerance = 1e-14 * (1 + function(right).abs())
            assert ((steps >= -tolerance).all(0) | (steps <= tolerance).all(0)).all(), (left, right)


@pytest.mark.parametrize("k", torch.linspace(0, 0.125, 12).tolist())
def test_every_gelu_tanh_has_its_shape(k: float) -> None:
    activation = GELUTanh(1.0, k)
    test_between_turns_slopes_and_values_are_monotone(activation)
    at = torch.tensor([activation.lowest, *activation.steepest], dtype=torch.float64, requires_grad=True)
    slope = activation.slope(at)
    (bend,) = torch.autograd.grad(slope.sum(), at)
    assert float(slope[0].detach().abs()) < 1e-14
    assert float(bend[1:].abs().max()) < 1e-14


def _four(activation: AbstractActivation, choice: str, z: Interval) -> list[Tensor]:
    found = CHOICES[choice](activation, z, FAST)
    return [found.lower_slope, found.lower_intercept, found.upper_slope, found.upper_intercept]


@every_choice
@pytest.mark.parametrize("family", ["ordinary", "across-0"])
@every_activation
def test_derivatives_are_difference_quotients(activation: AbstractActivation, family: str, choice: str) -> None:
    z, step = inside(activation, intervals(family)), 1e-6
    low, high = z.lower.clone().requires_grad_(), z.upper.clone().requires_grad_()
    sides = _four(activation, choice, Interval(low, high))
    for end, move in ((low, (step, 0.0)), (high, (0.0, step))):
        ahead, behind = (
            _four(activation, choice, Interval(z.lower + sign * move[0], z.upper + sign * move[1])) for sign in (1, -1)
        )
        for side, above, below in zip(sides, ahead, behind, strict=True):
            (gradient,) = torch.autograd.grad((side + 0 * end).sum(), end, retain_graph=True)
            quotient = (above - below).flatten() / (2 * step)
            torch.testing.assert_close(gradient.flatten(), quotient, rtol=1e-5, atol=1e-5)


@every_choice
@every_activation
def test_derivatives_of_lines_are_finite(activation: AbstractActivation, choice: str) -> None:
    """Also at infinite ends, where NaN would poison the derivatives of every parameter (this was a bug)."""
    for family in FAMILIES:
        z = intervals(family)
        low, high = z.lower.clone().requires_grad_(), z.upper.clone().requires_grad_()
        untouched = torch.where(torch.tensor(False), low + high, 0.0).sum()
        total = sum((t.clamp(-1e30, 1e30).sum() for t in _four(activation, choice, Interval(low, high))), untouched)
        for gradient in torch.autograd.grad(total, (low, high)):
            assert gradient.isfinite().all(), family


@every_activation
def test_what_is_not_a_number_has_any_slope(activation: AbstractActivation) -> None:
    """As where a network overflows: it is no error, and no end is one that a number's slope may be beyond."""
    z = torch.tensor([[[torch.nan, 0.3, -3.0, 7.0]]], dtype=torch.float64)
    for arithmetic in (FAST, RIGOROUS):
        found = activation.slope_range(Interval.unchecked(z, z), arithmetic)
        known = activation.slope_range(Interval(z[..., 1:], z[..., 1:]), arithmetic)
        least, most = (t.nan_to_num(0.0, inf, -inf) for t in (known.lower.amin(), known.upper.amax()))
        assert not bool(found.lower[..., 0] > least)
        assert not bool(found.upper[..., 0] < most)

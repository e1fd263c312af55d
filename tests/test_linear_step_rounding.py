"""What linear networks add for rounding, one term after the other, against fractions.

Regions are points, and most functions are known without a remainder there: what is left of a bound is rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import final

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac._types import Shape
from recurjac.activations import LeakyReLU
from recurjac.deadline import NEVER
from recurjac.jacobian.linear_steps import LinearSteps
from recurjac.jacobian.near_linear import Activated, Multiplied, Near, farthest, rows_times
from recurjac.jacobian.near_normalised import Upwards
from recurjac.jacobian.pushed_sizes import (
    AbstractLinearNetwork,
    AbstractLinearPart,
    Arrived,
    Place,
    PushedSizes,
    through,
)
from recurjac.jacobian.step_lengths import _Pass, lengths_by_steps
from recurjac.jacobian.steps import Steps
from recurjac.operators import Dense, Identity

DTYPE = torch.float64
LOST = 2.0**-54
"""Beside 1, floats lose it."""
MANY = 512
"""So many numbers are summed that those which are lost beside 1 are more than what other operations add."""


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=DTYPE)


def exact(tensor: Tensor) -> list[Fraction]:
    return [Fraction(t) for t in tensor.flatten().tolist()]


class Pushed(nn.Module):
    """x · b for the vectors x (1, …, 1) of one input and b: the derivative along x is the sum of b."""

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1] - 1
        return torch.matmul(x[:, :1].expand(-1, n).reshape(-1, 1, n), x[:, 1:].reshape(-1, n, 1)).reshape(-1, 1)


class Centred(nn.Module):
    """(a · b) c for vectors a and b: the derivative along c is a · b."""

    def forward(self, x: Tensor) -> Tensor:
        product = torch.matmul(x[:, :3].reshape(-1, 1, 3), x[:, 3:6].reshape(-1, 3, 1))
        return torch.matmul(product, x[:, 6:7].reshape(-1, 1, 1)).reshape(-1, 1)


class Multiplications(nn.Module):
    """(a b) c for numbers."""

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = (x[:, i : i + 1].reshape(-1, 1, 1) for i in range(3))
        return torch.matmul(torch.matmul(a, b), c).reshape(-1, 1)


class Added(nn.Module):
    """(a + b + c) d for numbers: the derivative along d is a + b + c."""

    def forward(self, x: Tensor) -> Tensor:
        total = (x[:, :1] + x[:, 1:2] + x[:, 2:3]).reshape(-1, 1, 1)
        return torch.matmul(total, x[:, 3:4].reshape(-1, 1, 1)).reshape(-1, 1)


CASES: dict[str, tuple[nn.Module, list[float], Fraction]] = {
    "pushes of a step": (Pushed(), [0.0, 1.0, LOST, -1.0], Fraction(LOST)),
    "centres of a step": (Centred(), [1.0, LOST, -1.0, 1.0, 1.0, 1.0, 0.0], Fraction(LOST)),
    "centres of a sum": (Added(), [1.0, LOST, -1.0, 0.0], Fraction(LOST)),
}


@pytest.mark.parametrize("case", CASES)
def test_steps_without_remainders_cover_their_rounding(case: str) -> None:
    """All derivatives but one are 0, which is what floats lose."""
    module, point, true = CASES[case]
    x = numbers(*point).unsqueeze(0)
    network = rj.load(module, torch.zeros_like(x), dtype=DTYPE)
    steps = Steps.of(network)
    assert steps is not None
    assert any(s.matrices is not None for s in steps.stages.values())
    rows = lengths_by_steps(rj.Problem(network, rj.Box(x, x)), NEVER)
    assert rows is not None
    assert true <= exact(rows)[0] < 100 * true


def test_what_values_of_a_step_differ_by_counts() -> None:
    """(a b) c over a, b in [-1, 1] at c = 0: the derivative along c is a b, and 0 by the linear map at 0."""
    ends = numbers(1.0, 1.0, 0.0).unsqueeze(0)
    network = rj.load(Multiplications(), torch.zeros_like(ends), dtype=DTYPE)
    rows = lengths_by_steps(rj.Problem(network, rj.Box(-ends, ends)), NEVER)
    assert rows is not None
    assert 1.0 <= float(rows[0]) <= 1.0 + 1e-9


@final
@dataclass(frozen=True)
class _Lot(AbstractLinearPart):
    """One entry, which arrives at the only place with a factor."""

    index: Tensor
    factor: float

    def pushed(self, vectors: Tensor) -> Iterator[tuple[Place, Tensor, Tensor]]:
        yield (1, 0), torch.zeros(1, dtype=torch.long), vectors * self.factor


@final
@dataclass(frozen=True)
class _Summed(AbstractLinearNetwork):
    """Σ factor x, in lots of one entry."""

    factors: Sequence[float]

    def shape(self, node: int) -> Shape:
        return (len(self.factors),) if node == 0 else (1,)

    def size(self, place: Place) -> int:
        return 1

    def pushed(self, node: int, vectors: Tensor) -> Iterator[tuple[Place, Tensor]]:
        yield (1, 0), vectors @ numbers(*self.factors).unsqueeze(1)

    def parts(self, node: int) -> Sequence[_Lot]:
        return [_Lot(torch.tensor([i]), f) for i, f in enumerate(self.factors)]


def sums_of(*factors: float) -> PushedSizes:
    return PushedSizes(_Summed(factors), rj.Rigorous(), numbers(0.0))


def test_sums_over_parts_cover_their_rounding() -> None:
    """1, and so much beside it that each addition loses it: every lot is one term more."""
    sums = sums_of(1.0, *[LOST] * 400)
    noise = torch.full((2, 401), sums.scale, dtype=DTYPE)
    noise[:, 0] *= 2  # it comes first
    assert torch.equal(sums.push_noises(0, noise, torch.zeros_like(noise), NEVER), noise)
    assert sums.sums[1, 0].tolist() == [[2 * sums.scale]] * 2
    true = Fraction(sums.scale) * (2 + 400 * Fraction(LOST))
    assert all(found >= true for found in exact(sums.summed((1, 0), (1,))))


def test_radii_that_underflow_when_they_are_scaled_count() -> None:
    sums, radius = sums_of(1.0), numbers(2.0**-1000)
    sizes = sums.begin(numbers(1.0), radius).size
    assert exact(sizes[0])[0] / Fraction(sums.scale) >= Fraction(2) ** -1000


def test_sums_and_products_of_sizes_are_rounded_upwards() -> None:
    sums, a, b = sums_of(1.0), numbers(1.0, 3.0), numbers(2.0**-60, 1 + 2.0**-52)
    for x, y, more, times in zip(*map(exact, (a, b, sums.plus(a, b), sums.times(b, b))), strict=True):
        assert more >= x + y
        assert times >= y * y


def test_what_arrives_by_several_edges_covers_its_rounding() -> None:
    """1 + 2^-54 - 1, of centres and of what was pushed: floats give 0 for both, without any other rounding."""
    sums, arithmetic = sums_of(1.0), rj.Rigorous()
    nothing = torch.zeros(2, 1, dtype=DTYPE)
    terms = []
    for number in (1.0, LOST, -1.0):
        size = torch.full((2, 1), abs(number) * sums.scale, dtype=DTYPE)
        terms.append((Identity((1,)), Arrived(numbers(number), size, nothing)))
    sums.sums[1, 0] = nothing  # the vector with these sizes, as it is computed
    found = sums.arrived((1, 0), (1,), None, terms)
    assert float(found.centre) == 0.0
    pushed = exact(found.size), exact(found.rest)
    true = Fraction(sums.scale) * Fraction(LOST)
    assert pushed[0][1] + pushed[1][1] >= true  # of tangents
    assert pushed[0][0] + pushed[1][0] >= 2 * true  # of values: what was pushed, and the centre
    bias = arithmetic.ball(numbers(1.0), numbers(LOST))
    for edges in ([], terms[:1]):
        alone = sums.arrived((1, 0), (1,), bias, edges)
        assert exact(alone.rest)[0] >= true


def test_what_goes_through_an_operator_covers_its_rounding() -> None:
    """The vector (1, 2^-54, -1) becomes 0 by the sum of its entries, which is 2^-54; its sizes become 2 + 2^-54."""
    sizes, sum_ = numbers(1.0, LOST, 1.0).repeat(2, 1), Dense.matrix(torch.ones(1, 3, dtype=DTYPE))
    moved, left = through(sum_, sizes, torch.zeros_like(sizes), rj.Rigorous())
    assert exact(left)[0] >= Fraction(LOST)
    assert exact(moved)[0] >= 2 + Fraction(LOST)
    _, left = through(sum_, torch.zeros_like(sizes), sizes, rj.Rigorous())
    assert exact(left)[0] >= 2 + Fraction(LOST)


def steps_at(module: nn.Module, x: Tensor) -> tuple[_Pass, Steps]:
    """A pass over the steps of a module in which nothing was done, with linear maps at a point (1, inputs)."""
    steps = Steps.of(rj.load(module, torch.zeros_like(x), dtype=DTYPE))
    assert steps is not None
    return _Pass(LinearSteps.at(steps, x[0]), rj.Rigorous(), x[0], torch.zeros_like(x[0]), NEVER), steps


@pytest.mark.parametrize("pushed", [True, False])
def test_sizes_and_rests_past_a_step_are_rounded_upwards(pushed: bool) -> None:
    """a · b is near b · da: vectors of sizes 1, or rests, become 1 + 511 2^-54 for b = (1, 2^-54, …)."""
    x = numbers(0.0, 1.0, *[LOST] * (MANY - 1)).unsqueeze(0)
    own, steps = steps_at(Pushed(), x)
    k, stage = next((k, s) for k, s in steps.stages.items() if s.matrices is not None)
    ones, nothing = (torch.full((2, 1, 1, MANY), n * own.sums.scale, dtype=DTYPE) for n in (1.0, 0.0))
    first = Arrived(torch.zeros(1, 1, MANY, dtype=DTYPE), *((ones, nothing) if pushed else (nothing, ones)))
    found = own._past(k, stage, [first, Arrived(x[0, 1:].reshape(1, 1, MANY), nothing, nothing)])
    true = Fraction(own.sums.scale) * (1 + (MANY - 1) * Fraction(LOST))
    if pushed:
        assert exact(found.size)[1] >= true
    else:  # as noises that are pushed
        assert exact(found.size)[1] + exact(found.rest)[1] >= true


def test_what_measures_give_covers_its_rounding() -> None:
    """The measure of a row (1, 1, 1) by (1, 2^-54, -1) is 2^-54, and 0 as it is computed."""
    own, _ = steps_at(Pushed(), torch.zeros(1, 4, dtype=DTYPE))
    rows = torch.full((2, 1, 3), own.sums.scale, dtype=DTYPE)
    found = own._measured((1, 1), numbers(1.0, LOST, -1.0).reshape(1, 1, 3), Arrived(rows[0], rows, 0 * rows))
    assert all(rest >= Fraction(own.sums.scale) * Fraction(LOST) for rest in exact(found.rest))


def random(*shape: int) -> Tensor:
    """Numbers in (0, 1) that fill all digits of floats."""
    return torch.rand(shape, dtype=DTYPE).nextafter(torch.ones(shape, dtype=DTYPE))


@pytest.mark.parametrize("seed", range(3))
def test_remainders_of_products_are_rounded_upwards(seed: int) -> None:
    """|dA (B - D)| + |(a - C) dB| for the centres a of A, and the same for tangents, entry by entry."""
    torch.manual_seed(seed)
    a, b = (Near(random(1, 3, 5), random(1, 3, 5), random(1, 3, 5)) for _ in range(2))
    near = Multiplied(random(1, 3, 5), random(1, 3, 5))
    off = near.off([a, b], rj.Rigorous())
    assert off.centre.rad is not None
    get = {name: [exact(t) for t in tensor.flatten(0, 1)] for name, tensor in {
        "a": a.centre, "da": a.half, "ta": a.tangent, "b": b.centre, "db": b.half, "tb": b.tangent,
        "C": near.first, "D": near.second,
    }.items()}  # fmt: skip
    for i in range(3):
        for j in range(3):
            row = {k: v[i if k in ("a", "da", "ta", "C") else j] for k, v in get.items()}
            each = list(zip(*row.values(), strict=True))
            value = sum(da * (db + abs(b - d)) + abs(a - c) * db for a, da, _, b, db, _, c, d in each)
            tangent = sum(ta * (db + abs(b - d)) + (da + abs(a - c)) * tb for a, da, ta, b, db, tb, c, d in each)
            centre = sum(a * b for a, _, _, b, *_ in each)
            assert Fraction(float(off.value[0, i, j])) >= value
            assert Fraction(float(off.tangent[0, i, j])) >= tangent
            stored, error = (Fraction(float(t[0, i, j])) for t in (off.centre.mid, off.centre.rad))
            assert abs(stored - centre) <= error


def test_sums_of_remainders_of_products_are_rounded_upwards() -> None:
    """1 + 511 2^-54, where the second matrix moves by up to 1 in each entry, or its tangents do."""
    one, few = torch.ones(1, 1, MANY, dtype=DTYPE), numbers(1.0, *[LOST] * (MANY - 1)).reshape(1, 1, MANY)
    true = 1 + (MANY - 1) * Fraction(LOST)
    a, b = Near(0 * one, few, few), Near(0 * one, one, 0 * one)
    off = Multiplied(0 * one, 0 * one).off([a, b], rj.Rigorous())
    assert exact(off.value)[0] >= true
    assert exact(off.tangent)[0] >= true


@pytest.mark.parametrize("seed", range(3))
def test_sizes_by_matrices_cover_rounding(seed: int) -> None:
    """|L| times sizes, for products of matrices, for rows and for activations."""
    torch.manual_seed(seed)
    arithmetic, sizes = rj.Rigorous(), random(2, 1, 4, 5)
    near = Multiplied(-random(1, 4, 5), random(1, 4, 5))
    found = near.absolute([sizes, 2 * sizes], arithmetic).upper()
    for w in range(2):
        rows, first, second = ([exact(r) for r in t] for t in (sizes[w, 0], near.first[0], near.second[0]))
        for i in range(4):
            for j in range(4):
                true = sum(s * abs(d) + abs(c) * 2 * t for s, d, c, t in zip(rows[i], second[j], first[i], rows[j],
                                                                            strict=True))  # fmt: skip
                assert Fraction(float(found[w, 0, i, j])) >= true
    matrices, row = random(4, 3, 5), random(4, 5)
    moved = rows_times(matrices, row, arithmetic).upper()
    for i in range(4):
        for j in range(3):
            true = sum(m * r for m, r in zip(exact(matrices[i, j]), exact(row[i]), strict=True))
            assert Fraction(float(moved[i, j])) >= true
    slopes = Activated(LeakyReLU(0.1), random(9))
    products = slopes.absolute([random(2, 9)], arithmetic)
    assert products.rad is not None
    assert bool((products.upper() > products.mid).all())


@pytest.mark.parametrize("seed", range(3))
def test_ranges_and_distances_are_rounded_outwards(seed: int) -> None:
    torch.manual_seed(seed)
    arithmetic, z = rj.Rigorous(), Near(random(40) - 0.5, random(40), random(40))
    box = z.box(arithmetic)
    chosen = random(40) - 0.5
    far = farthest(box.map(lambda t: t[0]), chosen, arithmetic)
    for c, h, low, high, d, f in zip(*map(exact, (z.centre, z.half, box.lower, box.upper, chosen, far)), strict=True):
        assert low <= c - h
        assert high >= c + h
        assert f >= max(high - d, d - low)


@pytest.mark.parametrize("seed", range(3))
def test_remainders_of_activations_are_rounded_upwards(seed: int) -> None:
    """At both ends of a range around 0, where leaky ReLU with the slope 1/4 is farthest from a line."""
    torch.manual_seed(seed)
    c = (random(40) - 0.5) / 2
    z, near = Near(c, c.abs() + random(40), random(40)), Activated(LeakyReLU(0.25), random(40))
    off = near.off([z], rj.Rigorous())
    assert off.centre.rad is not None
    error = off.centre.rad.expand_as(off.value)
    numbers_of = (z.centre, z.half, z.tangent, near.slope, off.centre.mid, error, off.value, off.tangent)
    for c_, half, way, d, centre, lost, value, tangent in zip(*map(exact, numbers_of), strict=True):
        for at in (c_ - half, c_ + half):
            own = at if at > 0 else at / 4
            assert abs(own - centre - d * (at - c_)) <= value + lost
        assert tangent >= max(1 - d, d - Fraction(1, 4)) * way


@pytest.mark.parametrize("seed", range(3))
def test_arithmetic_of_normalised_rows_is_rounded_upwards(seed: int) -> None:
    torch.manual_seed(seed)
    up, a, b, c = Upwards(rj.Rigorous()), random(40), random(40), random(40)
    found = up.plus(a, b, c), up.times(a, b, c), up.over(a, 7), up.less(a, b), up.minus(a, b)
    for x, y, z, plus, times, over, less, minus in zip(*map(exact, (a, b, c, *found)), strict=True):
        assert plus >= x + y + z
        assert times >= x * y * z
        assert over >= x / 7
        assert less >= x - y >= minus
    few = numbers(1.0, *[LOST] * (MANY - 1)).unsqueeze(0)
    assert exact(up.sum(few))[0] >= 1 + (MANY - 1) * Fraction(LOST)
    tiny = numbers(2.0**-1000)
    assert float(up.times(tiny, tiny)) > 0

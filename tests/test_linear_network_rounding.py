"""What `LinearNetworkNorm` adds for rounding, for noises that are not pushed, and for the slopes on both sides."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import count, islice
from math import inf

import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac import activations as act
from recurjac.arithmetic import Ball, Interval, Rigorous
from recurjac.deadline import NEVER, Deadline
from recurjac.jacobian import Gradients, linear_network, pushed_sizes
from recurjac.jacobian.linear_network import Lengths, lengths_of
from recurjac.jacobian.pushed_sizes import Arrived, through
from recurjac.loading.expression import Builder, Expression
from recurjac.network import Network, chain
from recurjac.norms import linear_network as norm_module
from recurjac.operators import Dense, Identity, Scale
from recurjac.operators.interval_matrix import IntervalMatrix
from recurjac.preactivation import PreactivationState
from recurjac.preactivation.centred import centre_of
from recurjac.propagation.planning import PlainOnly
from recurjac.region import AbstractRegion

DTYPE = torch.float64
Step = Callable[[Expression, float], Expression]


def number(value: float) -> Tensor:
    return torch.tensor([[value]], dtype=DTYPE)


def found(network: Network, region: AbstractRegion, deadline: Deadline = NEVER) -> Lengths:
    lengths = lengths_of(Gradients(rj.Problem(network, region, pre=rj.IBP())).state, deadline)
    assert lengths is not None
    return lengths


def a_pass(network: Network, region: AbstractRegion, slope: float = 1.0) -> linear_network._Pass:
    """A pass in which nothing was done yet, with the same slope everywhere."""
    problem = rj.Problem(network, region, pre=rj.IBP())
    state = PreactivationState(network, problem.bound, Rigorous(), PlainOnly())
    slopes = [torch.full(s.shape, slope, dtype=DTYPE) for s in network.stages[:-1]]
    linear, bound = linear_network._Linear(network, slopes), problem.bound
    radius = torch.full_like(bound.x, 1.0)
    return linear_network._Pass(Gradients(problem).state, state, [1] * len(slopes), linear, bound.x, radius, NEVER)


def dense(*weights: Tensor) -> Network:
    return chain([(w, torch.zeros(len(w), dtype=DTYPE)) for w in weights], [act.ReLU()] * (len(weights) - 1))


def test_sums_of_lots_cover_their_rounding_and_underflow() -> None:
    """1, and 2^-54 in each of many lots: every addition loses the latter.  2^-900 times a weight of 2^-200 is 0."""
    lots = 40
    row = torch.zeros(1, pushed_sizes._LOT * lots, dtype=DTYPE)
    row[0, :: pushed_sizes._LOT] = 2.0**-54
    row[0, 0] = 1.0
    own = a_pass(dense(torch.cat([row, torch.full_like(row, 2.0**-900)])), rj.LpBall(torch.zeros_like(row), 1.0))
    own.sums.begin(own.centre[0], own.radius[0])
    assert own.sums.sums[1, 0].tolist() == [[own.sums.scale, 0.0]] * 2
    sums = own.sums.summed((1, 0), (2,))
    assert bool((sums[:, 0] / own.sums.scale >= 1 + (lots + 4) * 2.0**-54).all())
    assert bool((sums[:, 1] > 0).all())


def test_errors_that_underflow_when_they_are_scaled_count() -> None:
    own = a_pass(dense(number(1.0)), rj.LpBall(number(0.0), 1.0))
    error = torch.tensor([2.0**-1000, 0.0], dtype=DTYPE)
    rest = own.sums.with_error(torch.zeros(2, 2, dtype=DTYPE), error)
    assert bool((rest[0] / own.sums.scale >= error).all())
    assert float(rest[0, 1]) < 1e-300
    assert rest[1].tolist() == [0.0, 0.0]


def test_matrices_that_are_known_up_to_a_radius_count_with_it() -> None:
    """|A| <= 1 + 0.5: a size of 2 is carried on as 2, and 1 may be missing; a rest of 1 as up to 1.5."""
    matrix = Ball(number(1.0), number(0.5))
    size, rest = torch.tensor([2.0], dtype=DTYPE), torch.tensor([1.0], dtype=DTYPE)
    moved, left = through(IntervalMatrix(matrix, (1,), (1,)), size, rest, Rigorous())
    assert float(moved) + float(left) >= 2 * 1.5 + 1.5
    moved, left = through(IntervalMatrix(matrix, (1,), (1,)), size, torch.zeros_like(rest), Rigorous())
    assert float(moved) >= 2.0
    assert float(left) >= 1.0


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="the processor does not flush")
def test_products_of_smaller_vectors_may_be_flushed() -> None:
    """Of vectors 2^-400 and 2^-423, with the weight 1/2 each, the second is lost where subnormals are flushed."""
    size = torch.tensor([2.0**-401 + 2.0**-424], dtype=DTYPE)
    torch.set_flush_denormal(True)
    try:
        _, left = through(Dense.matrix(number(2.0**-600)), size, torch.zeros_like(size), Rigorous())
    finally:
        torch.set_flush_denormal(False)
    assert float(left) >= 2.0**-1022


def lossy(values: Callable[[Fraction, float], Fraction], rounded: Callable[[float, float], float]) -> list[float]:
    """120 numbers one after the other, such that each operation rounds down by much."""
    chosen, computed = list[float](), 1.0
    candidates = ((1000 + 7 * k % 613) / 1117 for k in count())
    while len(chosen) < 120:
        some = list(islice(candidates, 32))
        least = min(some, key=lambda c: Fraction(rounded(computed, c)) / values(Fraction(computed), c))
        chosen.append(least)
        computed = rounded(computed, least)
        if not 1e-3 < computed < 1e3:
            chosen.append(1 / computed)
            computed = rounded(computed, 1 / computed)
    return chosen


def network_of(numbers: list[float], step: Step) -> Network:
    builder = Builder((1,), False, DTYPE, torch.device("cpu"))
    y = builder.input()
    for c in numbers:
        y = step(y, c)
    return builder.finish(y)


def by_slope(y: Expression, c: float) -> Expression:
    """An activation whose slope is known to be c, where y is negative."""
    return y.apply(Identity((1,))).activate(act.PReLU(torch.tensor([c], dtype=DTYPE)))


def by_weight(y: Expression, c: float) -> Expression:
    return y.apply(Dense.matrix(number(c))).shift(torch.zeros(1, dtype=DTYPE)).activate(act.LeakyReLU(1.0))


def by_sum(y: Expression, c: float) -> Expression:
    """y + c 2^-20 y, less a multiple of that, in two edges."""
    more = y.apply(Scale(torch.tensor([c * 2.0**-20], dtype=DTYPE)))
    return y.plus(more).activate(act.LeakyReLU(1.0))


@pytest.mark.parametrize("step", [by_slope, by_weight, by_sum])
def test_rounding_of_many_stages_counts(step: Step) -> None:
    """Every stage rounds down; the derivative and the value at a point are known as fractions."""
    if step is by_sum:
        numbers = lossy(lambda v, c: v + v * Fraction(c) / 2**20, lambda v, c: v + v * (c * 2.0**-20))
        factors = [1 + Fraction(c) / 2**20 for c in numbers]
    else:
        numbers = lossy(lambda v, c: v * Fraction(c), lambda v, c: v * c)
        factors = [Fraction(c) for c in numbers]
    true = Fraction(1)
    for factor in factors:
        true *= factor
    network = network_of(numbers, step)
    lengths = found(network, rj.LpBall(torch.tensor([[-1.0]], dtype=DTYPE), 0.0))
    assert Fraction(float(lengths.rows)) >= true
    last = lengths.ranges[-1]
    assert Fraction(float(last.lower)) <= -true <= Fraction(float(last.upper))
    assert float(lengths.rows) <= float(true) * (1 + 1e-9)


def test_ranges_around_a_centre_are_rounded_outwards() -> None:
    """1 and 2^-54 around it, which floats lose on both sides."""
    own = a_pass(dense(number(1.0), number(1.0)), rj.LpBall(number(0.0), 1.0))
    half = torch.full((2, 1), 2.0**-54 * own.sums.scale, dtype=DTYPE)
    assert own._bound(1, Arrived(torch.ones(1, dtype=DTYPE), half, torch.zeros_like(half)))
    z = own.state.pre(1)
    assert Fraction(float(z.upper)) >= 1 + Fraction(2) ** -54
    assert Fraction(float(z.lower)) <= 1 - Fraction(2) ** -54


@pytest.mark.parametrize("size", [1.1, 1.7, 2.3, 2.9])
def test_products_with_slopes_cover_their_rounding(size: float) -> None:
    """Nothing else is added where a slope is known exactly: a vector times the slope, and its size."""
    slope = 0.3
    network = chain([(number(1.0), torch.zeros(1, dtype=DTYPE))] * 2, [act.LeakyReLU(slope)])
    own = a_pass(network, rj.LpBall(number(-2.0), 0.5), slope)
    assert own.run() is not None
    vector, product = size * own.sums.scale, Fraction(size) * Fraction(slope)
    lost = abs(product - Fraction(size * slope))
    assert lost > 0
    z = Arrived(torch.zeros(1, dtype=DTYPE), torch.full((2, 1), vector, dtype=DTYPE), torch.zeros(2, 1, dtype=DTYPE))
    found, scale = own._past(1, z), Fraction(own.sums.scale)
    for most, rest in zip(found.size.flatten().tolist(), found.rest.flatten().tolist(), strict=True):
        assert Fraction(most) >= scale * product
        assert Fraction(rest) >= scale * lost


def test_a_region_of_one_subnormal_point_holds_it() -> None:
    """Half of the least positive number rounds to 0, at which this neuron is off; at the number itself, it is on."""
    x, large = number(5e-324), 2.0**1000
    bias = torch.tensor([-(2.0**-75)], dtype=DTYPE)
    network = chain([(number(large), bias), (number(1.0), torch.zeros(1, dtype=DTYPE))], [act.ReLU()])
    assert float(network(x)) == 2.0**-75
    found = rj.lipschitz(network, rj.Box(x, x), method=rj.LinearNetworkNorm(), search=rj.Search(work=0))
    assert float(found.upper) >= large


def test_slopes_below_the_chosen_one_count() -> None:
    """x - relu(x + s) has the derivatives 1 and 0; on |x| <= 2 the secant of the second term is steep for s > 0."""
    for shift in (-1.5, -0.5, 0.5, 1.5):
        builder = Builder((1,), False, DTYPE, torch.device("cpu"))
        x = builder.input()
        y = x.apply(Dense.matrix(number(1.0))).shift(torch.tensor([shift], dtype=DTYPE)).activate(act.ReLU())
        network = builder.finish(x.plus(y.apply(Scale(torch.tensor([-1.0], dtype=DTYPE)))))
        region = rj.LpBall(number(0.0), 2.0)
        assert 1.0 <= float(found(network, region).rows) <= 1.0 + 1e-9
        chosen = linear_network._near_centre(network, *centre_of(rj.Problem(network, region).bound))
        known, state = (Gradients(rj.Problem(network, region, pre=rj.IBP())).state for _ in range(2))
        state = PreactivationState(network, state.region, Rigorous(), PlainOnly())
        first = linear_network._Pass(
            known, state, chosen.unstable, linear_network._Linear(network, chosen.slopes),
            *centre_of(state.region), NEVER,
        ).run()  # fmt: skip
        assert first is not None
        assert float(first.rows) >= 1.0


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_noises_that_are_not_pushed_go_on_in_full(depth: int) -> None:
    """The derivative of x and of relu(… relu(x)) is 1 at x > 0, whatever is known of the noises only by its size."""
    network = dense(*[number(1.0)] * (depth + 1))
    lengths = found(network, rj.LpBall(number(0.0), 1.0), Deadline.after(0.0))
    assert float(lengths.rows) >= 1.0
    for z in lengths.ranges[1:]:
        assert float(z.lower) <= 0.0
        assert float(z.upper) >= 1.0


@pytest.mark.parametrize("lots", range(7))
def test_time_that_ends_between_lots_loses_no_noise(lots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of four relu(x_i) and of relu(h_1), of which only some are pushed: the largest derivative is 5."""
    looks = iter(range(100))
    monkeypatch.setattr(Deadline, "over", property(lambda _: next(looks) >= lots))
    monkeypatch.setattr(pushed_sizes, "_LOT", 1)
    builder = Builder((4,), False, DTYPE, torch.device("cpu"))
    h = builder.input().apply(Dense.matrix(torch.eye(4, dtype=DTYPE))).activate(act.ReLU())
    again = h.apply(Dense.matrix(torch.eye(4, dtype=DTYPE)[:1])).activate(act.ReLU())
    network = builder.finish(h.apply(Dense.matrix(torch.ones(1, 4, dtype=DTYPE))).plus(again))
    lengths = found(network, rj.LpBall(torch.zeros(1, 4, dtype=DTYPE), 1.0))
    assert float(lengths.rows) >= 5.0
    assert float(lengths.ranges[-1].upper) >= 5.0


@pytest.mark.parametrize("rows", [[1.0, 1.0, 1.0], [1.0, *[2.0**-54] * 64]])
def test_norms_of_rows_cover_their_rounding(rows: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = dense(torch.ones(len(rows), 1, dtype=DTYPE)), number(0.0)
    exact = Lengths((), torch.tensor(rows, dtype=DTYPE))
    monkeypatch.setattr(norm_module, "lengths_of", lambda *_: exact)
    gradients = Gradients(rj.Problem(network, rj.LpBall(x, 1.0)))
    method, parts = rj.LinearNetworkNorm(), [Fraction(r) for r in rows]
    assert Fraction(float(method.norm(gradients, inf, 1))) >= sum(parts)
    assert Fraction(float(method.norm(gradients, inf, 2))) ** 2 >= sum(r * r for r in parts)


def test_nothing_is_claimed_of_parts_batches_and_huge_ranges() -> None:
    network = dense(number(1.0), number(1.0))
    problem = rj.Problem(network, rj.LpBall(number(0.0), 1.0), pre=rj.IBP())
    part = problem.constrained(1, Interval(number(0.0), number(inf)))
    assert lengths_of(Gradients(part).state, NEVER) is None
    two = rj.Problem(network, rj.LpBall(torch.zeros(2, 1, dtype=DTYPE), 1.0), pre=rj.IBP())
    assert lengths_of(Gradients(two).state, NEVER) is None
    huge = rj.Problem(network, rj.LpBall(number(0.0), 2.0**250), pre=rj.IBP())
    assert lengths_of(Gradients(huge).state, NEVER) is None

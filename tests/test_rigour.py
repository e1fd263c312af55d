"""Floating-point rounding is covered: float32 bounds against rational truth, with no tolerance."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.jacobian import AbstractJacobianMethod
from recurjac.network import Network
from recurjac.preactivation import AbstractPreactivation
from recurjac.propagation.planning import AbstractPlanner
from recurjac.testing.networks import PIECEWISE, random_network
from tests import exact
from tests.marks import often

METHODS: tuple[AbstractJacobianMethod, ...] = (
    rj.Chords(), rj.RecurJac(), rj.FastLip(), rj.Reversed(rj.RecurJac()), rj.ReversedAfterFirst(rj.Chords()),
    rj.Intersection(rj.Chords(), rj.RecurJac()), rj.XLinear(), rj.XLinear(2), rj.Cut(rj.Chords(), 9), rj.InTime(),
    rj.ForwardTangents(5), rj.WithTangents(rj.FastLip()), rj.GradientForms(5),
)  # fmt: skip
RADII = (0.0, 0.0, 1e-7, 1e-3, 0.1)
GROUPS, EACH = 20, 50
"""1000 networks, in parts that a failure can name; one part by default, all by `make test-all`."""


def case(i: int) -> tuple[Network, torch.Tensor, rj.LpBall, AbstractJacobianMethod]:
    """Network, centre, region and method number i; the kinds, radii, norms and methods take turns."""
    network = random_network(PIECEWISE[i % len(PIECEWISE)], i, i % 2 == 1, torch.float32, width=5, depth=2 + i % 2)
    g = torch.Generator().manual_seed(i)
    scale = (1.0, 1e-3, 30.0)[i % 3]
    x = scale * torch.randn(2, 2, generator=g)
    return network, x, rj.LpBall(x, RADII[i % len(RADII)], (rj.inf, 1, 2)[i % 3]), METHODS[i % len(METHODS)]


def violations(i: int, arithmetic: rj.Fast | rj.Rigorous, planner: AbstractPlanner | None = None) -> int:
    """1 if the exact Jacobian at some point of region i is outside the bounds, or its norm above the constant."""
    network, x, region, method = case(i)
    problem = rj.Problem(network, region, arithmetic=arithmetic, planner=planner)
    bounds = rj.jacobian_bounds(problem, method=method)
    assert bounds.rigorous == arithmetic.rigorous, bounds.reason
    constant = rj.lipschitz(problem, method=method, search=rj.Search(work=0))
    bound = region.bind((2, 2), torch.float32, torch.device("cpu"))
    points = torch.cat([x[None], bound.sample(3, torch.Generator().manual_seed(i))[0]])
    for point in points if RADII[i % len(RADII)] > 0 else points[:1]:
        true = exact.jacobian(network, point)
        inside = exact.at_most(true, bounds.upper[0].flatten(1)) and exact.at_most(-true, -bounds.lower[0].flatten(1))
        norm = max(sum(abs(v) for v in row) for row in true)
        if not inside or norm > Fraction(float(constant.upper[0])):
            return 1
    return 0


@pytest.mark.parametrize("group", often(range(GROUPS), (0,)))
def test_rigorous_bounds_hold_in_rational_arithmetic(group: int) -> None:
    assert sum(violations(i, rj.Rigorous()) for i in range(group * EACH, (group + 1) * EACH)) == 0


@pytest.mark.parametrize("group", often(range(2), (1,)))
def test_rigorous_bounds_through_the_skeleton_hold_in_rational_arithmetic(group: int) -> None:
    """Where the choice by counting would not take it."""
    cases = range(group * EACH, (group + 1) * EACH)
    assert sum(violations(i, rj.Rigorous(), rj.SkeletonOnly()) for i in cases) == 0


@pytest.mark.parametrize("part", often(range(10), (0,)))
def test_rigorous_bounds_of_sweeps_over_all_neurons_hold_in_rational_arithmetic(part: int) -> None:
    """Their rounding is absorbed at each node."""
    assert sum(violations(i, rj.Rigorous(), rj.PlainOnly()) for i in range(part * 14, (part + 1) * 14)) == 0


def test_absorbed_rounding_must_be_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail."""
    for module in ("propagation.tally", "relaxations"):
        monkeypatch.setattr(f"recurjac.{module}.paid", lambda _: torch.zeros(()))
    assert sum(violations(i, rj.Rigorous(), rj.PlainOnly()) for i in range(14)) > 0


def test_fast_bounds_do_not() -> None:
    """The test above can fail: without rounding radii, the same comparison finds wrong bounds."""
    assert sum(violations(i, rj.Fast()) for i in range(50)) > 10


@pytest.mark.parametrize("seed", range(10))
def test_attained_gains_are_attained_exactly(seed: int) -> None:
    """`lower` is at most the exact gain at the witness in the direction given, in float32."""
    network = random_network("relu", seed, seed % 2 == 1, torch.float32, width=5, depth=2)
    for p, q in ((rj.inf, rj.inf), (1, 1), (1, rj.inf), (rj.inf, 1)):
        lip = rj.lipschitz(network, rj.LpBall(torch.ones(2, 2), 0.5), p=p, q=q, search=rj.Search(work=1e5))
        assert lip.rigorous
        image = exact.jacobian(network, lip.witness[0]).dot(exact.rational(lip.direction[0].flatten()))
        direction = exact.rational(lip.direction[0].flatten())
        size = max(abs(v) for v in direction) if p == rj.inf else sum(abs(v) for v in direction)
        gain = (max(abs(v) for v in image) if q == rj.inf else sum(abs(v) for v in image)) / size
        assert Fraction(float(lip.lower[0])) <= gain <= Fraction(float(lip.upper[0]))


@pytest.mark.parametrize(
    "pre", [rj.IBP(), rj.FastLin(), rj.Crown(), rj.Alone(rj.Crown()), rj.Forward(), rj.ForwardForms(3)], ids=repr
)
@pytest.mark.parametrize("seed", range(20))
def test_preactivations_hold_in_rational_arithmetic(seed: int, pre: AbstractPreactivation) -> None:
    """The network's output at float32 points of the region, evaluated exactly."""
    network = random_network(PIECEWISE[seed % len(PIECEWISE)], seed, seed % 2 == 1, torch.float32, width=5, depth=3)
    region = rj.LpBall(torch.ones(2, 2), (0.0, 1e-6, 0.2)[seed % 3], (rj.inf, 1, 2)[seed % 3], clip=(0.5, 1.0))
    output = rj.preactivation_bounds(network, region, pre=pre, arithmetic=rj.Rigorous()).stages[-1]
    points = region.bind((2, 2), torch.float32, torch.device("cpu")).sample(5, torch.Generator().manual_seed(seed))[0]
    for point in points:
        value = exact_output(network, point)
        assert exact.at_most(value, output.upper[0])
        assert exact.at_most(-value, -output.lower[0])


def exact_output(network: Network, x: torch.Tensor) -> exact.Exact:
    """f(x) in rational arithmetic, from one evaluation of the stages."""
    value = [exact.rational(x.flatten()).reshape(-1, 1)]
    for stage in network.stages:
        z = sum((exact.apply(e.operator, value[e.source]) for e in stage.edges), start=Fraction(0))
        z = z + sum(
            (exact.apply(c.operator, exact.rational(c.tensor.flatten()).reshape(-1, 1)) for c in stage.constants),
            start=0,
        )
        if not stage.linear:
            z = exact.activate(stage.activation, z, torch.zeros(stage.shape))
        value.append(z)
    return value[-1].flatten()


def test_huge_and_tiny_weights_fail_closed() -> None:
    """Overflow gives infinite bounds, underflow bounds that still hold; never NaN."""
    for scale in (1e-30, 1e-18, 1e15, 1e30):
        weights = [(scale * torch.randn(4, 4, generator=torch.Generator().manual_seed(k)), None) for k in range(3)]
        network = rj.load(weights, activation="relu", dtype=torch.float32)
        true = exact.jacobian(network, torch.ones(4))
        for radius in (0.0, 1.0, rj.inf):
            for method, planner in [*((m, None) for m in METHODS), (rj.Chords(), rj.PlainOnly())]:
                problem = rj.Problem(network, rj.LpBall(torch.ones(4), radius), planner=planner)
                bounds = rj.jacobian_bounds(problem, method=method)
                assert not bool(bounds.lower.isnan().any() | bounds.upper.isnan().any())
                assert exact.at_most(true, bounds.upper[0])
                assert exact.at_most(-true, -bounds.lower[0])
                lip = rj.lipschitz(problem, method=method, search=rj.Search(work=0))
                assert max(sum(abs(v) for v in row) for row in true) <= (
                    Fraction(float(lip.upper[0])) if bool(lip.upper[0].isfinite()) else Fraction(10) ** 400
                )


@pytest.mark.parametrize("planner", [None, rj.PlainOnly()], ids=["any", "plain"])
@pytest.mark.parametrize("method", [rj.Chords(), rj.RecurJac()], ids=["chords", "recurjac"])
@pytest.mark.parametrize("width", [8, 40])
def test_a_bound_that_is_0_by_signs_alone_is_0(
    method: rj.Chords | rj.RecurJac, width: int, planner: AbstractPlanner | None
) -> None:
    """No derivative of a network of positive weights is negative; a cover of underflow must not hide that."""
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        sizes = (6, width, width, width, 2)
        layers = [
            (torch.randn(b, a, generator=g, dtype=torch.float64).abs(),
             3 * torch.randn(b, generator=g, dtype=torch.float64))
            for a, b in pairwise(sizes)
        ]  # fmt: skip
        x = torch.randn(6, generator=g, dtype=torch.float64)
        problem = rj.Problem(rj.load(layers, activation="relu"), rj.LpBall(x, 0.5), planner=planner)
        bounds = rj.jacobian_bounds(problem, method=method)
        assert bounds.rigorous
        assert float(bounds.lower.min()) >= 0


SCALES = {
    torch.float32: (1.0, 1e-20, 2e-22, 1e-30, 1e-37, 1e-42, 1e25),
    torch.float64: (1.0, 2e-161, 1e-200, 1e-310, 1e200),
}
"""Down to numbers whose squares are subnormal or 0, and up to some whose squares overflow."""


@pytest.mark.parametrize(("dtype", "scale"), [(dtype, scale) for dtype in SCALES for scale in SCALES[dtype]])
@pytest.mark.parametrize(("p", "q"), [(1, 2), (2, rj.inf), (1, 1), (rj.inf, rj.inf)])
def test_constants_of_tiny_and_huge_layers_hold_exactly(dtype: torch.dtype, scale: float, p: float, q: float) -> None:
    """An attained gain was above the exact one where squares of entries lost their digits (float32, 2e-22)."""
    for seed in range(5):
        weight = scale * torch.randn(3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        network = rj.load([(weight.to(dtype), None)], dtype=dtype)
        rows = [[Fraction(float(v)) for v in row] for row in weight.to(dtype)]
        vectors = list(zip(*rows, strict=True)) if p == 1 else rows
        sizes = [sum(v * v for v in vector) if 2 in (p, q) else sum(map(abs, vector)) ** 2 for vector in vectors]
        lip = rj.lipschitz(network, rj.LpBall(torch.zeros(1, 4, dtype=dtype), 0.5), p=p, q=q, method=rj.Chords())
        lower, upper = Fraction(float(lip.lower[0])), float(lip.upper[0])
        assert lip.rigorous
        assert lower**2 <= max(sizes)
        assert upper == rj.inf or max(sizes) <= Fraction(upper) ** 2
        if torch.finfo(dtype).tiny / torch.finfo(dtype).eps < scale < 1e100:
            assert max(sizes) <= (lower * (1 + Fraction(1, 10**5))) ** 2


class Sums(nn.Module):
    """Each step is a leaky ReLU of the sum of the input and all steps before; no layer has weights."""

    def __init__(self, slopes: list[float]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(nn.LeakyReLU(s) for s in slopes)

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for step in self.steps:
            found.append(step(sum(found[1:], found[0])))
        total: Tensor = sum(found[1:], found[0])
        return total


def rounded_up(count: int, dtype: torch.dtype) -> list[float]:
    """Factors whose product, taken from the first one on, is rounded up nearly as far as can be, each time."""
    g, found, product = torch.Generator().manual_seed(0), list[float](), torch.ones((), dtype=dtype)
    for _ in range(count):
        some = (0.9 + 0.1 * torch.rand(100, generator=g, dtype=torch.float64)).to(dtype)
        gains = [Fraction(float(c)) / (Fraction(float(product)) * Fraction(float(s))) for c, s in
                 zip(product * some, some, strict=True)]  # fmt: skip
        best = some[gains.index(max(gains))]
        found.append(float(best))
        product = product * best
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_products_that_all_round_up_are_covered(dtype: torch.dtype) -> None:
    """Sixty slopes: what is lost is far more than the few roundings that are allowed for elsewhere."""
    slopes, truth = rounded_up(60, dtype), Fraction(1)
    computed = torch.ones((), dtype=dtype)
    for s in slopes:
        truth, computed = truth * Fraction(s), computed * s
    x = -torch.ones(1, 2, dtype=dtype)
    assert Fraction(float(computed)) > truth * (1 + 20 * Fraction(torch.finfo(dtype).eps))
    for order in (slopes, slopes[::-1]):  # forms of gradients are pushed forwards, those of ranges pulled backwards
        network = rj.load(nn.Sequential(*(nn.LeakyReLU(s) for s in order)).to(dtype), x, dtype=dtype)
        problem = rj.Problem(network, rj.LpBall(x, 0.0), planner=rj.PlainOnly())
        last = rj.preactivation_bounds(problem).stages[-1]
        assert Fraction(float(last.lower[0, 0])) <= -truth <= Fraction(float(last.upper[0, 0]))
        for method in (rj.Chords(), rj.RecurJac(), rj.FastLip()):
            found = rj.jacobian_bounds(problem, method=method)
            assert Fraction(float(found.lower[0, 0, 0])) <= truth <= Fraction(float(found.upper[0, 0, 0]))


def added_up(count: int, dtype: torch.dtype) -> list[float]:
    """Powers of 2, as slopes of `Sums`, with which the sums of all steps round up each time; products are exact."""
    found, total = list[float](), torch.ones((), dtype=dtype)
    for _ in range(count):
        some = 2.0 ** -torch.arange(4, 20, dtype=dtype)
        gains = [Fraction(float(t)) / (Fraction(float(total)) * (1 + Fraction(float(s)))) for t, s in
                 zip(total + total * some, some, strict=True)]  # fmt: skip
        found.append(float(some[gains.index(max(gains))]))
        total = total + total * found[-1]
    return found


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)], ids=str)
def test_sums_that_all_round_up_are_covered(dtype: torch.dtype) -> None:
    slopes, truth, computed = added_up(40, dtype), Fraction(1), torch.ones((), dtype=dtype)
    for s in slopes:
        truth, computed = truth * (1 + Fraction(s)), computed + computed * s
    x = -torch.ones(1, 2, dtype=dtype)
    assert Fraction(float(computed)) > truth * (1 + 8 * Fraction(torch.finfo(dtype).eps))
    for order in (slopes, slopes[::-1]):
        problem = rj.Problem(rj.load(Sums(order).to(dtype), x, dtype=dtype), rj.LpBall(x, 0.0), planner=rj.PlainOnly())
        last = rj.preactivation_bounds(problem).stages[-1]
        assert Fraction(float(last.lower[0, 0])) <= -truth <= Fraction(float(last.upper[0, 0]))
        for method in (rj.Chords(), rj.FastLip()):
            found = rj.jacobian_bounds(problem, method=method)
            assert Fraction(float(found.lower[0, 0, 0])) <= truth <= Fraction(float(found.upper[0, 0, 0]))

"""Terms of one node that are merged into one matrix: what it contains, what it costs, and that bounds remain bounds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.activations import Identity as NoActivation
from recurjac.activations import Tanh
from recurjac.arithmetic import Ball, Fast, Interval, Rigorous
from recurjac.jacobian import Gradients
from recurjac.network import Constant, Edge, Network, Stage
from recurjac.operators import AbstractOperator, Compose, Convolution, Dense, Gather, Identity, Negate, Scale, compose
from recurjac.operators.interval import interval_image
from recurjac.operators.interval_matrix import IntervalMatrix
from recurjac.preactivation import PreactivationState
from recurjac.propagation.merged import with_merged_terms
from recurjac.propagation.planning import Planner, Thresholds
from tests.helpers import exact, exact_image

APART = Planner(Thresholds(merged_entries=0))
"""Merges nothing."""


def chains(seed: int, dtype: torch.dtype, sizes: tuple[float, float] = (1e-3, 1e3)) -> Network:
    """Two stages of 3 neurons; each reads the node before by four terms of one to three operators, and shifts it so."""
    g = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> Tensor:
        low, high = (math.log10(size) for size in sizes)
        scale = low + (high - low) * torch.rand(shape, generator=g, dtype=torch.float64)
        return (torch.randn(shape, generator=g, dtype=torch.float64) * 10**scale).to(dtype)

    def term() -> Any:
        inner = compose(Scale(numbers(3)), Dense.matrix(numbers(3, 3)))
        return compose(Gather(torch.tensor([[2, 0, -1]]), (3,), (3,)), compose(Scale(numbers(3)), inner))

    def stage(source: int, activation: Any) -> Stage:
        operators = [term(), Negate((3,)), compose(Negate((3,)), term()), Dense.matrix(numbers(3, 3))]
        constants = tuple(Constant(term(), numbers(3)) for _ in range(3))
        return Stage(tuple(Edge(source, o) for o in operators), constants, activation, (3,))

    return Network((3,), (stage(0, Tanh()), stage(1, NoActivation())), dtype)


def test_the_matrix_contains_the_exact_one() -> None:
    rounded = 0
    for seed in range(40):
        for dtype in (torch.float64, torch.float32):
            network = chains(seed, dtype, (1e-8, 1e8))
            merged = with_merged_terms(network, Planner())
            for before, after in zip(network.stages, merged.stages, strict=True):
                (edge,), (constant,) = after.edges, after.constants
                assert isinstance(edge.operator, IntervalMatrix)
                assert isinstance(constant.operator, IntervalMatrix)
                columns = [_total((e.operator, unit) for e in before.edges) for unit in torch.eye(3, dtype=dtype)]
                truth = [column[i] for i in range(3) for column in columns]
                shift = _total((c.operator, c.tensor) for c in before.constants)
                rounded += _contains(edge.operator.matrix, truth) + _contains(constant.operator.matrix, shift)
    assert rounded > 300  # otherwise a radius of 0 would pass


def _jacobians(network: Network, points: Tensor) -> Tensor:
    return torch.func.vmap(torch.func.jacrev(lambda t: network(t.unsqueeze(0))[0]))(points)  # type: ignore[no-any-return]


def _total(terms: Iterable[tuple[AbstractOperator, Tensor]]) -> list[Fraction]:
    """The sum of operators applied to vectors, exactly."""
    return [sum(parts, Fraction(0)) for parts in zip(*(exact_image(o, exact(t)) for o, t in terms), strict=True)]


def _contains(matrix: Ball, truth: list[Fraction]) -> int:
    """How many entries of the midpoint are not exact; all must be within the radius."""
    assert matrix.rad is not None
    mids, rads = matrix.mid.flatten().tolist(), matrix.rad.expand_as(matrix.mid).flatten().tolist()
    off = [abs(Fraction(m) - t) for m, t in zip(mids, truth, strict=True)]
    assert all(o <= Fraction(r) for o, r in zip(off, rads, strict=True))
    return sum(o > 0 for o in off)


@pytest.mark.parametrize(
    "method", [rj.Chords(), rj.RecurJac(), rj.FastLip(), rj.ForwardTangents(), rj.XLinear()], ids=lambda m: m.title
)
@pytest.mark.parametrize("rule", [rj.IBP(), rj.Crown()], ids=lambda r: r.title)
def test_bounds_contain_sampled_jacobians_and_are_not_looser(method: Any, rule: Any) -> None:
    for seed in range(4):
        network = chains(seed, torch.float64, (0.3, 1.0))
        region = rj.LpBall(torch.zeros(1, 3), 0.05)
        new, old = (
            rj.jacobian_bounds(rj.Problem(network, region, pre=rule, planner=p), method=method)
            for p in (Planner(), APART)
        )
        points = 0.05 * (2 * torch.rand(200, 3, dtype=torch.float64) - 1)
        found = _jacobians(network, points)
        slack = 1e-9 * float(found.abs().max())
        assert bool((new.lower <= found + slack / 1e3).all())
        assert bool((found <= new.upper + slack / 1e3).all())
        assert bool((new.lower >= old.lower - slack).all())
        assert bool((new.upper <= old.upper + slack).all())
        assert new.rigorous


def test_ranges_of_a_point_contain_the_exact_value() -> None:
    for seed in range(20):
        network = chains(seed, torch.float32, (1e-2, 1e2))
        x = torch.randn(1, 3, generator=torch.Generator().manual_seed(seed))
        for rule in (rj.IBP(), rj.Crown()):
            found = rj.preactivation_bounds(network, rj.LpBall(x, 0.0), pre=rule)
            stage = network.stages[0]
            pairs = [*((e.operator, x) for e in stage.edges), *((c.operator, c.tensor) for c in stage.constants)]
            ends = (t[0].flatten().tolist() for t in (found.lower[0], found.upper[0]))
            for value, low, high in zip(_total(pairs), *ends, strict=True):
                assert Fraction(low) <= value <= Fraction(high)


def test_an_interval_is_not_widened_by_the_radius_of_a_matrix() -> None:
    g = torch.Generator().manual_seed(0)
    mid = torch.randn(4, 2, generator=g, dtype=torch.float64)
    matrix = IntervalMatrix(Rigorous().ball(mid, 2e-16 * mid.abs()), (2,), (4,))
    wide = Interval(torch.full((1, 2), -1.0, dtype=torch.float64), torch.full((1, 2), 3.0, dtype=torch.float64))
    found = interval_image(matrix, wide, Rigorous())
    spread = mid.abs().sum(1)
    torch.testing.assert_close(found.upper[0], mid.sum(1) + 2 * spread, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(found.lower[0], mid.sum(1) - 2 * spread, rtol=1e-13, atol=1e-13)
    assert bool((found.upper[0] - mid.sum(1) >= 2 * spread).all())


def test_forms_pay_for_all_products_that_arrive_together() -> None:
    """Matrices to one node are one product, so that each entry sums the products of all of them."""
    one = chains(0, torch.float64)
    again = Stage(one.stages[0].edges, (), Tanh(), (3,))
    last = Stage((Edge(1, Identity((3,))), Edge(2, Identity((3,)))), (), NoActivation(), (3,))
    network = with_merged_terms(Network((3,), (one.stages[0], again, last)), Planner())
    state = PreactivationState(
        network, rj.LpBall(torch.zeros(1, 3), 1.0).bind((3,), torch.float64, torch.device("cpu")), Rigorous(), Planner()
    )
    assert state.terms_beside == (1 + 3 + 3, 0, 0, -1)


def test_live_weights_are_followed() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()

    def step(x: Tensor, u: Tensor) -> Tensor:
        return torch.cat([x[:, :1] + 0.1 * x[:, 1:] + 0.3 * u[:, :1], 0.7 * x[:, 1:] - 0.1 * u[:, 1:]], 1)

    network = rj.closed_loop(step, module, 2, torch.zeros(1, 2, dtype=torch.float64))
    region = rj.LpBall(torch.zeros(1, 2, dtype=torch.float64), 0.1)

    def bound(planner: Planner) -> tuple[Tensor, list[Tensor]]:
        problem = rj.Problem(network, region, planner=planner)
        upper = rj.jacobian_bounds(problem, method=rj.Chords()).upper
        return upper.detach(), list(torch.autograd.grad(upper.sum(), list(module.parameters())))

    assert with_merged_terms(network, Planner()) is not network
    for _ in range(2):
        (one, slopes), (other, others) = bound(Planner()), bound(APART)
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(slopes, others, rtol=1e-9, atol=1e-9)
        with torch.no_grad():
            for p in module.parameters():
                p.data.mul_(1.3)  # which PyTorch's version counter misses


def test_what_is_large_local_or_only_moved_stays() -> None:
    wide = Scale(torch.ones(100, dtype=torch.float64))
    matrix = compose(wide, compose(Gather(torch.arange(99, -1, -1).unsqueeze(0), (100,), (100,)), wide))
    swap = Gather(torch.tensor([[1, 0, 0]]), (3,), (3,))
    moved = [swap, compose(Negate((3,)), swap), swap, swap]
    image = Convolution.examples()[0]
    before, after = (Scale(torch.ones(shape, dtype=torch.float64)) for shape in (image.in_shape, image.out_shape))
    local = compose(after, Compose(image, before))
    for operators in ([matrix], moved, [local]):
        shape = operators[0].out_shape
        stage = Stage(tuple(Edge(0, o) for o in operators), (), NoActivation(), shape)
        network = Network(operators[0].in_shape, (stage,))
        assert with_merged_terms(network, Planner()) is network


def test_a_matrix_that_overflows_stays_apart() -> None:
    large = Scale(torch.full((2,), 1e200, dtype=torch.float64))
    small = Scale(torch.full((2,), 1e-200, dtype=torch.float64))
    stage = Stage((Edge(0, Compose(large, Compose(large, small))),), (), NoActivation(), (2,))
    other = Stage((Edge(1, Compose(large, Compose(large, large))),), (), NoActivation(), (2,))
    merged = with_merged_terms(Network((2,), (stage, other)), Planner())
    assert isinstance(merged.stages[0].edges[0].operator, IntervalMatrix)
    assert merged.stages[1] is other


def test_fast_arithmetic_ignores_radii() -> None:
    network = chains(1, torch.float64, (0.3, 1.0))
    region = rj.LpBall(torch.zeros(1, 3), 0.05)
    for method in (rj.Chords(), rj.ForwardTangents(), rj.XLinear()):
        fast, sure = (
            rj.jacobian_bounds(rj.Problem(network, region, arithmetic=a), method=method) for a in (Fast(), Rigorous())
        )
        assert not fast.rigorous
        torch.testing.assert_close(fast.upper, sure.upper, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "method", [rj.ForwardTangents(), rj.GradientForms(), rj.XLinear(), rj.Chords()], ids=lambda m: m.title
)
@pytest.mark.parametrize("each", [False, True])
def test_combinations_of_outputs_are_bounded(method: Any, each: bool) -> None:
    network = chains(2, torch.float64, (0.3, 1.0))
    region = rj.LpBall(torch.zeros(2, 3), 0.02)
    rows = 10 * torch.randn(2 if each else 1, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = method.prepare(Gradients(rj.Problem(network, region), combinations=rows)).push_all()
    points = 0.02 * (2 * torch.rand(100, 3, dtype=torch.float64) - 1)
    jacobians = _jacobians(network, points)
    for i in range(2):
        truth = rows[i if each else 0] @ jacobians
        assert bool((found.lower[i] <= truth + 1e-9).all())
        assert bool((truth <= found.upper[i] + 1e-9).all())
        spread = truth.amax(0) - truth.amin(0)
        assert float((found.upper[i] - found.lower[i]).max()) < 4 * float(spread.max())

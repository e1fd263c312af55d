"""Divided regions: parts cover the region, few unknown slopes are exact, tied neurons are one, signs are decided."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise, product
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac.branching import BranchAndBound
from recurjac.branching.branched import NormOver
from recurjac.branching.effects import input_effects
from recurjac.jacobian import Gradients
from recurjac.network.ties import exact_product, joined_ties
from recurjac.problem import join
from recurjac.region import AbstractRegion
from recurjac.testing.networks import random_network, true_jacobians
from tests.marks import in_turn

KINDS = ("relu", "leaky", "falling", "abs", "tanh", "gelu", "sin", "mixed")


def dense(
    seed: int, sizes: tuple[int, ...], activation: Any = "relu", dtype: torch.dtype = torch.float64
) -> rj.Network:
    g = torch.Generator().manual_seed(seed)
    layers = [
        (torch.randn(m, n, generator=g, dtype=torch.float64) / n**0.5, torch.randn(m, generator=g, dtype=torch.float64))
        for n, m in pairwise(sizes)
    ]
    return rj.load([(w.to(dtype), b.to(dtype)) for w, b in layers], activation=activation, dtype=dtype)


def searched(problem: rj.Problem, p: float, q: float, parts: int) -> rj.Branching:
    limit = rj.Limit(seconds=60, parts=parts, tolerance=1e-9)
    return BranchAndBound(rj.InputBisection(), limit).last(problem, NormOver(rj.JacobianNorm(), p, q, problem))


def points_of(problem: rj.Problem, count: int, seed: int = 1) -> Tensor:
    return problem.bound.sample(count, torch.Generator().manual_seed(seed))[0]


# Parts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_leaves_cover_a_box_exactly(dtype: torch.dtype) -> None:
    """Their volumes add up to that of the box, and every point is in one."""
    problem = rj.Problem(dense(3, (2, 8, 8, 2), dtype=dtype), rj.Box([[-1.0, 0.5]], [[0.3, 2.0]]))
    state = searched(problem, inf, inf, 300)
    leaves = state.leaves
    assert leaves is not None
    assert len(leaves) > 8
    sides = [
        [Fraction(b) - Fraction(a) for a, b in zip(low, high, strict=True)]
        for low, high in zip(leaves.lower.tolist(), leaves.upper.tolist(), strict=True)
    ]
    whole = problem.bound.box(rj.Rigorous())
    one, two = (Fraction(float(b)) - Fraction(float(a)) for a, b in zip(whole.lower[0], whole.upper[0], strict=True))
    assert sum(a * b for a, b in sides) == one * two
    x = points_of(problem, 500)
    inside = ((leaves.lower[:, None] <= x) & (x <= leaves.upper[:, None])).all(2)
    assert bool(inside.any(0).all())
    sizes = true_jacobians(problem.network, x).flatten(2).abs().sum(2).amax(1)
    assert bool((torch.where(inside, sizes, -inf) <= leaves.bounds * (1 + 1e-5)).all())
    assert float(leaves.bounds.max()) == state.upper
    assert not leaves.constrained


@pytest.mark.parametrize("p", [1, 2])
def test_leaves_of_balls_hold_the_points_of_the_ball(p: float) -> None:
    problem = rj.Problem(dense(1, (3, 6, 2)), rj.LpBall(torch.zeros(1, 3), 1.0, p))
    leaves = searched(problem, p, inf, 200).leaves
    assert leaves is not None
    x = points_of(problem, 300)
    assert bool(((leaves.lower[:, None] <= x) & (x <= leaves.upper[:, None])).all(2).any(0).all())


def test_leaves_are_written(tmp_path: Path) -> None:
    problem = rj.Problem(dense(3, (2, 8, 8, 2)), rj.Box([[-1.0, -1.0]], [[1.0, 1.0]]))
    leaves = searched(problem, 2, 2, 60).leaves
    assert leaves is not None
    leaves.save(tmp_path / "leaves.npz")
    with np.load(tmp_path / "leaves.npz") as found:
        assert set(found) == {"lower", "upper", "bounds"}
        assert np.array_equal(found["bounds"], leaves.bounds.numpy())
        assert found["lower"].shape == (len(leaves), 2)


@pytest.mark.parametrize(("kind", "norms"), in_turn(KINDS, [(inf, inf, inf), (2, 2, 2), (1, 2, 1), (inf, 1, inf)]))
def test_bounds_with_parts_are_never_above_those_without(kind: str, norms: tuple[float, float, float]) -> None:
    (p, q, ball), network = norms, random_network(kind, 5, False, width=5)
    x = torch.randn(1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = rj.Problem(network, rj.LpBall(x, 0.3, ball))
    state = searched(problem, p, q, 40)
    plain = float(rj.JacobianNorm().norm(Gradients(problem), p, q))
    assert state.lower <= state.upper <= plain
    jacobians = true_jacobians(network, points_of(problem, 300)).flatten(2)
    assert float(_gains(jacobians, p, q).max()) <= state.upper * (1 + 1e-9)


def _gains(jacobians: Tensor, p: float, q: float) -> Tensor:
    """‖J v‖_q for random v with ‖v‖_p = 1."""
    v = torch.randn(len(jacobians), jacobians.shape[2], 1, generator=torch.Generator().manual_seed(2)).double()
    v = v.sign() if p == inf else v / torch.linalg.vector_norm(v, p, dim=1, keepdim=True)
    return torch.linalg.vector_norm((jacobians @ v)[:, :, 0], q, dim=1)  # type: ignore[no-any-return]


def test_rows_of_a_batch_are_taken_and_joined() -> None:
    network = dense(0, (2, 5, 3))
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    end = torch.full((1, 5), inf, dtype=torch.float64)
    regions: list[AbstractRegion] = [rj.LpBall(x, 0.5), rj.LpBall(x, 0.5, 2), rj.LpBall(x, 0.5, 1, clip=(-3, 3))]
    for region in regions:
        problem = rj.Problem(network, region).constrained(1, rj.Interval(0 * end.nan_to_num(0, 0, 0), end))
        for whole in (problem, problem.part(problem.bound.halves(torch.tensor([0, 1, 1, 0]))[1])):
            some = whole.at(torch.tensor([2, 0, 2]))
            assert some.rows == (2, 0, 2)
            both = join([some, whole])
            for found, i in ((some, 0), (both, 0), (both, 2), (both, 5)):
                want = whole.samples()[2].bound.box(rj.Rigorous())
                box = found.bound.box(rj.Rigorous())
                assert torch.equal(box.lower[i], want.lower[0]) or i == 5
            assert both.bound.batch == 7
            assert tuple(both.known[1].shape) == (7, 5)


# Few unknown slopes


@pytest.mark.parametrize("kind", ["relu", "leaky", "steep", "falling", "abs", "tanh", "mixed"])
@pytest.mark.parametrize("residual", [False, True])
def test_all_combinations_bound_and_are_attained(kind: str, residual: bool) -> None:
    """On small balls, where few slopes are unknown: above what points attain, and the largest of the combinations."""
    network = random_network(kind, 7, residual, width=2, depth=2)
    x = torch.randn(6, 2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    problem = rj.Problem(network, rj.LpBall(x, 0.15))
    chain = Gradients(problem).chain
    every = torch.ones(6, dtype=torch.bool)
    for p, q in ((inf, inf), (2, 2), (1, 1), (inf, 2)):
        start = rj.JacobianNorm().norm(Gradients(problem), p, q)
        found = rj.CornerNorm(6).tighter(chain, every, start, (p, q))
        assert bool((found <= start).all())
        assert torch.equal(rj.CornerNorm(6).tighter(chain, ~every, start, (p, q)), start)
        for i in range(6):
            points = problem.samples()[i].bound.sample(200, torch.Generator().manual_seed(1))[0]
            assert float(_gains(true_jacobians(network, points).flatten(2), p, q).max()) <= float(found[i]) * (1 + 1e-9)


def test_two_unknown_slopes_by_hand() -> None:
    """f = relu(x) + relu(x) of a hidden sum: J = a (2 δ₁ - 3 δ₂) for δ in [0, 1], so that |J| is at most 3."""
    one = torch.ones(2, 1, dtype=torch.float64)
    network = rj.load([(one, None), (torch.tensor([[2.0, -3.0]], dtype=torch.float64), None)], activation="relu")
    problem = rj.Problem(network, rj.LpBall(torch.zeros(1, 1), 1.0))
    chain = Gradients(problem).chain
    found = rj.CornerNorm().tighter(chain, torch.ones(1, dtype=torch.bool), torch.tensor([99.0]).double(), (inf, inf))
    assert float(found) == pytest.approx(3.0, rel=1e-12)
    assert float(found) >= 3.0
    assert float(rj.CornerNorm(1).tighter(chain, torch.ones(1, dtype=torch.bool), found * 9, (inf, inf))) > 20


@pytest.mark.parametrize("seed", range(3))
def test_small_networks_are_exact(seed: int) -> None:
    """Against the largest of the gradients of a fine grid, which meets every piece of the network."""
    network = dense(seed, (2, 6, 5, 2))
    region = rj.Box([[-1.0, -1.0]], [[1.0, 1.0]])
    ticks = torch.linspace(-1, 1, 301, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="ij"), 2).reshape(-1, 2)
    limit = rj.Limit(seconds=60, parts=6000, tolerance=1e-6)
    found = rj.lipschitz(network, region, method=rj.Branched(limit=limit))
    seen = float(true_jacobians(network, grid).abs().sum(2).amax())
    assert seen <= float(found.upper) * (1 + 1e-9)
    assert found.status == "exact"
    assert float(found.upper) <= float(found.lower) * (1 + 1e-6)


def test_effects_belong_to_what_matters() -> None:
    """The third input only shifts the output, so that its width does not matter; weights choose entries."""
    first = torch.tensor([[1.0, 0.5, 0.0], [0.3, -1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    bias = torch.tensor([0.0, 0.1, 9.0], dtype=torch.float64)
    network = rj.load([(first, bias), (torch.ones(2, 3, dtype=torch.float64), None)], activation="relu")
    state = rj.Problem(network, rj.LpBall(torch.zeros(2, 3), 1.0)).preactivations()
    effects = input_effects(state)
    assert tuple(effects.shape) == (2, 3)
    assert bool((effects[:, :2] > 0).all())
    assert bool((effects[:, 2] == 0).all())
    weights = torch.zeros(2, 2, 3, dtype=torch.float64)
    weights[:, :, 2] = 1.0
    assert bool((input_effects(state, weights) == 0).all())


# Tied neurons


def with_ties(seed: int, dtype: torch.dtype = torch.float64) -> rj.Network:
    """Two hidden layers, each with copies and negatives of its neurons."""
    g = torch.Generator().manual_seed(seed)
    w1, b1 = torch.randn(3, 2, generator=g, dtype=dtype), torch.randn(3, generator=g, dtype=dtype)
    w2 = torch.randint(-2, 3, (3, 9), generator=g).to(dtype) / 2
    b2 = torch.randn(3, generator=g, dtype=dtype)
    w3 = torch.randn(2, 6, generator=g, dtype=dtype)
    layers = [
        (torch.cat([w1, -w1, w1]), torch.cat([b1, -b1, b1])), (torch.cat([w2, -w2]), torch.cat([b2, -b2])), (w3, None)
    ]  # fmt: skip
    return rj.load(layers, activation="relu", dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(4))
def test_joined_networks_are_the_same_function(seed: int, dtype: torch.dtype) -> None:
    network = with_ties(seed, dtype)
    joined = joined_ties(network)
    assert joined.sizes[1] == 6
    assert joined.sizes[2] < 7
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(9), dtype=dtype)
    close = 1e-4 if dtype == torch.float32 else 1e-12
    assert float((joined(x) - network(x)).abs().max()) < close
    assert float((true_jacobians(joined, x) - true_jacobians(network, x)).abs().max()) < close
    assert not joined.unproved_rounding()


def test_joined_networks_have_tighter_bounds() -> None:
    network, region = with_ties(0), rj.Box([[-1.0, -1.0]], [[1.0, 1.0]])
    apart = rj.lipschitz(network, region, method=rj.Chords())
    joined = rj.lipschitz(joined_ties(network), region, method=rj.Chords())
    divided = rj.lipschitz(network, region, method=rj.Branched(limit=rj.Limit(parts=200)))
    assert float(apart.lower) <= float(divided.upper) <= float(joined.upper) < 0.95 * float(apart.upper)


def test_networks_without_ties_are_kept() -> None:
    for network in (dense(0, (3, 6, 2)), random_network("mixed", 1, True), random_network("prelu", 1, False)):
        assert joined_ties(network) is network
    twins = torch.ones(2, 3, dtype=torch.float64)
    tanh = joined_ties(rj.load([(twins, None), (torch.ones(1, 2).double(), None)], activation="tanh"))
    assert tanh.sizes == (3, 1, 1)
    opposite = torch.cat([twins[:1], -twins[:1]])
    apart = rj.load([(opposite, None), (torch.ones(1, 2).double(), None)], activation="tanh")
    assert joined_ties(apart) is apart


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["halves", "thirds", "selection", "large"])
def test_products_are_exact_or_refused(kind: str, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.randint(-3, 4, (4, 5), generator=g).to(dtype) / 2
    b = torch.randint(-3, 4, (5, 3), generator=g).to(dtype) / 4
    if kind == "thirds":
        a, b = a / 3, b / 3
    if kind == "selection":
        a = torch.eye(5, dtype=dtype)[[4, 0, 2, 2]]
        b = torch.randn(5, 3, generator=g, dtype=dtype) * 1e-9
    if kind == "large":
        a = a * 1e30
    found = exact_product(a, b)
    assert (found is None) == (kind in ("thirds", "large"))
    if found is not None:
        for i, j in product(range(4), range(3)):
            exact = sum(Fraction(float(a[i, k])) * Fraction(float(b[k, j])) for k in range(5))
            assert Fraction(float(found[i, j])) == exact


# Entries and signs


@pytest.mark.parametrize("kind", KINDS)
def test_ranges_of_entries_hold_points_and_are_tight(kind: str) -> None:
    network = random_network(kind, 4, False, width=4, depth=2)
    x = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    region = rj.LpBall(x, 0.2)
    plain = rj.jacobian_bounds(network, region)
    method = rj.BranchedEntries(limit=rj.Limit(seconds=60, parts=100, tolerance=0.02))
    found = rj.jacobian_bounds(network, region, method=method)
    assert bool((found.lower >= plain.lower).all())
    assert bool((found.upper <= plain.upper).all())
    for i in range(2):
        points = rj.Problem(network, region).samples()[i].bound.sample(300, torch.Generator().manual_seed(1))[0]
        seen = true_jacobians(network, points)
        low, high = seen.amin(0), seen.amax(0)
        assert bool((found.lower[i] <= low + 1e-9).all())
        assert bool((found.upper[i] >= high - 1e-9).all())
    widths = (found.upper - found.lower).sum(), (plain.upper - plain.lower).sum()
    assert float(widths[0]) <= float(widths[1])


def test_derivatives_in_a_direction_are_divided_too() -> None:
    network = dense(2, (2, 8, 8, 2), "tanh")
    region = rj.Box([[0.0, 0.0]], [[1.0, 1.0]])
    way = torch.tensor([1.0, -2.0], dtype=torch.float64)
    method = rj.BranchedEntries(limit=rj.Limit(seconds=60, parts=3000, tolerance=0.02))
    found = rj.directional_bounds(network, region, direction=way, method=method)
    ticks = torch.linspace(0, 1, 101, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="ij"), 2).reshape(-1, 2)
    seen = true_jacobians(network, grid) @ way
    low, high = seen.amin(0), seen.amax(0)
    assert bool((found.lower[0] <= low).all())
    assert bool((found.upper[0] >= high).all())
    assert bool((found.upper[0] - found.lower[0] <= 1.05 * (high - low)).all())


def test_what_cannot_be_divided_is_refused() -> None:
    wide = dense(0, (99, 4, 1))
    with pytest.raises(rj.InvalidRequest, match="bisection"):
        rj.jacobian_bounds(wide, rj.LpBall(torch.zeros(99), 0.1), method=rj.BranchedEntries())


def bent(seed: int, falls: bool) -> rj.Network:
    """x₀ + x₁ + small bends, which rises with both; or with -3 relu(x₁ - 0.9) as well, which falls there."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(6, 2, generator=g, dtype=torch.float64)
    first = torch.cat([torch.eye(2, dtype=torch.float64), rows, torch.tensor([[0.0, 1.0]], dtype=torch.float64)])
    bias = torch.cat([torch.full((2,), 9.0), torch.randn(6, generator=g).double(), torch.tensor([-0.9])]).double()
    out = torch.cat([torch.ones(2), 0.16 * torch.randn(6, generator=g).sign(), torch.tensor([-3.0 * falls])]).double()
    return rj.load([(first, bias), (out.unsqueeze(0), None)], activation="relu")


@pytest.mark.parametrize("seed", range(3))
def test_signs_are_decided_by_parts(seed: int) -> None:
    box = rj.Box([[-1.0, -1.0]], [[1.0, 1.0]])
    network = bent(seed, False)
    ticks = torch.linspace(-1, 1, 301, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="ij"), 2).reshape(-1, 2)
    slopes = true_jacobians(network, grid)[:, 0]
    found = rj.monotone(network, box, limit=rj.Limit(seconds=60, parts=3000))
    for r in range(2):
        want = rj.Trend.INCREASING if bool((slopes[:, r] > 0).all()) else rj.Trend.VIOLATED
        assert found.trend(0, 0, r) is want
    broken = rj.monotone(bent(seed, True), box, limit=rj.Limit(seconds=60, parts=3000))
    assert broken.trend(0, 0, 1) is rj.Trend.VIOLATED
    up, down = broken.witnesses(0, 0, 1)
    assert float(true_jacobians(bent(seed, True), torch.stack([up, down]))[0, 0, 1]) > 0
    assert float(true_jacobians(bent(seed, True), torch.stack([up, down]))[1, 0, 1]) < 0


def test_parts_find_violations_that_points_miss() -> None:
    """The output falls with x₁ only near an end."""
    network, box = bent(0, True), rj.Box([[-1.0, -1.0]], [[1.0, 0.92]])
    few = rj.Probe(count=0)
    plain = rj.monotone(network, box, probe=few, limit=rj.Limit(parts=1))
    found = rj.monotone(network, box, probe=few, limit=rj.Limit(seconds=60, parts=3000))
    assert found.trend(0, 0, 1) is rj.Trend.VIOLATED
    assert float(found.witnesses(0, 0, 1)[1][1]) > 0.9 - 1e-9
    assert "parts by" in found.method
    assert "parts by" not in plain.method
    assert bool((found.lower >= plain.lower).all())
    assert bool((found.upper <= plain.upper).all())


@pytest.mark.parametrize("p", [1, 2])
def test_witnesses_of_parts_of_balls_lie_in_the_ball(p: float) -> None:
    network = dense(5, (3, 8, 8, 2), "gelu")
    x = torch.randn(1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    region = rj.LpBall(x, 0.5, p)
    found = rj.lipschitz(network, region, method=rj.Branched(limit=rj.Limit(seconds=60, parts=200)))
    assert float(torch.linalg.vector_norm(found.witness[0] - x[0], p)) <= 0.5 * (1 + 1e-12)
    trends = rj.monotone(network, region, probe=rj.Probe(count=0), limit=rj.Limit(seconds=60, parts=200))
    for point in trends.points[0]:
        assert float(torch.linalg.vector_norm(point - x[0], p)) <= 0.5 * (1 + 1e-12)


def test_lots_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool of few lots has the same parts as one of many."""
    problem = rj.Problem(dense(3, (2, 8, 8, 2), "tanh"), rj.Box([[-1.0, -1.0]], [[1.0, 1.0]]))
    many = searched(problem, inf, inf, 60)
    monkeypatch.setattr("recurjac.branching.pool._JOINED", 1)
    few = searched(problem, inf, inf, 60)
    assert (few.upper, few.lower, few.parts, few.left) == (many.upper, many.lower, many.parts, many.left)
    assert len(few.pool.shelves) == 1 < len(many.pool.shelves)
    assert few.leaves is not None
    assert many.leaves is not None
    assert sorted(few.leaves.bounds[:, 0].tolist()) == sorted(many.leaves.bounds[:, 0].tolist())


# Searches that go on


@pytest.mark.parametrize("kind", ["relu", "falling", "tanh", "mixed"])
def test_searches_go_on_where_they_ended(kind: str) -> None:
    """In many short searches, the bounds only come closer, hold at points, and nothing of the region is lost."""
    network = random_network(kind, 5, False, width=4)
    x = torch.randn(1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = rj.Problem(network, rj.LpBall(x, 0.3))
    bound = NormOver(rj.JacobianNorm(), inf, inf, problem)
    most = float(true_jacobians(network, points_of(problem, 300)).flatten(2).abs().sum(2).amax())
    state = None
    for parts in (5, 20, 60, 150):
        search = BranchAndBound(rj.InputBisection(), rj.Limit(seconds=60, parts=parts, tolerance=1e-9))
        *_, after = search.states(problem, bound, None, state)
        assert max(most, after.lower) * (1 - 1e-12) <= after.upper
        if state is not None:
            assert after.upper <= state.upper
            assert after.lower >= state.lower
            assert after.parts >= state.parts
        state = after
        leaves = state.leaves
        assert leaves is not None
        inside = points_of(problem, 100).flatten(1)[None] <= leaves.upper.flatten(1)[:, None]
        inside &= leaves.lower.flatten(1)[:, None] <= points_of(problem, 100).flatten(1)[None]
        assert bool(inside.all(2).any(0).all())


def test_what_is_attained_elsewhere_is_taken_over() -> None:
    problem = rj.Problem(dense(0, (2, 6, 6, 1)), rj.Box([[-1.0, -1.0]], [[1.0, 1.0]]))
    bound = NormOver(rj.JacobianNorm(), inf, inf, problem)
    search = BranchAndBound(rj.InputBisection(), rj.Limit(seconds=60, parts=3, tolerance=1e-9))
    first = search.last(problem, bound)
    known = rj.Search(work=1e8).attained(problem, inf, inf)
    *_, after = search.states(problem, bound, known, first)
    assert after.lower == max(first.lower, float(known.gain))
    assert after.lower <= after.upper <= first.upper


@pytest.mark.parametrize("kind", ["relu", "leaky", "falling", "abs"])
def test_ranges_of_entries_hold_if_parts_are_divided_by_signs(kind: str) -> None:
    """They hold at points, and are never wider than without parts."""
    network = random_network(kind, 11, False, width=4, depth=2)
    x = torch.randn(1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    region = rj.LpBall(x, 0.5)
    limit = rj.Limit(seconds=60, parts=400, tolerance=0.02)
    found = rj.jacobian_bounds(network, region, method=rj.BranchedEntries(rj.Chords(), rj.SignBisection(), limit))
    plain = rj.jacobian_bounds(network, region, method=rj.Chords())
    seen = true_jacobians(network, points_of(rj.Problem(network, region), 400))
    assert bool((found.lower[0] <= seen.amin(0) + 1e-9).all())
    assert bool((found.upper[0] >= seen.amax(0) - 1e-9).all())
    assert bool(((found.upper <= plain.upper) & (found.lower >= plain.lower)).all())


@pytest.mark.parametrize("seed", range(3))
def test_monotone_features_of_many_inputs(seed: int) -> None:
    """Features with weights >= 0 rise; the last falls through one neuron and rises through another."""
    g = torch.Generator().manual_seed(seed)
    w1, w2, w3 = (torch.rand(m, n, generator=g, dtype=torch.float64) for m, n in ((8, 6), (6, 8), (1, 6)))
    w1[::2, 5] *= -4.0
    biases = [torch.randn(m, generator=g, dtype=torch.float64) - 1.0 for m in (8, 6)]
    network = rj.load([(w1, biases[0]), (w2, biases[1]), (w3, None)], activation="relu")
    region = rj.Box(torch.zeros(1, 6).double(), torch.ones(1, 6).double())
    found = rj.monotone(network, region, limit=rj.Limit(seconds=600, parts=4000))
    assert bool(found.increasing[0, 0, :5].all())
    seen = true_jacobians(network, points_of(rj.Problem(network, region), 2000))[:, 0]
    if bool((seen[:, 5] < -1e-3).any()) and bool((seen[:, 5] > 1e-3).any()):
        assert bool(found.violated[0, 0, 5])
    assert not bool(found.decreasing[0, 0, 5] & (seen[:, 5] > 1e-9).any())
    assert not bool(found.increasing[0, 0, 5] & (seen[:, 5] < -1e-9).any())


def test_a_ball_and_its_pieces_are_divided_together() -> None:
    """Signs leave a ball as it is, and inputs divide it, where a sample has no unstable neuron."""
    ball = rj.Problem(random_network("relu", 0, residual=False), rj.LpBall(torch.zeros(1, 2, 2), 1.0, 2))
    pieces = rj.InputBisection().divide(ball)
    both = join([ball, *pieces])
    points = ball.bound.sample(50, torch.Generator().manual_seed(0))
    assert bool(both.bound.holds(points.expand(3, *points.shape[1:]))[1:].any(0).all())
    assert not bool(both.bound.empty.any())

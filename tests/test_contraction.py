"""Matrix measures of interval Jacobians, against all corners, sampled Jacobians and exact arithmetic at a point."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import product
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.applications.contraction import quotient_above
from recurjac.applications.contraction_rates import MeasureOver
from recurjac.arithmetic import Interval
from recurjac.jacobian import JacobianBounds


def bounds(mid: Tensor, half: Tensor, rigorous: bool = True) -> JacobianBounds:
    """Bounds of a Jacobian as if they were of a network."""
    net = rj.load([(torch.eye(2, dtype=torch.float64), None)], activation="relu")
    known = rj.jacobian_bounds(net, rj.LpBall(torch.zeros(1, 2), 0.1)).provenance
    return JacobianBounds(mid - half, mid + half, replace(known, rigorous=rigorous, reason=""))


def measure(jacobian: Tensor, p: float) -> Tensor:
    """μ_p in plain floating point."""
    if p == 2:
        return torch.linalg.eigvalsh((jacobian + jacobian.mT) / 2)[..., -1]  # type: ignore[no-any-return]
    rows = jacobian if p == inf else jacobian.mT
    own = rows.diagonal(dim1=-2, dim2=-1)
    return (own + rows.abs().sum(-1) - own.abs()).amax(-1)


def numbers(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Midpoints and half-widths (3, n, n), positive weights (n,), a definite matrix (n, n)."""
    g = torch.Generator().manual_seed(seed)
    mid, half = torch.randn(3, n, n, generator=g).double(), 0.3 * torch.rand(3, n, n, generator=g).double()
    root = torch.randn(n, n, generator=g).double()
    matrix = root @ root.mT + 0.2 * torch.eye(n)
    return mid, half, 0.2 + torch.rand(n, generator=g).double(), (matrix + matrix.mT) / 2


def turned(jacobian: Tensor, weights: Tensor | None) -> Tensor:
    """The Jacobian in coordinates in which the weighted norm is plain."""
    if weights is None:
        return jacobian
    root = torch.diag(weights) if weights.dim() == 1 else torch.linalg.cholesky(weights).mT
    return root @ jacobian @ torch.linalg.inv(root)  # type: ignore[no-any-return]


KINDS = [(p, w) for p in (1, 2, inf) for w in ("none", "diagonal", "matrix") if p == 2 or w != "matrix"]


@pytest.mark.parametrize("rigorous", [True, False])
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(("p", "kind"), KINDS)
def test_a_measure_is_the_largest_over_all_corners(p: float, kind: str, n: int, rigorous: bool) -> None:
    mid, half, diagonal, matrix = numbers(n, n)
    weights = {"none": None, "diagonal": diagonal, "matrix": matrix}[kind]
    signs = torch.tensor(list(product((1.0, -1.0), repeat=n * n)), dtype=torch.float64).reshape(-1, 1, n, n)
    truth = measure(turned(mid + signs * half, weights), p).amax(0)
    found = rj.matrix_measure(bounds(mid, half, rigorous), p=p, weights=weights)
    assert found.rigorous is rigorous
    torch.testing.assert_close(found.upper, truth, rtol=1e-11, atol=1e-11)
    if rigorous:
        assert bool((found.upper >= truth - 1e-14).all())


@pytest.mark.parametrize("n", [5, 9])
@pytest.mark.parametrize(("p", "kind"), KINDS)
def test_measures_of_more_inputs_hold(p: float, kind: str, n: int) -> None:
    mid, half, diagonal, matrix = numbers(n, n)
    weights = {"none": None, "diagonal": diagonal, "matrix": matrix}[kind]
    signs = 2.0 * torch.randint(0, 2, (2000, 1, n, n), generator=torch.Generator().manual_seed(0)) - 1
    truth = measure(turned(mid + signs * half, weights), p)
    assert bool((rj.matrix_measure(bounds(mid, half), p=p, weights=weights).upper >= truth.amax(0)).all())
    point = rj.matrix_measure(bounds(mid, 0 * half), p=p, weights=weights).upper
    torch.testing.assert_close(point, measure(turned(mid, weights), p), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_cover_rounding(dtype: torch.dtype) -> None:
    """Against exact sums of the same numbers, without a tolerance."""
    for seed in range(20):
        mid = (numbers(6, seed)[0] * 10.0 ** torch.randint(-8, 8, (3, 6, 6))).to(dtype)
        for p in (1, inf):
            upper = rj.matrix_measure(bounds(mid, 0 * mid), p=p).upper
            rows = (mid if p == inf else mid.mT).double().tolist()
            for bound, matrix in zip(upper.tolist(), rows, strict=True):
                for i, row in enumerate(matrix):
                    assert Fraction(bound) >= sum(
                        abs(Fraction(t)) if j != i else Fraction(t) for j, t in enumerate(row)
                    )


def test_a_network_that_contracts_is_proved_to() -> None:
    torch.manual_seed(0)

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) - 3 * x  # type: ignore[no-any-return]

    field, x = Field().double(), torch.zeros(1, 3, dtype=torch.float64)
    known = rj.jacobian_bounds(rj.load(field, x), rj.LpBall(x, 1.0))
    points = 2 * torch.rand(200, 3, dtype=torch.float64) - 1
    found = torch.func.vmap(torch.func.jacrev(lambda t: field(t.unsqueeze(0))[0]))(points)
    for p in (1, 2, inf):
        result = rj.matrix_measure(known, p=p)
        assert bool(result.contracting.all())
        assert bool((measure(found, p) <= result.upper).all())
        assert not result.upper.requires_grad
        assert f"l{p:g}" in repr(result)
        assert "upper" in result.to_json()


def field(activation: str, n: int, seed: int) -> rj.Network:
    """A random field of n inputs with one hidden layer."""
    g = torch.Generator().manual_seed(seed)
    first, second = torch.randn(7, n, generator=g).double(), torch.randn(n, 7, generator=g).double() / 2
    bias = torch.randn(7, generator=g).double()
    return rj.load([(first, bias), (second, None)], activation=activation)


def jacobians(net: rj.Network, points: Tensor) -> Tensor:
    """Jacobians at points (N, n), in plain floating point."""
    return torch.stack([torch.autograd.functional.jacobian(lambda t: net(t[None])[0], x) for x in points])


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize(("p", "kind"), KINDS)
def test_divided_regions_hold_and_are_tight(p: float, kind: str, n: int, activation: str) -> None:
    """Both ends, against sampled Jacobians; parts are worth it, and what is attained comes near."""
    net, (_, _, diagonal, matrix) = field(activation, n, n), numbers(n, n)
    weights = {"none": None, "diagonal": diagonal, "matrix": matrix}[kind]
    region = rj.LpBall(torch.zeros(2, n).double() + torch.tensor([[0.0], [0.4]]), 0.3)
    whole = rj.contraction_rate(net, region, p=p, weights=weights)
    assert whole.status == ("one pass",) * 2
    limit = rj.Limit(seconds=60, parts=300, tolerance=0.05)
    found = rj.contraction_rate(net, region, p=p, weights=weights, limit=limit)
    assert found.rigorous
    for i, x in enumerate(region.x):
        points = x + 0.3 * (2 * torch.rand(300, n, generator=torch.Generator().manual_seed(1)).double() - 1)
        seen = float(measure(turned(jacobians(net, points), weights), p).max())
        assert seen <= float(found.upper[i])
        assert float(found.lower[i]) <= float(found.upper[i]) <= float(whole.upper[i])
        assert float(found.lower[i]) >= seen - 0.1 * abs(seen)
        gaps = [float(r.upper[i] - found.lower[i]) for r in (whole, found)]
        if activation == "tanh":  # at kinks of ReLUs, measures jump, so that parts around them stay loose
            assert gaps[1] <= max(0.5 * gaps[0], 0.06 * abs(float(found.lower[i])))
        assert found.parts[i] > 1 or gaps[0] <= 0.06 * abs(float(found.lower[i]))
    assert "bisection" in found.method or found.parts == (1, 1)
    assert "parts" in repr(found) or found.parts == (1, 1)


@pytest.mark.parametrize(("p", "kind"), KINDS)
def test_what_is_attained_is_proved(p: float, kind: str) -> None:
    """At a point of radius 0, both ends are the measure there, in the right order."""
    _, _, diagonal, matrix = numbers(3, 5)
    weights = {"none": None, "diagonal": diagonal, "matrix": matrix}[kind]
    for seed in range(4):
        net = field("tanh", 3, seed)
        x = torch.rand(1, 3, generator=torch.Generator().manual_seed(seed)).double()
        found = rj.contraction_rate(net, rj.LpBall(x, 0.0), p=p, weights=weights, limit=rj.Limit(parts=1))
        truth = measure(turned(jacobians(net, x), weights), p)
        torch.testing.assert_close(found.lower, truth, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.upper, truth, rtol=1e-9, atol=1e-9)
        assert float(found.lower) <= float(found.upper)
        assert found.status == ("exact",)


@pytest.mark.parametrize("p", [1, 2, inf])
def test_at_a_kink_only_what_all_slopes_have_is_attained(p: float) -> None:
    """ReLU(x) - ReLU(x) is 0; at its kink, the entry of the Jacobian is only known to be in [-1, 1]."""
    ones, zeros = torch.ones(2, 1).double(), torch.zeros(2).double()
    net = rj.load([(ones, zeros), (torch.tensor([[1.0, -1.0]]).double(), zeros[:1])], activation="relu")
    found = rj.contraction_rate(net, rj.LpBall(torch.zeros(1, 1).double(), 0.0), p=p, limit=rj.Limit(parts=1))
    assert float(found.lower) <= 0
    assert float(found.upper) >= 0


def test_a_contraction_that_only_parts_prove() -> None:
    net = field("tanh", 2, 0)
    region = rj.Box([[-1.0, -1.0]], [[1.0, 1.0]])
    whole = rj.contraction_rate(net, region, p=inf)
    found = rj.contraction_rate(net, region, p=inf, time_limit=2.0)
    assert float(found.upper) < float(whole.upper)
    assert found.parts[0] > 1
    assert found.status[0] in ("exact", "time")
    assert ("time was up" in repr(found)) == (found.status[0] == "time")


def test_regions_that_cannot_be_divided_are_bounded_once() -> None:
    net = field("tanh", 2, 0)
    everywhere = rj.contraction_rate(net, rj.LpBall(torch.zeros(1, 2).double(), inf), limit=rj.Limit(seconds=5))
    assert everywhere.parts == (1,)
    assert float(everywhere.upper) == float(rj.contraction_rate(net, rj.LpBall(torch.zeros(1, 2).double(), inf)).upper)


def test_limits_and_methods_are_not_mixed() -> None:
    net, x = field("tanh", 2, 0), torch.zeros(1, 2).double()
    for more in ({"method": rj.Chords()}, {"limit": rj.Limit()}):
        with pytest.raises(rj.InvalidRequest, match="time_limit"):
            rj.contraction_rate(net, x, radius=0.1, time_limit=1.0, **more)
    with pytest.raises(rj.InvalidRequest, match="norm 3"):
        rj.contraction_rate(net, x, radius=0.1, p=3)


def test_unbounded_entries_give_no_bound() -> None:
    mid, half, _, matrix = numbers(3, 0)
    half[1, 0, 2] = inf
    for weights in (None, matrix):
        upper = rj.matrix_measure(bounds(mid, half), weights=weights).upper
        assert upper.isinf().tolist() == [False, True, False]


BAD: dict[str, tuple[Any, Any, str]] = {
    "norm": (3, None, "norm 3"),
    "count": (2, torch.ones(2), "give 3"),
    "sign": (inf, torch.tensor([1.0, -1.0, 1.0]), "not all positive"),
    "scale": (inf, torch.tensor([1.0, 1e-300, 1.0], dtype=torch.float64), "too far apart"),
    "NaN": (2, torch.full((3,), torch.nan), "finite"),
    "matrix": (1, torch.eye(3), "p=2 only"),
    "asymmetric": (2, torch.ones(3, 3).triu(), "symmetric"),
    "nearly symmetric": (2, torch.eye(3, dtype=torch.float64) + 1e-13 * torch.ones(3, 3).triu(1), "up to 1e-13"),
    "indefinite": (2, torch.ones(3, 3) - 2 * torch.eye(3), "not positive definite: its least eigenvalue is about -2"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_refused(name: str) -> None:
    p, weights, words = BAD[name]
    mid, half, _, _ = numbers(3, 0)
    with pytest.raises(rj.InvalidRequest, match=words):
        rj.matrix_measure(bounds(mid, half), p=p, weights=weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", [1, 2, inf])
@pytest.mark.parametrize("given", [[0.3, 0.1], [0.1, 0.3], [[0.1, 0.01], [0.01, 0.3]]], ids=str)
def test_weights_are_those_that_are_given(given: list[Any], p: float, dtype: torch.dtype) -> None:
    """Lists are read as float64 numbers, whatever the dtype of the network is; the measure is compared exactly."""
    matrix = isinstance(given[0], list)
    if matrix and p != 2:
        return
    net = rj.load([([[0.0, 3.0], [7.0, 0.0]], None)], activation="relu", dtype=dtype)
    region = rj.LpBall(torch.zeros(1, 2), 1.0)
    measured = rj.matrix_measure(rj.jacobian_bounds(net, region), p=p, weights=given)
    divided = rj.contraction_rate(net, region, p=p, weights=given, limit=rj.Limit(parts=1))
    d = [Fraction(v) for row in given for v in (row if matrix else [row])]
    for found in (measured, divided):
        assert found.weights is not None
        assert [Fraction(v) for v in found.weights.flatten().tolist()] == d
        for bound, sign in ((found.upper, 1), (found.lower, -1)):
            if not bool(bound.isinf()):
                assert sign * _compared(Fraction(float(bound)), d, p) >= 0


def _compared(mu: Fraction, d: list[Fraction], p: float) -> Fraction:
    """A number of the sign of mu - μ_p of the matrix (0, 3; 7, 0) with weights, for mu > 0."""
    if len(d) == 4:  # the larger eigenvalue of P J + Jᵀ P - 2 mu P is 0 at μ: its determinant, for mu about μ
        a, b, c = d[0], d[1], d[3]
        left, off, right = 14 * b - 2 * mu * a, 3 * a + 7 * c - 2 * mu * b, 6 * b - 2 * mu * c
        return left * right - off * off
    up, down = 3 * d[0] / d[1], 7 * d[1] / d[0]
    return mu - ((up + down) / 2 if p == 2 else max(up, down))


def test_a_matrix_that_is_symmetric_up_to_rounding_is_made_symmetric() -> None:
    """The measure is that of the matrix in the result, bit for bit."""
    mid, half, _, matrix = numbers(3, 0)
    turned = matrix.clone()
    turned[1, 0] = torch.nextafter(matrix[1, 0], torch.tensor(inf, dtype=matrix.dtype))
    found = rj.matrix_measure(bounds(mid, half), weights=turned)
    assert found.weights is not None
    assert torch.equal(found.weights, found.weights.mT)
    again = rj.matrix_measure(bounds(mid, half), weights=found.weights)
    assert torch.equal(again.upper, found.upper)
    assert again.weights is not None
    assert torch.equal(again.weights, found.weights)


def test_many_samples_are_abbreviated() -> None:
    """A repr has all of a few samples, and the first of many with their number."""
    many, few = (rj.load([(torch.eye(2), None)] * 2, activation="relu") for _ in range(2))
    x = torch.arange(1, 1001).double()[:, None].expand(-1, 2)
    measured = rj.matrix_measure(rj.jacobian_bounds(many, rj.LpBall(x, 0.0)), p=inf)
    constants = rj.lipschitz(many, rj.LpBall(x, 0.0), method=rj.JacobianNorm(rj.Chords()), search=rj.Search(work=0))
    for shown in (repr(measured), repr(constants)):
        assert len(shown) < 300
        assert "… (1000 in all)" in shown
    all_of_them = repr(rj.matrix_measure(rj.jacobian_bounds(few, rj.LpBall(x[:8], 0.0)), p=inf))
    assert "in all" not in all_of_them
    assert all_of_them.count("1,") + all_of_them.count("1;") >= 8


def test_a_jacobian_that_is_not_square_is_refused() -> None:
    with pytest.raises(rj.InvalidRequest, match="square"):
        rj.matrix_measure(bounds(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)))


def test_a_quotient_takes_the_worse_end() -> None:
    number = torch.tensor([1.0, -1.0], dtype=torch.float64)
    least, most = torch.full_like(number, 0.5), torch.full_like(number, 2.0)
    found = quotient_above(number, least, most, rj.Rigorous())
    assert bool((found >= torch.tensor([2.0, -0.5], dtype=torch.float64)).all())
    assert bool((found <= torch.tensor([2.0, -0.5], dtype=torch.float64) + 1e-9).all())
    assert quotient_above(number, -least, most, rj.Rigorous()).tolist() == [inf, inf]


@pytest.mark.parametrize("p", [1, 2, inf])
def test_what_overflows_is_infinite(p: float) -> None:
    mid = torch.full((1, 3, 3), 1.7e308, dtype=torch.float64)
    assert rj.matrix_measure(bounds(mid, torch.zeros_like(mid)), p=p).upper.tolist() == [inf]


def attained_by_all(p: float, low: list[list[float]], high: list[list[float]], weights: object = None) -> float:
    """What the measure of every matrix between two is proved to be at least."""
    ends = Interval(torch.tensor([low], dtype=torch.float64), torch.tensor([high], dtype=torch.float64))
    n = len(low)
    network = rj.load([(torch.eye(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64))], activation="relu")
    problem = rj.Problem(network, rj.LpBall(torch.zeros(1, n, dtype=torch.float64), 1.0))
    scale = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    over = MeasureOver(p, scale, problem, torch.tensor(inf, dtype=torch.float64))
    return float(over._at_least(ends))


def test_what_all_matrices_attain_takes_the_least_of_each_entry() -> None:
    """1 + 0 in the first row, 1 + 2 in the first column; entries that may be 0 count as 0."""
    low, high = [[1.0, -3.0], [2.0, -9.0]], [[2.0, 1.0], [5.0, -8.0]]
    assert 1 - 1e-12 <= attained_by_all(inf, low, high) <= 1.0
    assert 3 - 1e-12 <= attained_by_all(1, low, high) <= 3.0
    assert attained_by_all(inf, [[0.0, -4.0], [0.0, -9.0]], [[0.0, -3.0], [0.0, -9.0]]) == pytest.approx(3, rel=1e-12)
    for p in (1, 2, inf):
        assert 1 - 1e-12 <= attained_by_all(p, [[1.0]], [[2.0]]) <= 1.0
        assert -2 - 1e-12 <= attained_by_all(p, [[-2.0]], [[-1.0]]) <= -2.0
        assert attained_by_all(p, [[-inf]], [[1.0]]) == -inf


def test_what_all_matrices_attain_is_weighted() -> None:
    """d_1 J_12 / d_2 = 3 for J_12 = 6; with P = diag(d²), and the x that suits 0.5 (J + Jᵀ) in its norm, 1.5."""
    matrix = [[0.0, 6.0], [0.0, 0.0]]
    assert 3 - 1e-12 <= attained_by_all(inf, matrix, matrix, [1.0, 2.0]) <= 3.0
    assert 3 - 1e-12 <= attained_by_all(1, matrix, matrix, [1.0, 2.0]) <= 3.0
    assert 1.5 - 1e-12 <= attained_by_all(2, matrix, matrix, [1.0, 2.0]) <= 1.5
    assert 1.5 - 1e-12 <= attained_by_all(2, matrix, matrix, [[1.0, 0.0], [0.0, 4.0]]) <= 1.5
    assert 1 - 1e-12 <= attained_by_all(2, [[1.0]], [[2.0]], [[7.0]]) <= 1.0

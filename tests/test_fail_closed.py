"""What is no number, upside down, infinite, singular, or indefinite by one ulp never comes out as certified."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import inf, nan
from typing import Any, final

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.arithmetic import Ball, Interval, Rigorous, definite, is_psd, largest_eigenvalue, spectral_norm
from recurjac.arithmetic.definite import root_up
from recurjac.jacobian import AbstractJacobianMethod
from recurjac.norms import AbstractNormMethod

METHODS: tuple[AbstractJacobianMethod, ...] = (
    rj.FastLip(), rj.RecurJac(), rj.Chords(), rj.Reversed(rj.RecurJac()), rj.ReversedAfterFirst(rj.Chords()),
    rj.ForwardTangents(), rj.XLinear(), rj.Centred(), rj.QuadraticClamped(), rj.InTime(), rj.GradientForms(),
    rj.Cut(rj.Chords(), most=5), rj.BranchedEntries(rj.Chords(), limit=rj.Limit(20, 2)), rj.AutoEntries(1.0),
)  # fmt: skip
NORMS: tuple[AbstractNormMethod, ...] = (
    rj.ProductOfNorms(), rj.QuadraticNorm(3), rj.CoupledNorm(2), rj.SplitNorm(2, 2), rj.CornerNorm(),
    rj.Branched(limit=rj.Limit(20, 2)), rj.JacobianNorm(rj.Chords(), rj.ChordSum()), rj.Auto(1.0),
)  # fmt: skip
exact = Rigorous().exact
Question = Callable[[rj.Network, rj.LpBall], Any]
QUESTIONS: dict[str, Question] = {
    **{f"entries by {m.title} {k}": partial(rj.jacobian_bounds, method=m) for k, m in enumerate(METHODS)},
    **{f"norm by {m.title} {k}": partial(rj.lipschitz, p=2, q=2, method=m) for k, m in enumerate(NORMS)},
    "ranges": rj.preactivation_bounds,
    "radius": lambda net, ball: rj.certified_radius(net, ball),
    "trends": lambda net, ball: rj.monotone(net, ball, limit=rj.Limit(20, 2)),
    "Hessians": rj.hessian_bounds,
    "curvature": rj.curvature,
    "stationary points": lambda net, ball: rj.stationary_points(net, ball, output=0),
    "free of stationary points": lambda net, ball: rj.stationary_free_radius(net, ball, output=0),
}  # fmt: skip


@pytest.mark.parametrize("question", QUESTIONS)
def test_weights_that_are_spoiled_after_loading(question: str) -> None:
    """A network shares the parameters of its module, which training may spoil."""
    x, module = torch.zeros(1, 3, dtype=torch.float64), nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    module = module.double()
    net = rj.load(module, x)
    for number, parameter in itertools.product((nan, inf, -inf), module.parameters()):
        entry = parameter.detach().view(-1)[1:2]
        before = entry.clone()
        entry.fill_(number)
        with pytest.raises(rj.InvalidNetwork, match="NaN or infinite"):
            QUESTIONS[question](net, rj.LpBall(x, 0.1, 2))
        entry.copy_(before)


# what extensions and callers give


@final
@dataclass(frozen=True)
class Says(AbstractNormMethod):
    """A method that is wrong: it gives this number as the norm."""

    number: float

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractNormMethod]:
        return {}

    @property
    def title(self) -> str:
        return "a wrong norm"

    def supports(self, p: float, q: float) -> bool:
        return True

    def norm(self, gradients: rj.Gradients, p: float, q: float) -> Tensor:
        return torch.full((1,), self.number, dtype=torch.float64)

    def rows(self, gradients: rj.Gradients, p: float) -> Tensor:
        return torch.full((1, 2), self.number, dtype=torch.float64)

    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]:
        return []


def _net() -> rj.Network:
    eye = torch.eye(3, dtype=torch.float64)
    return rj.load([(eye, None), (eye[:2], None)], activation="tanh")


@pytest.mark.parametrize("number", [-inf, -1.0, -1e-300, 0.0, 0.5])
def test_a_norm_below_what_is_attained_is_an_error(number: float) -> None:
    with pytest.raises(rj.UnsoundBounds):
        rj.lipschitz(_net(), rj.LpBall(torch.zeros(3), 0.1, 2), p=2, q=2, method=Says(number))


def test_a_norm_that_is_no_number_bounds_nothing() -> None:
    found = rj.lipschitz(_net(), rj.LpBall(torch.zeros(3), 0.1, 2), p=2, q=2, method=Says(nan))
    assert found.upper.item() == inf


@pytest.mark.parametrize(("lower", "upper"), [(1.0, 0.0), (nan, 0.0), (0.0, nan), (5e-324, 0.0), (inf, -inf)])
def test_ends_that_cross_are_no_interval(lower: float, upper: float) -> None:
    ends = torch.tensor([[0.0, lower], [1.0, upper]], dtype=torch.float64)
    with pytest.raises(rj.UnsoundBounds):
        Interval(*ends)
    with pytest.raises(rj.InvalidRegion):
        rj.Box(*ends)


# singular, and indefinite by one ulp


def _tensor(*rows: object) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("weights", [
    _tensor([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]), torch.ones(3, 3, dtype=torch.float64),
    torch.diag(_tensor(1.0, 1.0, 0.0)), torch.diag(_tensor(1.0, 1.0, -5e-324)), torch.diag(_tensor(1.0, nan, 1.0)),
    torch.diag(_tensor(1.0, inf, 1.0)), [1.0, 1.0, 0.0], [1.0, 1.0, nan], [1.0, -5e-324, 1.0],
])  # fmt: skip
def test_a_singular_norm_measures_nothing(weights: Any) -> None:
    eye = torch.eye(3, dtype=torch.float64)
    bounds = rj.jacobian_bounds(rj.load([(eye, None), (-eye, None)], activation="tanh"), rj.LpBall(torch.zeros(3), 0.1))
    with pytest.raises(rj.InvalidRequest, match="weights"):
        rj.matrix_measure(bounds, p=2, weights=weights)


def _almost(n: int, seed: int) -> Tensor:
    """A matrix B Bᵀ of small whole numbers, whose rank is n - 1 at most, less one ulp of a diagonal entry."""
    g = torch.Generator().manual_seed(seed)
    half = torch.randint(-8, 9, (n, n - 1), generator=g).double()
    matrix = half @ half.mT
    k = int(matrix.diagonal().argmax())
    matrix[k, k] = torch.nextafter(matrix[k, k], torch.tensor(-inf, dtype=torch.float64))
    return matrix


def _is_indefinite(matrix: Tensor) -> bool:
    """Whether vᵀ M v < 0 for a rational v: a row of the adjugate's direction, found by elimination."""
    rows = [[Fraction(v) for v in row] for row in matrix.tolist()]
    for k in range(len(rows)):
        if rows[k][k] < 0 or (rows[k][k] == 0 and any(v != 0 for v in rows[k][k + 1 :])):
            return True
        for i in range(k + 1, len(rows)):
            factor = rows[i][k] / rows[k][k] if rows[k][k] else Fraction(0)
            rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k], strict=True)]
    return False


@pytest.mark.parametrize("n", [2, 3, 5])
def test_what_is_indefinite_by_one_ulp_is_not_definite(n: int) -> None:
    indefinite = 0
    for seed in range(30):
        matrix = _almost(n, seed)
        if _is_indefinite(matrix) and matrix.max() >= 1:
            indefinite += 1
            for scale in (2.0**-900, 1.0, 2.0**900):
                assert not is_psd(exact(matrix * scale))
                assert largest_eigenvalue(exact(-matrix * scale)) > 0
            assert not is_psd(Ball(matrix, torch.full_like(matrix, 2.0**-40)))
    assert indefinite >= 10


def test_a_factor_that_fails_at_the_last_pivot_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cholesky says that it has a factor of a matrix that has none, or gives numbers that are none."""
    matrix = _almost(3, 0)
    for bad in (nan, inf, 0.0):

        def wrong(m: Tensor, bad: float = bad) -> Any:
            lower = torch.full_like(m, bad).tril()
            return type(
                "Found", (), {"__iter__": lambda _: iter((lower, torch.zeros(m.shape[:-2], dtype=torch.int32)))}
            )()

        monkeypatch.setattr(torch.linalg, "cholesky_ex", wrong)
        assert not is_psd(exact(matrix))
        assert not is_psd(exact(-torch.eye(3, dtype=torch.float64)))


@pytest.mark.parametrize("number", [nan, inf, -inf])
def test_a_norm_of_no_numbers_is_infinite(number: float) -> None:
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[1, 2] = number
    assert spectral_norm(exact(matrix)) == inf
    assert not is_psd(exact(matrix))
    assert spectral_norm(Ball(torch.eye(3, dtype=torch.float64), matrix.abs())) == inf


def test_a_singular_hessian_isolates_no_point() -> None:
    """(x + y)² is least on a line: no point of it is isolated; x² + ε y² has one, however small ε is."""
    square = rj.load([(_tensor([1.0, 1.0]), None), (_tensor([1.0]), None)], activation="square")
    assert rj.stationary_points(square, rj.LpBall(torch.zeros(2), 1.0), output=0).points == ((),)


# what mutation testing asked for


def test_roots_are_rounded_up() -> None:
    squares = torch.tensor([2.0, 3.0, 5.0, 7.0, 1e-300, 5e-324, 0.1, 1e300], dtype=torch.float64)
    for square, root in zip(squares.tolist(), root_up(squares).tolist(), strict=True):
        assert Fraction(root) ** 2 >= Fraction(square)
    assert root_up(torch.tensor([-1.0, 0.0])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("n", [2, 3, 6])
def test_the_rounding_of_the_product_of_factors_is_covered(n: int) -> None:
    """The row sums of |s I - M - L Lᵀ| in rational arithmetic, for the L that is used."""
    lost = 0
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        half = torch.randn(n, n, generator=g, dtype=torch.float64)
        matrix = -(half @ half.mT) - torch.eye(n, dtype=torch.float64)
        matrix = matrix.tril() + matrix.tril(-1).mT
        s = torch.zeros((), dtype=torch.float64)
        found = Fraction(definite.BlockTridiagonal((exact(matrix),), ())._shortfall(s).item())
        lower, ok = definite._cholesky(-matrix)
        assert bool(ok)
        rows, rest = [[Fraction(v) for v in row] for row in lower.tolist()], (-matrix).tolist()
        sums = [
            sum(abs(Fraction(rest[i][j]) - sum(a * b for a, b in zip(rows[i], rows[j], strict=True))) for j in range(n))
            for i in range(n)
        ]
        assert max(sums) <= found
        plain = (-matrix - lower @ lower.mT).abs().sum(-1)
        lost += Fraction(plain.max().item()) < max(sums)
    assert lost > 0  # the residual alone would not do

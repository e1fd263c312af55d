"""Proved eigenvalues and spectral norms, against rational arithmetic and without tolerance."""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import inf, nan

import pytest
import torch
from torch import Tensor

from recurjac.arithmetic import (
    Ball,
    BlockTridiagonal,
    Fast,
    Rigorous,
    definite,
    is_psd,
    largest_eigenvalue,
    least_eigenvalue,
    spectral_norm,
)
from tests.exact import Exact, rational
from tests.helpers import numbers
from tests.marks import every_dtype, every_kind, every_seed

SIZES = (1, 2, 3, 5)
exact = Rigorous().exact


def symmetric(kind: str, n: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    lower = numbers(kind, n * n, seed, dtype).reshape(n, n).tril()
    return lower + lower.tril(-1).mT


def nonnegative(matrix: Exact) -> bool:
    """Whether a symmetric matrix of fractions has no negative eigenvalue, by elimination."""
    rest = matrix.copy()
    for k in range(len(rest)):
        pivot = rest[k, k]
        if pivot < 0 or (pivot == 0 and any(v != 0 for v in rest[k, k + 1 :])):
            return False
        for i in range(k + 1, len(rest)):
            if pivot != 0:
                rest[i, k + 1 :] = rest[i, k + 1 :] - rest[i, k] / pivot * rest[k, k + 1 :]
    return True


def above(bound: Fraction, matrix: Exact) -> bool:
    """Whether no eigenvalue of a symmetric matrix of fractions exceeds `bound`."""
    shifted = -matrix
    for i in range(len(matrix)):
        shifted[i, i] += bound
    return nonnegative(shifted)


def room(matrix: Tensor) -> Fraction:
    """What a bound may exceed an eigenvalue by: 1e-12 of the largest row sum, or a rounding to float32."""
    share = Fraction(1, 10**12) if matrix.dtype == torch.float64 else Fraction(1, 10**7)
    return share * max(sum((abs(v) for v in row), Fraction(0)) for row in rational(matrix))


def test_the_truth_is_known() -> None:
    good = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    assert nonnegative(rational(good))
    assert above(Fraction(2), rational(good))
    assert not above(Fraction(2) - Fraction(1, 10**9), rational(good))
    assert not nonnegative(rational(torch.tensor([[0.0, 1.0], [1.0, 5.0]])))


@every_kind
@every_dtype
@every_seed
@pytest.mark.parametrize("n", SIZES)
def test_eigenvalues_are_bounded_and_tight(kind: str, dtype: torch.dtype, seed: int, n: int) -> None:
    matrix = symmetric(kind, n, seed, dtype)
    most, least, truth = largest_eigenvalue(exact(matrix)), least_eigenvalue(exact(matrix)), rational(matrix)
    assert most.dtype == least.dtype == dtype
    for bound, side in ((float(most), truth), (-float(least), -truth)):
        if bound == inf:
            assert kind == "huge"
            continue
        assert above(Fraction(bound), side)
        if kind not in ("tiny", "subnormal"):
            assert not above(Fraction(bound) - 2 * room(matrix), side) or not truth.any()


@every_seed
@pytest.mark.parametrize("spread", [1e-12, 1e-3, 1.0])
def test_every_matrix_in_a_ball_is_covered(seed: int, spread: float) -> None:
    mid, rad = symmetric("ordinary", 4, seed), symmetric("ordinary", 4, seed + 50).abs() * spread
    ball = Ball(mid, rad)
    most, least = Fraction(float(largest_eigenvalue(ball))), Fraction(float(least_eigenvalue(ball)))
    for k in range(20):
        share = symmetric("ordinary", 4, seed + 100 * k + 7).sign()
        matrix = rational(mid) + rational(share) * rational(rad)
        assert above(most, matrix)
        assert above(-least, -matrix)


@every_seed
def test_midpoints_need_not_be_symmetric(seed: int) -> None:
    matrix = symmetric("ordinary", 4, seed)
    shift = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) / 10
    ball = Ball(matrix + shift, (shift.abs() * 1.001).clamp(min=1e-9))
    assert above(Fraction(float(largest_eigenvalue(ball))), rational(matrix))


@pytest.mark.parametrize("scale", [0.0, 1e-300, 1e-150, 1.0, 1e150, 1e300])
def test_matrices_of_low_rank_and_any_size(scale: float) -> None:
    ones, zero = torch.ones(3, 3, dtype=torch.float64) * scale, torch.zeros(3, 3, dtype=torch.float64)
    for matrix in (ones, zero, torch.diag(ones[0]), torch.diag(torch.tensor([1.0, 0.0, -2.0]).double() * scale)):
        most = Fraction(float(largest_eigenvalue(exact(matrix))))
        assert above(most, rational(matrix))
        slack = max(room(matrix), Fraction(scale) / 10**6 if scale < 1e-200 else Fraction(0))
        assert scale == 0 or not matrix.any() or not above(most - 2 * slack, rational(matrix))
    assert float(largest_eigenvalue(exact(zero))) == float(least_eigenvalue(exact(zero))) == 0


def test_what_is_definite() -> None:
    def proved(*rows: list[float]) -> bool:
        return bool(is_psd(exact(torch.tensor(rows, dtype=torch.float64))))

    assert proved([2, 1], [1, 2])
    assert proved([0, 0], [0, 0])
    assert proved([0, 0], [0, 3])
    assert not proved([1, 2], [2, 1])
    assert not proved([nan, 0], [0, 1])
    assert not proved([inf, 0], [0, 1])
    assert bool(is_psd(exact(torch.zeros(0, 0))))


def test_empty_infinite_and_batched() -> None:
    assert float(largest_eigenvalue(exact(torch.zeros(0, 0)))) == -inf
    assert largest_eigenvalue(exact(torch.zeros(2, 0, 0))).tolist() == [-inf, -inf]
    batch = torch.eye(2, dtype=torch.float64).repeat(4, 1, 1)
    batch[1, 0, 1], batch[2, 1, 1] = nan, inf
    batch[3] *= 1e200
    most, least = largest_eigenvalue(exact(batch)), least_eigenvalue(exact(batch))
    assert most.tolist() == [pytest.approx(1.0, rel=1e-12), inf, inf, pytest.approx(1e200, rel=1e-12)]
    assert least.tolist() == [pytest.approx(1.0, rel=1e-12), -inf, -inf, pytest.approx(1e200, rel=1e-12)]
    unknown = Ball(batch[0], torch.full((2, 2), inf, dtype=torch.float64))
    assert float(largest_eigenvalue(unknown)) == inf
    assert largest_eigenvalue(Fast().exact(batch[0])).item() == pytest.approx(1.0)


def _random_factor(matrix: Tensor) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    factor = torch.randn(matrix.shape, generator=g, dtype=matrix.dtype).tril()
    return factor, torch.ones(matrix.shape[:-2], dtype=torch.bool)


def _no_factor(matrix: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(matrix), torch.ones(matrix.shape[:-2], dtype=torch.bool)


def _half_factor(matrix: Tensor) -> tuple[Tensor, Tensor]:
    return torch.linalg.cholesky_ex(matrix)[0] / 2, torch.ones(matrix.shape[:-2], dtype=torch.bool)


@pytest.mark.parametrize("wrong", [_random_factor, _no_factor, _half_factor])
@every_seed
def test_a_wrong_factor_proves_nothing_wrong(seed: int, wrong: object, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = symmetric("ordinary", 5, seed)
    monkeypatch.setattr(definite, "_cholesky", wrong)
    assert above(Fraction(float(largest_eigenvalue(exact(matrix)))), rational(matrix))
    blocks = BlockTridiagonal((exact(matrix[:2, :2]), exact(matrix[2:, 2:])), (exact(matrix[2:, :2]),))
    assert above(Fraction(float(blocks.largest_eigenvalue())), rational(matrix))


@pytest.mark.parametrize("share", [-2.0, 0.0, 0.5, 0.999999, 1.5])
@every_seed
def test_a_wrong_guess_proves_nothing_wrong(seed: int, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = symmetric("ordinary", 5, seed)
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda m, true=torch.linalg.eigvalsh: share * true(m))
    assert above(Fraction(float(largest_eigenvalue(exact(matrix)))), rational(matrix))


@every_seed
@pytest.mark.parametrize("sizes", [(3,), (2, 3), (4, 1, 3), (2, 2, 2, 2, 2)], ids=str)
def test_blocks_are_the_matrix_that_they_make(seed: int, sizes: tuple[int, ...]) -> None:
    n = sum(sizes)
    whole, ends = symmetric("ordinary", n, seed), torch.tensor([0, *sizes]).cumsum(0).tolist()
    for i, a in enumerate(ends[1:], 1):
        for b in ends[i + 1 : i + 2]:
            whole[b:, ends[i - 1] : a] = 0
            whole[ends[i - 1] : a, b:] = 0
    parts = [slice(a, b) for a, b in itertools.pairwise(ends)]
    blocks = BlockTridiagonal(
        tuple(exact(whole[p, p]) for p in parts),
        tuple(exact(whole[q, p]) for p, q in itertools.pairwise(parts)),
    )
    found = Fraction(float(blocks.largest_eigenvalue()))
    assert above(found, rational(whole))
    assert not above(found - 4 * room(whole), rational(whole))


@pytest.mark.parametrize("n", [1200])
def test_large_matrices_are_guessed_by_lanczos(n: int) -> None:
    factor = torch.randn(n, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    truth = float(torch.linalg.matrix_norm(factor, 2) ** 2)
    found = float(largest_eigenvalue(exact(factor).matmul(exact(factor))))
    assert truth <= found <= truth * (1 + 1e-9)


@every_kind
@every_dtype
@every_seed
@pytest.mark.parametrize("shape", [(1, 1), (2, 4), (4, 2), (3, 3)], ids=str)
def test_spectral_norms_are_bounded_and_tight(kind: str, dtype: torch.dtype, seed: int, shape: tuple[int, int]) -> None:
    matrix = numbers(kind, shape[0] * shape[1], seed, dtype).reshape(shape)
    found, truth = float(spectral_norm(exact(matrix))), rational(matrix)
    assert found < inf or kind == "huge"
    if found < inf:
        gram = truth.dot(truth.T) if shape[0] <= shape[1] else truth.T.dot(truth)
        assert above(Fraction(found) ** 2, gram)
        if kind not in ("tiny", "subnormal"):
            share = 1 - (Fraction(1, 10**11) if dtype == torch.float64 else Fraction(1, 10**6))
            assert not truth.any() or not above((Fraction(found) * share) ** 2, gram)


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
def test_spectral_norms_of_any_size(scale: float) -> None:
    matrix = torch.tensor([[3.0, 0.0], [4.0, 5.0]], dtype=torch.float64)
    found = float(spectral_norm(exact(matrix * scale)))
    truth = rational(matrix * scale)
    assert above(Fraction(found) ** 2, truth.dot(truth.T))
    assert found == pytest.approx(45**0.5 * scale, rel=1e-6 if scale < 1e-200 else 1e-12)


def test_spectral_norms_fail_closed_and_are_differentiable() -> None:
    g = torch.Generator().manual_seed(0)
    batch = torch.randn(3, 2, 4, generator=g, dtype=torch.float64)
    batch[1, 0, 0] = nan
    assert spectral_norm(exact(batch))[1] == inf
    assert torch.equal(spectral_norm(exact(torch.zeros(2, 0, 3))), torch.zeros(2))
    live = batch[::2].clone().requires_grad_()
    bound, plain = spectral_norm(exact(live)), torch.linalg.matrix_norm(live, 2)
    assert bool((bound >= plain).all())
    for a, b in zip(torch.autograd.grad(bound.sum(), live), torch.autograd.grad(plain.sum(), live), strict=True):
        assert torch.equal(a, b)

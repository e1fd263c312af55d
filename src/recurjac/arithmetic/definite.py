"""Proved bounds of the eigenvalues of symmetric matrices, and of the spectral norms of arbitrary matrices.

For every real L the matrix L Lᵀ has no negative eigenvalue.  Hence for symmetric M and any number s

    λ_max(M) = s - λ_min(s I - M)  <=  s + ‖s I - M - L Lᵀ‖₂  <=  s + max_i Σ_j |s I - M - L Lᵀ|_ij,

where the last step holds because the residual is symmetric.  Nothing needs to be known about s and L.  They are
computed in plain floating point: s a little above the largest eigenvalue, and L as a Cholesky factor of s I - M.  If
either is wrong, the residual is large.  The residual is a `Ball`, so that its rounding and the radius of M are covered.
Rump (2006, BIT 46, 433) also proves definiteness with a Cholesky factor, but by an error bound of Cholesky's algorithm,
which is not needed here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ldexp
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic.ball import Ball
from recurjac.arithmetic.lanczos import largest_eigenpair
from recurjac.arithmetic.platform import round_up_to
from recurjac.arithmetic.rounding import gamma_of, grow, round_up, tiny_of, with_derivative_of, zero_of

_DENSE = 1024
"""Up to this size, all eigenvalues are computed to guess the largest; above it, Lanczos' iteration is faster."""
_STEPS = 300
"""The largest number of steps of that iteration."""
_TRIES = 12
"""The number of guesses tried, each further above the largest eigenvalue."""
_FURTHER = 16.0
"""The factor by which the distance to it grows from guess to guess."""
_EXPONENT = 1000
"""Matrices are scaled by powers of two with exponents from minus this number to this number."""
_MODERATE = 64
"""Matrices are not scaled if the exponent of the largest entry is from minus this number to this number."""


def largest_eigenvalue(matrix: Ball) -> Tensor:
    """A number not below the largest eigenvalue of a symmetric matrix (..., n, n): (...,), detached.

    It is proved for each symmetric matrix in the ball; the midpoint itself need not be symmetric.  It exceeds the
    exact eigenvalue by about the largest row sum of the radius plus n² roundings of the largest absolute eigenvalue.
    It is infinite if an entry is not finite, -inf for n = 0, and unproved if the radius is None.
    """
    return BlockTridiagonal((matrix,), ()).largest_eigenvalue()


def least_eigenvalue(matrix: Ball) -> Tensor:
    """A number not above the least eigenvalue of a symmetric matrix M: minus the largest eigenvalue of -M.

    It is -inf if nothing is known, and inf for n = 0.
    """
    return -largest_eigenvalue(-matrix)


def is_psd(matrix: Ball) -> Tensor:
    """Whether a symmetric matrix (..., n, n) is proved to have no negative eigenvalue: (...,).

    False is inconclusive.  For a matrix that is exactly singular, but not 0, the proof rarely succeeds.
    """
    return least_eigenvalue(matrix) >= 0


def spectral_norm(matrix: Ball) -> Tensor:
    """A number not below ‖M‖₂ for each matrix M (..., m, n) in the ball: (...,); its derivative is that of ‖mid‖₂.

    For |M - mid| <= rad entry by entry, ‖M‖₂ <= ‖mid‖₂ + ‖rad‖₂; the square of each is an eigenvalue.  The result
    is infinite if an entry is not finite, and the plain floating-point number if the radius is None.
    """
    if matrix.rad is None:
        return _plain_norm(matrix.mid)
    with torch.no_grad():
        bound = _proved_norm(matrix.mid.to(torch.float64))
        if not matrix.exact:
            rest = _proved_norm(matrix.rad.expand_as(matrix.mid).to(torch.float64))
            bound = (_exact(bound) + _exact(rest)).upper()
        bound = round_up_to(bound, matrix.mid.dtype)
    if not matrix.mid.requires_grad:
        return bound
    return with_derivative_of(_plain_norm(matrix.mid), bound)


def root_up(square: Tensor) -> Tensor:
    """A number not below the square root of `square`; 0 for negative numbers."""
    return grow(square.clamp(min=0).sqrt(), 1)


def _plain_norm(matrix: Tensor) -> Tensor:
    found: Tensor = torch.linalg.matrix_norm(matrix, 2)
    return found


def _proved_norm(matrix: Tensor) -> Tensor:
    """`spectral_norm` of an exact matrix: the root of the largest eigenvalue of M Mᵀ or MᵀM."""
    if matrix.numel() == 0:
        return matrix.new_zeros(matrix.shape[:-2])
    finite = _finite([_exact(matrix)])
    down, up = _power_of_two([_exact(matrix)], finite)
    scaled = _cleared(_exact(matrix), finite) * _exact(down)
    wide = scaled if matrix.shape[-2] <= matrix.shape[-1] else scaled.map(lambda t: t.mT)
    found = (_exact(root_up(largest_eigenvalue(wide.matmul(wide)))) * _exact(up)).upper()
    return torch.where(finite, found, torch.inf)


def _exact(tensor: Tensor) -> Ball:
    return Ball(tensor, zero_of(tensor.dtype, tensor.device))


def _cleared(matrix: Ball, finite: Tensor) -> Ball:
    """The matrices (..., m, n), with 0 in place of those that are not `finite` (...,)."""
    return matrix.map(lambda t: torch.where(finite[..., None, None], t, 0.0))


def _finite(parts: Sequence[Ball]) -> Tensor:
    """Whether all entries and radii of matrices (..., m, n) are finite: (...,)."""
    sums = [p.mid + (0 if p.rad is None else p.rad) for p in parts]
    return torch.stack([s.isfinite().flatten(-2).all(-1) for s in sums]).all(0)


def _power_of_two(parts: Sequence[Ball], finite: Tensor) -> tuple[Tensor, Tensor]:
    """A power of two that brings the largest entry near 1, if it is far from 1: (..., 1, 1), and its inverse (...,)."""
    most = torch.stack([p.mid.abs().flatten(-2).amax(-1) for p in parts]).amax(0)
    found = torch.frexp(torch.where(finite, most, 1.0)).exponent.clamp(-_EXPONENT, _EXPONENT).flatten().tolist()
    exponents = [0 if abs(e) <= _MODERATE else e for e in found]
    down, up = (most.new_tensor([ldexp(1.0, s * e) for e in exponents]).reshape(most.shape) for s in (-1, 1))
    return down[..., None, None], up


@final
@dataclass(frozen=True)
class BlockTridiagonal:
    """A symmetric block matrix: `diagonal` i (..., n_i, n_i), `below` i (..., n_(i+1), n_i) under it, the transpose of
    the latter above it, and 0 elsewhere.

    The exact matrix is symmetric; midpoints need not be.  A single block is a full matrix.
    """

    diagonal: tuple[Ball, ...]
    below: tuple[Ball, ...]

    def largest_eigenvalue(self) -> Tensor:
        """A number not below the largest eigenvalue: (...,), detached; infinite if an entry is not finite.

        It is -inf for an empty matrix.  If radii are None, it is the plain floating-point number.
        """
        with torch.no_grad():
            like = self.diagonal[0].mid
            if sum(d.shape[-1] for d in self.diagonal) == 0:
                return like.new_full(like.shape[:-2], -torch.inf)
            double = self._map(lambda b: b.to(torch.float64, like.device))
            finite = _finite(double._parts)
            down, up = _power_of_two(double._parts, finite)
            if bool((down != 1).any()) or not bool(finite.all()):
                double = double._map(lambda b: _cleared(b, finite) * _exact(down))
            if any(b.rad is None for b in self._parts):
                found = double._guess()[0] * up
            else:
                found = (_exact(double._proved()) * _exact(up)).upper()
            return round_up_to(torch.where(finite, found, torch.inf), like.dtype)

    @property
    def _parts(self) -> tuple[Ball, ...]:
        return (*self.diagonal, *self.below)

    def _map(self, change: Callable[[Ball], Ball]) -> BlockTridiagonal:
        return BlockTridiagonal(tuple(change(b) for b in self.diagonal), tuple(change(b) for b in self.below))

    def _proved(self) -> Tensor:
        """The least bound from the Gershgorin discs and a few guesses; entries are finite."""
        best = self._discs()
        guess, size = self._guess()
        above = size * (sum(d.shape[-1] for d in self.diagonal) * torch.finfo(size.dtype).eps)
        for _ in range(_TRIES):
            proved = (guess + above) + self._shortfall(guess + above)
            proved = torch.nextafter(proved, torch.full_like(proved, torch.inf))
            best = torch.fmin(best, proved)
            if bool(proved.isfinite().all()):
                break
            above = above * _FURTHER
        return best

    def _guess(self) -> tuple[Tensor, Tensor]:
        """Approximations of the largest and the largest absolute eigenvalue of the midpoints: (...,) each."""
        whole = self.diagonal[0].mid
        if len(self.diagonal) == 1 and (whole.dim() > 2 or len(whole) <= _DENSE):
            values = torch.linalg.eigvalsh(whole / 2 + whole.mT / 2)
            return values[..., -1], values.abs().amax(-1)
        found = largest_eigenpair(self._times, sum(len(b.mid) for b in self.diagonal), _STEPS, whole)
        return found.value, found.size

    def _times(self, vector: Tensor) -> Tensor:
        """The midpoints times a vector, in plain floating point."""
        parts = vector.split([len(b.mid) for b in self.diagonal])
        images = [b.mid @ v for b, v in zip(self.diagonal, parts, strict=True)]
        for i, b in enumerate(self.below):
            images[i] = images[i] + b.mid.mT @ parts[i + 1]
            images[i + 1] = images[i + 1] + b.mid @ parts[i]
        return torch.cat(images)

    def _discs(self) -> Tensor:
        """An upper bound of all eigenvalues: the largest M_ii + Σ_j≠i |M_ij| (Gershgorin): (...,)."""
        middles, sums = [], []
        for i, block in enumerate(self.diagonal):
            middles.append(block.map(lambda t: t.diagonal(dim1=-2, dim2=-1)).upper())
            eye = torch.eye(block.shape[-1], dtype=torch.bool, device=block.mid.device)
            total = _sums(block.map(lambda t, at=eye: torch.where(at, 0.0, t)), -1)
            total = total if i == 0 else total + _sums(self.below[i - 1], -1)
            sums.append(total if i == len(self.below) else total + _sums(self.below[i], -2))
        return round_up(torch.cat(middles, -1), grow(torch.cat(sums, -1), 2)).amax(-1)

    def _shortfall(self, s: Tensor) -> Tensor:
        """A number r >= 0 for which s + r is proved not to be below any eigenvalue: (...,); infinite without a factor.

        It is the largest row sum of |s I - M - L Lᵀ|, where L has blocks on its diagonal and directly under it.
        s: (...,).
        """
        sums: list[Tensor] = []
        ended = torch.ones_like(s, dtype=torch.bool)
        over: Ball | None = None  # the contribution to L Lᵀ from the block of L under the last one
        beside = torch.zeros((), dtype=s.dtype, device=s.device)  # the row sums of the residual under the last block
        for i, block in enumerate(self.diagonal):
            rest = _exact(torch.diag_embed(s.unsqueeze(-1).expand(block.shape[:-1]))) - block
            rest = rest if over is None else rest - over
            lower, found = _cholesky(rest.mid)
            ended = ended & found
            if not bool(ended.any()):
                return torch.full_like(s, torch.inf)
            total = _sums(rest - _exact(lower @ lower.mT), -1) + _error_sums(lower, lower)
            sums.append(total + beside)
            if i < len(self.below):
                under = _divided(-self.below[i].mid, lower)
                low = -self.below[i] - _exact(under @ lower.mT)
                sums[-1] = sums[-1] + _sums(low, -2) + _error_sums(lower, under)
                beside = _sums(low, -1) + _error_sums(under, lower) + _error_sums(under, under)
                over = _exact(under @ under.mT)
        most = grow(torch.cat(sums, -1), 8).amax(-1)
        return torch.where(ended & most.isfinite(), most, torch.inf)


def _cholesky(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """An approximate Cholesky factor (..., n, n), and whether it was found (...,); nothing is proved about either."""
    lower, info = torch.linalg.cholesky_ex(matrix)
    return lower.nan_to_num_(0.0, 0.0, 0.0).tril_(), info == 0


def _divided(matrix: Tensor, lower: Tensor) -> Tensor:
    """An approximation of the X (..., m, n) with X lowerᵀ = `matrix`; nothing is proved about it."""
    found: Tensor = torch.linalg.solve_triangular(lower.mT, matrix, upper=True, left=False)
    return found.nan_to_num_(0.0, 0.0, 0.0)


def _sums(matrix: Ball, dim: int) -> Tensor:
    """Upper bounds of the sums of absolute values along `dim` of a matrix."""
    size = matrix.mid.abs() if matrix.rad is None else matrix.mid.abs() + matrix.rad
    return grow(size.sum(dim), size.shape[dim] + 1)


def _error_sums(a: Tensor, b: Tensor) -> Tensor:
    """Upper bounds of Σ_j |fl(a bᵀ) - a bᵀ|_ij, which is at most γ_n |a| (|b|ᵀ 1) plus underflow: (..., m).

    a: (..., m, n), b: (..., k, n).
    """
    n, k = b.shape[-1], b.shape[-2]
    columns = b.abs().sum(-2).unsqueeze(-1)
    found = (a.abs() @ columns).squeeze(-1) * gamma_of(n, a.dtype)
    return grow(found, n + k + 2) + (4 * (n + 1) * (k + 1) * tiny_of(a))

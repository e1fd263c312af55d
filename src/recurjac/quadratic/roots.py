"""Roots of matrices: F with F Fᵀ not below a symmetric matrix, which is proved (docs/mathematics.md, §5.10)."""

from __future__ import annotations

import torch
from torch import Tensor

from recurjac.arithmetic import Ball
from recurjac.arithmetic.rounding import grow, zero_of

_TRIES = 6
"""How often a factor is tried, each time with more added to the diagonal."""
_FURTHER = 32.0
"""How much more is added each time."""
_DOWN = 2.0**-16
"""The least scale of a row, relative to the largest."""


def root_above(matrix: Ball) -> Tensor | None:
    """F (..., n, n) with F Fᵀ - M positive semidefinite for each symmetric M in the ball; None if none is found.

    M is scaled by powers of two to a diagonal near 1.  F is a Cholesky factor of M + ε I, and the rows of F Fᵀ - M are
    diagonally dominant (Gershgorin).  Without radii nothing is proved, and F is differentiable.
    """
    mid = matrix.mid / 2 + matrix.mid.mT / 2
    if mid.shape[-1] == 0 or not bool(mid.isfinite().all()):
        return mid if mid.numel() == 0 else None
    some = matrix.size if matrix.rad is None else matrix.size + matrix.rad
    some = some.amax((-2, -1))
    scale = _scale(mid.detach().diagonal(dim1=-2, dim2=-1), some)
    n, eps = mid.shape[-1], torch.finfo(mid.dtype).eps
    if matrix.rad is None:
        lift = torch.diag_embed(scale.square() * (8 * n * eps))
        factor, info = torch.linalg.cholesky_ex(mid + lift)
        return factor if bool((info == 0).all()) else None
    down = Ball(1 / scale, zero_of(mid.dtype, mid.device))
    unit = matrix * down.map(lambda t: t.unsqueeze(-1)) * down.map(lambda t: t.unsqueeze(-2))
    more, eye = 4 * n * eps, torch.eye(n, dtype=mid.dtype, device=mid.device)
    for _ in range(_TRIES):
        factor, info = torch.linalg.cholesky_ex(unit.mid / 2 + unit.mid.mT / 2 + more * eye)
        if bool((info == 0).all()) and _dominant(_exact(factor).matmul(_exact(factor)) - unit):
            factor = torch.where((some > 0)[..., None, None], factor, 0.0)
            found = factor * scale.unsqueeze(-1)
            return found if torch.equal(found / scale.unsqueeze(-1), factor) else None  # nothing has underflown
        more = more * _FURTHER
    return None


def _scale(diagonal: Tensor, most: Tensor) -> Tensor:
    """Powers of two near the roots of the diagonal (..., n) of matrices with entries up to `most` (...,)."""
    root = most.sqrt().unsqueeze(-1)
    size = torch.where(root > 0, torch.maximum(diagonal.clamp(min=0).sqrt(), root * _DOWN), 1.0)
    return torch.exp2(size.log2().round())


def _dominant(matrix: Ball) -> bool:
    """Whether every symmetric matrix of the ball has a non-negative diagonal that dominates its rows."""
    size = matrix.mid.abs() if matrix.rad is None else matrix.mid.abs() + matrix.rad
    n = size.shape[-1]
    own = matrix.map(lambda t: t.diagonal(dim1=-2, dim2=-1)).lower()
    rest = size - torch.diag_embed(size.diagonal(dim1=-2, dim2=-1))
    return bool((own >= grow(rest.sum(-1), n + 2)).all())


def _exact(tensor: Tensor) -> Ball:
    return Ball(tensor, zero_of(tensor.dtype, tensor.device))

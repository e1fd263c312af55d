"""Krawczyk's test proves that a box contains exactly one zero of a gradient; also, the kind of this stationary point.

For g with Jacobians H(x), an interval matrix H that contains them over a box X, m in X and any matrix Y,

    K(X)  =  m - Y g(m) + (I - Y H) (X - m)

contains every zero of g in X.  If K(X) lies in the interior of X, there is exactly one, and every matrix in H is
regular.  The proof does not depend on how Y and m are chosen.

Sources: Krawczyk, Computing 4 (1969), 187; Moore, SIAM J. Numer. Anal. 14 (1977), 611; Rump, "Verification methods",
Acta Numerica 2010, Section 13.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval, Rigorous

_EXACT = Rigorous()
"""Conclusions from enclosures cover their own rounding, whichever arithmetic the enclosures are from."""


@final
class StationaryKind(Enum):
    """What the signs of the eigenvalues of its Hessian prove about a stationary point."""

    MINIMUM = "minimum"
    MAXIMUM = "maximum"
    SADDLE = "saddle"
    UNDECIDED = "undecided"


@final
@dataclass(frozen=True)
class Krawczyk:
    """K(X) for boxes X, (batch, n), and whether it is proved to lie in the interior of X: (batch,)."""

    image: Interval
    proved: Tensor

    @classmethod
    def of(cls, middle: Tensor, box: Interval, gradient: Interval, hessian: Interval) -> Krawczyk:
        """The test for m and X (batch, n), with enclosures of g at m and of the symmetric Hessian over X and m."""
        y = _inverse(hessian)
        m = _EXACT.exact(middle)
        low, high = _EXACT.exact(box.lower) - m, _EXACT.exact(box.upper) - m
        steps = _EXACT.between(low, high)
        newton = _times(Interval.point(y), gradient)
        eye = Interval.point(torch.eye(y.shape[-1], dtype=y.dtype, device=y.device).expand_as(y))
        rest = _EXACT.sum([eye, -_EXACT.matmul(Interval.point(y), hessian)])
        moved = _EXACT.sum([-newton, _times(rest, steps)])
        inside = (low.upper() < moved.lower) & (moved.upper < high.lower())
        finite = moved.lower.isfinite() & moved.upper.isfinite()
        image = _EXACT.sum([Interval.point(middle), moved])
        return cls(image, (inside & finite).all(-1))


def _times(matrix: Interval, vector: Interval) -> Interval:
    """Matrices (batch, n, n) times vectors (batch, n)."""
    return _EXACT.matmul(matrix, vector.map(lambda t: t.unsqueeze(1))).map(lambda t: t.squeeze(-1))


def _middle(hessian: Interval) -> Tensor:
    """The midpoints of interval matrices in float64; 0 for unbounded matrices."""
    middle = hessian.lower.double() / 2 + hessian.upper.double() / 2
    return torch.where(middle.isfinite().flatten(1).all(1)[:, None, None], middle, 0.0)


def _inverse(hessian: Interval) -> Tensor:
    """Approximate inverses of the midpoints, or 0 if there is none; with 0, nothing is proved."""
    inverse = torch.linalg.inv_ex(_middle(hessian)).inverse.to(hessian.lower.dtype)
    return torch.where(inverse.isfinite().flatten(1).all(1)[:, None, None], inverse, 0.0)


def kinds(hessian: Interval) -> list[StationaryKind]:
    """The kinds of the stationary points in boxes with a proof, from Hessians (batch, n, n) at one point of each box.

    The matrices in the enclosure over a box are regular and form a connected set, so all have the same number of
    negative eigenvalues.  For any Q, if C = QᵀHQ satisfies C_ii > Σ |C_ij| in all rows, then Q is regular and H is
    positive definite (Gershgorin, Sylvester).  Diagonal entries of both signs prove that H is indefinite.
    """
    basis = torch.linalg.eigh(_middle(hessian)).eigenvectors.to(hessian.lower.dtype)
    q = Interval.point(basis.mT)
    turned = _EXACT.matmul(_EXACT.matmul(q, hessian), q)
    diagonal = turned.map(lambda t: t.diagonal(dim1=-2, dim2=-1))
    size = turned.magnitude
    others = _EXACT.at_least((size - torch.diag_embed(size.diagonal(dim1=-2, dim2=-1))).sum(-1), size.shape[-1] + 1)
    found = zip(
        (diagonal.lower > others).all(-1).tolist(), (diagonal.upper < -others).all(-1).tolist(),
        ((diagonal.lower > 0).any(-1) & (diagonal.upper < 0).any(-1)).tolist(), strict=True,
    )  # fmt: skip
    return [
        StationaryKind.MINIMUM
        if least
        else StationaryKind.MAXIMUM
        if most
        else StationaryKind.SADDLE
        if mixed
        else StationaryKind.UNDECIDED
        for least, most, mixed in found
    ]

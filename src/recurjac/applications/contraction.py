"""Contraction rates: upper bounds of matrix measures of a Jacobian over a region."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import inf
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from recurjac.applications.limits import of_parts
from recurjac.arithmetic import (
    AbstractArithmetic,
    Ball,
    Fast,
    Interval,
    Rigorous,
    largest_eigenvalue,
    least_eigenvalue,
    round_up_to,
    summed,
)
from recurjac.errors import InvalidRequest, expect
from recurjac.jacobian import JacobianBounds
from recurjac.network.numbers import exact_numbers
from recurjac.provenance import AbstractResult, Provenance

_SIGNS = 2**7
"""Interval matrices are bounded for all signs of vectors, if these are at most so many, otherwise by a norm."""


@final
@dataclass(frozen=True, repr=False, eq=False)
class MatrixMeasure(AbstractResult):
    """μ_p(J) <= upper for every J within bounds of a Jacobian, or for the Jacobians at all points of a region.

    upper: (batch,), per unit of time; where it is negative, solutions of x' = f(x) that stay in a convex part of the
    region approach each other at least as fast as exp(upper · t), in the norm of `weights`.
    lower: (batch,), a measure that some point of the region is proved to have; -inf if none is known.
    p: 1, 2 or inf.  weights: of the norm, or None.
    status: for each sample how the division of its region ended, or "one pass".
    parts: for each sample how many parts of its region were bounded, the whole region included.
    """

    upper: Tensor
    lower: Tensor
    p: float
    weights: Tensor | None
    status: tuple[str, ...]
    provenance: Provenance
    parts: tuple[int, ...] = ()
    _apart: ClassVar[tuple[str, ...]] = ("weights",)

    @property
    def contracting(self) -> Tensor:
        """Where the measure is proved to be negative: (batch,)."""
        return self.upper < 0

    def __repr__(self) -> str:
        found = self._each((f"{u:.6g}" for u in self.upper.tolist()), len(self.upper))
        weighted = "" if self.weights is None else ", weighted"
        late = "; time was up" if "time" in self.status else ""
        notes = f"{of_parts(self.parts)}{late}"
        return f"MatrixMeasure(l{self.p:g}{weighted}: at most {found}; {self.method}, {self._kind()}{notes})"


def matrix_measure(bounds: JacobianBounds, *, p: float = 2, weights: Any = None) -> MatrixMeasure:
    """An upper bound of the matrix measure (logarithmic norm) μ_p of a square Jacobian over the region of its bounds.

    bounds: of a network of vectors with as many outputs as inputs, f in x' = f(x).  p: 1, 2 or inf, of the norm.
    weights: None; positive numbers d (n,), for the norm ‖diag(d) x‖_p; or, if p = 2, a symmetric positive definite
    matrix P (n, n), for the norm √(xᵀ P x).  They are read as float64 numbers, whatever the dtype of the bounds is.  A
    matrix that is symmetric up to rounding is replaced by (P + Pᵀ) / 2, which the result has as its `weights`.
    The bound is the best that follows from the bounds of the entries for p = 1 and inf, and for p = 2 with up to eight
    inputs (four with a matrix P).  The result carries no gradients.
    Raises InvalidRequest if the Jacobian is not square, for other norms, and for weights that do not fit.

    Source: docs/mathematics.md, §7.7.
    """
    expect(bounds, JacobianBounds, "the bounds", "give those of jacobian_bounds(network, region)")
    with torch.no_grad():
        jacobian = square(bounds)
        scale = _checked_weights(p, weights, jacobian.lower)
        upper = measure_of(jacobian, p, scale, Rigorous() if bounds.rigorous else Fast())
    kept = replace(bounds.provenance, method=f"μ_{p:g} of {bounds.provenance.method}")
    every = (1,) * len(upper)
    nothing = torch.full_like(upper, -inf)
    return MatrixMeasure(upper, nothing, float(p), scale, ("one pass",) * len(upper), kept, every)


def measure_of(jacobian: Interval, p: float, scale: Tensor | None, arithmetic: AbstractArithmetic) -> Tensor:
    """Upper bounds of μ_p, (batch,), of all matrices within an interval (batch, n, n); inf where an entry has no bound.

    scale: the weights, as a result has them.
    """
    finite = (jacobian.lower.isfinite() & jacobian.upper.isfinite()).flatten(1).all(1)
    known = jacobian.map(lambda t: torch.where(finite[:, None, None], t, 0.0).to(t if scale is None else scale))
    if scale is not None and scale.dim() == 2:
        found = _relative(known, scale, arithmetic)
    else:
        known = known if scale is None else scaled_by(known, scale, arithmetic)
        found = _euclidean(known, arithmetic) if p == 2 else _largest_sum(known, p, arithmetic)
    return round_up_to(torch.where(finite, found, inf), jacobian.lower.dtype)


def square(bounds: JacobianBounds) -> Interval:
    """The bounds as matrices (batch, n, n)."""
    shape = tuple(bounds.lower.shape)
    if len(shape) != 3 or shape[1] != shape[2]:
        raise InvalidRequest(
            f"a Jacobian of shape {shape[1:]} is not one square matrix; give that of a network from vectors to vectors "
            "with as many outputs as inputs"
        )
    return Interval(bounds.lower.detach(), bounds.upper.detach())


def _checked_weights(p: float, weights: Any, like: Tensor) -> Tensor | None:
    """The weights in float64, (n,) or (n, n), for matrices like `like` (batch, n, n), or None without any.

    Raises InvalidRequest if they do not fit, and for a norm that is none of 1, 2 and inf.
    """
    if p not in (1, 2, inf):
        raise InvalidRequest(f"the norm {p!r} of a matrix measure; give 1, 2 or inf")
    if weights is None:
        return None
    n = like.shape[-1]
    found = exact_numbers("the vector or matrix of weights", weights, torch.float64, like.device).detach()
    if tuple(found.shape) not in ((n,), (n, n)):
        raise InvalidRequest(f"weights of shape {tuple(found.shape)}; give {n} finite positive numbers, or a matrix")
    info = torch.finfo(found.dtype)
    if found.dim() == 1 and not bool((found > 0).all() and found.amin() > found.amax() * info.tiny / info.eps):
        raise InvalidRequest(f"the weights {found.tolist()} are not all positive, or too far apart")
    if found.dim() == 2:
        if p != 2:
            raise InvalidRequest(f"a matrix of weights is for p=2 only, not for p={p:g}; give a vector of {n} weights")
        given = weights.dtype if isinstance(weights, Tensor) and weights.is_floating_point() else found.dtype
        return _symmetric(found, torch.finfo(given).eps)
    return found


def _symmetric(weights: Tensor, eps: float) -> Tensor:
    """(P + Pᵀ) / 2 for a matrix P that is symmetric up to rounding, as solvers return it; the measure is about this.

    eps: of the dtype in which it was given.
    The result is exactly symmetric, because sums do not depend on the order of two terms.
    """
    apart, size = float((weights - weights.mT).abs().max()), float(weights.abs().max())
    if apart > len(weights) * eps * size:
        raise InvalidRequest(
            f"the matrix of weights is not symmetric: entries across its diagonal differ by up to {apart:.3g}; "
            "give (P + Pᵀ) / 2"
        )
    return weights / 2 + weights.mT / 2


def scaled_by(jacobian: Interval, weights: Tensor, arithmetic: AbstractArithmetic) -> Interval:
    """The interval of D J D⁻¹ for D = diag(weights)."""
    quotient = weights[:, None] / weights[None, :]  # one rounding of normal numbers, so that the radius is twice enough
    ratio = arithmetic.ball(quotient, quotient * torch.finfo(quotient.dtype).eps)
    return arithmetic.product(jacobian, arithmetic.between(ratio, ratio))


def _largest_sum(jacobian: Interval, p: float, arithmetic: AbstractArithmetic) -> Tensor:
    """The largest J_ii + Σ |J_ij| over j other than i for p = inf; of the transpose for p = 1: (batch,)."""
    size = jacobian.magnitude
    own = torch.eye(size.shape[-1], dtype=torch.bool, device=size.device)
    terms = torch.where(own, jacobian.upper, size)
    total = summed([arithmetic.exact(t) for t in terms.unbind(2 if p == inf else 1)])
    return total.upper().amax(-1)


def _euclidean(jacobian: Interval, arithmetic: AbstractArithmetic) -> Tensor:
    """Half of the largest eigenvalue of J + Jᵀ over the interval: (batch,).

    J = m + δ with |δ| <= h: for z = sgn x, xᵀ (J + Jᵀ) x <= xᵀ (m + mᵀ + diag(z) (h + hᵀ) diag(z)) x.
    """
    mid, half = arithmetic.midrad(jacobian)
    middle = arithmetic.exact(mid) + arithmetic.exact(mid.mT)
    spread = (arithmetic.exact(half) + arithmetic.exact(half.mT)).upper()
    signs = _signs(mid.shape[-1] - 1, mid)
    if signs is None:
        rest = arithmetic.exact(_largest_nonnegative(spread, arithmetic))
        return _half((arithmetic.exact(largest_eigenvalue(middle)) + rest).upper(), arithmetic)
    z = torch.cat([signs.new_ones(len(signs), 1), signs], 1)  # z and -z give the same matrix
    turned = arithmetic.exact(spread * (z[:, :, None] * z[:, None, :]).unsqueeze(1))
    return _half(largest_eigenvalue(middle + turned).amax(0), arithmetic)


def _signs(n: int, like: Tensor) -> Tensor | None:
    """All vectors of n signs, (count, n); None if they are too many."""
    if 2**n > _SIGNS:
        return None
    return torch.tensor(list(product((1.0, -1.0), repeat=n)), dtype=like.dtype, device=like.device).reshape(2**n, n)


def _relative(jacobian: Interval, weights: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
    """Half of the largest eigenvalue of P J + Jᵀ P relative to P, over the interval: (batch,).

    Let a be at least the largest eigenvalue of Tᵀ (P J + Jᵀ P) T, and Q = Tᵀ P T.  Then a / λ_min(Q) is a bound for
    a >= 0, and a / λ_max(Q) for a < 0, whatever T is.  Here, T is near the inverse of a root of P.
    """
    lower, failed = torch.linalg.cholesky_ex(weights)
    turn = torch.linalg.solve_triangular(lower, torch.eye(len(weights)).to(lower), upper=False).mT
    if bool(failed) or not bool(turn.isfinite().all()):
        least = float(torch.linalg.eigvalsh(weights)[0])
        raise InvalidRequest(
            f"the matrix of weights is not positive definite: its least eigenvalue is about {least:.3g}; "
            "give one whose eigenvalues are all positive"
        )
    exact = arithmetic.exact
    left = exact(turn.mT).matmul(exact(weights))  # Tᵀ P, as P is symmetric
    kernel = left.matmul(exact(turn.mT))
    most = _largest_turned(arithmetic, *arithmetic.midrad(jacobian), left, exact(turn.mT))
    return _half(quotient_above(most, least_eigenvalue(kernel), largest_eigenvalue(kernel), arithmetic), arithmetic)


def _largest_turned(arithmetic: AbstractArithmetic, mid: Tensor, half: Tensor, left: Ball, right: Ball) -> Tensor:
    """A number not below the largest eigenvalue of A J T + (A J T)ᵀ, where |J - mid| <= half: (batch,).

    left: A = Tᵀ P; right: Tᵀ.  For s = sgn(P x) and t = sgn(x), xᵀ P J x <= xᵀ P (mid + diag(s) half diag(t)) x.
    """
    n, exact = mid.shape[-1], arithmetic.exact
    signs = _signs(2 * n - 1, mid)
    if signs is not None:
        s, t = torch.cat([signs.new_ones(len(signs), 1), signs], 1).split(n, 1)
        corners = exact(mid) + exact(half * (s[:, :, None] * t[:, None, :]).unsqueeze(1))
        return largest_eigenvalue(_both(_times_left(left, corners.matmul(right)))).amax(0)
    middle = _both(_times_left(left, exact(mid).matmul(right)))
    sizes = exact(_size(left)), exact(right.mid.abs())
    spread = _both(_times_left(sizes[0], exact(half).matmul(sizes[1]))).upper()
    return (exact(largest_eigenvalue(middle)) + exact(_largest_nonnegative(spread, arithmetic))).upper()


def _times_left(left: Ball, matrices: Ball) -> Ball:
    """left · M for matrices M (batch, n, n): (batch, n, n)."""
    return matrices.map(lambda t: t.mT).matmul(left).map(lambda t: t.mT)


def _both(matrices: Ball) -> Ball:
    """M + Mᵀ."""
    return matrices + matrices.map(lambda t: t.mT)


def _size(matrix: Ball) -> Tensor:
    """Bounds of the absolute values of the entries."""
    return torch.maximum(matrix.upper().abs(), matrix.lower().abs())


def _largest_nonnegative(matrices: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
    """A number not below the largest eigenvalue of symmetric matrices (batch, n, n), at least 0: (batch,)."""
    return largest_eigenvalue(arithmetic.exact(matrices)).clamp(min=0)


def quotient_above(number: Tensor, least: Tensor, most: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
    """A number not below number / λ for every λ in [least, most]; inf unless `least` is positive."""
    up = arithmetic.at_least(number.clamp(min=0) / least.clamp(min=0), 1)
    down = -arithmetic.at_most((-number).clamp(min=0) / most, 1)
    return torch.where(least > 0, torch.where(number >= 0, up, down), inf)


def _half(number: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
    """A number not below half of it."""
    return (arithmetic.exact(number) * arithmetic.exact(torch.full_like(number, 0.5))).upper()

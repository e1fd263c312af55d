"""What a window does to a quadratic form: its unknown deviations, eliminated (docs/mathematics.md, §5.10).

With i_j > 0 for each neuron of a group, Σ i_j (z_j² - f_j²) >= 0 for z = α y + β f.  Written for g = f - X y, with
K = diag(i) - βᵀ diag(i) β positive definite, this says gᵀ K g <= yᵀ C y, and what leaves the group is M y + ν g.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Ball, least_eigenvalue, summed
from recurjac.arithmetic.rounding import grow, zero_of
from recurjac.quadratic.windows import Windows


@final
@dataclass(frozen=True)
class Bends:
    """For each group: what leaves it is M y + g with gᵀ D⁻¹ g <= yᵀ C y, where D may be singular.

    middle: M (g, o, a).  cost: C (g, a, a).  free: D (g, o, o).
    """

    middle: Ball
    cost: Ball
    free: Ball

    @property
    def norm(self) -> Tensor:
        """A number not below the norm of any group's map from y to what leaves it."""
        m, c, d = (_frobenius(b) for b in (self.middle, self.cost, self.free))
        return grow(m + (c * d).sqrt(), 4).amax() if len(m) else m.sum()


def demand(windows: Windows, shares: Tensor) -> Tensor:
    """i > 0 for each neuron, (g, u), so that K has rows dominated by the diagonal by `shares` > 0, up to rounding."""
    entries = windows.entries.shape[1]
    beta = windows.bent.mid[..., entries:].abs()
    whole = beta.sum(-1)
    found: list[Tensor] = []
    for j in range(beta.shape[1] - 1, -1, -1):
        later = [i * beta[:, n, j] * whole[:, n] for n, i in enumerate(reversed(found), j + 1)]
        found.append(shares[:, j] + (torch.stack(later).sum(0) if later else 0))
    return torch.stack(found[::-1], 1) if found else shares


def bends(windows: Windows, inverse: Tensor) -> Bends | None:
    """The elimination with i = `inverse` (g, u); None if K is not (proved to be) positive definite."""
    entries = windows.entries.shape[1]
    alpha, beta = (windows.bent.map(lambda t, at=at: t[..., at]) for at in (slice(entries), slice(entries, None)))
    mu, nu = (windows.left.map(lambda t, at=at: t[..., at]) for at in (slice(entries), slice(entries, None)))
    g, u = inverse.shape
    if u == 0:
        blank = [mu.mid.new_zeros(g, n, n) for n in (entries, mu.shape[1])]
        cost, free = (Ball(t, None if mu.rad is None else zero_of(t.dtype, t.device)) for t in blank)
        return Bends(mu, cost, free)
    weights = _like(inverse, mu)
    heavy = beta.map(lambda t: t.mT) * weights.map(lambda t: t.unsqueeze(1))  # βᵀ diag(i)
    inner = weights.map(torch.diag_embed) - heavy.matmul(beta.map(lambda t: t.mT))
    across = -heavy.matmul(alpha.map(lambda t: t.mT))  # (u, a)
    outer = -(alpha.map(lambda t: t.mT) * weights.map(lambda t: t.unsqueeze(1))).matmul(alpha.map(lambda t: t.mT))
    x = _solved(inner.mid, -across.mid)
    exact = _like(x, mu)
    left = inner.matmul(exact.map(lambda t: t.mT)) + across  # about 0
    first = across.map(lambda t: t.mT).matmul(exact.map(lambda t: t.mT))
    second = exact.map(lambda t: t.mT).matmul(left.map(lambda t: t.mT))
    cost = -summed([outer, first, second])
    middle = mu + nu.matmul(exact.map(lambda t: t.mT))
    return _freed(inner, left, cost, middle, nu)


def _freed(inner: Ball, left: Ball, cost: Ball, middle: Ball, nu: Ball) -> Bends | None:
    """The result, where 2 gᵀ `left` y is covered by the diagonals of K and C."""
    z = _solved(inner.mid, nu.mid.mT)
    turned = _like(z.mT, nu)
    if nu.rad is None:
        return Bends(middle, cost, nu.matmul(turned))
    size = left.size if left.rad is None else left.size + left.rad
    inner = inner - _diagonal(grow(size.sum(-1), size.shape[-1] + 2))
    cost = cost + _diagonal(grow(size.sum(-2), size.shape[-2] + 2))
    least = least_eigenvalue(inner)
    if not bool((least > 0).all()):
        return None
    rest = nu.map(lambda t: t.mT) - inner.matmul(turned)  # (u, o), about 0
    more = _frobenius(rest).square() / least
    free = summed([nu.matmul(turned), turned.matmul(rest.map(lambda t: t.mT)),
                   _diagonal(grow(more, 6).unsqueeze(-1).expand(*more.shape, nu.shape[1]))])  # fmt: skip
    return Bends(middle, cost, free)


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """About `matrix`⁻¹ `right`; nothing is proved about it."""
    found, info = torch.linalg.solve_ex(matrix, right)
    return torch.where((info == 0)[:, None, None], found, torch.nan)


def _frobenius(matrix: Ball) -> Tensor:
    """A number not below the Frobenius norm of each matrix: (...,)."""
    size = matrix.size if matrix.rad is None else matrix.size + matrix.rad
    most = size.amax((-2, -1)) if size.numel() else size.new_zeros(size.shape[:-2])
    unit = size / torch.where(most > 0, most, 1.0)[..., None, None]
    count = size.shape[-1] * size.shape[-2]
    return grow(unit.square().sum((-2, -1)).sqrt() * most, count + 8) + 4 * torch.finfo(size.dtype).tiny * (
        most > 0
    ).to(most.dtype)


def _diagonal(entries: Tensor) -> Ball:
    return Ball(torch.diag_embed(entries), zero_of(entries.dtype, entries.device))


def _like(tensor: Tensor, other: Ball) -> Ball:
    """An exact tensor, with a radius if `other` has one."""
    return Ball(tensor, None if other.rad is None else zero_of(tensor.dtype, tensor.device))

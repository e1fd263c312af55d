"""What multipliers of the quadratic dual prove, rounding included (docs/mathematics.md, §3.6).

v and w lie in known intervals, so that no error needs to be smaller than a margin of definiteness: F is expanded
exactly around a point ξ̂ near its maximum,

    F(ξ) = F(ξ̂) + ∇F(ξ̂)·d - dᵀ K d,    d = ξ - ξ̂,

and each of the following adds what it can amount to over these intervals: the rounding of F(ξ̂), the gradient, the
errors of the system and of the products, and the distance of K from a matrix that a Cholesky factorisation shows to
be positive semidefinite.  With R Rᵀ ⪰ B Λ⁻¹ Bᵀ and ω = R⁻¹ B d_v, ‖ω‖² <= d_vᵀ Λ d_v.  Then dᵀ K d is at least the form
of the computed matrix at (ω, d_w) minus its errors: those of forming it, and γ_{N+1} |L| |Lᵀ| of its factor L (Higham,
Accuracy and Stability of Numerical Algorithms, Theorem 10.3), whose entries are at most γ √(h_ii h_jj) / (1 - γ).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, reduce
from math import exp
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Ball, Interval
from recurjac.arithmetic.rounding import gamma_of, grow
from recurjac.quadratic.dual import Maximum, Plain, Point, Rows, Totals, totals_of
from recurjac.quadratic.dual_shared import Commons, Shared, linear_products
from recurjac.quadratic.lifted import Affine

_LARGEST = 1e50
"""Nothing is proved with larger numbers, so that products that underflow change no result by more than `_LOST`."""
_LOST = 1e-90
_SAFER = (0.0, 1e-3, 1e-2, 0.1)
"""What is added to log λ, one after the other, where nothing is proved."""


@final
@dataclass(frozen=True)
class Ranges:
    """What is known of y and w at all points of the region: magnitudes of y, and intervals of w, all (copies, u)."""

    y: Tensor
    w: Interval

    @property
    def most_w(self) -> Tensor:
        return torch.maximum(self.w.lower.abs(), self.w.upper.abs())


@final
@dataclass(frozen=True)
class DualSystem:
    """What a dual is about: a base B for each copy, y of the unknown neurons, their products and their ranges.

    neurons: (u, …), or (R, u, …) if each row has a system of its own.
    terms: balls (6, C, u), or (16, C, u) for two copies.  euclidean: see `Plain`.
    """

    base: Ball
    neurons: Affine
    terms: Ball
    ranges: Ranges
    euclidean: tuple[bool, ...]

    def at(self, index: Tensor) -> DualSystem:
        """That of some rows."""
        return self if self.neurons.base.mid.dim() == 2 else replace(self, neurons=self.neurons.at(index))

    def plain(self) -> Plain:
        return Plain(self.base.mid, self.neurons.base.mid, self.neurons.units.mid, self.terms.mid, self.euclidean)


def proved(system: DualSystem, rows: Affine, weights: Tensor, multipliers: Tensor) -> Tensor:
    """Upper bounds of rows, (R,), infinite where F is not shown to be concave.

    The rows have coefficients on ζ (R, copies, n_ζ) and on w (R, copies, u); see `Plain` for the other arguments.
    """
    plain, plain_rows = system.plain(), Rows(rows.base.mid, rows.units.mid)
    found = plain.maximum(plain_rows, weights, multipliers)
    expansion = Expansion(plain, plain_rows, weights, plain.totals(multipliers), found, system.ranges)
    return _summed(system, rows, multipliers, expansion, expansion.indefinite(), expansion.moderate())


def _summed(
    system: DualSystem, rows: Affine, multipliers: Tensor, expansion: Expansion, indefinite: Tensor, moderate: Tensor
) -> Tensor:
    """All parts of the bound, (R,), infinite where F is not concave or numbers are not moderate."""
    value = expansion.value()
    rest = expansion.gradient() + indefinite
    rest = rest + _inexact(system, rows, multipliers, expansion.totals) + _LOST
    total = value + grow(rest, 4) + 4 * torch.finfo(value.dtype).eps * (value.abs() + rest)
    return torch.where(expansion.found.concave & total.isfinite() & moderate, total, torch.inf)


def proved_together(system: DualSystem, rows: Affine, shared: Shared) -> Tensor:
    """Upper bounds of rows by multipliers that they share, each with the best factor s: (R,).

    Factors and shared multipliers are rounded to single precision, so that their products are exact in double
    precision: the matrix of each row is exactly s times that of the shared multipliers, and one factorisation bounds
    what is indefinite in all of them.  The squares of `totals` are s times those of the shared ones; that rounds once
    more than a sum of products does, for which `_inexact` and the number of roundings of `Expansion` have room.
    """
    plain, plain_rows = system.plain(), Rows(rows.base.mid, rows.units.mid)
    common, own = shared.common.float().double(), torch.where(linear_products(plain.terms), shared.own, 0.0)
    lines = plain.totals(own).own[3:, :, 0]
    for raised in _SAFER:
        weights = (shared.weights * exp(raised)).float().double()
        commons = Commons.of(plain, weights, common)
        if commons.concave:
            break
    found, scale = commons.maximum(plain_rows, (lines[0], lines[1], lines[2].sum(1)))
    exact, squares = Shared(weights, common, scale, own), plain.totals(common)
    whole = plain.totals(exact.multipliers)
    totals = Totals(torch.cat([scale[:, None, None] * squares.own[:3], whole.own[3:]]), None)
    expansion = Expansion(plain, plain_rows, exact.row_weights, totals, found, system.ranges)
    base = replace(expansion, weights=weights, totals=squares)
    indefinite, moderate = grow(scale * base.indefinite(), 1), expansion.moderate() & base.moderate()
    return _summed(system, rows, exact.multipliers, expansion, indefinite, moderate)


def proved_safely(system: DualSystem, rows: Affine, best: Point, units: Tensor) -> Tensor:
    """What multipliers of a search prove, with a larger λ where F is not concave in double precision."""
    found = torch.full((len(best.logs),), torch.inf, dtype=torch.float64, device=best.logs.device)
    for raised in _SAFER:
        index = found.isinf().nonzero().flatten()
        if len(index) == 0:
            break
        weights, numbers = (best.logs[index] + raised).exp(), (best.numbers * units)[index]
        found[index] = proved(system.at(index), rows.at(index), weights, numbers)
    return found


@final
@dataclass(frozen=True)
class Expansion:
    """F around ξ̂ = (found.v, found.w), whose data are taken as they are stored: exact numbers."""

    plain: Plain
    rows: Rows
    weights: Tensor
    totals: Totals
    found: Maximum
    ranges: Ranges

    @property
    def roundings(self) -> int:
        """More roundings than lie on any path to a result below."""
        n_zeta, n = self.plain.base.shape[1:]
        return 8 * (n + n_zeta + self.plain.units.shape[-1]) + 64

    def _up(self, number: Tensor) -> Tensor:
        return grow(number, self.roundings)

    @cached_property
    def gamma(self) -> float:
        return gamma_of(self.roundings, torch.float64)

    @cached_property
    def _y(self) -> tuple[Tensor, Tensor]:
        """y at ξ̂, and the same from absolute values, to which its error is proportional: (R, copies, u)."""
        plain, v, w = self.plain, self.found.v, self.found.w
        y = _through(plain.base, v) @ plain.own.mT + w @ plain.units.mT
        return y, _through(plain.base.abs(), v.abs()) @ plain.own.abs().mT + w.abs() @ plain.units.abs().mT

    def value(self) -> Tensor:
        """F(ξ̂), from above."""
        plain, v, w, rows, (y, size) = self.plain, self.found.v, self.found.w, self.rows, self._y
        squares, most = (self.weights * v.square()).sum((1, 2)), plain.allowance(self.weights)
        linear = (_through(plain.base, v) * rows.base).sum((1, 2)) + (w * rows.units).sum((1, 2))
        sizes = (_through(plain.base.abs(), v.abs()) * rows.base.abs()).sum((1, 2)) + (w.abs() * rows.units.abs()).sum(
            (1, 2)
        )
        sizes = sizes + most + squares + self.totals.abs().value(size, w.abs())
        return most - squares + linear + self.totals.value(y, w) + self._up(self.gamma * sizes)

    def gradient(self) -> Tensor:
        """|∇F(ξ̂)| times the largest distance from ξ̂."""
        plain, v, w, rows, (y, size) = self.plain, self.found.v, self.found.w, self.rows, self._y
        to_y, to_w = self.totals.slopes(y, w)
        most_y, most_w = self.totals.abs().slopes(size, w.abs())
        to_v = _through(plain.base.mT, rows.base + to_y @ plain.own) - 2 * self.weights * v
        to_w = rows.units + to_y @ plain.units + to_w
        most_v = _through(plain.base.abs().mT, rows.base.abs() + most_y @ plain.own.abs()) + 2 * self.weights * v.abs()
        most_w = rows.units.abs() + most_y @ plain.units.abs() + most_w
        far_v, far_w = self._far
        along = (to_v.abs() + self.gamma * most_v) * far_v
        return self._up(along.sum((1, 2)) + ((to_w.abs() + self.gamma * most_w) * far_w).sum((1, 2)))

    @cached_property
    def _far(self) -> tuple[Tensor, Tensor]:
        """How far v_i and w_j can be from ξ̂: (R, copies, n_0) and (R, copies, u)."""
        v, w, ends = self.found.v, self.found.w, self.ranges.w
        return self._up(1 + v.abs()), self._up(torch.maximum((ends.upper - w).abs(), (w - ends.lower).abs()))

    def indefinite(self) -> Tensor:
        """How far -dᵀ K d can be above 0."""
        plain, form, (far_v, far_w) = self.plain, self.found.form, self._far
        n, size = plain.own.shape[-1], plain.own.shape[-1] + plain.units.shape[-1]
        reach = self._up((self.weights * far_v.square()).sum(-1, keepdim=True).sqrt())  # ‖ω‖ at most
        y = reach * form.map_y[..., :n].abs().sum(-1) + (form.map_y[..., n:].abs() @ far_w.unsqueeze(-1))[..., 0]
        lost = gamma_of(n + 1, torch.float64) * reach * (form.factor.abs().sum(-1) @ plain.own.abs().mT)
        sizes = self.totals.quadratic().abs()
        formed = (sizes.slopes(y + lost, far_w)[0] * lost).sum((1, 2))
        entries = sizes.value(y, far_w) + reach.square().sum((1, 2))
        roots = torch.diagonal(form.hessian, dim1=1, dim2=2).clamp(min=0).sqrt().reshape(-1, plain.copies, size)
        along = reach[..., 0] * roots[..., :n].square().sum(-1).sqrt() + (roots[..., n:] * far_w).sum(-1)
        factored = gamma_of(2 * plain.copies * size + 8, torch.float64) * along.sum(1).square()
        return self._up(formed + self.gamma * entries + factored)

    def moderate(self) -> Tensor:
        """Whether no number is so large or small that underflow matters: (R,)."""
        plain = self.plain
        shared = max(float(t.abs().max()) if t.numel() else 0.0 for t in (plain.base, plain.own, plain.units))
        each = [
            self.rows.base,
            self.rows.units,
            self.weights,
            1 / self.weights,
            self.found.v,
            *self._far,
            *self.totals.own,
        ]
        if self.totals.cross is not None:
            each += [*self.totals.cross]
        largest: Tensor = reduce(torch.maximum, [t.abs().flatten(1).amax(1) for t in each if t.numel()])
        return (largest <= _LARGEST) & (shared <= _LARGEST)


def _through(matrices: Tensor, rows: Tensor) -> Tensor:
    """The product of a matrix (m, n) for each copy and rows (R, copies, n): (R, copies, m)."""
    return (matrices @ rows.unsqueeze(-1))[..., 0]


def _inexact(system: DualSystem, rows: Affine, multipliers: Tensor, totals: Totals) -> Tensor:
    """What the radii of the system, of the rows and of the products can amount to, and rounding of `totals`: (R,)."""
    copies, n_zeta, n = system.base.shape
    steps = 4 * (n + n_zeta + system.ranges.y.shape[1]) + 4 * multipliers.shape[1] + 64
    w, base_radius = system.ranges.most_w, _radius(system.base)
    zeta, lost = (system.base.mid.abs() + base_radius).sum(-1), base_radius.sum(-1)  # (copies, n_ζ)
    y_lost = (
        zeta @ _radius(system.neurons.base).mT
        + lost @ system.neurons.base.mid.abs().mT
        + w @ _radius(system.neurons.units).mT
    )
    row_lost = (_radius(rows.base) * zeta + rows.base.mid.abs() * lost).sum((1, 2)) + (_radius(rows.units) * w).sum(
        (1, 2)
    )
    sizes = _radius(system.terms) + gamma_of(multipliers.shape[1] + 2, torch.float64) * system.terms.mid.abs()
    spread = totals_of(multipliers.abs(), sizes, copies).value(system.ranges.y, w)
    moved = (totals.abs().slopes(system.ranges.y + y_lost, w)[0] * y_lost).sum((1, 2))
    return grow(row_lost + spread + moved, steps)


def _radius(ball: Ball) -> Tensor:
    return torch.zeros_like(ball.mid) if ball.rad is None else ball.rad.expand_as(ball.mid)

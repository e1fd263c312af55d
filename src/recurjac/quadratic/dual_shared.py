"""Multipliers of the quadratic dual that many rows share, so that one factorisation serves them all.

The matrix K of F depends on λ and on the products with quadratic terms only.  If rows share these multipliers up to a
factor s > 0 of each row, and have their own ones of linear products, then with b and c the slope and the constant of F
for the shared ones and a, o the constant and the slope that a row has of its own,

    sup F = s (c + b K⁻¹ bᵀ / 4) + b K⁻¹ oᵀ / 2 + o K⁻¹ oᵀ / (4 s) + a,

whose least value over s has a closed form.  The search takes Adam's steps on the sum of these bounds, each in units of
what is known of its row (docs/mathematics.md, §3.6).  No proof depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from recurjac.deadline import NEVER, Deadline
from recurjac.quadratic.dual import Form, Maximum, Plain, Point, Rows
from recurjac.quadratic.dual_search import SIDES, Scale

_LAST = 0.02
"""The share of the first step that is left at the end."""
_WORSE, _LEAST = 0.2, 0.05
"""How much worse the bounds of a step may be, relative to the last ones, and always, in units of the first ones."""
_LITTLE = 1e-30
_FACTORS = 1e-20, 1e20
"""The least and the largest factor s."""


def linear_products(terms: Tensor) -> Tensor:
    """Which products of one copy, terms (6, C, u), have no quadratic terms: (C, u)."""
    return (terms[:3] == 0).all(0)


@final
@dataclass(frozen=True)
class Shared:
    """Multipliers of rows: s times shared ones, and for linear products those of each row in addition.

    weights: the shared λ, (1, 1, n_0).  common: those of products that are not linear, (1, C, u).
    scale: s, (R,).  own: those of linear products, (R, C, u), and 0 elsewhere.
    """

    weights: Tensor
    common: Tensor
    scale: Tensor
    own: Tensor

    @property
    def row_weights(self) -> Tensor:
        """λ of each row: (R, 1, n_0)."""
        return self.scale[:, None, None] * self.weights

    @property
    def multipliers(self) -> Tensor:
        """The multipliers of the products of each row: (R, C, u)."""
        return self.scale[:, None, None] * self.common + self.own

    def to(self, dtype: torch.dtype) -> Shared:
        return Shared(self.weights.to(dtype), self.common.to(dtype), self.scale.to(dtype), self.own.to(dtype))

    def at(self, index: Tensor) -> Shared:
        """That of some rows."""
        return replace(self, scale=self.scale[index], own=self.own[index])

    def point(self, units: Tensor, raised: float) -> Point:
        """The multipliers of each row in its units (R, C, u), with a larger λ by this number on its logarithm."""
        numbers = torch.where(units > 0, self.multipliers / units.clamp(min=_LITTLE), 0.0)
        return Point(self.row_weights.log() + raised, numbers)


@final
@dataclass(frozen=True)
class Commons:
    """F of shared multipliers, factorised: for systems of one copy.

    form: F without rows and without linear products.  lower: the factor of its matrix.  concave: whether that exists.
    """

    plain: Plain
    weights: Tensor
    form: Form
    lower: Tensor
    concave: bool

    @classmethod
    def of(cls, plain: Plain, weights: Tensor, common: Tensor) -> Commons:
        n, u = plain.own.shape[-1], plain.units.shape[-1]
        nothing = Rows(weights.new_zeros(1, 1, n), weights.new_zeros(1, 1, u))
        form, lower, concave = plain.factored(nothing, weights, common)
        return cls(plain, weights, form, lower, bool(concave))

    @cached_property
    def _along(self) -> Tensor:
        """ω and w where F without any rows is largest: (N,)."""
        found: Tensor = torch.cholesky_solve(self.form.slope.mT, self.lower[0])[:, 0]
        return found

    def maximum(self, rows: Rows, linear: tuple[Tensor, Tensor, Tensor]) -> tuple[Maximum, Tensor]:
        """sup F of each row with the best s, (R,), which is the second result and representable in single precision.

        linear: the coefficients of y, w and 1 of the row's own products, summed: (R, u), (R, u) and (R,).
        """
        n, (by, bw, constant), form = self.plain.own.shape[-1], linear, self.form
        factor, map_y = form.factor[0, 0], form.map_y[0, 0]
        own = torch.cat([rows.base[:, 0] @ factor, rows.units[:, 0] + bw], 1) + by @ map_y
        from_own = torch.cholesky_solve(own.mT, self.lower[0]).mT
        grows = form.constant + (form.slope[0] * self._along).sum() / 4
        falls = (own * from_own).sum(1) / 4
        scale = (falls.clamp(min=0) / grows.clamp(min=_LITTLE)).sqrt().clamp(*_FACTORS).float().to(grows)
        value = scale * grows + (own @ self._along) / 2 + falls / scale + constant
        best = (self._along + from_own / scale.unsqueeze(1)) / 2
        along, w = best[:, :n], best[:, n:]
        zeta = torch.linalg.solve_triangular(factor.mT, along.mT, upper=True).mT
        y = along @ factor.mT @ self.plain.own.mT + w @ self.plain.units.mT
        v = zeta @ self.plain.base[0] / self.weights[0]
        concave = value.isfinite() & self.concave
        v, w, y = (t.unsqueeze(1) for t in (v, w, y))
        return Maximum(value, concave, v, w, y, form, self.lower), scale


def searched_together(
    plain: Plain,
    rows: Rows,
    begin: Point,
    scale: Scale,
    own_units: Tensor,
    known: Tensor,
    steps: int,
    deadline: Deadline = NEVER,
) -> Shared | None:
    """The best multipliers found from `begin`, those of one row whose known bound is 1; None if there are none.

    scale: of the shared ones, with units (1, C, u).  own_units: of the rows' own ones, (R, C, u).  known: bounds of the
    rows, (R,).
    """
    run = _Run.starting(plain, rows, begin, scale, own_units, known)
    for step in range(steps):
        share = max(step / steps, deadline.share)
        if share >= 1:
            break
        run.advance(1 - share)
    return run.found


@final
@dataclass
class _Run:
    """The state of a search: numbers that are shared (n,) and those of rows (R, C, u), the last accepted ones, and
    Adam's averages of both.

    last, least: the mean of the bounds at the last accepted numbers and at the best ones, in units of the known bounds.
    share: of the step that is taken.  found: the best multipliers.
    """

    plain: Plain
    rows: Rows
    shape: Point
    scale: Scale
    own_units: Tensor
    known: Tensor
    lines: Tensor
    now: tuple[Tensor, Tensor]
    good: tuple[Tensor, Tensor]
    first: tuple[Tensor, Tensor]
    second: tuple[Tensor, Tensor]
    last: float = torch.inf
    least: float = torch.inf
    share: float = SIDES.first
    count: int = 0
    found: Shared | None = None

    @classmethod
    def starting(cls, plain: Plain, rows: Rows, begin: Point, scale: Scale, own_units: Tensor, known: Tensor) -> _Run:
        linear = linear_products(plain.terms)
        which = linear.any(1).nonzero().flatten()
        mine = torch.where(linear, own_units, 0.0)[:, which]
        shared = replace(scale, units=torch.where(linear, 0.0, scale.units))
        now = begin.packed()[0], torch.zeros_like(mine)
        zero = torch.zeros_like(now[0]), torch.zeros_like(mine)
        return cls(plain, rows, begin, shared, mine, known, which, now, now, zero, zero)

    def advance(self, rest: float) -> None:
        """One step; `rest` is the share of the steps that are left."""
        point = self.shape.unpacked(self.now[0].unsqueeze(0))
        lam, common, mine = point.logs.exp(), point.numbers * self.scale.units, self.now[1] * self.own_units
        commons = Commons.of(self.plain, lam, common)
        by, bw, one = torch.einsum("rcu,tcu->tru", mine, self.plain.terms[3:, self.lines])
        at, s = commons.maximum(self.rows, (by, bw, one.sum(1)))
        mean = float((at.value / self.known).mean())
        good = bool(at.concave.all()) and mean < self.last + _WORSE * abs(self.last) + _LEAST
        self.count += 1
        if good:
            if mean < self.least:
                own = torch.zeros(len(s), *common.shape[1:], dtype=s.dtype, device=s.device)
                own[:, self.lines] = mine
                self.least, self.found = mean, Shared(lam, common, s, own)
            self.last, self.good, self.share = mean, self.now, min(1.0, SIDES.longer * self.share)
        else:
            self.share *= SIDES.shorter
        self._averaged(self._slopes(at, s, lam) if good else None)
        self._step(rest, good)

    def _slopes(self, at: Maximum, s: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of the mean bound by the shared numbers, and of each bound by the row's own ones."""
        share, y, w = s / self.known / len(s), at.y[:, 0], at.w[:, 0]
        squares = at.v[:, 0].square()
        squares = squares.sum(1, keepdim=True) if self.plain.euclidean[0] else squares
        room = (share @ (1 - squares)) * lam[0, 0]
        sums = torch.stack([share @ t for t in (y * y, y * w, w * w, y, w, torch.ones_like(y))])
        values = (torch.einsum("tu,tcu->cu", sums, self.plain.terms) * self.scale.units[0]).flatten()
        to_y, to_w, one = self.plain.terms[3:, self.lines]
        own = (y.unsqueeze(1) * to_y + w.unsqueeze(1) * to_w + one) * self.own_units
        return torch.cat([room, values]).nan_to_num(0.0, 0.0, 0.0), own.nan_to_num(0.0, 0.0, 0.0)

    def _averaged(self, slopes: tuple[Tensor, Tensor] | None) -> None:
        """Take derivatives into Adam's averages; after a step that was undone there are none."""
        if slopes is None:
            self.first = (0.3 * self.first[0], 0.3 * self.first[1])
            return
        a, b = SIDES.averages
        first, second = self.first, self.second
        self.first = (a * first[0] + (1 - a) * slopes[0], a * first[1] + (1 - a) * slopes[1])
        self.second = (b * second[0] + (1 - b) * slopes[0].square(), b * second[1] + (1 - b) * slopes[1].square())

    def _step(self, rest: float, good: bool) -> None:
        a, b = SIDES.averages
        rate = SIDES.rate * (_LAST + (1 - _LAST) * rest) * self.share / (1 - a**self.count)
        shared, own = (
            t - rate * m / ((q / (1 - b**self.count)).sqrt() + 1e-9)
            for t, m, q in zip(self.good, self.first, self.second, strict=True)
        )
        n = self.shape.logs.shape[-1]
        logs = shared[:n] if good else shared[:n] + SIDES.raised
        numbers = self.shape.unpacked(shared.unsqueeze(0)).numbers[0]
        numbers = torch.where(self.scale.free, numbers, torch.maximum(numbers, rest * self.scale.least))
        self.now = torch.cat([logs, numbers.flatten()]), own.clamp(min=0)

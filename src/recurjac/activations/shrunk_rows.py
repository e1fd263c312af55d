"""Rows over their size plus a number, or over the larger of both: unit rows times a function of their size.

Source: docs/mathematics.md, §3.11.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from recurjac.activations.normalised_rows import NormalisedRows
from recurjac.activations.row_bounds import met, total_of
from recurjac.activations.rows import AbstractRowFunction
from recurjac.arithmetic import AbstractArithmetic, Interval

_LARGE = 1e30
"""Sizes of at least this much have any share from theirs to 1."""


@dataclass(frozen=True)
class AbstractShrunkRows(AbstractRowFunction):
    """y = ρ g(s) u = c / t(s), where c is the row, less its mean if `centred`, s = √(|c|² / m) and u = √n c / |c|.

    Here m is `divisor`, ρ = √(m / n) and g(s) = s / t(s), where t > 0 does not fall.  As ∇s = ρ u / m,
    J = ρ g J_u + g' u uᵀ / n.  number: a positive number of which t is made.
    """

    number: float
    divisor: int
    centred: bool

    @abstractmethod
    def _over(self, s: Tensor) -> Tensor:
        """t at s, computed with one rounding."""

    @abstractmethod
    def _share(self, s: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """Bounds of g."""

    @abstractmethod
    def _rise(self, s: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """Bounds of g', which is between 0 and 1 / t."""

    @property
    def rigorous(self) -> bool:
        return True

    @property
    def _unit(self) -> NormalisedRows:
        return NormalisedRows(0.0, self.centred)

    def value(self, z: Tensor) -> Tensor:
        c = z - z.mean(-1, keepdim=True) if self.centred else z
        s = torch.linalg.vector_norm(c, dim=-1, keepdim=True) / math.sqrt(self.divisor)
        return c / self._over(s)

    def value_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        u = self._unit.value_range(z, arithmetic)
        return arithmetic.product(self._factor(z, arithmetic), u)

    def slope_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """By those of u; no entry is beyond ±1 / t, as J is symmetric with eigenvalues from 0 to that."""
        unit, u = self._unit, self._unit.value_range(z, arithmetic)
        factor, bend = (t.map(_matrix) for t in (self._factor(z, arithmetic), self._bend(z, arithmetic)))
        squares = arithmetic.product(bend, unit.products(u, arithmetic))
        found = arithmetic.sum([arithmetic.product(factor, unit.slope_range(z, arithmetic)), squares])
        most = self._steepest(z, arithmetic).unsqueeze(-1)
        return met(Interval.unchecked(-most, most), found.lower, found.upper, arithmetic)

    def slope_along(self, z: Interval, tangents: Interval, arithmetic: AbstractArithmetic) -> Interval:
        unit, u = self._unit, self._unit.value_range(z, arithmetic).map(_beside)
        factor, bend = (t.map(_beside) for t in (self._factor(z, arithmetic), self._bend(z, arithmetic)))
        dot = total_of(arithmetic.product(u, tangents), arithmetic)
        rest = arithmetic.product(bend, arithmetic.product(u, dot))
        found = arithmetic.sum([arithmetic.product(factor, unit.slope_along(z, tangents, arithmetic)), rest])
        return met(super().slope_along(z, tangents, arithmetic), found.lower, found.upper, arithmetic)

    def slope_between(
        self, z: Interval, covectors: Interval, tangents: Interval, arithmetic: AbstractArithmetic
    ) -> Interval:
        unit, u = self._unit, self._unit.value_range(z, arithmetic).map(_beside)
        factor, bend = (t.map(_row) for t in (self._factor(z, arithmetic), self._bend(z, arithmetic)))
        dots = [total_of(arithmetic.product(u, t), arithmetic).map(_last) for t in (covectors, tangents)]
        rest = arithmetic.product(bend, arithmetic.product(*dots))
        found = arithmetic.product(factor, unit.slope_between(z, covectors, tangents, arithmetic))
        found, plain = arithmetic.sum([found, rest]), super().slope_between(z, covectors, tangents, arithmetic)
        return met(plain, found.lower, found.upper, arithmetic)

    def norm(self, z: Interval, p: float, arithmetic: AbstractArithmetic) -> Tensor:
        """J has the eigenvalues 1 / t, g' along c, and 0; its rows have at most √n as much."""
        most, count = self._steepest(z, arithmetic)[..., 0], z.shape[-1]
        if p == 2:
            return most
        sizes = self.slope_range(z, arithmetic).magnitude
        return torch.minimum(
            arithmetic.at_least(most * math.sqrt(count), 3), arithmetic.at_least(sizes.sum(-1), count).amax(-1)
        )

    def _sizes(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The range of s, which is √(n / m) |c| / √n: (batch, rows, 1)."""
        inverse = self._unit.inverse_length(z, arithmetic)  # of √n |c|
        ratio = math.sqrt(z.shape[-1] * self.divisor)
        known = [(t > 0) & t.isfinite() for t in (inverse.upper, inverse.lower)]
        low, high = (
            1 / torch.where(k, t * ratio, 1.0) for k, t in zip(known, (inverse.upper, inverse.lower), strict=True)
        )
        return Interval.unchecked(
            torch.where(known[0], arithmetic.at_most(low, 6), 0.0),
            torch.where(known[1], arithmetic.at_least(high, 6), torch.inf),
        )

    def _factor(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The range of ρ g: (batch, rows, 1)."""
        ratio = z.lower.new_tensor(math.sqrt(self.divisor / z.shape[-1]))
        return arithmetic.product(self._share(self._sizes(z, arithmetic), arithmetic), arithmetic.rounded(ratio, 3))

    def _bend(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The range of g' / n: (batch, rows, 1)."""
        rise, count = self._rise(self._sizes(z, arithmetic), arithmetic), z.shape[-1]
        return Interval.unchecked(arithmetic.at_most(rise.lower / count, 2), arithmetic.at_least(rise.upper / count, 2))

    def _steepest(self, z: Interval, arithmetic: AbstractArithmetic) -> Tensor:
        """The largest 1 / t: (batch, rows, 1)."""
        return arithmetic.at_least(1 / self._over(self._sizes(z, arithmetic).lower), 2)


@final
@dataclass(frozen=True)
class ShiftedRows(AbstractShrunkRows):
    """c / (s + number)."""

    def _over(self, s: Tensor) -> Tensor:
        return s + self.number

    def _share(self, s: Interval, arithmetic: AbstractArithmetic) -> Interval:
        low, high = (arithmetic.rounded(t / self._over(t), 2) for t in (s.lower, s.upper.clamp(max=_LARGE)))
        most = torch.where(s.upper < _LARGE, high.upper.clamp(max=1), 1.0)
        return Interval.unchecked(low.lower.clamp(min=0, max=1), most)

    def _rise(self, s: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """number / t²."""
        least, most = (self.number / self._over(t) / self._over(t) for t in (s.upper, s.lower))
        return Interval.unchecked(arithmetic.rounded(least, 4).lower.clamp(min=0), arithmetic.rounded(most, 4).upper)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(0.1, 1, False), cls(1e-5, 3, True), cls(1.0, 4, False)]


@final
@dataclass(frozen=True)
class FlooredRows(AbstractShrunkRows):
    """c / max(s, number)."""

    def _over(self, s: Tensor) -> Tensor:
        return s.clamp(min=self.number)

    def _share(self, s: Interval, arithmetic: AbstractArithmetic) -> Interval:
        low, high = (arithmetic.rounded((t.clamp(max=self.number) / self.number), 1) for t in (s.lower, s.upper))
        return Interval.unchecked(low.lower.clamp(min=0), high.upper.clamp(max=1))

    def _rise(self, s: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """1 / number below it, 0 above it, and all in between at it."""
        steep = arithmetic.rounded(1 / torch.full_like(s.lower, self.number), 1)
        return Interval.unchecked(
            torch.where(s.upper < self.number, steep.lower, 0.0), torch.where(s.lower <= self.number, steep.upper, 0.0)
        )

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(0.1, 1, False), cls(1e-3, 1, False), cls(2.0, 1, False), cls(1.0, 3, True)]


def _matrix(t: Tensor) -> Tensor:
    return t.unsqueeze(-1)


def _beside(t: Tensor) -> Tensor:
    return t.unsqueeze(1)


def _row(t: Tensor) -> Tensor:
    return t.squeeze(-1).unsqueeze(1)


def _last(t: Tensor) -> Tensor:
    return t[..., 0]

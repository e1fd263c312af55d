"""Activations that are not finite everywhere: logarithm, reciprocal, powers with any exponent, and the root of a norm.

Where an interval leaves the domain or touches its end, ranges and lines are infinite; nothing raises an error there.
At single arguments outside the domain, values and slopes are infinite (docs/mathematics.md, §3.10).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from recurjac.activations.base import far, within
from recurjac.activations.convex import AbstractBent, AbstractConcave
from recurjac.activations.curved import AbstractCurved
from recurjac.activations.halves import power_of, roundings_of_power
from recurjac.activations.smooth import AbstractSmooth
from recurjac.arithmetic import AbstractArithmetic, Enclosure, Interval
from recurjac.arithmetic.elementary import exp, log
from recurjac.errors import InvalidNetwork
from recurjac.relaxations import LinearRelaxation

_WIDEST = 1e3
"""Lines are searched for on intervals whose ends differ at most by this factor."""


class AbstractPositive(AbstractSmooth):
    """σ and all its derivatives are finite and monotone for z > 0; σ is infinite for z < 0."""

    @property
    def limited(self) -> bool:
        return True

    def excluded(self, z: Interval) -> Tensor:
        return ~(z.lower > 0)

    def core(self, z: Interval) -> Interval:
        """The part of z whose numbers, and their reciprocals, have finite powers."""
        least, most = self._least(z.lower), self._most(z.lower)
        return z.map(lambda end: end.clamp(min=least, max=most))

    def searchable(self, z: Interval) -> Interval:
        return Interval.unchecked(torch.maximum(z.lower, z.upper / _WIDEST), z.upper)

    def _least(self, like: Tensor) -> float:
        return 1 / far(like)

    def _most(self, like: Tensor) -> float:
        return far(like)


@final
@dataclass(frozen=True)
class Log(AbstractPositive, AbstractConcave):
    """The natural logarithm of z > 0."""

    name: ClassVar[str] = "log"

    def value(self, z: Tensor) -> Tensor:
        inside = z > 0
        return torch.where(inside, torch.where(inside, z, 1.0).log(), torch.where(z.isnan(), torch.nan, -torch.inf))

    def slope(self, z: Tensor) -> Tensor:
        inside = z > 0
        return torch.where(inside, 1 / torch.where(inside, z, 1.0), torch.inf)

    def curvature(self, z: Tensor) -> Tensor:
        inside = z > 0
        return torch.where(inside, -1 / torch.where(inside, z, 1.0).square(), -torch.inf)

    def enclosed_value(self, z: Tensor) -> Enclosure:
        return Enclosure.of(log(z))

    def enclosed_slope(self, z: Tensor) -> Enclosure:
        return Enclosure.point(z).inverse()

    def enclosed_curvature(self, z: Tensor) -> Enclosure:
        return -Enclosure.point(z).square().inverse()

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


@final
@dataclass(frozen=True)
class Power(AbstractPositive, AbstractBent):
    """z^a for z > 0, where a is any number but 0 and 1; with a = 1/2 the square root, with a = -1/2 its reciprocal.

    For a > 0 its value is 0 at z = 0.
    """

    exponent: float
    name: ClassVar[str] = "power"

    def __post_init__(self) -> None:
        if not math.isfinite(self.exponent) or self.exponent in (0.0, 1.0) or abs(self.exponent) > 64:
            raise ValueError(f"a power with the exponent {self.exponent}; it must be neither 0 nor 1, and at most 64")

    @property
    def roundings(self) -> tuple[int, int, int] | None:
        return roundings_of_power(self.exponent)

    def value(self, z: Tensor) -> Tensor:
        return _power(z, self.exponent)

    def slope(self, z: Tensor) -> Tensor:
        return self.exponent * _power(z, self.exponent - 1)

    def curvature(self, z: Tensor) -> Tensor:
        return self.exponent * (self.exponent - 1) * _power(z, self.exponent - 2)

    def enclosed_value(self, z: Tensor) -> Enclosure:
        return super().enclosed_value(z) or enclosed_power(z, self.exponent, 0)

    def enclosed_slope(self, z: Tensor) -> Enclosure:
        a = self.exponent
        return super().enclosed_slope(z) or enclosed_power(z, a, 1).times(a)

    def enclosed_curvature(self, z: Tensor) -> Enclosure:
        a = self.exponent
        return super().enclosed_curvature(z) or enclosed_power(z, a, 2) * Enclosure.number(a, z).plus(-1.0).times(a)

    def lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """The chord, and a tangent on the other side: σ is concave for exponents between 0 and 1, otherwise convex."""
        core = self.core(z)
        chord, bottom, top = self._chord(core, arithmetic)
        tangent = self._tangent(core)
        if 0 < self.exponent < 1:
            return self._over(z, arithmetic, (chord, bottom, core.lower), tangent)
        return self._over(z, arithmetic, tangent, (chord, top, core.lower))

    def _least(self, like: Tensor) -> float:
        return float(far(like) ** (-1 / (2 + abs(self.exponent))))

    def _most(self, like: Tensor) -> float:
        return float(far(like) ** (1 / (2 + abs(self.exponent))))

    @classmethod
    def named(cls, parameters: Mapping[str, Any]) -> Self:
        if "exponent" not in parameters:
            raise InvalidNetwork("a power needs its exponent; add `exponent` to the file")
        return cls(float(parameters["exponent"]))

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(0.5), cls(-0.5), cls(1.5), cls(-2.0)]


def enclosed_power(z: Tensor, exponent: float, less: int) -> Enclosure:
    """Proved bounds of z^(a - n) for z > 0; a - n may be rounded, so that it is z^a / z^n, and z^a = exp(a log z)."""
    found = Enclosure.of(log(z)).times(exponent).rising(exp)
    for _ in range(less):
        found = found / Enclosure.point(z)
    return found


def _power(z: Tensor, exponent: float) -> Tensor:
    """z^exponent for z > 0, its limits at 0 and infinity, and infinity for z < 0."""
    inside = (z > 0) & (z < torch.inf)
    known = power_of(torch.where(inside, z, 1.0), exponent)
    rises = exponent > 0
    at_zero, at_infinity = (0.0, torch.inf) if rises else (torch.inf, 0.0) if exponent else (1.0, 1.0)
    ends = torch.where(z == 0, at_zero, torch.where(z > 0, at_infinity, torch.inf))
    ends = torch.where(z.isnan(), torch.nan, ends)
    return torch.where(inside, known, ends)


@final
@dataclass(frozen=True)
class Reciprocal(AbstractSmooth):
    """1/z for z that are not 0: convex for z > 0, concave for z < 0."""

    name: ClassVar[str] = "reciprocal"

    @property
    def limited(self) -> bool:
        return True

    def excluded(self, z: Interval) -> Tensor:
        return ~((z.lower > 0) | (z.upper < 0))

    @property
    def roundings(self) -> tuple[int, int, int]:
        return (1, 2, 3)

    def value(self, z: Tensor) -> Tensor:
        return torch.where(z == 0, torch.inf, 1 / torch.where(z == 0, 1.0, z))

    def slope(self, z: Tensor) -> Tensor:
        inner = torch.where((z == 0) | z.isinf(), 1.0, z)
        return torch.where(z == 0, -torch.inf, torch.where(z.isinf(), -0.0, -1 / inner / inner))

    def slope_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return within(lower, upper)

    def curvature(self, z: Tensor) -> Tensor:
        inner = torch.where((z == 0) | z.isinf(), 1.0, z)
        return torch.where(z == 0, torch.inf, torch.where(z.isinf(), 0 * z.detach().sign(), 2 / inner / inner / inner))

    def core(self, z: Interval) -> Interval:
        """z if it lies on one side of 0, where its numbers and their reciprocals have finite powers."""
        sign, size = _side(z)
        least, most = 1 / far(size.lower) ** 0.75, far(size.lower)
        return _on_side(sign, size.map(lambda end: end.clamp(min=least, max=most)))

    def searchable(self, z: Interval) -> Interval:
        sign, size = _side(z)
        return _on_side(sign, Interval.unchecked(torch.maximum(size.lower, size.upper / _WIDEST), size.upper))

    def lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """The chord and the midpoint's tangent, which change roles for z < 0."""
        core = self.core(z)
        slope = self.chord(core, arithmetic)
        bottom, top = self.intercepts(slope, core.lower, core.upper)
        middle = core.lower / 2 + core.upper / 2
        tangent = self.slope(middle), self.value(middle) - self.slope(middle) * middle
        convex = core.lower > 0
        lower = tuple(torch.where(convex, t, c) for t, c in zip(tangent, (slope, bottom), strict=True))
        upper = tuple(torch.where(convex, c, t) for t, c in zip(tangent, (slope, top), strict=True))
        return self._over(z, arithmetic, (lower[0], lower[1], middle), (upper[0], upper[1], middle))

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


def _side(z: Interval) -> tuple[Tensor, Interval]:
    """The sign of z, which is 1 unless all of it is negative, and the interval of sign · z."""
    negative = z.upper < 0
    sign = torch.where(negative, -1.0, 1.0).to(z.lower)
    return sign, Interval.unchecked(torch.where(negative, -z.upper, z.lower), torch.where(negative, -z.lower, z.upper))


def _on_side(sign: Tensor, size: Interval) -> Interval:
    low, high = sign * size.lower, sign * size.upper
    return Interval.unchecked(torch.minimum(low, high), torch.maximum(low, high))


@final
@dataclass(frozen=True)
class Length(AbstractPositive):
    """√max(z, 0), for arguments that are sums of squares, so that a range below 0 comes from rounding or relaxation."""

    name: ClassVar[str] = "length"

    @property
    def roundings(self) -> tuple[int, int, int]:
        return (3, 5, 0)

    def excluded(self, z: Interval) -> Tensor:
        return torch.zeros_like(z.lower, dtype=torch.bool)

    def value(self, z: Tensor) -> Tensor:
        return _power(z.clamp(min=0), 0.5)

    def slope(self, z: Tensor) -> Tensor:
        return torch.where(z < 0, 0.0, 0.5 * _power(z.clamp(min=0), -0.5))

    def slopes_beside(self, z: Tensor) -> tuple[Tensor, Tensor]:
        right = self.slope(z)
        return torch.where(z > 0, right, 0.0), right

    def slope_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return within(lower, upper, 0.0)

    def lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """The chord below and a tangent above where all of z is positive; constants elsewhere."""
        core = self.core(z)
        slope = self.chord(core, arithmetic)
        bottom, _ = self.intercepts(slope, core.lower, core.upper)
        middle = core.lower / 2 + core.upper / 2
        tangent = self.slope(middle)
        top = self.value(middle) - tangent * middle
        return self._over(z, arithmetic, (slope, bottom, middle), (tangent, top, middle))

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


@final
@dataclass(frozen=True)
class IntegerPower(AbstractCurved):
    """z^n for a whole number n from 4 to 16: σ' turns at 0 at most."""

    exponent: int
    name: ClassVar[str] = "integer_power"

    def __post_init__(self) -> None:
        if not 4 <= self.exponent <= 16:
            raise ValueError(f"a whole power {self.exponent} of a number; it must be from 4 to 16")

    def value(self, z: Tensor) -> Tensor:
        return _whole_power(z, self.exponent)

    def slope(self, z: Tensor) -> Tensor:
        return self.exponent * _whole_power(z, self.exponent - 1)

    def slope_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return within(lower, upper, 0.0)

    def value_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return within(lower, upper, 0.0)

    def curvature(self, z: Tensor) -> Tensor:
        return self.exponent * (self.exponent - 1) * _whole_power(z, self.exponent - 2)

    def enclosed_value(self, z: Tensor) -> Enclosure:
        return _enclosed_whole_power(z, self.exponent)

    def enclosed_slope(self, z: Tensor) -> Enclosure:
        return _enclosed_whole_power(z, self.exponent - 1).times(float(self.exponent))

    def enclosed_curvature(self, z: Tensor) -> Enclosure:
        return _enclosed_whole_power(z, self.exponent - 2).times(float(self.exponent * (self.exponent - 1)))

    def curvature_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return within(lower, upper, 0.0)

    def core(self, z: Interval) -> Interval:
        most = min(_WIDEST, float(torch.finfo(z.lower.dtype).max ** (0.5 / self.exponent)))
        return z.map(lambda end: end.clamp(min=-most, max=most))

    @classmethod
    def named(cls, parameters: Mapping[str, Any]) -> Self:
        if "exponent" not in parameters:
            raise InvalidNetwork("a whole power needs its exponent; add `exponent` to the file")
        return cls(int(parameters["exponent"]))

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(4)]


def _enclosed_whole_power(z: Tensor, exponent: int) -> Enclosure:
    """Proved bounds of z^n, a product of squares, with z if n is odd."""
    found, squares = Enclosure.point(z) if exponent % 2 else None, Enclosure.point(z).square()
    for _ in range(exponent // 2):
        found = squares if found is None else found * squares
    return Enclosure.number(1.0, z) if found is None else found if exponent % 2 else found.within(0.0)


def _whole_power(z: Tensor, exponent: int) -> Tensor:
    """z^exponent with its limits; infinite ends apart, because autograd would compute 0 times infinity."""
    infinite = z.isinf()
    limit = torch.inf if exponent % 2 == 0 else z.detach()
    return torch.where(infinite, limit, torch.where(infinite, 0.0, z).pow(exponent))

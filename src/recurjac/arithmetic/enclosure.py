"""Arithmetic of proved enclosures, rounded outwards after every operation, element by element.

Sums, products and quotients of two floating-point numbers are rounded to a nearest one, so that the next number in
either direction is beyond the exact result, also where it underflows (`check_matmul`) or overflows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Self, final

import torch
from torch import Tensor

from recurjac.arithmetic.interval import Interval, no_nan
from recurjac.arithmetic.rounding import infinity_of, minus_infinity_of


@final
@dataclass(frozen=True)
class Enclosure:
    """Exact numbers between `lower` and `upper`, element by element; NaN at either end says nothing.

    An infinite end means that the number may be as large as it likes, so that 0 times infinity is 0.
    """

    lower: Tensor
    upper: Tensor

    @classmethod
    def point(cls, value: Tensor) -> Self:
        """The numbers of a tensor."""
        return cls(value, value)

    @classmethod
    def of(cls, found: Interval) -> Self:
        return cls(found.lower, found.upper)

    @classmethod
    def number(cls, value: float, like: Tensor) -> Self:
        """A number of float64, in the dtype and on the device of `like`: a scalar."""
        near = torch.tensor(value, dtype=like.dtype, device=like.device)
        return cls.point(near) if float(near) == value else cls(_down(near), _up(near))

    @classmethod
    def near(cls, value: float, like: Tensor) -> Self:
        """A real number of which `value` is the nearest number of float64, or one beside it."""
        near = torch.tensor(value, dtype=like.dtype, device=like.device)
        return cls(_down(_down(near)), _up(_up(near)))

    @property
    def interval(self) -> Interval:
        """The same numbers; a NaN end becomes an infinite one."""
        return Interval.unchecked(no_nan(self.lower, -torch.inf), no_nan(self.upper, torch.inf))

    def __neg__(self) -> Enclosure:
        if self.lower is self.upper:
            return Enclosure.point(-self.lower)
        return Enclosure(-self.upper, -self.lower)

    def __add__(self, other: Enclosure) -> Enclosure:
        return Enclosure(_down(self.lower + other.lower), _up(self.upper + other.upper))

    def __sub__(self, other: Enclosure) -> Enclosure:
        return Enclosure(_down(self.lower - other.upper), _up(self.upper - other.lower))

    def __mul__(self, other: Enclosure) -> Enclosure:
        found = _outward([a * b for a in self._ends for b in other._ends])
        if not bool(found.lower.isnan().any()):  # which it is where any corner is
            return found
        return _outward([_times(a, b) for a in self._ends for b in other._ends])

    def __truediv__(self, other: Enclosure) -> Enclosure:
        """Quotients by numbers that are all positive or all negative; elsewhere unbounded."""
        found = _outward([a / b for a in self._ends for b in other._ends])
        known = (other.lower > 0) | (other.upper < 0)
        return Enclosure(torch.where(known, found.lower, -torch.inf), torch.where(known, found.upper, torch.inf))

    @property
    def _ends(self) -> tuple[Tensor, ...]:
        return (self.lower,) if self.lower is self.upper else (self.lower, self.upper)

    def twice(self) -> Enclosure:
        """2 z, which is exact unless it overflows."""
        if self.lower is self.upper and not bool(
            self.lower.abs().amax() > _largest(self.lower) / 2 if self.lower.numel() else False
        ):
            return Enclosure.point(2 * self.lower)
        return Enclosure(
            (2 * self.lower).clamp(max=_largest(self.lower)), (2 * self.upper).clamp(min=-_largest(self.upper))
        )

    def times(self, number: float) -> Enclosure:
        """Products with a number of float64."""
        return self if number == 1 else self * Enclosure.number(number, self.lower)

    def plus(self, number: float) -> Enclosure:
        """Sums with a number of float64."""
        return self + Enclosure.number(number, self.lower)

    def inverse(self) -> Enclosure:
        """1 / z for numbers that are all positive or all negative."""
        return Enclosure.number(1.0, self.lower) / self

    def square(self) -> Enclosure:
        """The squares, which are not negative."""
        size = torch.maximum(self.lower.abs(), self.upper.abs())
        least = torch.maximum(self.lower, -self.upper).clamp(min=0)
        return Enclosure(_down(least.square()).clamp(min=0), _up(size.square()))

    def rising(self, function: Callable[[Tensor], Interval]) -> Enclosure:
        """The image of a function that does not decrease, whose values at exact arguments have proved bounds."""
        low = function(self.lower)
        return Enclosure(low.lower, (low if self.upper is self.lower else function(self.upper)).upper)

    def within(self, least: float = -torch.inf, most: float = torch.inf) -> Enclosure:
        """The same numbers, which are known to be at least `least` and at most `most`, numbers of the dtype."""
        return Enclosure(self.lower.clamp(least, most), self.upper.clamp(least, most))

    def where(self, chosen: Tensor, other: Enclosure) -> Enclosure:
        """These numbers where `chosen`, and others elsewhere."""
        return Enclosure(torch.where(chosen, self.lower, other.lower), torch.where(chosen, self.upper, other.upper))

    def wider(self) -> Enclosure:
        """The same numbers and some beside them, for a computed number that is off by at most two units."""
        return Enclosure(_down(_down(self.lower)), _up(_up(self.upper)))

    def met(self, other: Enclosure) -> Enclosure:
        """Numbers that lie in both enclosures; NaN in the first one is replaced by the second one's ends."""
        lower, upper = torch.maximum(self.lower, other.lower), torch.minimum(self.upper, other.upper)
        return Enclosure(torch.where(lower.isnan(), other.lower, lower), torch.where(upper.isnan(), other.upper, upper))

    def hull(self, other: Enclosure) -> Enclosure:
        """Numbers that lie in either enclosure."""
        return Enclosure(torch.minimum(self.lower, other.lower), torch.maximum(self.upper, other.upper))

    def __getitem__(self, index: slice | int) -> Enclosure:
        if self.lower is self.upper:
            return Enclosure.point(self.lower[index])
        return Enclosure(self.lower[index], self.upper[index])


def _largest(like: Tensor) -> float:
    return torch.finfo(like.dtype).max


def _down(t: Tensor) -> Tensor:
    return torch.nextafter(t, minus_infinity_of(t.dtype, t.device))


def _up(t: Tensor) -> Tensor:
    return torch.nextafter(t, infinity_of(t.dtype, t.device))


def _outward(corners: list[Tensor]) -> Enclosure:
    return Enclosure(_down(reduce(torch.minimum, corners)), _up(reduce(torch.maximum, corners)))


def _times(a: Tensor, b: Tensor) -> Tensor:
    found = a * b
    return torch.where(found.isnan() & ~(a.isnan() | b.isnan()), 0.0, found)

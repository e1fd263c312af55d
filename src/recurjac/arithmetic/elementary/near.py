"""Numbers with a bound of their relative error, and polynomials of them: from these, every error bound is derived.

Assumed: sums, differences, products and quotients of float64 tensors are rounded to the nearest number, as IEEE 754
says; a product and a sum in one call may also be fused.  u = 2⁻⁵³ is the unit roundoff.  Errors are counted in u.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import fsum
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic.interval import Interval

UNIT = 2.0**-53
SMALLEST = 2.0**-1074
"""The smallest number above 0."""
SLACK = 1 + 2.0**-30
_MOST = 2.0**20
"""The largest error for which `SLACK` is claimed to cover what is left out below."""


def total(*errors: float) -> float:
    """A bound of the error of a result with one rounding of its own, from errors to first order.

    (1 + a u) (1 + b u) (1 + u) / (1 - c u) exceeds 1 + (a + b + c + 1) u by less than 2 (a + b + c + 1)² u², which is
    less than 2⁻³¹ of (a + b + c + 1) u as that is at most 2²¹ u.  The rest of the slack covers the rounding of this
    sum.
    """
    error = fsum((*errors, 1.0)) * SLACK
    if not error < _MOST:
        raise ValueError(f"a relative error of {error} units is too large for bounds to first order")
    return error


@final
@dataclass(frozen=True)
class Near:
    """Float64 numbers with |value - true| <= error u |true|.

    The operations below require that no result overflows or underflows; `around` covers underflow that is counted.
    """

    value: Tensor
    error: float = 0.0

    def __mul__(self, other: Near) -> Near:
        return Near(self.value * other.value, total(self.error, other.error))

    def __truediv__(self, other: Near) -> Near:
        return Near(self.value / other.value, total(self.error, other.error))

    def plus(self, other: Near, share: float, other_share: float) -> Near:
        """The sum s = a + b, if |a| <= share |s| and |b| <= other_share |s|: errors have these shares in s."""
        return Near(self.value + other.value, total(share * self.error, other_share * other.error))

    def plus_exact(self, number: Tensor | float, share: float, more: float = 0.0) -> Near:
        """The sum s = a + number, if |a| <= share |s|; a may be off by more u |s| in addition to its error."""
        return Near(self.value + number, total(share * self.error, more))

    def through(self, value: Tensor, steepness: float, roundings: int) -> Near:
        """F(a), computed as `value` with so many roundings, if the derivative of log F in log a is at most `steepness`.

        The error of a reaches F multiplied by that, whatever the number of times that a occurs in the formula.
        """
        return Near(value, total(steepness * self.error, roundings - 1.0))

    def scaled(self, factor: float) -> Near:
        """The product with a power of 2, which is exact."""
        return Near(self.value * factor, self.error)

    def __neg__(self) -> Near:
        return Near(-self.value, self.error)

    def signed(self, x: Tensor) -> Near:
        """The numbers >= 0 with the signs of x."""
        return Near(torch.copysign(self.value, x), self.error)

    def around(self, absolute: Tensor | float = 0.0) -> Interval:
        """An interval that contains the true numbers, if each value may be off by `absolute` as well.

        absolute: 0 only if the values are 0 or above 2⁻⁹⁰⁰ in size; otherwise it covers half of `SMALLEST` for the
        margin.

        The value is off by e u |true| <= (e + 2⁻¹⁰) u |value|, if e is the error, which is at most 2²⁰.  The margin is
        a product and a sum, whose roundings are less than 2⁻³⁰ u |value|.  That of the bound itself is at most
        (1 + 2⁻³⁰) u |value|.
        """
        margin = self.value.abs().mul_((self.error + 1.01) * UNIT)
        if not isinstance(absolute, float) or absolute > 0:
            margin.add_(absolute)
        lower = self.value - margin
        return Interval.unchecked(lower, margin.add_(self.value))


@final
@dataclass(frozen=True)
class Polynomial:
    """A function f(z) for |z| <= reach that a polynomial with these exact coefficients approximates up to `tail`.

    least: a lower bound of |f|.  That f lies within `tail` is proved where an instance is made.
    """

    coefficients: Sequence[Fraction]
    reach: Fraction
    tail: Fraction
    least: Fraction

    @cached_property
    def rounded(self) -> list[float]:
        """The coefficients as they are used, rounded to the nearest numbers."""
        return [float(c) for c in self.coefficients]

    def at(self, z: Near) -> Near:
        """f(z) by Horner's rule.

        In the sum, c_k z^k is multiplied by at most 2 k + 2 factors 1 + δ with |δ| <= u, of which one is that of the
        coefficient, and k are the error of z.  So it is off by at most (1 + u)^(2k + 2) (1 + e u)^k - 1 of itself,
        which is less than (2 k + 2 + k e) u (1 + 2⁻³⁰).  Products may underflow, by 2⁻¹⁰⁷⁵ each, which is less than
        2⁻⁹⁰⁰ of f.
        """
        return Near(horner(z.value.new_tensor(self.rounded).unbind(), z.value), self.error(z.error))

    def error(self, of_argument: float) -> float:
        """A bound of the error of `at`, in u; sums of positive numbers are off by less than 2⁻⁴⁰ of themselves."""
        fixed, growing = self._errors
        return (fixed + growing * of_argument) * SLACK + 2.0**-40

    @cached_property
    def _errors(self) -> tuple[float, float]:
        """The error without one of the argument, and how it grows with that."""
        least = float(self.least)
        terms = [abs(c) * float(self.reach) ** k for k, c in enumerate(self.rounded)]
        fixed = fsum(term * (2 * k + 2) for k, term in enumerate(terms)) + float(self.tail) / UNIT
        return fixed / least, fsum(term * k for k, term in enumerate(terms)) / least


def horner(coefficients: Sequence[Tensor], z: Tensor) -> Tensor:
    """The polynomial with these coefficients, the constant first, at z."""
    value = (z * coefficients[-1]).add_(coefficients[-2])
    for c in reversed(coefficients[:-2]):
        torch.addcmul(c, value, z, out=value)
    return value

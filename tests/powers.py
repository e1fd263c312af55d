"""Squares, quotients, roots and powers z^(n/2) with their derivatives, in rational arithmetic."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

from recurjac.activations import FlooredPower, Length, Reciprocal, Square, SquaredReLU
from recurjac.activations.smooth import AbstractSmooth

DIGITS = 200
"""Roots are enclosed to so many binary digits."""
Ends = tuple[Fraction, Fraction]
"""A number between two fractions, which are equal if it is rational."""


def root(x: Fraction) -> Ends:
    shift = max(0, DIGITS - (x.numerator * x.denominator).bit_length() // 2)
    below = isqrt(x.numerator * x.denominator << 2 * shift)
    exact = below * below == x.numerator * x.denominator << 2 * shift
    return Fraction(below, x.denominator << shift), Fraction(below + (not exact), x.denominator << shift)


def power(x: Fraction, exponent: float, factor: float = 1.0) -> Ends:
    """factor · x^exponent for x > 0 and multiples of 1/2 as exponents."""
    halves = Fraction(exponent) * 2
    assert halves.denominator == 1
    ends = root(x ** abs(int(halves)))
    ends = ends if exponent >= 0 else (1 / ends[1], 1 / ends[0])
    low, high = (Fraction(factor) * e for e in ends)
    return min(low, high), max(low, high)


def derivatives(activation: AbstractSmooth, x: Fraction) -> tuple[Ends, Ends, Ends] | None:
    """σ(x), σ'(x) and σ''(x); None outside the domain and at kinks."""
    zero = (Fraction(0), Fraction(0))
    if isinstance(activation, Square) or (isinstance(activation, SquaredReLU) and x > 0):
        return (x * x, x * x), (2 * x, 2 * x), (Fraction(2), Fraction(2))
    if isinstance(activation, SquaredReLU):
        return zero, zero, zero
    if isinstance(activation, Reciprocal):
        return None if x == 0 else ((1 / x, 1 / x), (-1 / x**2, -1 / x**2), (2 / x**3, 2 / x**3))
    if isinstance(activation, FlooredPower) and x < Fraction(activation.least):
        return power(Fraction(activation.least), activation.exponent), zero, zero
    if isinstance(activation, Length) and x < 0:
        return zero, zero, zero
    if x <= 0:
        return None
    a = 0.5 if isinstance(activation, Length) else activation.exponent  # type: ignore[attr-defined]
    return power(x, a), power(x, a - 1, a), power(x, a - 2, a * (a - 1))

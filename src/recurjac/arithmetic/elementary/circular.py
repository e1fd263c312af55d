"""Sine, cosine and inverse tangent."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import factorial
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic.elementary.enclosing import Elementary, limited, where
from recurjac.arithmetic.elementary.near import SMALLEST, Near, Polynomial, total
from recurjac.arithmetic.elementary.tables import ANGLES, ANGLES_REST, HALF_PI, PER_HALF_PI
from recurjac.arithmetic.interval import Interval

FARTHEST = 2.0**26
"""Beyond this number, nothing is said of sines and cosines but that they lie between -1 and 1."""
_REDUCED = 2.0**-78
"""How far a reduced argument may be off."""
_REACH = Fraction(617, 1000)
"""(π/4 + 2⁻²⁰)² is less than 0.617."""
_SINE = Polynomial(
    [Fraction((-1) ** n, factorial(2 * n + 1)) for n in range(1, 9)],
    reach=_REACH,
    tail=_REACH**8 / factorial(19),
    least=Fraction(161, 1000),
)
"""(sin(r) - r) / r³ for z = r², which increases from -1/6 to -0.1616; terms alternate and decrease."""
_COSINE = Polynomial(
    [Fraction((-1) ** (n + 1), factorial(2 * n)) for n in range(1, 10)],
    reach=_REACH,
    tail=_REACH**9 / factorial(20),
    least=Fraction(474, 1000),
)
"""(1 - cos(r)) / r² for z = r², which decreases from 1/2 to 0.4747; terms alternate and decrease."""
_ARCTAN = Polynomial(
    [Fraction((-1) ** n, 2 * n + 1) for n in range(1, 9)],
    reach=Fraction(879, 100000),
    tail=Fraction(879, 100000) ** 8 / 19,
    least=Fraction(331, 1000),
)
"""(atan(t) - t) / t³ for z = t² with |t| <= 3/32; terms alternate and decrease."""


@final
@dataclass(frozen=True)
class Turned:
    """x = k π/2 + high + low."""

    quarter: Tensor
    """k modulo 4."""
    high: Tensor
    low: Tensor
    off: Tensor
    """How far high + low may be off: 0 where k = 0."""


def turned(x: Tensor) -> Turned:
    """|x| <= `FARTHEST` with |high| <= π/4 + 2⁻²⁰ and |low| <= u |high|; high = x where k = 0.

    k is the whole number nearest to the computed x / (π/2), |k| < 2²⁶, so that its products with the first two parts of
    π/2, of at most 27 bits, are exact.  So is a = x - k HALF_PI[0]: if |x| < 2²⁰, both are multiples of 2⁻⁵³ (as |x| >
    1/2 if k ≠ 0) and |a| < 1; otherwise both are multiples of 2⁻³² and |a| < 2.  The difference of a and k HALF_PI[1]
    is exactly `top + rest` (Knuth).  k HALF_PI[2] is less than 2⁻²⁷ in size; its rounding, that of the part itself
    times k, and that of the next difference are less than 2⁻⁸⁰ each.  high + low is exactly the sum of both (Knuth).
    """
    k = (x * PER_HALF_PI).round_()
    a, b = x - k * HALF_PI[0], k * HALF_PI[1]
    top, rest = _sum(a, -b)
    high, low = _sum(top, rest - k * HALF_PI[2])
    return Turned(torch.remainder(k, 4), high, low, (k != 0).to(x) * _REDUCED)


def _sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The rounded sum, and exactly the rest (Knuth 1969)."""
    total_ = a + b
    back = total_ - a
    return total_, (a - (total_ - back)) + (b - back)


def _sine(x: Turned) -> Near:
    """sin(high + low) = high + (low + high³ S(high²)), S a series.

    `low` instead of low cos(high) differs by at most 0.293 u |high|, and |high| <= 1.111 |sin|, |high - sin| <= 0.111
    |sin|, attained at the ends.
    """
    high = Near(x.high)
    z = high * high
    rest = high * z * _SINE.at(z)
    return Near(x.high + (x.low + rest.value), total(0.111 * (rest.error + 1), 0.33))


def _cosine(x: Turned) -> Near:
    """cos(high + low) = 1 - (high² C(high²) + high low), C a series.

    high low instead of low sin(high) differs by at most 0.07 u, and 1 - cos <= 0.415 cos, attained at the ends.
    """
    high = Near(x.high)
    z = high * high
    rest = z * _COSINE.at(z)
    return Near(1 - (rest.value + x.high * x.low), total(0.415 * (rest.error + 1), 0.1, 2.0**-20))


def _wave(x: Tensor, quarters: int, absolute: float) -> Interval:
    """sin(x + quarters π/2); two halves of the smallest number may underflow."""
    parts = turned(x)
    sine, cosine, quarter = _sine(parts), _cosine(parts), torch.remainder(parts.quarter + quarters, 4)
    size = torch.where(torch.remainder(quarter, 2) == 0, sine.value, cosine.value)
    value = torch.where(quarter >= 2, -size, size)
    return limited(Near(value, max(sine.error, cosine.error)).around(parts.off + absolute), -1.0, 1.0)


def _wave_always(x: Tensor, quarters: int) -> Interval:
    far = x.abs() > FARTHEST
    found = _wave(x.masked_fill(far, 1.0), quarters, 2 * SMALLEST)
    found = Interval.unchecked(found.lower.masked_fill(far, -1.0), found.upper.masked_fill(far, 1.0))
    return where(x == 0, float(quarters), found)


def _atan(x: Tensor, absolute: float) -> Interval:
    """With y = |x| or 1 / |x| <= 1, and c = j / 8 near y, atan(y) = atan(c) + atan(t), where t = (y - c) / (1 + y c).

    j = 0 for y < 3/32, where t = y; elsewhere |y - c| <= 1/16, and the difference is exact, because both are multiples
    of 2⁻⁵⁶.  |x| > 1 has atan|x| = (π/2 - atan(c)) - atan(t).

    t has the error of 1 + y c, half that of y c and 1 u, and that of a quotient.  Relative to atan|x|, |atan(t)| is at
    most 0.331 if j > 0, attained at y = 3/32.  If j = 0 and |x| <= 1, then t is exact, and the error of the rest is
    less.  If |x| > 1, y is rounded, which changes atan(y) by at most u / 2, less than 0.65 u atan|x|; but |atan(t)| <=
    0.08 atan|x|.
    """
    size = x.abs()
    far = size > 1
    y = torch.where(far, 1 / size.clamp(min=1), size)
    j = (8 * y).round_().masked_fill_(y < 3 / 32, 0.0)
    c = j / 8
    t = Near(y - c) / (Near(y * c, 1.0).plus_exact(1.0, 0.5))
    z = t * t
    rest = t * z * _ARCTAN.at(z)
    angle = Near(t.value + rest.value, total(1.003 * t.error, 0.003 * rest.error))
    index = (j + 9 * far).to(torch.int64)
    known, more = (x.new_tensor(part)[index] for part in (ANGLES, ANGLES_REST))
    value = known + (more + torch.where(far, -angle.value, angle.value))
    return Near(value, total(0.331 * (angle.error + 1), 0.01)).signed(x).around(absolute)


def _atan_always(x: Tensor) -> Interval:
    return where(x == 0, 0.0, _atan(x, 2 * SMALLEST))


_TINY = 2.0**-400
_SIN = Elementary(lambda x: _wave(x, 0, 0.0), lambda x: _wave_always(x, 0), _TINY, FARTHEST)
_COS = Elementary(lambda x: _wave(x, 1, 0.0), lambda x: _wave_always(x, 1), _TINY, FARTHEST)
_ATAN = Elementary(lambda x: _atan(x, 0.0), _atan_always, _TINY, 2.0**400)


def sin(t: Tensor) -> Interval:
    """sin(t); between -1 and 1 beyond `FARTHEST`."""
    return _SIN(t)


def cos(t: Tensor) -> Interval:
    """cos(t); between -1 and 1 beyond `FARTHEST`."""
    return _COS(t)


def atan(t: Tensor) -> Interval:
    """The inverse tangent."""
    return _ATAN(t)

"""The exponential function, and the sigmoid and the hyperbolic tangent made of it.

x = k ln 2 + r with |r| <= 0.3466, and exp(x) = 2^k (1 + p), where p = exp(r) - 1 is a Taylor polynomial.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import factorial
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic.elementary.enclosing import LARGEST, Elementary, limited, where
from recurjac.arithmetic.elementary.near import SMALLEST, Near, Polynomial, total
from recurjac.arithmetic.elementary.tables import LN2, PER_LN2
from recurjac.arithmetic.interval import Interval

_REACH = Fraction(3466, 10000)
_DEGREE = 14

_REST = Polynomial(
    [Fraction(1, factorial(n)) for n in range(2, _DEGREE + 1)],
    reach=_REACH,
    tail=_REACH ** (_DEGREE - 1) / factorial(_DEGREE + 1) * Fraction(11, 10),
    least=Fraction(446, 1000),
)
"""R(r) / r² with R(r) = exp(r) - 1 - r, which increases with r, from 0.4469 at -0.3466.

The rest of its series is at most the first term left out over 1 - |r| / (_DEGREE + 2) > 10/11.
"""
_ABSOLUTE = 2.0**-20
"""What is left out of errors relative to p, in u of numbers of at least 1/8."""


@final
@dataclass(frozen=True)
class Reduced:
    """exp(x) = 2^k (1 + p)."""

    power: Tensor
    p: Near
    """Its error may be 2⁻⁸⁰ more where k ≠ 0."""


def reduced(x: Tensor) -> Reduced:
    """The exponential of x, |x| <= 1100, as 2^k (1 + p) with -0.293 < p < 0.4143; k = 0 where |x| <= 0.3465.

    k is the whole number nearest to the computed x / ln 2, which is off by less than 2⁻⁴¹, so that r = x - k ln 2 is at
    most ln 2 (1/2 + 2⁻⁴¹) < 0.3466 in size.  x - k LN2[0] is exact: if k ≠ 0, then |x| > 1/4, so that both numbers are
    multiples of 2⁻⁵⁴, and their difference is less than 1/2 in size.  Let w = k LN2[1] rounded, |w| < 2⁻³³.  `high` is
    the rounded difference of the two, and `low` the rest, which has two roundings of numbers of at most |w| + u: their
    sum differs from r by less than 2⁻⁸², and |low| <= u |high| + 2⁻⁸².  If k = 0, high = x and low = 0.

    p = high + (low + R(r)).  Computed at high instead of r, R is off by at most |low| |p| up to 2⁻⁸², as R' = exp - 1,
    and |low| |p| <= 0.3466 u |p| up to 2⁻⁸².  |R| <= 0.1834 |p|, because R / p increases with r, from -0.1833 at
    -0.3466 to 0.1634 at 0.3466; so the error of R and the rounding of low + R have that share in p.
    """
    k = (x * PER_LN2).round_()
    exact, w = torch.sub(x, k, alpha=LN2[0]), k * LN2[1]
    high = exact - w
    low = exact.sub_(high).sub_(w)
    rest = Near(high * high, 1.0) * _REST.at(Near(high))
    return Reduced(k, Near(low.add_(rest.value).add_(high), total(0.1834 * (rest.error + 1), 0.3466)))


def times_power(value: Tensor, k: Tensor) -> Tensor:
    """value · 2^k for 1/2 <= |value| <= 2 and whole numbers |k| <= 2000, rounded once if it underflows."""
    half = (k / 2).floor_()
    return value * power_of_two(half) * power_of_two(k - half)


def power_of_two(k: Tensor) -> Tensor:
    """2^k for whole numbers -1022 <= k <= 1023: its bits are (k + 1023) 2^52."""
    return ((k.to(torch.int64) + 1023) << 52).view(torch.float64)


def exponential(x: Tensor) -> Near:
    """exp(x) for |x| <= 1100, which may overflow to infinity, and may underflow once.

    |p| <= 0.4143 (1 + p), attained at r = -0.3466.
    """
    inner = reduced(x)
    one = inner.p.plus_exact(1.0, 0.4143, _ABSOLUTE)
    return Near(times_power(one.value, inner.power), one.error)


def exponential_less_one(x: Tensor) -> Near:
    """exp(x) - 1 for -40 <= x <= 710, which may overflow to infinity, and may underflow once.

    It is s = 2^k p + (2^k - 1).  |2^k p| <= 1.4145 |s|, attained for k = 1 at p = -0.293.  For k < -53, where 2^k - 1
    is rounded, that share is below 2⁻⁵³, so that the error is smaller.  For k > 53, exp(x) differs from s by less than
    u s, and this with the error of exp(x) is smaller as well.
    """
    inner = reduced(x)
    many = inner.power > 53
    power = power_of_two(inner.power.clamp(max=53))
    near = Near(inner.p.value * power, inner.p.error).plus_exact(power - 1, 1.4145, _ABSOLUTE)
    if not bool(many.any()):
        return near
    far = times_power(inner.p.value + 1, inner.power)
    return Near(torch.where(many, far, near.value), near.error)


def finite(found: Near, absolute: float) -> Interval:
    """The enclosures of numbers that may have overflowed, where they are above the largest one but for error."""
    inner = Near(found.value.clamp(max=LARGEST), found.error).around(absolute)
    return Interval.unchecked(inner.lower, torch.where(found.value > LARGEST, torch.inf, inner.upper))


def _exp(x: Tensor) -> Interval:
    found = limited(finite(exponential(x.clamp(-746, 710)), 2 * SMALLEST), 0.0, torch.inf)
    return where(x == -torch.inf, 0.0, where(x == 0, 1.0, found))


def _expm1(x: Tensor) -> Interval:
    found = limited(finite(exponential_less_one(x.clamp(-40, 710)), 2 * SMALLEST), -1.0, torch.inf)
    return where(x == -torch.inf, -1.0, where(x == 0, 0.0, found))


def _sigmoid(x: Tensor, absolute: float) -> Interval:
    """With e = exp(-|x|) <= 1, it is 1 / (1 + e) or e / (1 + e); two halves of the smallest number may underflow."""
    e = exponential(-x.abs())
    over = e.plus_exact(1.0, 0.5)
    error = max((Near(over.value) / over).error, e.through(over.value, 1.0, 2).error)
    return limited(Near(torch.where(x < 0, e.value, 1.0) / over.value, error).around(absolute), 0.0, 1.0)


def _sigmoid_always(x: Tensor) -> Interval:
    known = where(x == 0, 0.5, _sigmoid(x.clamp(-746, 746), 2 * SMALLEST))
    return where(x.isinf(), (x > 0).to(x), known)


def _logistic(x: Tensor, absolute: float) -> Interval:
    """With e = exp(-|x|), it is e / (1 + e)², whose logarithmic derivative in e is (1 - e) / (1 + e) <= 1."""
    e = exponential(-x.abs())
    over = e.value + 1
    return limited(e.through(e.value / (over * over), 1.0, 4).around(absolute), 0.0, 0.25)


def _logistic_always(x: Tensor) -> Interval:
    found = _logistic(x.clamp(-746, 746), 2 * SMALLEST)
    return where(x == 0, 0.25, where(x.isinf(), 0.0, found))


def _tanh(x: Tensor, absolute: float) -> Interval:
    """With m = exp(2 |x|) - 1, it is m / (m + 2), whose logarithmic derivative in m is 2 / (m + 2) <= 1."""
    m = exponential_less_one(2 * x.abs())
    return limited(m.through(m.value / (m.value + 2), 1.0, 2).signed(x).around(absolute), -1.0, 1.0)


def _tanh_always(x: Tensor) -> Interval:
    """From |x| = 20 on, it differs from 1 by less than 2⁻⁵⁶."""
    found = _tanh(x.clamp(-20, 20), 2 * SMALLEST)
    far = x.abs() > 20
    found = Interval.unchecked(
        torch.where(far & (x < 0), -1.0, found.lower), torch.where(far & (x > 0), 1.0, found.upper)
    )
    return where(x == 0, 0.0, where(x.isinf(), x.sign(), found))


_TINY = 2.0**-400
"""Powers and products of few numbers of at least this size do not underflow."""
_EXP = Elementary(lambda x: exponential(x).around(), _exp, _TINY, 600)
_EXPM1 = Elementary(lambda x: limited(exponential_less_one(x).around(), -1.0, torch.inf), _expm1, _TINY, 40)
_SIGMOID = Elementary(lambda x: _sigmoid(x, 0.0), _sigmoid_always, _TINY, 600)
_LOGISTIC = Elementary(lambda x: _logistic(x, 0.0), _logistic_always, _TINY, 600)
_TANH = Elementary(lambda x: _tanh(x, 0.0), _tanh_always, _TINY, 20)


def exp(t: Tensor) -> Interval:
    """exp(t)."""
    return _EXP(t)


def expm1(t: Tensor) -> Interval:
    """exp(t) - 1, also with a small relative error near 0."""
    return _EXPM1(t)


def sigmoid(t: Tensor) -> Interval:
    """1 / (1 + exp(-t))."""
    return _SIGMOID(t)


def logistic(t: Tensor) -> Interval:
    """The derivative of the sigmoid, exp(-t) / (1 + exp(-t))², also with a small relative error where it is small."""
    return _LOGISTIC(t)


def tanh(t: Tensor) -> Interval:
    """The hyperbolic tangent; its derivative is 4 logistic(2 t)."""
    return _TANH(t)

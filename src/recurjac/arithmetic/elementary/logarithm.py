"""The logarithm, and functions log(1 + exp(x)) made of it.

x = 2^k m with m between √½ and √2, and log m = f - s (f - R) with f = m - 1, s = f / (2 + f), and a series R of s².
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic.elementary.enclosing import enclosed, limited, where
from recurjac.arithmetic.elementary.exponential import exponential
from recurjac.arithmetic.elementary.near import SMALLEST, Near, Polynomial, total
from recurjac.arithmetic.elementary.tables import LN2
from recurjac.arithmetic.interval import Interval

_LARGEST = torch.finfo(torch.float64).max
_REACH = Fraction(2944, 100000)
_TERMS = 11

_SERIES = Polynomial(
    [Fraction(2, 2 * j + 3) for j in range(_TERMS)],
    reach=_REACH,
    tail=_REACH**_TERMS * Fraction(2, 2 * _TERMS + 3) * Fraction(104, 100),
    least=Fraction(2, 3),
)
"""R / z = 2/3 + 2/5 z + 2/7 z² + … for z = s²; what is left out is at most its first term over 1 - z."""
_ROOT_HALF = 0x3FE6A09E667F3BCC
"""The bits of the largest number below √½."""


@final
@dataclass(frozen=True)
class Split:
    """2^k (1 + f) with f between √½ - 1 and √2 - 1, up to roundings of f."""

    k: Tensor
    f: Tensor


def split(x: Tensor) -> Split:
    """Finite numbers x > 0; f is exact (by Sterbenz's lemma)."""
    small = x < 2.0**-1000
    bits = torch.where(small, x * 2.0**100, x).view(torch.int64)
    k = (bits - _ROOT_HALF) >> 52
    m = (bits - (k << 52)).view(torch.float64)
    return Split(k.to(torch.float64) - 100 * small, m - 1)


def logarithm(x: Split, more: Tensor | float = 0.0) -> Near:
    """k ln 2 + log(1 + f) + more, where |more| <= 2 u, and `more` is 0 where k = 0; `more` may be off by 2⁻⁸⁴.

    s² < 0.02944 = z, and R < 0.02.  R is at most 0.064 |f - R|, attained where f = √½ - 1.  c = s (f - R) = f - log m is at
    most 0.1953 of log m, attained where f = √2 - 1.

    For k ≠ 0, k LN2[0] is exact and at least 0.69 in size; `high` is the rounded sum of that and f, and `low` is
    exactly the rest (Dekker 1971, as |f| < 0.42).  low + k LN2[1] + more is less than 2⁻³⁰ in size, and its roundings, with
    that of k ln 2, are less than 2⁻⁸³.  The logarithm is at least 0.3465 in size, and |c| is at most 0.1953 times that,
    attained for k = -1 where f = √2 - 1.  For k = 0, low = 0 and high = f.
    """
    f = Near(x.f)
    s = f / f.plus_exact(2.0, 0.18)
    z = s * s
    r = z * _SERIES.at(z)
    c = s * f.plus(-r, 1.0, 0.064)
    whole = x.k * LN2[0]
    high = whole + x.f
    low = (x.f - (high - whole)) + x.k * LN2[1] + more
    return Near(high + (low - c.value), total(0.1953 * (c.error + 1), 2.0**-20))


def logarithm_of_sum(x: Tensor) -> Near:
    """log(1 + x) for finite x > -1, of which two halves of the smallest number may underflow.

    1 + x = y + rest exactly (Knuth), where y is the rounded sum and |rest| <= u y.  If y is between √½ and √2, f = x is used.
    Otherwise log(1 + x) = log y + rest / y up to 2⁻¹⁰⁶.
    """
    y = x + 1
    back = y - 1
    rest = (1 - (y - back)) + (x - back)
    parts = split(y)
    near = parts.k == 0
    return logarithm(Split(parts.k, torch.where(near, x, parts.f)), torch.where(near, 0.0, rest / y))


def _log(x: Tensor) -> Interval:
    inside = (x > 0) & (x < torch.inf)
    return _with_ends(x, 0.0, where(x == 1, 0.0, logarithm(split(torch.where(inside, x, 1.0))).around()))


def _log1p(x: Tensor) -> Interval:
    inside = (x > -1) & (x < torch.inf)
    return _with_ends(x, -1.0, where(x == 0, 0.0, logarithm_of_sum(torch.where(inside, x, 0.0)).around(2 * SMALLEST)))


def _with_ends(x: Tensor, pole: float, found: Interval) -> Interval:
    """An infinite range at the pole, at infinity, and below the pole, where nothing is known."""
    low = torch.where(x == torch.inf, _LARGEST, torch.where(x <= pole, -torch.inf, found.lower))
    high = torch.where(x == pole, -_LARGEST, found.upper)
    return Interval.unchecked(low, torch.where((x < pole) | (x == torch.inf), torch.inf, high))


def _softplus(x: Tensor) -> Interval:
    """With e = exp(-|x|), it is log(1 + e) or x + log(1 + e); log(1 + e) has a logarithmic derivative in e of at most 1."""
    e = exponential(-x.abs().clamp(max=746))
    inner = logarithm_of_sum(e.value)
    below = Near(inner.value, total(inner.error, e.error - 1))
    above = below.plus_exact(x.clamp(0, _LARGEST), 1.0)
    found = Near(torch.where(x > 0, above.value, below.value), above.error).around(2 * SMALLEST)
    found = where(x == -torch.inf, 0.0, limited(found, 0.0, torch.inf))
    return Interval.unchecked(found.lower, torch.where(x == torch.inf, torch.inf, found.upper))


def _log_cosh(x: Tensor) -> Interval:
    """|x| / 2 + log(1 + exp(-|x|)), a sum of numbers >= 0."""
    size = x.abs().clamp(max=_LARGEST)
    e = exponential(-size.clamp(max=746))
    inner = logarithm_of_sum(e.value)
    found = Near(inner.value, total(inner.error, e.error - 1)).plus_exact(size / 2, 1.0).around()
    return Interval.unchecked(found.lower, torch.where(x.isinf(), torch.inf, found.upper))


def log(t: Tensor) -> Interval:
    """log(t); at 0 its limit, and the whole line below it."""
    return enclosed(_log, t)


def log1p(t: Tensor) -> Interval:
    """log(1 + t), also with a small relative error near 0; at -1 its limit, and the whole line below it."""
    return enclosed(_log1p, t)


def softplus(t: Tensor) -> Interval:
    """log(1 + exp(t)), also with a small relative error where it is small; log(sigmoid(t)) is -softplus(-t)."""
    return enclosed(_softplus, t)


def log_cosh(t: Tensor) -> Interval:
    """log(exp(t / 2) + exp(-t / 2))."""
    return enclosed(_log_cosh, t)

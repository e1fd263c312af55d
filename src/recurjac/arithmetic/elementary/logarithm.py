"""The logarithm, and functions log(1 + exp(x)) made of it.

x = 2^k m with m between √½ and √2, and log m = f - s (f - R) with f = m - 1, s = f / (2 + f), and a series R of s².
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic.elementary.enclosing import LARGEST, Elementary, itself, limited, where
from recurjac.arithmetic.elementary.exponential import exponential
from recurjac.arithmetic.elementary.near import SMALLEST, Near, Polynomial, total
from recurjac.arithmetic.elementary.tables import LN2
from recurjac.arithmetic.interval import Interval

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
    """Finite normal numbers x > 0; f is exact (by Sterbenz's lemma)."""
    bits = x.view(torch.int64)
    k = (bits - _ROOT_HALF) >> 52
    m = (bits - (k << 52)).view(torch.float64)
    return Split(k.to(torch.float64), m - 1)


def logarithm(x: Split, more: Tensor | float = 0.0) -> Near:
    """k ln 2 + log(1 + f) + more, where |more| <= 2 u, and `more` is 0 where k = 0; `more` may be off by 2⁻⁸⁴.

    s² < 0.02944 = z, and R < 0.02.  R is at most 0.064 |f - R|, attained where f = √½ - 1.  c = s (f - R) = f - log m
    is at most 0.1953 of log m, attained where f = √2 - 1.

    For k ≠ 0, k LN2[0] is exact and at least 0.69 in size; `high` is the rounded sum of that and f, and `low` is
    exactly the rest (Dekker 1971, as |f| < 0.42).  low + k LN2[1] + more is less than 2⁻³⁰ in size, and its roundings,
    with that of k ln 2, are less than 2⁻⁸³.  The logarithm is at least 0.3465 in size, and |c| is at most 0.1953 times
    that, attained for k = -1 where f = √2 - 1.  For k = 0, low = 0 and high = f.
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

    1 + x = y + rest exactly (Knuth), where y is the rounded sum and |rest| <= u y.  If y is between √½ and √2, f = x is
    used. Otherwise log(1 + x) = log y + rest / y up to 2⁻¹⁰⁶.
    """
    y = x + 1
    back = y - 1
    rest = (1 - (y - back)) + (x - back)
    parts = split(y)
    near = parts.k == 0
    return logarithm(Split(parts.k, torch.where(near, x, parts.f)), torch.where(near, 0.0, rest / y))


def _log(x: Tensor) -> Interval:
    """Small numbers are multiplied by 2¹⁰⁰ before they are split."""
    inner = torch.where((x > 0) & (x < torch.inf), x, 1.0)
    small = inner < 2.0**-1000
    parts = split(torch.where(small, inner * 2.0**100, inner))
    return _with_ends(x, 0.0, logarithm(Split(parts.k - 100 * small, parts.f)).around())


def _log1p(x: Tensor) -> Interval:
    inner = torch.where((x > -1) & (x < torch.inf), x, 0.0)
    return _with_ends(x, -1.0, where(x == 0, 0.0, logarithm_of_sum(inner).around(2 * SMALLEST)))


def _with_ends(x: Tensor, pole: float, found: Interval) -> Interval:
    """An infinite range at the pole, at infinity, and below the pole, where nothing is known."""
    low = torch.where(x == torch.inf, LARGEST, torch.where(x <= pole, -torch.inf, found.lower))
    high = torch.where(x == pole, -LARGEST, found.upper)
    return Interval.unchecked(low, torch.where((x < pole) | (x == torch.inf), torch.inf, high))


def _softplus(x: Tensor, absolute: float) -> Interval:
    """With e = exp(-|x|), it is max(x, 0) + log(1 + e), of which the second has a logarithmic derivative in e of at
    most 1.

    Three halves of the smallest number may underflow.
    """
    return _plus_logarithm(x, x.clamp(min=0)).around(absolute)


def _log_cosh(x: Tensor, absolute: float) -> Interval:
    """|x| / 2 + log(1 + exp(-|x|))."""
    return _plus_logarithm(x, x.abs() / 2).around(absolute)


def _plus_logarithm(x: Tensor, number: Tensor) -> Near:
    """The sum of numbers >= 0 and log(1 + exp(-|x|))."""
    e = exponential(-x.abs().clamp(max=746))
    logarithms = logarithm_of_sum(e.value)
    return Near(logarithms.value, total(logarithms.error, e.error - 1)).plus_exact(number, 1.0)


def _always(function: Callable[[Tensor, float], Interval], x: Tensor) -> Interval:
    """Such a sum where x may be infinite."""
    found = limited(function(x.clamp(-LARGEST, LARGEST), 2 * SMALLEST), 0.0, torch.inf)
    huge = x == torch.inf
    return Interval.unchecked(found.lower.masked_fill(huge, LARGEST), found.upper.masked_fill(huge, torch.inf))


def _softplus_always(x: Tensor) -> Interval:
    return where(x == -torch.inf, 0.0, _always(_softplus, x))


def _log_cosh_always(x: Tensor) -> Interval:
    return _always(_log_cosh, x.abs())


_TINY, _HUGE = 2.0**-400, 2.0**400
_LOG = Elementary(lambda x: logarithm(split(x)).around(), _log, _TINY, _HUGE, itself)
_LOG1P = Elementary(lambda x: logarithm_of_sum(x).around(), _log1p, _TINY, _HUGE, itself)
_SOFTPLUS = Elementary(lambda x: _softplus(x, 0.0), _softplus_always, 0.0, 600)
_LOG_COSH = Elementary(lambda x: _log_cosh(x, 0.0), _log_cosh_always, 0.0, 600)


def log(t: Tensor) -> Interval:
    """log(t); at 0 its limit, and the whole line below it."""
    return _LOG(t)


def log1p(t: Tensor) -> Interval:
    """log(1 + t), also with a small relative error near 0; at -1 its limit, and the whole line below it."""
    return _LOG1P(t)


def softplus(t: Tensor) -> Interval:
    """log(1 + exp(t)), also with a small relative error where it is small; log(sigmoid(t)) is -softplus(-t)."""
    return _SOFTPLUS(t)


def log_cosh(t: Tensor) -> Interval:
    """log(exp(t / 2) + exp(-t / 2))."""
    return _LOG_COSH(t)

"""The error function, and the density and the distribution function of the normal distribution.

Near 0, erf is a series.  Elsewhere erfc(y) = exp(-y²) E(y), where E is a Taylor polynomial at the centre of one of 48
pieces of [1/2, 32].
"""

from __future__ import annotations

from fractions import Fraction
from math import factorial

import torch
from torch import Tensor

from recurjac.arithmetic.elementary.enclosing import Elementary, limited, where
from recurjac.arithmetic.elementary.exponential import exponential
from recurjac.arithmetic.elementary.near import SMALLEST, Near, Polynomial, horner, total
from recurjac.arithmetic.elementary.tables import COMPLEMENT, DENSITY, ROOT_HALF, TWO_PER_ROOT_PI
from recurjac.arithmetic.interval import Interval

_PIECES, _TERMS = 48, 16
_NEAR, _LEAST = 0.75, 0.5
"""Up to these numbers, erf and erfc are computed by the series."""
_FARTHEST = 28.0
"""erfc is less than 2⁻¹⁰⁷⁵ here, and the normal distribution function at -√2 times this number."""
_REACH = Fraction(5625, 10000)
_SERIES = Polynomial(
    [Fraction((-1) ** n, factorial(n) * (2 * n + 1)) for n in range(1, 15)],
    reach=_REACH,
    tail=_REACH**14 / (factorial(15) * 31),
    least=Fraction(283, 1000),
)
"""(S - 1) / z for z = y², where erf(y) = 2/√π y S; it increases from -1/3 to -0.2838; terms alternate and decrease."""


def _inner(y: Tensor) -> Near:
    """erf(y) for |y| <= 3/4; three halves of the smallest number may underflow.

    S >= 0.84032, attained at the ends, so that 1 <= 1.1901 S and 1 - S <= 0.1901 S.
    """
    z = Near(y * y, 1.0)
    main = Near(y * TWO_PER_ROOT_PI, total(1.0))
    return main.plus(main * (z * _SERIES.at(z)), 1.1901, 0.1901)


def _scaled(y: Tensor) -> Near:
    """E(y) = exp(y²) erfc(y) for 1/2 <= y < 32.

    E(y) = 2/√π ∫ exp(-t² - 2 t y) dt over t >= 0, so that its Taylor coefficients a_n at c alternate in sign, and, by
    integration by parts, |a_{n + 1}| <= |a_n| / c.  With |y - c| = d <= c / 17, |a_n| d^n <= a_0 / 17^n.  Horner's rule
    is off by at most Σ (2 n + 2) u |a_n| d^n <= 2.26 u a_0 (see `Polynomial.at`; y - c is exact, because c is a
    multiple of the last place of y and y of the same size).  E(y) >= a_0 (1 - 1/17).  What is left out is at most
    |E⁽¹⁶⁾| / 16! d^16 at c - d, which is less than E(c - d) (d / (c - d))^16 < 1.07 a_0 2⁻⁶⁴.
    """
    bits = y.view(torch.int64)
    piece = bits >> 49
    c = ((piece << 49) + (1 << 48)).view(torch.float64)
    d, rows = y - c, y.new_tensor(COMPLEMENT).view(_TERMS, _PIECES)
    index = piece - (0x3FE << 3)
    return Near(horner(rows.index_select(1, index.flatten()).reshape(_TERMS, *y.shape).unbind(), d), 2.45)


def _gauss(x: Tensor, factor: float) -> Near:
    """exp(-factor x²) for factor = 1/2 or 1 and exponents of at most 1000; two halves of the smallest number may
    underflow.

    x² = high + low exactly (Dekker 1971), if nothing underflows, which would be off by less than 2⁻¹⁰⁷⁰.  |low| <= 2⁻⁴²
    is so small that exp(-low) is 1 - low up to 2⁻⁸⁵.
    """
    scaled = x * 134217729.0
    first = scaled - (scaled - x)
    second = x - first
    high = x * x
    low = ((first * first - high) + 2 * first * second) + second * second
    e = exponential(-factor * high)
    return Near(e.value - e.value * (factor * low), total(e.error, 2.0**-20))


def _complement(x: Tensor, square: Near, argument: float) -> Near:
    """erfc of x, which may have the relative error `argument` (in u), from exp(-x²).

    The derivatives of log erf and of log E in log |x| are at most 1 in size.  For 0 < x < 1/2, erf(x) <= 1.086 erfc(x),
    and for x < 0 its share is less; for x <= -1/2, erfc(x) = 2 - erfc(-x), and erfc(-x) <= 0.316 erfc(x).
    """
    size = x.abs()
    near = size < _LEAST
    inner, scaled = _inner(torch.where(near, x, 0.0)), _scaled(size.clamp(_LEAST, _FARTHEST))
    scaled = Near(scaled.value, scaled.error + argument) * square
    term = torch.where(near, -inner.value, torch.where(x < 0, -scaled.value, scaled.value))
    base = torch.where(near, 1.0, torch.where(x < 0, 2.0, 0.0))
    errors = total(1.086 * (inner.error + argument)), scaled.error, total(0.316 * scaled.error)
    return Near(base + term, max(errors))


def _erf(x: Tensor, absolute: float) -> Interval:
    """From 3/4 on it is 1 - erfc, and erfc <= 0.407 erf."""
    size = x.abs()
    near, outer = _inner(size.clamp(max=_NEAR)), size.clamp(min=_NEAR)
    far = (-(_scaled(outer) * _gauss(outer, 1.0))).plus_exact(1.0, 0.407)
    value = torch.where(size < _NEAR, near.value, far.value)
    return limited(Near(value, max(near.error, far.error)).signed(x).around(absolute), -1.0, 1.0)


def _erf_always(x: Tensor) -> Interval:
    """From |x| = 6.5 on, it differs from 1 by less than 2⁻⁶⁴."""
    found, far = _erf(x.clamp(-6.5, 6.5), 2 * SMALLEST), x.abs() > 6.5
    found = Interval.unchecked(
        torch.where(far & (x < 0), -1.0, found.lower), torch.where(far & (x > 0), 1.0, found.upper)
    )
    return where(x == 0, 0.0, where(x.isinf(), x.sign(), found))


def _erfc(x: Tensor, absolute: float) -> Interval:
    return limited(_complement(x, _gauss(x, 1.0), 0.0).around(absolute), 0.0, 2.0)


def _erfc_always(x: Tensor) -> Interval:
    found = _erfc(x.clamp(-_FARTHEST, _FARTHEST), 2 * SMALLEST)
    return where(x == 0, 1.0, where(x.isinf(), (x < 0) * 2.0, found))


def _distribution(x: Tensor, absolute: float) -> Interval:
    """erfc(-x √½) / 2; the factor and the product are rounded."""
    found = _complement(x * -ROOT_HALF, _gauss(x, 0.5), 2.0).scaled(0.5)
    return limited(found.around(absolute), 0.0, 1.0)


def _distribution_always(x: Tensor) -> Interval:
    found = _distribution(x.clamp(-39.5, 39.5), 2 * SMALLEST)
    return where(x == 0, 0.5, where(x.isinf(), (x > 0).to(x), found))


def _gaussian(x: Tensor, absolute: float) -> Interval:
    return limited(_gauss(x, 1.0).around(absolute), 0.0, 1.0)


def _gaussian_always(x: Tensor) -> Interval:
    found = _gaussian(x.clamp(-_FARTHEST, _FARTHEST), 2 * SMALLEST)
    return where(x == 0, 1.0, where(x.isinf(), 0.0, found))


def _density(x: Tensor, absolute: float) -> Interval:
    e = _gauss(x, 0.5)
    return Near(e.value * DENSITY, total(e.error, 1.0)).around(absolute)


def _density_always(x: Tensor) -> Interval:
    found = limited(_density(x.clamp(-39.5, 39.5), 2 * SMALLEST), 0.0, 1.0)
    return where(x.isinf(), 0.0, found)


_TINY = 2.0**-400
_ERF = Elementary(lambda x: _erf(x, 0.0), _erf_always, _TINY, 6.5)
_ERFC = Elementary(lambda x: _erfc(x, 0.0), _erfc_always, _TINY, 20.0)
_DISTRIBUTION = Elementary(lambda x: _distribution(x, 0.0), _distribution_always, _TINY, 30.0)
_GAUSSIAN = Elementary(lambda x: _gaussian(x, 0.0), _gaussian_always, _TINY, 20.0)
_DENSITY = Elementary(lambda x: _density(x, 0.0), _density_always, _TINY, 30.0)


def erf(t: Tensor) -> Interval:
    """2/√π times the integral of exp(-s²) from 0 to t."""
    return _ERF(t)


def erfc(t: Tensor) -> Interval:
    """1 - erf(t), also with a small relative error where it is small."""
    return _ERFC(t)


def gaussian(t: Tensor) -> Interval:
    """exp(-t²)."""
    return _GAUSSIAN(t)


def normal_density(t: Tensor) -> Interval:
    """exp(-t² / 2) / √(2π)."""
    return _DENSITY(t)


def normal_distribution(t: Tensor) -> Interval:
    """Φ(t), the integral of the normal density up to t, also with a small relative error where it is small."""
    return _DISTRIBUTION(t)

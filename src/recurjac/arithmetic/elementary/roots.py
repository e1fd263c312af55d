"""Roots and powers."""

from __future__ import annotations

import torch
from torch import Tensor

from recurjac.arithmetic.elementary.enclosing import LARGEST, Elementary, itself, where
from recurjac.arithmetic.elementary.exponential import exp
from recurjac.arithmetic.elementary.logarithm import log
from recurjac.arithmetic.elementary.near import SMALLEST, Near, total
from recurjac.arithmetic.interval import Interval
from recurjac.arithmetic.rounding import root_of

_STEEPEST = 1024.0
"""The largest exponent of a power."""


def _root(x: Tensor) -> Interval:
    """`root_of` has the error of two correctly rounded operations."""
    return Near(root_of(x), total(1.0)).around()


def _sqrt(x: Tensor) -> Interval:
    found, huge = _root(torch.where((x > 0) & (x < torch.inf), x, 1.0)), x == torch.inf
    found = Interval.unchecked(found.lower.masked_fill(huge, LARGEST), found.upper.masked_fill(huge, torch.inf))
    return where(x == 0, 0.0, where(x < 0, torch.nan, found))


_SQRT = Elementary(_root, _sqrt, 2.0**-400, 2.0**400, itself)


def sqrt(t: Tensor) -> Interval:
    """√t; the whole line below 0."""
    return _SQRT(t)


def power(t: Tensor, exponent: float) -> Interval:
    """t^exponent for t > 0, and its limits at 0 and infinity; the whole line below 0.

    It is exp(exponent log t), whose relative width grows with |exponent log t|.  Raises ValueError if the exponent is
    0, NaN, or above 1024 in size.
    """
    if not 0 < abs(exponent) <= _STEEPEST:
        raise ValueError(f"a power with the exponent {exponent}; it must not be 0, and at most {_STEEPEST}")
    return Elementary(lambda x: _power(x, exponent), lambda x: _power(x, exponent), 1.0, 0.0)(t)


def _power(x: Tensor, exponent: float) -> Interval:
    """The exponential of the products of the exponent and both ends of the logarithm, and limits."""
    inside = (x > 0) & (x < torch.inf)
    logarithms = log(torch.where(inside, x, 1.0))
    products = torch.stack([logarithms.lower * exponent, logarithms.upper * exponent])
    around = Near(products, 1.0).around(SMALLEST)
    low, high = exp(around.lower.amin(0)).lower, exp(around.upper.amax(0)).upper
    huge = (x == torch.inf) if exponent > 0 else (x == 0)
    found = Interval.unchecked(low.masked_fill(huge, LARGEST), high.masked_fill(huge, torch.inf))
    return where(x < 0, torch.nan, where(~inside & ~huge, 0.0, found))

"""Roots and powers."""

from __future__ import annotations

from math import isfinite

import torch
from torch import Tensor

from recurjac.arithmetic.elementary.enclosing import enclosed, where
from recurjac.arithmetic.elementary.exponential import exp
from recurjac.arithmetic.elementary.logarithm import log
from recurjac.arithmetic.elementary.near import UNIT, Near, total
from recurjac.arithmetic.interval import Interval
from recurjac.arithmetic.rounding import root_of

_LARGEST = torch.finfo(torch.float64).max
_MOST = 1024.0


def _sqrt(x: Tensor) -> Interval:
    inside = (x > 0) & (x < torch.inf)
    found = Near(root_of(torch.where(inside, x, 1.0)), total(1.0)).around()
    found = Interval.unchecked(found.lower, torch.where(x == torch.inf, torch.inf, found.upper))
    return where(x == 0, 0.0, where(x < 0, torch.nan, found))


def sqrt(t: Tensor) -> Interval:
    """√t; the whole line below 0."""
    return enclosed(_sqrt, t)

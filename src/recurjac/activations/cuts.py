"""Points at which ranges are divided, so that slopes are known better in both parts (docs/mathematics.md, §6.11)."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from recurjac.activations.base import AbstractActivation
from recurjac.arithmetic import Fast, Interval

_SHARES = (0.5, 0.35, 0.65, 0.2, 0.8)
"""The points of a range that are tried, if no jump of the slope lies in it."""
_SUM = 0.1
"""How much the width of the narrower of the two ranges of slopes counts, beside that of the wider one."""
_FAR = 10.0
"""Where a range without ends is cut."""


def cuts_of(activation: AbstractActivation, z: Interval) -> tuple[Tensor, Tensor]:
    """Where ranges z are cut, and whether the slope of one of the two pieces is then known better: two of z's shape."""
    low, high = torch.maximum(z.lower, z.upper.clamp(max=0) - _FAR), torch.minimum(z.upper, z.lower.clamp(min=0) + _FAR)
    points = [torch.full_like(low, jump) for jump in activation.jumps]
    points += [low + share * (high - low) for share in _SHARES]
    whole = activation.slope_range(z, Fast()).width
    best, least = points[0], torch.full_like(low, inf)
    for c in points:
        inside = (z.lower < c) & (c < z.upper)
        at = torch.minimum(torch.maximum(c, z.lower), z.upper)
        left, right = torch.nextafter(at, z.lower), torch.nextafter(at, z.upper)
        parts = (Interval.unchecked(z.lower, left), Interval.unchecked(right, z.upper))
        widths = torch.stack([activation.slope_range(p, Fast()).width.nan_to_num(inf) for p in parts])
        cost = torch.where(inside, widths.amax(0) + _SUM * widths.amin(0), inf)
        best, least = torch.where(cost < least, c, best), torch.minimum(cost, least)
    return best, least < (1 + _SUM) * whole

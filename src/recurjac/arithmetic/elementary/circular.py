"""Sine, cosine and inverse tangent."""

from __future__ import annotations

import torch
from torch import Tensor

from recurjac.arithmetic.interval import Interval


def _unknown(t: Tensor) -> Interval:
    return Interval.unchecked(torch.full_like(t, -torch.inf), torch.full_like(t, torch.inf))


def sin(t: Tensor) -> Interval:
    """sin(t)."""
    return _unknown(t)


def cos(t: Tensor) -> Interval:
    """cos(t)."""
    return _unknown(t)


def atan(t: Tensor) -> Interval:
    """The inverse tangent."""
    return _unknown(t)

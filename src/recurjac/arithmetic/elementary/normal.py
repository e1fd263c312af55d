"""The error function, and the density and the distribution function of the normal distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from recurjac.arithmetic.interval import Interval


def _unknown(t: Tensor) -> Interval:
    return Interval.unchecked(torch.full_like(t, -torch.inf), torch.full_like(t, torch.inf))


def erf(t: Tensor) -> Interval:
    """2/√π times the integral of exp(-s²) from 0 to t."""
    return _unknown(t)


def erfc(t: Tensor) -> Interval:
    """1 - erf(t), also with a small relative error where it is small."""
    return _unknown(t)


def gaussian(t: Tensor) -> Interval:
    """exp(-t²)."""
    return _unknown(t)


def normal_density(t: Tensor) -> Interval:
    """exp(-t² / 2) / √(2π)."""
    return _unknown(t)


def normal_distribution(t: Tensor) -> Interval:
    """Φ(t), the integral of the normal density up to t, also with a small relative error where it is small."""
    return _unknown(t)

"""Enclosures of functions of float32 and float64 tensors, from those of float64 tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recurjac.arithmetic.interval import Interval
from recurjac.arithmetic.platform import round_up_to, supported_dtype


def enclosed(evaluate: Callable[[Tensor], Interval], t: Tensor) -> Interval:
    """The enclosures of a function at t, in the dtype of t, from those at float64 tensors; NaN gives the whole line.

    They carry no derivative.
    """
    dtype = supported_dtype(t.dtype)
    with torch.no_grad():
        x = t.detach().to(torch.float64)
        found = evaluate(x)
        unknown = x.isnan() | ~(found.lower <= found.upper)
        lower = torch.where(unknown, -torch.inf, found.lower)
        upper = torch.where(unknown, torch.inf, found.upper)
        if dtype != torch.float64:
            lower, upper = -round_up_to(-lower, dtype), round_up_to(upper, dtype)
        return Interval.unchecked(lower, upper)


def increasing(function: Callable[[Tensor], Interval], z: Interval) -> Interval:
    """The range of an increasing function over an interval, from its enclosures at both ends."""
    return Interval.unchecked(function(z.lower).lower, function(z.upper).upper)


def decreasing(function: Callable[[Tensor], Interval], z: Interval) -> Interval:
    """The range of a decreasing function over an interval, from its enclosures at both ends."""
    return Interval.unchecked(function(z.upper).lower, function(z.lower).upper)


def limited(found: Interval, least: float, most: float) -> Interval:
    """The part of an enclosure between two numbers that the function does not leave."""
    return Interval.unchecked(found.lower.clamp(least, most), found.upper.clamp(least, most))


def where(known: Tensor, value: Tensor | float, found: Interval) -> Interval:
    """The exact value where it is known, and the enclosure elsewhere."""
    return Interval.unchecked(torch.where(known, value, found.lower), torch.where(known, value, found.upper))

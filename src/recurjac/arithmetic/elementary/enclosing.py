"""Enclosures of functions of float32 and float64 tensors, from those of float64 tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic.interval import Interval
from recurjac.arithmetic.platform import round_up_to, supported_dtype

LARGEST = torch.finfo(torch.float64).max


@final
@dataclass(frozen=True)
class Elementary:
    """A function with enclosures of its values.

    ordinary: enclosures at float64 numbers x with least <= measure(x) <= most, where nothing overflows or underflows.
    always: enclosures at all float64 numbers but NaN; the same as `ordinary`, except that special cases are treated.
    """

    ordinary: Callable[[Tensor], Interval]
    always: Callable[[Tensor], Interval]
    least: float
    most: float
    measure: Callable[[Tensor], Tensor] = torch.abs

    def __call__(self, t: Tensor) -> Interval:
        """Enclosures in the dtype of t, without derivatives; the whole line where t or an enclosure is NaN."""
        dtype = supported_dtype(t.dtype)
        with torch.no_grad():
            found = self._at(t.detach().to(torch.float64))
            if dtype == torch.float64:
                return found
            return Interval.unchecked(-round_up_to(-found.lower, dtype), round_up_to(found.upper, dtype))

    def _at(self, x: Tensor) -> Interval:
        if not x.numel():
            return Interval.point(x)
        least, most = self.measure(x).aminmax()  # NaN if there is one
        if float(least) >= self.least and float(most) <= self.most:
            return self.ordinary(x)
        unknown = x.isnan()
        found = self.always(x.masked_fill(unknown, 1.0))
        unknown |= ~(found.lower <= found.upper)
        return Interval.unchecked(
            found.lower.masked_fill(unknown, -torch.inf), found.upper.masked_fill(unknown, torch.inf)
        )


def itself(x: Tensor) -> Tensor:
    """x, as the measure of a function that is defined for positive numbers."""
    return x


def increasing(function: Callable[[Tensor], Interval], z: Interval) -> Interval:
    """The range of an increasing function over an interval, from its enclosures at both ends."""
    found = function(torch.stack([z.lower, z.upper]))
    return Interval.unchecked(found.lower[0], found.upper[1])


def decreasing(function: Callable[[Tensor], Interval], z: Interval) -> Interval:
    """The range of a decreasing function over an interval, from its enclosures at both ends."""
    found = function(torch.stack([z.lower, z.upper]))
    return Interval.unchecked(found.lower[1], found.upper[0])


def limited(found: Interval, least: float, most: float) -> Interval:
    """The part of an enclosure between two numbers that the function does not leave."""
    return Interval.unchecked(found.lower.clamp(least, most), found.upper.clamp(least, most))


def where(known: Tensor, value: Tensor | float, found: Interval) -> Interval:
    """The exact value where it is known, and the enclosure elsewhere."""
    return Interval.unchecked(torch.where(known, value, found.lower), torch.where(known, value, found.upper))

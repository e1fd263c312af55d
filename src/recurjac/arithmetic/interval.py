"""Intervals of numbers, element by element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from recurjac.errors import UnsoundBounds


@final
@dataclass(frozen=True)
class Interval:
    """All numbers between `lower` and `upper`, element by element; infinite ends are allowed, NaN is not.

    Raises UnsoundBounds unless lower <= upper everywhere.
    """

    lower: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        if self.lower.shape != self.upper.shape:
            raise UnsoundBounds(
                f"an interval needs ends of the same shape, not {tuple(self.lower.shape)} and {tuple(self.upper.shape)}"
            )
        if not in_order(self.lower, self.upper):
            at = tuple(int(i) for i in (~(self.lower <= self.upper)).nonzero()[0])
            raise UnsoundBounds(
                f"lower bound {float(self.lower[at].detach())!r} is not at most upper bound "
                f"{float(self.upper[at].detach())!r} at index {at}; please report this, with the network"
            )

    @classmethod
    def unchecked(cls, lower: Tensor, upper: Tensor) -> Interval:
        """The interval between ends of the same shape that are known to be in order; this is not checked."""
        interval = object.__new__(cls)
        object.__setattr__(interval, "lower", lower)
        object.__setattr__(interval, "upper", upper)
        return interval

    @classmethod
    def point(cls, value: Tensor) -> Interval:
        """The interval that contains only `value`."""
        return cls(value, value)

    @property
    def shape(self) -> torch.Size:
        return self.lower.shape

    @property
    def width(self) -> Tensor:
        """upper - lower; 0 where both ends are equal (even at infinity)."""
        return torch.where(self.lower == self.upper, 0.0, self.upper - self.lower)

    @property
    def magnitude(self) -> Tensor:
        """The largest absolute value in the interval."""
        return torch.maximum(self.lower.abs(), self.upper.abs())

    @property
    def mignitude(self) -> Tensor:
        """The smallest absolute value in the interval."""
        return torch.maximum(self.lower, -self.upper).clamp(min=0)

    @property
    def is_point(self) -> Tensor:
        return self.lower == self.upper

    def contains(self, value: Tensor) -> Tensor:
        """True where `value` lies inside; NaN never does."""
        return (self.lower <= value) & (value <= self.upper)

    def map(self, move: MoveTensor) -> Interval:
        """The same interval after `move` (a reshape, a permutation, an index) of both ends."""
        return Interval.unchecked(move(self.lower), move(self.upper))

    def reshape(self, *shape: int) -> Interval:
        return Interval.unchecked(self.lower.reshape(*shape), self.upper.reshape(*shape))

    def __getitem__(self, index: Any) -> Interval:
        return Interval.unchecked(self.lower[index], self.upper[index])

    def __neg__(self) -> Interval:
        return Interval.unchecked(-self.upper, -self.lower)


def in_order(lower: Tensor, upper: Tensor) -> bool:
    """Whether lower <= upper everywhere; false where either is NaN."""
    return bool((lower <= upper).all())


@runtime_checkable
class MoveTensor(Protocol):
    """A function that moves the entries of a tensor without changing them."""

    def __call__(self, tensor: Tensor, /) -> Tensor: ...


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no entry is infinite; a finite sum proves it."""
    return all(isfinite(t.detach().sum().item()) or not bool(t.isinf().any()) for t in tensors)


def no_nan(bound: Tensor, unknown: float) -> Tensor:
    return torch.where(bound.isnan(), unknown, bound)

"""What an activation states, and what follows from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.lines import Lines


class AbstractActivation(ABC):
    """An element-wise function σ with its slope σ'; where σ has a kink, σ' is the interval of Clarke's derivative."""

    name: ClassVar[str]
    """How weight lists and the command line call it."""

    @property
    @abstractmethod
    def rigorous(self) -> bool:
        """Whether ranges and lines below cover rounding under `Rigorous`."""

    @abstractmethod
    def value(self, z: Tensor) -> Tensor:
        """σ(z)."""

    @abstractmethod
    def value_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """All σ(v), v in z; infinite ends stand for limits."""

    @abstractmethod
    def slope_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """All σ'(v), v in z (MATH: derivative range [d, D]); infinite ends stand for limits."""

    @abstractmethod
    def lines(self, z: Interval, arithmetic: AbstractArithmetic) -> Lines:
        """CROWN's lines of σ on z (batch, *node): two good ones, of unrelated slopes; of shape (batch, 1, *node).

        Source: arXiv:1811.00866, Section 3 and Table 2.
        """

    @abstractmethod
    def parallel_lines(self, z: Interval, arithmetic: AbstractArithmetic) -> Lines:
        """Fast-Lin's lines of σ on z (batch, *node): two of one slope; of shape (batch, 1, *node).

        Source: arXiv:1804.09699, Section 3.3.
        """

    @abstractmethod
    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        """The same activation with its parameters in `dtype` on `device`."""

    @classmethod
    def named(cls, parameters: Mapping[str, Any]) -> Self:  # noqa: ARG003  # some classes have some
        """The activation that a weight list calls `name`, with the numbers that the list gives beside it.

        Raises InvalidNetwork if a number without a universal default is missing.
        """
        return cls()

    @classmethod
    @abstractmethod
    def examples(cls) -> list[Self]:
        """A few activations of this class, for the tests that hold for every class."""


class AbstractSmooth(AbstractActivation):
    """An increasing activation that states its value, its slope and where the slope turns."""

    @abstractmethod
    def slope(self, z: Tensor) -> Tensor:
        """σ'(z), its limits at ±inf; at a jump either of the one-sided limits."""

    @abstractmethod
    def slope_turns(self) -> tuple[float, ...]:
        """The points where σ' has a local extremum or jumps (then approached from both sides by `slope_at_turn`)."""

    @abstractmethod
    def slope_at_turn(self, turn: float) -> tuple[float, float]:
        """The smallest and the largest slope at a turning point."""

    @property
    def rigorous(self) -> bool:
        """No error bound of the elementary functions is proved yet."""
        return False

    @final
    def value_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        return arithmetic.enclose(self.value(z.lower), self.value(z.upper))

    @final
    def slope_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The hull of the slope at both ends and at every turning point between them."""
        left, right = self.slope(z.lower), self.slope(z.upper)
        low, high = torch.minimum(left, right), torch.maximum(left, right)
        for turn in self.slope_turns():
            inside = z.contains(torch.full_like(z.lower, turn))
            least, most = self.slope_at_turn(turn)
            low = torch.where(inside, low.clamp(max=least), low)
            high = torch.where(inside, high.clamp(min=most), high)
        return arithmetic.enclose(low, high)

    @final
    def parallel_lines(self, z: Interval, arithmetic: AbstractArithmetic) -> Lines:
        """With the smallest slope d of σ on z, σ(v) - d v is non-decreasing: its ends are the intercepts."""
        finite = bounded(z)
        slope = self.slope_range(finite, arithmetic).lower
        low = self.value(finite.lower) - slope * finite.lower
        high = self.value(finite.upper) - slope * finite.upper
        return self._over(z, slope, low, slope, high)

    @final
    def chord(self, z: Interval, arithmetic: AbstractArithmetic) -> Tensor:
        """The slope of the chord over a bounded z, kept within the slopes of σ, by the mean value theorem."""
        slopes = self.slope_range(z, arithmetic)
        width = torch.where(z.upper > z.lower, z.upper - z.lower, 1.0)
        slope = (self.value(z.upper) - self.value(z.lower)) / width
        return torch.minimum(torch.maximum(slope, slopes.lower), slopes.upper)

    @final
    def intercepts(self, slope: Tensor, *points: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the greatest of σ(v) - slope v over the points."""
        gaps = torch.stack([self.value(v) - slope * v for v in points])
        return gaps.amin(0), gaps.amax(0)

    @final
    def _over(self, z: Interval, low_slope: Tensor, low: Tensor, up_slope: Tensor, up: Tensor) -> Lines:
        """Lines from slopes and intercepts; where `bounded` cuts the interval, the constants that bound σ."""
        unbounded = (z.lower < -far(z.lower)) | (z.upper > far(z.upper))
        bottom, top = self.value(z.lower), self.value(z.upper)
        return Lines(
            *(
                torch.where(unbounded, constant, finite).unsqueeze(1)
                for finite, constant in (
                    (low_slope, torch.zeros_like(bottom)),
                    (low, bottom),
                    (up_slope, torch.zeros_like(top)),
                    (up, top),
                    (torch.maximum(bottom.abs(), top.abs()), torch.maximum(bottom.abs(), top.abs())),
                )
            )
        )


def bounded(z: Interval) -> Interval:
    """z without what lies beyond `far`; also the derivatives of what is computed from it are finite."""
    return z.map(lambda end: end.clamp(min=-far(end), max=far(end)))


def far(tensor: Tensor) -> float:
    """Past this number no product of a slope and a point is formed, as it could overflow."""
    return float(torch.finfo(tensor.dtype).max ** 0.25)

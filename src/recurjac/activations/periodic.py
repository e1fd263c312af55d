"""Sine and cosine."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from recurjac.activations.curved import AbstractCurved
from recurjac.arithmetic import Enclosure, Interval
from recurjac.arithmetic.elementary import cos, sin
from recurjac.registry import Expression, onnx_ops, torch_ops

_ULPS = 8
"""How far turning points may be off, in units of the last place of numbers beyond 4."""


class AbstractPeriodic(AbstractCurved):
    """σ and σ' are waves of period 2π between -1 and 1; one of them has a turning point every π/2.

    An interval is *short* if it is less than 4π long and no end is beyond eps^(-1/2) in absolute value.  In this range,
    the error of the multiples of π is at most about sqrt(eps), which changes σ and σ' at their turning points by
    eps / 2.  Other intervals are assumed to contain every value and slope.  On intervals of 4π or more, the tightest
    lines at the midpoint are indeed -1 and 1, because there are crests and troughs on either side.  At ±inf, where no
    limit exists, value and slope are 0.
    """

    @property
    @abstractmethod
    def crest(self) -> float:
        """A point where σ is 1, within a period of 0."""

    @abstractmethod
    def wave(self, z: Tensor) -> Tensor:
        """σ(z) for finite z."""

    @final
    def value(self, z: Tensor) -> Tensor:
        infinite = z.isinf()
        return torch.where(infinite, 0.0, self.wave(torch.where(infinite, 0.0, z)))

    @final
    def core(self, z: Interval) -> Interval:
        short = _short(z.lower, z.upper)
        return z.map(lambda end: torch.where(short, end, 0.0))

    @final
    def curvature(self, z: Tensor) -> Tensor:
        """-σ(z), which has the turning points of σ."""
        return -self.value(z)

    @property
    @final
    def steepness(self) -> tuple[float, float, float]:
        return 1.0, 1.0, 1.0

    @final
    def turn_errors(self, turns: Tensor) -> Tensor:
        """A multiple of π, rounded twice, and a phase of less than 4, which is added with one more rounding."""
        return _ULPS * torch.finfo(turns.dtype).eps * (turns.abs() + 4)

    @final
    def enclosed_curvature(self, z: Tensor) -> Enclosure | None:
        found = self.enclosed_value(z)
        return None if found is None else -found

    @final
    def curvature_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return self.value_turns(lower, upper)

    @final
    def slope_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return _every_pi(lower, upper, self.crest + math.pi / 2)

    @final
    def value_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return _every_pi(lower, upper, self.crest)


def _short(lower: Tensor, upper: Tensor) -> Tensor:
    limit = torch.finfo(lower.dtype).eps ** -0.5
    near: Tensor = (lower >= -limit) & (upper <= limit)
    return near.logical_and(upper - lower < 4 * math.pi)


def _every_pi(lower: Tensor, upper: Tensor, phase: float) -> Tensor:
    """The points phase + k π in a short interval, with the others clamped to its ends: (5, *shape).

    For an interval that is not short, the points are elsewhere; two neighbouring points represent all of them.
    """
    short = _short(lower, upper)
    first = torch.ceil((torch.where(short, lower, 0.0).detach() - phase) / math.pi)
    points: Tensor = torch.stack([phase + math.pi * (first + k) for k in range(5)])
    return torch.where(short, torch.minimum(torch.maximum(points, lower), upper), points)


@final
@dataclass(frozen=True)
class Sin(AbstractPeriodic):
    """The sine."""

    name: ClassVar[str] = "sin"

    @property
    def crest(self) -> float:
        return math.pi / 2

    def wave(self, z: Tensor) -> Tensor:
        return torch.sin(z)

    def enclosed_value(self, z: Tensor) -> Enclosure:
        return Enclosure.of(sin(z))

    def enclosed_slope(self, z: Tensor) -> Enclosure:
        return Enclosure.of(cos(z))

    def slope(self, z: Tensor) -> Tensor:
        infinite = z.isinf()
        return torch.where(infinite, 0.0, torch.cos(torch.where(infinite, 0.0, z)))

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


@final
@dataclass(frozen=True)
class Cos(AbstractPeriodic):
    """The cosine."""

    name: ClassVar[str] = "cos"

    @property
    def crest(self) -> float:
        return 0.0

    def wave(self, z: Tensor) -> Tensor:
        return torch.cos(z)

    def enclosed_value(self, z: Tensor) -> Enclosure:
        return Enclosure.of(cos(z))

    def enclosed_slope(self, z: Tensor) -> Enclosure:
        return -Enclosure.of(sin(z))

    def slope(self, z: Tensor) -> Tensor:
        infinite = z.isinf()
        return torch.where(infinite, 0.0, -torch.sin(torch.where(infinite, 0.0, z)))

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


@onnx_ops.reads("Sin")
@torch_ops.reads("aten.sin.default", "aten.sin_.default")
def _sin(x: Expression) -> Any:
    return x.activate(Sin())


@onnx_ops.reads("Cos")
@torch_ops.reads("aten.cos.default", "aten.cos_.default")
def _cos(x: Expression) -> Any:
    return x.activate(Cos())

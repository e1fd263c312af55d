"""No activation: a purely affine stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from recurjac.activations.base import AbstractActivation
from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.relaxations import LinearRelaxation


@final
@dataclass(frozen=True)
class Identity(AbstractActivation):
    """σ(z) = z."""

    name: ClassVar[str] = "linear"

    @property
    def rigorous(self) -> bool:
        return True

    def value(self, z: Tensor) -> Tensor:
        return z

    def value_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        return z

    def slope_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        return Interval.point(torch.ones_like(z.lower))

    def curvature_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        return Interval.point(torch.zeros_like(z.lower))

    def lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        return LinearRelaxation.proportional(torch.ones_like(z.lower).unsqueeze(1))

    def parallel_lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        return self.lines(z, arithmetic)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]

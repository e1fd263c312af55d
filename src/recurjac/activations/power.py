"""The cube, from which polynomials of degree three and the `tanh` form of GELU are built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from recurjac.activations.base import within
from recurjac.activations.curved import AbstractCurved
from recurjac.arithmetic import Enclosure, Interval

_WIDEST = 1e3
"""Beyond this number, lines are constant, because the search for lines needs short pieces (`curved`)."""


@final
@dataclass(frozen=True)
class Cube(AbstractCurved):
    """z³: σ' = 3 z² falls up to 0 and rises after it."""

    name: ClassVar[str] = "cube"

    def value(self, z: Tensor) -> Tensor:
        infinite = z.isinf()  # treated separately, because autograd would compute 0 times infinity
        inner = torch.where(infinite, 0.0, z)
        return torch.where(infinite, z.detach(), inner * inner.square())

    def slope(self, z: Tensor) -> Tensor:
        return 3 * z.square()

    def enclosed_value(self, z: Tensor) -> Enclosure:
        return Enclosure.point(z) * Enclosure.point(z).square()

    def enclosed_slope(self, z: Tensor) -> Enclosure:
        return Enclosure.point(z).square().times(3.0).within(0.0)

    def enclosed_curvature(self, z: Tensor) -> Enclosure:
        return Enclosure.point(z).times(6.0)

    def slope_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return within(lower, upper, 0.0)

    def curvature(self, z: Tensor) -> Tensor:
        return 6 * z

    def core(self, z: Interval) -> Interval:
        return z.map(lambda end: end.clamp(min=-_WIDEST, max=_WIDEST))

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]

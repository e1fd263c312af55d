"""Hard swish: a gated unit whose gate is a clamped line, so that its slope jumps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from recurjac.activations.gated import AbstractGated
from recurjac.activations.smooth import AbstractSmooth
from recurjac.arithmetic import Enclosure
from recurjac.registry import Expression, onnx_ops, torch_ops


@final
@dataclass(frozen=True)
class HardSwish(AbstractGated):
    """z min(max(α z + β, 0), 1) with α > 0 and 0 < β < 1: a parabola between -β / α and (1 - β) / α.

    σ' jumps there, from 0 to -β and from 2 - β to 1.
    """

    alpha: float = 1 / 6
    beta: float = 0.5
    name: ClassVar[str] = "hard_swish"

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and math.isfinite(self.alpha) and 0 < self.beta < 1):
            raise ValueError(
                f"hard swish with alpha={self.alpha}, beta={self.beta}; it needs a positive alpha and 0 < beta < 1"
            )

    @property
    def reach(self) -> tuple[float, float]:
        return -self.beta / self.alpha, (1 - self.beta) / self.alpha

    @property
    def lowest(self) -> float:
        return -self.beta / (2 * self.alpha)

    @property
    def steepest(self) -> tuple[float, float]:
        return self.reach

    def gate(self, z: Tensor) -> Tensor:
        return (self.alpha * z + self.beta).clamp(0, 1)

    def gate_slope(self, z: Tensor) -> Tensor:
        return torch.full_like(z, self.alpha)

    @property
    def steepness(self) -> tuple[float, float, float]:
        """σ'' jumps."""
        return 2.0, 2 * self.alpha, torch.inf

    def turn_errors(self, turns: Tensor) -> Tensor:
        """Quotients of the stored numbers, rounded a few times."""
        return AbstractSmooth.turn_errors(self, turns)

    def enclosed_gate(self, z: Tensor) -> Enclosure:
        return Enclosure.point(z).times(self.alpha).plus(self.beta).within(0.0, 1.0)

    def enclosed_gate_slope(self, z: Tensor) -> Enclosure:
        return Enclosure.number(self.alpha, z)

    def enclosed_slope(self, z: Tensor) -> Enclosure:
        return self.enclosed_slopes_beside(z)[1]

    def enclosed_slopes_beside(self, z: Tensor) -> tuple[Enclosure, Enclosure]:
        before, after = self.reach
        inner, zero, one = Enclosure.point(z).times(self.alpha), Enclosure.number(0.0, z), Enclosure.number(1.0, z)
        rising = inner.twice().plus(self.beta)
        left = zero.where(z <= before, one.where(z > after, rising))
        return left, zero.where(z < before, one.where(z >= after, rising))

    def enclosed_value_and_slopes(self, z: Tensor) -> tuple[Enclosure, tuple[Enclosure, Enclosure]]:
        return self.enclosed_value(z), self.enclosed_slopes_beside(z)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(), cls(0.2, 0.4)]


@onnx_ops.reads("HardSwish")
@torch_ops.reads("aten.hardswish.default", "aten.hardswish_.default")
def _hard_swish(x: Expression) -> Any:
    return x.activate(HardSwish())

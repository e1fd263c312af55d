"""Convex increasing activations: the chord above, a tangent below."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from recurjac.activations.base import AbstractSmooth
from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.lines import Lines
from recurjac.reading import Expression, torch_ops


class AbstractConvex(AbstractSmooth):
    """σ' is non-decreasing."""

    @final
    def slope_turns(self) -> tuple[float, ...]:
        return ()

    @final
    def slope_at_turn(self, turn: float) -> tuple[float, float]:
        raise ValueError(f"a convex function has no turning point {turn}")

    @final
    def lines(self, z: Interval, arithmetic: AbstractArithmetic) -> Lines:
        middle = z.lower / 2 + z.upper / 2
        chord, tangent = self.chord(z, arithmetic), self.slope(middle)
        top = self.intercepts(chord, z.lower, z.upper)[1]
        bottom = self.value(middle) - tangent * middle
        return self._over(z, tangent, bottom, chord, top)


@final
@dataclass(frozen=True)
class Softplus(AbstractConvex):
    """log(1 + exp(β z)) / β, β > 0."""

    beta: float = 1.0
    name: ClassVar[str] = "softplus"

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"softplus with beta={self.beta}; it must be positive")

    def value(self, z: Tensor) -> Tensor:
        scaled = self.beta * z
        return (scaled.clamp(min=0) + torch.log1p(torch.exp(-scaled.abs()))) / self.beta

    def slope(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.beta * z)

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        return self

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(), cls(3.0)]


@torch_ops.reads("aten.softplus.default")
def _softplus(x: Expression, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """PyTorch's `threshold`, past which it returns z, changes the value by less than exp(-threshold) / β."""
    return x.activate(Softplus(float(beta)))



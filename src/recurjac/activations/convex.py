"""Convex increasing activations: the chord above, a tangent below."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from recurjac.activations.base import AbstractSmooth, bounded
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
        finite = bounded(z)
        middle = finite.lower / 2 + finite.upper / 2
        chord, tangent = self.chord(finite, arithmetic), self.slope(middle)
        top = self.intercepts(chord, finite.lower, finite.upper)[1]
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
        return torch.logaddexp(self.beta * z, torch.zeros_like(z)) / self.beta

    def slope(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.beta * z)

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        return self

    @classmethod
    def named(cls, parameters: Mapping[str, Any]) -> Self:
        return cls(float(parameters.get("beta", 1.0)))

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(), cls(3.0)]


@torch_ops.reads("aten.softplus.default")
def _softplus(x: Expression, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """PyTorch's `threshold`, past which it returns z, changes the value by less than exp(-threshold) / β."""
    if threshold < 20:
        raise ValueError(f"softplus with threshold={threshold}, where it jumps; only 20 (the default) or more is read")
    return x.activate(Softplus(float(beta)))

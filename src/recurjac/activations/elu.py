"""The exponential linear unit, whose slope may jump at 0."""

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


@final
@dataclass(frozen=True)
class ELU(AbstractSmooth):
    """z for z >= 0, α (exp(z) - 1) below; convex for 0 < α <= 1, with a slope that falls from α to 1 at 0 for α > 1."""

    alpha: float = 1.0
    name: ClassVar[str] = "elu"

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"ELU with alpha={self.alpha}; it must be positive")

    def value(self, z: Tensor) -> Tensor:
        return torch.where(z >= 0, z, self.alpha * torch.expm1(z.clamp(max=0)))

    def slope(self, z: Tensor) -> Tensor:
        return torch.where(z >= 0, 1.0, self.alpha * torch.exp(z.clamp(max=0)))

    def slope_turns(self) -> tuple[float, ...]:
        return (0.0,)

    def slope_at_turn(self, turn: float) -> tuple[float, float]:
        return (min(1.0, self.alpha), max(1.0, self.alpha))

    def lines(self, z: Interval, arithmetic: AbstractArithmetic) -> Lines:
        """Chord above and tangent below for α <= 1; for α > 1 see `_lines_above_one`."""
        finite = bounded(z)
        middle = finite.lower / 2 + finite.upper / 2
        chord = self.chord(finite, arithmetic)
        if self.alpha <= 1:
            slope = self.slope(middle)
            bottom = self.value(middle) - slope * middle
            return self._over(z, slope, bottom, chord, self.intercepts(chord, finite.lower, finite.upper)[1])
        return self._over(z, *self._lines_above_one(finite, middle, chord))

    def _lines_above_one(self, z: Interval, middle: Tensor, chord: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """σ is convex on either side of 0 with a concave kink there: σ - a z is greatest at an end or at 0.

        Its least value, for a tangent's slope a at a point t <= 0, is at t or, right of 0 where σ - a z is linear,
        at u (or at 0, which is not below t); for a line wholly right of 0 the slope is 1 and both agree.
        """
        kink = torch.minimum(torch.maximum(torch.zeros_like(middle), z.lower), z.upper)
        top = self.intercepts(chord, z.lower, kink, z.upper)[1]
        touch = torch.where(z.lower >= 0, middle, torch.minimum(middle, torch.zeros_like(middle)))
        slope = torch.where(touch < 0, self.alpha * torch.exp(touch.clamp(max=0)), 1.0)
        slope = torch.where(z.lower < 0, torch.minimum(slope, torch.maximum(chord, self.slope(z.lower))), slope)
        lowest = torch.where(z.lower < 0, self._tangent_point(slope, z), touch)
        bottom = self.intercepts(slope, z.lower, lowest, kink, z.upper)[0]
        return slope, bottom, chord, top

    def _tangent_point(self, slope: Tensor, z: Interval) -> Tensor:
        """Where the exponential piece has the given slope, kept inside its part of z."""
        point = torch.log(slope.clamp(min=torch.finfo(slope.dtype).tiny) / self.alpha)
        return torch.minimum(torch.maximum(point, z.lower), z.upper.clamp(max=0))

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        return self

    @classmethod
    def named(cls, parameters: Mapping[str, Any]) -> Self:
        return cls(float(parameters.get("alpha", 1.0)))

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(), cls(0.5), cls(1.8)]


@torch_ops.reads("aten.elu.default", "aten.elu_.default")
def _elu(x: Expression, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    if scale != 1 or input_scale != 1:
        raise ValueError(f"ELU with scale={scale}, input_scale={input_scale}; only 1 and 1 are read")
    return x.activate(ELU(float(alpha)))

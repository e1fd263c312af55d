"""Exponential linear units, whose slope may jump at 0."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from recurjac.activations.base import within
from recurjac.activations.curved import AbstractCurved
from recurjac.arithmetic import Enclosure
from recurjac.arithmetic.elementary import exp, expm1
from recurjac.registry import Expression, onnx_ops, torch_ops

_UNDERFLOW = -800.0
"""exp of this number and of smaller numbers is 0 in float64."""


class AbstractELU(AbstractCurved):
    """s z for z >= 0, s α (exp(z) - 1) below; convex for 0 < α <= 1; for α > 1 its slope falls from s α to s at 0."""

    @property
    @abstractmethod
    def scales(self) -> tuple[float, float]:
        """s and s α, both positive."""

    @final
    def value(self, z: Tensor) -> Tensor:
        above, below = self.scales
        return torch.where(z >= 0, above * z, below * torch.expm1(z.clamp(max=0)))

    @final
    def slope(self, z: Tensor) -> Tensor:
        return self.slopes_beside(z)[1]

    @final
    def slopes_beside(self, z: Tensor) -> tuple[Tensor, Tensor]:
        above, below = self.scales
        exponential = below * torch.exp(z.clamp(max=0))
        return torch.where(z > 0, above, exponential), torch.where(z >= 0, above, exponential)

    @abstractmethod
    def enclosed_scales(self, like: Tensor) -> tuple[Enclosure, Enclosure]:
        """Bounds of s and s α, as they are meant."""

    @final
    def enclosed_value(self, z: Tensor) -> Enclosure:
        above, below = self.enclosed_scales(z)
        return (above * Enclosure.point(z)).where(z >= 0, below * Enclosure.of(expm1(z.clamp(max=0))))

    @final
    def enclosed_slope(self, z: Tensor) -> Enclosure:
        return self.enclosed_slopes_beside(z)[1]

    @final
    def enclosed_slopes_beside(self, z: Tensor) -> tuple[Enclosure, Enclosure]:
        above, below = self.enclosed_scales(z)
        exponential = (below * Enclosure.of(exp(z.clamp(max=0)))).within(0.0)
        return above.where(z > 0, exponential), above.where(z >= 0, exponential)

    @final
    def turn_errors(self, turns: Tensor) -> Tensor:
        """0: the slope jumps at 0, and turns nowhere else."""
        return torch.zeros_like(turns)

    @final
    def slope_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return within(lower, upper, _UNDERFLOW, 0.0)


@final
@dataclass(frozen=True)
class ELU(AbstractELU):
    """z for z >= 0, α (exp(z) - 1) below."""

    alpha: float = 1.0
    name: ClassVar[str] = "elu"

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"ELU with alpha={self.alpha}; it must be positive")

    @property
    def scales(self) -> tuple[float, float]:
        return 1.0, self.alpha

    def enclosed_scales(self, like: Tensor) -> tuple[Enclosure, Enclosure]:
        return Enclosure.number(1.0, like), Enclosure.number(self.alpha, like)

    @classmethod
    def named(cls, parameters: Mapping[str, Any]) -> Self:
        return cls(float(parameters.get("alpha", 1.0)))

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(), cls(0.5), cls(1.8)]


@final
@dataclass(frozen=True)
class SELU(AbstractELU):
    """γ z for z >= 0, γ α (exp(z) - 1) below; the constants are PyTorch's (Klambauer et al. 2017, arXiv:1706.02515)."""

    alpha: float = 1.6732632423543772848170429916717
    gamma: float = 1.0507009873554804934193349852946
    name: ClassVar[str] = "selu"

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and self.gamma > 0):
            raise ValueError(f"SELU with alpha={self.alpha}, gamma={self.gamma}; both must be positive")

    @property
    def scales(self) -> tuple[float, float]:
        return self.gamma, self.gamma * self.alpha

    def enclosed_scales(self, like: Tensor) -> tuple[Enclosure, Enclosure]:
        above = Enclosure.number(self.gamma, like)
        return above, above.times(self.alpha)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(), cls(0.7, 2.0)]


@onnx_ops.reads("Elu")
@torch_ops.reads("aten.elu.default", "aten.elu_.default")
def _elu(x: Expression, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    if scale != 1 or input_scale != 1:
        raise ValueError(f"ELU with scale={scale}, input_scale={input_scale}; both must be 1")
    return x.activate(ELU(float(alpha)))


@torch_ops.reads("aten.selu.default", "aten.selu_.default")
def _selu(x: Expression) -> Any:
    return x.activate(SELU())


@onnx_ops.reads("Selu")
def _onnx_selu(
    x: Expression, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> Any:
    return x.activate(SELU(float(alpha), float(gamma)))

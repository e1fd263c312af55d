"""Convex and concave activations: the chord on one side, a tangent on the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from recurjac.activations.base import bounded, within
from recurjac.activations.sigmoidal import bell
from recurjac.activations.smooth import AbstractSmooth
from recurjac.arithmetic import AbstractArithmetic, Enclosure, Interval
from recurjac.arithmetic.elementary import exp, expm1, log_cosh, sigmoid, softplus, tanh
from recurjac.registry import Expression, onnx_ops, torch_ops
from recurjac.relaxations import LinearRelaxation


class AbstractBent(AbstractSmooth):
    """σ' is monotone: the chord on one side and the midpoint's tangent on the other are the tightest lines there."""

    @final
    def slope_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return within(lower, upper)

    @final
    def _chord(self, z: Interval, arithmetic: AbstractArithmetic) -> tuple[Tensor, Tensor, Tensor]:
        """The slope of the chord, and the smallest and the largest intercept that its two ends require."""
        slope = self.chord(z, arithmetic)
        return slope, *self.intercepts(slope, z.lower, z.upper)

    @final
    def _tangent(self, z: Interval) -> tuple[Tensor, Tensor, Tensor]:
        """The slope and the intercept of the tangent at the midpoint, and the midpoint."""
        middle = z.lower / 2 + z.upper / 2
        slope = self.slope(middle)
        return slope, self.value(middle) - slope * middle, middle


class AbstractConvex(AbstractBent):
    """σ' is non-decreasing."""

    @final
    def lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        core = self.core(z)
        slope, _, top = self._chord(core, arithmetic)
        return self._over(z, arithmetic, self._tangent(core), (slope, top, core.lower))


class AbstractConcave(AbstractBent):
    """σ' is non-increasing."""

    @final
    def lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        core = self.core(z)
        slope, bottom, _ = self._chord(core, arithmetic)
        return self._over(z, arithmetic, (slope, bottom, core.lower), self._tangent(core))


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

    @property
    def steepness(self) -> tuple[float, float, float]:
        return 1.0, self.beta, self.beta**2

    def enclosed_value(self, z: Tensor) -> Enclosure:
        found = self._inner(z).rising(softplus)
        return found if self.beta == 1 else (found / Enclosure.number(self.beta, z)).within(0.0)

    def enclosed_slope(self, z: Tensor) -> Enclosure:
        return self._inner(z).rising(sigmoid)

    def enclosed_curvature(self, z: Tensor) -> Enclosure:
        return bell(self._inner(z)).times(self.beta).within(0.0)

    def _inner(self, z: Tensor) -> Enclosure:
        return Enclosure.point(z).times(self.beta)

    def slope(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.beta * z)

    def curvature(self, z: Tensor) -> Tensor:
        """σ'' increases up to 0 and decreases after it."""
        return self.beta * torch.sigmoid(self.beta * z) * torch.sigmoid(-self.beta * z)

    def curvature_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return within(lower, upper, 0.0)

    @classmethod
    def named(cls, parameters: Mapping[str, Any]) -> Self:
        return cls(float(parameters.get("beta", 1.0)))

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(), cls(3.0)]


@final
@dataclass(frozen=True)
class LogCosh(AbstractConvex):
    """log(exp(z / 2) + exp(-z / 2)), what log(exp a + exp b) adds to the mean of a and b for z = a - b.

    It is softplus less z / 2, so that its slope lies in [-1/2, 1/2].
    """

    name: ClassVar[str] = "log_cosh"

    def value(self, z: Tensor) -> Tensor:
        return torch.logaddexp(z / 2, -z / 2)

    @property
    def steepness(self) -> tuple[float, float, float]:
        return 0.5, 0.25, 0.1

    def enclosed_value(self, z: Tensor) -> Enclosure:
        return Enclosure.of(log_cosh(z))

    def enclosed_slope(self, z: Tensor) -> Enclosure:
        return Enclosure.point(z).times(0.5).rising(tanh).times(0.5).within(-0.5, 0.5)

    def enclosed_curvature(self, z: Tensor) -> Enclosure:
        return bell(Enclosure.point(z))

    def slope(self, z: Tensor) -> Tensor:
        return torch.tanh(z / 2) / 2

    def value_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return within(lower, upper, 0.0)

    def curvature(self, z: Tensor) -> Tensor:
        """σ'' increases up to 0 and decreases after it."""
        return torch.sigmoid(z) * torch.sigmoid(-z)

    def curvature_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return within(lower, upper, 0.0)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


@final
@dataclass(frozen=True)
class LogSigmoid(AbstractConcave):
    """log(1 / (1 + exp(-z)))."""

    name: ClassVar[str] = "log_sigmoid"

    def value(self, z: Tensor) -> Tensor:
        return -torch.logaddexp(-z, torch.zeros_like(z))

    @property
    def steepness(self) -> tuple[float, float, float]:
        return 1.0, 0.25, 0.1

    def enclosed_value(self, z: Tensor) -> Enclosure:
        return -Enclosure.of(softplus(-z))

    def enclosed_slope(self, z: Tensor) -> Enclosure:
        return Enclosure.of(sigmoid(-z))

    def enclosed_curvature(self, z: Tensor) -> Enclosure:
        return -bell(Enclosure.point(z))

    def slope(self, z: Tensor) -> Tensor:
        return torch.sigmoid(-z)

    def curvature(self, z: Tensor) -> Tensor:
        """σ'' decreases up to 0 and increases after it."""
        return -torch.sigmoid(z) * torch.sigmoid(-z)

    def curvature_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return within(lower, upper, 0.0)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


@final
@dataclass(frozen=True)
class CELU(AbstractConvex):
    """z for z >= 0, α (exp(z / α) - 1) below, α > 0; its slope is continuous."""

    alpha: float = 1.0
    name: ClassVar[str] = "celu"

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"CELU with alpha={self.alpha}; it must be positive")

    def value(self, z: Tensor) -> Tensor:
        return torch.where(z >= 0, z, self.alpha * torch.expm1(z.clamp(max=0) / self.alpha))

    def slope(self, z: Tensor) -> Tensor:
        return torch.exp(z.clamp(max=0) / self.alpha)

    @property
    def steepness(self) -> tuple[float, float, float]:
        return 1.0, 1 / self.alpha * (1 + 1e-15), torch.inf

    def enclosed_value(self, z: Tensor) -> Enclosure:
        return Enclosure.point(z).where(z >= 0, self._inner(z).rising(expm1).times(self.alpha))

    def enclosed_slope(self, z: Tensor) -> Enclosure:
        return self._inner(z).rising(exp).within(0.0, 1.0)

    def _inner(self, z: Tensor) -> Enclosure:
        return (Enclosure.point(z.clamp(max=0)) / Enclosure.number(self.alpha, z)).within(most=0.0)

    @classmethod
    def named(cls, parameters: Mapping[str, Any]) -> Self:
        return cls(float(parameters.get("alpha", 1.0)))

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(), cls(0.5), cls(1.8)]


@final
@dataclass(frozen=True)
class Exp(AbstractConvex):
    """The exponential function; beyond the range of the dtype its value is infinite, which gives no bound."""

    name: ClassVar[str] = "exp"

    @property
    def limited(self) -> bool:
        return True

    def value(self, z: Tensor) -> Tensor:
        over = z > math.log(torch.finfo(z.dtype).max)  # separate, because autograd would compute 0 times infinity
        return torch.where(over, torch.inf, torch.exp(torch.where(over, 0.0, z)))

    def enclosed_value(self, z: Tensor) -> Enclosure:
        return Enclosure.of(exp(z))

    def enclosed_slope(self, z: Tensor) -> Enclosure:
        return Enclosure.of(exp(z))

    def enclosed_curvature(self, z: Tensor) -> Enclosure:
        return Enclosure.of(exp(z))

    def slope(self, z: Tensor) -> Tensor:
        return self.value(z)

    def curvature(self, z: Tensor) -> Tensor:
        return self.value(z)

    def core(self, z: Interval) -> Interval:
        """The part of z where products of z and exp(z) are finite."""
        highest = math.log(torch.finfo(z.lower.dtype).max) / 2
        return bounded(z).map(lambda end: end.clamp(max=highest))

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


@final
@dataclass(frozen=True)
class Square(AbstractConvex):
    """z²."""

    name: ClassVar[str] = "square"

    @property
    def roundings(self) -> tuple[int, int, int]:
        return (1, 0, 0)

    def value(self, z: Tensor) -> Tensor:
        infinite = z.isinf()  # treated separately, because autograd would compute 0 times infinity
        return torch.where(infinite, torch.inf, torch.where(infinite, 0.0, z).square())

    def slope(self, z: Tensor) -> Tensor:
        return 2 * z

    def curvature(self, z: Tensor) -> Tensor:
        return torch.full_like(z, 2.0)

    def value_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return within(lower, upper, 0.0)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


@final
@dataclass(frozen=True)
class SquaredReLU(AbstractConvex):
    """max(z, 0)²; its slope is continuous, its curvature is not."""

    name: ClassVar[str] = "squared_relu"

    @property
    def roundings(self) -> tuple[int, int, int]:
        return (1, 0, 0)

    def value(self, z: Tensor) -> Tensor:
        infinite = z == torch.inf  # treated separately, because autograd would compute 0 times infinity
        return torch.where(infinite, torch.inf, torch.where(infinite, 0.0, z).clamp(min=0).square())

    def slope(self, z: Tensor) -> Tensor:
        return 2 * z.clamp(min=0)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


@onnx_ops.reads("Softplus")
@torch_ops.reads("aten.softplus.default")
def _softplus(x: Expression, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """PyTorch's `threshold`, beyond which it returns z, changes the value by less than exp(-threshold) / β."""
    if threshold < 20:
        raise ValueError(f"softplus with threshold={threshold}, where it jumps; only 20 (the default) or more is read")
    return x.activate(Softplus(float(beta)))


@torch_ops.reads("aten.log_sigmoid.default")
def _log_sigmoid(x: Expression) -> Any:
    return x.activate(LogSigmoid())


@onnx_ops.reads("Celu")
@torch_ops.reads("aten.celu.default", "aten.celu_.default")
def _celu(x: Expression, alpha: float = 1.0) -> Any:
    return x.activate(CELU(float(alpha)))


@onnx_ops.reads("Exp")
@torch_ops.reads("aten.exp.default", "aten.exp_.default")
def _exp(x: Expression) -> Any:
    return x.activate(Exp())

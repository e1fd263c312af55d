"""Activations of two linear pieces that meet at 0: ReLU, leaky-ReLU, PReLU, absolute value."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from recurjac.activations.base import AbstractActivation
from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.errors import InvalidNetwork
from recurjac.lines import Lines
from recurjac.reading import Expression, onnx_ops, torch_ops


class AbstractTwoPiece(AbstractActivation):
    """σ(z) = z for z >= 0 and s z for z < 0, s the `negative_slope`, of any size and sign.

    σ is convex for s <= 1 and concave for s >= 1; both cases are one, told apart by the sign of 1 - s.
    """

    @abstractmethod
    def slope_below(self, z: Tensor) -> Tensor:
        """The negative slope s of each neuron, broadcast to z."""

    @property
    @final
    def piecewise_linear(self) -> bool:
        return True

    @property
    @final
    def rigorous(self) -> bool:
        """Slopes are exact and the lines' intercepts are computed with their rounding."""
        return True

    @final
    def value(self, z: Tensor) -> Tensor:
        s = self.slope_below(z)
        return torch.where(z < 0, torch.where(s == 0, 0.0, s * z), z)

    @final
    def value_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The hull of σ at both ends and, where the interval meets 0, of 0."""
        if not bool(self.slope_below(z.lower).any()):
            return Interval(z.lower.clamp(min=0), z.upper.clamp(min=0))
        ends = [self._value_at(v, arithmetic) for v in (z.lower, z.upper)]
        low = torch.minimum(ends[0].lower, ends[1].lower)
        high = torch.maximum(ends[0].upper, ends[1].upper)
        meets = z.contains(torch.zeros_like(z.lower))
        return Interval(torch.where(meets, low.clamp(max=0), low), torch.where(meets, high.clamp(min=0), high))

    def _value_at(self, z: Tensor, arithmetic: AbstractArithmetic) -> Interval:
        negative = arithmetic.product(Interval.point(self.slope_below(z)), Interval.point(z.clamp(max=0)))
        return Interval(torch.where(z >= 0, z, negative.lower), torch.where(z >= 0, z, negative.upper))

    @final
    def slope_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """{s} below 0, {1} above, their hull where the interval meets 0 (also at one end: Clarke's derivative)."""
        s = self.slope_below(z.lower)
        above, below = z.lower > 0, z.upper < 0
        low = torch.where(above, 1.0, torch.where(below, s, s.clamp(max=1)))
        high = torch.where(above, 1.0, torch.where(below, s, s.clamp(min=1)))
        return Interval(low, high)

    @final
    def lines(self, z: Interval, arithmetic: AbstractArithmetic) -> Lines:
        """The chord on one side; on the other a line through 0 of slope 1 if u >= -l, else s (CROWN-adaptive)."""
        free = torch.where(z.upper >= -z.lower, 1.0, self.slope_below(z.lower))
        return self._lines(z, free, arithmetic)

    @final
    def parallel_lines(self, z: Interval, arithmetic: AbstractArithmetic) -> Lines:
        """The chord on one side, its parallel through 0 on the other."""
        return self._lines(z, self._chord(z), arithmetic)

    def _chord(self, z: Interval) -> Tensor:
        """The slope of the chord over [l, u] with l <= 0 <= u: s + (1 - s) u / (u - l), with limits at infinity."""
        s = self.slope_below(z.lower)
        high, low = z.upper.clamp(min=0), z.lower.clamp(max=0)
        width = high - low
        plain = (width > 0) & (width < torch.inf)
        if bool(plain.all()):
            return self._between(s, high / width)
        # infinity is kept out of the quotient, as autograd would make it 0 times infinity
        share = torch.where(plain, high, 0.0) / torch.where(plain, width, 1.0)
        return torch.where(plain, self._between(s, share), torch.where(high.isinf(), 1.0, s))

    @staticmethod
    def _between(s: Tensor, share: Tensor) -> Tensor:
        """s + (1 - s) share; rounding must not carry it past the slopes of the two pieces: parallels rest on that."""
        return torch.minimum(torch.maximum(s + (1 - s) * share, s.clamp(max=1)), s.clamp(min=1))

    def _lines(self, z: Interval, free: Tensor, arithmetic: AbstractArithmetic) -> Lines:
        s = self.slope_below(z.lower)
        unstable = (z.lower <= 0) & (z.upper >= 0) & (s != 1)
        chord = self._chord(z)
        # σ - a z over [l, u] is extreme at an end or at 0: (1 - a) u, (s - a) l, 0
        one, steepness = arithmetic.exact(torch.ones_like(s)), arithmetic.exact(chord)
        right = arithmetic.multiple(z.upper, one - steepness)
        left = arithmetic.multiple(z.lower, arithmetic.exact(s) - steepness)
        convex, stable, zero = s < 1, torch.where(z.lower > 0, 1.0, s), torch.zeros_like(s)
        most = torch.maximum(right[0].upper(), left[0].upper()).clamp(min=0)
        low, high = torch.where(unstable, free, stable), torch.where(unstable, chord, stable)
        bottom, top = zero, torch.where(unstable, most, 0.0)
        if not bool(convex.all()):
            least = torch.minimum(right[1].lower(), left[1].lower()).clamp(max=0)
            low, high = torch.where(convex, low, high), torch.where(convex, high, low)
            bottom, top = torch.where(unstable & ~convex, least, 0.0), torch.where(convex, top, 0.0)
        size = self.value_range(z, arithmetic).magnitude.detach()
        return Lines(*(t.unsqueeze(1) for t in (low, bottom, high, top, size)))


@final
@dataclass(frozen=True)
class ReLU(AbstractTwoPiece):
    """max(z, 0)."""

    name: ClassVar[str] = "relu"

    def slope_below(self, z: Tensor) -> Tensor:
        return torch.zeros_like(z)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


@final
@dataclass(frozen=True)
class LeakyReLU(AbstractTwoPiece):
    """z for z >= 0, else `negative_slope` times z; one slope for all neurons.

    In float32 the slope is the nearest float32 number, as in PyTorch's own kernels.
    """

    negative_slope: float = 0.01
    name: ClassVar[str] = "leaky_relu"

    def slope_below(self, z: Tensor) -> Tensor:
        return torch.full_like(z, self.negative_slope)

    @classmethod
    def named(cls, parameters: Mapping[str, Any]) -> Self:
        return cls(float(_slope(cls.name, parameters)))

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(0.01), cls(0.3), cls(1.0), cls(2.5), cls(-0.4), cls(-1.0)]


@final
@dataclass(frozen=True)
class PReLU(AbstractTwoPiece):
    """Leaky-ReLU with a trained slope for each neuron: a tensor that broadcasts to the node's shape."""

    negative_slope: Tensor
    name: ClassVar[str] = "prelu"

    def slope_below(self, z: Tensor) -> Tensor:
        return self.negative_slope.expand_as(z)

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        return replace(self, negative_slope=self.negative_slope.to(dtype=dtype, device=device))

    @classmethod
    def named(cls, parameters: Mapping[str, Any]) -> Self:
        return cls(torch.as_tensor(_slope(cls.name, parameters)))

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(torch.tensor(s, dtype=torch.float64)) for s in (0.25, -0.1, 1.7)]


@final
@dataclass(frozen=True)
class Abs(AbstractTwoPiece):
    """|z|."""

    name: ClassVar[str] = "abs"

    def slope_below(self, z: Tensor) -> Tensor:
        return torch.full_like(z, -1)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


def _slope(name: str, parameters: Mapping[str, Any]) -> Any:
    if "slope" not in parameters:
        raise InvalidNetwork(f"the activation {name} needs its `slope` stated: no default is safe")
    return parameters["slope"]


@onnx_ops.reads("Relu")
@torch_ops.reads("aten.relu.default", "aten.relu_.default")
def _relu(x: Expression) -> Any:
    return x.activate(ReLU())


@onnx_ops.reads("Abs")
@torch_ops.reads("aten.abs.default", "aten.abs_.default")
def _abs(x: Expression) -> Any:
    return x.activate(Abs())


@torch_ops.reads("aten.leaky_relu.default", "aten.leaky_relu_.default")
def _leaky_relu(x: Expression, negative_slope: float = 0.01) -> Any:
    return x.activate(LeakyReLU(float(negative_slope)))


@onnx_ops.reads("LeakyRelu")
def _onnx_leaky_relu(x: Expression, alpha: float = 0.01) -> Any:
    return x.activate(LeakyReLU(float(alpha)))


@torch_ops.reads("aten.prelu.default", "aten._prelu_kernel.default")
def _prelu(x: Expression, weight: Tensor) -> Any:
    # nn.PReLU has one slope, or one for each channel: the axis after the batch's
    ones = [1] * (len(x.shape) - 2)
    slope = weight.reshape(()) if weight.numel() == 1 else weight.reshape(-1, *ones)
    return x.activate(PReLU(slope))


@onnx_ops.reads("PRelu")
def _onnx_prelu(x: Expression, slope: Tensor) -> Any:
    if torch.broadcast_shapes(slope.shape, x.shape) != torch.Size(x.shape):
        raise ValueError(f"slopes of shape {tuple(slope.shape)} for a tensor of shape {x.shape}")
    # a leading axis of one entry says nothing, and a neuron has no batch axis
    return x.activate(PReLU(slope[0] if slope.dim() == len(x.shape) and slope.shape[:1] == (1,) else slope))

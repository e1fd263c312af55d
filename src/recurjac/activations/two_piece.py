"""Activations with two linear pieces that meet at 0: ReLU, leaky-ReLU, PReLU, absolute value."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from recurjac.activations.base import AbstractActivation
from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.errors import InvalidNetwork
from recurjac.quadratics import Factor, Graph, Product
from recurjac.registry import Expression, onnx_ops, torch_ops
from recurjac.relaxations import LinearRelaxation
from recurjac.tensors import broadcast_shape, cast


class AbstractTwoPiece(AbstractActivation):
    """σ(z) = z for z >= 0 and s z for z < 0, where s is the `negative_slope`, of any size and sign.

    σ is convex for s <= 1 and concave for s >= 1; the sign of 1 - s distinguishes the two cases.
    """

    @abstractmethod
    def slope_below(self, z: Tensor) -> Tensor:
        """The negative slope s of each neuron, broadcast to z."""

    @property
    def rectifies(self) -> bool:
        """Whether the negative slope is 0 for every neuron, as in a ReLU; such neurons need fewer steps."""
        return False

    @property
    @final
    def piecewise_linear(self) -> bool:
        return True

    @property
    @final
    def jumps(self) -> tuple[float, ...]:
        return (0.0,)

    @property
    @final
    def rigorous(self) -> bool:
        """True: slopes are exact, and the intercepts of the lines include their rounding errors."""
        return True

    @final
    def value(self, z: Tensor) -> Tensor:
        s = self.slope_below(z)
        return torch.where(z < 0, torch.where(s == 0, 0.0, s * z), z)

    @final
    def value_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The hull of σ at both ends, and of 0 if the interval contains 0."""
        if self.rectifies:
            return z.map(lambda end: end.clamp(min=0))
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
        """{s} below 0, {1} above 0, and their hull if the interval contains 0, even at an end (Clarke's derivative)."""
        at_lower, at_upper = self._pieces(z)
        if self.rectifies:
            return Interval.unchecked(at_lower, at_upper)  # 0 and 1, in order
        return Interval(torch.minimum(at_lower, at_upper), torch.maximum(at_lower, at_upper))

    @final
    def secant_range(self, z: Interval, centre: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The secants between both lower and both upper ends, as they are monotone in v and in c.

        Between a < 0 < b the secant's slope is s + (1 - s) b / (b - a).  It is computed with five roundings of numbers
        of size up to |s| + |1 - s|, hence with an error of less than 8 u (|s| + |1 - s|), and lies between s and 1.
        """
        ends = [self._secant(z.lower, centre.lower), self._secant(z.upper, centre.upper)]
        s = self.slope_below(z.lower)
        error = torch.where(s == 1, 0.0, 4 * torch.finfo(z.lower.dtype).eps * (s.abs() + (1 - s).abs()))
        least, most = s.clamp(max=1), s.clamp(min=1)
        low = torch.minimum(*(torch.where(exact, v, torch.maximum(v - error, least)) for v, exact in ends))
        high = torch.maximum(*(torch.where(exact, v, torch.minimum(v + error, most)) for v, exact in ends))
        return Interval(low, high)

    @final
    def quadratics(self, z: Interval, centre: Interval, arithmetic: AbstractArithmetic) -> list[Product]:
        """With P = ±(σ - s z) and N = ±(σ - z), both >= 0: P N = 0, and P and N are at most their values at the ends.

        The sign is that of 1 - s.  P is |1 - s| max(z, 0), and N is |1 - s| max(-z, 0).
        """
        graph, s = Graph(centre, self.value_range(centre, arithmetic), arithmetic), self.slope_below(z.lower)
        sign = torch.where(s > 1, -1.0, 1.0).to(s.dtype)
        bend = arithmetic.exact(sign) - arithmetic.exact(sign) * arithmetic.exact(s)  # |1 - s|
        most = bend * arithmetic.exact(z.upper.clamp(min=0)), bend * arithmetic.exact(-z.lower.clamp(max=0))
        p, n = graph.affine(-sign * s, sign, 0.0), graph.affine(-sign, sign, 0.0)
        p_left, n_left = graph.affine(sign * s, -sign, most[0]), graph.affine(sign, -sign, most[1])
        pairs = [(p, graph.unit), (n, graph.unit), (p, p_left), (n, n_left), (p_left, n_left)]
        sector = graph.sector(self.secant_range(z, centre, arithmetic))
        return [sector, Product(p, n, zero=True), *(Product(a, b) for a, b in pairs)]

    @final
    def couplings(self, centre: Interval, arithmetic: AbstractArithmetic) -> list[Product]:
        """(σ - s z) (w' - z') = 0, as the slope is 1 where z > 0, and (σ - z) (w' - s z') = 0, as it is s where z < 0.

        At the kink both first factors are 0.
        """
        graph, s = Graph(centre, self.value_range(centre, arithmetic), arithmetic), self.slope_below(centre.lower)
        zero, one = arithmetic.exact(torch.zeros_like(centre.lower)), torch.ones_like(centre.lower)
        rises, falls = graph.affine(-s, one, 0.0), graph.affine(-one, one, 0.0)
        return [
            Product(rises, Factor(-one, one, zero), zero=True),
            Product(falls, Factor(-(s * one), one, zero), zero=True),
        ]

    def _secant(self, v: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The slope of the secant between v and c, and whether it is exact; 1 or s where both are on one side."""
        low, high, s = torch.minimum(v, c), torch.maximum(v, c), self.slope_below(v)
        across = (low < 0) & (high > 0)
        width = torch.where(across, high - low, 1.0)
        share = torch.where(high.isinf(), 1.0, torch.where(across, high, 0.0) / width)
        piece = torch.where(low >= 0, 1.0, s)
        return torch.where(across, s + (1 - s) * share, piece), ~across

    def _pieces(self, z: Interval) -> tuple[Tensor, Tensor]:
        """The slopes of the pieces that contain the lower and the upper end; s and 1 where the interval contains 0."""
        if self.rectifies:
            return (z.lower > 0).to(z.lower.dtype), (~(z.upper < 0)).to(z.lower.dtype)
        s = self.slope_below(z.lower)
        return torch.where(z.lower > 0, 1.0, s), torch.where(z.upper < 0, s, 1.0)

    @final
    def unstable(self, z: Interval, arithmetic: AbstractArithmetic) -> Tensor:
        """True where the interval contains 0, unless both slopes are 1."""
        meets = ~((z.lower > 0) | (z.upper < 0))  # also where an end is NaN
        return meets if self.rectifies else meets & (self.slope_below(z.lower) != 1)

    @final
    def lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """The chord on one side, and on the other a line through 0 of slope 1 if u >= -l, else s (CROWN-adaptive)."""
        steep = z.upper >= -z.lower
        free = steep.to(z.lower.dtype) if self.rectifies else torch.where(steep, 1.0, self.slope_below(z.lower))
        sides = _sides(z)
        return self._lines(z, free, self._chord(z, *sides), *sides, arithmetic)

    @final
    def parallel_lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """The chord on one side, and the parallel line through 0 on the other."""
        sides = _sides(z)
        chord = self._chord(z, *sides)
        return self._lines(z, chord, chord, *sides, arithmetic)

    def _chord(self, z: Interval, high: Tensor, low: Tensor) -> Tensor:
        """The slope of the chord over [l, u] with l <= 0 <= u: s + (1 - s) u / (u - l), with limits at infinity.

        Elsewhere it is exactly the slope of the only piece.
        """
        width = high - low
        least, most = torch.aminmax(width.detach()) if width.numel() else (0.0, 0.0)
        if float(least) > 0 and float(most) < torch.inf:
            share = high / width
        else:  # keep infinity out of the quotient: autograd would compute 0 times infinity
            plain = (width > 0) & (width < torch.inf)
            share = torch.where(plain, high, 0.0) / torch.where(plain, width, 1.0)
            share = torch.where(high.isinf(), 1.0, share)
        if self.rectifies:
            return share
        s, (at_lower, at_upper) = self.slope_below(z.lower), self._pieces(z)
        # rounding must not move the chord beyond the slopes of the two pieces: the parallel lines rely on it
        chord = torch.minimum(torch.maximum(s + (1 - s) * share, s.clamp(max=1)), s.clamp(min=1))
        return torch.where(at_lower == at_upper, at_lower, chord)

    def _lines(
        self, z: Interval, free: Tensor, chord: Tensor, high: Tensor, low: Tensor, arithmetic: AbstractArithmetic
    ) -> LinearRelaxation:
        """Slopes `free` through 0 on one side and `chord` on the other; on a single piece both are its slope."""
        s, one = self.slope_below(z.lower), torch.ones_like(z.lower)
        if self.rectifies and isfinite(float((high - low).detach().sum())):
            return _beside(free, s, chord, _gap_of_chord(chord, high, low, arithmetic), high.detach())
        # σ - a z over [l, u] with l <= 0 <= u is extreme at an end or at 0: (1 - a) u, (s - a) l, 0
        ends = torch.stack([high, low])
        gaps = arithmetic.multiple(ends, arithmetic.exact(torch.stack([one, s])) - arithmetic.exact(chord))
        most = gaps[0].upper().amax(0).clamp(min=0)
        if self.rectifies:
            return _beside(free, s, chord, most, high.detach())
        unstable, convex = self.unstable(z, arithmetic), s < 1
        least = gaps[1].lower().amin(0).clamp(max=0)
        return _beside(
            torch.where(convex, free, chord), torch.where(unstable & ~convex, least, 0.0),
            torch.where(convex, chord, free), torch.where(unstable & convex, most, 0.0),
            self.value_range(z, arithmetic).magnitude.detach(),
        )  # fmt: skip


def _gap_of_chord(chord: Tensor, high: Tensor, low: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
    """An upper bound of the larger gap of a ReLU above its computed chord at both ends, (1 - a) u and -a l; all finite.

    low <= 0 <= high.  The gap is 0 where one end is, because the chord is exact there.
    """
    gap = torch.maximum((1 - chord) * high, chord * -low)
    if arithmetic.rigorous:  # also where both products underflowed
        gap = torch.where(high * low.sign() < 0, gap.clamp(min=torch.finfo(gap.dtype).tiny), gap)
    return arithmetic.at_least(gap, 2)


def _sides(z: Interval) -> tuple[Tensor, Tensor]:
    """The upper end clamped to >= 0 and the lower end clamped to <= 0."""
    return z.upper.clamp(min=0), z.lower.clamp(max=0)


def _beside(*numbers: Tensor) -> LinearRelaxation:
    """Lines from numbers (batch, *node), the same for all covectors."""
    return LinearRelaxation(*(t.unsqueeze(1) for t in numbers))


@final
@dataclass(frozen=True)
class ReLU(AbstractTwoPiece):
    """max(z, 0)."""

    name: ClassVar[str] = "relu"

    @property
    def rectifies(self) -> bool:
        return True

    def slope_below(self, z: Tensor) -> Tensor:
        return torch.zeros_like(z)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


@final
@dataclass(frozen=True)
class LeakyReLU(AbstractTwoPiece):
    """z for z >= 0, otherwise `negative_slope` times z, with the same slope for all neurons.

    In float32, the slope is rounded to the nearest float32 number, as in PyTorch's own kernels.
    """

    negative_slope: float = 0.01
    name: ClassVar[str] = "leaky_relu"

    def slope_below(self, z: Tensor) -> Tensor:
        return torch.full_like(z, self.negative_slope)

    def rounded(self, dtype: torch.dtype) -> Self:
        return replace(self, negative_slope=float(torch.tensor(self.negative_slope, dtype=dtype)))

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
        return replace(self, negative_slope=cast(self.negative_slope, dtype, device))

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
        raise InvalidNetwork(f"the activation {name} needs its `slope`, because no default is safe")
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


@torch_ops.reads("aten.rrelu.default")
def _rrelu(x: Expression, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False) -> Any:
    """In eval mode, the negative slope is the mean of the range from which it is drawn in training."""
    if training:
        raise ValueError("an active rrelu makes the network random; export in eval mode")
    return x.activate(LeakyReLU((lower + upper) / 2))


@onnx_ops.reads("LeakyRelu")
def _onnx_leaky_relu(x: Expression, alpha: float = 0.01) -> Any:
    return x.activate(LeakyReLU(float(alpha)))


@torch_ops.reads("aten.prelu.default", "aten._prelu_kernel.default")
def _prelu(x: Expression, weight: Tensor) -> Any:
    # nn.PReLU has one slope, or one per channel: the axis after the batch axis
    ones = [1] * (len(x.shape) - 2)
    slope = weight.reshape(()) if weight.numel() == 1 else weight.reshape(-1, *ones)
    return x.activate(PReLU(slope))


@onnx_ops.reads("PRelu")
def _onnx_prelu(x: Expression, slope: Tensor) -> Any:
    if broadcast_shape(slope.shape, x.shape) != tuple(x.shape):
        raise ValueError(f"slopes of shape {tuple(slope.shape)} for a tensor of shape {x.shape}")
    # a leading axis of one entry carries no information, and a neuron has no batch axis
    return x.activate(PReLU(slope[0] if slope.dim() == len(x.shape) and slope.shape[:1] == (1,) else slope))

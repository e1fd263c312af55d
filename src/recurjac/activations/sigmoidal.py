"""Sigmoid-shaped activations: increasing, odd about 0, with a slope that rises up to 0 and falls after it."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from recurjac.activations.base import within
from recurjac.activations.proofs import intercepts_of_sigmoid
from recurjac.activations.smooth import AbstractSmooth
from recurjac.arithmetic import AbstractArithmetic, Enclosure, Interval, with_derivative_of
from recurjac.arithmetic.elementary import atan, erf, gaussian, logistic, sigmoid, tanh
from recurjac.registry import Expression, onnx_ops, torch_ops
from recurjac.relaxations import LinearRelaxation

_STEPS = 24
"""The most steps to a touching point; the secants need about seven, and what is left only loses tightness."""

_NOISE = 8
"""How many units of the last place are rounding in the logarithm of a quotient of slopes."""

_TINY = 2.0**-60
"""Arguments at most this large count as 0 where 0 is the worst of them: enclosures at 0 itself are slow."""

_FLAT = 30.0
"""exp(-z²) is 0 in float64 from here on, and erf(z) is 1."""


class AbstractSigmoidal(AbstractSmooth):
    """σ is convex before 0, concave after it, and σ(-z) = 2 σ(0) - σ(z)."""

    @property
    @abstractmethod
    def middle(self) -> float:
        """σ(0)."""

    @final
    def slope_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return within(lower, upper, 0.0)

    @final
    def proved_value_range(self, z: Interval) -> Interval:
        """σ increases."""
        found = self.proved_values(torch.stack([z.lower, z.upper])).interval
        return Interval.unchecked(found.lower[0], found.upper[1])

    @final
    def proved_slope_range(self, z: Interval) -> Interval:
        """σ' is even and falls with |z|: it is extreme at the points that are nearest to 0 and furthest from it."""
        nearest, furthest = torch.maximum(z.lower, -z.upper), torch.maximum(-z.lower, z.upper)
        found = self.proved_slopes(torch.stack([furthest, nearest.clamp(min=_TINY)]))[0].interval
        peak = self.proved_slopes(nearest.new_zeros(()))[0].upper
        return Interval.unchecked(found.lower[0], torch.where(nearest < _TINY, peak, found.upper[1]))

    @final
    def lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """The upper line and, by symmetry, the lower one: σ >= a z + b on z iff σ <= a z + 2 σ(0) - b on -z."""
        core = self.core(z)
        low, high = torch.stack([-core.upper, core.lower]), torch.stack([-core.lower, core.upper])
        slope, at = self._upper_line(low, high)
        lower, upper = self._intercepts(core, arithmetic, (slope[0], -at[0]), (slope[1], at[1]))
        return self._in_core(z, arithmetic, (slope[0], lower), (slope[1], upper))

    def _intercepts(
        self, z: Interval, arithmetic: AbstractArithmetic, lower: tuple[Tensor, Tensor], upper: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Intercepts for slopes of lines below and above σ, and points where they touch it."""
        proved = intercepts_of_sigmoid(self, z, lower, upper) if self._proves(arithmetic) else None
        if proved is not None and not lower[0].requires_grad:
            return proved
        below, above = (self.intercepts(slope, z.lower, at, z.upper) for slope, at in (lower, upper))
        if proved is None:
            return below[0], above[1]
        return with_derivative_of(below[0], proved[0]), with_derivative_of(above[1], proved[1])

    def _upper_line(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Slope of the line above σ that is lowest at the midpoint of [l, u], and where they touch.

        Source: CROWN, Table 2.

        A tangent at d >= 0 lies above the concave part.  Because σ is convex before 0, it lies above the rest of [l, u]
        iff it does so at l, which holds for all d >= d*, for some d*.  Therefore the line is the tangent at the
        midpoint or at d*, whichever is further right.  If even the tangent at u fails, the line is the chord.
        """
        middle = low / 2 + high / 2
        begin, end, first, slope, last = self.value(low), self.value(high), *map(self.slope, (low, middle, high))
        tangible = (high > 0) & (end + last * (low - high) >= begin)
        enough = (low >= 0) | ((middle >= 0) & (self.value(middle) + slope * (low - middle) >= begin))
        steepest = self.slope(torch.minimum(low.clamp(min=0), high))
        chord = (end - begin) / (high - low).clamp(min=torch.finfo(low.dtype).tiny)
        chord = torch.minimum(torch.maximum(chord, torch.minimum(first, last)), steepest)  # by the mean value theorem
        slope, at = torch.where(tangible, slope, chord), torch.where(tangible, middle, high)
        index = (tangible & ~enough).flatten().nonzero().squeeze(1)
        return self._tangent_from_low(low, high, slope, at, index) if len(index) else (slope, at)

    def _tangent_from_low(
        self, low: Tensor, high: Tensor, slope: Tensor, at: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The slopes and touching points of lines, with those of tangents at d* at some flat positions.

        d* moves with l; along the line through (l, σ(l)) and (d*, σ(d*)) the slope's derivative is that of the chord.
        """
        begin = low.flatten().index_select(0, index)
        touch = self._touching(begin.detach(), high.detach().flatten().index_select(0, index))
        moving = (self.value(touch) - self.value(begin)) / (touch - begin)
        found = self.slope(touch) + moving - moving.detach()
        slope, at = slope.flatten().index_copy(0, index, found), at.flatten().index_copy(0, index, touch)
        return slope.reshape(low.shape), at.reshape(low.shape)

    def _touching(self, low: Tensor, high: Tensor) -> Tensor:
        """d* for vectors of ends, by secants of `_excess`, which hardly bends, inside a bracket.

        By symmetry, d* <= -l.  Where a secant leads nowhere, the bracket is halved, geometrically if it is long.
        """
        left, right = torch.zeros_like(low), torch.minimum(high, -low)
        last, at = right, (right / 2).clamp(max=1.0)
        before, eps = self._excess(last, low), torch.finfo(low.dtype).eps
        for _ in range(_STEPS):
            found = self._excess(at, low)
            left, right = torch.where(found < 0, at, left), torch.where(found < 0, right, at)
            secant = at - found * (at - last) / (found - before)
            long = right > 4 * left
            middle = torch.where(long & (left > 0), left.sqrt() * right.sqrt(), left / 2 + right / 2)
            known = (secant >= left) & (secant <= right) & before.isfinite() & found.isfinite()
            settled = (found.abs() <= _NOISE * eps) | (at == last)
            last, before = at, found
            at = torch.where(settled, at, torch.where(known, secant, middle))
            if not bool(((at - last).abs() > eps**0.5 * at).any()):  # the error is then smaller than the step
                break
        return at

    def _excess(self, d: Tensor, low: Tensor) -> Tensor:
        """The logarithm of the slope of the chord from `low` to d over that of the tangent at d; 0 at d*."""
        return (((self.value(d) - self.value(low)) / (d - low)) / self.slope(d)).log()


def bell(z: Enclosure) -> Enclosure:
    """The slope of the sigmoid function, s(z) s(-z), which falls on either side of 0."""
    if z.lower is z.upper:
        return Enclosure.of(logistic(z.lower))
    nearest = torch.maximum(z.lower, -z.upper).clamp(min=0)
    furthest = torch.maximum(z.upper, -z.lower)
    return Enclosure(logistic(furthest).lower, logistic(nearest).upper)


@final
@dataclass(frozen=True)
class Sigmoid(AbstractSigmoidal):
    """1 / (1 + exp(-z))."""

    name: ClassVar[str] = "sigmoid"

    @property
    def middle(self) -> float:
        return 0.5

    def value(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z)

    def slope(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z) * torch.sigmoid(-z)

    @property
    def steepness(self) -> tuple[float, float, float]:
        return 0.25, 0.1, 0.125

    def enclosed_value(self, z: Tensor) -> Enclosure:
        return Enclosure.of(sigmoid(z))

    def enclosed_slope(self, z: Tensor) -> Enclosure:
        return bell(Enclosure.point(z))

    def enclosed_curvature(self, z: Tensor) -> Enclosure:
        half = Enclosure.point(z).times(0.5)
        return -(bell(Enclosure.point(z)) * half.rising(tanh))

    def curvature(self, z: Tensor) -> Tensor:
        """-σ' tanh(z / 2), whose derivative σ' (1 - 6 σ') is 0 where σ = (3 ± √3) / 6."""
        return -self.slope(z) * torch.tanh(z / 2)

    def curvature_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        turn = math.log(2 + math.sqrt(3))
        return within(lower, upper, -turn, turn)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


@final
@dataclass(frozen=True)
class Tanh(AbstractSigmoidal):
    """The hyperbolic tangent."""

    name: ClassVar[str] = "tanh"

    @property
    def middle(self) -> float:
        return 0.0

    def value(self, z: Tensor) -> Tensor:
        return torch.tanh(z)

    def slope(self, z: Tensor) -> Tensor:
        """1 - tanh², computed without cancellation, and in little memory: autograd needs the two factors only."""
        return (torch.sigmoid_(2 * z) * torch.sigmoid_(-2 * z)).mul_(4)

    @property
    def steepness(self) -> tuple[float, float, float]:
        return 1.0, 0.8, 2.0

    def enclosed_value(self, z: Tensor) -> Enclosure:
        return Enclosure.of(tanh(z))

    def enclosed_slope(self, z: Tensor) -> Enclosure:
        return bell(Enclosure.point(z).twice()).twice().twice()

    def enclosed_curvature(self, z: Tensor) -> Enclosure:
        return -(self.enclosed_value(z) * self.enclosed_slope(z)).twice()

    def curvature(self, z: Tensor) -> Tensor:
        """-2 tanh σ', whose derivative 2 σ' (3 tanh² - 1) is 0 where tanh = ±1/√3."""
        return -2 * torch.tanh(z) * self.slope(z)

    def curvature_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        turn = math.atanh(1 / math.sqrt(3))
        return within(lower, upper, -turn, turn)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


@final
@dataclass(frozen=True)
class Arctan(AbstractSigmoidal):
    """The inverse tangent."""

    name: ClassVar[str] = "arctan"

    @property
    def middle(self) -> float:
        return 0.0

    def value(self, z: Tensor) -> Tensor:
        return torch.atan(z)

    def slope(self, z: Tensor) -> Tensor:
        infinite = z.isinf()  # treated separately, because autograd would compute 0 times infinity
        return torch.where(infinite, 0.0, 1 / (1 + torch.where(infinite, 0.0, z).square()))

    @property
    def steepness(self) -> tuple[float, float, float]:
        return 1.0, 0.7, 2.0

    def enclosed_value(self, z: Tensor) -> Enclosure:
        return Enclosure.of(atan(z))

    def enclosed_slope(self, z: Tensor) -> Enclosure:
        return Enclosure.point(z).square().plus(1.0).inverse().within(0.0, 1.0)

    def enclosed_curvature(self, z: Tensor) -> Enclosure:
        slope = self.enclosed_slope(z)
        return -(Enclosure.point(z) * slope * slope).twice()

    def curvature(self, z: Tensor) -> Tensor:
        """-2 z σ'², whose derivative is (6 z² - 2) σ'³; the factors are multiplied in an order that cannot overflow."""
        slope = self.slope(z)
        return -2 * (torch.where(z.isinf(), 0.0, z) * slope) * slope

    def curvature_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return within(lower, upper, -1 / math.sqrt(3), 1 / math.sqrt(3))

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


@final
@dataclass(frozen=True)
class Softsign(AbstractSigmoidal):
    """z / (1 + |z|)."""

    name: ClassVar[str] = "softsign"

    @property
    def middle(self) -> float:
        return 0.0

    def value(self, z: Tensor) -> Tensor:
        infinite = z.isinf()  # treated separately, because autograd would compute 0 times infinity
        finite = torch.where(infinite, 0.0, z)
        return torch.where(infinite, z.detach().sign(), finite / (1 + finite.abs()))

    def slope(self, z: Tensor) -> Tensor:
        infinite = z.isinf()
        return torch.where(infinite, 0.0, 1 / (1 + torch.where(infinite, 0.0, z).abs()).square())

    def enclosed_value(self, z: Tensor) -> Enclosure:
        return (Enclosure.point(z) / Enclosure.point(z.abs()).plus(1.0)).within(-1.0, 1.0)

    def enclosed_slope(self, z: Tensor) -> Enclosure:
        return Enclosure.point(z.abs()).plus(1.0).inverse().square().within(0.0, 1.0)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


@final
@dataclass(frozen=True)
class Erf(AbstractSigmoidal):
    """The error function, 2/√π times the integral of exp(-t²) from 0 to z."""

    name: ClassVar[str] = "erf"

    @property
    def middle(self) -> float:
        return 0.0

    def value(self, z: Tensor) -> Tensor:
        return torch.erf(z.clamp(-_FLAT, _FLAT))

    def slope(self, z: Tensor) -> Tensor:
        return 2 / math.sqrt(math.pi) * torch.exp(-z.clamp(-_FLAT, _FLAT).square())

    @property
    def steepness(self) -> tuple[float, float, float]:
        return 1.2, 1.0, 2.3

    def enclosed_value(self, z: Tensor) -> Enclosure:
        return Enclosure.of(erf(z))

    def enclosed_slope(self, z: Tensor) -> Enclosure:
        factor = Enclosure.near(2 / math.sqrt(math.pi), z)
        return (factor * Enclosure.of(gaussian(z))).within(0.0)

    def enclosed_curvature(self, z: Tensor) -> Enclosure:
        return -(Enclosure.point(z) * self.enclosed_slope(z)).twice()

    def curvature(self, z: Tensor) -> Tensor:
        """-2 z σ', whose derivative is (4 z² - 2) σ'."""
        return -2 * z.clamp(-_FLAT, _FLAT) * self.slope(z)

    def curvature_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return within(lower, upper, -math.sqrt(0.5), math.sqrt(0.5))

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


@onnx_ops.reads("Sigmoid")
@torch_ops.reads("aten.sigmoid.default", "aten.sigmoid_.default")
def _sigmoid(x: Expression) -> Any:
    return x.activate(Sigmoid())


@onnx_ops.reads("Tanh")
@torch_ops.reads("aten.tanh.default", "aten.tanh_.default")
def _tanh(x: Expression) -> Any:
    return x.activate(Tanh())


@onnx_ops.reads("Atan")
@torch_ops.reads("aten.atan.default", "aten.atan_.default", "aten.arctan.default", "aten.arctan_.default")
def _arctan(x: Expression) -> Any:
    return x.activate(Arctan())


@onnx_ops.reads("Softsign")
def _softsign(x: Expression) -> Any:
    return x.activate(Softsign())


@onnx_ops.reads("Erf")
@torch_ops.reads("aten.erf.default", "aten.erf_.default", "aten.special_erf.default")
def _erf(x: Expression) -> Any:
    return x.activate(Erf())

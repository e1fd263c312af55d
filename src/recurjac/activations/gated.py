"""Gated units z g(z) whose gate g rises from 0 to 1: GELU, SiLU, Mish; `hard_swish.py` has one whose gate has kinks."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from recurjac.activations.base import within
from recurjac.activations.curved import AbstractCurved
from recurjac.activations.sigmoidal import bell
from recurjac.arithmetic import Enclosure
from recurjac.arithmetic.elementary import exp, normal_density, normal_distribution, sigmoid, tanh
from recurjac.registry import Expression, onnx_ops, torch_ops


class AbstractGated(AbstractCurved):
    """σ(z) = z g(z) falls from 0 to one minimum, then rises; σ' falls, rises and falls, with two turning points."""

    @property
    @abstractmethod
    def reach(self) -> tuple[float, float]:
        """Two points: below the first, σ and σ' are 0 in float64; above the second, they are z and 1."""

    @property
    @abstractmethod
    def lowest(self) -> float:
        """The point where σ is smallest."""

    @property
    @abstractmethod
    def steepest(self) -> tuple[float, float]:
        """The points where σ' is smallest and where it is largest."""

    @abstractmethod
    def gate(self, z: Tensor) -> Tensor:
        """g(z) for z within `reach`."""

    @abstractmethod
    def gate_slope(self, z: Tensor) -> Tensor:
        """g'(z) for z within `reach`."""

    def gate_curvature(self, z: Tensor) -> Tensor | None:
        """g''(z) for z within `reach`; None, which is the default, if it is not continuous."""
        return None

    @abstractmethod
    def enclosed_gate(self, z: Tensor) -> Enclosure:
        """Proved bounds of g(z) for all finite z."""

    @abstractmethod
    def enclosed_gate_slope(self, z: Tensor) -> Enclosure:
        """Proved bounds of g'(z) for all finite z, but for kinks."""

    def enclosed_gate_curvature(self, z: Tensor) -> Enclosure | None:
        """Proved bounds of g''(z) for all finite z; None, which is the default, if it is not continuous."""
        return None

    @final
    def enclosed_value(self, z: Tensor) -> Enclosure:
        return _gated(z, self.enclosed_gate(z))

    def enclosed_slope(self, z: Tensor) -> Enclosure:
        return self._enclosed_slope(z, self.enclosed_gate(z))

    def enclosed_value_and_slopes(self, z: Tensor) -> tuple[Enclosure, tuple[Enclosure, Enclosure]]:
        gate = self.enclosed_gate(z)
        slope = self._enclosed_slope(z, gate)
        return _gated(z, gate), (slope, slope)

    def _enclosed_slope(self, z: Tensor, gate: Enclosure) -> Enclosure:
        return gate + Enclosure.point(z) * self.enclosed_gate_slope(z)

    @final
    def enclosed_curvature(self, z: Tensor) -> Enclosure | None:
        bend = self.enclosed_gate_curvature(z)
        return None if bend is None else self.enclosed_gate_slope(z).twice() + Enclosure.point(z) * bend

    def turn_errors(self, turns: Tensor) -> Tensor:
        """A few units in the last place; none at the ends of `reach`, where σ' does not turn but in floating point."""
        errors = super().turn_errors(turns)
        for end in self.reach:
            errors = torch.where(turns == end, 0.0, errors)
        return errors

    @final
    def value(self, z: Tensor) -> Tensor:
        before, after = self.reach
        inner = z.clamp(before, after)  # without infinity, because autograd would compute 0 times infinity
        return torch.where(z < before, 0.0, torch.where(z > after, z, inner * self.gate(inner)))

    @final
    def slope(self, z: Tensor) -> Tensor:
        return self.slopes_beside(z)[1]

    @final
    def slopes_beside(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The one-sided limits of σ', which differ only at the ends of `reach`, if g has kinks there."""
        before, after = self.reach
        inner = z.clamp(before, after)
        slope = self.gate(inner) + inner * self.gate_slope(inner)
        left = torch.where(z <= before, 0.0, torch.where(z > after, 1.0, slope))
        return left, torch.where(z < before, 0.0, torch.where(z >= after, 1.0, slope))

    @final
    def curvature(self, z: Tensor) -> Tensor | None:
        before, after = self.reach
        inner = z.clamp(before, after)
        gate = self.gate_curvature(inner)
        if gate is None:
            return None
        return torch.where((z < before) | (z > after), 0.0, 2 * self.gate_slope(inner) + inner * gate)

    @final
    def slope_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return within(lower, upper, *self.reach, *self.steepest)

    @final
    def value_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return within(lower, upper, self.lowest)


def _gated(z: Tensor, gate: Enclosure) -> Enclosure:
    """z g, which has the sign of z."""
    found, negative = Enclosure.point(z) * gate, z < 0
    return Enclosure(
        torch.where(negative, found.lower, found.lower.clamp(min=0)),
        torch.where(negative, found.upper.clamp(max=0), found.upper),
    )


@final
@dataclass(frozen=True)
class GELU(AbstractGated):
    """z Φ(z), where Φ is the normal distribution function (Hendrycks and Gimpel 2016, arXiv:1606.08415).

    σ'' = φ(z) (2 - z²).
    """

    name: ClassVar[str] = "gelu"

    @property
    def reach(self) -> tuple[float, float]:
        """φ is 0 in float64 above about 38.6."""
        return -40.0, 40.0

    @property
    def lowest(self) -> float:
        """Φ + z φ = 0."""
        return -0.75179152469356445746

    @property
    def steepest(self) -> tuple[float, float]:
        return -math.sqrt(2), math.sqrt(2)

    def gate(self, z: Tensor) -> Tensor:
        phi: Tensor = torch.special.erfc(z * -math.sqrt(0.5)) / 2
        return phi

    def gate_slope(self, z: Tensor) -> Tensor:
        return math.sqrt(0.5 / math.pi) * torch.exp(-z.square() / 2)

    def gate_curvature(self, z: Tensor) -> Tensor:
        return -z * self.gate_slope(z)

    @property
    def steepness(self) -> tuple[float, float, float]:
        return 1.2, 0.8, 1.0

    def enclosed_gate(self, z: Tensor) -> Enclosure:
        return Enclosure.of(normal_distribution(z))

    def enclosed_gate_slope(self, z: Tensor) -> Enclosure:
        return Enclosure.of(normal_density(z))

    def enclosed_gate_curvature(self, z: Tensor) -> Enclosure:
        return -(Enclosure.point(z) * self.enclosed_gate_slope(z))

    def curvature_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        """σ''' = φ(z) (z³ - 4 z)."""
        return within(lower, upper, -2.0, 0.0, 2.0)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


@final
@dataclass(frozen=True)
class SiLU(AbstractGated):
    """z / (1 + exp(-β z)) with β > 0, also known as swish.

    With x = β z / 2, σ'' is 0 where x tanh(x) = 1, which is x = ±1.19967864025773.
    """

    beta: float = 1.0
    name: ClassVar[str] = "silu"

    def __post_init__(self) -> None:
        if not (self.beta > 0 and math.isfinite(self.beta)):
            raise ValueError(f"SiLU with beta={self.beta}; it must be positive and finite")

    @property
    def reach(self) -> tuple[float, float]:
        return -800 / self.beta, 800 / self.beta

    @property
    def lowest(self) -> float:
        """1 + β z (1 - g) = 0."""
        return -1.27846454276107379511 / self.beta

    @property
    def steepest(self) -> tuple[float, float]:
        turn = 2.39935728051546766783 / self.beta
        return -turn, turn

    def gate(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.beta * z)

    def gate_slope(self, z: Tensor) -> Tensor:
        return self.beta * torch.sigmoid(self.beta * z) * torch.sigmoid(-self.beta * z)

    def gate_curvature(self, z: Tensor) -> Tensor:
        return -self.beta * self.gate_slope(z) * torch.tanh(self.beta * z / 2)

    @property
    def steepness(self) -> tuple[float, float, float]:
        return 1.1, 0.5 * self.beta, 0.5 * self.beta**2

    def enclosed_gate(self, z: Tensor) -> Enclosure:
        return self._inner(z).rising(sigmoid)

    def enclosed_gate_slope(self, z: Tensor) -> Enclosure:
        return bell(self._inner(z)).times(self.beta).within(0.0)

    def enclosed_gate_curvature(self, z: Tensor) -> Enclosure:
        return -(self.enclosed_gate_slope(z) * self._inner(z).times(0.5).rising(tanh)).times(self.beta)

    def _inner(self, z: Tensor) -> Enclosure:
        return Enclosure.point(z).times(self.beta)

    def curvature_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        """With y = β z / 2 and t = tanh(y), σ''' is 0 where y (3 t² - 1) = 3 t: at 0, and once on either side.

        There 3 t² > 1, and in y = 3 t / (3 t² - 1) one side increases and the other decreases: y = 1.7179204967675.
        """
        turn = 3.43584099353511068895 / self.beta
        return within(lower, upper, -turn, 0.0, turn)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(), cls(1.7)]


@final
@dataclass(frozen=True)
class Mish(AbstractGated):
    """z tanh(log(1 + exp(z))) (Misra 2019, arXiv:1908.08681).

    Its turning points were computed with 60 digits.  σ'' behaves like (2 + z) exp(z) for very negative z, and like
    (8 - 8 z) exp(-2 z) for very positive z.
    """

    name: ClassVar[str] = "mish"

    @property
    def reach(self) -> tuple[float, float]:
        return -800.0, 800.0

    @property
    def lowest(self) -> float:
        return -1.19243121451549521214

    @property
    def steepest(self) -> tuple[float, float]:
        return -2.25637639639079312001, 1.49057117948542845929

    def gate(self, z: Tensor) -> Tensor:
        """With e = exp(-|z|): (1 + 2 e) / (1 + 2 e + 2 e²) for z >= 0, (2 e + e²) / (2 + 2 e + e²) below."""
        e, positive = torch.exp(-z.abs()), z >= 0
        return torch.where(positive, 1 + 2 * e, e * (2 + e)) / self._denominator(e, positive)

    def gate_slope(self, z: Tensor) -> Tensor:
        """(1 - g²) / (1 + exp(-z)), where 1 - g² is 4 e² (1 + e)², or 4 (1 + e)², over the same denominator squared."""
        e, positive = torch.exp(-z.abs()), z >= 0
        root = torch.where(positive, 2 * e * (1 + e), 2 * (1 + e)) / self._denominator(e, positive)
        return root.square() * torch.sigmoid(z)

    def gate_curvature(self, z: Tensor) -> Tensor:
        """g' (s(-z) - 2 g s(z)), where s is the sigmoid, because g' = (1 - g²) s(z)."""
        return self.gate_slope(z) * (torch.sigmoid(-z) - 2 * self.gate(z) * torch.sigmoid(z))

    @property
    def steepness(self) -> tuple[float, float, float]:
        return 1.1, 0.7, 1.0

    def enclosed_gate(self, z: Tensor) -> Enclosure:
        e, positive = Enclosure.of(exp(-z.abs())), z >= 0
        above = e.twice().plus(1.0).where(positive, e * e.plus(2.0))
        return (above / self._enclosed_denominator(e, positive)).within(0.0, 1.0)

    def enclosed_gate_slope(self, z: Tensor) -> Enclosure:
        e, positive = Enclosure.of(exp(-z.abs())), z >= 0
        above = e.plus(1.0).twice()
        root = (e * above).where(positive, above) / self._enclosed_denominator(e, positive)
        return (root.square() * Enclosure.of(sigmoid(z))).within(0.0)

    def enclosed_gate_curvature(self, z: Tensor) -> Enclosure:
        share = self.enclosed_gate(z) * Enclosure.of(sigmoid(z))
        return self.enclosed_gate_slope(z) * (Enclosure.of(sigmoid(-z)) - share.twice())

    def _enclosed_denominator(self, e: Enclosure, positive: Tensor) -> Enclosure:
        squares = e.square()
        above = e.twice().plus(1.0) + squares.twice()
        return above.where(positive, e.twice().plus(2.0) + squares)

    def curvature_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return within(lower, upper, -3.26733784652040457612, -0.08793443131491421133, 2.11484256302087710859)

    def _denominator(self, e: Tensor, positive: Tensor) -> Tensor:
        return torch.where(positive, 1 + 2 * e + 2 * e.square(), 2 + 2 * e + e.square())

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


@torch_ops.reads("aten.silu.default", "aten.silu_.default")
def _silu(x: Expression) -> Any:
    return x.activate(SiLU())


@onnx_ops.reads("Swish")
def _swish(x: Expression, alpha: float = 1.0) -> Any:
    return x.activate(SiLU(float(alpha)))


@onnx_ops.reads("Mish")
@torch_ops.reads("aten.mish.default", "aten.mish_.default")
def _mish(x: Expression) -> Any:
    return x.activate(Mish())

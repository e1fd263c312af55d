"""The form of GELU with a hyperbolic tangent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from recurjac.activations.gated import GELU, AbstractGated
from recurjac.activations.proofs import curvature_bounds, slope_bounds
from recurjac.activations.sigmoidal import Sigmoid, bell
from recurjac.arithmetic import AbstractArithmetic, Enclosure, Interval
from recurjac.arithmetic.elementary import sigmoid, tanh
from recurjac.registry import Expression, onnx_ops, torch_ops


@final
@dataclass(frozen=True)
class GELUTanh(AbstractGated):
    """z (1 + tanh(w)) / 2 with w = c (z + k z³), c > 0 and 0 <= k <= c² / 8; c and k may be rounded in files.

    σ'' has the sign of 2 + 6 k z² / (1 + 3 k z²) - 2 z w' tanh(w), which is even in z, and 2 at 0.  Let x = c z > 0 and
    κ = k / c².  The derivative of the middle term in x is 12 κ x / (1 + 3 κ x²)²; that of the last term is at least
    2 tanh(x) in size.  Because 6 κ x <= 3 x / 4 < tanh(x) for x <= 1, and 6 κ x / (1 + 3 κ x²)² <= 1 / (2 x) < tanh(x)
    for x >= 1, the sum decreases in x.  Therefore σ'' has one positive zero t, and the zero -t.  On (-t, 0), the slope
    rises from below 0 to 1/2.
    """

    c: float = math.sqrt(2 / math.pi)
    k: float = 0.044715
    name: ClassVar[str] = "gelu_tanh"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.c) and 0.1 <= self.c <= 10 and 0 <= self.k <= self.c**2 / 8):
            raise ValueError(
                f"GELU of tanh({self.c} (z + {self.k} z³)); its shape is only proved for 0.1 <= c <= 10, 0 <= k <= c²/8"
            )

    @property
    def reach(self) -> tuple[float, float]:
        """The gate, or 1 minus the gate, is at most exp(-2 c |z|); times z this is 0 in float64."""
        return -400 / self.c, 400 / self.c

    @cached_property
    def _turn(self) -> float:
        return _root(self._bend, 0.0, 10 / self.c)

    def _bend(self, z: float) -> float:
        """A number with the sign of -σ''(z)."""
        w, share = self.c * (z + self.k * z**3), 3 * self.k * z**2
        return 2 * z * self.c * (1 + share) * math.tanh(w) - 2 - 2 * share / (1 + share)

    @property
    def steepest(self) -> tuple[float, float]:
        return -self._turn, self._turn

    @cached_property
    def lowest(self) -> float:
        return _root(self._slope, -self._turn, 0.0)

    def _slope(self, z: float) -> float:
        gate = 1 / (1 + math.exp(-2 * self.c * (z + self.k * z**3)))
        return gate + z * 2 * self.c * (1 + 3 * self.k * z**2) * gate * (1 - gate)

    def gate(self, z: Tensor) -> Tensor:
        """(1 + tanh(w)) / 2, computed without cancellation."""
        return torch.sigmoid(2 * self._inner(z))

    def gate_slope(self, z: Tensor) -> Tensor:
        w = 2 * self._inner(z)
        return 2 * self.c * (1 + 3 * self.k * z.square()) * torch.sigmoid(w) * torch.sigmoid(-w)

    def gate_curvature(self, z: Tensor) -> Tensor:
        """s''(2 w) (2 w')² + s'(2 w) 2 w'' where s is the sigmoid."""
        w, inner = 2 * self._inner(z), 2 * self.c * (1 + 3 * self.k * z.square())
        slope = torch.sigmoid(w) * torch.sigmoid(-w)
        return slope * (12 * self.c * self.k * z - inner.square() * torch.tanh(w / 2))

    def curvature_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The range from σ'' = (4 c + 24 c k z²) s'(2 w) + 4 c² z (1 + 3 k z²)² s''(2 w), where s is the sigmoid.

        Each factor is replaced by its range, because the turning points of σ'' are not proved.  2 w and the factor
        z (…)² increase with z, so that all four ranges are exact.
        """
        if arithmetic.rigorous:
            return self._proved_curvatures(z)
        before, after = self.reach
        inner = z.map(lambda end: end.clamp(before, after))
        w, squares = inner.map(lambda end: 2 * self._inner(end)), Interval(inner.mignitude**2, inner.magnitude**2)
        first = squares.map(lambda q: 4 * self.c + 24 * self.c * self.k * q)
        second = inner.map(lambda end: 4 * self.c**2 * end * (1 + 3 * self.k * end.square()).square())
        slope, bend = Sigmoid().slope_range(w, arithmetic), Sigmoid().curvature_range(w, arithmetic)
        assert bend is not None  # noqa: S101  # (narrows the type; the sigmoid has one)
        found = arithmetic.sum([arithmetic.product(first, slope), arithmetic.product(second, bend)])
        past = (z.lower < before) | (z.upper > after)
        return Interval(
            torch.where(past, found.lower.clamp(max=0), found.lower),
            torch.where(past, found.upper.clamp(min=0), found.upper),
        )

    def _proved_curvatures(self, z: Interval) -> Interval:
        """Past the ends of `reach`, |σ''| is at most (400⁵ c) 8 exp(-800), which is less than any normal number."""
        (before, after), tiny = self.reach, torch.finfo(z.lower.dtype).tiny
        low, high = (end.detach().clamp(before, after) for end in (z.lower, z.upper))
        inner = Enclosure(low, high)
        w = Enclosure(self._enclosed_inner(low).lower, self._enclosed_inner(high).upper).interval
        second = Enclosure(self._enclosed_odd(low).lower, self._enclosed_odd(high).upper)
        first = inner.square().times(self.k).times(6.0).plus(1.0).times(self.c).twice().twice()
        slope, bend = slope_bounds(Sigmoid(), w), curvature_bounds(Sigmoid(), w)
        found = first * Enclosure.of(slope) + second * Enclosure.of(bend)
        past = (z.lower < before) | (z.upper > after)
        return Interval.unchecked(
            torch.where(past, found.lower.clamp(max=-tiny), found.lower),
            torch.where(past, found.upper.clamp(min=tiny), found.upper),
        )

    def _enclosed_odd(self, z: Tensor) -> Enclosure:
        """4 c² z (1 + 3 k z²)²."""
        share = Enclosure.point(z).square().times(self.k).times(3.0).plus(1.0).square()
        return (share * Enclosure.point(z).times(self.c).times(self.c)).twice().twice()

    def _inner(self, z: Tensor) -> Tensor:
        return self.c * z * (1 + self.k * z.square())

    @property
    def steepness(self) -> tuple[float, float, float]:
        """With x = c z and q = 1 + 3 k z² <= 1 + 3 x² / 8, where w >= x and w' = c q.

        With s = sech²(x), |σ'| <= 1 + x q s / 2 < 2, |σ''| / c <= q s + 3 x² s / 8 + x q² s < 4, and |σ'''| / c² is at
        most 3 (s q² + 3 x s / 8) + x (3 s q³ + 9 s q x / 4 + 3 s / 8) < 16.
        """
        return 2.0, 4 * self.c, 16 * self.c**2

    def turn_errors(self, turns: Tensor) -> Tensor:
        """Those found by bisection are as near to exact ones as proved signs of σ'' and σ' on both sides show."""
        errors = super().turn_errors(turns)
        return torch.where(errors > 0, torch.maximum(errors, self._turn_error * turns.abs()), 0.0)

    @cached_property
    def _turn_error(self) -> float:
        """A relative error of `steepest` and `lowest`; infinite if none is found."""
        for bits in range(46, 20, -1):
            inner, outer = (torch.tensor([1 + s * 2.0**-bits], dtype=torch.float64) for s in (-1, 1))
            bends = [self.proved_curvatures(self._turn * t) for t in (inner, outer)]
            slopes = [self.enclosed_slope(self.lowest * t) for t in (inner, outer)]
            signs = (bends[0].lower, -bends[1].upper, slopes[0].lower, -slopes[1].upper)
            if all(float(t) > 0 for t in signs):
                return 2.0**-bits
        return math.inf

    def enclosed_gate(self, z: Tensor) -> Enclosure:
        return self._enclosed_inner(z).rising(sigmoid)

    def enclosed_gate_slope(self, z: Tensor) -> Enclosure:
        return (self._enclosed_rate(z) * bell(self._enclosed_inner(z))).within(0.0)

    def enclosed_gate_curvature(self, z: Tensor) -> Enclosure:
        w, rate = self._enclosed_inner(z), self._enclosed_rate(z)
        rise = Enclosure.point(z).times(12.0).times(self.c).times(self.k)
        return bell(w) * (rise - rate.square() * w.times(0.5).rising(tanh))

    def _enclosed_inner(self, z: Tensor) -> Enclosure:
        """2 w."""
        return Enclosure.point(z).square().times(self.k).plus(1.0) * Enclosure.point(z).times(self.c).twice()

    def _enclosed_rate(self, z: Tensor) -> Enclosure:
        """2 w'."""
        return Enclosure.point(z).square().times(self.k).times(3.0).plus(1.0).times(self.c).twice()

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(), cls(0.5, 0.0), cls(1.0, 0.125)]


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    """The zero of a function that is negative at `low` and positive at `high`, accurate to the last bits."""
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


@onnx_ops.reads("Gelu")
@torch_ops.reads("aten.gelu.default", "aten.gelu_.default")
def _gelu(x: Expression, approximate: str = "none") -> Any:
    if approximate not in ("none", "tanh"):
        raise ValueError(f"GELU with approximate={approximate!r}; 'none' and 'tanh' are read")
    return x.activate(GELU() if approximate == "none" else GELUTanh())

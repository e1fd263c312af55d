"""Activations that clamp at both ends: hard tanh, ReLU6."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from recurjac.activations.base import AbstractActivation, within
from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.registry import Expression, torch_ops
from recurjac.relaxations import LinearRelaxation


class AbstractClamp(AbstractActivation):
    """σ(z) = min(max(z, a), b), a < b finite: slope 0, then 1, then 0.

    In float32, a and b are rounded to the nearest float32 numbers, as in PyTorch's own kernels.
    """

    @property
    @abstractmethod
    def kinks(self) -> tuple[float, float]:
        """a and b."""

    @property
    @final
    def piecewise_linear(self) -> bool:
        return True

    @property
    @final
    def jumps(self) -> tuple[float, ...]:
        return self.kinks

    @property
    @final
    def rigorous(self) -> bool:
        """True: values and slopes are exact, and the intercepts of the lines include their rounding errors."""
        return True

    @final
    def _kinks(self, z: Tensor) -> tuple[Tensor, Tensor]:
        a, b = (torch.full_like(z, kink) for kink in self.kinks)
        return a, b

    @final
    def value(self, z: Tensor) -> Tensor:
        a, b = self._kinks(z)
        return torch.minimum(torch.maximum(z, a), b)

    @final
    def value_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        return z.map(self.value)

    @final
    def slope_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The hull of the slopes of the pieces that z touches; an end at a kink touches both (Clarke's derivative).

        What is not a number may be on any piece.
        """
        a, b = self._kinks(z.lower)
        steep, level = (z.lower > a) & (z.upper < b), (z.upper < a) | (z.lower > b)
        return Interval(steep.to(a.dtype), (~level).to(a.dtype))

    @final
    def secant_range(self, z: Interval, centre: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The hull of the secants from the ends of `centre` to the ends of z and the kinks in it.

        If an end of `centre` lies in z, or `centre` is not a point, σ' there is included.  As values are exact, three
        roundings give a relative error of less than 2 eps.
        """
        hull = Interval(torch.minimum(z.lower, centre.lower), torch.maximum(z.upper, centre.upper))
        slopes, around = self.slope_range(hull, arithmetic), self.slope_range(centre, arithmetic)
        eps = torch.finfo(z.lower.dtype).eps
        cuts = torch.cat([torch.stack([z.lower, z.upper]), within(z.lower, z.upper, *self.kinks)])
        meets = (z.lower <= centre.upper) & (centre.lower <= z.upper) | ~centre.is_point
        low, high = [torch.where(meets, around.lower, torch.inf)], [torch.where(meets, around.upper, -torch.inf)]
        for c in (centre.lower, centre.upper):
            run, rise = cuts - c, self.value(cuts) - self.value(c)
            secant = rise / torch.where(run == 0, 1.0, run)
            up = torch.nextafter(secant * (1 + 3 * eps), torch.ones_like(secant))
            low.append(
                torch.where(run == 0, torch.inf, torch.where(~run.isfinite(), 0.0, secant * (1 - 3 * eps))).amin(0)
            )
            high.append(torch.where(run == 0, -torch.inf, torch.where(~run.isfinite(), 1.0, up)).amax(0))
        least, most = torch.stack(low).amin(0), torch.stack(high).amax(0)
        return Interval(
            torch.minimum(torch.maximum(least, slopes.lower), slopes.upper),
            torch.maximum(torch.minimum(most, slopes.upper), slopes.lower),
        )

    @final
    def lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """The lines that are tightest at the midpoint m of z.

        The concave envelope of σ is the chord from l to min(u, b), with slope 1 if l >= a, and constant after that.
        The convex envelope is constant up to max(l, a), and then the chord to u.
        """
        a, b = self._kinks(z.lower)
        middle, values = z.lower / 2 + z.upper / 2, self.value_range(z, arithmetic)
        rise = values.upper - values.lower
        left, right = torch.maximum(z.lower, a), torch.minimum(z.upper, b)
        up = _quotient(rise, right - z.lower, middle < b)
        down = _quotient(rise, z.upper - left, middle > a)
        return self._lines(z, (down, up), arithmetic)

    @final
    def parallel_lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """Two lines with the slope of the chord."""
        values = self.value_range(z, arithmetic)
        chord = _quotient(values.upper - values.lower, z.upper - z.lower, z.upper > z.lower)
        return self._lines(z, (chord, chord), arithmetic)

    def _lines(self, z: Interval, slopes: tuple[Tensor, Tensor], arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """σ - s v is extreme at an end or a kink for any slope s; where σ is linear on z, both lines equal σ."""
        a, b = self._kinks(z.lower)
        rising, flat = (z.lower >= a) & (z.upper <= b), (z.upper <= a) | (z.lower >= b)
        bounded = z.lower.isfinite() & z.upper.isfinite()
        points = torch.cat([z.lower.unsqueeze(0), within(z.lower, z.upper, *self.kinks), z.upper.unsqueeze(0)])
        values = arithmetic.exact(self.value(points))
        one, zero, size = torch.ones_like(a), torch.zeros_like(a), self.value_range(z, arithmetic).magnitude
        sides = []
        for wanted in slopes:
            slope = torch.where(rising, one, torch.where(flat | ~bounded, zero, wanted))
            # the slope at an infinite point is 0, and 0 times infinity is NaN
            gaps = values - arithmetic.exact(slope) * arithmetic.exact(torch.where(bounded, points, 0.0))
            sides.append((slope, gaps))
        (low, least), (high, most) = sides
        bottom = torch.where(rising, zero, least.lower().amin(0))
        top = torch.where(rising, zero, most.upper().amax(0))
        return LinearRelaxation(*(t.unsqueeze(1) for t in (low, bottom, high, top, size)))


def _quotient(rise: Tensor, run: Tensor, wanted: Tensor) -> Tensor:
    """rise / run where `wanted` holds and run is positive and finite; 0 elsewhere."""
    plain = wanted & (run > 0) & run.isfinite()
    return torch.where(plain, rise, 0.0) / torch.where(plain, run, 1.0)


@final
@dataclass(frozen=True)
class HardTanh(AbstractClamp):
    """min(max(z, low), high)."""

    low: float = -1.0
    high: float = 1.0
    name: ClassVar[str] = "hard_tanh"

    def __post_init__(self) -> None:
        if not (isfinite(self.low) and isfinite(self.high) and self.low < self.high):
            raise ValueError(f"hard tanh between {self.low} and {self.high}; it needs two finite numbers, low < high")

    @property
    def kinks(self) -> tuple[float, float]:
        return self.low, self.high

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        if max(abs(self.low), abs(self.high)) > torch.finfo(dtype).max:
            raise ValueError(f"hard tanh between {self.low} and {self.high}, which {dtype} cannot represent")
        return self

    def rounded(self, dtype: torch.dtype) -> Self:
        found = object.__new__(type(self))  # without the check, as the ends may be equal now
        for name in ("low", "high"):
            object.__setattr__(found, name, float(torch.tensor(getattr(self, name), dtype=dtype)))
        return found

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(), cls(-0.3, 2.1), cls(-3.0, -1.0), cls(0.1, 0.1 + 1e-9)]


@final
@dataclass(frozen=True)
class ReLU6(AbstractClamp):
    """min(max(z, 0), 6)."""

    name: ClassVar[str] = "relu6"

    @property
    def kinks(self) -> tuple[float, float]:
        return 0.0, 6.0

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


@torch_ops.reads("aten.hardtanh.default", "aten.hardtanh_.default")
def _hard_tanh(x: Expression, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    return x.activate(ReLU6() if (min_val, max_val) == (0, 6) else HardTanh(float(min_val), float(max_val)))


@torch_ops.reads("aten.relu6.default", "aten.relu6_.default")
def _relu6(x: Expression) -> Any:
    return x.activate(ReLU6())

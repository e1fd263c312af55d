"""Powers of arguments that are known not to lie below a positive number, such as a variance plus a constant."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from recurjac.activations.base import far, within
from recurjac.activations.domain import enclosed_power
from recurjac.activations.halves import power_of, roundings_of_power
from recurjac.activations.smooth import AbstractSmooth
from recurjac.arithmetic import AbstractArithmetic, Enclosure, Interval
from recurjac.errors import InvalidNetwork
from recurjac.relaxations import LinearRelaxation

_WIDEST = 1e3
"""Lines of the slope are searched for on intervals whose ends differ at most by this factor."""


@final
@dataclass(frozen=True)
class FlooredPower(AbstractSmooth):
    """max(z, least)^a with a < 1 and least > 0, for arguments of at least `least`; a range below it is a relaxation's.

    It is finite everywhere; `least` is rounded to the dtype of z (docs/mathematics.md, §3.10).
    """

    exponent: float
    least: float
    name: ClassVar[str] = "floored_power"

    def __post_init__(self) -> None:
        if not (-4 <= self.exponent < 1 and self.exponent != 0):
            raise ValueError(
                f"a floored power with the exponent {self.exponent}; it must be at least -4, below 1, not 0"
            )
        if not 1e-30 <= self.least < math.inf:
            raise ValueError(f"a power of at least {self.least}; it must be at least 1e-30, and finite")

    @property
    def roundings(self) -> tuple[int, int, int] | None:
        return roundings_of_power(self.exponent)

    def turn_errors(self, turns: Tensor) -> Tensor:
        """0: `least` is exact in the dtype, and the slope jumps there only."""
        return torch.zeros_like(turns)

    def enclosed_value(self, z: Tensor) -> Enclosure:
        return super().enclosed_value(z) or self._enclosed(z, 0)

    def enclosed_slope(self, z: Tensor) -> Enclosure:
        return self.enclosed_slopes_beside(z)[1]

    def enclosed_slopes_beside(self, z: Tensor) -> tuple[Enclosure, Enclosure]:
        found = super().enclosed_slopes_beside(z) if self.roundings is not None else None
        if found is not None:
            return found
        steep, least = self._enclosed(z, 1).times(self.exponent), self._least(z)
        flat = Enclosure.number(0.0, z)
        return flat.where(z <= least, steep), flat.where(z < least, steep)

    def enclosed_curvature(self, z: Tensor) -> Enclosure:
        found = super().enclosed_curvature(z)
        if found is not None:
            return found
        factor = Enclosure.number(self.exponent, z).plus(-1.0).times(self.exponent)
        return Enclosure.number(0.0, z).where(z < self._least(z), self._enclosed(z, 2) * factor)

    def _enclosed(self, z: Tensor, less: int) -> Enclosure:
        return enclosed_power(torch.maximum(z, self._least(z)), self.exponent, less)

    def _least(self, like: Tensor) -> Tensor:
        return like.new_tensor(self.least)

    def value(self, z: Tensor) -> Tensor:
        return _finite_power(z.clamp(min=self.least), self.exponent)

    def slope(self, z: Tensor) -> Tensor:
        return torch.where(z < self.least, self._flat, self._right(z))

    def slopes_beside(self, z: Tensor) -> tuple[Tensor, Tensor]:
        right = torch.where(z < self.least, self._flat, self._right(z))
        return torch.where(z > self.least, right, torch.where(z.isnan(), torch.nan, self._flat)), right

    @property
    def _flat(self) -> float:
        """The slope below `least`, a 0 with the sign of all other slopes."""
        return math.copysign(0.0, self.exponent)

    def slope_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return within(lower, upper, self.least)

    def curvature(self, z: Tensor) -> Tensor:
        bend = self.exponent * (self.exponent - 1) * _finite_power(z.clamp(min=self.least), self.exponent - 2)
        return torch.where(z < self.least, 0.0, bend)

    def curvature_beside(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Infinite at `least`, where σ' jumps, so that ranges that contain it do not bound σ''."""
        bend = self.curvature(z)
        return torch.where(z == self.least, -torch.inf, bend), torch.where(z == self.least, torch.inf, bend)

    def curvature_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return within(lower, upper, self.least)

    def core(self, z: Interval) -> Interval:
        most = far(z.lower)
        return z.map(lambda end: end.clamp(min=-most, max=most))

    def searchable(self, z: Interval) -> Interval:
        """The part above the jump of the slope, the ends of which differ by a limited factor."""
        least = self.least * (1 + 2.0**-20)
        upper = z.upper.clamp(min=least)
        return Interval.unchecked(torch.maximum(z.lower.clamp(min=least), upper / _WIDEST), upper)

    def lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """The chord and a tangent of the part above `least`; the tangent is moved until it holds below it as well."""
        core = self.core(z)
        part = core.map(lambda end: end.clamp(min=self.least))
        chord, flat = self.chord(part, arithmetic), core.upper <= self.least
        bottom, top = self.intercepts(chord, part.lower, part.upper)
        middle = part.lower / 2 + part.upper / 2
        tangent = self._right(middle)
        chord, tangent = (torch.where(flat, 0.0, t) for t in (chord, tangent))
        low, high = self.intercepts(tangent, core.lower, middle)
        if self.exponent > 0:
            bottom = torch.where(flat, self.value(part.lower), bottom)
            return self._over(z, arithmetic, (chord, bottom, middle), (tangent, high, middle))
        top = torch.where(flat, self.value(part.lower), top)
        return self._over(z, arithmetic, (tangent, low, middle), (chord, top, middle))

    def _right(self, z: Tensor) -> Tensor:
        """The slope above `least`."""
        return self.exponent * _finite_power(z.clamp(min=self.least), self.exponent - 1)

    @classmethod
    def named(cls, parameters: Mapping[str, Any]) -> Self:
        if not {"exponent", "least"} <= set(parameters):
            raise InvalidNetwork("a floored power needs its exponent and its least argument; add them to the file")
        return cls(float(parameters["exponent"]), float(parameters["least"]))

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(-0.5, 0.1), cls(0.5, 0.1), cls(-1.0, 0.1)]


def _finite_power(z: Tensor, exponent: float) -> Tensor:
    """z^exponent for z > 0, with its limit at infinity."""
    infinite = z == torch.inf
    known = power_of(torch.where(infinite, 1.0, z), exponent)
    return torch.where(infinite, torch.inf if exponent > 0 else 0.0, known)

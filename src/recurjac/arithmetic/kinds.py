"""The two arithmetics: plain floating point, and midpoint-radius."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic.ball import Ball, rows_times
from recurjac.arithmetic.base import AbstractArithmetic, check_memory
from recurjac.arithmetic.interval import Interval, no_nan
from recurjac.arithmetic.rounding import growth_of, tiny_of, zero_of


@final
@dataclass(frozen=True)
class Fast(AbstractArithmetic):
    """Plain floating point: rounding is not covered, so a result is certified only in exact arithmetic."""

    memory: int | None = None

    def __post_init__(self) -> None:
        check_memory("Fast", self.memory)

    @property
    def rigorous(self) -> bool:
        return False

    def exact(self, tensor: Tensor) -> Ball:
        return Ball(tensor, None)

    def ball(self, mid: Tensor, rad: Tensor) -> Ball:
        return Ball(mid, None)

    def weigh(self, weights: Tensor, numbers: Tensor) -> Ball:
        return Ball(rows_times(weights.flatten(3), numbers.flatten(2)), None)

    def at_least(self, computed: Tensor, operations: int) -> Tensor:
        return computed

    def at_most(self, computed: Tensor, operations: int) -> Tensor:
        return computed

    def rounded(self, computed: Tensor, operations: int) -> Interval:
        return Interval.unchecked(computed, computed)

    def crossed(self, lower: Tensor, upper: Tensor) -> Interval:
        return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))


@final
@dataclass(frozen=True)
class Rigorous(AbstractArithmetic):
    """Midpoint-radius arithmetic: every result covers the rounding of its own computation, in float32 or float64.

    Requires matrix products in full precision (no TF32 or bfloat16), which `check_matmul` checks.
    """

    memory: int | None = None

    def __post_init__(self) -> None:
        check_memory("Rigorous", self.memory)

    @property
    def rigorous(self) -> bool:
        return True

    def exact(self, tensor: Tensor) -> Ball:
        return Ball(tensor, zero_of(tensor.dtype, tensor.device))

    def ball(self, mid: Tensor, rad: Tensor) -> Ball:
        return Ball(mid, rad.detach())

    def weigh(self, weights: Tensor, numbers: Tensor) -> Ball:
        return self.exact(weights).dot(self.exact(numbers))

    def at_least(self, computed: Tensor, operations: int) -> Tensor:
        # two more roundings, of this product and of this sum, are covered by what is added for four
        grown, underflow = growth_of(operations + 4, computed.dtype), (operations + 2) * tiny_of(computed)
        return torch.add(computed * grown, computed.detach().sign(), alpha=underflow).nan_to_num(torch.inf, torch.inf)

    def at_most(self, computed: Tensor, operations: int) -> Tensor:
        excess = self.at_least(computed, operations + 4) - computed
        return torch.where(computed.isfinite(), (computed - excess).clamp(min=0), 0.0)

    def rounded(self, computed: Tensor, operations: int) -> Interval:
        if operations == 0:
            return Interval.unchecked(no_nan(computed, -torch.inf), no_nan(computed, torch.inf))
        size, negative = computed.abs(), computed.detach().signbit()
        least, unknown = self.at_most(size, operations), computed.isnan()
        most = torch.where(size == 0, (operations + 1) * tiny_of(size), self.at_least(size, operations))
        lower, upper = torch.where(negative, -most, least), torch.where(negative, -least, most)
        return Interval.unchecked(torch.where(unknown, -torch.inf, lower), torch.where(unknown, torch.inf, upper))

    def crossed(self, lower: Tensor, upper: Tensor) -> Interval:
        return Interval(lower, upper)


@final
@dataclass(frozen=True)
class Conditional(AbstractArithmetic):
    """Another arithmetic, for bounds over a set that may be empty; proved bounds may then cross without an error.

    Any statement about all members of the empty set is true, so the interval between crossing bounds is valid.
    """

    arithmetic: AbstractArithmetic = field(default_factory=Rigorous)

    @property
    def memory(self) -> int | None:  # type: ignore[override]  # (a field elsewhere)
        return self.arithmetic.memory

    @property
    def rigorous(self) -> bool:
        return self.arithmetic.rigorous

    def exact(self, tensor: Tensor) -> Ball:
        return self.arithmetic.exact(tensor)

    def ball(self, mid: Tensor, rad: Tensor) -> Ball:
        return self.arithmetic.ball(mid, rad)

    def weigh(self, weights: Tensor, numbers: Tensor) -> Ball:
        return self.arithmetic.weigh(weights, numbers)

    def at_least(self, computed: Tensor, operations: int) -> Tensor:
        return self.arithmetic.at_least(computed, operations)

    def at_most(self, computed: Tensor, operations: int) -> Tensor:
        return self.arithmetic.at_most(computed, operations)

    def rounded(self, computed: Tensor, operations: int) -> Interval:
        return self.arithmetic.rounded(computed, operations)

    def crossed(self, lower: Tensor, upper: Tensor) -> Interval:
        return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))

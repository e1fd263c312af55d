"""The two arithmetics: plain floating point, and midpoint-radius."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic.ball import Ball, rows_times
from recurjac.arithmetic.base import AbstractArithmetic
from recurjac.arithmetic.interval import Interval
from recurjac.arithmetic.rounding import gamma_of, grow, growth_of, tiny_of, zero_of


@final
@dataclass(frozen=True)
class Fast(AbstractArithmetic):
    """Plain floating point: rounding is not covered, so a result is certified only in exact arithmetic."""

    memory: int | None = None

    @property
    def rigorous(self) -> bool:
        return False

    def exact(self, tensor: Tensor) -> Ball:
        return Ball(tensor, None)

    def ball(self, mid: Tensor, rad: Tensor) -> Ball:
        return Ball(mid, None)

    def weigh(self, weights: Tensor, numbers: Tensor) -> Ball:
        return Ball(rows_times(weights.flatten(3), numbers.flatten(2)), None)

    def around_(self, forms: Ball, centre: Tensor, reach: Tensor) -> Ball:
        flat, x, r = forms.mid.flatten(3), centre.flatten(1).unsqueeze(1), reach.flatten(1).unsqueeze(1)
        middle = rows_times(flat, x)
        return Ball(middle + rows_times(flat.abs() if middle.requires_grad else flat.abs_(), r), None)

    def at_least(self, computed: Tensor, operations: int) -> Tensor:
        return computed

    def at_most(self, computed: Tensor, operations: int) -> Tensor:
        return computed

    def crossed(self, lower: Tensor, upper: Tensor) -> Interval:
        return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))


@final
@dataclass(frozen=True)
class Rigorous(AbstractArithmetic):
    """Midpoint-radius arithmetic: every result covers the rounding of its own computation, in float32 or float64.

    Requires matrix products in full precision (no TF32 or bfloat16), which `check_matmul` checks.
    """

    memory: int | None = None

    @property
    def rigorous(self) -> bool:
        return True

    def exact(self, tensor: Tensor) -> Ball:
        return Ball(tensor, zero_of(tensor.dtype, tensor.device))

    def ball(self, mid: Tensor, rad: Tensor) -> Ball:
        return Ball(mid, rad.detach())

    def weigh(self, weights: Tensor, numbers: Tensor) -> Ball:
        return self.exact(weights).dot(self.exact(numbers))

    def around_(self, forms: Ball, centre: Tensor, reach: Tensor) -> Ball:
        """Off by gamma (|c|·|x| + |c|·r), by one rounding of the sum, and by rad·(|x| + r)."""
        flat, x, r = forms.mid.flatten(3), centre.flatten(1).unsqueeze(1), reach.flatten(1).unsqueeze(1)
        n, middle = flat.shape[-1], rows_times(flat, x)
        size = flat.abs() if middle.requires_grad else flat.abs_()
        spread = rows_times(size, r)
        mid = middle + spread
        with torch.no_grad():
            gamma, info = gamma_of(n, mid.dtype), torch.finfo(mid.dtype)
            rad = rows_times(size, x.abs()).add_(spread).mul_(gamma).add_(mid.abs(), alpha=info.eps / 2)
            active = size.amax(-1)
            if forms.rad is not None and not forms.exact:
                off = forms.rad.expand_as(forms.mid).flatten(3)
                rad += rows_times(off, x.abs() + r)
                active = active + off.amax(-1)
            some = (x.abs() + r).amax(-1).sign_().unsqueeze(-1)
            rad.mul_(growth_of(n + 10, mid.dtype)).addcmul_(active.sign_(), some, value=(4 * n + 5) * info.tiny)
        return Ball(mid, rad)

    def at_least(self, computed: Tensor, operations: int) -> Tensor:
        radius = grow(computed.detach(), operations) - computed.detach()
        underflow = (computed.detach() > 0).to(computed.dtype) * ((operations + 1) * tiny_of(computed))
        return Ball(computed, grow(radius, 2) + underflow).upper()

    def at_most(self, computed: Tensor, operations: int) -> Tensor:
        excess = self.at_least(computed, operations + 4) - computed
        return torch.where(computed.isfinite(), (computed - excess).clamp(min=0), 0.0)

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

    def around_(self, forms: Ball, centre: Tensor, reach: Tensor) -> Ball:
        return self.arithmetic.around_(forms, centre, reach)

    def at_least(self, computed: Tensor, operations: int) -> Tensor:
        return self.arithmetic.at_least(computed, operations)

    def at_most(self, computed: Tensor, operations: int) -> Tensor:
        return self.arithmetic.at_most(computed, operations)

    def crossed(self, lower: Tensor, upper: Tensor) -> Interval:
        return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))

"""Lines below and above a function of one variable, and the one substitution that every sweep is made of.

CROWN replaces w = sigma(z) by lines in z; RecurJac replaces w = y * delta by lines in y.  Either way
sum_i c_i w_i is bounded from above by taking the upper line where c_i > 0 and the lower one where c_i < 0
(CROWN, arXiv:1811.00866, Theorem 3.2; RecurJac, arXiv:1810.11783, Section 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Value


@final
@dataclass(frozen=True)
class Lines:
    """lower_slope v + lower_intercept <= w <= upper_slope v + upper_intercept, and |w| <= size, for each neuron.

    All are of shape (B, K, *node), either of B and K possibly 1; intercepts and size may be infinite, slopes not.
    """

    lower_slope: Tensor
    lower_intercept: Tensor
    upper_slope: Tensor
    upper_intercept: Tensor
    size: Tensor

    @classmethod
    def proportional(cls, slope: Tensor) -> Lines:
        """w = slope * v exactly."""
        zero = torch.zeros_like(slope)
        return cls(slope, zero, slope, zero, torch.full_like(slope, torch.inf))

    def at(self, index: Tensor) -> Lines:
        """The lines of the neurons at the flat positions `index`, as a vector."""
        every = (self.lower_slope, self.lower_intercept, self.upper_slope, self.upper_intercept, self.size)
        return Lines(*(t.flatten(2)[:, :, index] for t in every))

    @cached_property
    def exact(self) -> Tensor:
        """True where both lines are one line through the origin, so that w is known from v."""
        return (self.lower_slope == self.upper_slope) & (self.lower_intercept == 0) & (self.upper_intercept == 0)

    @cached_property
    def all_exact(self) -> bool:
        return bool(self.exact.all())

    @cached_property
    def all_ones(self) -> bool:
        """Whether w = v for every neuron."""
        return self.all_exact and bool((self.upper_slope == 1).all())


def substitute(forms: Value, lines: Lines, arithmetic: AbstractArithmetic) -> tuple[Value, Value | None]:
    """Coefficients on v and a constant that bound sum_i c_i w_i from above, for forms c of shape (B, K, R, *node).

    Where w is not known exactly, a rounding error e of c adds e w to the form, which the constant takes in as
    |e| size; so the coefficients that go on are exact there and the choice of line by their sign is the right one.
    """
    if lines.all_ones:
        return forms, None
    if lines.all_exact:
        return forms * arithmetic.exact(lines.upper_slope.unsqueeze(2)), None
    exact = lines.exact.unsqueeze(2)
    carried = Value(forms.mid, None if forms.rad is None else torch.where(exact, forms.rad, 0.0))
    slope = torch.where(forms.mid > 0, lines.upper_slope.unsqueeze(2), lines.lower_slope.unsqueeze(2))
    constant = _weigh(forms.mid.clamp(min=0), lines.upper_intercept, arithmetic)
    constant = constant - _weigh((-forms.mid).clamp(min=0), lines.lower_intercept, arithmetic)
    if forms.rad is not None:
        lost = torch.where(exact, 0.0, forms.rad.expand_as(forms.mid))
        constant = constant + arithmetic.exact(_weigh(lost, lines.size, arithmetic).upper())
    return carried * arithmetic.exact(slope), constant


def _weigh(weights: Tensor, numbers: Tensor, arithmetic: AbstractArithmetic) -> Value:
    """The sum over the node of non-negative weights times numbers of one sign, 0 times infinity being 0."""
    infinite = numbers.isinf()
    if not bool(infinite.any()):
        return arithmetic.exact(weights).dot(arithmetic.exact(numbers))
    finite = arithmetic.exact(weights).dot(arithmetic.exact(torch.where(infinite, 0.0, numbers)))
    met = torch.einsum(
        "bkrn,bkn->bkr", (weights > 0).to(weights.dtype).flatten(3), infinite.to(weights.dtype).flatten(2)
    )
    sign = torch.where(infinite, numbers, 0.0).sum().sign()
    return Value(torch.where(met > 0, sign * torch.inf, finite.mid), finite.rad)

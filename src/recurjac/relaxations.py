"""Lines below and above a function of one variable, and the substitution that every sweep applies.

CROWN replaces w = sigma(z) by lines in z; RecurJac replaces w = y * delta by lines in y.  In both cases,
sum_i c_i w_i is bounded from above by the upper line where c_i > 0 and the lower line where c_i < 0
(CROWN, arXiv:1811.00866, Theorem 3.2; RecurJac, arXiv:1810.11783, Section 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, reduce
from math import isfinite
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import (
    AbstractArithmetic,
    Ball,
    Charges,
    Loss,
    Signed,
    Slopes,
    nonnegative_sum,
    paid,
    rows_times,
)


@final
@dataclass(frozen=True)
class LinearRelaxation:
    """lower_slope v + lower_intercept <= w <= upper_slope v + upper_intercept, and |w| <= size, for each neuron.

    All have shape (B, K, *node), where B and K may be 1.  Intercepts and size may be infinite, but slopes may not.
    """

    lower_slope: Tensor
    lower_intercept: Tensor
    upper_slope: Tensor
    upper_intercept: Tensor
    size: Tensor

    @classmethod
    def proportional(cls, slope: Tensor) -> LinearRelaxation:
        """The exact relation w = slope * v."""
        zero = torch.zeros_like(slope)
        return cls(slope, zero, slope, zero, torch.full_like(slope, torch.inf))

    def at(self, index: Tensor) -> LinearRelaxation:
        """The lines of the neurons at the flat positions `index`, as a vector."""
        every = (self.lower_slope, self.lower_intercept, self.upper_slope, self.upper_intercept, self.size)
        return LinearRelaxation(*(t.flatten(2).index_select(2, index) for t in every))

    @cached_property
    def exact(self) -> Tensor:
        """True where both lines are the same line through the origin, so that v determines w."""
        return (self.lower_slope == self.upper_slope) & (self.lower_intercept == 0) & (self.upper_intercept == 0)

    @property
    def zero(self) -> Tensor:
        """True where w = 0."""
        return self.exact & (self.upper_slope == 0)

    @cached_property
    def all_exact(self) -> bool:
        return self.above is None and self.below is None and bool(self.exact.all())

    @cached_property
    def all_ones(self) -> bool:
        """Whether w = v for every neuron."""
        return self.all_exact and bool((self.upper_slope == 1).all())

    @cached_property
    def all_constant(self) -> bool:
        """Whether both lines of every neuron are constants, so that forms end here; False if a line needs gradients."""
        return not (self.live or bool(self.upper_slope.any()) or bool(self.lower_slope.any()))

    @cached_property
    def above(self) -> Intercepts | None:
        """The intercepts of the upper lines; None if all are 0."""
        return Intercepts.of(self.upper_intercept)

    @cached_property
    def below(self) -> Intercepts | None:
        """The intercepts of the lower lines; None if all are 0."""
        return Intercepts.of(self.lower_intercept)

    @cached_property
    def sizes(self) -> Intercepts | None:
        """The sizes where w is not known exactly; None if all are 0."""
        return Intercepts.of(torch.where(self.exact, 0.0, self.size))

    @cached_property
    def slopes(self) -> Slopes:
        """The slopes in a shape that broadcasts with forms: (B, K, 1, *node)."""
        return Slopes(self.upper_slope.unsqueeze(2), self.lower_slope.unsqueeze(2))

    @cached_property
    def known(self) -> Tensor | None:
        """The absolute slope where w is known exactly, and 0 elsewhere: (B, K, 1, *node), or None if nowhere."""
        if not bool(self.exact.any()):
            return None
        return torch.where(self.exact, self.upper_slope.detach().abs(), 0.0).unsqueeze(2)

    @cached_property
    def live(self) -> bool:
        """Whether some line requires a gradient."""
        every = (self.lower_slope, self.lower_intercept, self.upper_slope, self.upper_intercept)
        return any(t.requires_grad for t in every)

    def constant(self, forms: Signed, arithmetic: AbstractArithmetic) -> Ball | None:
        """The contribution of the intercepts to forms, plus the size |w| times the radius of the forms; None if 0."""
        sizes = None if forms.rad is None else self.sizes
        pairs = ((forms.positive, self.above), (forms.negative, self.below), (forms.rad, sizes))
        met = [(w, i) for w, i in pairs if w is not None and i is not None]
        if arithmetic.rigorous and met and self.outward and all(i.infinite is None for _, i in met):
            return nonnegative_sum([(w.flatten(3), i.finite.flatten(2)) for w, i in met])
        return reduce(Ball.__add__, (i.weighed(w, arithmetic) for w, i in met)) if met else None

    @cached_property
    def outward(self) -> bool:
        """Whether upper intercepts are >= 0 and lower intercepts are <= 0, so that every term that they add is >= 0."""
        return bool((self.upper_intercept >= 0).all()) and bool((self.lower_intercept <= 0).all())


@final
@dataclass(frozen=True)
class Intercepts:
    """Numbers (B, K, *node) that are finite + sign * infinity where `infinite`; all infinite ones have one sign."""

    finite: Tensor
    infinite: Tensor | None
    sign: float

    @classmethod
    def of(cls, numbers: Tensor) -> Intercepts | None:
        total = torch.linalg.vector_norm(numbers.detach(), 1).item()  # 0 (finite) only if all are 0 (finite)
        if total == 0:
            return None
        if isfinite(total) or not bool((infinite := numbers.isinf()).any()):
            return cls(numbers, None, 1.0)
        sign = float(torch.where(infinite, numbers.detach(), 0.0).sum().sign())
        return cls(torch.where(infinite, 0.0, numbers), infinite, sign)

    def weighed(self, weights: Tensor, arithmetic: AbstractArithmetic) -> Ball:
        """The sum over the node of weights (all of one sign) times these numbers; 0 times infinity is 0."""
        found = arithmetic.weigh(weights, self.finite)
        if self.infinite is None:
            return found
        met = torch.einsum(
            "bkrn,bkn->bkr", weights.detach().sign().flatten(3), self.infinite.to(weights.dtype).flatten(2)
        )
        return Ball(torch.where(met == 0, found.mid, self.sign * met.sign() * torch.inf), found.rad)


def relax_(forms: Ball, lines: LinearRelaxation, arithmetic: AbstractArithmetic) -> tuple[Ball, Ball | None]:
    """Coefficients on v and a constant that bound sum_i c_i w_i from above, for forms c of shape (B, K, R, *node).

    Where w is not known exactly, a rounding error e of c adds e w to the form, which the constant covers by |e| size.
    The coefficients that continue are therefore exact there, and choosing the line by their sign is correct.
    The result may use the memory of the forms, so they must not be used afterwards, unless a derivative needs them.
    """
    if lines.all_ones:
        return forms, None
    if lines.all_exact:
        return forms * arithmetic.exact(lines.upper_slope.unsqueeze(2)), None
    parts = Signed.of_(forms, lines.live)
    constant = lines.constant(parts, arithmetic)
    return parts.times_(lines.slopes, None if parts.rad is None else lines.known), constant


@final
@dataclass(frozen=True)
class Absorption:
    """The lines of a node, None if forms pass unchanged, and what rounding costs forms that are exact as stored.

    loss: that of the coefficients that continue, on what they are multiplied with later, and of their own rounding.
    """

    lines: LinearRelaxation | None
    loss: Loss

    def relax_(self, forms: Ball, arithmetic: AbstractArithmetic) -> tuple[Ball, Ball | None, Tensor]:
        """`relax_` for forms that are exact as stored and stay so; the last result is what they pay, (B, K, R)."""
        lines = self.lines
        if lines is None or lines.all_ones:
            return forms, None, paid([(forms.size, self.loss)])
        if lines.all_exact:
            found = paid([(forms.size, self._exact)])
            return Ball(forms.mid * lines.upper_slope.unsqueeze(2), None), None, found
        parts = Signed.of_(forms, lines.live)
        constants, found = self._charges.met(parts.positive.detach().flatten(3), parts.negative.detach().flatten(3))
        if not self._finite:
            constant = lines.constant(parts, arithmetic)
        elif parts.live:
            met = [(w, i) for w, i in ((parts.positive, lines.above), (parts.negative, lines.below)) if i is not None]
            sums = [rows_times(w.flatten(3), i.finite.flatten(2)) for w, i in met]
            constant = arithmetic.exact(reduce(torch.add, sums)) if sums else None
        else:
            constant = arithmetic.exact(constants)
        return parts.times_(lines.slopes, None), constant, found

    @cached_property
    def _finite(self) -> bool:
        """Whether all intercepts are finite, so that one inner product with them has no limits."""
        return self.lines is not None and all(
            i is None or i.infinite is None for i in (self.lines.above, self.lines.below)
        )

    @cached_property
    def _exact(self) -> Loss:
        """What is lost where all lines are exact."""
        assert self.lines is not None  # noqa: S101  # (for the type checker)
        return self.loss.times(self.lines.upper_slope.detach().flatten(2))

    @cached_property
    def _charges(self) -> Charges:
        lines = self.lines
        assert lines is not None  # noqa: S101  # (for the type checker)
        slopes = lines.upper_slope.detach().flatten(2), lines.lower_slope.detach().flatten(2)
        above, below = (
            None if i is None or not self._finite else i.finite.detach().flatten(2) for i in (lines.above, lines.below)
        )
        return Charges.of(self.loss, slopes, (above, below))

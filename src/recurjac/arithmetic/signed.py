"""Forms split by sign, and their product with one slope where they are positive and another where they are negative."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic.ball import Ball, broadcasts
from recurjac.arithmetic.rounding import growth_of, least_of, negligible, tiny_of


@final
@dataclass(frozen=True)
class Slopes:
    """The slopes that forms are multiplied with: one where they are positive, another where they are negative."""

    above: Tensor
    below: Tensor

    @cached_property
    def least(self) -> float:
        """The smallest magnitude of a nonzero slope; infinite if there is none."""
        return min(least_of(torch.where(s == 0, torch.inf, s.detach().abs())) for s in (self.above, self.below))

    @cached_property
    def tiny_above(self) -> Tensor:
        """The smallest normal number where the slope is not 0."""
        return (self.above.detach() != 0).to(self.above.dtype) * tiny_of(self.above)

    @cached_property
    def minus_tiny_below(self) -> Tensor:
        return (self.below.detach() != 0).to(self.below.dtype) * -tiny_of(self.below)


@final
@dataclass(frozen=True)
class Signed:
    """Forms with the midpoint `positive` + `negative`, one of which is 0 at each entry, and the radius `rad`.

    size: |midpoint|, where rounding is covered.  rad: None where rounding is not covered or the forms are exact.
    live: whether a derivative needs the forms; otherwise their memory is reused.
    """

    positive: Tensor
    negative: Tensor
    size: Tensor | None
    rad: Tensor | None
    live: bool

    @classmethod
    def of_(cls, forms: Ball, live: bool) -> Signed:
        """Uses the memory of the forms, which are invalid afterwards, unless they or their factors are live."""
        live = live or forms.mid.requires_grad
        size = None if forms.rad is None else forms.size  # before that memory is used
        positive = forms.mid.clamp(min=0)
        negative = forms.mid.clamp(max=0) if live else forms.mid.clamp_(max=0)
        lost = None if forms.rad is None or forms.exact else forms.rad.expand_as(forms.mid)
        return cls(positive, negative, size, lost, live)

    def times_(self, slopes: Slopes, known: Tensor | None) -> Ball:
        """The midpoint times the slope for its sign, in this object's memory as in `of_`.

        known: the absolute slope where both slopes are the same, 0 elsewhere; None if they are the same nowhere.  Only
        there is the radius included; elsewhere the caller handles it.  Underflow changes a product by less than the
        smallest number, hence by less than a factor.
        """
        if self.size is None:
            return Ball(self._product_(slopes), None)
        with torch.no_grad():
            eps, known = torch.finfo(self.size.dtype).eps, None if self.rad is None else known
            small = not negligible(tiny_of(self.size), least_of(self.size) * slopes.least * eps / 2, self.size.dtype)
            underflow = self._underflow(slopes, known) if small else None
        mid = self._product_(slopes)
        with torch.no_grad():
            room = None if self.live or mid.shape != self.size.shape else self.size
            rad, growth = torch.abs(mid, out=room), growth_of(8, mid.dtype)
            rad.mul_(eps / 2 * growth)  # a power of two times a number: exact
            if known is not None and self.rad is not None:
                rad.addcmul_(self.rad, known, value=growth)
            return Ball(mid, rad if underflow is None else rad.add_(underflow, alpha=growth))

    def _product_(self, slopes: Slopes) -> Tensor:
        if self.live or not broadcasts(slopes.above.shape, self.positive.shape):
            return torch.addcmul(self.positive * slopes.above, self.negative, slopes.below)  # one of the terms is 0
        return self.positive.mul_(slopes.above).addcmul_(self.negative, slopes.below)

    def _underflow(self, slopes: Slopes, known: Tensor | None) -> Tensor:
        """An upper bound of what underflow may lose."""
        lost = torch.minimum(self.positive, slopes.tiny_above)
        lost = lost - torch.maximum(self.negative, slopes.minus_tiny_below)
        return lost if known is None or self.rad is None else lost.add(torch.minimum(self.rad, slopes.tiny_above))

"""All operations that overwrite an argument: their names end in an underscore, and the first argument is overwritten.

That argument is invalid afterwards, and its caller must own its memory: the caller computed it, or received it as such
an argument; no tensor that is used later is a view of it (`shares_memory`), and its entries do not share memory with
each other.  `propagation.sweep` owns the forms that arrive at a node, because it copies them where an operator returned
a view.  `operators.interval_matrix.total` owns a sum of two terms.  `relax_`, `support_function_` and `plus_onto_`
pass on what they receive.  If a derivative needs the argument, it is kept and the result uses new memory; `plus_at_`
and `plus_and_minus_` are recorded by autograd instead.

All other functions overwrite only what they have just computed.  For products, `over_underflow_` does this.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic.ball import Ball, broadcasts, matrix_times, rows_times
from recurjac.arithmetic.rounding import (
    gamma_of,
    growth_of,
    least_nonzero,
    least_of,
    negligible,
    over_underflow_,
    tiny_of,
)


def shares_memory(a: Ball, b: Ball) -> bool:
    """Whether overwriting one may change the other."""
    parts = [(a.mid, b.mid)]
    if a.rad is not None and b.rad is not None and not b.exact:
        parts.append((a.rad, b.rad))
    return any(x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr() for x, y in parts)


def plus_at_(value: Ball, rows: slice, other: Ball) -> Ball:
    """The value with `other` added to some of its rows."""
    total = Ball(value.mid[rows], value.rad if value.rad is None or value.exact else value.rad[rows]) + other
    value.mid[rows] = total.mid
    if value.rad is None or total.rad is None:
        return Ball(value.mid, None)
    rad = torch.zeros_like(value.mid.detach()) if value.exact else value.rad
    rad[rows] = total.rad
    return Ball(value.mid, rad)


def plus_entries_(value: Ball, places: Tensor, others: Tensor, sign: float) -> Ball:
    """The value (..., *node), contiguous and without a radius, plus `sign` times others (..., m) at some entries.

    places: flat positions in the node, each once.  sign: 1 or -1.
    """
    value.mid.view(*others.shape[:-1], -1).index_add_(-1, places, others, alpha=sign)
    return Ball(value.mid, None)


def plus_and_minus_(value: Ball, other: Ball) -> Ball:
    """The value (B, K, 2 R, *node) plus `other` (B, K, R, *node) in its first half and minus it in the second."""
    r = other.shape[2]
    value.mid[:, :, :r].add_(other.mid)  # (`+=` would copy the half onto itself)
    value.mid[:, :, r:].sub_(other.mid)
    if value.rad is None or other.rad is None:
        return Ball(value.mid, None)
    with torch.no_grad():
        rad = value.mid.abs().mul_(torch.finfo(value.mid.dtype).eps / 2).add_(value.rad)
        if not other.exact:
            rad[:, :, :r].add_(other.rad)
            rad[:, :, r:].add_(other.rad)
        return Ball(value.mid, rad.mul_(growth_of(5, rad.dtype)))


def plus_matmul_(value: Ball, forms: Ball, matrix: Ball) -> Ball:
    """The value (..., m) plus forms (..., n) times the transpose of a matrix (m, n): one sum of n + 1 terms."""
    live = any(t.requires_grad for t in (value.mid, forms.mid, matrix.mid))
    lead = forms.shape[:-1]
    if live or forms.shape[-1] == 0 or not broadcasts(value.shape[:-1], lead):
        return value + forms.matmul(matrix)
    if value.shape[:-1] != lead:
        return plus_matmul_(value.map(lambda t: t.expand(*lead, -1).clone()), forms, matrix)
    if value.rad is None or forms.rad is None or matrix.rad is None:
        return Ball(_plus_product_(value.mid, forms.mid, matrix.mid), None)
    n, dtype = forms.shape[-1] + 1, value.mid.dtype
    gamma = gamma_of(n, dtype)
    own, a, b = value.mid.abs(), forms.cover, matrix.cover
    own = own if value.exact else own.add_(value.rad, alpha=1 / gamma)
    mid = _plus_product_(value.mid, forms.mid, matrix.mid)
    sums = _plus_product_(own, a, b)
    rad = over_underflow_(
        sums, n, gamma, lambda: least_nonzero(a) * least_nonzero(b), lambda: matrix_times(a.sign(), b.sign())
    )
    return Ball(mid, rad)


def _plus_product_(base: Tensor, forms: Tensor, matrix: Tensor) -> Tensor:
    """base (..., m) plus forms (..., n) times matrixᵀ, in the memory of `base` if its rows are evenly spaced."""
    flat = base.flatten(0, -2).addmm_(forms.flatten(0, -2), matrix.mT)
    return base if flat.data_ptr() == base.data_ptr() else flat.view(base.shape)


def around_(forms: Ball, centre: Tensor, reach: Tensor) -> Ball:
    """c·x + |c|·r for forms c (B, K, R, *node) and finite x and r >= 0 (B, *node): (B, K, R).

    Off by gamma (|c|·|x| + |c|·r), by one rounding of the sum, and by rad·(|x| + r).
    """
    flat, x, r = forms.mid.flatten(3), centre.flatten(1).unsqueeze(1), reach.flatten(1).unsqueeze(1)
    n, middle = flat.shape[-1], rows_times(flat, x)
    size = flat.abs() if middle.requires_grad else flat.abs_()
    spread = rows_times(size, r)
    mid = middle + spread
    if forms.rad is None:
        return Ball(mid, None)
    with torch.no_grad():
        gamma, info = gamma_of(n, mid.dtype), torch.finfo(mid.dtype)
        rad = rows_times(size, x.abs()).add_(spread).mul_(gamma).add_(mid.abs(), alpha=info.eps / 2)
        active = size.amax(-1)
        if not forms.exact:
            off = forms.rad.expand_as(forms.mid).flatten(3)
            rad += rows_times(off, x.abs() + r)
            active = active + off.amax(-1)
        some = (x.abs() + r).amax(-1).sign_().unsqueeze(-1)
        rad.mul_(growth_of(n + 10, mid.dtype)).addcmul_(active.sign_(), some, value=(4 * n + 5) * info.tiny)
    return Ball(mid, rad)


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
        """The forms, in their memory unless they or their factors are live."""
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
        larger = self.live or not broadcasts(slopes.above.shape, self.positive.shape)
        product = self.positive * slopes.above if larger else self.positive.mul_(slopes.above)
        return product.addcmul_(self.negative, slopes.below)  # one of the terms is 0

    def _underflow(self, slopes: Slopes, known: Tensor | None) -> Tensor:
        """An upper bound of what underflow may lose."""
        lost = torch.minimum(self.positive, slopes.tiny_above)
        lost = lost - torch.maximum(self.negative, slopes.minus_tiny_below)
        return lost if known is None or self.rad is None else lost.add(torch.minimum(self.rad, slopes.tiny_above))

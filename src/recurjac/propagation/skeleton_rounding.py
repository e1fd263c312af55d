"""What rounding costs the columns of a skeleton, which are taken as exact as stored (docs/mathematics.md, §8).

An entry of a stage is z = E v up to rounding.  Three numbers measure a row of E, and the same three its error:

    value      Σ_r |row_r| m_r for magnitudes m of v: how far E v is from z, at every point of the region;
    inputs     max |row_r| over the inputs: how far an entry of E is from the derivative that it stands for;
    kept       max |row_r| over kept neurons: the same for those.

Each is a seminorm μ that grows with magnitudes.  So if rows F of an earlier stage are off by `errors`, those of fl(A F)
are off by at most |A| errors + γ_n |A| μ(F) + n η μ(1) (docstring of `arithmetic`).  Three vectors carry all of it; a
radius for each entry would take another product with |A|.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Interval, growth_of
from recurjac.arithmetic.rounding import gamma_of, zero_of
from recurjac.operators import AbstractOperator, Compose
from recurjac.operators.base import AbstractLeaf
from recurjac.operators.interval_matrix import IntervalMatrix

VALUE, INPUTS, KEPT = 0, 1, 2


@final
@dataclass(frozen=True)
class Ranges:
    """What is known of v: of the inputs, of 1, and of the kept neurons so far; all of it is finite.

    middle, half: |v - middle| <= half, (length of v,).  sizes: upper bounds of |v|.  inputs: how many there are.
    total: an upper bound of the sum of `sizes`, at least 1.
    """

    middle: Tensor
    half: Tensor
    sizes: Tensor
    inputs: int
    total: float

    @classmethod
    def of(cls, inputs: Interval, arithmetic: AbstractArithmetic) -> Ranges:
        """Those of the inputs (n,) and of 1."""
        none = inputs.lower.new_empty(0)
        one = Interval.unchecked(none.new_ones(1), none.new_ones(1))
        start = cls(none, none, none, inputs.shape[0], 0.0)
        return start.followed_by(inputs, arithmetic).followed_by(one, arithmetic)

    def followed_by(self, more: Interval, arithmetic: AbstractArithmetic) -> Ranges:
        """The same with those of further entries (n,)."""
        middle, half = arithmetic.midrad(more)
        sizes, dtype = more.magnitude.detach(), middle.dtype
        total = float(sizes.sum()) * growth_of(len(sizes) + 3, dtype) + self.total
        middle, half = torch.cat([self.middle, middle]), torch.cat([self.half, half])
        sizes = torch.cat([self.sizes, sizes])
        return Ranges(middle, half, sizes, self.inputs, total * (1 + 4 * torch.finfo(dtype).eps))

    def measured(self, sizes: Tensor) -> Tensor:
        """Upper bounds of the three measures of rows, from magnitudes (first entries of v, entries): (3, entries)."""
        return self._measures(torch.mv(sizes.mT, self.sizes[: len(sizes)]), sizes)

    def _measures(self, value: Tensor, sizes: Tensor) -> Tensor:
        n, dtype = len(sizes), sizes.dtype
        value = value * growth_of(n + 2, dtype) + 2 * n * torch.finfo(dtype).tiny
        return torch.stack([value, _most(sizes[: self.inputs]), _most(sizes[self.inputs + 1 :])])

    def seen(self, columns: Tensor, arithmetic: AbstractArithmetic) -> tuple[Tensor, Tensor, Tensor | None]:
        """The centre and the half-width of E v for columns Eᵀ (first entries of v, entries), and the measures of E.

        Both are (entries,), as computed.  The measures are None where rounding is not covered.
        """
        n, absolute = len(columns), columns.abs()
        centre = torch.mv(columns.mT, self.middle[:n])
        if not arithmetic.rigorous or columns.requires_grad or self.half.requires_grad:
            half = torch.mv(absolute.mT, self.half[:n])
            return centre, half, self.measured(absolute.detach()) if arithmetic.rigorous else None
        half, value = torch.mm(torch.stack([self.half[:n], self.sizes[:n]]), absolute)
        return centre, half, self._measures(value, absolute)

    def range(
        self, centre: Tensor, half: Tensor, rounding: Rounding | None, arithmetic: AbstractArithmetic
    ) -> Interval:
        """The interval of entries E v, from their centres and half-widths as `seen`: (1, entries).

        The centre is off by γ_n Σ |E| |v|, and the sum with the half-width by u times its size, which is at most that
        of both.
        """
        if rounding is not None:
            n = len(self.middle)
            with torch.no_grad():
                lost = rounding.lost(n + 8, self.total).add_(half.detach(), alpha=(n + 8) * torch.finfo(half.dtype).eps)
            half = half + lost
        return arithmetic.enclose((centre - half).unsqueeze(0), (centre + half).unsqueeze(0))


@final
@dataclass(frozen=True)
class Rounding:
    """Measures of rows, and of what they are off by; both (3, entries), upper bounds.

    first_exact: the entries of v from this position on have columns that are exact; None if not known of any.
    """

    sizes: Tensor
    errors: Tensor
    first_exact: int | None = None

    def at(self, index: Tensor) -> Rounding:
        """Those of the rows `index`."""
        return Rounding(self.sizes.index_select(1, index), self.errors.index_select(1, index), self.first_exact)

    def times(self, slope: Tensor, total: float) -> Rounding:
        """Those of the rows times `slope` (entries,): one product for each entry.  total: of the magnitudes."""
        size, info = slope.detach().abs(), torch.finfo(slope.dtype)
        sizes = (self.sizes * size).mul_(growth_of(4, slope.dtype)).add_(info.tiny)
        errors = (self.errors * size).add_(sizes, alpha=info.eps / 2).mul_(growth_of(4, slope.dtype))
        errors = errors.add_(underflow(1, size, total)).mul_(size > 0)
        return Rounding(sizes, errors)

    def lost(self, terms: int, total: float) -> Tensor:
        """What forms lose that are 1 at a row, if each entry is one of a sum of so many products: (entries,).

        total: of the magnitudes of v.
        """
        dtype = self.sizes.dtype
        found = torch.add(self.errors[VALUE], self.sizes[VALUE] + self.errors[VALUE], alpha=gamma_of(terms + 2, dtype))
        return found.mul_(growth_of(6, dtype)).add_(underflow(terms, found, total))

    def with_units(self, index: Tensor, sizes: Tensor) -> Rounding:
        """The same, where the rows `index` are unit rows of kept neurons with these magnitudes; they are exact."""
        units = torch.stack([sizes, torch.zeros_like(sizes), torch.ones_like(sizes)])
        errors = self.errors.index_fill(1, index, 0.0)
        return Rounding(self.sizes.index_copy(1, index, units), errors)

    def through(self, operator: AbstractOperator, total: float) -> Tensor:
        """What the rows of fl(A F) are off by for the rows F of an operator A: (3, entries), flat on both sides."""
        lead = (3, *operator.in_shape)
        return _through(operator, self.sizes.reshape(lead), self.errors.reshape(lead), total).reshape(3, -1)


def underflow(products: int, like: Tensor, total: float) -> float:
    """What underflow loses in sums of so many products, if magnitudes of v have the sum `total`."""
    return (4 * products + 8) * float(torch.finfo(like.dtype).tiny) * max(1.0, total)


def added(errors: Tensor, sizes: Tensor) -> Tensor:
    """What sums of two rows are off by, if both rows together are off by `errors`; the sums have measures `sizes`."""
    return torch.add(errors, sizes, alpha=torch.finfo(sizes.dtype).eps / 2).mul_(growth_of(4, sizes.dtype))


def _through(operator: AbstractOperator, sizes: Tensor, errors: Tensor, total: float) -> Tensor:
    if isinstance(operator, Compose):
        inner = _through(operator.inner, sizes, errors, total)
        middle = larger(operator.inner, sizes)
        return _through(operator.outer, middle, inner, total)
    found = operator.push(Ball(sizes, errors)).rad
    if found is None or not isinstance(operator, AbstractLeaf | IntervalMatrix):
        raise ValueError("an operator whose rounding is not covered")
    n = operator.summands if isinstance(operator, AbstractLeaf) else prod(operator.in_shape)
    if n:  # underflow of each product with a column, weighed by the magnitudes
        found[VALUE].add_(underflow(n, found, total))
    return found


def larger(operator: AbstractOperator, sizes: Tensor) -> Tensor:
    """Upper bounds of |A| times sizes >= 0."""
    if isinstance(operator, Compose):
        return larger(operator.outer, larger(operator.inner, sizes))
    if not isinstance(operator, AbstractLeaf | IntervalMatrix):
        raise ValueError("an operator whose rounding is not covered")
    return operator.absolute().push(Ball(sizes, zero_of(sizes.dtype, sizes.device))).upper()


def _most(sizes: Tensor) -> Tensor:
    """The largest of each column; 0 if there are no rows."""
    return sizes.amax(0) if len(sizes) else sizes.new_zeros(sizes.shape[1])

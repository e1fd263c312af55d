"""How far normalised rows are from a linear map, by the few numbers of which their derivatives are functions.

Source: docs/mathematics.md, §5.15.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from recurjac.activations import NormalisedRows
from recurjac.activations.row_bounds import inverse_root
from recurjac.arithmetic import AbstractArithmetic, Ball, Interval
from recurjac.jacobian.near_linear import AbstractOfRows, Near, Off, OfRows, farthest, jacobians_at, rows_times


@final
@dataclass(frozen=True)
class Normalised(AbstractOfRows):
    """y = P z / s, with a matrix for each row, and numbers (rows, 2, n) that measure each row.

    These are about y at the centre, whose product with a row is far less than the sum of sizes says, and 1 if centred.
    """

    function: NormalisedRows
    matrices: Tensor
    probes: Tensor

    @classmethod
    def at(cls, function: NormalisedRows, z: Tensor) -> Normalised:
        """With the Jacobians at z."""
        y = function.value(z).nan_to_num(0.0, 0.0, 0.0)
        ones = torch.full_like(y, float(function.centred))
        return cls(function, jacobians_at(function, z), torch.stack([y, ones], 1))

    def of(self, rows: Tensor) -> Normalised:
        return replace(self, matrices=self.matrices[rows], probes=self.probes[rows])

    @property
    def measures(self) -> Tensor | None:
        return self.probes

    @property
    def plain(self) -> OfRows:
        """The same without measures."""
        return OfRows(self.function, self.matrices)

    def off(self, z: Sequence[Near], arithmetic: AbstractArithmetic) -> Off:
        """By the numbers that measure rows; by all entries of the Jacobians as well where these say nothing."""
        rows, measured = z
        found = _Rows.of(self, rows, measured, arithmetic).off(rows)
        if bool(found.value.isfinite().all() & found.tangent.isfinite().all()):
            return found
        other = self.plain.off([rows], arithmetic)
        return replace(
            other, value=torch.fmin(found.value, other.value), tangent=torch.fmin(found.tangent, other.tangent)
        )


@final
@dataclass(frozen=True)
class _Rows:
    """Bounds of what normalised rows consist of, upper bounds where nothing else is said; (rows, n) or (rows, 1).

    With u = P (z - c), v = P w for a tangent w at z, g = 1 / s, y and g at the centre c, and a dash for those at z:
    size: |y_i|.  far: |P c|.  root: s at c.  most: g'.  change: |g' - g|.  bend: what g' - g differs
    by from -g² (y · u) / n.  own, along: |u|, |v|.  both: |y · v|.  off_centre: |J - S| at c, (rows, n, n).
    """

    arithmetic: AbstractArithmetic
    centre: Ball
    size: Tensor
    far: Tensor
    root: Tensor
    most: Tensor
    change: Tensor
    bend: Tensor
    own: Tensor
    along: Tensor
    both: Tensor
    off_centre: Tensor

    @classmethod
    def of(cls, near: Normalised, rows: Near, measured: Near, arithmetic: AbstractArithmetic) -> _Rows:
        up, n = Upwards(arithmetic), rows.centre.shape[-1]
        point = Interval.point(rows.centre.unsqueeze(0))
        y = near.function.value_range(point, arithmetic)
        middle, error = arithmetic.midrad(y)
        unsure = farthest(y.map(_first), near.probes[:, 0], arithmetic)
        inverse = near.function.inverse_length(point, arithmetic).map(_first)  # 1 / (n s)
        low, high = (arithmetic.rounded(1 / (t * n), 4) for t in (inverse.upper, inverse.lower))
        root = Interval.unchecked(low.lower, high.upper)
        across, both = (
            up.plus(part[:, :1], up.sum(up.times(unsure, size)))
            for part, size in ((measured.half, rows.half), (measured.tangent, rows.tangent))
        )
        own, along = (
            up.plus(t, up.over(m[:, 1:], n)) for t, m in ((rows.half, measured.half), (rows.tangent, measured.tangent))
        )
        squares = up.sum(up.times(own, own))
        shift = up.over(up.plus(up.times(across, root.upper, across.new_tensor(2.0)), squares), n)
        square = arithmetic.product(root, root)
        least, largest = up.minus(square.lower, shift).clamp(min=0), up.plus(square.upper, shift)
        lengths, start = (inverse_root(i, arithmetic) for i in (Interval.unchecked(least, largest), square))
        change = torch.maximum(up.less(lengths.upper, start.lower), up.less(start.upper, lengths.lower)).clamp(min=0)
        five = up.times(*[lengths.upper] * 5, shift, shift, shift.new_tensor(0.375))
        three = up.over(up.times(*[start.upper] * 3, squares, shift.new_tensor(0.5)), n)
        size = y.magnitude[0]
        slopes = near.function.slope_range(point, arithmetic).map(_first)
        return cls(
            arithmetic, arithmetic.ball(middle[0], error[0]), size, up.times(size, root.upper), root.upper,
            lengths.upper, change, up.plus(five, three), own, along, both,
            farthest(slopes, near.matrices, arithmetic),
        )  # fmt: skip

    def off(self, rows: Near) -> Off:
        up, n, arithmetic = Upwards(self.arithmetic), self.own.shape[-1], self.arithmetic
        value = up.plus(
            up.times(self.far, self.bend), up.times(self.change, self.own),
            rows_times(self.off_centre, rows.half, arithmetic).upper(),
        )  # fmt: skip
        moved = up.plus(up.times(self.change, self.far), up.times(self.most, self.own))  # |y' - y|
        turned = up.plus(  # |(y' - y) · v|
            up.times(self.change, self.root, self.both), up.times(self.most, up.sum(up.times(self.own, self.along)))
        )
        longer = up.times(self.change, up.plus(self.along, up.over(up.times(self.size, self.both), n)))
        sides = up.plus(up.times(moved, up.plus(self.both, turned)), up.times(self.size, turned))
        tangent = up.plus(
            longer, up.over(up.times(self.most, sides), n),
            rows_times(self.off_centre, rows.tangent, arithmetic).upper(),
        )  # fmt: skip
        return Off(self.centre, value, tangent)


@final
@dataclass(frozen=True)
class Upwards:
    """Sums, products and quotients of numbers >= 0, rounded upwards."""

    arithmetic: AbstractArithmetic

    def plus(self, *terms: Tensor) -> Tensor:
        found, exact = terms[0], self.arithmetic.exact
        for t in terms[1:]:
            found = (exact(found) + exact(t)).upper()
        return found

    def times(self, *factors: Tensor) -> Tensor:
        found, exact = factors[0], self.arithmetic.exact
        for t in factors[1:]:
            found = (exact(found) * exact(t)).upper()
        return found

    def over(self, t: Tensor, n: int) -> Tensor:
        return self.arithmetic.rounded(t / n, 2).upper

    def less(self, a: Tensor, b: Tensor) -> Tensor:
        """a - b, which may be negative."""
        return (self.arithmetic.exact(a) - self.arithmetic.exact(b)).upper()

    def minus(self, a: Tensor, b: Tensor) -> Tensor:
        """a - b, rounded downwards."""
        return (self.arithmetic.exact(a) - self.arithmetic.exact(b)).lower()

    def sum(self, t: Tensor) -> Tensor:
        """The sum of each row, (rows, 1)."""
        ones = torch.ones(1, t.shape[-1], dtype=t.dtype, device=t.device)
        return self.arithmetic.exact(t).matmul(self.arithmetic.exact(ones)).upper()


def _first(t: Tensor) -> Tensor:
    return t[0]

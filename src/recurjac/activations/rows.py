"""Functions of rows of numbers, softmax, normalisation and length, with closed forms of their ranges over boxes.

Source: docs/mathematics.md, §3.11.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import reduce
from typing import Self, final

import torch
from torch import Tensor

from recurjac.activations.row_bounds import divided, met, others_of, squares_of, sum_of, total_of
from recurjac.activations.softmax_bounds import Exponentials, largest_of
from recurjac.activations.softmax_norm import largest_eigenvalue
from recurjac.arithmetic import AbstractArithmetic, Interval, root_of, with_derivative_of
from recurjac.tensors import broadcast_shape

_ROUNDS = 24
"""Steps of the search for a point where a length has its largest derivative along a tangent."""


class AbstractRowFunction(ABC):
    """A function of rows of n numbers; boxes have the shape (batch, rows, n), and may be unbounded."""

    @property
    @abstractmethod
    def rigorous(self) -> bool:
        """Whether bounds cover rounding where the arithmetic does."""

    @abstractmethod
    def value(self, z: Tensor) -> Tensor:
        """The values at points (…, n)."""

    @abstractmethod
    def value_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """Bounds of the values over a box."""

    @abstractmethod
    def slope_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """Bounds of the derivatives of each value by each number: (batch, rows, n, n)."""

    @abstractmethod
    def norm(self, z: Interval, p: float, arithmetic: AbstractArithmetic) -> Tensor:
        """Upper bounds of ‖J‖_{p→p}, p = 1, 2, ∞, where J is the Jacobian of a row: (batch, rows)."""

    def slope_along(self, z: Interval, tangents: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """Bounds of the derivatives along tangents (batch or 1, L, rows, n) at the rows: (batch, L, rows, n)."""
        slopes, ways = self.slope_range(z, arithmetic).map(lambda t: t.unsqueeze(1)), tangents.map(_across)
        return total_of(arithmetic.product(slopes, ways), arithmetic).map(lambda t: t.squeeze(-1))

    def slope_between(
        self, z: Interval, covectors: Interval, tangents: Interval, arithmetic: AbstractArithmetic
    ) -> Interval:
        """Bounds of u · J w for covectors u and tangents w (batch or 1, K, rows, n): (batch, K, rows)."""
        along = self.slope_along(z, tangents, arithmetic)
        return total_of(arithmetic.product(along, covectors), arithmetic).map(lambda t: t.squeeze(-1))

    def of_rows(self, index: Tensor) -> Self:
        """The function of some of the rows."""
        return self

    @classmethod
    @abstractmethod
    def examples(cls) -> list[Self]:
        """A few of this class, for the tests that run on every class."""


@final
@dataclass(frozen=True, eq=False)
class SoftmaxRows(AbstractRowFunction):
    """p_i = exp(z_i) / Σ exp(z_j): every p_i p_j is extreme where all other numbers are at their ends.

    hidden: (rows, n), True where a number counts as -∞, so that p is 0 there; not all of a row.  None: nowhere.
    """

    hidden: Tensor | None = None

    @property
    def rigorous(self) -> bool:
        return True

    def of_rows(self, index: Tensor) -> Self:
        return self if self.hidden is None else replace(self, hidden=self.hidden[index.to(self.hidden.device)])

    def value(self, z: Tensor) -> Tensor:
        return (z if self.hidden is None else z.masked_fill(self.hidden.to(z.device), -math.inf)).softmax(-1)

    def value_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        low, high, known = _exponentials(z, self.hidden)
        least, most = low / (low + _others(high)[1]), high / (high + _others(low)[0])
        found = _ordered(torch.where(known, least, 0.0), torch.where(known, most, 1.0))
        if arithmetic.rigorous:
            found = _proved(found, Exponentials.of(z, self.hidden, arithmetic).values())
        return found if self.hidden is None else _zero_where(self.hidden, found)

    def slope_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        shares, count = self.value_range(z, arithmetic), z.shape[-1]
        ends = [p * (1 - p) for p in (shares.lower, shares.upper)]
        middle = shares.contains(torch.full_like(shares.lower, 0.5))
        own = torch.minimum(*ends), torch.where(middle, 0.25, torch.maximum(*ends))
        least, most = _products(z, self.hidden)
        same = torch.eye(count, dtype=torch.bool, device=z.lower.device)
        found = _ordered(
            torch.where(same, own[0].unsqueeze(-1), -most), torch.where(same, own[1].unsqueeze(-1), -least)
        )
        if arithmetic.rigorous:
            found = _proved(found, Exponentials.of(z, self.hidden, arithmetic).slopes())
        if self.hidden is None:
            return found
        return _zero_where(self.hidden.unsqueeze(-1) | self.hidden.unsqueeze(-2), found)

    def norm(self, z: Interval, p: float, arithmetic: AbstractArithmetic) -> Tensor:
        """2 p_i (1 - p_i) is the absolute sum of a row and of a column, and bounds the eigenvalues (Gershgorin)."""
        shares = self.value_range(z, arithmetic)
        near = torch.minimum(torch.maximum(torch.full_like(shares.lower, 0.5), shares.lower), shares.upper)
        most = (arithmetic.at_least(2 * near * (1 - near), 2)).amax(-1)
        if p != 2:
            return most
        return torch.minimum(most, largest_eigenvalue(z, lambda box: self.value_range(box, arithmetic), arithmetic))

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


@final
@dataclass(frozen=True)
class LengthRows(AbstractRowFunction):
    """s = √(|z|² / m + eps) as the first value of a row, and 0 as all others; its derivatives are z_j / (m s).

    m: `divisor`, exact in the dtype, as eps is.  No derivative is beyond ±1 / √m.  Without an eps, where z may be 0,
    they are all numbers from -1 / √m to 1 / √m, as Clarke's are there.
    """

    divisor: int = 1
    eps: float = 0.0

    @property
    def rigorous(self) -> bool:
        return True

    def value(self, z: Tensor) -> Tensor:
        if self.eps == 0:
            size = torch.linalg.vector_norm(z, dim=-1, keepdim=True) / math.sqrt(self.divisor)
        else:
            size = (z.square().sum(-1, keepdim=True) / self.divisor + self.eps).sqrt()
        return torch.cat([size, torch.zeros_like(z[..., 1:])], -1)

    def value_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        found = self._size(sum_of(squares_of(z, arithmetic), arithmetic), arithmetic)
        return found.map(lambda t: torch.cat([t, torch.zeros_like(z.lower[..., 1:])], -1))

    def slope_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        first, count = self._first(z, arithmetic), z.shape[-1]
        place = torch.zeros(count, 1, dtype=z.lower.dtype, device=z.lower.device)
        place[0] = 1.0
        return first.map(lambda t: t.unsqueeze(-2) * place)

    def slope_along(self, z: Interval, tangents: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """w · z / (m s) for a tangent w, by a bound of its own (`_most_along`) and by those of single slopes."""
        plain = super().slope_along(z, tangents, arithmetic)
        middle, half = arithmetic.midrad(tangents)
        sizes = self._first(z, arithmetic).magnitude.unsqueeze(1)
        error = sum_of(Interval.point((arithmetic.exact(half) * arithmetic.exact(sizes)).upper()), arithmetic).upper
        low, high = (self._most_along(z.map(_beside), w, arithmetic) for w in (-middle, middle))
        low, high = ((arithmetic.exact(t) + arithmetic.exact(error)).upper() for t in (low, high))
        first = met(plain.map(lambda t: t[..., :1]), -low, high, arithmetic)
        return Interval.unchecked(
            torch.cat([first.lower, plain.lower[..., 1:]], -1), torch.cat([first.upper, plain.upper[..., 1:]], -1)
        )

    def _most_along(self, z: Interval, w: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
        """Upper bounds of w · z / (m s) over boxes, (…, 1).

        If m |v|² + eps q² <= 1, s >= v · z + eps q, so that for t >= 0, w · z - t s <= h, the largest value of
        (w - t v) · z - t eps q, and w · z / s <= t + max(h, 0) / s.  Whatever t, v and q are, this is a bound.
        """
        exact, shape = arithmetic.exact, broadcast_shape(z.shape, w.shape)
        with torch.no_grad():
            t, v, q = self._support(*(e.expand(shape) for e in (z.lower, z.upper, w)))
        m, eps = (v.new_tensor(number) for number in (self.divisor, self.eps))
        length = sum_of(squares_of(Interval.point(v), arithmetic), arithmetic).upper
        unit = (exact(length) * exact(m) + exact(q) * exact(q) * exact(eps)).upper() <= 1
        apart = exact(w) - exact(t) * exact(v)
        each = arithmetic.product(arithmetic.between(apart, apart), z)
        most = exact(total_of(each, arithmetic).upper) - exact(t) * exact(q) * exact(eps)
        over, least = most.upper().clamp(min=0), self._size(sum_of(squares_of(z, arithmetic), arithmetic), arithmetic)
        rest = arithmetic.at_least(over / torch.where(least.lower > 0, least.lower, 1.0), 1)
        found = arithmetic.at_least((exact(t) + exact(rest)).upper() / m, 1)
        known = unit & ((least.lower > 0) | (over == 0)) & found.isfinite()
        return torch.where(known, found, math.inf)

    def _support(self, low: Tensor, high: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """t, v and q at a point where w · z / s is about largest, which is w times a number, moved into the box."""
        low, high = (torch.where(e.isfinite(), e, 0.0) for e in (low, high))
        z, m = torch.where(w > 0, high, low), self.divisor
        for _ in range(_ROUNDS):
            along = (w * z).sum(-1, keepdim=True)
            square = z.square().sum(-1, keepdim=True) / m + self.eps
            far = torch.where(along > 0, m * square / torch.where(along > 0, along, 1.0), 0.0)
            z = torch.where(along > 0, torch.minimum(torch.maximum(far * w, low), high), z)
        size = (z.square().sum(-1, keepdim=True) / m + self.eps).sqrt()
        some = torch.where(size > 0, size, 1.0)
        short = 1 - 16 * (z.shape[-1] + 4) * torch.finfo(z.dtype).eps
        t = ((w * z).sum(-1, keepdim=True) / some).clamp(min=0)
        return t, short * z / (m * some), short * torch.where(size > 0, 1 / some, 0.0)

    def _size(self, squares: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """Bounds of s from those of |z|²."""
        mean = squares if self.divisor == 1 else divided(squares, self.divisor, arithmetic)
        if self.eps != 0:
            low, high = (arithmetic.rounded(t + self.eps, 1) for t in (mean.lower.clamp(min=0), mean.upper))
            mean = Interval.unchecked(low.lower, high.upper)
        return _root(mean, arithmetic)

    def _most(self, like: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
        """1 / √m, which no derivative's size exceeds."""
        one = like.new_tensor(1.0)
        return one if self.divisor == 1 else arithmetic.rounded(one / root_of(one * self.divisor), 3).upper

    def _first(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """Of s: z_j / (m s) grows with z_j, and its size falls with r, the sum of the other squares."""
        squares = squares_of(z, arithmetic)
        rest = Interval.unchecked(
            others_of(squares.lower, arithmetic).lower, others_of(squares.upper, arithmetic).upper
        )
        low, high = (self._largest_slope(end, rest, arithmetic) for end in (-z.lower, z.upper))
        if self.eps == 0:
            origin = ((z.lower <= 0) & (z.upper >= 0)).all(-1, keepdim=True)
            most = self._most(z.lower, arithmetic)
            low, high = (torch.where(origin, most, t) for t in (low, high))
        return Interval.unchecked(-low, high)

    def _largest_slope(self, end: Tensor, rest: Interval, arithmetic: AbstractArithmetic) -> Tensor:
        """Upper bounds of t / (m s), where t <= `end` and the other squares are `rest`, unless s may be 0."""
        square, size = squares_of(Interval.point(end), arithmetic), end.abs()
        root = self._size(arithmetic.sum([square, rest]), arithmetic)
        near, far = (size / torch.where(t > 0, t, 1.0) for t in (root.lower, root.upper))
        if self.divisor != 1:
            near, far = near / self.divisor, far / self.divisor
        most = self._most(end, arithmetic)
        known = (root.lower > 0) & end.isfinite()
        above = torch.where(known, torch.minimum(arithmetic.rounded(near, 3).upper, most), most)
        known = root.upper.isfinite() & (root.upper > 0)
        below = torch.where(known, torch.minimum(arithmetic.rounded(far, 3).lower.clamp(min=0.0), most), 0.0)
        return torch.where(end > 0, above, -below)

    def norm(self, z: Interval, p: float, arithmetic: AbstractArithmetic) -> Tensor:
        """J has the row z / (m s), whose length is at most 1 / √m."""
        cap = self._most(z.lower, arithmetic)
        if p < math.inf:
            return cap.expand(z.shape[:-1])
        sizes = self._first(z, arithmetic).magnitude
        most = arithmetic.rounded(cap * root_of(sizes.new_tensor(float(z.shape[-1]))), 3).upper
        return torch.minimum(arithmetic.at_least(sizes.sum(-1), z.shape[-1]), most)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(), cls(1, 0.1), cls(3, 0.0), cls(5, 1e-3)]


def _root(squares: Interval, arithmetic: AbstractArithmetic) -> Interval:
    """Bounds of roots of numbers >= 0, which may be infinite."""
    low, high = squares.lower.clamp(min=0), squares.upper
    known = [(t > 0) & t.isfinite() for t in (low, high)]
    roots = [arithmetic.rounded(root_of(torch.where(k, t, 1.0)), 2) for k, t in zip(known, (low, high), strict=True)]
    return Interval.unchecked(
        torch.where(known[0], roots[0].lower, 0.0),
        torch.where(known[1], roots[1].upper, torch.where(high == 0, 0.0, math.inf)),
    )


def _proved(found: Interval, proved: Interval) -> Interval:
    """Proved bounds with the derivatives of those found."""
    return Interval.unchecked(
        with_derivative_of(found.lower, proved.lower), with_derivative_of(found.upper, proved.upper)
    )


def _beside(t: Tensor) -> Tensor:
    return t.unsqueeze(1)


def _across(t: Tensor) -> Tensor:
    return t.unsqueeze(-2)


def _zero_where(hidden: Tensor, found: Interval) -> Interval:
    return found.map(lambda t: t.masked_fill(hidden.to(t.device), 0.0))


def _exponentials(z: Interval, hidden: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Bounds of exp of both ends, less the largest upper end of the row, and (batch, rows, 1) where that is finite."""
    top, far = largest_of(z.upper, hidden)
    known = top.isfinite()
    top = torch.where(known, top, 0.0)
    low, high = (torch.where(known & (end > top - far), end - top, -far).exp() for end in (z.lower, z.upper))
    low = torch.where(z.lower > top - far, low, 0.0)
    if hidden is not None:
        low, high = (t.masked_fill(hidden.to(t.device), 0.0) for t in (low, high))
    return low, high, known


def _error(numbers: Tensor) -> Tensor:
    """How far differences of sums of positive numbers may be off: (…, 1)."""
    return 4 * numbers.shape[-1] * torch.finfo(numbers.dtype).eps * numbers.sum(-1, keepdim=True)


def _others(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of the sum of all other numbers of a row, for positive numbers."""
    rest, error = numbers.sum(-1, keepdim=True) - numbers, _error(numbers)
    return (rest - error).clamp(min=0), rest + error


def _products(z: Interval, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
    """The least and the largest p_i p_j for i ≠ j: a b / (a + b + r)², where log of it is concave in log a and log b.

    It is least at corners with the largest rest r, and largest with the least r where a or b is at an end.
    """
    low, high, known = _exponentials(z, hidden)
    a, b, top_a, top_b = low.unsqueeze(-1), low.unsqueeze(-2), high.unsqueeze(-1), high.unsqueeze(-2)
    rests = [e.sum(-1, keepdim=True).unsqueeze(-1) - e.unsqueeze(-1) - e.unsqueeze(-2) for e in (low, high)]
    rest = (rests[0] - _error(low).unsqueeze(-1)).clamp(min=0)
    most_rest = rests[1] + _error(high).unsqueeze(-1)
    least = reduce(torch.minimum, (_share(x, y, most_rest) for x in (a, top_a) for y in (b, top_b)))
    along = [_share(x, torch.minimum(torch.maximum(x + rest, b), top_b), rest) for x in (a, top_a)]
    along += [_share(torch.minimum(torch.maximum(y + rest, a), top_a), y, rest) for y in (b, top_b)]
    known = known.unsqueeze(-1)
    return torch.where(known, least, 0.0), torch.where(known, reduce(torch.maximum, along), 0.25)


def _share(a: Tensor, b: Tensor, rest: Tensor) -> Tensor:
    """It is 0 where a or b is, also if nothing remains of the others."""
    total = a + b + rest
    some = torch.where(total > 0, total, 1.0)
    return (a / some) * (b / some)


def _ordered(lower: Tensor, upper: Tensor) -> Interval:
    """The interval between two bounds, which rounding may have crossed; NaN says nothing."""
    lower, upper = torch.where(lower.isnan(), -torch.inf, lower), torch.where(upper.isnan(), torch.inf, upper)
    return Interval.unchecked(torch.minimum(lower, upper), torch.maximum(lower, upper))

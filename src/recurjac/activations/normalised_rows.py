"""Normalisation of rows of numbers, with closed forms of its values and derivatives over boxes.

Their rounding is covered where that of the arithmetic is.  With n y = n c / s, sums are weighted by whole numbers, and
there is no error of 1 / n.  Source: docs/mathematics.md, §3.11.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from recurjac.activations.normalised_forms import NormalisedForms
from recurjac.activations.row_bounds import (
    corners,
    divided,
    inverse_root,
    largest_squares,
    least_squares,
    met,
    others_of,
    squares_of,
    sum_of,
    times_exact,
    total_of,
)
from recurjac.activations.rows import AbstractRowFunction
from recurjac.arithmetic import AbstractArithmetic, Ball, Interval, root_of

_CUBES = 2**22
"""The largest number of second derivatives that are formed."""
_PAIRS = 2**20
"""The largest number of entries of covectors and tangents whose forms are bounded by a search."""
_PIECES = 4
"""The largest number of parts of each range in that search."""
_ROUNDS = 2
"""How often bounds of slopes and of values are made from each other."""


@final
@dataclass(frozen=True)
class NormalisedRows(AbstractRowFunction):
    """y = c / √(mean of c² + eps), where c is the row, less its mean if `centred`; eps is rounded to the dtype."""

    eps: float
    centred: bool

    @property
    def rigorous(self) -> bool:
        return True

    def value(self, z: Tensor) -> Tensor:
        c = z - z.mean(-1, keepdim=True) if self.centred else z
        return c / (c.square().mean(-1, keepdim=True) + self.eps).sqrt()

    def value_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        if self.centred and z.shape[-1] == 1:
            return Interval.point(torch.zeros_like(z.lower))
        y = self._by_distance(z, arithmetic)
        if z.lower.numel() * z.shape[-1] > _CUBES:
            return y
        inverse = self._inverse(z, arithmetic)
        for _ in range(_ROUNDS):
            y = self._within(z, y, self._by_length(y, inverse, arithmetic), arithmetic)
        return y

    def slope_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """By the values and the length, and where n is small by the derivatives of the slopes, in turns."""
        y, inverse = self.value_range(z, arithmetic), self._inverse(z, arithmetic)
        found = self._by_length(y, inverse, arithmetic)
        if z.lower.numel() * z.shape[-1] ** 2 > _CUBES:
            return found
        for _ in range(_ROUNDS):
            bend = self._bends(y, inverse, arithmetic)
            low, high = (self._largest_slope(z, b, s, arithmetic) for b, s in ((-bend, -1.0), (bend, 1.0)))
            found = met(found, -low, high, arithmetic)
            y = self._within(z, y, found, arithmetic)
        return found

    def slope_along(self, z: Interval, tangents: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """(w - y q / n) / s with w = P t and q = y · w, and by its derivatives, as for single slopes."""
        w, count = self._moved(tangents, arithmetic), z.shape[-1]
        y, inverse = self.value_range(z, arithmetic).map(_beside), self._inverse(z, arithmetic).map(_beside)
        box = z.map(_beside)
        other = arithmetic.product(total_of(arithmetic.product(box, w), arithmetic), inverse)
        dot = met(total_of(arithmetic.product(y, w), arithmetic), other.lower, other.upper, arithmetic)
        dot = divided(dot, count, arithmetic)
        plain = arithmetic.sum([w, -arithmetic.product(y, dot)])
        found = arithmetic.product(plain, divided(inverse, count, arithmetic))
        if found.lower.numel() * count > _CUBES:
            return found
        bend = self._bends_along(y, dot, w, inverse, arithmetic)
        low, high = (self._largest_along(box, b, w, s, arithmetic) for b, s in ((-bend, -1.0), (bend, 1.0)))
        return met(found, -low, high, arithmetic)

    def inverse_length(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """Bounds of 1 / (n s), where y = c / s: (batch, rows, 1).  Its derivative by z is -y / (n s)²."""
        return divided(self._inverse(z, arithmetic), z.shape[-1], arithmetic)

    def slope_between(
        self, z: Interval, covectors: Interval, tangents: Interval, arithmetic: AbstractArithmetic
    ) -> Interval:
        """By `slope_along`, and by the three numbers of which it is a function (`NormalisedForms`)."""
        found = super().slope_between(z, covectors, tangents, arithmetic)
        if z.shape[-1] == 1 or found.lower.numel() * z.shape[-1] > _PAIRS:
            return found
        (u, off), (w, away) = (self._centred(t, arithmetic) for t in (covectors, tangents))
        room = _PAIRS / (4 * max(1, found.lower.numel() * z.shape[-1]))
        pieces = max(1, min(_PIECES, int(room ** (1 / 3))))
        sizes, inverse = self._sizes(z, arithmetic), self._inverse(z, arithmetic).map(_beside)
        lengths = [arithmetic.at_least(t.abs().sum(-1, keepdim=True), t.shape[-1]) for t in (u, w, off, away)]
        size, other, apart, rest = (Interval.point(t) for t in lengths)
        errors = [arithmetic.product(apart, arithmetic.sum([other, rest])), arithmetic.product(size, rest)]
        error = arithmetic.product(arithmetic.sum(errors), inverse).upper[..., 0]
        low, high = (
            NormalisedForms(z.map(_beside), sizes.map(_beside), t, w, self.eps, self.centred, pieces).upper(arithmetic)
            for t in (-u, u)
        )
        low, high = ((arithmetic.exact(t) + arithmetic.exact(error)).upper() for t in (low, high))
        return met(found, -low, high, arithmetic)

    def _centred(self, t: Interval, arithmetic: AbstractArithmetic) -> tuple[Tensor, Tensor]:
        """Numbers, less their means if centred, and how far they are off, but for a number that all have in common."""
        mid, half = arithmetic.midrad(t)
        if not self.centred:
            return mid, half
        ball = arithmetic.exact(mid) - arithmetic.exact(mid.mean(-1, keepdim=True))
        return ball.mid, half if ball.rad is None else arithmetic.at_least(half + ball.rad, 1)

    def norm(self, z: Interval, p: float, arithmetic: AbstractArithmetic) -> Tensor:
        """The Jacobian is a projection times a contraction, over the length; its rows have at most √n as much."""
        most, count = self._inverse(z, arithmetic).upper[..., 0], z.shape[-1]
        if p == 2:
            return most
        most = arithmetic.at_least(most * math.sqrt(count), 3)
        if z.lower.numel() * count > _CUBES:
            return most
        sizes = self.slope_range(z, arithmetic).magnitude
        return torch.minimum(most, arithmetic.at_least(sizes.sum(-1), count).amax(-1))

    def _by_distance(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """y_i grows with the distance of its number from the mean of the others, and falls with their variance."""
        c, rest = self._moved(z, arithmetic), self._rests(z, arithmetic)
        low, high = (self._most_by_distance(d, rest, arithmetic) for d in (-c.lower, c.upper))
        return arithmetic.enclose(-low, high)

    def _most_by_distance(self, c: Tensor, rest: Interval, arithmetic: AbstractArithmetic) -> Tensor:
        """Upper bounds of y_i, from those of n c_i and bounds of the sum of squares of the others."""
        count = c.shape[-1]
        own = c.square() / (count * (count - 1) if self.centred else count * count)
        least, largest = (self._size(own + r, count, 5, arithmetic) for r in (rest.lower, rest.upper))
        size = torch.where(c > 0, least.lower, largest.upper)
        known = (size > 0) & size.isfinite()
        y = arithmetic.rounded(c / root_of(torch.where(known, size, 1.0)) / count, 6).upper
        most = self._most(c, arithmetic)
        y = torch.where(known & y.isfinite(), y, torch.where((c <= 0) & (size > 0), 0.0, most))
        return torch.minimum(torch.maximum(y, -most), most)

    def _most(self, like: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
        """No |y_i| is larger."""
        count = like.shape[-1]
        return arithmetic.at_least(like.new_tensor(math.sqrt(count - 1 if self.centred else count)), 2)

    def _size(self, squares: Tensor, count: int, operations: int, arithmetic: AbstractArithmetic) -> Interval:
        """Bounds of squares / n + eps, where the squares have so many roundings; quotients may have two."""
        found = squares / count + self.eps
        return Interval.unchecked(arithmetic.at_most(found, operations + 3), arithmetic.at_least(found, operations + 3))

    def _moved(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """Bounds of n c, which is n - 1 times a number less all others of its row."""
        if z.lower is z.upper:
            c = self._times_count(z.lower, z.lower, arithmetic)
            return arithmetic.between(c, c)
        low, high = self._times_count(z.lower, z.upper, arithmetic), self._times_count(z.upper, z.lower, arithmetic)
        return arithmetic.between(low, high)

    def _times_count(self, own: Tensor, others: Tensor, arithmetic: AbstractArithmetic) -> Ball:
        """n c of rows that have one number of `own`, and all others of `others`."""
        count = own.shape[-1]
        if not self.centred:
            return arithmetic.exact(own.new_tensor(count)) * arithmetic.exact(own)
        ones = arithmetic.exact(torch.ones(1, count, dtype=own.dtype, device=own.device))
        rest = arithmetic.exact(others).matmul(ones) - arithmetic.exact(others)
        return arithmetic.exact(own.new_tensor(count - 1)) * arithmetic.exact(own) - rest

    def _projection(self, like: Tensor) -> Tensor:
        """n P, where P is the Jacobian of c: (n, n)."""
        count = like.shape[-1]
        unit = count * torch.eye(count, dtype=like.dtype, device=like.device)
        return unit - 1 if self.centred else unit

    def _rests(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """Bounds of the sum of squares of all other numbers, less their mean if centred."""
        if not self.centred:
            own = squares_of(z, arithmetic)
            return Interval.unchecked(others_of(own.lower, arithmetic).lower, others_of(own.upper, arithmetic).upper)
        count, most = z.shape[-1], others_of(largest_squares(z, arithmetic), arithmetic).upper
        if z.lower.numel() * count > _CUBES:
            return Interval.unchecked(torch.zeros_like(z.lower), most)
        weights = 1 - torch.eye(count, dtype=z.lower.dtype, device=z.lower.device)
        return Interval.unchecked(least_squares(z.map(_across), weights, arithmetic), most)

    def _sizes(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """Bounds of s²: (batch, rows, 1)."""
        count = z.shape[-1]
        if self.centred:
            least = least_squares(z, torch.ones_like(z.lower[0, 0]), arithmetic).unsqueeze(-1)
            most = arithmetic.at_least(largest_squares(z, arithmetic).sum(-1, keepdim=True), count)
        else:
            squares = sum_of(squares_of(z, arithmetic), arithmetic)
            least, most = squares.lower, squares.upper
        most = torch.where(most.isnan(), torch.inf, most)
        low, high = (self._size(t, count, 0, arithmetic) for t in (least, most))
        return Interval.unchecked(low.lower, high.upper)

    def _inverse(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The range of 1 / s: (batch, rows, 1)."""
        return inverse_root(self._sizes(z, arithmetic), arithmetic)

    def _by_length(self, y: Interval, inverse: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """Bounds of (P - y yᵀ / n) / s, the Jacobian."""
        plain = arithmetic.sum([-self.products(y, arithmetic), Interval.point(self._projection(y.lower))])
        return arithmetic.product(plain, divided(inverse, y.shape[-1], arithmetic).map(lambda t: t.unsqueeze(-1)))

    def products(self, y: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """Bounds of y_i y_j, which is at most n / 2 for i ≠ j, as Σ y² <= n."""
        half = y.shape[-1] / 2
        both = arithmetic.product(y.map(lambda t: t.unsqueeze(-1)), y.map(_across))
        own = squares_of(y, arithmetic).map(lambda t: t.unsqueeze(-1))
        same = torch.eye(y.shape[-1], dtype=torch.bool, device=y.lower.device)
        low, high = (end.clamp(min=-half, max=half) for end in (both.lower, both.upper))
        return Interval.unchecked(torch.where(same, own.lower, low), torch.where(same, own.upper, high))

    def _within(self, z: Interval, y: Interval, slope: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """Bounds of the values, intersected with those at corners where their slopes have signs."""
        low, high = (self._largest_value(z, b, s, arithmetic) for b, s in ((-slope, -1.0), (slope, 1.0)))
        return met(y, -low, high, arithmetic)

    def _at(self, at: Tensor, arithmetic: AbstractArithmetic) -> tuple[Interval, Interval]:
        """Bounds of n c and of 1 / (n s) at points (…, n): (…, n) and (…, 1)."""
        count, c = at.shape[-1], self._moved(Interval.unchecked(at, at), arithmetic)
        squares = sum_of(squares_of(c, arithmetic), arithmetic).map(lambda t: t / (count * count))
        size = Interval.unchecked(
            self._size(squares.lower, count, 3, arithmetic).lower, self._size(squares.upper, count, 3, arithmetic).upper
        )
        return c, divided(inverse_root(size, arithmetic), count, arithmetic)

    def _largest_value(self, z: Interval, slope: Interval, sign: float, arithmetic: AbstractArithmetic) -> Tensor:
        """Upper bounds of sign · y from bounds of its slopes."""
        at, rest = corners(z, slope, arithmetic)
        c, inverse = self._at(at, arithmetic)
        return _raised(arithmetic.product(c.map(_of_second), inverse.map(_first)), sign, rest, arithmetic)

    def _largest_slope(self, z: Interval, bend: Interval, sign: float, arithmetic: AbstractArithmetic) -> Tensor:
        """Upper bounds of sign · ∂y_i / ∂z_j from bounds of its derivatives."""
        at, rest = corners(z.map(_across), bend, arithmetic)
        c, inverse = self._at(at, arithmetic)
        inverse = inverse.map(_first)
        first, second = (arithmetic.product(c.map(part), inverse) for part in (_of_first, _of_second))
        flat = Interval.point(self._projection(z.lower))
        plain = arithmetic.sum([-arithmetic.product(first, second), flat])
        return _raised(arithmetic.product(plain, inverse), sign, rest, arithmetic)

    def _largest_along(
        self, z: Interval, bend: Interval, w: Interval, sign: float, arithmetic: AbstractArithmetic
    ) -> Tensor:
        """Upper bounds of sign times the derivatives along tangents, from bounds of their derivatives."""
        at, rest = corners(z, bend, arithmetic)
        c, inverse = self._at(at, arithmetic)
        y = arithmetic.product(c, inverse)
        dot = total_of(arithmetic.product(y, w.map(_across)), arithmetic).map(_first)
        dot = divided(dot, z.shape[-1], arithmetic)
        plain = arithmetic.sum([w, -arithmetic.product(y.map(_of_second), dot)])
        return _raised(arithmetic.product(plain, inverse.map(_first)), sign, rest, arithmetic)

    def _bends(self, y: Interval, inverse: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """Bounds of (3 y_i y_j y_k / n - P_ij y_k - P_ik y_j - P_jk y_i) / (n s²): (batch, rows, n, n, n)."""
        p, both = self._projection(y.lower), self.products(y, arithmetic)
        parts = (
            (p[:, :, None], y.map(lambda t: t[..., None, None, :])),
            (p[:, None, :], y.map(lambda t: t[..., None, :, None])),
            (p[None, :, :], y.map(lambda t: t[..., :, None, None])),
        )
        cubes = arithmetic.product(both.map(lambda t: t.unsqueeze(-1)), y.map(lambda t: t[..., None, None, :]))
        terms = [times_exact(cubes.lower.new_tensor(3.0), cubes, arithmetic)]
        terms += [-times_exact(weight, of, arithmetic) for weight, of in parts]
        scale = self._square(inverse, y.shape[-1], arithmetic).map(lambda t: t[..., None, None])
        return arithmetic.product(arithmetic.sum(terms), scale)

    def _bends_along(
        self, y: Interval, dot: Interval, w: Interval, inverse: Interval, arithmetic: AbstractArithmetic
    ) -> Interval:
        """Bounds of (3 y_i y_k q / n - w_i y_k - P_ik q - y_i w_k) / (n s²): (batch, L, rows, n, n)."""
        q = dot.map(lambda t: t.unsqueeze(-1))
        cubes = arithmetic.product(self.products(y, arithmetic), q)
        terms = [
            times_exact(cubes.lower.new_tensor(3.0), cubes, arithmetic),
            -arithmetic.product(w.map(lambda t: t.unsqueeze(-1)), y.map(_across)),
            -times_exact(self._projection(y.lower), q, arithmetic),
            -arithmetic.product(w.map(_across), y.map(lambda t: t.unsqueeze(-1))),
        ]
        scale = self._square(inverse, y.shape[-1], arithmetic).map(lambda t: t.unsqueeze(-1))
        return arithmetic.product(arithmetic.sum(terms), scale)

    def _square(self, inverse: Interval, count: int, arithmetic: AbstractArithmetic) -> Interval:
        """Bounds of 1 / (n s)²."""
        return squares_of(divided(inverse, count, arithmetic), arithmetic)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(1e-5, True), cls(1e-5, False), cls(0.1, True), cls(0.0, False)]


def _raised(found: Interval, sign: float, rest: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
    """Upper bounds of sign times numbers, plus remainders."""
    most = found.upper if sign > 0 else -found.lower
    return (arithmetic.exact(most) + arithmetic.exact(rest)).upper()


def _across(t: Tensor) -> Tensor:
    return t.unsqueeze(-2)


def _beside(t: Tensor) -> Tensor:
    return t.unsqueeze(1)


def _first(t: Tensor) -> Tensor:
    return t[..., 0]


def _of_first(t: Tensor) -> Tensor:
    """Entries (…, i, j, i)."""
    return t.diagonal(dim1=-3, dim2=-1).mT


def _of_second(t: Tensor) -> Tensor:
    """Entries (…, i, i), or (…, i, j, j)."""
    return t.diagonal(dim1=-2, dim2=-1)

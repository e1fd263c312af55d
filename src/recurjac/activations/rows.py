"""Functions of rows of numbers, softmax and normalisation, with closed forms of their ranges over boxes.

Everything here is computed in plain floating point; rigorous arithmetic does not use it (docs/mathematics.md, §3.11).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import reduce
from typing import Self, final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval

_CUBES = 2**22
"""The largest number of second derivatives that are formed."""
_ROUNDS = 2
"""How often bounds of slopes and of values are made from each other."""
_HALVINGS = 40
"""Bisection steps in the search for the middle with the least variance."""


class AbstractRowFunction(ABC):
    """A function of rows of n numbers; boxes have the shape (batch, rows, n), and may be unbounded."""

    @abstractmethod
    def value(self, z: Tensor) -> Tensor:
        """The values at points (…, n)."""

    @abstractmethod
    def value_range(self, z: Interval) -> Interval:
        """Bounds of the values over a box."""

    @abstractmethod
    def slope_range(self, z: Interval) -> Interval:
        """Bounds of the derivatives of each value by each number: (batch, rows, n, n)."""

    @abstractmethod
    def norm(self, z: Interval, p: float) -> Tensor:
        """Upper bounds of ‖J‖_{p→p}, p = 1, 2, ∞, where J is the Jacobian of a row: (batch, rows)."""

    def slope_along(self, z: Interval, tangents: Tensor) -> Interval:
        """Bounds of the derivatives along tangents (batch or 1, L, rows, n) at the rows: (batch, L, rows, n)."""
        slopes, ways = self.slope_range(z).map(lambda t: t.unsqueeze(1)), tangents.unsqueeze(-2)
        each = _times(slopes, Interval.unchecked(ways, ways))
        return each.map(lambda t: t.sum(-1))

    @classmethod
    @abstractmethod
    def examples(cls) -> list[Self]:
        """A few of this class, for the tests that run on every class."""


@final
@dataclass(frozen=True)
class SoftmaxRows(AbstractRowFunction):
    """p_i = exp(z_i) / Σ exp(z_j): every p_i p_j is extreme where all other numbers are at their ends."""

    def value(self, z: Tensor) -> Tensor:
        return z.softmax(-1)

    def value_range(self, z: Interval) -> Interval:
        low, high, known = _exponentials(z)
        least, most = low / (low + _others(high)[1]), high / (high + _others(low)[0])
        return _ordered(torch.where(known, least, 0.0), torch.where(known, most, 1.0))

    def slope_range(self, z: Interval) -> Interval:
        shares, count = self.value_range(z), z.shape[-1]
        ends = [p * (1 - p) for p in (shares.lower, shares.upper)]
        middle = shares.contains(torch.full_like(shares.lower, 0.5))
        own = torch.minimum(*ends), torch.where(middle, 0.25, torch.maximum(*ends))
        least, most = _products(z)
        same = torch.eye(count, dtype=torch.bool, device=z.lower.device)
        return _ordered(torch.where(same, own[0].unsqueeze(-1), -most), torch.where(same, own[1].unsqueeze(-1), -least))

    def norm(self, z: Interval, p: float) -> Tensor:
        """2 p_i (1 - p_i) is the absolute sum of a row and of a column, and bounds the eigenvalues (Gershgorin)."""
        shares = self.value_range(z)
        near = torch.minimum(torch.maximum(torch.full_like(shares.lower, 0.5), shares.lower), shares.upper)
        return (2 * near * (1 - near)).amax(-1)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


def _exponentials(z: Interval) -> tuple[Tensor, Tensor, Tensor]:
    """exp of both ends, less the largest upper end of the row, and (batch, rows, 1) where none of them is too small."""
    top = z.upper.amax(-1, keepdim=True)
    far = math.log(torch.finfo(top.dtype).max) / 2.5
    known = top.isfinite() & (z.lower.amin(-1, keepdim=True) > top - far)
    low, high = (torch.where(known, end - torch.where(known, top, 0.0), 0.0).exp() for end in (z.lower, z.upper))
    return low, high, known


def _error(numbers: Tensor) -> Tensor:
    """How far differences of sums of positive numbers may be off: (…, 1)."""
    return 4 * numbers.shape[-1] * torch.finfo(numbers.dtype).eps * numbers.sum(-1, keepdim=True)


def _others(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of the sum of all other numbers of a row, for positive numbers."""
    rest, error = numbers.sum(-1, keepdim=True) - numbers, _error(numbers)
    return (rest - error).clamp(min=0), rest + error


def _products(z: Interval) -> tuple[Tensor, Tensor]:
    """The least and the largest p_i p_j for i ≠ j: a b / (a + b + r)², where log of it is concave in log a and log b.

    It is least at corners with the largest rest r, and largest with the least r where a or b is at an end.
    """
    low, high, known = _exponentials(z)
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
    total = a + b + rest
    return (a / total) * (b / total)


@final
@dataclass(frozen=True)
class NormalisedRows(AbstractRowFunction):
    """y = c / √(mean of c² + eps), where c is the row, less its mean if `centred`."""

    eps: float
    centred: bool

    def value(self, z: Tensor) -> Tensor:
        c = self._centred(z)
        return c / (c.square().mean(-1, keepdim=True) + self.eps).sqrt()

    def value_range(self, z: Interval) -> Interval:
        y = self._by_distance(z)
        if z.lower.numel() * z.shape[-1] > _CUBES:
            return y
        for _ in range(_ROUNDS):
            y = self._within(z, y, self._by_length(y, self._inverse(z)))
        return y

    def slope_range(self, z: Interval) -> Interval:
        """By the values and the length, and where n is small by the derivatives of the slopes, in turns."""
        y, inverse = self.value_range(z), self._inverse(z)
        found = self._by_length(y, inverse)
        if z.lower.numel() * z.shape[-1] ** 2 > _CUBES:
            return found
        for _ in range(_ROUNDS):
            bend = self._bends(y, inverse)
            found = _met(found, -self._largest_slope(z, -bend, -1.0), self._largest_slope(z, bend, 1.0))
            y = self._within(z, y, found)
        return found

    def _by_distance(self, z: Interval) -> Interval:
        """y_i grows with the distance d of its number from the mean of the others, and falls with their variance."""
        count = z.shape[-1]
        most = math.sqrt(count - 1 if self.centred else count)
        if self.centred and count == 1:
            return Interval.point(torch.zeros_like(z.lower))
        share = 1 - 1 / count if self.centred else 1.0
        low, high = self._distances(z)
        least, largest = self._rests(z)
        ends = []
        for d in (high, -low):
            size = (share * d.square() + torch.where(d > 0, least, largest)) / count + self.eps
            y = share * d / torch.where(size > 0, size, 1.0).sqrt()
            ends.append(torch.where((size > 0) & y.isfinite(), y, most).clamp(-most, most))
        return _ordered(-ends[1], ends[0])

    def _by_length(self, y: Interval, inverse: Interval) -> Interval:
        """Bounds of (P - y yᵀ / n) / length, the Jacobian."""
        both = self._products(y)
        count, flat = y.shape[-1], self._projection(y.lower)
        plain = Interval.unchecked(flat - both.upper / count, flat - both.lower / count)
        return _times(plain, inverse.map(lambda t: t.unsqueeze(-1)))

    def _products(self, y: Interval) -> Interval:
        """Bounds of y_i y_j, which is at most n / 2 for i ≠ j, as Σ y² <= n."""
        count = y.shape[-1]
        both = _times(y.map(lambda t: t.unsqueeze(-1)), y.map(lambda t: t.unsqueeze(-2)))
        same = torch.eye(count, dtype=torch.bool, device=y.lower.device)
        low = torch.where(same, y.mignitude.square().unsqueeze(-1), both.lower.clamp(min=-count / 2))
        return Interval.unchecked(
            low, torch.where(same, y.magnitude.square().unsqueeze(-1), both.upper.clamp(max=count / 2))
        )

    def _within(self, z: Interval, y: Interval, slope: Interval) -> Interval:
        """Bounds of the values, intersected with those at corners where their slopes have signs."""
        return _met(y, -self._largest_value(z, -slope, -1.0), self._largest_value(z, slope, 1.0))

    def _largest_value(self, z: Interval, slope: Interval, sign: float) -> Tensor:
        """Upper bounds of sign · y from bounds of its slopes."""
        at, rest = _corners(z, slope)
        c = self._centred(at)
        size = (c.square().mean(-1) + self.eps).sqrt()
        return sign * c.diagonal(dim1=-2, dim2=-1) / size + rest

    def slope_along(self, z: Interval, tangents: Tensor) -> Interval:
        """(w - y q / n) / length with w = P t and q = y · t, and by its derivatives, as for single slopes."""
        count, p = z.shape[-1], self._projection(z.lower)
        w = tangents @ p
        y, inverse = (i.map(lambda t: t.unsqueeze(1)) for i in (self.value_range(z), self._inverse(z)))
        box = z.map(lambda t: t.unsqueeze(1))
        other = _times(_dots(box, w), inverse)
        dot = _met(_dots(y, w), other.lower, other.upper)
        product = _times(y, dot)
        plain = Interval.unchecked(w - product.upper / count, w - product.lower / count)
        found = _times(plain, inverse)
        if found.lower.numel() * count > _CUBES:
            return found
        bend = self._bends_along(y, dot, w, inverse)
        return _met(found, -self._largest_along(box, -bend, w, -1.0), self._largest_along(box, bend, w, 1.0))

    def _largest_along(self, z: Interval, bend: Interval, w: Tensor, sign: float) -> Tensor:
        """Upper bounds of sign times the derivatives along tangents, from bounds of their derivatives."""
        at, rest = _corners(z, bend)
        c = self._centred(at)
        size = (c.square().mean(-1) + self.eps).sqrt()
        along = (c * w.unsqueeze(-2)).sum(-1) / (z.shape[-1] * size**3)
        return sign * (w / size - c.diagonal(dim1=-2, dim2=-1) * along) + rest

    def _bends_along(self, y: Interval, dot: Interval, w: Tensor, inverse: Interval) -> Interval:
        """Bounds of (3 y_i y_k q / n - w_i y_k - P_ik q - y_i w_k) / (n length²): (batch, L, rows, n, n)."""
        count, p = y.shape[-1], self._projection(y.lower)
        cubes = _times(self._products(y), dot.map(lambda t: t.unsqueeze(-1)))
        low, high = 3 / count * cubes.lower, 3 / count * cubes.upper
        parts = (
            (w.unsqueeze(-1), y.map(lambda t: t.unsqueeze(-2))),
            (p, dot.map(lambda t: t.unsqueeze(-1))),
            (w.unsqueeze(-2), y.map(lambda t: t.unsqueeze(-1))),
        )
        for weight, of in parts:
            up, down = weight.clamp(min=0), weight.clamp(max=0)
            low, high = low - up * of.upper - down * of.lower, high - up * of.lower - down * of.upper
        return _times(Interval.unchecked(low, high), inverse.map(lambda t: (t.square() / count).unsqueeze(-1)))

    def norm(self, z: Interval, p: float) -> Tensor:
        """The Jacobian is a projection times a contraction, over the length; its rows have at most √n as much."""
        most = self._inverse(z).upper[..., 0]
        if p == 2:
            return most
        most = most * math.sqrt(z.shape[-1])
        if z.lower.numel() * z.shape[-1] > _CUBES:
            return most
        return torch.minimum(most, self.slope_range(z).magnitude.sum(-1).amax(-1))

    def _centred(self, z: Tensor) -> Tensor:
        return z - z.mean(-1, keepdim=True) if self.centred else z

    def _projection(self, like: Tensor) -> Tensor:
        """P, the Jacobian of c: (n, n)."""
        count = like.shape[-1]
        unit = torch.eye(count, dtype=like.dtype, device=like.device)
        return unit - 1 / count if self.centred else unit

    def _distances(self, z: Interval) -> tuple[Tensor, Tensor]:
        """The range of z_i less the mean of the other numbers, or of z_i."""
        if not self.centred:
            return z.lower, z.upper
        others = [(e.sum(-1, keepdim=True) - e) / (z.shape[-1] - 1) for e in (z.lower, z.upper)]
        return z.lower - others[1], z.upper - others[0]

    def _rests(self, z: Interval) -> tuple[Tensor, Tensor]:
        """Bounds of the sum of squares of all other numbers, less their mean if centred."""
        if not self.centred:
            return _others(z.mignitude.square())[0], _others(z.magnitude.square())[1]
        count = z.shape[-1]
        pairs = z.lower.numel() * count
        weights = 1 - torch.eye(count, dtype=z.lower.dtype, device=z.lower.device)
        if pairs > _CUBES:
            return torch.zeros_like(z.lower), _others(_largest(z))[1]
        return _least_squares(z.map(lambda t: t.unsqueeze(-2)), weights), _others(_largest(z))[1]

    def _inverse(self, z: Interval) -> Interval:
        """The range of 1 / √(mean of c² + eps): (batch, rows, 1)."""
        count = z.shape[-1]
        if self.centred:
            least = _least_squares(z, torch.ones_like(z.lower[0, 0])).unsqueeze(-1)
            most = _largest(z).sum(-1, keepdim=True)
        else:
            least, most = (t.square().sum(-1, keepdim=True) for t in (z.mignitude, z.magnitude))
        low, high = (
            torch.where(t.isnan(), other, t) / count + self.eps for t, other in ((least, 0.0), (most, math.inf))
        )
        return Interval.unchecked(
            1 / high.sqrt(), torch.where(low > 0, 1 / torch.where(low > 0, low, 1.0).sqrt(), math.inf)
        )

    def _bends(self, y: Interval, inverse: Interval) -> Interval:
        """Bounds of (3 y_i y_j y_k / n - P_ij y_k - P_ik y_j - P_jk y_i) / (n length²): (batch, rows, n, n, n)."""
        count, p, both = y.shape[-1], self._projection(y.lower), self._products(y)
        parts = (
            (p[:, :, None], y.map(lambda t: t[..., None, None, :])),
            (p[:, None, :], y.map(lambda t: t[..., None, :, None])),
            (p[None, :, :], y.map(lambda t: t[..., :, None, None])),
        )
        cubes = _times(both.map(lambda t: t.unsqueeze(-1)), y.map(lambda t: t[..., None, None, :]))
        low, high = 3 / count * cubes.lower, 3 / count * cubes.upper
        for weight, of in parts:
            up, down = weight.clamp(min=0), weight.clamp(max=0)
            low, high = low - up * of.upper - down * of.lower, high - up * of.lower - down * of.upper
        return _times(Interval.unchecked(low, high), inverse.map(lambda t: (t.square() / count)[..., None, None]))

    def _largest_slope(self, z: Interval, bend: Interval, sign: float) -> Tensor:
        """Upper bounds of sign · ∂y_i / ∂z_j from bounds of its derivatives."""
        at, rest = _corners(z.map(lambda t: t.unsqueeze(-2)), bend)
        c = self._centred(at)
        size = (c.square().mean(-1) + self.eps).sqrt()
        first, second = c.diagonal(dim1=-3, dim2=-1).mT, c.diagonal(dim1=-2, dim2=-1)
        return sign * (self._projection(z.lower) / size - first * second / (z.shape[-1] * size**3)) + rest

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(1e-5, True), cls(1e-5, False), cls(0.1, True), cls(0.0, False)]


def _corners(z: Interval, slope: Interval) -> tuple[Tensor, Tensor]:
    """Points (…, n) of a box, and remainders, such that functions with these slopes are at most their values there plus
    the remainder.

    A function whose slope along an axis is between -a and b rises from the point c of [l, u] by at most a (c - l) to
    one side and b (u - c) to the other.  Both are a b (u - l) / (a + b) if c - l = (u - l) b / (a + b) (Baumann).
    """
    low, width = z.lower.unsqueeze(-2), (z.upper - z.lower).unsqueeze(-2)
    down, up = (-slope.lower).clamp(min=0), slope.upper.clamp(min=0)
    share = up / torch.where(down + up > 0, down + up, 1.0)
    at = torch.where(share == 1, z.upper.unsqueeze(-2), low + share * width)
    return at, (share * down * width).sum(-1)


def _met(known: Interval, lower: Tensor, upper: Tensor) -> Interval:
    """The intersection with other bounds, of which NaN says nothing."""
    lower, upper = torch.where(lower.isnan(), -torch.inf, lower), torch.where(upper.isnan(), torch.inf, upper)
    return _ordered(torch.maximum(known.lower, lower), torch.minimum(known.upper, upper))


def _least_squares(z: Interval, weights: Tensor) -> Tensor:
    """A lower bound of min over x in z, and over m, of Σ w_k (x_k - m)², which is convex in m: (…,) or (…, rows)."""
    shape = torch.broadcast_shapes(z.shape, weights.shape)
    lower, upper = (e.expand(shape) for e in (z.lower, z.upper))
    low, high = lower.amin(-1, keepdim=True), upper.amax(-1, keepdim=True)
    bounded = low.isfinite() & high.isfinite()
    low, high = (torch.where(bounded, e, 0.0) for e in (low, high))
    left, right = low, high
    with torch.no_grad():
        for _ in range(_HALVINGS):
            middle = left / 2 + right / 2
            rising = (weights * ((middle - upper).clamp(min=0) - (lower - middle).clamp(min=0))).sum(-1, keepdim=True)
            left, right = torch.where(rising > 0, left, middle), torch.where(rising > 0, middle, right)
    middle = (left / 2 + right / 2).detach()
    gap = (middle - upper).clamp(min=0) - (lower - middle).clamp(min=0)
    tilt = 2 * (weights * gap).sum(-1).abs() * (high - low)[..., 0]
    found = (weights * gap.square()).sum(-1) - tilt
    return torch.where(bounded[..., 0] & found.isfinite(), found.clamp(min=0), 0.0)


def _largest(z: Interval) -> Tensor:
    """The largest (x_k - m)² for a number m, of which the sum bounds that of squares of differences from the mean."""
    middle = (z.lower / 2 + z.upper / 2).mean(-1, keepdim=True)
    return torch.maximum((z.lower - middle).square(), (z.upper - middle).square())


def _dots(z: Interval, weights: Tensor) -> Interval:
    """Bounds of Σ w_k x_k for x in a box: (…, 1)."""
    up, down = weights.clamp(min=0), weights.clamp(max=0)
    ends = ((up, z.lower, down, z.upper), (up, z.upper, down, z.lower))
    low, high = ((a * x + b * y).sum(-1, keepdim=True) for a, x, b, y in ends)
    return _ordered(low, high)


def _times(a: Interval, b: Interval) -> Interval:
    """Interval products; 0 times infinity is 0."""
    pairs = [(x, y) for x in (a.lower, a.upper) for y in (b.lower, b.upper)]
    corners = [torch.where((x == 0) | (y == 0), 0.0, x * y) for x, y in pairs]
    return Interval.unchecked(reduce(torch.minimum, corners), reduce(torch.maximum, corners))


def _ordered(lower: Tensor, upper: Tensor) -> Interval:
    """The interval between two bounds, which rounding may have crossed; NaN says nothing."""
    lower, upper = torch.where(lower.isnan(), -torch.inf, lower), torch.where(upper.isnan(), torch.inf, upper)
    return Interval.unchecked(torch.minimum(lower, upper), torch.maximum(lower, upper))

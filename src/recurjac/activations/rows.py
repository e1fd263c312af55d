"""Functions of rows of numbers, softmax, normalisation and length, with closed forms of their ranges over boxes.

Source: docs/mathematics.md, §3.11.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import reduce
from typing import Self, final

import torch
from torch import Tensor

from recurjac.activations.row_bounds import others_of, squares_of, sum_of, total_of
from recurjac.activations.softmax_bounds import Exponentials
from recurjac.arithmetic import AbstractArithmetic, Interval, root_of, with_derivative_of


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

    @classmethod
    @abstractmethod
    def examples(cls) -> list[Self]:
        """A few of this class, for the tests that run on every class."""


@final
@dataclass(frozen=True)
class SoftmaxRows(AbstractRowFunction):
    """p_i = exp(z_i) / Σ exp(z_j): every p_i p_j is extreme where all other numbers are at their ends."""

    @property
    def rigorous(self) -> bool:
        return True

    def value(self, z: Tensor) -> Tensor:
        return z.softmax(-1)

    def value_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        low, high, known = _exponentials(z)
        least, most = low / (low + _others(high)[1]), high / (high + _others(low)[0])
        found = _ordered(torch.where(known, least, 0.0), torch.where(known, most, 1.0))
        return _proved(found, Exponentials.of(z, arithmetic).values()) if arithmetic.rigorous else found

    def slope_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        shares, count = self.value_range(z, arithmetic), z.shape[-1]
        ends = [p * (1 - p) for p in (shares.lower, shares.upper)]
        middle = shares.contains(torch.full_like(shares.lower, 0.5))
        own = torch.minimum(*ends), torch.where(middle, 0.25, torch.maximum(*ends))
        least, most = _products(z)
        same = torch.eye(count, dtype=torch.bool, device=z.lower.device)
        found = _ordered(
            torch.where(same, own[0].unsqueeze(-1), -most), torch.where(same, own[1].unsqueeze(-1), -least)
        )
        return _proved(found, Exponentials.of(z, arithmetic).slopes()) if arithmetic.rigorous else found

    def norm(self, z: Interval, p: float, arithmetic: AbstractArithmetic) -> Tensor:
        """2 p_i (1 - p_i) is the absolute sum of a row and of a column, and bounds the eigenvalues (Gershgorin)."""
        shares = self.value_range(z, arithmetic)
        near = torch.minimum(torch.maximum(torch.full_like(shares.lower, 0.5), shares.lower), shares.upper)
        most = 2 * near * (1 - near)
        return (arithmetic.at_least(most, 2)).amax(-1)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


@final
@dataclass(frozen=True)
class LengthRows(AbstractRowFunction):
    """The length |z| as the first value of a row, and 0 as all others; its derivatives z_j / |z| are not beyond ±1.

    Where z may be 0, they are all numbers from -1 to 1, as Clarke's are there.
    """

    @property
    def rigorous(self) -> bool:
        return True

    def value(self, z: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
        return torch.cat([length, torch.zeros_like(z[..., 1:])], -1)

    def value_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        found = _root(sum_of(squares_of(z, arithmetic), arithmetic), arithmetic)
        return found.map(lambda t: torch.cat([t, torch.zeros_like(z.lower[..., 1:])], -1))

    def slope_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        first, count = self._first(z, arithmetic), z.shape[-1]
        place = torch.zeros(count, 1, dtype=z.lower.dtype, device=z.lower.device)
        place[0] = 1.0
        return first.map(lambda t: t.unsqueeze(-2) * place)

    def _first(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """Of the length: z_j / √(z_j² + r) grows with z_j, and its size falls with r, the sum of the other squares."""
        squares = squares_of(z, arithmetic)
        least, most = others_of(squares.lower, arithmetic).lower, others_of(squares.upper, arithmetic).upper
        origin = ((z.lower <= 0) & (z.upper >= 0)).all(-1, keepdim=True)
        low, high = (_share_of_length(end, least, most, arithmetic) for end in (-z.lower, z.upper))
        return Interval.unchecked(torch.where(origin, -1.0, -low), torch.where(origin, 1.0, high))

    def norm(self, z: Interval, p: float, arithmetic: AbstractArithmetic) -> Tensor:
        """J has the row z / |z|, whose length is 1."""
        if p < math.inf:
            return torch.ones_like(z.lower[..., 0])
        sizes = self._first(z, arithmetic).magnitude
        most = arithmetic.rounded(root_of(sizes.new_tensor(float(z.shape[-1]))), 2).upper
        return torch.minimum(arithmetic.at_least(sizes.sum(-1), z.shape[-1]), most)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


def _root(squares: Interval, arithmetic: AbstractArithmetic) -> Interval:
    """Bounds of roots of numbers >= 0, which may be infinite."""
    low, high = squares.lower.clamp(min=0), squares.upper
    known = [(t > 0) & t.isfinite() for t in (low, high)]
    roots = [arithmetic.rounded(root_of(torch.where(k, t, 1.0)), 2) for k, t in zip(known, (low, high), strict=True)]
    return Interval.unchecked(
        torch.where(known[0], roots[0].lower, 0.0),
        torch.where(known[1], roots[1].upper, torch.where(high == 0, 0.0, math.inf)),
    )


def _share_of_length(end: Tensor, least: Tensor, most: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
    """Upper bounds of t / √(t² + r), where t <= `end` and r is between `least` and `most`, unless both may be 0."""
    square, size = squares_of(Interval.point(end), arithmetic), end.abs()
    root = _root(arithmetic.sum([square, Interval.unchecked(least, most)]), arithmetic)
    near = arithmetic.rounded(size / torch.where(root.lower > 0, root.lower, 1.0), 1).upper
    above = torch.where((root.lower > 0) & end.isfinite(), near.clamp(max=1.0), 1.0)
    far = arithmetic.rounded(size / torch.where(root.upper > 0, root.upper, 1.0), 1).lower
    below = torch.where(root.upper.isfinite() & (root.upper > 0), far.clamp(min=0.0, max=1.0), 0.0)
    return torch.where(end > 0, above, -below)


def _proved(found: Interval, proved: Interval) -> Interval:
    """Proved bounds with the derivatives of those found."""
    return Interval.unchecked(
        with_derivative_of(found.lower, proved.lower), with_derivative_of(found.upper, proved.upper)
    )


def _across(t: Tensor) -> Tensor:
    return t.unsqueeze(-2)


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


def _ordered(lower: Tensor, upper: Tensor) -> Interval:
    """The interval between two bounds, which rounding may have crossed; NaN says nothing."""
    lower, upper = torch.where(lower.isnan(), -torch.inf, lower), torch.where(upper.isnan(), torch.inf, upper)
    return Interval.unchecked(torch.minimum(lower, upper), torch.maximum(lower, upper))

"""The operations that an arithmetic defines, and those derived from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic.ball import Ball, product_error
from recurjac.arithmetic.interval import Interval, all_finite, in_order, no_nan
from recurjac.errors import expect_counts

MEMORY = 2**26
"""The default limit for the coefficient tensors of one sweep on a CPU, in bytes."""


def check_memory(owner: str, memory: int | None) -> None:
    """Raise InvalidRequest unless this is a number of bytes, or None."""
    if memory is not None:
        expect_counts(owner, memory=memory)


class AbstractArithmetic(ABC):
    """How numbers are computed: whether rounding is covered, and how much memory one sweep may take (bytes).

    memory: None for 64 MiB on a CPU, and an eighth of the free memory on a CUDA device, where calls are expensive.
    """

    memory: int | None

    @property
    def title(self) -> str:
        """The name for provenance."""
        return type(self).__name__

    @property
    @abstractmethod
    def rigorous(self) -> bool:
        """Whether results hold in real arithmetic."""

    @abstractmethod
    def exact(self, tensor: Tensor) -> Ball:
        """The ball that is exactly `tensor`."""

    @abstractmethod
    def ball(self, mid: Tensor, rad: Tensor) -> Ball:
        """The ball of radius `rad` around `mid` (a proved error; ignored by `Fast`)."""

    @abstractmethod
    def weigh(self, weights: Tensor, numbers: Tensor) -> Ball:
        """Σ over the node of exact weights (B, K, R, *node) times numbers (B, K, *node), all finite: (B, K, R)."""

    @abstractmethod
    def at_least(self, computed: Tensor, operations: int) -> Tensor:
        """An upper bound of a non-negative expression whose value `computed` has at most `operations` roundings.

        Products may underflow, but a result of 0 must be exact.
        """

    @abstractmethod
    def at_most(self, computed: Tensor, operations: int) -> Tensor:
        """A lower bound of a non-negative expression whose value `computed` has at most `operations` roundings."""

    @abstractmethod
    def rounded(self, computed: Tensor, operations: int) -> Interval:
        """Bounds of numbers that were computed by so many products, quotients and roots, with their signs.

        The sign of a computed 0 is that of the number; results may overflow and underflow, but no partial result does
        unless the final one does.  Without operations they are exact.  Source: docs/mathematics.md, §8.1.
        """

    @abstractmethod
    def crossed(self, lower: Tensor, upper: Tensor) -> Interval:
        """The interval between two bounds of the same number that cross somewhere; neither is NaN.

        Raises UnsoundBounds if they are proved.  Unproved ones are swapped, because rounding can make them cross.
        """

    @final
    def memory_on(self, device: torch.device) -> int:
        """The limit for the coefficient tensors of one sweep on that device, in bytes."""
        if self.memory is not None:
            return self.memory
        return MEMORY if device.type != "cuda" else max(MEMORY, torch.cuda.mem_get_info(device)[0] // 8)

    @final
    def enclose(self, lower: Tensor, upper: Tensor) -> Interval:
        """The interval between two bounds of the same number; a NaN bound is replaced by an infinite one.

        Raises UnsoundBounds where proved bounds cross.
        """
        if lower.shape == upper.shape and in_order(lower, upper):
            return Interval.unchecked(lower, upper)
        return self.crossed(no_nan(lower, -torch.inf), no_nan(upper, torch.inf))

    @final
    def between(self, lower: Ball, upper: Ball) -> Interval:
        """The interval from the lower end of `lower` to the upper end of `upper`."""
        return self.enclose(lower.lower(), upper.upper())

    @final
    def intersect(self, a: Interval, b: Interval) -> Interval:
        """The intersection; both must contain the same exact number."""
        return self.enclose(torch.maximum(a.lower, b.lower), torch.minimum(a.upper, b.upper))

    @final
    def midrad(self, interval: Interval) -> tuple[Tensor, Tensor]:
        """m and s such that [m - s, m + s] contains the (finite) interval."""
        mid = torch.add(interval.lower / 2, interval.upper, alpha=0.5)
        if not self.rigorous:
            return mid, torch.add(interval.upper / 2, interval.lower, alpha=-0.5)
        low = self.exact(mid) - self.exact(interval.lower)
        high = self.exact(interval.upper) - self.exact(mid)
        return mid, torch.maximum(low.upper(), high.upper())

    @final
    def scaled(self, value: Ball, slope: Tensor) -> Ball:
        """The value times exact numbers that broadcast to it, without rounding if all of them are 0 or 1."""
        if bool(((slope == 0) | (slope == 1)).all()):
            return value.map(lambda t: t * slope)
        return value * self.exact(slope)

    @final
    def product(self, a: Interval, b: Interval) -> Interval:
        """The interval of all products of a number in `a` and a number in `b`; 0 times infinity is 0.

        Rounding is monotone, so that the least product that is computed is that of the least one, and its error counts.
        Computed as 0, it may have underflowed if it is negative, and then some factors have opposite signs.
        """
        pairs = [(x, y) for x in _ends(a) for y in _ends(b)]
        if not all_finite([a.lower, a.upper, b.lower, b.upper]):
            corners = [self._limits(*torch.broadcast_tensors(x, y)) for x, y in pairs]
            lower = reduce(torch.minimum, (low for low, _ in corners))
            return self.enclose(lower, reduce(torch.maximum, (high for _, high in corners)))
        products = [x * y for x, y in pairs]
        least, most = reduce(torch.minimum, products), reduce(torch.maximum, products)
        if not self.rigorous:
            return self.enclose(least, most)
        low = self.ball(least, product_error(least, (least == 0) & ~_have_opposite_signs(a, b)))
        high = self.ball(most, product_error(most, (most == 0) & ~_have_opposite_signs(a, -b)))
        return self.between(low, high)

    @final
    def multiple(self, number: Tensor, slope: Ball) -> tuple[Ball, Ball]:
        """Lower and upper bounds of `number` times the exact value of `slope`; 0 times infinity is 0."""
        if all_finite([number]):
            product = self.exact(number) * slope
            return product, product
        limits = self.product(Interval.point(number), self.between(slope, slope))
        return self.exact(limits.upper), self.exact(limits.lower)

    @final
    def _times(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        product = self.exact(x) * self.exact(y)
        return product.lower(), product.upper()

    @final
    def _limits(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of x y; infinite factors are handled separately, because autograd would compute 0 times infinity."""
        infinite = x.isinf() | y.isinf()
        limit = (x.detach() * y.detach()).nan_to_num(0.0, torch.inf, -torch.inf)
        low, high = self._times(torch.where(infinite, 0.0, x), torch.where(infinite, 0.0, y))
        return torch.where(infinite, limit, low), torch.where(infinite, limit, high)

    @final
    def matmul(self, a: Interval, b: Interval) -> Interval:
        """An interval that contains A Bᵀ for all matrices in `a` (..., m, n) and `b` (..., k, n): (..., m, k).

        With midpoints and half-widths, |A Bᵀ - a bᵀ| <= |a| sᵀ + r (|b| + s)ᵀ (Rump 1999, BIT 39, 534).  An infinite
        end makes every entry that depends on it unbounded.
        """
        (mid, half), (other, rest) = self.midrad(a), self.midrad(b)
        centre, size = self.exact(mid).matmul(self.exact(other)), self.exact(other.abs()) + self.exact(rest)
        spread = self.exact(mid.abs()).matmul(self.exact(rest)) + self.exact(half).matmul(size)
        return self.between(centre - spread, centre + spread)

    @final
    def sum(self, intervals: Sequence[Interval]) -> Interval:
        """The interval of all sums of one number from each interval."""
        lower, upper = self.exact(intervals[0].lower), self.exact(intervals[0].upper)
        for term in intervals[1:]:
            lower, upper = lower + self.exact(term.lower), upper + self.exact(term.upper)
        return self.between(lower, upper)


def _ends(interval: Interval) -> tuple[Tensor, ...]:
    """The two ends, or the only number in every entry where they are one tensor."""
    return (interval.lower,) if interval.lower is interval.upper else (interval.lower, interval.upper)


def _have_opposite_signs(a: Interval, b: Interval) -> Tensor:
    """Whether the product of a number in `a` and a number in `b` is negative."""
    return ((a.lower < 0) & (b.upper > 0)) | ((a.upper > 0) & (b.lower < 0))

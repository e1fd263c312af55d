"""Bounds of sums of squares over boxes of rows, and of functions by their derivatives, with their rounding.

`AbstractArithmetic` says whether rounding is covered.  Source: docs/mathematics.md, §3.11.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Interval, root_of
from recurjac.tensors import broadcast_shape

_HALVINGS = 40
"""Bisection steps in the search for the middle with the least variance."""


def corners(z: Interval, slope: Interval, arithmetic: AbstractArithmetic) -> tuple[Tensor, Tensor]:
    """Points (…, n) of a box, and remainders, such that functions with these slopes are at most their values there plus
    the remainder.

    A function whose slope along an axis is between -a and b rises from the point c of [l, u] by at most a (c - l) to
    one side and b (u - c) to the other.  Both are a b (u - l) / (a + b) if c - l = (u - l) b / (a + b) (Baumann).
    """
    low, high = z.lower.unsqueeze(-2), z.upper.unsqueeze(-2)
    down, up = (-slope.lower).clamp(min=0), slope.upper.clamp(min=0)
    share = up / torch.where(down + up > 0, down + up, 1.0)
    at = torch.where(share == 1, high, torch.minimum(low + share * (high - low), high))
    point = arithmetic.exact(at)
    below, above = (point - arithmetic.exact(low)).upper(), (arithmetic.exact(high) - point).upper()
    rises = torch.maximum(_product_up(down, below, arithmetic), _product_up(up, above, arithmetic))
    return at, arithmetic.at_least(rises.sum(-1), at.shape[-1])


def _product_up(a: Tensor, b: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
    """Upper bounds of products of numbers >= 0."""
    return (arithmetic.exact(a) * arithmetic.exact(b)).upper()


def squares_of(z: Interval, arithmetic: AbstractArithmetic) -> Interval:
    """Bounds of the squares."""
    least, most = z.mignitude, z.magnitude
    return Interval.unchecked(arithmetic.at_most(least.square(), 1), _product_up(most, most, arithmetic))


def sum_of(squares: Interval, arithmetic: AbstractArithmetic) -> Interval:
    """Bounds of the sum of numbers >= 0 over the last dimension: (…, 1)."""
    low, high = (t.sum(-1, keepdim=True) for t in (squares.lower, squares.upper))
    return Interval.unchecked(arithmetic.at_most(low, squares.shape[-1]), arithmetic.at_least(high, squares.shape[-1]))


def others_of(numbers: Tensor, arithmetic: AbstractArithmetic) -> Interval:
    """Bounds of the sum of all other numbers of a row, for numbers >= 0."""
    whole, own = sum_of(Interval.unchecked(numbers, numbers), arithmetic), arithmetic.exact(numbers)
    low, high = (arithmetic.exact(whole.lower) - own).lower(), (arithmetic.exact(whole.upper) - own).upper()
    return Interval.unchecked(
        torch.where(low.isnan(), 0.0, low).clamp(min=0), torch.where(high.isnan(), torch.inf, high)
    )


def least_squares(z: Interval, weights: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
    """A lower bound of min over x in z, and over m, of Σ w_k (x_k - m)², for w = 0 or 1: (…,) or (…, rows).

    It is convex in m, and so not below any of its tangents between the least and the largest end.
    """
    shape = broadcast_shape(z.shape, weights.shape)
    lower, upper = (e.expand(shape) for e in (z.lower, z.upper))
    low, high = lower.amin(-1, keepdim=True), upper.amax(-1, keepdim=True)
    bounded = low.isfinite() & high.isfinite()
    low, high = (torch.where(bounded, e, 0.0) for e in (low, high))
    with torch.no_grad():
        middle = _middle(lower, upper, weights, low, high)
    above, below = weights * (middle - upper).clamp(min=0), weights * (lower - middle).clamp(min=0)
    count = shape[-1]
    rise, fall = (_rounded_sum(t, count + 2, arithmetic) for t in (above, below))
    tilt = torch.maximum(
        (arithmetic.exact(rise.upper) - arithmetic.exact(fall.lower)).upper(),
        (arithmetic.exact(fall.upper) - arithmetic.exact(rise.lower)).upper(),
    ).clamp(min=0)
    width = (arithmetic.exact(high) - arithmetic.exact(low)).upper()[..., 0]
    most_tilt = _product_up(2 * tilt, width, arithmetic)
    least = arithmetic.at_most((above.square() + below.square()).sum(-1), count + 4)
    found = (arithmetic.exact(least) - arithmetic.exact(most_tilt)).lower()
    return torch.where(bounded[..., 0] & found.isfinite(), found.clamp(min=0), 0.0)


def _rounded_sum(numbers: Tensor, operations: int, arithmetic: AbstractArithmetic) -> Interval:
    """Bounds of the sum of numbers >= 0 over the last dimension, with so many roundings in all."""
    found = numbers.sum(-1)
    return Interval.unchecked(arithmetic.at_most(found, operations), arithmetic.at_least(found, operations))


def _middle(lower: Tensor, upper: Tensor, weights: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """An m at which Σ w_k max(l_k - m, m - u_k, 0)² is about least; nothing depends on how well."""
    for _ in range(_HALVINGS):
        middle = left / 2 + right / 2
        rising = (weights * ((middle - upper).clamp(min=0) - (lower - middle).clamp(min=0))).sum(-1, keepdim=True)
        left, right = torch.where(rising > 0, left, middle), torch.where(rising > 0, middle, right)
    return left / 2 + right / 2


def largest_squares(z: Interval, arithmetic: AbstractArithmetic) -> Tensor:
    """The largest (x_k - m)² for a number m, of which the sum bounds that of squares of differences from the mean."""
    middle = arithmetic.exact((z.lower / 2 + z.upper / 2).mean(-1, keepdim=True))
    below, above = (middle - arithmetic.exact(z.lower)).upper(), (arithmetic.exact(z.upper) - middle).upper()
    far = torch.maximum(below, above).clamp(min=0)
    return _product_up(far, far, arithmetic)


def inverse_root(size: Interval, arithmetic: AbstractArithmetic) -> Interval:
    """Bounds of 1 / √s for numbers s >= 0."""
    low, high = (1 / root_of(torch.where((t > 0) & t.isfinite(), t, 1.0)) for t in (size.lower, size.upper))
    least, most = arithmetic.at_most(high, 3), arithmetic.at_least(low, 3)
    known = (size.upper > 0) & size.upper.isfinite()
    return Interval.unchecked(
        torch.where(known & least.isfinite(), least, 0.0),
        torch.where((size.lower > 0) & most.isfinite(), most, torch.inf),
    )


def divided(z: Interval, number: float, arithmetic: AbstractArithmetic) -> Interval:
    """Bounds of the quotients by a number that is exact in the dtype; some devices multiply by its reciprocal."""
    return Interval.unchecked(
        arithmetic.rounded(z.lower / number, 2).lower, arithmetic.rounded(z.upper / number, 2).upper
    )


def times_exact(weights: Tensor, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
    """Bounds of finite numbers times those of an interval."""
    low, high = (arithmetic.exact(weights) * arithmetic.exact(end) for end in (z.lower, z.upper))
    lower, upper = torch.minimum(low.lower(), high.lower()), torch.maximum(low.upper(), high.upper())
    if bool(z.lower.isfinite().all() & z.upper.isfinite().all()):
        return Interval.unchecked(lower, upper)
    zero = weights == 0
    return Interval.unchecked(torch.where(zero, 0.0, lower), torch.where(zero, 0.0, upper))


def total_of(each: Interval, arithmetic: AbstractArithmetic) -> Interval:
    """Bounds of the sum over the last dimension: (…, 1)."""
    ones = arithmetic.exact(torch.ones(1, each.shape[-1], dtype=each.lower.dtype, device=each.lower.device))
    return arithmetic.between(*(arithmetic.exact(end).matmul(ones) for end in (each.lower, each.upper)))


def met(known: Interval, lower: Tensor, upper: Tensor, arithmetic: AbstractArithmetic) -> Interval:
    """The intersection with other bounds, of which NaN says nothing."""
    lower, upper = torch.where(lower.isnan(), -torch.inf, lower), torch.where(upper.isnan(), torch.inf, upper)
    return arithmetic.enclose(torch.maximum(known.lower, lower), torch.minimum(known.upper, upper))

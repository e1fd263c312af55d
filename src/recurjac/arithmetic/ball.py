"""Balls (a midpoint with a rounding radius), and their sums and products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from math import prod
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic.interval import MoveTensor
from recurjac.arithmetic.rounding import (
    RoundUp,
    gamma_of,
    grow,
    growth_of,
    least_nonzero,
    over_underflow_,
    round_up,
    tiny_of,
    zero_of,
)


@runtime_checkable
class LinearMap(Protocol):
    """What arithmetic needs to know about a linear operator A (`operators.AbstractLeaf`)."""

    @property
    def in_shape(self) -> Shape: ...
    @property
    def summands(self) -> int: ...
    def least_coefficient(self) -> float: ...
    def apply(self, tensor: Tensor) -> Tensor: ...
    def absolute(self) -> LinearMap: ...


_Pairing = Callable[[Tensor, Tensor], Tensor]
"""A result of two tensors."""


@final
@dataclass(frozen=True)
class Ball:
    """A tensor and a bound of its error: |exact - mid| <= rad; with `rad` None nothing is claimed (`Fast`).

    `rad` broadcasts against `mid` and carries no gradient.  An infinite `mid` is exact if `rad` is 0.  Otherwise it
    overflowed and carries no information; nor does NaN.
    """

    mid: Tensor
    rad: Tensor | None

    @property
    def shape(self) -> torch.Size:
        return self.mid.shape

    def upper(self) -> Tensor:
        """A number not below the exact value."""
        if self.rad is None or self.exact:
            return self.mid
        if not self.mid.requires_grad:
            return round_up(self.mid, self.rad)
        return RoundUp.apply(self.mid, self.rad.expand_as(self.mid))  # type: ignore[no-any-return,no-untyped-call]

    def lower(self) -> Tensor:
        """A number not above the exact value."""
        return self.mid if self.rad is None or self.exact else -(-self).upper()

    @property
    def exact(self) -> bool:
        """Whether the value is known to be exactly `mid` (and is not NaN)."""
        return self.rad is zero_of(self.mid.dtype, self.mid.device)

    @cached_property
    def size(self) -> Tensor:
        """|mid|, without its derivative."""
        return _plain(self.mid).abs()

    def _size(self, gamma: float) -> Tensor:
        """|mid| + rad / gamma in two roundings; 0 only where both are 0."""
        return self.size if self.rad is None or self.exact else torch.add(self.size, self.rad, alpha=1 / gamma)

    @cached_property
    def cover(self) -> Tensor:
        """`_size` for products that are summed over the last dimension, and one number that is added to them."""
        return self._size(gamma_of(self.shape[-1] + 1, self.mid.dtype))

    def map(self, move: MoveTensor) -> Ball:
        """The same value after `move` (a reshape, a permutation, an index) of its entries."""
        if self.rad is None or self.exact:
            return Ball(move(self.mid), self.rad)
        rad = self.rad if self.rad.shape == self.mid.shape else self.rad.expand_as(self.mid)
        return Ball(move(self.mid), move(rad))

    def to(self, dtype: torch.dtype, device: torch.device) -> Ball:
        """The same numbers, converted to `dtype`."""
        if self.exact:
            return Ball(self.mid.to(dtype=dtype, device=device), zero_of(dtype, device))
        return self.map(lambda t: t.to(dtype=dtype, device=device))

    def known_from(self, row: int) -> Ball:
        """The same value, where the rows from index `row` on are known to be exact."""
        if self.rad is None or self.exact:
            return self
        rad = self.rad.expand_as(self.mid).clone()
        rad[row:] = 0
        return Ball(self.mid, rad)

    def __neg__(self) -> Ball:
        return Ball(-self.mid, self.rad)

    def __add__(self, other: Ball) -> Ball:
        return self._sum(other, self.mid + other.mid)

    def __sub__(self, other: Ball) -> Ball:
        return self._sum(other, self.mid - other.mid)

    def _sum(self, other: Ball, mid: Tensor) -> Ball:
        if self.rad is None or other.rad is None:
            return Ball(mid, None)
        u = torch.finfo(mid.dtype).eps / 2
        rad = self.rad if other.exact else other.rad if self.exact else self.rad + other.rad
        size = _plain(mid).abs()
        return Ball(mid, torch.add(rad, size, alpha=u, out=size).mul_(growth_of(5, mid.dtype)))

    def __mul__(self, other: Ball) -> Ball:
        mid = self.mid * other.mid
        if self.rad is None or other.rad is None:
            return Ball(mid, None)
        u = torch.finfo(mid.dtype).eps / 2
        if self.exact and other.exact:
            return Ball(mid, product_error(mid, (self.mid == 0) | (other.mid == 0)))
        a, b = self.size, other.size
        if self.exact or other.exact:
            size, off = (a, other.rad) if self.exact else (b, self.rad)
            rad = torch.add(size * off, _plain(mid).abs(), alpha=u)
            some = (a > 0) & (b + other.rad > 0) if self.exact else (b > 0) & (a + self.rad > 0)
        else:
            some = (a + self.rad > 0) & (b + other.rad > 0)
            rad = a * other.rad + b * self.rad + self.rad * other.rad + u * _plain(mid).abs()
        return Ball(mid, _covering(rad, 6, ~some))

    def linear(self, operator: LinearMap) -> Ball:
        """The value of `operator` A applied to this one, (..., *in) -> (..., *out).

        |A v - fl(A mid)| <= |A| rad + gamma |A| |mid| + underflow = gamma |A| (|mid| + rad / gamma) + underflow.
        """
        mid = operator.apply(self.mid)
        if self.rad is None:
            return Ball(mid, None)
        n = operator.summands
        if n == 0:
            return Ball(mid, self.rad if self.exact else operator.absolute().apply(self.rad.expand_as(self.mid)))
        with torch.no_grad():
            gamma, absolute = gamma_of(n, mid.dtype), operator.absolute()
            size = self._size(gamma)
            sums = absolute.apply(size)
            rad = over_underflow_(
                sums, n, gamma, lambda: least_nonzero(size) * absolute.least_coefficient(),
                lambda: absolute.apply(size.sign()),
            )  # fmt: skip
        return Ball(mid, rad)

    def dot(self, rows: Ball) -> Ball:
        """The product of forms (B, K, R, *node) with one row (B, K, *node) each, summed over the node: (B, K, R).

        Dimensions B and K of either may be 1.  0 times infinity is NaN, no bound: see `relaxations.Intercepts`.
        """
        ours = self if self.mid.dim() == 4 else self.map(lambda t: t.reshape(*t.shape[:3], prod(t.shape[3:])))
        theirs = rows if rows.mid.dim() == 3 else rows.map(lambda t: t.reshape(*t.shape[:2], prod(t.shape[2:])))
        several = ours.shape[:2] != (1, 1) and broadcasts(theirs.shape[:2], ours.shape[:2])
        if several and ours.exact and theirs.exact:
            return _contracted_once(ours.mid, theirs.mid)
        return _contracted(rows_times, ours, theirs)

    def matmul(self, matrix: Ball) -> Ball:
        """This value (..., n) times the transpose of a matrix (m, n) that is known up to its radius: (..., m)."""
        return _contracted(matrix_times, self, matrix)


def _plain(tensor: Tensor) -> Tensor:
    """`tensor` detached from its derivative."""
    return tensor.detach() if tensor.requires_grad else tensor


def product_error(product: Tensor, zero: Tensor) -> Tensor:
    """The error of a product of two numbers that was computed as `product`, or 0 where `zero`: it is exact there."""
    return _covering(_plain(product).abs().mul_(torch.finfo(product.dtype).eps / 2), 2, zero)


def _covering(radius: Tensor, operations: int, zero: Tensor) -> Tensor:
    """A computed `radius` of products with its own roundings and what may underflow, or 0 where `zero`."""
    return grow(radius, operations).add_(4 * tiny_of(radius)).masked_fill_(zero, 0.0)


def broadcasts(shape: torch.Size, other: torch.Size) -> bool:
    """Whether a tensor of `shape` broadcasts to `other`, with the same number of dimensions, without enlarging it."""
    return len(shape) == len(other) and all(s in (1, n) for s, n in zip(shape, other, strict=True))


def rows_times(forms: Tensor, rows: Tensor) -> Tensor:
    """Forms (B, K, R, n) times rows (B, K, n), summed over n: (B, K, R); dimensions B and K of either may be 1."""
    if rows.shape[:2] == (1, 1):
        return torch.matmul(forms, rows.reshape(-1))
    if forms.shape[:2] == (1, 1):
        return torch.matmul(rows, forms[0, 0].mT)
    if forms.shape[1] == 1:
        return torch.matmul(rows, forms[:, 0].mT)
    if broadcasts(rows.shape[:2], forms.shape[:2]):
        return torch.matmul(rows.unsqueeze(2), forms.mT).squeeze(2)  # several times as fast as with columns
    return torch.einsum("bkrn,bkn->bkr", forms, rows)


def nonnegative_sum(terms: Sequence[tuple[Tensor, Tensor]]) -> Ball:
    """The sum of exact forms (B, K, R, n) times exact rows (B, K, n), where every product is >= 0.

    The sum is then also the sum of the magnitudes that its rounding error is proportional to.
    """
    mid = reduce(torch.add, (rows_times(w, r) for w, r in terms))
    n = sum(w.shape[-1] for w, _ in terms)
    if n == 0:
        return Ball(mid, torch.zeros_like(mid))
    with torch.no_grad():
        rad = over_underflow_(
            mid.detach().clone(), n, gamma_of(n, mid.dtype),
            lambda: min(least_nonzero(w) * least_nonzero(r) for w, r in terms),
            lambda: reduce(torch.add, (rows_times(w.sign(), r.sign()) for w, r in terms)),
        )  # fmt: skip
    return Ball(mid, rad)


def matrix_times(forms: Tensor, matrix: Tensor) -> Tensor:
    return torch.matmul(forms, matrix.mT)


def _contracted(how: _Pairing, ours: Ball, theirs: Ball) -> Ball:
    """The product `how`, which sums over the last dimension of both.  With radii r and s of a and b,

    |a| s + r (|b| + s) + gamma |a| |b|  <=  gamma (|a| + r / gamma) (|b| + s / gamma)      for gamma <= 1.
    """
    mid = how(ours.mid, theirs.mid)
    if ours.rad is None or theirs.rad is None:
        return Ball(mid, None)
    n = ours.shape[-1]
    if n == 0:
        return Ball(mid, torch.zeros_like(mid))
    with torch.no_grad():
        gamma, a, b = gamma_of(n + 1, mid.dtype), ours.cover, theirs.cover
        rad = over_underflow_(
            how(a, b), n, gamma, lambda: least_nonzero(a) * least_nonzero(b), lambda: how(a.sign(), b.sign())
        )
    return Ball(mid, rad)


def _contracted_once(forms: Tensor, rows: Tensor) -> Ball:
    """The product `rows_times` of exact forms and rows that broadcast to them, with its error.

    The products of numbers are computed once for their sum and for that of their sizes.  Of small matrices, one for
    each sample, a library takes longer.
    """
    live, n = forms.requires_grad or rows.requires_grad, forms.shape[-1]
    products = forms * rows.unsqueeze(2)
    mid = products.sum(-1)
    with torch.no_grad():
        rad = over_underflow_(
            (products.abs() if live else products.abs_()).sum(-1), n, gamma_of(n, mid.dtype),
            lambda: least_nonzero(forms) * least_nonzero(rows),
            lambda: rows_times(forms.sign().abs_(), rows.sign().abs_()),
        )  # fmt: skip
    return Ball(mid, rad)


def summed(values: Sequence[Ball]) -> Ball:
    """The sum of k values that broadcast to each other, with the error gamma_k Σ |mid| + Σ rad."""
    if len(values) == 1:
        return values[0]
    same = all(v.shape == values[0].shape for v in values)
    mids = torch.stack([v.mid for v in values] if same else torch.broadcast_tensors(*(v.mid for v in values)))
    mid, k, dtype = mids.sum(0), len(values), mids.dtype
    if any(v.rad is None for v in values):
        return Ball(mid, None)
    with torch.no_grad():
        rads = [v.rad for v in values if v.rad is not None and not v.exact]
        rad = mids.abs().sum(0).mul_(gamma_of(k, dtype))
        return Ball(mid, reduce(torch.add, rads, rad).mul_(growth_of(2 * k + 2, dtype)))


def concatenate(values: Sequence[Ball], dim: int) -> Ball:
    """The values concatenated along `dim`."""
    mid = torch.cat([v.mid for v in values], dim)
    if all(v.exact for v in values):
        return Ball(mid, values[0].rad)
    rads = [v.rad.expand_as(v.mid) for v in values if v.rad is not None]
    return Ball(mid, torch.cat(rads, dim) if rads else None)

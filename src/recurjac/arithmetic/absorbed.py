"""Rounding errors of linear forms, absorbed where they are made by magnitudes that are known there.

A form a·z with z = Aᵀ h becomes a form c·h, c = fl(A a), of another node.  c is taken as exact from there on.  What was
lost by that is at most |fl(A a) - A a| · m at every point where |h| <= m, and by the package's docstring

    |fl(A a) - A a| · m  <=  (γ_n |A| |a| + n η) · m  =  γ_n |a| · (|A|ᵀ m) + n η Σ m.

|A|ᵀ m is one vector for all forms.  So a form pays one inner product of |a|, and the errors of several nodes add up;
radii of coefficients would grow with the product of all |A|.  An entry that is 0 because no product reaches it is
exact, also where m is infinite.

Source: docs/mathematics.md, §8; Higham, Accuracy and Stability of Numerical Algorithms, ch. 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from math import isfinite, prod
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic.ball import Ball, LinearMap, rows_times
from recurjac.arithmetic.interval import MoveTensor
from recurjac.arithmetic.rounding import gamma_of, growth_of, least_of, negligible
from recurjac.tensors import broadcast_shape

_MORE = 1 + 2.0**-20
"""A factor that covers the few roundings of a number that underflow may cost, which need not be tight."""


@runtime_checkable
class Transposable(LinearMap, Protocol):
    """A linear operator A that has a transpose."""

    @property
    def out_shape(self) -> Shape: ...
    def transpose(self) -> LinearMap: ...


@final
@dataclass(frozen=True)
class Sizes:
    """What the rounding of an operator O costs forms a, where the forms O a belong to a vector h with |h| <= m:

        |fl(O a) - O a| · m  <=  γ_N |a| · numbers + lost,      N = roundings,

    for all exact a (..., *in), also if O is a composition.  Where a is 0 at all entries with numbers > 0, nothing is
    lost.  At first, O is the identity, and `numbers` is m.

    numbers: (..., *in), upper bounds of |O|ᵀ m; they may be infinite.  lost: what underflow may lose, for every form.
    """

    numbers: Tensor
    roundings: int
    lost: float

    @classmethod
    def of(cls, sizes: Tensor, sums: int = 0) -> Sizes:
        """Known magnitudes m (..., *node).

        sums: how many other terms the results of O are added to at most, in any order: with N products each is one of a
        sum of N + `sums` terms, of which some may be sums already.
        """
        return cls(sizes.detach(), sums, 0.0)

    @classmethod
    def of_row(cls, row: Ball, dims: int) -> Sizes:
        """For inner products with one row (B, K, *node) that is known up to its radius, as `before_matrix`."""
        lead = row.mid.dim() - dims
        n = prod(row.shape[lead:]) + 1
        with torch.no_grad():
            size = _wide(row, n)
            return cls(size, n, 2 * n * torch.finfo(size.dtype).tiny)

    def rounded(self) -> Sizes:
        """The same for fl(s a), which is taken as the form: one product more for each entry.

        |fl(s a) - s a| <= u |fl(s a)| + η if a and s are not 0.
        """
        return Sizes(self.numbers, self.roundings + 1, self._lost(1))

    def before(self, operator: Transposable) -> Sizes:
        """The same for O A, where A is applied first.

        With b = fl(A a), |b - A a| <= e = γ_n |A| |a| + n η at entries that some product reaches, and |b| <= |A a| + e.
        With v = |O|ᵀ m,

            |fl(O b) - O A a| · m  <=  γ_N |b| · v + lost + e · v
                                   <=  (γ_N + γ_n + γ_N γ_n) |a| · (|A|ᵀ v) + (1 + γ_N) n η Σ v + lost,

        and γ_N + γ_n + γ_N γ_n <= γ_{N + n} (Higham, Lemma 3.3).  γ_N < 1 wherever it is finite.
        """
        n = operator.summands
        with torch.no_grad():
            numbers = _image_up(operator.transpose().absolute(), self.numbers)
            return Sizes(numbers, self.roundings + n, self._lost(2 * n))

    def before_matrix(self, matrix: Ball) -> Sizes:
        """`before` for any matrix (out, n) within the radius of `matrix`, for vectors.

        The radius r adds r |a| = γ (r / γ) |a|, as if |A| were larger by r / γ, for the γ of all roundings.
        """
        n = matrix.shape[-1] + 1
        with torch.no_grad():
            size = _wide(matrix, self.roundings + n)
            numbers = _apart(self.numbers, lambda t: _sum_up(lambda m: m @ size, t, len(size)), lambda t: t @ size)
            return Sizes(numbers, self.roundings + n, self._lost(2 * n))

    def reshaped(self, dims: int, shape: Sequence[int]) -> Sizes:
        """The same, where the last `dims` dimensions are viewed as `shape`."""
        lead = self.numbers.shape[: self.numbers.dim() - dims]
        return Sizes(self.numbers.reshape(*lead, *shape), self.roundings, self.lost)

    def _lost(self, products: int) -> float:
        """What underflow loses if so many more products go into each entry; infinite entries cost infinity anyway."""
        if products == 0:
            return self.lost
        tiny = float(torch.finfo(self.numbers.dtype).tiny)
        return (self.lost + _sum_of_finite(self.numbers) * products * tiny + tiny) * _MORE


@final
@dataclass(frozen=True)
class Loss:
    """What rounding costs a form a: at most |a| · weights, and `floor` if some product of that sum is not 0.

    Where |a| meets an infinite weight, it costs infinity; 0 times infinity is 0.

    weights: (B, K, n), at least the smallest normal number where they are not 0.  floor: for every form.
    """

    weights: Tensor
    floor: float

    @classmethod
    def of(cls, parts: Sequence[Sizes], dims: int) -> Loss:
        """The loss of forms of a node with so many dimensions that several operators are applied to, (B, K, *node)."""
        weights, floor = torch.zeros(()), 0.0
        with torch.no_grad():
            for part in parts:
                if part.roundings:
                    numbers = part.numbers.reshape(*part.numbers.shape[: part.numbers.dim() - dims], -1)
                    own = _at_least(numbers, gamma_of(part.roundings, numbers.dtype))
                    weights, floor = own + weights if weights.dim() else own, (part.lost + floor) * _MORE
            return cls(weights * growth_of(len(parts) + 4, weights.dtype), floor)

    @classmethod
    def each(cls, sizes: Tensor, dims: int) -> Loss:
        """The loss of errors e (B, K, R, *node), which is |e| · m, of a node with so many dimensions."""
        return cls(_at_least(sizes.detach().reshape(*sizes.shape[: sizes.dim() - dims], -1), 1.0), 0.0)

    @property
    def free(self) -> bool:
        """Whether nothing is ever lost."""
        return self.weights.dim() == 0

    @cached_property
    def infinite(self) -> Tensor | None:
        """1 where a weight is infinite (or NaN), 0 elsewhere; None if all are finite."""
        if isfinite(self._total):
            return None
        unknown = ~self.weights.isfinite()
        return unknown.to(self.weights.dtype) if bool(unknown.any()) else None

    @cached_property
    def _total(self) -> float:
        """The sum of the weights, which are >= 0."""
        return float(self.weights.sum())

    @cached_property
    def finite(self) -> Tensor:
        return self.weights if self.infinite is None else torch.where(self.weights.isfinite(), self.weights, 0.0)

    @cached_property
    def reached(self) -> Tensor:
        """1 where a weight is not 0, else 0."""
        return self.weights.sign()

    def with_constants(self, constants: Tensor) -> Loss:
        """The loss beside that of an inner product with `constants` (B, K, n), both of two parts of the forms."""
        size = constants.detach().abs()
        n = 2 * size.shape[-1] + 1
        floor = (self.floor + 2 * n * torch.finfo(size.dtype).tiny) * _MORE
        return Loss((self.weights + _at_least(size, gamma_of(n, size.dtype))) * growth_of(2, size.dtype), floor)

    def at(self, index: Tensor) -> Loss:
        """The loss of forms that are 0 except at the flat positions `index`."""
        return self if self.free else Loss(self.weights.index_select(2, index), self.floor)

    def times(self, slope: Tensor) -> Loss:
        """The loss of fl(s a) as one of a, for slopes s (B, K, n); `rounded` is for the product itself.

        Where the slope is 0, nothing is lost, also of what is infinite otherwise.
        """
        if self.free:
            return self
        size, least = slope.detach().abs(), float(torch.finfo(slope.dtype).tiny)
        met = size.sign()
        weights = torch.mul(self.finite, size).mul_(growth_of(3, size.dtype)).addcmul_(met, self.reached, value=least)
        if self.infinite is not None:
            weights = torch.where(met * self.infinite > 0, torch.inf, weights)
        # fl(s a) may be larger than s a by underflow, at most by the smallest normal number
        return Loss(weights, (self.floor + _sum_of_finite(self.finite, self._total) * least + least) * _MORE)


@final
@dataclass(frozen=True)
class Charges:
    """What forms meet at lines: inner products of their parts >= 0 and <= 0 with two rows each, computed as one.

    rows: (2, B, K, 2, n), for parts >= 0, then for parts <= 0: constants, and the finite weights of the loss with the
    sign of the part.  above, below: those losses.
    """

    rows: Tensor
    above: Loss
    below: Loss

    @classmethod
    def of(cls, loss: Loss, slopes: tuple[Tensor, Tensor], constants: tuple[Tensor | None, Tensor | None]) -> Charges:
        """The loss past slopes for parts >= 0 and <= 0, beside constants for these; all (B, K, n), detached and finite.

        None stands for constants that are 0.
        """
        shape = broadcast_shape(*(t.shape for t in (*slopes, loss.weights, *constants) if t is not None))
        both = torch.stack([s.expand(shape) for s in slopes])
        past = loss if not loss.free else Loss(both.new_zeros(shape), 0.0)
        past = past.times(both)
        if all(c is None for c in constants):
            fixed = torch.zeros_like(both)
        else:
            fixed = torch.stack([torch.zeros_like(s).expand(shape) if c is None else c.expand(shape)
                                 for s, c in zip(slopes, constants, strict=True)])  # fmt: skip
            past = past.with_constants(fixed)
        signs = torch.tensor([1.0, -1.0], dtype=both.dtype, device=both.device).reshape(2, 1, 1, 1)
        above, below = (Loss(w, past.floor) for w in past.weights)
        return cls(torch.stack([fixed, past.finite * signs], 3), above, below)

    @cached_property
    def _alone(self) -> Sequence[Tensor] | None:
        """The rows for parts >= 0 and those <= 0, (2, n) each, if they are the same for all samples and covectors."""
        return self.rows.flatten(1, 2).squeeze(1).unbind() if self.rows.shape[1:3] == (1, 1) else None

    def met(self, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """The constants of forms, given by their parts (B, K, R, n), and what they pay: (B, K, R).  No gradients."""
        with torch.no_grad():
            constants, sums = self._products(positive, negative)
            return constants, _covered(sums, [(positive, self.above), (negative, self.below)])

    def _products(self, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        rows, lead, n = self.rows, positive.shape[:3], positive.shape[3]
        if self._alone is not None:
            above, below = self._alone
            found = torch.mm(above, positive.reshape(-1, n).mT).addmm_(below, negative.reshape(-1, n).mT)
            constants, sums = found.reshape(2, *lead)
            return constants, sums
        if lead[1] == 1:
            found = torch.matmul(rows[0].flatten(1, 2), positive[:, 0].mT)
            found = found + torch.matmul(rows[1].flatten(1, 2), negative[:, 0].mT)
            found = found.reshape(len(found), rows.shape[2], 2, lead[2])
        else:
            found = (torch.matmul(positive, rows[0].mT) + torch.matmul(negative, rows[1].mT)).mT
        return found[:, :, 0], found[:, :, 1]


def paid(terms: Sequence[tuple[Tensor, Loss]]) -> Tensor:
    """What forms lose that are the sums of some parts, given by coefficients (B, K, R, *node) of one sign: (B, K, R).

    Without gradients.  NaN where some coefficient is infinite or NaN, which proves nothing.
    """
    with torch.no_grad():
        parts = [(part.detach().flatten(3), loss) for part, loss in terms if not loss.free]
        if not parts:
            return torch.zeros((), dtype=terms[0][0].dtype, device=terms[0][0].device)
        return _covered(_met([(part, loss.finite) for part, loss in parts]), parts)


def _covered(sums: Tensor, parts: Sequence[tuple[Tensor, Loss]]) -> Tensor:
    """What forms lose, from the computed sums of |part| · finite weights >= 0, (B, K, R)."""
    n, dtype = sum(part.shape[-1] for part, _ in parts), sums.dtype
    floor = (sum(loss.floor for _, loss in parts) + n * float(torch.finfo(dtype).tiny)) * _MORE
    if negligible(2 * floor, least_of(sums), dtype):
        found = sums * growth_of(n + 10, dtype)
    else:
        met = _met([(part, loss.reached) for part, loss in parts]) > 0
        found = torch.add(sums * growth_of(n + 6, dtype), met.to(dtype), alpha=floor * growth_of(4, dtype))
    open_ = [(part, loss.infinite) for part, loss in parts if loss.infinite is not None]
    return torch.where(_met(open_) > 0, torch.inf, found) if open_ else found


def radius_beside(own: Ball, others: int) -> Tensor:
    """The radius of numbers that are rounded, with what they lose when so many others are added to them, in any order.

    k additions change each term of the sum by at most γ_k times it; a sum of two numbers does not underflow.
    """
    rad = own.size.new_zeros(()) if own.rad is None else own.rad
    if others == 0:
        return rad.expand_as(own.size)
    return (rad + _at_least(own.size, gamma_of(others, own.size.dtype))) * growth_of(2, own.size.dtype)


def _met(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Σ |part| · weights for parts (B, K, R, n) of one sign each and weights (B, K, n) >= 0."""
    return reduce(torch.add, (rows_times(part, weights).abs_() for part, weights in parts))


def _wide(known: Ball, n: int) -> Tensor:
    """An upper bound of |mid| + rad / γ_n, or of the sum of both where γ_n is infinite; 0 only where both are 0."""
    size = known.mid.detach().abs()
    if known.rad is None or known.exact:
        return size
    return torch.add(size, known.rad, alpha=1 / min(1.0, gamma_of(n, size.dtype))).mul_(growth_of(3, size.dtype))


def _image_up(absolute: LinearMap, sizes: Tensor) -> Tensor:
    """An upper bound of |A| m for m >= 0, which may be infinite (0 times infinity is 0).

    It is 0 only where |A| m is.
    """
    return _apart(sizes, lambda t: _sum_up(absolute.apply, t, absolute.summands), absolute.apply)


def _sum_up(times: MoveTensor, sizes: Tensor, n: int) -> Tensor:
    """An upper bound of the sums of at most n products >= 0 that `times` computes of finite numbers.

    Where it is not 0 in exact arithmetic, it is at least the smallest normal number.
    """
    sums = times(sizes)
    if n == 0:
        return sums
    grown, least = sums * growth_of(n + 4, sums.dtype), 2 * (n + 1) * torch.finfo(sums.dtype).tiny
    zero = sums == 0
    if not bool(zero.any()):
        return grown.add_(least)
    return grown.add_((~zero | (times(sizes.sign()) > 0)).to(sums.dtype), alpha=least)


def _apart(sizes: Tensor, up: MoveTensor, meet: MoveTensor) -> Tensor:
    """`up` of the finite numbers, and infinity where an infinite one is met."""
    infinite = sizes.isinf()
    if not bool(infinite.any()):
        return up(sizes)
    return torch.where(meet(infinite.to(sizes.dtype)) > 0, torch.inf, up(torch.where(infinite, 0.0, sizes)))


def _sum_of_finite(numbers: Tensor, total: float | None = None) -> float:
    """An upper bound of the sum of those numbers >= 0 that are finite; infinite if it overflows.

    total: their sum, if it was computed.
    """
    grown = growth_of(numbers.numel() + 2, numbers.dtype)
    total = float(numbers.sum()) if total is None else total
    return (total if isfinite(total) else float(torch.where(numbers.isfinite(), numbers, 0.0).sum())) * grown


def _at_least(numbers: Tensor, factor: float) -> Tensor:
    """An upper bound of numbers >= 0 times a factor > 0, not subnormal; 0 only where the number is."""
    info = torch.finfo(numbers.dtype)
    return torch.where(numbers > 0, numbers * (factor * (1 + 4 * info.eps)) + info.tiny, 0.0)

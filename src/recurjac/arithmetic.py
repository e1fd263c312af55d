"""Intervals, values with a rounding radius, and the two arithmetics: the only file that thinks about rounding.

The truth is the stored network's operations in real arithmetic.  A product computed in working precision obeys, in any
order of summation and with or without fused multiply-adds,

    |fl(W c) - W c|  <=  gamma_n |W| |c| + n eta,      gamma_n = n u / (1 - n u)

(Higham, Accuracy and Stability of Numerical Algorithms, ch. 3), u the unit roundoff.  For eta we take the smallest
*normal* number, so that products that are flushed to zero are covered; sums of two numbers never underflow, as long as
subnormal numbers exist (`check_matmul`).  Sums of non-negative
numbers are computed with relative error gamma, hence every radius below is computed from non-negative terms and then
grown by `_grow`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, reduce
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.errors import InvalidRequest, UnsoundBounds

MEMORY = 2**26
"""Bytes that the coefficient tensors of one sweep may take by default."""


@final
@dataclass(frozen=True)
class Interval:
    """All numbers between `lower` and `upper`, element by element; infinite ends are allowed, NaN is not.

    Raises UnsoundBounds unless lower <= upper everywhere.
    """

    lower: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        if self.lower.shape != self.upper.shape:
            raise UnsoundBounds(
                f"an interval needs ends of one shape, not {tuple(self.lower.shape)} and {tuple(self.upper.shape)}"
            )
        if not _in_order(self.lower, self.upper):
            at = tuple(int(i) for i in (~(self.lower <= self.upper)).nonzero()[0])
            raise UnsoundBounds(
                f"lower bound {float(self.lower[at].detach())!r} is not at most upper bound "
                f"{float(self.upper[at].detach())!r} at index {at}; please report this, with the network"
            )

    @classmethod
    def _of(cls, lower: Tensor, upper: Tensor) -> Interval:
        """The interval between ends of one shape that are known to be in order, without another look."""
        interval = object.__new__(cls)
        object.__setattr__(interval, "lower", lower)
        object.__setattr__(interval, "upper", upper)
        return interval

    @classmethod
    def point(cls, value: Tensor) -> Interval:
        """The interval that holds `value` alone."""
        return cls(value, value)

    @property
    def shape(self) -> torch.Size:
        return self.lower.shape

    @property
    def width(self) -> Tensor:
        """upper - lower, 0 where both ends are equal (also at infinity)."""
        return torch.where(self.lower == self.upper, 0.0, self.upper - self.lower)

    @property
    def magnitude(self) -> Tensor:
        """The largest absolute value in the interval."""
        return torch.maximum(self.lower.abs(), self.upper.abs())

    @property
    def mignitude(self) -> Tensor:
        """The smallest absolute value in the interval."""
        return torch.maximum(self.lower, -self.upper).clamp(min=0)

    @property
    def is_point(self) -> Tensor:
        return self.lower == self.upper

    def contains(self, value: Tensor) -> Tensor:
        """True where `value` lies inside; NaN never does."""
        return (self.lower <= value) & (value <= self.upper)

    def map(self, move: MoveTensor) -> Interval:
        """The same interval after `move` (a reshape, a permutation, an index) of both ends."""
        return Interval._of(move(self.lower), move(self.upper))

    def reshape(self, *shape: int) -> Interval:
        return Interval._of(self.lower.reshape(*shape), self.upper.reshape(*shape))

    def __getitem__(self, index: Any) -> Interval:
        return Interval._of(self.lower[index], self.upper[index])

    def __neg__(self) -> Interval:
        return Interval._of(-self.upper, -self.lower)


def _in_order(lower: Tensor, upper: Tensor) -> bool:
    """Whether lower <= upper everywhere; false where either is NaN."""
    return bool((lower <= upper).all())


@runtime_checkable
class MoveTensor(Protocol):
    """A function that moves the entries of a tensor without changing them."""

    def __call__(self, tensor: Tensor, /) -> Tensor: ...


@runtime_checkable
class LinearMap(Protocol):
    """What arithmetic needs to know of a linear operator A (`operators.AbstractLeaf`)."""

    @property
    def in_shape(self) -> Shape: ...
    @property
    def summands(self) -> int: ...
    def apply(self, tensor: Tensor) -> Tensor: ...
    def absolute(self) -> LinearMap: ...


_Pairing = Callable[[Tensor, Tensor], Tensor]
"""A result of two tensors."""
_Meeting = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Two tensors shaped to broadcast."""


def _growth(operations: int, dtype: torch.dtype) -> float:
    """What a non-negative expression computed in so many roundings is multiplied with, to be at least the exact one.

    (1 + u)^k / (1 - u) <= 1 + 2 (k + 2) u for k u <= 1/4, and 1 + (k + 2) eps is a floating-point number; underflow is
    the caller's.  Past k u = 1/4 nothing is claimed: infinity.
    """
    eps = torch.finfo(dtype).eps
    return float("inf") if operations * eps > 0.5 else 1 + (operations + 2) * eps


def _grow(radius: Tensor, operations: int) -> Tensor:
    """At least the exact value of a non-negative expression computed as `radius` in at most `operations` roundings."""
    growth = _growth(operations, radius.dtype)
    return radius * growth if growth < torch.inf else torch.full_like(radius, torch.inf)


def _gamma(n: int, dtype: torch.dtype) -> float:
    """gamma_n of the module's docstring (infinite where the theorem does not hold)."""
    u = torch.finfo(dtype).eps / 2
    return n * u / (1 - n * u) if n * u < 0.5 else float("inf")


def _tiny(tensor: Tensor) -> float:
    return float(torch.finfo(tensor.dtype).tiny)


@cache
def _zero(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The radius of exact values: this very tensor, so that they are told by identity."""
    return torch.zeros((), dtype=dtype, device=device)


@cache
def _infinity(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((), torch.inf, dtype=dtype, device=device)


def _round_up(mid: Tensor, rad: Tensor) -> Tensor:
    """mid + rad rounded upwards, infinite if `mid` overflowed or is NaN."""
    # mid - mid is NaN where mid is infinite or NaN
    total = torch.nextafter(mid + rad + (mid - mid), _infinity(mid.dtype, mid.device))
    return torch.where(rad == 0, mid, total).nan_to_num_(torch.inf, torch.inf, -torch.inf)


class _RoundUp(torch.autograd.Function):
    """`_round_up`, whose derivative is that of mid."""

    @staticmethod
    def forward(ctx: Any, mid: Tensor, rad: Tensor) -> Tensor:  # noqa: ARG004  # (torch fixes the signature)
        return _round_up(mid, rad)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:  # noqa: ARG004  # (torch fixes the signature)
        return grads[0], None


@final
@dataclass(frozen=True)
class Value:
    """A tensor and how far the exact one may be: |exact - mid| <= rad; `rad` None makes no claim (`Fast`).

    `rad` broadcasts against `mid` and carries no gradient.  An infinite `mid` is exact if `rad` is 0, otherwise it
    overflowed and says nothing; neither does NaN.
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
            return _round_up(self.mid, self.rad)
        return _RoundUp.apply(self.mid, self.rad.expand_as(self.mid))  # type: ignore[no-any-return,no-untyped-call]

    def lower(self) -> Tensor:
        """A number not above the exact value."""
        return self.mid if self.rad is None or self.exact else -(-self).upper()

    @property
    def exact(self) -> bool:
        """Whether the value is known to be `mid` itself (and is not NaN, which is no number)."""
        return self.rad is _zero(self.mid.dtype, self.mid.device)

    def _size(self, gamma: float) -> Tensor:
        """|mid| + rad / gamma in two roundings; 0 only where both are 0."""
        size = self.mid.detach().abs()
        return size if self.rad is None or self.exact else size.add_(self.rad, alpha=1 / gamma)

    def map(self, move: MoveTensor) -> Value:
        """The same value after `move` (a reshape, a permutation, an index) of its entries."""
        if self.rad is None or self.exact:
            return Value(move(self.mid), self.rad)
        return Value(move(self.mid), move(self.rad.expand_as(self.mid)))

    def known_from(self, row: int) -> Value:
        """The same value, whose rows from number `row` on are known not to be rounded."""
        if self.rad is None or self.exact:
            return self
        rad = self.rad.expand_as(self.mid).clone()
        rad[row:] = 0
        return Value(self.mid, rad)

    def __neg__(self) -> Value:
        return Value(-self.mid, self.rad)

    def __add__(self, other: Value) -> Value:
        return self._sum(other, self.mid + other.mid)

    def __sub__(self, other: Value) -> Value:
        return self._sum(other, self.mid - other.mid)

    def _sum(self, other: Value, mid: Tensor) -> Value:
        if self.rad is None or other.rad is None:
            return Value(mid, None)
        u = torch.finfo(mid.dtype).eps / 2
        rad = self.rad if other.exact else other.rad if self.exact else self.rad + other.rad
        return Value(mid, mid.detach().abs().mul_(u).add_(rad).mul_(_growth(5, mid.dtype)))

    def plus_and_minus_(self, other: Value) -> Value:
        """This value (B, K, 2 R, *node) plus `other` (B, K, R, *node) in its first half and minus it in the second.

        Made in the memory of this value, which is gone thereafter.
        """
        r = other.shape[2]
        self.mid[:, :, :r] += other.mid
        self.mid[:, :, r:] -= other.mid
        if self.rad is None or other.rad is None:
            return Value(self.mid, None)
        with torch.no_grad():
            rad = self.mid.abs().mul_(torch.finfo(self.mid.dtype).eps / 2).add_(self.rad)
            if not other.exact:
                rad[:, :, :r] += other.rad
                rad[:, :, r:] += other.rad
            return Value(self.mid, rad.mul_(_growth(5, rad.dtype)))

    def __mul__(self, other: Value) -> Value:
        mid = self.mid * other.mid
        if self.rad is None or other.rad is None:
            return Value(mid, None)
        u = torch.finfo(mid.dtype).eps / 2
        if self.exact and other.exact:
            nonzero = (self.mid != 0) & (other.mid != 0)
            return Value(mid, torch.where(nonzero, _grow(mid.detach().abs().mul_(u), 2) + 4 * _tiny(mid), 0.0))
        a, b = self.mid.detach().abs(), other.mid.detach().abs()
        nonzero = (a + self.rad > 0) & (b + other.rad > 0)
        rad = a * other.rad + b * self.rad + self.rad * other.rad + u * mid.detach().abs()
        return Value(mid, torch.where(nonzero, _grow(rad, 6) + 4 * _tiny(mid), 0.0))

    def by_sign(self, positive: Tensor, negative: Tensor, slopes: Slopes) -> Value:
        """mid, which is `positive` + `negative`, times one slope where it is positive and another where it is negative.

        The radius counts where the slopes are `known` to be one; elsewhere it is the caller's.  By underflow a product
        is off by less than the smallest number, hence by less than a factor.
        """
        mid = torch.addcmul(positive * slopes.above, negative, slopes.below)  # one of the two terms is 0
        if self.rad is None:
            return Value(mid, None)
        with torch.no_grad():
            rad = mid.abs().mul_(torch.finfo(mid.dtype).eps / 2)
            rad += torch.minimum(positive, slopes.tiny_above)
            rad -= torch.maximum(negative, -slopes.tiny_below)
            if slopes.known is not None and not self.exact:
                rad.addcmul_(self.rad, slopes.known).add_(torch.minimum(self.rad, slopes.tiny_above))
            return Value(mid, rad.mul_(_growth(8, mid.dtype)))

    def linear(self, operator: LinearMap) -> Value:
        """The value of `operator` A applied to this one, (..., *in) -> (..., *out).

        |A v - fl(A mid)| <= |A| rad + gamma |A| |mid| + underflow = gamma |A| (|mid| + rad / gamma) + underflow.
        """
        mid = operator.apply(self.mid)
        if self.rad is None:
            return Value(mid, None)
        n = operator.summands
        if n == 0:
            return Value(mid, self.rad if self.exact else operator.absolute().apply(self.rad.expand_as(self.mid)))
        with torch.no_grad():
            gamma, absolute, dims = _gamma(n, mid.dtype), operator.absolute(), len(operator.in_shape)
            size = self._size(gamma)
            rad = absolute.apply(size).mul_(gamma * _growth(n + 8, mid.dtype))
            active = size.amax(dim=tuple(range(-dims, 0)), keepdim=True) > 0 if dims else size > 0
            reached = absolute.apply(torch.ones(operator.in_shape, dtype=mid.dtype, device=mid.device)) > 0
            rad.addcmul_(_refit(active, mid, dims).to(mid), reached.to(mid), value=(2 * n + 3) * _tiny(mid))
        return Value(mid, rad)

    def dot(self, rows: Value) -> Value:
        """The product of forms (B, K, R, *node) with one row (B, K, *node) each, summed over the node: (B, K, R).

        Dimensions B and K of either may be 1.  0 times infinity is NaN, no bound: see `lines.Intercepts`.
        """
        ours, theirs = self.map(lambda t: t.flatten(3)), rows.map(lambda t: t.flatten(2))
        return _contracted(_rows_times, ours, theirs, lambda a, b: (a, b.unsqueeze(-1)))

    def matmul(self, matrix: Value) -> Value:
        """This value (..., n) times the transpose of a matrix (m, n) that is known up to its radius: (..., m)."""
        return _contracted(_matrix_times, self, matrix, lambda a, b: (a.unsqueeze(-1), b))


@final
@dataclass(frozen=True)
class Slopes:
    """What forms are multiplied with, beside them: one slope where they are positive, another where they are negative.

    known: the absolute slope where both are one, 0 elsewhere; None if they nowhere are.
    """

    above: Tensor
    below: Tensor
    known: Tensor | None

    @cached_property
    def tiny_above(self) -> Tensor:
        """The smallest normal number where the slope is not 0."""
        return _tiny(self.above) * (self.above.detach() != 0)

    @cached_property
    def tiny_below(self) -> Tensor:
        return _tiny(self.below) * (self.below.detach() != 0)


def _rows_times(forms: Tensor, rows: Tensor) -> Tensor:
    if rows.shape[:2] == (1, 1):
        return torch.mv(forms.reshape(-1, forms.shape[-1]), rows.reshape(-1)).reshape(forms.shape[:-1])
    return torch.einsum("bkrn,bkn->bkr", forms, rows)


def _matrix_times(forms: Tensor, matrix: Tensor) -> Tensor:
    return torch.matmul(forms, matrix.mT)


def _contracted(how: _Pairing, ours: Value, theirs: Value, beside: _Meeting) -> Value:
    """The product `how`, which sums over the last dimension of both.

    beside: numbers for the rows of either, so that they broadcast to the results.  With radii r and s of a and b,

        |a| s + r (|b| + s) + gamma |a| |b|  <=  gamma (|a| + r / gamma) (|b| + s / gamma)      for gamma <= 1.
    """
    mid = how(ours.mid, theirs.mid)
    if ours.rad is None or theirs.rad is None:
        return Value(mid, None)
    n = ours.shape[-1]
    if n == 0:
        return Value(mid, torch.zeros_like(mid))
    with torch.no_grad():
        gamma = _gamma(n, mid.dtype)
        a, b = ours._size(gamma), theirs._size(gamma)
        rad = how(a, b).mul_(gamma * _growth(n + 10, mid.dtype))
        active = beside(a.amax(-1).sign_(), b.amax(-1).sign_())
        return Value(mid, rad.addcmul_(*active, value=(2 * n + 3) * _tiny(mid)))


def _refit(active: Tensor, like: Tensor, in_dims: int) -> Tensor:
    """`active` with its `in_dims` node dimensions of size 1 replaced by as many as the output `like` has."""
    lead = active.shape[: active.dim() - in_dims]
    return active.reshape(*lead, *([1] * (like.dim() - len(lead))))


def concatenate(values: Sequence[Value], dim: int) -> Value:
    """The values one after the other along `dim`."""
    mid = torch.cat([v.mid for v in values], dim)
    if all(v.exact for v in values):
        return Value(mid, values[0].rad)
    rads = [v.rad.expand_as(v.mid) for v in values if v.rad is not None]
    return Value(mid, torch.cat(rads, dim) if rads else None)


class AbstractArithmetic(ABC):
    """How numbers are computed: whether rounding is covered, and how much memory one sweep may take (bytes)."""

    memory: int

    @property
    @abstractmethod
    def rigorous(self) -> bool:
        """Whether results hold in real arithmetic."""

    @abstractmethod
    def exact(self, tensor: Tensor) -> Value:
        """The value that is `tensor` itself."""

    @abstractmethod
    def ball(self, mid: Tensor, rad: Tensor) -> Value:
        """The value that lies within `rad` of `mid` (a proved error; ignored by `Fast`)."""

    @abstractmethod
    def weigh(self, weights: Tensor, numbers: Tensor) -> Value:
        """Σ over the node of exact weights (B, K, R, *node) times numbers (B, K, *node), all finite: (B, K, R)."""

    @abstractmethod
    def around(self, forms: Value, centre: Tensor, reach: Tensor) -> Value:
        """c·x + |c|·r of forms c (B, K, R, *node), x and r >= 0 being (B, *node), finite: (B, K, R)."""

    @abstractmethod
    def at_least(self, computed: Tensor, operations: int) -> Tensor:
        """An upper bound of a non-negative expression that was `computed` with at most `operations` roundings each.

        Products may underflow, but a result of 0 must be exact.
        """

    @abstractmethod
    def at_most(self, computed: Tensor, operations: int) -> Tensor:
        """A lower bound of a non-negative expression that was `computed` with at most `operations` roundings each."""

    @abstractmethod
    def crossed(self, lower: Tensor, upper: Tensor) -> Interval:
        """The interval between two bounds of one number that cross somewhere; neither is NaN.

        Raises UnsoundBounds if they are proved; unproved ones are exchanged, as crossing can be their rounding.
        """

    @final
    def enclose(self, lower: Tensor, upper: Tensor) -> Interval:
        """The interval between two bounds of one number; a NaN bound is no bound, hence infinite.

        Raises UnsoundBounds where proved bounds cross.
        """
        if lower.shape == upper.shape and _in_order(lower, upper):
            return Interval._of(lower, upper)
        return self.crossed(_no_nan(lower, -torch.inf), _no_nan(upper, torch.inf))

    @final
    def between(self, lower: Value, upper: Value) -> Interval:
        """The interval from the least possible `lower` to the greatest possible `upper`."""
        return self.enclose(lower.lower(), upper.upper())

    @final
    def intersect(self, a: Interval, b: Interval) -> Interval:
        """The numbers in both; each must hold the same exact number."""
        return self.enclose(torch.maximum(a.lower, b.lower), torch.minimum(a.upper, b.upper))

    @final
    def midrad(self, interval: Interval) -> tuple[Tensor, Tensor]:
        """m and s with the (finite) interval inside [m - s, m + s]."""
        mid = interval.lower / 2 + interval.upper / 2
        low = self.exact(mid) - self.exact(interval.lower)
        high = self.exact(interval.upper) - self.exact(mid)
        return mid, torch.maximum(low.upper(), high.upper()).clamp(min=0)

    @final
    def product(self, a: Interval, b: Interval) -> Interval:
        """All products of a number in `a` and one in `b`; 0 times infinity is 0."""
        ends = torch.broadcast_tensors(a.lower, a.upper, b.lower, b.upper)
        times = self._times if _all_finite(ends) else self._limits
        corners = [times(x, y) for x in ends[:2] for y in ends[2:]]
        lower = reduce(torch.minimum, (low for low, _ in corners))
        upper = reduce(torch.maximum, (high for _, high in corners))
        return self.enclose(lower, upper)

    @final
    def multiple(self, number: Tensor, slope: Value) -> tuple[Value, Value]:
        """Values at least and at most `number` times the exact value of `slope`; 0 times infinity is 0."""
        if _all_finite([number]):
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
        """Bounds of x y; infinite factors are kept apart, as autograd would make them 0 times infinity."""
        infinite = x.isinf() | y.isinf()
        limit = (x.detach() * y.detach()).nan_to_num(0.0, torch.inf, -torch.inf)
        low, high = self._times(torch.where(infinite, 0.0, x), torch.where(infinite, 0.0, y))
        return torch.where(infinite, limit, low), torch.where(infinite, limit, high)

    @final
    def sum(self, intervals: Sequence[Interval]) -> Interval:
        """All sums of one number from each."""
        lower, upper = self.exact(intervals[0].lower), self.exact(intervals[0].upper)
        for term in intervals[1:]:
            lower, upper = lower + self.exact(term.lower), upper + self.exact(term.upper)
        return self.between(lower, upper)


@final
@dataclass(frozen=True)
class Fast(AbstractArithmetic):
    """Plain floating point: rounding is not covered, so a result is certified in exact arithmetic only."""

    memory: int = MEMORY

    @property
    def rigorous(self) -> bool:
        return False

    def exact(self, tensor: Tensor) -> Value:
        return Value(tensor, None)

    def ball(self, mid: Tensor, rad: Tensor) -> Value:
        return Value(mid, None)

    def weigh(self, weights: Tensor, numbers: Tensor) -> Value:
        return Value(_rows_times(weights.flatten(3), numbers.flatten(2)), None)

    def around(self, forms: Value, centre: Tensor, reach: Tensor) -> Value:
        flat, x, r = forms.mid.flatten(3), centre.flatten(1).unsqueeze(1), reach.flatten(1).unsqueeze(1)
        return Value(_rows_times(flat, x) + _rows_times(flat.abs(), r), None)

    def at_least(self, computed: Tensor, operations: int) -> Tensor:
        return computed

    def at_most(self, computed: Tensor, operations: int) -> Tensor:
        return computed

    def crossed(self, lower: Tensor, upper: Tensor) -> Interval:
        return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))


@final
@dataclass(frozen=True)
class Rigorous(AbstractArithmetic):
    """Midpoint and radius: every result covers the rounding of its own computation, in float32 or float64.

    Needs matrix products in full precision (no TF32 or bfloat16); `check_matmul` says so.
    """

    memory: int = MEMORY

    @property
    def rigorous(self) -> bool:
        return True

    def exact(self, tensor: Tensor) -> Value:
        return Value(tensor, _zero(tensor.dtype, tensor.device))

    def ball(self, mid: Tensor, rad: Tensor) -> Value:
        return Value(mid, rad.detach())

    def weigh(self, weights: Tensor, numbers: Tensor) -> Value:
        return self.exact(weights).dot(self.exact(numbers))

    def around(self, forms: Value, centre: Tensor, reach: Tensor) -> Value:
        """Off by gamma (|c|·|x| + |c|·r), by one rounding of the sum, and by rad·(|x| + r)."""
        flat, x, r = forms.mid.flatten(3), centre.flatten(1).unsqueeze(1), reach.flatten(1).unsqueeze(1)
        size, n = flat.abs(), flat.shape[-1]
        spread = _rows_times(size, r)
        mid = _rows_times(flat, x) + spread
        with torch.no_grad():
            gamma, info = _gamma(n, mid.dtype), torch.finfo(mid.dtype)
            rad = _rows_times(size, x.abs()).add_(spread).mul_(gamma).add_(mid.abs(), alpha=info.eps / 2)
            active = size.amax(-1)
            if forms.rad is not None and not forms.exact:
                off = forms.rad.expand_as(forms.mid).flatten(3)
                rad += _rows_times(off, x.abs() + r)
                active = active + off.amax(-1)
            some = (x.abs() + r).amax(-1).sign_().unsqueeze(-1)
            rad.mul_(_growth(n + 10, mid.dtype)).addcmul_(active.sign_(), some, value=(4 * n + 5) * info.tiny)
        return Value(mid, rad)

    def at_least(self, computed: Tensor, operations: int) -> Tensor:
        radius = _grow(computed.detach(), operations) - computed.detach()
        underflow = (operations + 1) * _tiny(computed) * (computed.detach() > 0)
        return Value(computed, _grow(radius, 2) + underflow).upper()

    def at_most(self, computed: Tensor, operations: int) -> Tensor:
        excess = self.at_least(computed, operations + 4) - computed
        return torch.where(computed.isfinite(), (computed - excess).clamp(min=0), 0.0)

    def crossed(self, lower: Tensor, upper: Tensor) -> Interval:
        return Interval(lower, upper)


def _all_finite(tensors: Sequence[Tensor]) -> bool:
    return not any(bool(t.isinf().any()) for t in tensors)


def _no_nan(bound: Tensor, unknown: float) -> Tensor:
    return torch.where(bound.isnan(), unknown, bound)


def check_matmul(dtype: torch.dtype) -> str | None:
    """Why arithmetic in `dtype` is not that of the module's docstring just now, or None if it is."""
    if dtype == torch.float32 and not _full_precision():
        return "float32 matrix products are set to a reduced precision (torch.set_float32_matmul_precision)"
    if float(torch.full((), torch.finfo(dtype).tiny, dtype=dtype) / 2) == 0:
        return "subnormal numbers are flushed to zero (torch.set_flush_denormal)"
    return None


def check_convolution(dtype: torch.dtype, device: torch.device) -> str | None:
    """Why convolutions are not sums of products in full precision just now, or None if they are.

    cuDNN chooses among algorithms, Winograd's and Fourier transforms and TF32 included; PyTorch asks oneDNN for direct
    convolutions, in the precision that is set; in float64 on a CPU it multiplies matrices.
    """
    if device.type == "cuda" and torch.backends.cudnn.enabled:
        return "cuDNN may convolve by Winograd or FFT (set torch.backends.cudnn.enabled = False)"
    if dtype != torch.float32:
        return None
    try:
        precision = str(torch.backends.mkldnn.conv.fp32_precision)  # type: ignore[attr-defined]  # (unannotated)
    except AttributeError:  # before PyTorch 2.9 there was no such setting
        return None
    if precision in ("none", "ieee"):
        return None
    return f"float32 convolutions are set to {precision} (torch.backends.mkldnn.conv.fp32_precision)"


def _full_precision() -> bool:
    """Whether float32 matrix products are of full precision; not if PyTorch's settings contradict each other."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # one backend was set apart (torch.backends.*.fp32_precision)
        return False


def round_to(tensor: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`tensor` (float64) in `dtype`, and in float64 how far each entry moved (exactly: Sterbenz)."""
    rounded = tensor.to(dtype)
    return rounded, (tensor - rounded.to(torch.float64)).abs()


def round_up_to(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The least number of `dtype` that is at least `tensor` (float64)."""
    rounded = tensor.to(dtype)
    above = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    return torch.where(rounded.to(torch.float64) < tensor, above, rounded)


def supported_dtype(dtype: torch.dtype) -> torch.dtype:
    """`dtype` if bounds can be computed in it; raises InvalidRequest otherwise."""
    if dtype not in (torch.float32, torch.float64):
        raise InvalidRequest(f"bounds are computed in float32 or float64, not {dtype}; pass dtype=torch.float64")
    return dtype

"""Factors and smallest numbers that cover rounding and underflow; see the package's docstring for the error bound."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor


def growth_of(operations: int, dtype: torch.dtype) -> float:
    """The factor that makes a non-negative expression, computed with that many roundings, at least the exact value.

    (1 + u)^k / (1 - u) <= 1 + 2 (k + 2) u for k u <= 1/4, and 1 + (k + 2) eps is a floating-point number; underflow is
    handled by the caller.  Above k u = 1/4 nothing is claimed: the factor is infinity.
    """
    eps = torch.finfo(dtype).eps
    return float("inf") if operations * eps > 0.5 else 1 + (operations + 2) * eps


def grow(radius: Tensor, operations: int) -> Tensor:
    """An upper bound of a non-negative expression that was computed as `radius` with at most `operations` roundings."""
    growth = growth_of(operations, radius.dtype)
    return radius * growth if growth < torch.inf else torch.full_like(radius, torch.inf)


def gamma_of(n: int, dtype: torch.dtype) -> float:
    """gamma_n of the package's docstring (infinite where the theorem does not hold)."""
    u = torch.finfo(dtype).eps / 2
    return n * u / (1 - n * u) if n * u < 0.5 else float("inf")


def tiny_of(tensor: Tensor) -> float:
    return float(torch.finfo(tensor.dtype).tiny)


def has_subnormal(tensor: Tensor) -> bool:
    """Whether some entry is subnormal, so that its product with 1 may be flushed to zero."""
    size = tensor.detach().abs()
    return bool(((size > 0) & (size < tiny_of(size))).any())


def least_of(tensor: Tensor) -> float:
    """The smallest entry (NaN if any entry is NaN); infinite if the tensor is empty."""
    return float(tensor.amin()) if tensor.numel() else torch.inf


def negligible(least: float, other: float, dtype: torch.dtype) -> bool:
    """Whether two more roundings of `other` exceed `least`; False if it is NaN."""
    return other * torch.finfo(dtype).eps > least


def least_nonzero(tensor: Tensor) -> float:
    """The smallest magnitude of an entry that is not 0; infinite if there is none."""
    size = tensor.detach().abs()
    return least_of(size.masked_fill_(size == 0, torch.inf))


def over_underflow_(
    sums: Tensor, n: int, gamma: float, least: Callable[[], float], structure: Callable[[], Tensor]
) -> Tensor:
    """gamma times the `sums` of n products of sizes, in their memory, and what underflow may lose where one is not 0.

    A sum of 0 is that of no product but 0, or all of them underflowed.  None did if the product of the `least` factors
    that are not 0, up to three roundings, is a normal number; otherwise `structure`, which does not underflow, is
    0 just where all products are.
    """
    lost, growth = (2 * n + 3) * tiny_of(sums), gamma * growth_of(n + 10, sums.dtype)
    if negligible(lost, least_of(sums) * gamma, sums.dtype):
        return sums.mul_(gamma * growth_of(n + 12, sums.dtype))
    zero = sums == 0
    if not bool(zero.any()):
        return sums.mul_(growth).add_(lost)
    hidden = not least() >= 2 * tiny_of(sums)
    rad = sums.mul_(growth).add_(~zero, alpha=lost)
    return rad.add_(structure().sign_().mul_(zero), alpha=lost) if hidden else rad


@cache
def zero_of(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The radius of exact values: always this same tensor, so that they are recognised by identity."""
    return torch.zeros((), dtype=dtype, device=device)


@cache
def infinity_of(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((), torch.inf, dtype=dtype, device=device)


@cache
def minus_infinity_of(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((), -torch.inf, dtype=dtype, device=device)


def round_up(mid: Tensor, rad: Tensor) -> Tensor:
    """mid + rad rounded upwards, infinite if `mid` overflowed or is NaN."""
    # mid times 0 is NaN where mid is infinite or NaN
    total = (mid + rad).addcmul_(mid, zero_of(mid.dtype, mid.device)).nextafter_(infinity_of(mid.dtype, mid.device))
    return torch.where(rad == 0, mid, total).nan_to_num_(torch.inf, torch.inf, -torch.inf)


class RoundUp(torch.autograd.Function):
    """`round_up`, with the derivative of mid."""

    @staticmethod
    def forward(ctx: Any, mid: Tensor, rad: Tensor) -> Tensor:  # noqa: ARG004  # (torch fixes the signature)
        return round_up(mid, rad)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:  # noqa: ARG004  # (torch fixes the signature)
        return grads[0], None


class _Replaced(torch.autograd.Function):
    """The second of two tensors, whose derivative is that of the first."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, bound: Tensor) -> Tensor:  # noqa: ARG004  # (torch fixes the signature)
        return bound.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:  # noqa: ARG004  # (torch fixes the signature)
        return grads[0], None


def with_derivative_of(value: Tensor, bound: Tensor) -> Tensor:
    """`bound`, a proved bound of what was computed as `value`, as if it were that plus a constant."""
    return _Replaced.apply(value, bound)  # type: ignore[no-any-return,no-untyped-call]


def root_of(square: Tensor) -> Tensor:
    """The square root of finite numbers > 0, with at most the error of two correctly rounded operations; else NaN.

    Libraries round roots differently (PyTorch with MKL by up to one unit of the last place), and here nothing is
    assumed of theirs.  For any s > 0, (s + z/s) / 2 is above the root by at most (s - z/s)² / (8 √z), which is less
    than u/2 times the root if s and z/s differ by less than √eps s / 2: it is checked whether they do.  A quotient and
    a sum are rounded; halving is exact, as roots are not subnormal.
    """
    root = square.sqrt()
    other = square / root
    near = (root - other).detach().abs() <= torch.finfo(square.dtype).eps ** 0.5 / 2 * root.detach()
    return torch.where(near, root / 2 + other / 2, torch.nan)

"""Quotients, roots, powers and logarithms of what depends on the input; norms; logarithms of sums of exponentials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recurjac.activations import (
    Abs,
    Cube,
    Exp,
    IntegerPower,
    Log,
    Power,
    Softplus,
    Square,
)
from recurjac.loading.expression import Expression, Squares
from recurjac.loading.readers.onnx_windows import reduced
from recurjac.loading.readers.sums import sum_over
from recurjac.loading.rewrites.forms import form, node_of
from recurjac.loading.rewrites.maximum import over_axes
from recurjac.loading.rewrites.norms import rows_over, size_of_rows
from recurjac.loading.rewrites.positive import floored, inverse
from recurjac.loading.rewrites.sizes import squares_in
from recurjac.operators import Reshape
from recurjac.operators.gather import gather_positions, positions
from recurjac.operators.scale import scaled
from recurjac.registry import onnx_ops, torch_ops


def power(x: Expression, exponent: float) -> Expression:
    """x to a constant power: a polynomial or its reciprocal where the power is whole, otherwise for x > 0 only."""
    if exponent == 1:
        return x
    whole = exponent == int(exponent)
    if whole and 2 <= abs(exponent) <= 16:
        count = int(abs(exponent))
        raised = x.activate(Square() if count == 2 else Cube() if count == 3 else IntegerPower(count))
        return raised if exponent > 0 else inverse(raised)
    if exponent == -1:
        return inverse(x)
    squares = squares_in(x) if abs(exponent) == 0.5 else None
    if squares is not None:
        size = size_of_rows(squares).apply(Reshape((len(squares.rows),), x.shape))
        return size if exponent > 0 else inverse(size)
    if whole:
        raise ValueError(f"the power {exponent:g} of a tensor that depends on the input; up to 16 is read")
    return x.activate(floored(x, exponent) or Power(exponent))


@torch_ops.reads("aten.sqrt.default", "aten.sqrt_.default")
@onnx_ops.reads("Sqrt")
def _sqrt(x: Expression) -> Any:
    return power(x, 0.5)


@torch_ops.reads("aten.rsqrt.default")
def _rsqrt(x: Expression) -> Any:
    return power(x, -0.5)


@torch_ops.reads("aten.log1p.default")
def _log1p(x: Expression) -> Any:
    """log(1 + x); of an exponential, it is a softplus."""
    node = node_of(form(x), x.builder)
    if node is not None and isinstance(node.stage.activation, Exp) and (node.factor, node.shift) == (1.0, 0.0):
        return node.argument(x).activate(Softplus())
    return x.shift(torch.ones((), dtype=x.dtype, device=x.device)).activate(Log())


@torch_ops.reads("aten.expm1.default")
def _expm1(x: Expression) -> Any:
    return x.activate(Exp()).shift(torch.full((), -1.0, dtype=x.dtype, device=x.device))


def norm_over(x: Expression, order: float, dims: Sequence[int], keep: bool) -> Expression:
    """The l_p norm over axes, for p = 1, 2 and ∞.  Raises ValueError for any other p."""
    sizes: Expression
    if order in (1.0, math.inf):
        sizes = x.activate(Abs())
        return sum_over(sizes, dims, keep) if order == 1 else over_axes(sizes, dims, keep)
    if order != 2:
        raise ValueError(f"an l{order:g} norm of a tensor that depends on the input; l1, l2 and l∞ norms are read")
    axes = sorted({d % len(x.shape) for d in dims})
    shape = [(1 if d in axes else n) for d, n in enumerate(x.shape) if keep or d not in axes]
    rows = rows_over(x, axes)
    return size_of_rows(Squares(x, rows, 1, 0.0)).apply(Reshape((len(rows),), tuple(shape)))


def _all(x: Expression, dim: Any) -> list[int]:
    named = [dim] if isinstance(dim, int) else list(dim or [])
    return named or list(range(len(x.shape)))


@torch_ops.reads("aten.linalg_vector_norm.default")
def _vector_norm(x: Expression, ord: float = 2.0, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    return norm_over(x, float(ord), _all(x, dim), keepdim)


@torch_ops.reads("aten.linalg_norm.default")
def _linalg_norm(x: Expression, ord: float | None = None, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    """Of several axes, the root of the sum of squares; with an order, it is another norm, of a matrix."""
    axes = _all(x, dim)
    if ord is not None and len(axes) != 1:
        raise ValueError("the norm of a matrix that depends on the input")
    return norm_over(x, 2.0 if ord is None else float(ord), axes, keepdim)


def _norm_of(order: float, x: Expression, axes: Any, keepdims: int, noop: int) -> Any:
    return norm_over(x, order, *_reduced(x, axes, keepdims, noop))


def _reduced(x: Expression, axes: Any, keepdims: int, noop: int) -> tuple[Sequence[int], bool]:
    dims, keep = reduced(x, axes, keepdims, noop)
    if not dims:
        raise ValueError("a reduction over no axes, of which ONNX's runtimes make different things")
    return dims, keep


@onnx_ops.reads("ReduceL1")
def _reduce_l1(x: Expression, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
    return _norm_of(1.0, x, axes, keepdims, noop_with_empty_axes)


@onnx_ops.reads("ReduceL2")
def _reduce_l2(x: Expression, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
    return _norm_of(2.0, x, axes, keepdims, noop_with_empty_axes)


def log_sum_exp(x: Expression, dims: Sequence[int], keep: bool) -> Expression:
    """log Σ exp(x) over axes, pair by pair: log(exp a + exp b) = a + softplus(b - a), whose slopes lie in [0, 1]."""
    axes = sorted({d % len(x.shape) for d in dims})
    rest = [d for d in range(len(x.shape)) if d not in axes]
    rows = positions(x.shape).permute(*axes, *rest).reshape(-1, *(x.shape[d] for d in rest))
    if keep:
        rows = rows.reshape(len(rows), *(1 if d in axes else n for d, n in enumerate(x.shape)))
    if len(rows) > 64:
        raise ValueError(f"the logarithm of a sum of {len(rows)} exponentials; at most 64 are read")
    settled = x.settled()
    parts: list[Expression] = [settled.apply(gather_positions(row, x.shape)) for row in rows]
    while len(parts) > 1:
        odd = parts[-1:] if len(parts) % 2 else []
        pairs = zip(parts[::2], parts[1::2], strict=False)
        parts = [a.plus(b.plus(scaled(a, -1.0)).activate(Softplus())).settled() for a, b in pairs] + odd
    return parts[0]


@torch_ops.reads("aten.logsumexp.default")
def _logsumexp(x: Expression, dim: Any, keepdim: bool = False) -> Any:
    return log_sum_exp(x, _all(x, dim), keepdim)


@onnx_ops.reads("ReduceLogSumExp")
def _reduce_log_sum_exp(x: Expression, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
    return log_sum_exp(x, *_reduced(x, axes, keepdims, noop_with_empty_axes))


def constant_exponent(exponent: Any) -> float:
    """The one number that an exponent is.  Raises ValueError if it has several, or depends on the input."""
    if isinstance(exponent, Expression) or (isinstance(exponent, Tensor) and exponent.numel() != 1):
        raise ValueError("a power with an exponent that is not one constant number")
    return float(exponent)

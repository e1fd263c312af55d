"""Products over axes, pair by pair, and functions of two branches that are known ones of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recurjac.activations import Softplus
from recurjac.loading.expression import Expression
from recurjac.loading.readers.moves import beside
from recurjac.loading.readers.onnx_windows import reduced
from recurjac.loading.readers.sums import sum_over
from recurjac.loading.rewrites.domain import norm_over
from recurjac.loading.rewrites.products import product, squared
from recurjac.operators.gather import gather_positions, positions
from recurjac.operators.reindex import Reshape
from recurjac.operators.scale import is_constant, scaled
from recurjac.registry import onnx_ops, torch_ops

_MOST = 64
"""The maximum number of factors of a product over axes."""


def product_over(x: Expression, dims: Sequence[int], keep: bool) -> Expression:
    """The product over axes."""
    axes = sorted({d % len(x.shape) for d in dims})
    rest = [d for d in range(len(x.shape)) if d not in axes]
    rows = positions(x.shape).permute(*axes, *rest).reshape(-1, *(x.shape[d] for d in rest))
    if keep:
        rows = rows.reshape(len(rows), *(1 if d in axes else n for d, n in enumerate(x.shape)))
    if len(rows) > _MOST:
        raise ValueError(f"a product of {len(rows)} numbers; at most {_MOST} are read")
    settled = x.settled()
    parts: list[Expression] = [settled.apply(gather_positions(row, x.shape)) for row in rows]
    while len(parts) > 1:
        odd = parts[-1:] if len(parts) % 2 else []
        parts = [product(a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)] + odd
    return parts[0]


@torch_ops.reads("aten.prod.dim_int")
def _prod(x: Expression, dim: int, keepdim: bool = False, **_: Any) -> Any:
    return product_over(x, [dim], keepdim)


@onnx_ops.reads("ReduceProd")
def _reduce_prod(x: Expression, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
    return product_over(x, *_some(x, axes, keepdims, noop_with_empty_axes))


@onnx_ops.reads("ReduceSumSquare")
def _reduce_sum_square(x: Expression, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
    return sum_over(squared(x), *_some(x, axes, keepdims, noop_with_empty_axes))


@onnx_ops.reads("ReduceLogSum")
def _reduce_log_sum(x: Expression, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
    return onnx_ops.readers["Log"](sum_over(x, *_some(x, axes, keepdims, noop_with_empty_axes)))


def _some(x: Expression, axes: Any, keepdims: int, noop: int) -> tuple[Sequence[int], bool]:
    dims, keep = reduced(x, axes, keepdims, noop)
    if not dims:
        raise ValueError("a reduction over no axes, of which ONNX's runtimes make different things")
    return dims, keep


@torch_ops.reads("aten.logaddexp.default")
def _logaddexp(x: Any, y: Any) -> Any:
    """log(exp x + exp y) = x + softplus(y - x), whose slopes lie in [0, 1]."""
    a, b = _both(x, y)
    return a.plus(b.plus(scaled(a, -1.0)).activate(Softplus()))


@torch_ops.reads("aten.hypot.default")
def _hypot(x: Any, y: Any) -> Any:
    """√(x² + y²), the length of a row of two."""
    a, b = _both(x, y)
    pairs = beside([t.apply(Reshape(t.shape, (*t.shape, 1))) for t in (a, b)], len(a.shape))
    return norm_over(pairs, 2.0, [-1], keep=False)


def _both(x: Any, y: Any) -> tuple[Any, Any]:
    """Two operands as expressions of one shape."""
    like = y if is_constant(x) else x
    parts = [like.constant(t) if is_constant(t) else t for t in (x, y)]
    shape = parts[0].plus(parts[1]).shape
    return parts[0].broadcast(shape), parts[1].broadcast(shape)


@onnx_ops.reads("SwiGLU")
def _swiglu(x: Expression, y: Any, *, alpha: float = 1.0) -> Any:
    """x · sigmoid(alpha x) · y."""
    gate = onnx_ops.readers["Swish"](x, alpha=alpha)
    return scaled(gate, y) if is_constant(y) else gate.times(y)

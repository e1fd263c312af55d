"""Readers of choices by constants: masks, assignments to a part of a tensor, and side by side.

Every entry of such a result is an entry of one of several tensors, or a sum of some.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from recurjac.operators import AbstractLeaf
from recurjac.operators.gather import gather, gather_positions, positions
from recurjac.operators.scale import is_constant
from recurjac.registry import Expression, onnx_ops, torch_ops

aten = torch.ops.aten


def merged(operation: Callable[..., Tensor], *parts: Any) -> Any:
    """operation(*parts), which takes each entry from one of the parts: the sum of what it takes from each.

    Raises ValueError if no part is an expression, or one is a constant that is not finite.
    """
    like = next((p for p in parts if not is_constant(p)), None)
    if like is None:
        raise ValueError("a choice between constants that depends on the input")
    tensors = [torch.as_tensor(p, dtype=like.dtype, device=like.device) if is_constant(p) else p for p in parts]
    if not all(bool(t.detach().isfinite().all()) for t in tensors if isinstance(t, Tensor)):
        raise ValueError("a tensor filled with infinite numbers or NaN")
    shown = [positions(tuple(t.shape)) for t in tensors]
    total: Any = None
    for i, part in enumerate(tensors):
        moved = operation(*(p if k == i else torch.zeros_like(p) for k, p in enumerate(shown)))
        operator = gather_positions(moved, tuple(part.shape))
        placed = (like.constant(part) if isinstance(part, Tensor) else part).apply(operator)
        total = placed if total is None else total.plus(placed)
    return total


def choice(mask: Any, x: Any, y: Any) -> Any:
    """x where a constant mask is true, otherwise y."""
    if not isinstance(mask, Tensor):
        raise ValueError("a choice that depends on data; use relu, clamp, maximum or minimum")
    return merged(lambda a, b: torch.where(mask.cpu().bool(), a, b), x, y)


def _placed(operation: OpOverload, x: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
    """x with `source` in place of a part of it."""
    return merged(lambda a, b: operation(a, b, *args, **kwargs), x, source)


for _operation in (aten.slice_scatter.default, aten.select_scatter.default, aten.diagonal_scatter.default,
                   aten.copy.default):  # fmt: skip
    torch_ops.reads(str(_operation))(partial(_placed, _operation))


@torch_ops.reads("aten.fill.Scalar", "aten.fill.Tensor")
def _fill(x: Expression, value: Any) -> Any:
    return torch.as_tensor(value, dtype=x.dtype, device=x.device).expand(x.shape)


def index_put(x: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    """x with `values` at constant positions."""
    at = [None if i is None else _constant(i).cpu() for i in indices]
    if not accumulate:
        return merged(lambda a, b: aten.index_put.default(a, at, b), x, values)
    return _added(x, values, gather(lambda t: aten.index.Tensor(t, at), tuple(x.shape)))


@torch_ops.reads("aten.scatter.src", "aten.scatter.value")
def _scatter(x: Any, dim: int, index: Any, source: Any) -> Any:
    at = _constant(index).cpu()
    return merged(lambda a, b: a.scatter(dim, at, b.expand(at.shape) if b.dim() == 0 else b), x, source)


@torch_ops.reads("aten.gather.default")
def _gather(x: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Any:
    at = _constant(index).cpu()
    return x.apply(gather(lambda t: t.gather(dim, at), x.shape))


@torch_ops.reads("aten.scatter_add.default")
def _scatter_add(x: Any, dim: int, index: Any, source: Any) -> Any:
    at = _constant(index).cpu()
    used = tuple(slice(0, n) for n in at.shape)
    some = source[used] if is_constant(source) else source.apply(gather(lambda t: t[used], tuple(source.shape)))
    return _added(x, some, gather(lambda t: t.gather(dim, at), tuple(x.shape)))


def _added(x: Any, source: Any, reading: AbstractLeaf) -> Any:
    """x plus the entries of `source`, each where `reading` takes it from; that is the transpose of `reading`."""
    like = x if is_constant(source) else source
    base, some = (like.constant(torch.as_tensor(t, dtype=like.dtype)) if is_constant(t) else t for t in (x, source))
    return base.plus(some.broadcast(reading.out_shape).apply(reading.transpose()))


def _constant(index: Any) -> Tensor:
    """A tensor of positions.  Raises ValueError if they depend on the input."""
    if not isinstance(index, Tensor):
        raise ValueError("positions that depend on data")
    return index


@onnx_ops.reads("ScatterElements")
def _scatter_elements(x: Any, index: Any, updates: Any, *, axis: int = 0, reduction: str = "none") -> Any:
    at = _constant(index).long()
    length = x.shape[axis]
    at = torch.where(at < 0, at + length, at)
    if reduction not in ("none", "add"):
        raise ValueError(f"a scatter with reduction={reduction}")
    return (_scatter if reduction == "none" else _scatter_add)(x, axis, at, updates)


@onnx_ops.reads("ScatterND")
def _scatter_nd(x: Any, index: Any, updates: Any, *, reduction: str = "none") -> Any:
    if reduction not in ("none", "add"):
        raise ValueError(f"a scatter with reduction={reduction}")
    return index_put(x, list(_constant(index).long().unbind(-1)), updates, reduction == "add")

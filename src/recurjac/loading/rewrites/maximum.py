"""Exact rewrites of maxima and minima: max(a, b) = a + relu(b - a), over windows of k entries in ⌈log₂ k⌉ levels.

Source: docs/mathematics.md, §1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.activations import ReLU
from recurjac.loading.expression import Expression
from recurjac.loading.readers.onnx_windows import Frame, reduced
from recurjac.loading.readers.sums import adaptive_windows, windows
from recurjac.loading.rewrites.pairs import compared
from recurjac.operators.convolution import spread
from recurjac.operators.gather import gather_positions, positions
from recurjac.operators.scale import Scale, is_constant, scaled
from recurjac.registry import Unread, onnx_ops, torch_ops

_LARGEST = 4096
"""The maximum number of entries of one maximum, because each entry needs a stage."""
_MOST = 2**28
"""The maximum number of pairs of entries, summed over all windows, whose positions are compared."""


def maximum(a: Expression, b: Expression) -> Expression:
    """max(a, b) = a + relu(b - a), each broadcast to the other."""
    return compared(a, b).most


def minimum(a: Expression, b: Expression) -> Expression:
    """min(a, b) = b - relu(b - a)."""
    return compared(a, b).least


@final
@dataclass(frozen=True)
class _Partial:
    """The maximum of some entries of each window of `source`: its value, and their positions (entries, *windows)."""

    value: Expression
    rows: Tensor
    source: Expression

    def joined(self, other: _Partial) -> _Partial:
        """The maximum of both, without a kink in windows where self already contains all entries of `other`."""
        known = (other.rows.unsqueeze(1) == self.rows.unsqueeze(0)).any(1)
        needless = known.all(0)
        gap, holds = other.value.plus(scaled(self.value, -1.0)), None
        if bool(needless.any()):
            gap, holds = gap.apply(Scale((~needless).to(gap.dtype))).shift(torch.where(needless, -1.0, 0.0)), ~needless
        rise = gap.activate(ReLU()).known_extremes(self.source, other.rows, self.rows, holds)
        return _Partial(self.value.plus(rise), torch.cat([self.rows, other.rows]), self.source)


def maximum_of(x: Expression, rows: Tensor) -> Expression:
    """The maximum over entries of x at the positions `rows` (entries, *windows), counted from 1; 0 means no entry.

    A window with fewer entries repeats its last entry at its end.  Therefore, of two partial maxima, either one
    contains the entries of the other, or they have no entry in common, and no entry is compared with itself.
    Raises ValueError if a window is empty.
    """
    windows = prod(rows.shape[1:])
    if len(rows) > _LARGEST or len(rows) ** 2 * windows > _MOST:
        raise ValueError(f"{windows} maxima over {len(rows)} entries each; at most {_LARGEST}, of few maxima, are read")
    count = (rows > 0).sum(0, keepdim=True)
    if bool((count == 0).any()):
        raise ValueError("a maximum over a window that lies entirely in the padding")
    rows = rows.gather(0, (rows == 0).to(torch.int8).argsort(dim=0, stable=True))
    rows = torch.where(rows > 0, rows, rows.gather(0, count - 1))
    x = x.settled()
    most = _most_windows(rows)
    parts = [_Partial(x.apply(gather_positions(row, x.shape)), row.unsqueeze(0), x) for row in rows]
    while len(parts) > 1:
        odd = parts[-1:] if len(parts) % 2 else []
        parts = [a.joined(b) for a, b in zip(parts[::2], parts[1::2], strict=False)] + odd
    (whole,) = parts
    return whole.value.selected_from(x, most).known_extremes(x, whole.rows) if len(rows) > 1 else whole.value


def _most_windows(rows: Tensor) -> int:
    """In how many windows an entry lies at most; windows may name an entry several times."""
    ordered = rows.reshape(len(rows), -1).sort(0).values
    first = torch.cat([torch.ones_like(ordered[:1], dtype=torch.bool), ordered[1:] != ordered[:-1]])
    return int(ordered[first].long().bincount().max())


def over_axes(x: Expression, dims: Sequence[int], keep: bool) -> Expression:
    """The maximum over axes."""
    axes = sorted({d % len(x.shape) for d in dims})
    rest = [d for d in range(len(x.shape)) if d not in axes]
    rows = positions(x.shape).permute(*axes, *rest).reshape(-1, *(x.shape[d] for d in rest))
    if keep:
        rows = rows.reshape(len(rows), *(1 if d in axes else n for d, n in enumerate(x.shape)))
    return maximum_of(x, rows)


def max_pool(
    x: Expression, kernel: Shape, stride: Shape, before: Shape, after: Shape, dilation: Shape, ceil: bool
) -> Expression:
    """The maximum over windows of the last axes; the padding counts as minus infinity."""
    return maximum_of(x, windows(x.shape, kernel, stride, before, after, dilation, ceil))


def _two(x: Any, y: Any) -> tuple[Any, Any]:
    """Both as expressions."""
    like = y if is_constant(x) else x
    x, y = (
        like.constant(torch.as_tensor(t, dtype=like.dtype, device=like.device)) if is_constant(t) else t for t in (x, y)
    )
    return x, y


@torch_ops.reads("aten.maximum.default", "aten.max.other", "aten.fmax.default")
def _maximum(x: Any, y: Any) -> Any:
    return maximum(*_two(x, y))


@torch_ops.reads("aten.minimum.default", "aten.min.other", "aten.fmin.default")
def _minimum(x: Any, y: Any) -> Any:
    return minimum(*_two(x, y))


@onnx_ops.reads("Max")
def _onnx_max(*terms: Any) -> Any:
    total = terms[0]
    for term in terms[1:]:
        total = torch.maximum(total, term) if is_constant(total) and is_constant(term) else _maximum(total, term)
    return total


@onnx_ops.reads("Min")
def _onnx_min(*terms: Any) -> Any:
    total = terms[0]
    for term in terms[1:]:
        total = torch.minimum(total, term) if is_constant(total) and is_constant(term) else _minimum(total, term)
    return total


@torch_ops.reads("aten.amax.default")
def _amax(x: Expression, dim: Any = (), keepdim: bool = False) -> Any:
    dims = [dim] if isinstance(dim, int) else list(dim)
    return over_axes(x, dims or range(len(x.shape)), keepdim)


@torch_ops.reads("aten.amin.default")
def _amin(x: Expression, dim: Any = (), keepdim: bool = False) -> Any:
    return scaled(_amax(scaled(x, -1.0), dim, keepdim), -1.0)


@torch_ops.reads("aten.max.default")
def _max_all(x: Expression) -> Any:
    return _amax(x)


@torch_ops.reads("aten.min.default")
def _min_all(x: Expression) -> Any:
    return _amin(x)


@torch_ops.reads("aten.max.dim")
def _max_dim(x: Expression, dim: int, keepdim: bool = False) -> Any:
    return (_amax(x, dim, keepdim), _NO_INDEX)


@torch_ops.reads("aten.min.dim")
def _min_dim(x: Expression, dim: int, keepdim: bool = False) -> Any:
    return (_amin(x, dim, keepdim), _NO_INDEX)


_NO_INDEX = Unread("the position of a maximum, which is not differentiable")


def _max_pool(
    axes: int, x: Expression, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:  # fmt: skip
    size, around = spread(kernel, axes), spread(padding, axes)
    step = spread(stride, axes) if stride else size
    return max_pool(x, size, step, around, around, spread(dilation, axes), ceil_mode)


def _max_pool_with_indices(axes: int, x: Expression, *args: Any, **kwargs: Any) -> Any:
    return (_max_pool(axes, x, *args, **kwargs), _NO_INDEX)


def _adaptive_max_pool(axes: int, x: Expression, size: Any) -> Any:
    return (maximum_of(x, adaptive_windows(x.shape, spread(size, axes))), _NO_INDEX)


for _axes_of in (1, 2, 3):
    torch_ops.reads(f"aten.max_pool{_axes_of}d.default")(partial(_max_pool, _axes_of))
    torch_ops.reads(f"aten.max_pool{_axes_of}d_with_indices.default")(partial(_max_pool_with_indices, _axes_of))
    torch_ops.reads(f"aten.adaptive_max_pool{_axes_of}d.default")(partial(_adaptive_max_pool, _axes_of))


@onnx_ops.reads("MaxPool")
def _onnx_max_pool(
    x: Expression, *, kernel_shape: Any, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Any = None,
    pads: Any = None, storage_order: int = 0, strides: Any = None,
) -> Any:  # fmt: skip
    frame = Frame.read(x.shape[2:], kernel_shape, auto_pad, strides, dilations, pads)
    return max_pool(x, tuple(kernel_shape), frame.stride, frame.before, frame.after, frame.dilation, bool(ceil_mode))


@onnx_ops.reads("GlobalMaxPool")
def _global_max_pool(x: Expression) -> Any:
    return over_axes(x, range(2, len(x.shape)), True)


@onnx_ops.reads("ReduceMax")
def _reduce_max(x: Expression, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
    dims, keep = reduced(x, axes, keepdims, noop_with_empty_axes)
    return over_axes(x, dims, keep) if dims else x


@onnx_ops.reads("ReduceMin")
def _reduce_min(x: Expression, *args: Any, **kwargs: Any) -> Any:
    return scaled(_reduce_max(scaled(x, -1.0), *args, **kwargs), -1.0)

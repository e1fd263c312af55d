"""Readers of sums and means over axes and windows, such as average pooling."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.operators.convolution import spread
from recurjac.operators.gather import positions, summed
from recurjac.operators.scale import divided, scaled
from recurjac.registry import Expression, onnx_ops, torch_ops

_MOST = 2**23
"""The maximum total of entries in the windows of one layer."""


def sum_over(x: Expression, dims: Sequence[int], keep: bool) -> Any:
    """The sum over axes."""
    axes = sorted({d % len(x.shape) for d in dims}) if x.shape else []
    if not axes:
        return x
    rest = [d for d in range(len(x.shape)) if d not in axes]
    rows = positions(x.shape).permute(*axes, *rest).reshape(-1, *(x.shape[d] for d in rest))
    shape = tuple(1 if d in axes else n for d, n in enumerate(x.shape)) if keep else tuple(rows.shape[1:])
    return x.apply(summed(rows, x.shape, shape))


def mean_over(x: Expression, dims: Sequence[int], keep: bool) -> Any:
    """The mean over axes."""
    count = prod(x.shape[d] for d in {d % len(x.shape) for d in dims})
    return divided(sum_over(x, dims, keep), float(count))


def _axes(x: Expression, dim: int | Sequence[int] | None) -> list[int]:
    """The axes given by `dim`; None or an empty list means all axes."""
    named = [dim] if isinstance(dim, int) else list(dim or [])
    return named or list(range(len(x.shape)))


@torch_ops.reads("aten.sum.default", "aten.sum.dim_IntList")
def _sum(x: Expression, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    return sum_over(x, _axes(x, dim), keepdim)


@onnx_ops.reads("Scaler")
def _scaler(x: Expression, *, offset: Sequence[float] = (), scale: Sequence[float] = ()) -> Any:
    """(x - offset) · scale along the last axis, of the domain ai.onnx.ml."""
    low, factor = (torch.tensor(list(n), dtype=torch.float64) for n in (offset or (0.0,), scale or (1.0,)))
    for t in (low, factor):
        if t.numel() not in (1, x.shape[-1]):
            raise ValueError(f"a scaler of {t.numel()} numbers on {x.shape[-1]} features")
    return scaled(x.shift(-low), factor)


@torch_ops.reads("aten.mean.default", "aten.mean.dim")
def _mean(x: Expression, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    return mean_over(x, _axes(x, dim), keepdim)


def windows(
    shape: Shape, kernel: Shape, stride: Shape, before: Shape, after: Shape, dilation: Shape, ceil: bool
) -> Tensor:
    """The positions (from 1; 0 in the padding) that each window over the last axes of `shape` contains.

    Returns (window entries, *leading axes, *windows).  With `ceil`, the last window may start inside the input or its
    first padding and extend beyond its end, as in PyTorch and ONNX.
    """
    lead, spatial = shape[: len(shape) - len(kernel)], shape[len(shape) - len(kernel) :]
    counts: list[int] = []
    hang: list[int] = []
    for n, k, s, b, a, d in zip(spatial, kernel, stride, before, after, dilation, strict=True):
        room = n + b + a - d * (k - 1) - 1
        count = (room + (s - 1 if ceil else 0)) // s + 1
        if ceil and (count - 1) * s >= n + b:
            count -= 1
        if count < 1:
            raise ValueError(f"a window of {tuple(kernel)} is larger than its padded input {tuple(spatial)}")
        counts.append(count)
        hang.append(max(0, (count - 1) * s + d * (k - 1) + 1 - n - b))
    if prod(lead) * prod(counts) * prod(kernel) > _MOST:
        raise ValueError(f"{prod(lead) * prod(counts)} windows of {prod(kernel)} entries; at most {_MOST} are read")
    spans = [n + b + h for n, b, h in zip(spatial, before, hang, strict=True)]
    if prod(lead) * prod(spans) > _MOST:
        raise ValueError(f"windows that span {tuple(spans)} positions; at most {_MOST} entries are read")
    around = [v for b, h in zip(reversed(before), reversed(hang), strict=True) for v in (b, h)]
    padded = torch.nn.functional.pad(positions(shape), around)
    for axis, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True), len(lead)):
        padded = padded.unfold(axis, d * (k - 1) + 1, s)[..., ::d]
        padded = padded.narrow(axis, 0, counts[axis - len(lead)])
    flat = padded.reshape(*lead, *counts, -1)
    return flat.movedim(-1, 0)


def average_pool(
    x: Expression, kernel: Shape, stride: Shape, before: Shape, after: Shape, dilation: Shape, ceil: bool,
    count_padding: bool, divisor: int | None = None,
) -> Any:  # fmt: skip
    """The mean over windows; `count_padding` counts positions in the padding, but not those beyond it."""
    rows = windows(x.shape, kernel, stride, before, after, dilation, ceil)
    y = x.apply(summed(rows, x.shape, tuple(rows.shape[1:])))
    if divisor is not None:
        return divided(y, float(divisor))
    seen = (rows > 0).sum(0)
    if count_padding:
        seen = torch.ones((), dtype=torch.int64)
        sizes = x.shape[-len(kernel) :], rows.shape[-len(kernel) :]
        for n, count, k, s, b, a, d in zip(*sizes, kernel, stride, before, after, dilation, strict=True):
            place = torch.arange(count).unsqueeze(1) * s + torch.arange(k) * d
            seen = seen.unsqueeze(-1) * (place < n + b + a).sum(1)
    return divided(y, seen.to(x.dtype))


def _average_pool(
    axes: int, x: Expression, kernel: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Any:  # fmt: skip
    size = spread(kernel, axes)
    step, around = (spread(stride, axes) if stride else size), spread(padding, axes)
    ones = (1,) * axes
    return average_pool(x, size, step, around, around, ones, ceil_mode, count_include_pad, divisor_override)


def _adaptive(axes: int, x: Expression, size: Any) -> Any:
    rows = adaptive_windows(x.shape, spread(size, axes))
    y = x.apply(summed(rows, x.shape, tuple(rows.shape[1:])))
    return divided(y, (rows > 0).sum(0).to(x.dtype))


for _axes_of in (1, 2, 3):
    torch_ops.reads(f"aten.avg_pool{_axes_of}d.default")(partial(_average_pool, _axes_of))
    torch_ops.reads(f"aten.adaptive_avg_pool{_axes_of}d.default")(partial(_adaptive, _axes_of))
for _axes_of in (2, 3):
    torch_ops.reads(f"aten._adaptive_avg_pool{_axes_of}d.default")(partial(_adaptive, _axes_of))


def adaptive_windows(shape: Shape, sizes: Shape) -> Tensor:
    """Like `windows`, for PyTorch's adaptive pooling: window i of m covers floor(i n / m) to ceil((i + 1) n / m)."""
    rows = positions(shape)
    for axis, m in enumerate(sizes, len(shape) - len(sizes)):
        n = shape[axis]
        bounds = [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
        longest = max(b - a for a, b in bounds)
        parts = []
        for a, b in bounds:
            part = rows.narrow(axis, a, b - a).movedim(axis, -1)
            parts.append(torch.nn.functional.pad(part, (0, longest - (b - a))))
        rows = torch.stack(parts, axis)
    return rows.reshape(*rows.shape[: len(shape)], -1).movedim(-1, 0)

"""Readers of operations that move, repeat or drop entries; each operation is applied to the entries' positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._ops import OpOverload

from recurjac.loading.readers.choices import merged
from recurjac.loading.readers.onnx_windows import check_padding
from recurjac.loading.rewrites.pairs import paired
from recurjac.operators.gather import gather, gather_positions, positions
from recurjac.registry import Expression, onnx_ops, torch_ops

aten = torch.ops.aten

_MOVES: tuple[OpOverload, ...] = (
    aten.view.default, aten.reshape.default, aten.ravel.default, aten.flatten.using_ints, aten.unflatten.int,
    aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default, aten.permute.default,
    aten.transpose.int, aten.t.default, aten.numpy_T.default, aten.mT.default, aten.mH.default, aten.movedim.int,
    aten.movedim.intlist, aten.swapaxes.default, aten.swapdims.default, aten.adjoint.default, aten.slice.Tensor,
    aten.select.int, aten.narrow.default, aten.index_select.default, aten.index.Tensor, aten.flip.default,
    aten.roll.default, aten.rot90.default, aten.expand.default, aten.broadcast_to.default, aten.repeat.default,
    aten.tile.default, aten.repeat_interleave.self_int, aten.diagonal.default, aten.tril.default, aten.triu.default,
    aten.pixel_shuffle.default, aten.pixel_unshuffle.default, aten.channel_shuffle.default, aten.im2col.default,
    aten.unfold.default, aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec,
    aten._upsample_nearest_exact1d.vec, aten._upsample_nearest_exact2d.vec, aten._upsample_nearest_exact3d.vec,
    aten._unsafe_view.default,
)  # fmt: skip
"""Operations with one result."""
_DIVISIONS: tuple[OpOverload, ...] = (
    aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default, aten.unbind.int,
    aten.tensor_split.sections, aten.tensor_split.indices,
)  # fmt: skip
"""Operations with a list of results."""


def _move(operation: Callable[..., Tensor], x: Expression, *args: Any, **kwargs: Any) -> Any:
    return x.apply(gather(lambda t: operation(t, *args, **kwargs), x.shape))


def _divide(operation: Callable[..., Sequence[Tensor]], x: Expression, *args: Any, **kwargs: Any) -> Any:
    parts = operation(positions(x.shape), *args, **kwargs)
    return [x.apply(gather_positions(part, x.shape)) for part in parts]


for _operation in _MOVES:
    torch_ops.reads(str(_operation))(partial(_move, _operation))
for _operation in _DIVISIONS:
    torch_ops.reads(str(_operation))(partial(_divide, _operation))


@torch_ops.reads("aten.view_as.default", "aten.reshape_as.default")
def _reshape_as(x: Any, other: Any) -> Any:
    if isinstance(x, Tensor):
        return x.reshape(other.shape)
    return _move(aten.reshape.default, x, list(other.shape))


@torch_ops.reads("aten.expand_as.default")
def _expand_as(x: Any, other: Any) -> Any:
    if isinstance(x, Tensor):
        return x.expand(other.shape)
    return _move(aten.expand.default, x, list(other.shape))


@torch_ops.reads("aten.zeros_like.default", "aten.new_zeros.default")
def _zeros(x: Expression, size: Sequence[int] | None = None, **_: Any) -> Any:
    return _full(x, size, 0.0)


@torch_ops.reads("aten.ones_like.default", "aten.new_ones.default")
def _ones(x: Expression, size: Sequence[int] | None = None, **_: Any) -> Any:
    return _full(x, size, 1.0)


@torch_ops.reads("aten.empty_like.default")
def _empty(x: Expression, **_: Any) -> Any:
    """A constant whose numbers do not count, because they are overwritten; infinite ones would be seen."""
    return _full(x, None, torch.inf)


@torch_ops.reads("aten.new_full.default")
def _full(x: Expression, size: Sequence[int] | None, value: float, **_: Any) -> Any:
    """A constant tensor of the given size, or of the shape of x if no size is given."""
    return torch.full(list(x.shape if size is None else size), value, dtype=x.dtype, device=x.device)


@torch_ops.reads("aten.full_like.default")
def _full_like(x: Expression, value: float, **_: Any) -> Any:
    return _full(x, None, value)


@torch_ops.reads("aten.constant_pad_nd.default")
def _constant_pad(x: Expression, pad: Sequence[int], value: float = 0.0) -> Any:
    moved = aten.constant_pad_nd.default(positions(x.shape), list(pad), 0.0)
    return _filled(x.apply(gather_positions(moved, x.shape)), moved, float(value))


def _filled(padded: Expression, moved: Tensor, value: float) -> Expression:
    """`padded` with `value` at the entries that read no position (where `moved` is 0)."""
    around = torch.tensor(value, dtype=torch.float64)  # torch.where of two numbers would give float32
    return padded if value == 0 else padded.shift(torch.where(moved == 0, around, 0.0))


@torch_ops.reads("aten.pad.default")
def _pad(x: Expression, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    if mode == "constant":
        return _constant_pad(x, pad, 0.0 if value is None else value)
    return _move(aten.pad.default, x, pad, mode)


@torch_ops.reads(
    "aten.contiguous.default", "aten.clone.default", "aten.alias.default", "aten.detach.default",
    "aten.positive.default",
)  # fmt: skip
def _same(x: Expression, *_: Any, **__: Any) -> Any:
    return x


@torch_ops.reads(
    "aten.to.dtype", "aten.to.dtype_layout", "aten.to.device", "aten._to_copy.default", "aten.type_as.default",
)  # fmt: skip
def _to(x: Expression, *args: Any, **kwargs: Any) -> Any:
    dtypes = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.dtype)]
    if any(d not in (torch.float32, torch.float64) for d in dtypes):
        raise ValueError(
            f"a conversion to {dtypes[0]}; only float32 and float64 are read; if it looks up an embedding, feed "
            "vectors times its weights"
        )
    return x


@torch_ops.reads(
    "aten.dropout.default", "aten.feature_dropout.default", "aten.alpha_dropout.default",
    "aten.feature_alpha_dropout.default",
)  # fmt: skip
def _dropout(x: Expression, _share: float, train: bool) -> Any:
    if train:
        raise ValueError(
            "an active dropout makes the network random; pass training=self.training, and export in eval mode"
        )
    return x


@torch_ops.reads("aten.sym_size.int")
def _size(x: Expression, dim: int) -> Any:
    return x.shape[dim]


@torch_ops.reads("aten.cat.default", "aten.concat.default", "aten.concatenate.default")
def _concatenate(parts: Sequence[Any], dim: int = 0) -> Any:
    """The parts side by side; the maximum and the minimum of the same tensors are the sort of their pairs."""
    joined = paired(parts)
    return joined.selected(beside(joined.parts, dim))


def beside(parts: Sequence[Any], dim: int) -> Any:
    """The parts side by side."""
    return merged(lambda *tensors: torch.cat(tensors, dim), *parts)


@torch_ops.reads("aten.hstack.default")
def _side_by_side(parts: Sequence[Any]) -> Any:
    return _concatenate(parts, 1 if len(parts[0].shape) > 1 else 0)


@onnx_ops.reads("Concat")
def _onnx_concatenate(*parts: Any, axis: int) -> Any:
    return _concatenate(parts, axis)


@onnx_ops.reads("Pad")
def _onnx_pad(
    x: Expression, pads: Any = None, constant: Any = None, axes: Any = None, *, mode: str = "constant",
    value: float = 0.0,
) -> Any:  # fmt: skip
    """Padding; pads: first before each axis, then after each axis; a negative pad removes entries."""
    dims = len(x.shape)
    chosen = [int(a) % dims for a in axes.flatten().tolist()] if isinstance(axes, Tensor) else list(range(dims))
    numbers = [int(n) for n in (pads.flatten().tolist() if isinstance(pads, Tensor) else pads or ())]
    if len(numbers) != 2 * len(chosen):
        raise ValueError(f"{len(numbers)} pads for {len(chosen)} axes")
    widths = [(0, 0)] * dims
    for axis, before, after in zip(chosen, numbers[: len(chosen)], numbers[len(chosen) :], strict=True):
        widths[axis] = (before, after)
    check_padding(x.shape, tuple(b for b, _ in widths), tuple(a for _, a in widths))
    kept = tuple(slice(max(0, -b), n - max(0, -a)) for n, (b, a) in zip(x.shape, widths, strict=True))
    added = [(max(0, b), max(0, a)) for b, a in widths]
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise ValueError(f"a padding of mode {mode}")
    moved = torch.from_numpy(np.pad(positions(x.shape).numpy()[kept], added, mode=mode))  # type: ignore[call-overload]
    y = x.apply(gather_positions(moved, x.shape))
    return _filled(y, moved, value if constant is None else float(constant)) if mode == "constant" else y


@onnx_ops.reads("Shape")
def _shape(x: Expression, *, start: int = 0, end: int | None = None) -> Any:
    return torch.tensor(x.shape[start:end], dtype=torch.int64)


@onnx_ops.reads("Size")
def _entries(x: Expression) -> Any:
    return torch.tensor(prod(x.shape), dtype=torch.int64)


@onnx_ops.reads("Dropout")
def _onnx_dropout(x: Expression, ratio: Any = None, training: Any = None, **_: Any) -> Any:
    if training is not None and bool(training):
        raise ValueError("a dropout in training mode makes the network random; export the network in eval mode")
    return x


@torch_ops.reads("aten.stack.default")
def _stack(parts: Sequence[Any], dim: int = 0) -> Any:
    def unsqueezed(part: Any) -> Any:
        return part.unsqueeze(dim) if isinstance(part, Tensor) else _move(aten.unsqueeze.default, part, dim)

    joined = paired(parts)
    return joined.selected(beside([unsqueezed(p) for p in joined.parts], dim))

"""Normalisation by the input's own statistics, and roots and quotients of sums that are known to be positive."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from recurjac.activations import FlooredRows, Length, LengthRows, NormalisedRows, Power, ShiftedRows, Square
from recurjac.loading.expression import Expression, Squares
from recurjac.loading.readers.sums import mean_over, sum_over
from recurjac.loading.rewrites.positive import floored, inverse
from recurjac.loading.rewrites.sizes import Size, divides, less_mean
from recurjac.operators import Gather, Reshape
from recurjac.operators.gather import summed
from recurjac.operators.scale import divided, scaled
from recurjac.registry import Unread, onnx_ops, torch_ops
from recurjac.tensors import cast

_NOTHING = Unread("the statistics of a normalisation")


def by_length(x: Expression, rows: Tensor, eps: float) -> Expression:
    """x / √(mean of x² over its row + eps), with eps >= 0; with eps = 0, only where the mean is positive."""
    settled = x.settled()
    return _divided(settled, rows, eps).known_as(NormalisedRows(_stored(eps, x), False), settled, rows)


def rows_over(x: Expression, axes: Sequence[int]) -> Tensor:
    """The positions of the entries of x in rows along axes: (rows, n)."""
    own = [d % len(x.shape) for d in axes]
    rest = [d for d in range(len(x.shape)) if d not in own]
    return torch.arange(prod(x.shape)).reshape(x.shape).permute(*rest, *own).reshape(-1, prod(x.shape[d] for d in own))


def size_of_rows(squares: Squares) -> Expression:
    """√(Σ x² / divisor + eps) of each row, a vector.  With eps = 0, its derivatives where x is 0 are those in between.

    Source: docs/mathematics.md, §3.11.
    """
    rows, builder, settled = squares.rows, squares.x.builder, squares.x.settled()
    total: Expression = settled.activate(Square()).apply(summed(rows.T + 1, settled.shape, (len(rows),)))
    mean = total if squares.divisor == 1 else divided(total, float(squares.divisor))
    shifted = mean.shift(torch.tensor(squares.eps, dtype=torch.float64)) if squares.eps else mean
    root = shifted.activate((floored(shifted, 0.5) or Power(0.5)) if squares.eps else Length())
    function = LengthRows(squares.divisor, _stored(squares.eps, squares.x))
    known = root.known_as(function, settled, rows, torch.arange(0, rows.numel(), rows.shape[1]))
    builder.sizes[len(builder.stages)] = squares
    return known


def _divided(settled: Expression, rows: Tensor, eps: float) -> Expression:
    if not eps >= 0:
        raise ValueError(f"a normalisation with eps={eps}; it must not be negative")
    size = size_of_rows(Squares(settled, rows, rows.shape[1], eps))
    owner = torch.empty(rows.numel(), dtype=torch.int64)
    owner[rows.flatten()] = torch.arange(len(rows)).repeat_interleave(rows.shape[1])
    return settled.times(inverse(size).apply(Gather(owner.unsqueeze(0), size.shape, settled.shape)))


def _stored(eps: float, x: Expression) -> float:
    """eps as a constant of the network, which its dtype rounds."""
    return float(cast(torch.tensor(eps, dtype=torch.float64), x.dtype, x.device))


def standardised(x: Expression, rows: Tensor, eps: float) -> Expression:
    """(x - mean) / √(variance + eps) over rows."""
    owner = torch.empty(rows.numel(), dtype=torch.int64)
    owner[rows.flatten()] = torch.arange(len(rows)).repeat_interleave(rows.shape[1])
    mean = divided(x.apply(Gather(rows[owner].T.contiguous(), x.shape, x.shape)), float(rows.shape[1]))
    centred: Expression = x.plus(scaled(mean, -1.0)).settled()
    source = x if x.is_settled else centred  # which changes neither values nor derivatives
    return _divided(centred, rows, eps).known_as(NormalisedRows(_stored(eps, x), True), source, rows)


def known_quotient(x: Expression, size: Size) -> Expression | None:
    """x / size as a normalisation of rows; None if it is none."""
    squares = size.squares
    if (size.shift, size.floor) != (0.0, 0.0) or squares.divisor != squares.rows.shape[1] or not divides(size, x):
        return None
    whole = less_mean(x, squares.rows)
    return by_length(x, squares.rows, squares.eps) if whole is None else standardised(whole, squares.rows, squares.eps)


def shrunk(x: Expression, y: Expression, size: Size) -> Expression | None:
    """x / y, where y is the size of each row of x plus a number, or the larger of both; None if it is neither."""
    squares, rows = size.squares, size.squares.rows
    if squares.eps != 0 or (size.shift == 0) == (size.floor == 0) or not divides(size, x):
        return None
    whole, settled = less_mean(x, rows), x.settled()
    source = settled if whole is None or not whole.is_settled else whole
    kind = ShiftedRows if size.shift else FlooredRows
    function = kind(size.shift or size.floor, squares.divisor, whole is not None)
    return settled.times(inverse(y)).known_as(function, source, rows)


def _weighted(x: Expression, weight: Any, bias: Any) -> Any:
    y = x if weight is None else scaled(x, weight)
    return y if bias is None else y.shift(bias)


def _last(x: Expression, shape: Sequence[int]) -> list[int]:
    return list(range(len(x.shape) - len(shape), len(x.shape)))


def _of_channels(t: Tensor | None, x: Expression) -> Tensor | None:
    """Numbers of the channels, along axis 1 of x."""
    return None if t is None else cast(t, x.dtype, t.device).reshape(-1, *[1] * (len(x.shape) - 2))


def _of_groups(x: Expression, groups: int, eps: float) -> Expression:
    """x standardised over groups of channels."""
    if len(x.shape) < 2 or x.shape[1] % groups:
        raise ValueError(f"a normalisation of {groups} groups of a tensor of shape {x.shape}")
    shape = (x.shape[0], groups, prod(x.shape[1:]) // groups)
    grouped = x.apply(Reshape(x.shape, shape))
    flat = standardised(grouped, rows_over(grouped, [2]), eps)
    return flat.apply(Reshape(shape, x.shape))


def variance(x: Expression, dim: Any, correction: float, keep: bool) -> Any:
    """The mean of squared differences from the mean, times n / (n - correction)."""
    axes = [dim] if isinstance(dim, int) else list(dim or range(len(x.shape)))
    count = prod(x.shape[d] for d in axes)
    if count <= correction:
        raise ValueError(f"a variance of {count} numbers with the correction {correction}")
    centred = x.plus(scaled(mean_over(x, axes, True), -1.0))
    return divided(sum_over(centred.activate(Square()), axes, keep), float(count - correction))


@torch_ops.reads("aten.var.correction")
def _var(x: Expression, dim: Any = None, *, correction: float | None = None, keepdim: bool = False) -> Any:
    return variance(x, dim, 1 if correction is None else correction, keepdim)


@torch_ops.reads("aten.var.dim")
def _plain_var(x: Expression, dim: Any, unbiased: bool = True, keepdim: bool = False) -> Any:
    return variance(x, dim, int(unbiased), keepdim)


@torch_ops.reads("aten.layer_norm.default")
def _layer_norm(
    x: Expression, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5,
    _cudnn: bool = False,
) -> Any:  # fmt: skip
    return _weighted(standardised(x, rows_over(x, _last(x, shape)), eps), weight, bias)


@torch_ops.reads("aten.native_layer_norm.default")
def _native_layer_norm(
    x: Expression, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> Any:
    return (_layer_norm(x, shape, weight, bias, eps), _NOTHING, _NOTHING)


@torch_ops.reads("aten.rms_norm.default")
def _rms_norm(x: Expression, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Any:
    if eps is None:
        raise ValueError("an RMS normalisation whose eps is not known; pass eps=1e-6")
    return _weighted(by_length(x, rows_over(x, _last(x, shape)), eps), weight, None)


@torch_ops.reads("aten.group_norm.default")
def _group_norm(
    x: Expression, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5,
    _cudnn: bool = False,
) -> Any:  # fmt: skip
    return _weighted(_of_groups(x, groups, eps), _of_channels(weight, x), _of_channels(bias, x))


@torch_ops.reads("aten.native_group_norm.default")
def _native_group_norm(
    x: Expression, weight: Tensor | None, bias: Tensor | None, _batch: int, _channels: int, _size: int, groups: int,
    eps: float,
) -> Any:  # fmt: skip
    return (_group_norm(x, groups, weight, bias, eps), _NOTHING, _NOTHING)


@torch_ops.reads("aten._native_batch_norm_legit.no_stats")
def _own_batch_norm(
    x: Expression, weight: Tensor | None, bias: Tensor | None, training: bool, _momentum: float, eps: float
) -> Any:
    """Over a batch of one, of channels that lie along axis 1; an instance normalisation becomes this."""
    if x.shape[0] != 1:
        raise ValueError("a batch normalisation by the batch's own statistics; use running statistics and eval mode")
    return (_group_norm(x, x.shape[1], weight, bias, eps), _NOTHING, _NOTHING)


@torch_ops.reads("aten.instance_norm.default")
def _instance_norm(
    x: Expression, weight: Tensor | None, bias: Tensor | None, mean: Any, variance: Any, own: bool, _momentum: float,
    eps: float, _cudnn: bool = False,
) -> Any:  # fmt: skip
    if not own:
        return torch_ops.readers["aten.batch_norm.default"](
            x, weight, bias, mean, variance, False, _momentum, eps, _cudnn
        )
    return _group_norm(x, x.shape[1], weight, bias, eps)


@onnx_ops.reads("LayerNormalization")
def _onnx_layer_norm(
    x: Expression, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5, **_: Any
) -> Any:
    return _weighted(standardised(x, _after(x, axis), epsilon), scale, bias)


@onnx_ops.reads("RMSNormalization")
def _onnx_rms_norm(x: Expression, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, **_: Any) -> Any:
    return _weighted(by_length(x, _after(x, axis), epsilon), scale, None)


def _after(x: Expression, axis: int) -> Tensor:
    """Rows over an axis and all that follow."""
    return rows_over(x, range(axis % len(x.shape), len(x.shape)))


@onnx_ops.reads("InstanceNormalization")
def _onnx_instance_norm(x: Expression, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Any:
    return _group_norm(x, x.shape[1], scale, bias, epsilon)

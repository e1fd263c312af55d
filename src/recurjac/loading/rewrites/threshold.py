"""Choices at a threshold, where(t > c, a(t), b(t)), as activations of t; both sides must have the same limit there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch

from recurjac._types import Shape
from recurjac.activations import LeakyReLU, ReLU
from recurjac.errors import UnsupportedLayer
from recurjac.loading.expression import Expression
from recurjac.loading.readers.choices import index_put
from recurjac.loading.rewrites.forms import Form, close, form, node_of
from recurjac.loading.rewrites.masks import chosen
from recurjac.operators.scale import is_constant, scaled
from recurjac.registry import onnx_ops, torch_ops
from recurjac.tensors import broadcast_shape


@final
@dataclass(frozen=True)
class Above:
    """A comparison: true where `gap` is positive.  It is read by choices, negations, and products, as 1 or 0."""

    gap: Expression

    @property
    def what(self) -> str:
        return "a comparison"

    @property
    def shape(self) -> Shape:
        return self.gap.shape

    def times(self, value: Any) -> Expression:
        """The value where the gap is positive, and 0 elsewhere."""
        if isinstance(value, Above):
            raise ValueError("a product of two comparisons, which has no derivative")
        return self.chosen(value, 0.0)

    def chosen(self, a: Any, b: Any) -> Expression:
        """a where the gap is positive, and b elsewhere.  Raises ValueError if they are no functions of it, or jump."""
        self.gap.builder.otherwise.append("a choice by a comparison")
        sides = [tuple(v.shape) for v in (a, b) if not isinstance(v, float | int)]
        shape = broadcast_shape(self.gap.shape, *sides)
        gap = self.gap.broadcast(shape)
        parts = [_part(v if is_constant(v) else v.broadcast(shape), gap) for v in (a, b)]
        above, below = parts
        if not (close(above.limit, below.limit) or above.limit == below.limit):
            raise ValueError(
                f"a choice whose sides are {above.limit:.6g} and {below.limit:.6g} at the threshold; such a jump has "
                "no Jacobian: make both sides equal there, or use relu, clamp, maximum or minimum"
            )
        if above.limit != below.limit:
            gap.builder.rounded = True
        if above.node is None and below.node is None:
            return _number(_bent(gap, above.slope, below.slope), above.limit)
        high = above.of(gap.activate(ReLU()))
        low = below.of(scaled(scaled(gap, -1.0).activate(ReLU()), -1.0))
        return _number(high.plus(low), -above.limit)


@final
@dataclass(frozen=True)
class _Part:
    """slope · t + limit, or factor · σ(slope · t + inner) + shift for the activation of `node`; `limit` is at t = 0."""

    slope: float
    limit: float
    node: Any = None
    inner: float = 0.0

    def of(self, t: Expression) -> Expression:
        argument = scaled(t, self.slope)
        if self.node is None:
            return _number(argument, self.limit)
        after = _number(argument, self.inner).activate(self.node.stage.activation)
        return _number(scaled(after, self.node.factor), self.node.shift)


def _part(value: Any, gap: Expression) -> _Part:
    """A side of the choice as a function of the gap."""
    if is_constant(value):
        numbers = torch.as_tensor(value, dtype=gap.dtype).detach().flatten()
        if not bool(numbers.isfinite().all()):
            raise ValueError("a choice of infinite numbers or NaN by a comparison, which jumps; use a constant mask")
        if not bool((numbers == numbers[0]).all()):
            raise ValueError("a choice of constants that differ from entry to entry")
        if isinstance(value, torch.Tensor):
            gap.builder.taken.append(value)  # the network will not follow it
        return _Part(0.0, float(numbers[0]))
    own, other = form(value), form(gap)
    found = own.multiple_of(other)
    if found is not None:
        return _Part(*found)
    node = node_of(own, gap.builder)
    inside = None if node is None else _multiple(node.before, other)
    if node is None or inside is None:
        raise ValueError(
            "a choice that depends on data, where a side is neither a multiple of the compared number nor an "
            "activation of it; use relu, clamp, maximum or minimum"
        )
    at = torch.full((1,), inside[1], dtype=torch.float64)
    limit = node.factor * float(node.stage.activation.value(at)) + node.shift
    return _Part(inside[0], limit, node, inside[1])


def _multiple(before: Form, other: Form) -> tuple[float, float] | None:
    return before.multiple_of(other)


def _bent(gap: Expression, above: float, below: float) -> Expression:
    """above · t for t > 0, and below · t for t < 0, without computing a new slope where that would round."""
    if abs(above) == 1:
        bent: Expression = scaled(gap.activate(_two_piece(below / above)), above)
        return bent
    if abs(below) == 1:
        mirrored: Expression = scaled(scaled(gap, -1.0).activate(_two_piece(above / below)), -below)
        return mirrored
    high: Expression = scaled(gap.activate(ReLU()), above)
    return high.plus(scaled(scaled(gap, -1.0).activate(ReLU()), -below))


def check_read(operation: str, place: str, arguments: Iterable[Any]) -> None:
    """Raise UnsupportedLayer, naming its place, if an operation other than a choice reads a comparison."""
    if operation not in _CHOICES and any(isinstance(a, Above) for a in arguments):
        raise UnsupportedLayer(
            f"{place} is not supported: it reads a comparison of what depends on the input, which has no "
            "derivative; use where(x > c, …, …) with equal limits at c, relu, clamp, maximum or minimum"
        )


def _two_piece(slope: float) -> ReLU | LeakyReLU:
    return ReLU() if slope == 0 else LeakyReLU(slope)


def _number(x: Expression, number: float) -> Expression:
    return x if number == 0 else x.shift(torch.full((), number, dtype=x.dtype, device=x.device))


def _above(x: Any, y: Any) -> Above:
    """x > y; whether the threshold itself belongs to one side or the other makes no difference."""
    like = y if is_constant(x) else x
    a, b = (like.constant(torch.as_tensor(v, dtype=like.dtype)) if is_constant(v) else v for v in (x, y))
    return Above(a.plus(scaled(b, -1.0)))


@torch_ops.reads("aten.gt.Scalar", "aten.gt.Tensor", "aten.ge.Scalar", "aten.ge.Tensor")
@onnx_ops.reads("Greater", "GreaterOrEqual")
def _greater(x: Any, y: Any) -> Any:
    return _above(x, y)


@torch_ops.reads("aten.lt.Scalar", "aten.lt.Tensor", "aten.le.Scalar", "aten.le.Tensor")
@onnx_ops.reads("Less", "LessOrEqual")
def _less(x: Any, y: Any) -> Any:
    return _above(y, x)


_IN_TORCH = ("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar")
_FILLS = ("aten.masked_fill.Scalar", "aten.masked_fill_.Scalar", "aten.masked_fill.Tensor", "aten.masked_fill_.Tensor")
_PUTS = ("aten.index_put.default", "aten.index_put_.default")
_PRODUCTS = ("aten.mul.Tensor", "aten.mul_.Tensor", "aten.multiply.Tensor", "Mul")
_NOTS = ("aten.bitwise_not.default", "aten.logical_not.default")
_AS_NUMBERS = ("aten.to.dtype", "aten.to.dtype_layout", "aten._to_copy.default", "aten.type_as.default", "Cast")
_CHOICES = {*_IN_TORCH, "Where", *_FILLS, *_PUTS, *_PRODUCTS, *_NOTS, "Not", *_AS_NUMBERS}
"""Operations that read comparisons."""


@torch_ops.reads(*_IN_TORCH)
@onnx_ops.reads("Where")
def _where(mask: Any, x: Any, y: Any) -> Any:
    """x where the mask is true, otherwise y."""
    return mask.chosen(x, y) if isinstance(mask, Above) else chosen(mask, x, y)


@torch_ops.reads(*_FILLS)
def _masked_fill(x: Any, mask: Any, value: Any) -> Any:
    """`value` where the mask is true, otherwise x; x keeps its shape."""
    return mask.chosen(value, x) if isinstance(mask, Above) else chosen(mask, value, x)


@torch_ops.reads(*_PUTS)
def _put(x: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    """x with `values` at constant positions, or one value where a comparison is true."""
    if not any(isinstance(i, Above) for i in indices):
        return index_put(x, indices, values, accumulate)
    mask = indices[0]
    if accumulate or len(indices) > 1 or mask.shape != tuple(x.shape) or not is_constant(values):
        raise ValueError("an assignment where a comparison is true, of more than one number; use where or clamp")
    return mask.chosen(values, x)


@torch_ops.reads(*_NOTS)
@onnx_ops.reads("Not")
def _not(mask: Any) -> Any:
    if not isinstance(mask, Above):
        raise ValueError("it asks where a number is 0, which has no derivative; compare with where(x > c, …, …)")
    return Above(scaled(mask.gap, -1.0))

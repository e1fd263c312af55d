"""Estimates of the number of entries that a node computes, made before it is evaluated, because files are untrusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil, prod
from typing import Any

import numpy as np

Arrays = Sequence[np.ndarray[Any, Any] | None]

_ENTRYWISE = {
    "Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Clip", "Cos", "Div", "Equal", "Erf", "Exp", "Floor", "Greater",
    "GreaterOrEqual", "HardSigmoid", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mod", "Mul",
    "Neg", "Not", "Or", "Pow", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt",
    "Sub", "Sum", "Tanh", "Where", "Xor", "BatchNormalization", "IsNaN", "IsInf", "Dropout",
}  # fmt: skip
"""Operators whose result has the shape to which their inputs broadcast."""
_SMALLER = {
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Flatten", "Identity", "DepthToSpace",
    "SpaceToDepth", "Concat", "Shape", "Size", "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd",
    "ReduceL1", "ReduceL2", "ReduceSumSquare", "ArgMax", "ArgMin", "NonZero", "ReverseSequence", "Trilu", "CumSum",
    "ScatterElements", "ScatterND", "Compress", "DequantizeLinear", "Softmax", "LogSoftmax", "Hardmax", "EyeLike",
    "ReduceLogSum", "ReduceLogSumExp", "GlobalAveragePool",
}  # fmt: skip
"""Operators whose result has at most a few times as many entries as their inputs."""


Given = Sequence[np.ndarray[Any, Any]]


def is_folded(kind: str) -> bool:
    """Whether an operator is evaluated where it reads constants only."""
    return kind in _ENTRYWISE or kind in _SMALLER or kind == "Constant" or kind in _GROWING


def grown(kind: str, arrays: Arrays, attributes: Mapping[str, Any]) -> int:
    """An upper estimate of the entries that a node computes.  Raises ValueError for a node that is not folded."""
    given = [a for a in arrays if a is not None]
    if kind in _ENTRYWISE:
        return prod(int(n) for n in np.broadcast_shapes(*(a.shape for a in given)))
    if kind in _SMALLER:
        return 4 * sum(a.size for a in given)
    if kind == "Constant":
        return 0
    return _GROWING[kind](given, attributes)


def _of_shape(given: Given, _: Mapping[str, Any]) -> int:
    return prod(int(n) for n in given[0].flatten())


def _expanded(given: Given, _: Mapping[str, Any]) -> int:
    shape = tuple(int(n) for n in given[1].flatten())
    return prod(int(n) for n in np.broadcast_shapes(given[0].shape, shape))


def _tiled(given: Given, _: Mapping[str, Any]) -> int:
    return int(given[0].size) * prod(max(0, int(n)) for n in given[1].flatten())


def _range(given: Given, _: Mapping[str, Any]) -> int:
    start, limit, step = (float(a) for a in given)
    return max(0, ceil((limit - start) / step))


def _product(given: Given, _: Mapping[str, Any]) -> int:
    """At most the product of every row with every column."""
    common = max(1, min(given[0].shape[-1:] or (1,)))
    return (int(given[0].size) // common + 1) * (int(given[1].size) // common + 1)


def _picked(given: Given, attributes: Mapping[str, Any]) -> int:
    axis = int(attributes.get("axis", 0))
    return int(given[0].size) // max(1, int(given[0].shape[axis])) * int(given[1].size)


def _picked_elements(given: Given, _: Mapping[str, Any]) -> int:
    return int(given[1].size)


def _picked_deep(given: Given, attributes: Mapping[str, Any]) -> int:
    """Each row of indices picks all entries along the axes that it does not index."""
    *rows, named = given[1].shape
    left = given[0].shape[int(attributes.get("batch_dims", 0)) + int(named) :]
    return int(prod(rows) * prod(left))


def _padded(given: Given, attributes: Mapping[str, Any]) -> int:
    """Pads of only some axes are counted as if every axis had the largest of them."""
    pads = attributes["pads"] if "pads" in attributes else given[1].flatten().tolist()
    half, shape = len(pads) // 2, given[0].shape
    added = [max(0, int(b)) + max(0, int(a)) for b, a in zip(pads[:half], pads[half:], strict=True)]
    if half == len(shape):
        return prod(n + a for n, a in zip(shape, added, strict=True))
    return prod(n + max(added, default=0) for n in shape)


def _resized(given: Given, attributes: Mapping[str, Any]) -> int:
    """The new size comes from sizes or scales, in the last input (formerly an attribute), for all or some axes."""
    shape = given[0].shape
    last = given[-1].flatten().tolist() if len(given) > 1 else attributes["scales"]
    axes = attributes.get("axes", range(len(shape)))
    whole = len(given) > 1 and given[-1].dtype.kind == "i"
    new = [max(1.0, n) for n in shape]
    for axis, value in zip(axes, last, strict=True):
        new[axis] = float(value) if whole else shape[axis] * float(value)
    if not all(n >= 0 for n in new):
        raise ValueError(f"a resize to {new}")
    return ceil(float(prod(new)))


_GROWING: Mapping[str, Callable[[Given, Mapping[str, Any]], int]] = {
    "ConstantOfShape": _of_shape, "Expand": _expanded, "Tile": _tiled, "Range": _range, "MatMul": _product,
    "Gemm": _product, "Gather": _picked, "GatherElements": _picked_elements, "GatherND": _picked_deep, "Pad": _padded,
    "Resize": _resized, "Upsample": _resized,
}  # fmt: skip

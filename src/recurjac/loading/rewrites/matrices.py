"""Matrix products and sums of products over indices, of tensors that may both depend on the input.

A product of two such tensors consists of products of entries, which are summed; one with a constant is linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.loading.expression import LARGEST, Expression
from recurjac.loading.readers.branches import add
from recurjac.loading.readers.sums import sum_over
from recurjac.operators.dense import matrix_product
from recurjac.operators.gather import gather
from recurjac.operators.scale import is_constant, scaled
from recurjac.registry import onnx_ops, torch_ops
from recurjac.tensors import broadcast_shape


def moved(x: Any, move: Any) -> Any:
    """A constant or an expression whose entries were moved or repeated."""
    return move(x) if isinstance(x, Tensor) else x.apply(gather(move, x.shape))


def multiplied(x: Any, y: Any) -> Any:
    """x y, entry by entry, for constants and expressions of which at least one is an expression."""
    if is_constant(x):
        return scaled(y, x)
    return scaled(x, y) if is_constant(y) else x.times(y)


def matmul(x: Any, y: Any) -> Any:
    """x @ y as in NumPy: products of the last two axes, the others broadcast."""
    a, b = tuple(x.shape), tuple(y.shape)
    if (isinstance(x, Tensor) and _is_one(x)) or (isinstance(y, Tensor) and _is_one(y)):
        return matrix_product(x, y)
    if not a or not b or a[-1] != b[-2 if len(b) > 1 else 0]:
        raise ValueError(f"a matrix product of tensors of shapes {a} and {b}")
    left = x if len(a) > 1 else moved(x, lambda t: t.unsqueeze(0))
    right = y if len(b) > 1 else moved(y, lambda t: t.unsqueeze(1))
    lead = broadcast_shape(tuple(left.shape[:-2]), tuple(right.shape[:-2]))
    rows, inner, columns = left.shape[-2], left.shape[-1], right.shape[-1]
    shape = (*lead, rows, columns, inner)
    _check(shape)
    branches = isinstance(left, Expression) and isinstance(right, Expression)
    if branches:
        left, right = left.settled(), right.settled()
    wide = (
        moved(left, lambda t: t.unsqueeze(-2).expand(shape)),
        moved(right, lambda t: t.mT.unsqueeze(-3).expand(shape)),
    )
    z = sum_over(multiplied(*wide), [-1], False)
    if branches:
        rows_of = moved(left, lambda t: t.expand(*lead, rows, inner))
        z = z.known_as_product(rows_of, moved(right, lambda t: t.mT.expand(*lead, columns, inner)))
    gone = [d for d, v in ((-1, b), (-2, a)) if len(v) == 1]
    return moved(z, lambda t: t.squeeze(gone)) if gone else z


def _is_one(matrix: Tensor) -> bool:
    """Whether a constant is one vector or matrix, not several."""
    return matrix.dim() < 3 or matrix.numel() == matrix.shape[-1] * matrix.shape[-2]


def _check(shape: Shape) -> None:
    if prod(shape) > LARGEST:
        raise ValueError(
            f"a matrix product of two branches, which needs {prod(shape)} products of entries; at most {LARGEST} are "
            "read: use fewer tokens, channels or heads"
        )


@torch_ops.reads("aten.mm.default", "aten.matmul.default", "aten.bmm.default", "aten.mv.default", "aten.dot.default")
@onnx_ops.reads("MatMul")
def _matmul(x: Any, y: Any) -> Any:
    return matmul(x, y)


@torch_ops.reads("aten.baddbmm.default")
def _baddbmm(bias: Any, x: Any, y: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    both = is_constant(x) and is_constant(y)
    product = torch.matmul(x, y) * alpha if both else scaled(matmul(x, y), alpha)
    return add(product, bias * beta if is_constant(bias) else scaled(bias, beta))


def einsum(equation: str, operands: Sequence[Any]) -> Any:
    """Sums of products over the indices that the result does not have; of one or two operands, each index once."""
    inputs, given, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if "." in equation or len(terms) != len(operands) or len(operands) > 2 or any(len(set(t)) < len(t) for t in terms):
        raise ValueError(f"the sum of products {equation!r}; one or two operands with different indices are read")
    letters = "".join(dict.fromkeys(inputs.replace(",", "")))
    wanted = output if given else "".join(sorted(c for c in letters if inputs.count(c) == 1))
    sizes = {c: n for t, o in zip(terms, operands, strict=True) for c, n in zip(t, o.shape, strict=True) if n != 1}
    order = wanted + "".join(c for c in letters if c not in wanted)
    shape = tuple(sizes.get(c, 1) for c in order)
    _check(shape)
    wide = [_aligned(o, t, order, shape) for o, t in zip(operands, terms, strict=True)]
    product = wide[0] if len(wide) == 1 else multiplied(*wide)
    return sum_over(product, range(len(wanted), len(order)), False)


def _aligned(operand: Any, term: str, order: str, shape: Shape) -> Any:
    """An operand with its axes in the order of all indices, repeated along those that it does not have."""
    axes = [term.index(c) for c in order if c in term]
    places = [k for k, c in enumerate(order) if c not in term]

    def move(t: Tensor) -> Tensor:
        t = t.permute(axes)
        for k in places:
            t = t.unsqueeze(k)
        return t.expand(shape)

    return moved(operand, move)

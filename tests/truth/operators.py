"""Linear operators in Arb's balls, from their stored numbers; each has a definition of its own here."""

from __future__ import annotations

from functools import singledispatch
from itertools import product
from math import prod
from typing import Any

from flint import arb, arb_mat
from torch import Tensor

from recurjac import operators as ops
from tests.truth.elementary import OutOfScopeError


def numbers(tensor: Tensor) -> list[Any]:
    """The entries of a tensor in row-major order, exactly."""
    return [arb(v) for v in tensor.detach().double().flatten().tolist()]


def rows_of(matrix: Any) -> list[list[Any]]:
    return [[matrix[i, j] for j in range(matrix.ncols())] for i in range(matrix.nrows())]


@singledispatch
def applied(operator: ops.AbstractOperator, h: Any) -> Any:
    """The operator on each column of a matrix, whose rows are the flat entries of its argument."""
    raise OutOfScopeError(type(operator).__name__)


@applied.register
def _(operator: ops.Compose, h: Any) -> Any:
    return applied(operator.outer, applied(operator.inner, h))


@applied.register(ops.Identity)
@applied.register(ops.Reshape)
def _(operator: ops.AbstractOperator, h: Any) -> Any:
    return h


@applied.register
def _(operator: ops.Negate, h: Any) -> Any:
    return -h


@applied.register
def _(operator: ops.Dense, h: Any) -> Any:
    """Block by block, where the argument has several."""
    out, inn = operator.weight.shape
    if inn == 0:
        return arb_mat(prod(operator.outputs), h.ncols())
    weight = arb_mat(out, inn, numbers(operator.weight))
    if h.nrows() == inn:
        return weight * h
    rows = rows_of(h)
    blocks = [weight * arb_mat(rows[i : i + inn]) for i in range(0, len(rows), inn)]
    return arb_mat([row for block in blocks for row in rows_of(block)])


@applied.register
def _(operator: ops.Gather, h: Any) -> Any:
    rows, width = rows_of(h), h.ncols()
    table = operator.table.tolist()
    found = []
    for i in range(prod(operator.outputs)):
        total = [arb(0)] * width
        for term in table:
            if term[i] >= 0:
                total = [a + b for a, b in zip(total, rows[term[i]], strict=True)]
        found.append(total)
    return _matrix(found, width)


def _matrix(rows: list[list[Any]], width: int) -> Any:
    return arb_mat(rows) if rows else arb_mat(0, width)


def _scaled(factors: list[Any], h: Any) -> Any:
    return _matrix([[f * v for v in row] for f, row in zip(factors, rows_of(h), strict=True)], h.ncols())


@applied.register
def _(operator: ops.Scale, h: Any) -> Any:
    return _scaled(numbers(operator.factor), h)


@applied.register
def _(operator: ops.Divide, h: Any) -> Any:
    divisors = numbers(operator.divisor)
    return _matrix([[v / d for v in row] for d, row in zip(divisors, rows_of(h), strict=True)], h.ncols())


@applied.register
def _(operator: ops.Standardise, h: Any) -> Any:
    deviations = [(v + arb(operator.floor)).sqrt() for v in numbers(operator.variance)]
    return _matrix([[v / d for v in row] for d, row in zip(deviations, rows_of(h), strict=True)], h.ncols())


@applied.register
def _(operator: ops.CumulativeSum, h: Any) -> Any:
    shape, axis, rows = operator.shape, operator.axis, rows_of(h)
    step = prod(shape[axis + 1 :])
    found = list(rows)
    order = range(len(rows) - 1, -1, -1) if operator.backwards else range(len(rows))
    for i in order:
        place = i // step % shape[axis]
        before = i + step if operator.backwards else i - step
        if 0 <= (place + 1 if operator.backwards else place - 1) < shape[axis]:
            found[i] = [a + b for a, b in zip(found[before], rows[i], strict=True)]
    return _matrix(found, h.ncols())


@applied.register
def _(operator: ops.Convolution, h: Any) -> Any:
    return _kernel(operator) * h


@applied.register
def _(operator: ops.TransposedConvolution, h: Any) -> Any:
    return _kernel(operator.transpose()).transpose() * h


def _kernel(operator: ops.Convolution) -> Any:
    """The matrix of a convolution: out[c, p] sums weight[c, d, k] in[g d' + d, s p + e k - padding] over d and k."""
    weight, geometry = operator.weight, operator.geometry
    out, inner, kernel = int(weight.shape[0]), int(weight.shape[1]), tuple(weight.shape[2:])
    outputs, inputs = operator.out_shape[1:], operator.in_shape[1:]
    matrix, values = arb_mat(prod(operator.out_shape), prod(operator.in_shape)), numbers(weight)
    each = out // geometry.groups
    for c, p, d, k in product(range(out), _places(outputs), range(inner), _places(kernel)):
        where = tuple(
            a * s + b * e - pad
            for a, s, b, e, pad in zip(p, geometry.stride, k, geometry.dilation, geometry.padding, strict=True)
        )
        if all(0 <= w < n for w, n in zip(where, inputs, strict=True)):
            row = _flat((c, *p), (out, *outputs))
            column = _flat((c // each * inner + d, *where), operator.in_shape)
            matrix[row, column] += values[_flat((c, d, *k), (out, inner, *kernel))]
    return matrix


def _places(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    return list(product(*(range(n) for n in shape)))


def _flat(place: tuple[int, ...], shape: tuple[int, ...]) -> int:
    found = 0
    for i, n in zip(place, shape, strict=True):
        found = found * n + i
    return found

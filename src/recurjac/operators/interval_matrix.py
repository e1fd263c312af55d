"""Matrices that are the result of a computation, known up to rounding errors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Self, final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic, Ball, Rigorous, Sizes, concatenate, plus_matmul_, spectral_norm
from recurjac.operators.base import AbstractOperator
from recurjac.operators.compose import Compose
from recurjac.operators.gather import Gather
from recurjac.operators.reindex import Negate
from recurjac.tensors import broadcast_shape


@final
@dataclass(frozen=True)
class IntervalMatrix(AbstractOperator):
    """Any matrix (out, in) within the radius of `matrix`, between tensors of any shape in row-major order."""

    matrix: Ball
    inputs: Shape
    outputs: Shape

    @property
    def in_shape(self) -> Shape:
        return self.inputs

    @property
    def out_shape(self) -> Shape:
        return self.outputs

    def push(self, value: Ball) -> Ball:
        lead = value.shape[: len(value.shape) - len(self.inputs)]
        if len(self.inputs) != 1:
            value = value.map(lambda t: t.reshape(*lead, prod(self.inputs)))
        found = value.matmul(self._afresh)
        return found if len(self.outputs) == 1 else found.map(lambda t: t.reshape((*lead, *self.outputs)))

    def absorb(self, sizes: Sizes) -> Sizes:
        flat = sizes.reshaped(len(self.outputs), (prod(self.outputs),))
        return flat.before_matrix(self._afresh).reshaped(1, self.inputs)

    @property
    def _afresh(self) -> Ball:
        """The matrix as a new object, without values cached from a live tensor."""
        return Ball(self.matrix.mid, self.matrix.rad)

    def transpose(self) -> IntervalMatrix:
        return IntervalMatrix(self.matrix.map(lambda t: t.mT), self.outputs, self.inputs)

    def absolute(self) -> IntervalMatrix:
        """The matrix of the largest possible absolute values of the entries."""
        size = torch.maximum(self.matrix.upper().abs(), self.matrix.lower().abs())
        rad = None if self.matrix.rad is None else torch.zeros_like(size)
        return replace(self, matrix=Ball(size, rad))

    def taking(self, shape: Shape) -> Self:
        return replace(self, inputs=shape)

    def giving(self, shape: Shape) -> Self:
        return replace(self, outputs=shape)

    def columns(self, index: Tensor, dtype: torch.dtype, arithmetic: AbstractArithmetic) -> Ball:
        flat = index.flatten()
        found = self.matrix.map(lambda t: t.mT.index_select(0, flat).reshape((*index.shape, *self.outputs)))
        return found if arithmetic.rigorous else Ball(found.mid, None)

    def rows(self, index: Tensor) -> tuple[AbstractOperator, Tensor]:
        n = prod(self.inputs)
        part = IntervalMatrix(self.matrix.map(lambda t: t[index]), (n,), (len(index),))
        return part, torch.arange(n, device=index.device)

    def norm(self, p: float, arithmetic: AbstractArithmetic) -> Tensor:
        """The largest column sum for p = 1, the largest row sum for p = inf, and `spectral_norm` for p = 2."""
        if p == 2:
            return spectral_norm(self._afresh)
        size, dim = self.absolute().matrix.mid, 1 if p == torch.inf else 0
        return arithmetic.at_least(size.sum(dim), size.shape[dim]).max()

    def multiply_adds(self) -> int:
        return self.matrix.mid.numel()

    def tensors(self) -> Iterable[Tensor]:
        return (self.matrix.mid,)

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        return replace(self, matrix=self.matrix.to(dtype, device))

    @classmethod
    def examples(cls) -> list[Self]:
        g = torch.Generator().manual_seed(2)
        matrix = torch.randn(3, 4, generator=g, dtype=torch.float64)
        return [cls(Rigorous().exact(matrix), (4,), (3,)), cls(Rigorous().exact(matrix), (2, 2), (3, 1))]


def total(pairs: Sequence[tuple[AbstractOperator, Ball]], onto: Ball | None = None) -> Ball:
    """Σ A c for operators A and values c (..., *in); if all operators are matrices, it is computed as one product.

    onto: a further summand; its memory may be overwritten, so it must not be used afterwards.
    """
    if onto is not None and len(pairs) == 1:
        operator, value = pairs[0]
        if isinstance(operator, IntervalMatrix) and len(operator.outputs) == len(operator.inputs) == 1:
            return plus_matmul_(onto, value, operator._afresh)
    found = _total(pairs)
    return found if onto is None else onto + found


def other_terms(operators: Sequence[AbstractOperator]) -> int:
    """How many more summands than its own products an entry of `total` has at most, for one of these operators.

    Each further operator adds one number; matrices add all products of all of them, as they are computed as one.
    """
    return len(operators) - 1 + sum(prod(o.inputs) for o in operators if isinstance(o, IntervalMatrix))


def _total(pairs: Sequence[tuple[AbstractOperator, Ball]]) -> Ball:
    parts = [(o, c) for o, c in pairs if isinstance(o, IntervalMatrix)]
    if len(parts) < 2 or len(parts) < len(pairs):
        return _one_by_one(pairs)
    matrix = concatenate([o.matrix.map(_transposed) for o, _ in parts], 0).map(_transposed)  # mostly whole rows
    leads = {c.shape[: c.mid.dim() - len(o.inputs)] for o, c in parts}
    lead = leads.pop() if len(leads) == 1 else broadcast_shape(*leads)
    values = [c.map(partial(_flat, lead=lead, dims=len(o.inputs))) for o, c in parts]
    return IntervalMatrix(matrix, (matrix.shape[1],), parts[0][0].outputs).push(concatenate(values, -1))


def _one_by_one(pairs: Sequence[tuple[AbstractOperator, Ball]]) -> Ball:
    """Σ A c, term by term; what is 0 in most places is added to the sum in its memory."""
    (operator, value), *others = pairs
    found, new = operator.push(value), isinstance(operator, Gather) and operator.placement is not None
    for operator, value in others:
        found, new = _plus(found, operator, value, new), True
    return found


def _plus(found: Ball, operator: AbstractOperator, value: Ball, new: bool) -> Ball:
    """`found` + A c; for A = -O, `found` - O c is the same number, without a copy of O c with the other signs.

    new: whether nothing else uses the memory of `found`, so that it may be overwritten.
    """
    negated = isinstance(operator, Compose) and isinstance(operator.outer, Negate)
    inner = operator.inner if isinstance(operator, Compose) and negated else operator
    placed = inner.plus_onto_(found, value, -1.0 if negated else 1.0) if new and isinstance(inner, Gather) else None
    if placed is not None:
        return placed
    return found - inner.push(value) if negated else found + inner.push(value)


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.mT


def _flat(tensor: Tensor, lead: Shape, dims: int) -> Tensor:
    if dims == 1 and tensor.shape[:-1] == lead:
        return tensor
    return tensor.flatten(tensor.dim() - dims).expand(*lead, -1) if dims else tensor.unsqueeze(-1).expand(*lead, 1)

"""Composition of operators, applied one after the other, so that no product of matrices is rounded beforehand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic, Value
from recurjac.operators.base import AbstractOperator
from recurjac.operators.dense import Dense
from recurjac.operators.gather import Gather
from recurjac.operators.reindex import Identity, Reshape


@final
@dataclass(frozen=True)
class Compose(AbstractOperator):
    """outer ∘ inner."""

    outer: AbstractOperator
    inner: AbstractOperator

    def __post_init__(self) -> None:
        if self.inner.out_shape != self.outer.in_shape:
            raise ValueError(f"an operator on {self.outer.in_shape} cannot follow one to {self.inner.out_shape}")

    @property
    def in_shape(self) -> Shape:
        return self.inner.in_shape

    @property
    def out_shape(self) -> Shape:
        return self.outer.out_shape

    def push(self, value: Value) -> Value:
        return self.outer.push(self.inner.push(value))

    def transpose(self) -> AbstractOperator:
        return compose(self.inner.transpose(), self.outer.transpose())

    def columns(self, index: Tensor, dtype: torch.dtype, arithmetic: AbstractArithmetic) -> Value:
        return self.outer.push(self.inner.columns(index, dtype, arithmetic))

    def norm(self, p: float, arithmetic: AbstractArithmetic) -> Tensor:
        return (
            arithmetic.exact(self.outer.norm(p, arithmetic)) * arithmetic.exact(self.inner.norm(p, arithmetic))
        ).upper()

    def multiply_adds(self) -> int:
        return self.outer.multiply_adds() + self.inner.multiply_adds()

    def tensors(self) -> Iterable[Tensor]:
        return (*self.outer.tensors(), *self.inner.tensors())

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        return replace(self, outer=self.outer.to(dtype, device), inner=self.inner.to(dtype, device))

    @classmethod
    def examples(cls) -> list[Self]:
        g = torch.Generator().manual_seed(1)
        a = Dense.matrix(torch.randn(5, 4, generator=g, dtype=torch.float64))
        b = Dense.matrix(torch.randn(3, 5, generator=g, dtype=torch.float64))
        return [cls(b, a), cls(Reshape((5,), (5, 1)), a)]


def compose(outer: AbstractOperator, inner: AbstractOperator) -> AbstractOperator:
    """outer ∘ inner, in the simplest exact form: identities vanish and reshapes melt into dense operators."""
    if isinstance(inner, Identity):
        return outer
    if isinstance(outer, Identity):
        return inner
    if isinstance(outer, Reshape) and isinstance(inner, Reshape):
        same = inner.in_shape == outer.out_shape
        return Identity(inner.in_shape) if same else Reshape(inner.in_shape, outer.out_shape)
    if isinstance(outer, Reshape | Gather) and isinstance(inner, Gather | Reshape):
        return _moved(outer, inner)
    if isinstance(outer, Dense) and isinstance(inner, Reshape):
        return replace(outer, inputs=inner.in_shape)
    if isinstance(outer, Reshape) and isinstance(inner, Dense):
        return replace(inner, outputs=outer.out_shape)
    if isinstance(outer, Compose):
        return compose(outer.outer, compose(outer.inner, inner))
    if isinstance(inner, Compose) and not isinstance(first := compose(outer, inner.outer), Compose):
        return compose(first, inner.inner)
    return Compose(outer, inner)


def _moved(outer: Reshape | Gather, inner: Reshape | Gather) -> AbstractOperator:
    """outer ∘ inner as one operator, unless a sum of sums would grow."""
    if isinstance(outer, Reshape) and isinstance(inner, Gather):
        return replace(inner, outputs=outer.outputs)
    if isinstance(outer, Gather) and isinstance(inner, Reshape):
        return replace(outer, inputs=inner.inputs)
    if isinstance(outer, Gather) and isinstance(inner, Gather) and len(inner.table) == 1:
        return outer.after(inner)
    return Compose(outer, inner)

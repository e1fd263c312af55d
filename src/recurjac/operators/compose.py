"""Composition of operators, which are applied one after the other, so that no product of matrices is rounded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic, Ball, Sizes
from recurjac.operators.base import AbstractOperator
from recurjac.operators.gather import Gather
from recurjac.operators.reindex import AbstractWeightless, Identity, Negate, Reshape
from recurjac.operators.scale import Scale
from recurjac.operators.spectral import spectral_norm


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

    def push(self, value: Ball) -> Ball:
        return self.outer.push(self.inner.push(value))

    def absorb(self, sizes: Sizes) -> Sizes:
        return self.inner.absorb(self.outer.absorb(sizes))

    def transpose(self) -> AbstractOperator:
        return compose(self.inner.transpose(), self.outer.transpose())

    @property
    def local(self) -> bool:
        return self.outer.local or self.inner.local

    def unproved_rounding(self, dtype: torch.dtype, device: torch.device) -> str | None:
        return self.outer.unproved_rounding(dtype, device) or self.inner.unproved_rounding(dtype, device)

    def columns(self, index: Tensor, dtype: torch.dtype, arithmetic: AbstractArithmetic) -> Ball:
        return self.outer.push(self.inner.columns(index, dtype, arithmetic))

    def rows(self, index: Tensor) -> tuple[AbstractOperator, Tensor]:
        outer, middle = self.outer.rows(index)
        if len(middle) == 0:  # these rows are 0
            return outer, middle
        inner, read = self.inner.rows(middle)
        return compose(outer, inner), read

    def norm(self, p: float, arithmetic: AbstractArithmetic) -> Tensor:
        """The product of both norms; for p = 2, the norm of the composition as one matrix."""
        for plain, other in ((self.outer, self.inner), (self.inner, self.outer)):
            if isinstance(plain, AbstractWeightless):
                return other.norm(p, arithmetic)
        if p == 2:
            return spectral_norm(self)
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
        swap = Gather(torch.tensor([[2, 0, 1, -1]]), (3,), (4,))
        total = Gather(torch.tensor([[0, 2], [1, 3]]), (2, 2), (2,))
        factor = Scale(torch.tensor([1.5, -2.0, 0.3, 1.0], dtype=torch.float64))
        return [cls(factor, swap), cls(Reshape((4,), (2, 2)), factor), cls(total, cls(Reshape((4,), (2, 2)), factor))]


def compose(outer: AbstractOperator, inner: AbstractOperator) -> AbstractOperator:
    """outer ∘ inner in the simplest exact form, nested to the right.

    Identities are dropped, moves of entries are merged, and negation is moved outermost.
    """
    if isinstance(inner, Identity):
        return outer
    if isinstance(outer, Identity):
        return inner
    if isinstance(inner, Negate) or (isinstance(inner, Compose) and isinstance(inner.outer, Negate)):
        rest = compose(outer, inner.inner) if isinstance(inner, Compose) else outer
        return _negated(rest)
    if isinstance(outer, Negate):
        return Compose(outer, inner)
    if isinstance(outer, Compose):
        return compose(outer.outer, compose(outer.inner, inner))
    if isinstance(inner, Compose):
        first = compose(outer, inner.outer)
        return Compose(outer, inner) if isinstance(first, Compose) else compose(first, inner.inner)
    return _melted(outer, inner) or Compose(outer, inner)


def _negated(operator: AbstractOperator) -> AbstractOperator:
    """-operator, with the negation outermost."""
    if isinstance(operator, Negate):
        return Identity(operator.shape)
    if isinstance(operator, Compose) and isinstance(operator.outer, Negate):
        return operator.inner
    return Compose(Negate(operator.out_shape), operator)


def _melted(outer: AbstractOperator, inner: AbstractOperator) -> AbstractOperator | None:
    """outer ∘ inner as one operator; None if there is none that costs no more."""
    if isinstance(outer, Reshape) and isinstance(inner, Reshape):
        same = inner.in_shape == outer.out_shape
        return Identity(inner.in_shape) if same else Reshape(inner.in_shape, outer.out_shape)
    if isinstance(inner, Reshape):
        return outer.taking(inner.in_shape)
    if isinstance(outer, Reshape):
        return inner.giving(outer.out_shape)
    if isinstance(outer, Gather) and isinstance(inner, Gather) and len(inner.table) == 1:
        return outer.after(inner)
    return None

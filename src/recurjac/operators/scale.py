"""Multiplication of each entry by a constant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self, final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.operators.base import AbstractLeaf
from recurjac.reading import Expression, torch_ops


@final
@dataclass(frozen=True)
class Scale(AbstractLeaf):
    """Entry-wise multiplication by `factor`, a tensor of the node's shape."""

    factor: Tensor

    @property
    def in_shape(self) -> Shape:
        return tuple(self.factor.shape)

    @property
    def out_shape(self) -> Shape:
        return tuple(self.factor.shape)

    def apply(self, tensor: Tensor) -> Tensor:
        return tensor * self.factor

    def transpose(self) -> Scale:
        return self

    def absolute(self) -> Scale:
        return Scale(self.factor.abs())

    @property
    def summands(self) -> int:
        return 1

    def multiply_adds(self) -> int:
        return self.factor.numel()

    def tensors(self) -> Iterable[Tensor]:
        return (self.factor,)

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        return replace(self, factor=self.factor.to(dtype=dtype, device=device))

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(torch.tensor([1.5, -2.0, 0.0], dtype=torch.float64)), cls(-torch.ones(2, 2, dtype=torch.float64))]


def scaled(x: Expression, factor: Tensor | float) -> Any:
    """`x` times a constant that broadcasts against it."""
    some = torch.as_tensor(factor, dtype=x.dtype)
    if some.dim() > len(x.shape):
        if some.shape[0] != 1:
            raise ValueError("a multiplication by a constant that differs between the samples of a batch")
        some = some[0]
    return x.apply(Scale(some.broadcast_to(x.shape)))


@torch_ops.reads("aten.neg.default")
def _neg(x: Expression) -> Any:
    return scaled(x, -1.0)


@torch_ops.reads("aten.mul.Tensor", "aten.mul.Scalar")
def _mul(x: Any, y: Any) -> Any:
    if isinstance(x, Tensor | float | int):
        x, y = y, x
    if not isinstance(y, Tensor | float | int):
        raise ValueError("a product of two tensors that both depend on the input; only constant factors are affine")
    return scaled(x, y)

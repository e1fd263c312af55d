"""Dense matrices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Self, final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic, Value
from recurjac.operators.base import AbstractLeaf
from recurjac.reading import Expression, torch_ops


@final
@dataclass(frozen=True)
class Dense(AbstractLeaf):
    """The matrix `weight` (out x in), between tensors of any shape with as many entries, in row-major order.

    Nothing derived from `weight` is kept: it may be a live parameter that changes in place.
    """

    weight: Tensor
    inputs: Shape
    outputs: Shape

    @property
    def in_shape(self) -> Shape:
        return self.inputs

    @property
    def out_shape(self) -> Shape:
        return self.outputs

    def __post_init__(self) -> None:
        if tuple(self.weight.shape) != (prod(self.out_shape), prod(self.in_shape)):
            raise ValueError(f"a {tuple(self.weight.shape)} matrix does not map {self.in_shape} to {self.out_shape}")

    @classmethod
    def matrix(cls, weight: Tensor) -> Dense:
        """The operator of `weight` between vectors."""
        return cls(weight, (weight.shape[1],), (weight.shape[0],))

    def apply(self, tensor: Tensor) -> Tensor:
        lead = tensor.shape[: tensor.dim() - len(self.in_shape)]
        flat = tensor.reshape(*lead, self.weight.shape[1])
        return torch.matmul(flat, self.weight.mT).reshape(*lead, *self.out_shape)

    def transpose(self) -> Dense:
        return Dense(self.weight.mT, self.out_shape, self.in_shape)

    def absolute(self) -> Dense:
        return Dense(self.weight.abs(), self.in_shape, self.out_shape)

    @property
    def summands(self) -> int:
        return int(self.weight.shape[1])

    def columns(self, index: Tensor, dtype: torch.dtype, arithmetic: AbstractArithmetic) -> Value:
        return arithmetic.exact(self.weight.mT[index].reshape(*index.shape, *self.out_shape))

    def norm(self, p: float, arithmetic: AbstractArithmetic) -> Tensor:
        return torch.linalg.matrix_norm(self.weight, 2) if p == 2 else super().norm(p, arithmetic)

    def multiply_adds(self) -> int:
        return self.weight.numel()

    def tensors(self) -> Iterable[Tensor]:
        return (self.weight,)

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        return replace(self, weight=self.weight.to(dtype=dtype, device=device))

    @classmethod
    def examples(cls) -> list[Self]:
        g = torch.Generator().manual_seed(0)
        matrix = torch.randn(4, 6, generator=g, dtype=torch.float64)
        holes = torch.where(matrix > 0.5, 0.0, matrix)
        return [cls(matrix, (6,), (4,)), cls(holes, (2, 3), (2, 2)), cls(matrix[:, :1] * 0, (1,), (4,))]


@torch_ops.reads("aten.linear.default")
def _linear(x: Expression, weight: Tensor, bias: Tensor | None = None) -> Any:
    if len(x.shape) != 1:
        raise ValueError(f"a linear layer on tensors of shape {x.shape}; flatten them to one dimension first")
    y = x.apply(Dense.matrix(weight))
    return y if bias is None else y.shift(bias)


@torch_ops.reads("aten.addmm.default")
def _addmm(bias: Tensor, x: Expression, weight: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    if beta != 1 or alpha != 1:
        raise ValueError(f"addmm with beta={beta}, alpha={alpha}; only 1 and 1 are read")
    return _linear(x, weight.mT, bias)


@torch_ops.reads("aten.mm.default", "aten.matmul.default")
def _matmul(x: Expression, weight: Tensor) -> Any:
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        raise ValueError("a matrix product is read only with a constant matrix on its right")
    return _linear(x, weight.mT)

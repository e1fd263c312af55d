"""Dense matrices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Self, final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic, Ball
from recurjac.operators.base import AbstractLeaf, AbstractOperator
from recurjac.operators.compose import compose
from recurjac.operators.gather import Gather, gather
from recurjac.operators.reindex import Reshape
from recurjac.operators.scale import scaled
from recurjac.registry import Expression, onnx_ops, torch_ops
from recurjac.tensors import cast


@final
@dataclass(frozen=True)
class Dense(AbstractLeaf):
    """The matrix `weight` (out x in), between tensors of any shape with the same number of entries in row-major order.

    Tensors with a multiple of these entries are mapped block by block, as along the last axis of (rows, in).
    Nothing derived from `weight` is cached, because it may be a live parameter that changes in place.
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
        out, inn = self.weight.shape
        blocks = prod(self.inputs) // inn if inn else 1
        if (prod(self.outputs), prod(self.inputs)) != (blocks * out, blocks * inn):
            raise ValueError(f"a {tuple(self.weight.shape)} matrix does not map {self.in_shape} to {self.out_shape}")

    @classmethod
    def matrix(cls, weight: Tensor) -> Dense:
        """The operator of `weight` between vectors."""
        return cls(weight, (weight.shape[1],), (weight.shape[0],))

    def apply(self, tensor: Tensor) -> Tensor:
        out, inn = self.weight.shape
        if self.inputs == (inn,) and self.outputs == (out,):
            return self._along_last(tensor)
        lead = tensor.shape[: tensor.dim() - len(self.in_shape)]
        blocks = prod(self.inputs) // max(inn, 1)
        flat = tensor.reshape(*lead, *((blocks, inn) if blocks > 1 else (inn,)))
        return self._along_last(flat).reshape((*lead, *self.out_shape))

    def _along_last(self, tensor: Tensor) -> Tensor:
        """(..., in) -> (..., out); a matrix stored column by column in memory gives a result stored in the same way."""
        if tensor.dim() == 2 and tensor.stride() == (1, tensor.shape[0]) and min(tensor.shape) > 1:
            return torch.matmul(self.weight, tensor.mT).mT
        return torch.matmul(tensor, self.weight.mT)

    def transpose(self) -> Dense:
        return Dense(self.weight.mT, self.out_shape, self.in_shape)

    def absolute(self) -> Dense:
        return Dense(self.weight.abs(), self.in_shape, self.out_shape)

    def signs(self) -> Dense:
        return replace(self, weight=self.weight.detach().sign())

    @property
    def summands(self) -> int:
        return int(self.weight.shape[1])

    @property
    def sums_products(self) -> bool:
        return True

    def columns(self, index: Tensor, dtype: torch.dtype, arithmetic: AbstractArithmetic) -> Ball:
        if prod(self.inputs) != self.weight.shape[1]:
            return super().columns(index, dtype, arithmetic)
        if index.dim() == 1 and _counts(index, self.weight.shape[1]):
            return arithmetic.exact(self.weight.mT.reshape(-1, *self.out_shape))
        return arithmetic.exact(self.weight.mT[index].reshape((*index.shape, *self.out_shape)))

    def taking(self, shape: Shape) -> Self:
        return replace(self, inputs=shape)

    def giving(self, shape: Shape) -> Self:
        return replace(self, outputs=shape)

    def rows(self, index: Tensor) -> tuple[AbstractOperator, Tensor]:
        out, inn = self.weight.shape
        if prod(self.inputs) == inn:
            return Dense.matrix(self.weight[index]), torch.arange(inn, device=index.device)
        blocks = (index // out).unique()
        read = (blocks.unsqueeze(1) * inn + torch.arange(inn, device=index.device)).flatten()
        part = Dense(self.weight, (len(blocks) * inn,), (len(blocks) * out,))
        place = torch.searchsorted(blocks, index // out) * out + index % out
        return compose(Gather.of(place, part.outputs), part), read

    def norm(self, p: float, arithmetic: AbstractArithmetic) -> Tensor:
        """The norm of one block, if there are several."""
        if self.inputs == (self.weight.shape[1],):
            return super().norm(p, arithmetic)
        return Dense.matrix(self.weight).norm(p, arithmetic)

    def multiply_adds(self) -> int:
        return self.weight.numel() * prod(self.inputs) // max(self.weight.shape[1], 1)

    def tensors(self) -> Iterable[Tensor]:
        return (self.weight,)

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        return replace(self, weight=cast(self.weight, dtype, device))

    @classmethod
    def examples(cls) -> list[Self]:
        g = torch.Generator().manual_seed(0)
        matrix = torch.randn(4, 6, generator=g, dtype=torch.float64)
        holes = torch.where(matrix > 0.5, 0.0, matrix)
        return [
            cls(matrix, (6,), (4,)), cls(holes, (2, 3), (2, 2)), cls(matrix[:, :1] * 0, (1,), (4,)),
            cls(holes[:2, :3], (2, 3), (2, 2)),
        ]  # fmt: skip


def _counts(index: Tensor, n: int) -> bool:
    """Whether the flat positions `index` are exactly 0, 1, …, n - 1."""
    return len(index) == n and bool((index == torch.arange(n, device=index.device)).all())


def along_last(x: Expression, weight: Tensor) -> Any:
    """`x` (…, in) times `weight` (out, in) along its last axis."""
    if not x.shape or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"a matrix of shape {tuple(weight.shape)} cannot be applied to a tensor of shape {x.shape}")
    return x.apply(Dense(weight, x.shape, (*x.shape[:-1], int(weight.shape[0]))))


@torch_ops.reads("aten.linear.default")
def _linear(x: Expression, weight: Tensor, bias: Tensor | None = None) -> Any:
    y = along_last(x, weight)
    return y if bias is None else y.shift(bias)


@torch_ops.reads("aten.addmm.default")
def _addmm(bias: Tensor, x: Expression, weight: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    if beta != 1 or alpha != 1:
        raise ValueError(f"addmm with beta={beta}, alpha={alpha}; both must be 1")
    return matrix_product(x, weight).shift(bias)


def matrix_product(x: Any, y: Any) -> Any:
    """x @ y, where one of them is a constant matrix or vector."""
    if isinstance(x, Tensor):
        return _from_left(x, y)
    if not isinstance(y, Tensor):
        raise ValueError("a product of two tensors that both depend on the input; one must be a constant")
    matrix = _one_matrix(y if y.dim() > 1 else y.unsqueeze(1))
    z = along_last(x, matrix.mT)
    return _with_axes(z, y, x) if y.dim() > 1 else z.apply(Reshape(z.shape, z.shape[:-1]))


def _from_left(matrix: Tensor, y: Expression) -> Any:
    """matrix @ y = (yᵀ matrixᵀ)ᵀ."""
    rows = _one_matrix(matrix if matrix.dim() > 1 else matrix.unsqueeze(0))
    if len(y.shape) == 1:
        z = along_last(y, rows)
    else:
        z = along_last(y.apply(gather(lambda t: t.mT, y.shape)), rows)
        z = z.apply(gather(lambda t: t.mT, z.shape))
    if matrix.dim() > 1:
        return _with_axes(z, matrix, y)
    return z.apply(gather(lambda t: t.squeeze(0) if len(y.shape) == 1 else t.squeeze(-2), z.shape))


def _with_axes(z: Any, matrix: Tensor, x: Expression) -> Any:
    """`z` with the leading axes of one entry that the product has if the constant has more axes than `x`."""
    more = matrix.dim() - max(len(x.shape), 2)
    return z if more <= 0 else z.apply(Reshape(z.shape, (*[1] * more, *z.shape)))


def _one_matrix(t: Tensor) -> Tensor:
    if t.numel() != t.shape[-1] * t.shape[-2]:
        raise ValueError(f"a batch of constant matrices of shape {tuple(t.shape)}; only a single matrix is read")
    return t.reshape(t.shape[-2:])


@onnx_ops.reads("Gemm")
def _gemm(
    a: Any, b: Any, c: Any = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0
) -> Any:  # the names are ONNX's
    def turned(t: Any, turn: int) -> Any:
        if not turn:
            return t
        return t.mT if isinstance(t, Tensor) else t.apply(gather(lambda u: u.mT, t.shape))

    if len(a.shape) != 2 or len(b.shape) != 2:
        raise ValueError(f"Gemm of tensors of shapes {tuple(a.shape)} and {tuple(b.shape)}; both must be matrices")
    y = scaled(matrix_product(turned(a, transA), turned(b, transB)), alpha)
    if c is None or beta == 0:
        return y
    if isinstance(c, Tensor) and beta == 1:
        return y.shift(c)
    return y.plus(scaled(y.constant(c) if isinstance(c, Tensor) else c, beta))

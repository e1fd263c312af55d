"""Operators that only move entries: identity and reshape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Self, final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic
from recurjac.operators.base import AbstractLeaf
from recurjac.reading import Expression, torch_ops


@final
@dataclass(frozen=True)
class Reshape(AbstractLeaf):
    """The same entries in row-major order under another shape."""

    inputs: Shape
    outputs: Shape

    @property
    def in_shape(self) -> Shape:
        return self.inputs

    @property
    def out_shape(self) -> Shape:
        return self.outputs

    def __post_init__(self) -> None:
        if prod(self.in_shape) != prod(self.out_shape):
            raise ValueError(f"{self.in_shape} cannot be reshaped to {self.out_shape}")

    def apply(self, tensor: Tensor) -> Tensor:
        return tensor.reshape((*tensor.shape[: tensor.dim() - len(self.in_shape)], *self.out_shape))

    def transpose(self) -> Reshape:
        return Reshape(self.out_shape, self.in_shape)

    def absolute(self) -> Reshape:
        return self

    @property
    def summands(self) -> int:
        return 0

    def norm(self, p: float, arithmetic: AbstractArithmetic) -> Tensor:
        return torch.ones((), dtype=torch.float64)

    def multiply_adds(self) -> int:
        return 0

    def tensors(self) -> Iterable[Tensor]:
        return ()

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        return self

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls((2, 3), (6,)), cls((6,), (3, 2)), cls((1,), ())]


@final
@dataclass(frozen=True)
class Identity(AbstractLeaf):
    """The identity: a skip connection, or a stage that reads another's output as it is."""

    shape: Shape

    @property
    def in_shape(self) -> Shape:
        return self.shape

    @property
    def out_shape(self) -> Shape:
        return self.shape

    def apply(self, tensor: Tensor) -> Tensor:
        return tensor

    def transpose(self) -> Identity:
        return self

    def absolute(self) -> Identity:
        return self

    @property
    def summands(self) -> int:
        return 0

    def norm(self, p: float, arithmetic: AbstractArithmetic) -> Tensor:
        return torch.ones((), dtype=torch.float64)

    def multiply_adds(self) -> int:
        return 0

    def tensors(self) -> Iterable[Tensor]:
        return ()

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        return self

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls((5,)), cls((2, 3))]


def reshaped(x: Expression, shape: Sequence[int]) -> Any:
    """`x` under `shape`, without its batch dimension; one entry may be -1."""
    known = prod(s for s in shape if s != -1)
    full = tuple(s if s != -1 else prod(x.shape) // max(known, 1) for s in shape)
    return x.apply(Reshape(x.shape, full))


@torch_ops.reads("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default")
def _reshape(x: Any, shape: Sequence[int]) -> Any:
    if shape[0] not in (-1, x.batch):
        raise ValueError(f"a reshape to {tuple(shape)} mixes the samples of a batch of {x.batch}")
    return reshaped(x, shape[1:])


@torch_ops.reads("aten.flatten.using_ints")
def _flatten(x: Expression, start: int = 0, end: int = -1) -> Any:
    dims = len(x.shape) + 1
    start, end = start % dims, end % dims
    if start == 0 and end > 0:
        raise ValueError("a flatten from dimension 0 mixes the samples of a batch; use start_dim=1")
    middle = prod(x.shape[max(start - 1, 0) : end])
    return reshaped(x, (*x.shape[: max(start - 1, 0)], middle, *x.shape[end:]) if end else x.shape)


@torch_ops.reads(
    "aten.contiguous.default", "aten.clone.default", "aten.alias.default", "aten.detach.default",
)  # fmt: skip
def _same(x: Expression, *_: Any, **__: Any) -> Any:
    return x


@torch_ops.reads("aten.dropout.default")
def _dropout(x: Expression, _share: float, train: bool) -> Any:
    if train:
        raise ValueError("a dropout that is on in eval mode makes the network random; pass training=self.training")
    return x

"""Operators that leave entries where they are in memory: identity, negation and reshape."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Self, final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic
from recurjac.operators.base import AbstractLeaf


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

    def rows(self, index: Tensor) -> tuple[AbstractLeaf, Tensor]:
        return Identity((len(index),)), index

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

    def rows(self, index: Tensor) -> tuple[AbstractLeaf, Tensor]:
        return Identity((len(index),)), index

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


@final
@dataclass(frozen=True)
class Negate(AbstractLeaf):
    """Every entry with its sign changed, which no rounding touches."""

    shape: Shape

    @property
    def in_shape(self) -> Shape:
        return self.shape

    @property
    def out_shape(self) -> Shape:
        return self.shape

    def apply(self, tensor: Tensor) -> Tensor:
        return -tensor

    def transpose(self) -> AbstractLeaf:
        return self

    def absolute(self) -> AbstractLeaf:
        return Identity(self.shape)

    @property
    def summands(self) -> int:
        return 0

    def rows(self, index: Tensor) -> tuple[AbstractLeaf, Tensor]:
        return Negate((len(index),)), index

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

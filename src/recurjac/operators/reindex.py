"""Operators that keep the order of entries in memory: identity, negation and reshape."""

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


class AbstractWeightless(AbstractLeaf):
    """Each output is one input entry up to its sign, and each input entry occurs in exactly one output."""

    @property
    @final
    def summands(self) -> int:
        return 0

    @final
    def signs(self) -> Self:
        return self

    @property
    @final
    def sums_products(self) -> bool:
        return True

    @final
    def norm(self, p: float, arithmetic: AbstractArithmetic) -> Tensor:
        return torch.ones((), dtype=torch.float64)

    @final
    def multiply_adds(self) -> int:
        return 0

    @final
    def tensors(self) -> Iterable[Tensor]:
        return ()

    @final
    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        return self


@final
@dataclass(frozen=True)
class Reshape(AbstractWeightless):
    """The same entries in row-major order, with another shape."""

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

    def rows(self, index: Tensor) -> tuple[AbstractLeaf, Tensor]:
        return Identity((len(index),)), index

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls((2, 3), (6,)), cls((6,), (3, 2)), cls((1,), ())]


class AbstractInPlace(AbstractWeightless):
    """An operator that keeps the position of every entry, on tensors of `shape`."""

    shape: Shape

    @property
    @final
    def in_shape(self) -> Shape:
        return self.shape

    @property
    @final
    def out_shape(self) -> Shape:
        return self.shape

    @final
    def transpose(self) -> Self:
        return self

    @final
    def absolute(self) -> Identity:
        return Identity(self.shape)


@final
@dataclass(frozen=True)
class Identity(AbstractInPlace):
    """The identity: a skip connection, or a stage that reads the output of another stage unchanged."""

    shape: Shape

    def apply(self, tensor: Tensor) -> Tensor:
        return tensor

    def rows(self, index: Tensor) -> tuple[AbstractLeaf, Tensor]:
        return Identity((len(index),)), index

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls((5,)), cls((2, 3))]


@final
@dataclass(frozen=True)
class Negate(AbstractInPlace):
    """Negation of every entry, which is exact."""

    shape: Shape

    def apply(self, tensor: Tensor) -> Tensor:
        return -tensor

    def rows(self, index: Tensor) -> tuple[AbstractLeaf, Tensor]:
        return Negate((len(index),)), index

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls((5,)), cls((2, 3))]

"""Operators that multiply or divide each entry by a constant."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from math import inf
from typing import Any, Self, final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic, Rigorous, round_up_to, with_derivative_of
from recurjac.operators.base import AbstractLeaf
from recurjac.operators.reindex import Identity, Negate
from recurjac.registry import Expression, Unread, onnx_ops, torch_ops
from recurjac.tensors import broadcast_shape, cast


class AbstractDiagonal(AbstractLeaf):
    """A diagonal matrix that is described by tensors of the node's shape."""

    @property
    @abstractmethod
    def diagonal(self) -> Tensor:
        """A tensor of the node's shape that describes the factors."""

    @property
    @final
    def in_shape(self) -> Shape:
        return tuple(self.diagonal.shape)

    @property
    @final
    def out_shape(self) -> Shape:
        return tuple(self.diagonal.shape)

    @final
    def transpose(self) -> Self:
        return self

    @final
    def rows(self, index: Tensor) -> tuple[Self, Tensor]:
        return self._with(self.diagonal.flatten()[index]), index

    @final
    def norm(self, p: float, arithmetic: AbstractArithmetic) -> Tensor:
        """The largest absolute factor for any p; for p = 2, it is found in float64 and rounded up (`spectral_norm`)."""
        plain, tensor = super().norm(inf, arithmetic), self.diagonal
        if p != 2:
            return plain
        with torch.no_grad():
            double = AbstractLeaf.norm(self.to(torch.float64, tensor.device), inf, Rigorous())
            bound = round_up_to(double, tensor.dtype)
        return with_derivative_of(plain, bound) if tensor.requires_grad else bound

    @final
    def multiply_adds(self) -> int:
        return self.diagonal.numel()

    @final
    def tensors(self) -> Iterable[Tensor]:
        return (self.diagonal,)

    @final
    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        return self._with(cast(self.diagonal, dtype, device))

    @final
    def _with(self, diagonal: Tensor) -> Self:
        name = fields(self)[0].name  # type: ignore[arg-type]  # (every concrete class is a dataclass)
        return replace(self, **{name: diagonal})  # type: ignore[type-var]


@final
@dataclass(frozen=True)
class Scale(AbstractDiagonal):
    """Entry-wise multiplication by `factor`."""

    factor: Tensor

    @property
    def diagonal(self) -> Tensor:
        return self.factor

    def apply(self, tensor: Tensor) -> Tensor:
        return tensor * self.factor

    def absolute(self) -> Scale:
        return Scale(self.factor.abs())

    def signs(self) -> Scale:
        return Scale(self.factor.detach().sign())

    @property
    def summands(self) -> int:
        return 1

    @property
    def sums_products(self) -> bool:
        return True

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(torch.tensor([1.5, -2.0, 0.0], dtype=torch.float64)), cls(-torch.ones(2, 2, dtype=torch.float64))]


@final
@dataclass(frozen=True)
class Divide(AbstractDiagonal):
    """Entry-wise division by `divisor`, which has no zeros."""

    divisor: Tensor

    @property
    def diagonal(self) -> Tensor:
        return self.divisor

    def apply(self, tensor: Tensor) -> Tensor:
        return tensor / self.divisor

    def absolute(self) -> Divide:
        return Divide(self.divisor.abs())

    def signs(self) -> Scale:
        return Scale(self.divisor.detach().sign())

    @property
    def summands(self) -> int:
        """A quotient is rounded once, like a product."""
        return 1

    def least_coefficient(self) -> float:
        return 1 / max(float(self.divisor.detach().abs().max()), 1e-300) if self.divisor.numel() else 1.0

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(torch.tensor([1.5, -3.0], dtype=torch.float64)), cls(torch.full((2, 2), 9.0, dtype=torch.float64))]


@final
@dataclass(frozen=True)
class Standardise(AbstractDiagonal):
    """Entry-wise division by sqrt(variance + floor), as in batch normalisation; `Rigorous` covers all its roundings."""

    variance: Tensor
    floor: float

    def __post_init__(self) -> None:
        if not bool((self.variance.detach() >= 0).all()) or not self.floor >= 0:
            raise ValueError(f"a normalisation by a negative variance or with epsilon {self.floor}")

    @property
    def diagonal(self) -> Tensor:
        return self.variance

    def apply(self, tensor: Tensor) -> Tensor:
        return tensor / (self.variance + self.floor).sqrt()

    def absolute(self) -> Standardise:
        return self

    def signs(self) -> Identity:
        return Identity(self.in_shape)

    @property
    def summands(self) -> int:
        """The floor, the sum, its root and the quotient each have a relative rounding error: like four products."""
        return 4

    def least_coefficient(self) -> float:
        return 1 / max(float((self.variance.detach() + self.floor).max()), 1.0) if self.variance.numel() else 1.0

    @classmethod
    def examples(cls) -> list[Self]:
        return [
            cls(torch.tensor([1.5, 0.3], dtype=torch.float64), 1e-5),
            cls(torch.zeros(2, 2, dtype=torch.float64), 0.01),
        ]


def is_constant(value: Any) -> bool:
    """Whether a reader's argument does not depend on the input."""
    return isinstance(value, Tensor | float | int)


def scaled(x: Expression, factor: Tensor | float) -> Any:
    """`x` times a constant, each broadcast to the other."""
    if not isinstance(factor, Tensor) and abs(factor) == 1:
        return x if factor == 1 else x.apply(Negate(x.shape))
    some = torch.as_tensor(factor, dtype=x.dtype, device=x.device)
    shape = broadcast_shape(some.shape, x.shape)
    return x.broadcast(shape).apply(Scale(some.broadcast_to(shape)))


def divided(x: Expression, divisor: Tensor | float) -> Any:
    """`x` divided by a constant, each broadcast to the other."""
    some = torch.as_tensor(divisor, dtype=x.dtype, device=x.device)
    if bool((some == 0).any()):
        raise ValueError("a division by zero")
    shape = broadcast_shape(some.shape, x.shape)
    return x.broadcast(shape).apply(Divide(some.broadcast_to(shape)))


@torch_ops.reads("aten.neg.default", "aten.negative.default", "aten.neg_.default")
@onnx_ops.reads("Neg")
def _neg(x: Expression) -> Any:
    return scaled(x, -1.0)


@torch_ops.reads("aten.batch_norm.default")
def _batch_norm(
    x: Expression, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, variance: Tensor | None,
    training: bool, _momentum: float, eps: float, _cudnn: bool,
) -> Any:  # fmt: skip
    if training or mean is None or variance is None:
        raise ValueError("a batch normalisation by the batch's own statistics; use running statistics and eval mode")
    return normalised(x, weight, bias, mean, variance, eps)


@torch_ops.reads("aten._native_batch_norm_legit_no_training.default")
def _native_batch_norm(
    x: Expression, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, _momentum: float,
    eps: float,
) -> Any:  # fmt: skip
    nothing = Unread("the statistics of a batch, which do not exist in eval mode")
    return (normalised(x, weight, bias, mean, variance, eps), nothing, nothing)


@onnx_ops.reads("BatchNormalization")
def _onnx_batch_norm(
    x: Expression, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float = 1e-5,
    training_mode: int = 0, spatial: int = 1, **_: Any,
) -> Any:  # fmt: skip
    if training_mode or not spatial:
        raise ValueError("a batch normalisation in training mode or with spatial=0; export the network in eval mode")
    return normalised(x, scale, bias, mean, variance, epsilon)


def normalised(
    x: Expression, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> Any:
    """(x - mean) / sqrt(variance + eps) * weight + bias, along axis 1 of x (axis 0 of a vector)."""
    ones = [1] * max(len(x.shape) - 2, 0)

    def whole(t: Tensor) -> Tensor:
        return cast(t, x.dtype, t.device).reshape(-1, *ones).broadcast_to(x.shape)

    y = x.plus(scaled(x.constant(whole(mean)), -1.0)).apply(Standardise(whole(variance), eps))
    y = y if weight is None else y.apply(Scale(whole(weight)))
    return y if bias is None else y.shift(whole(bias))
